"""Copies that something goes wrong under, a few rounds of each kind; `python -m benchmarks.faults` runs hundreds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import Faults


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        os.chmod(name, 0o755)  # sessions run as somebody else
        rounds = Faults(Path(name), seed=1, large_bytes=80 * 1024 * 1024, small_files=300)
        with rounds.serving():
            yield rounds


@pytest.mark.parametrize(
    ("data", "up", "fault"),
    [
        ("large", True, "client"),
        ("large", False, "reset"),
        ("mixed", True, "half-close"),
        ("small", False, "interrupt"),
        ("mixed", False, "node"),
        ("large", True, "session"),
    ],
)
def test_the_same_command_ends_in_an_identical_copy(faults: Faults, data: str, up: bool, fault: str) -> None:
    kind = next(one for one in faults.data if one.name == data)
    faults.round(kind, up=up, fault=fault)

"""Managed transfers that something goes wrong under, one round of each; `benchmarks.transfer_faults` runs hundreds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.transfer_faults import TransferFaults

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faults() -> Iterator[TransferFaults]:
    with tempfile.TemporaryDirectory(prefix="transfer-faults") as name:
        os.chmod(name, 0o755)  # sessions run as somebody else
        rounds = TransferFaults(Path(name), seed=1, small_files=150)
        with rounds.serving():
            yield rounds


@pytest.mark.parametrize(
    ("data", "way", "fault"),
    [
        ("large", "within", "node and auth"),
        ("mixed", "from them", "children"),
        ("large", "from them", "pause, then auth"),
    ],
)
def test_each_ends_in_a_true_state(faults: TransferFaults, data: str, way: str, fault: str) -> None:
    kind = next(one for one in faults.data if one.name == data)
    faults.round(kind, way, fault)

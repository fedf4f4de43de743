"""Two sites for all tests of a process, and a logical server with two nodes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS / "data"), str(_TESTS / "peers")]  # one harness for nodes and sites, wherever it is used

from two_sites import TwoSites, two_sites  # noqa: E402

from benchmarks.stack import Stack  # noqa: E402


@pytest.fixture(scope="session")
def sites() -> Iterator[TwoSites]:
    """Two sites with different Unix users, that let each other's data nodes in."""
    with two_sites() as running:
        yield running


@pytest.fixture(scope="session")
def group() -> Iterator[Stack]:
    """One auth server, and two data nodes behind one name; any of the three may be killed and started again."""
    with tempfile.TemporaryDirectory(prefix="uftp-group-") as name:
        os.chmod(name, 0o755)  # sessions run as somebody else
        with Stack(Path(name), ["127.0.0.1", "127.0.0.1"], options=["--allow-peer", "127.0.0.2"]) as running:
            yield running

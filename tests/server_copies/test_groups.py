"""Several nodes behind one name, as the other side of a copy: another of them will do for going on with it."""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_ftp import eventually
from two_sites import PATIENCE, Grant, ask_at, session, started, status, wait_for_end

from benchmarks.stack import NAME, PASSWORD, Stack, account

_MIB = 1024 * 1024
_SIZE = 160 * _MIB


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the account that sessions run as."""
    path = Path(tempfile.mkdtemp(prefix="uftp-group-files-"))
    shutil.chown(path, account())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def ask(group: Stack, number: int, place: Path, *, persistent: bool = False) -> Grant:
    url = f"{group.auth_url}/{NAME}-{number}"
    return ask_at(url, str(group.ca), f"{group.login}:{PASSWORD}", place, persistent=persistent)


@pytest.mark.slow
def test_a_copy_goes_on_with_another_node_of_the_same_name(group: Stack, place: Path) -> None:
    source = place / "source"
    source.write_bytes(os.urandom(_MIB) * (_SIZE // _MIB))
    shutil.chown(source, account())
    with session(ask(group, 1, place)) as ftp:
        other = ask(group, 2, place, persistent=True)
        words = "OPTS RCP TREES RESUME LOGINS=2 NAMED=https://auth.example.org/rest/auth/TEST"
        ftp.ok(f"{words} RATE={16 * _MIB}")
        number = started(ftp.command(f"RECEIVE-FILE copy source {other.address} {other.secret}"))
        eventually(lambda: int(status(ftp, number).facts["bytes"]) > _SIZE // 4, PATIENCE, "a quarter of the bytes")
        assert ftp.command(f"RCP-ABORT {number} KEEP") == b"299 ABORTED\r\n"
        assert not (place / "copy").exists()
        ftp.ok(words)
        other = ask(group, 1, place, persistent=True)
        number = started(ftp.command(f"RECEIVE-FILE copy source {other.address} {other.secret}"))
        came_to = wait_for_end(ftp, number)
    assert came_to.word == "FINISHED", came_to
    assert int(came_to.facts["bytes"]) < _SIZE, "what the first one has brought is not brought again"
    assert filecmp.cmp(source, place / "copy", shallow=False)
    assert sorted(path.name for path in place.iterdir()) == ["copy", "source"]

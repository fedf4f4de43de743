"""What interrupted copies leave is removed, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from plain_ftp import PlainServer, pyftpdlib_server
from running_uftp import uftp

PART = ".uftp-0123456789abcdef.part"
NOT_PARTS = (".uftp-0123.part", "uftp-0123456789abcdef.part", f"{PART}s", "data")

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PlainServer]:
    (tmp_path / "ftp").mkdir()
    with pyftpdlib_server(tmp_path / "ftp") as running:
        yield running


def leave(top: Path, outside: Path) -> set[str]:
    """Part files here and there, and what only looks like them; what has to stay."""
    for directory in (top, top / "a", top / "a" / "b", outside):
        directory.mkdir(exist_ok=True)
        for name in (PART, *NOT_PARTS):
            (directory / name).write_bytes(b"x")
    (top / "link").symlink_to(outside)
    return {str(path) for path in top.rglob("*") if path.name != PART}


def names(top: Path) -> set[str]:
    return {str(path) for path in top.rglob("*")}


@pytest.mark.parametrize("remote", [False, True], ids=["here", "there"])
def test_part_files_go_and_all_else_stays(server: PlainServer, tmp_path: Path, remote: bool) -> None:
    top, outside = (server.root / "top", tmp_path / "outside") if remote else (tmp_path / "top", tmp_path / "outside")
    stays = leave(top, outside)
    place = f"{server.url}/top" if remote else str(top)
    before = names(top)
    dry = uftp("cp", "--clean", "--dry-run", place)
    assert dry.code == 0, dry.err
    assert sum(line.startswith("delete ") for line in dry.lines) == 3
    assert names(top) == before
    done = uftp("cp", "--clean", place)
    assert (done.code, done.out) == (0, b"")
    assert done.error_lines[-1] == "3 unfinished files removed"
    assert names(top) == stays
    assert (outside / PART).exists(), "links are not followed"
    assert uftp("cp", "--clean", "--json", place).records[-1]["deleted"] == 0


def test_what_makes_no_sense(tmp_path: Path) -> None:
    done = uftp("cp", "--clean", str(tmp_path), str(tmp_path / "x"))
    assert (done.code, len(done.error_lines)) == (2, 1)
    done = uftp("cp", "--clean", str(tmp_path / "no" / "such"))
    assert (done.code, len(done.error_lines)) == (7, 1)

"""The part file of what is fetched by HTTP: its name can be known before, so what has it may be anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from uftp.transfer.http_part import HttpPart, Place

URL = "https://example.org/f"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "target").mkdir()
    fd = os.open(tmp_path / "target", os.O_RDONLY | os.O_DIRECTORY)
    yield Place(directory=fd, name=b"f", shown="f", key=b"/f")
    os.close(fd)


def part_path(place: Place, top: Path) -> Path:
    """Of the part that a later run finds again."""
    part = HttpPart.open(URL, place, resume=True)
    (path,) = (top / "target").iterdir()
    part.close()
    assert not path.exists()
    return path


def fetch(place: Place) -> None:
    """What a run does that brings everything."""
    part = HttpPart.open(URL, place, resume=True)
    os.write(part.fd, b"content")
    part.publish()
    part.close()


@pytest.mark.parametrize("kind", ["hard link", "link", "directory", "pipe"])
def test_what_is_no_part_of_ours_is_left_alone(place: Place, tmp_path: Path, kind: str) -> None:
    path = part_path(place, tmp_path)
    other = tmp_path / "other"
    other.write_bytes(b"somebody's")
    match kind:
        case "hard link":
            path.hardlink_to(other)
        case "link":
            path.symlink_to(other)
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
    before = path.lstat()
    fetch(place)
    assert (tmp_path / "target" / "f").read_bytes() == b"content"
    assert other.read_bytes() == b"somebody's"
    assert path.lstat().st_ino == before.st_ino


@pytest.mark.skipif(os.geteuid() != 0, reason="a file of somebody else's is made by root only")
def test_nor_is_the_file_that_somebody_else_has_put_there(place: Place, tmp_path: Path) -> None:
    path = part_path(place, tmp_path)
    path.write_bytes(b"")
    os.chown(path, 12345, 12345)
    fetch(place)
    found = tmp_path / "target" / "f"
    assert found.read_bytes() == b"content"
    assert found.stat().st_uid == os.geteuid()

"""Small files put into a directory: whole or not at all, whatever is in the way."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uftp.streams.folder import Folder

MTIME = 1_700_000_000_123_456_789


@pytest.fixture(params=["nameless", "named"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """On a file system that has nameless files, and on one that has not."""
    with Folder(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)) as opened:
        opened._nameless = request.param == "nameless"
        yield opened


def test_a_file_has_content_time_and_mode(folder: Folder, tmp_path: Path) -> None:
    folder.put(b"a", b"12345", mtime_ns=MTIME, permissions=0o640)
    info = (tmp_path / "a").stat()
    assert (tmp_path / "a").read_bytes() == b"12345"
    assert (info.st_mtime_ns, stat.S_IMODE(info.st_mode)) == (MTIME, 0o640)
    assert os.listdir(tmp_path) == ["a"]


def test_without_facts_the_umask_decides(folder: Folder, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        folder.put(b"a", memoryview(b""))
    finally:
        os.umask(old)
    info = (tmp_path / "a").stat()
    assert (info.st_size, stat.S_IMODE(info.st_mode)) == (0, 0o640)


def test_a_name_in_use_is_left_alone(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        folder.put(b"a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("permissions", [None, 0o604])
def test_a_file_that_gives_way_leaves_its_mode(folder: Folder, tmp_path: Path, permissions: int | None) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o741)
    (tmp_path / "other name").hardlink_to(tmp_path / "a")
    folder.put(b"a", b"new", permissions=permissions, replace=True)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "other name").read_bytes() == b"old"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == (permissions or 0o741)
    assert sorted(os.listdir(tmp_path)) == ["a", "other name"]


def test_a_link_gives_way_and_is_not_followed(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"old")
    (tmp_path / "a").symlink_to("elsewhere")
    folder.put(b"a", b"new", replace=True)
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"old"


def test_a_directory_does_not_give_way(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        folder.put(b"a", b"new", replace=True)
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_that_does_not_fit_leaves_nothing(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for name in (b"a", b"b"):
            with pytest.raises(OSError, match="File too large"):
                folder.put(name, bytes(2000), replace=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_directory_that_is_gone_takes_nothing(folder: Folder, tmp_path: Path) -> None:
    tmp_path.rmdir()
    with pytest.raises(OSError, match=r"No such file|not permitted"):
        folder.put(b"a", b"1")


NAMES = st.sampled_from([b"a", b"b", b" ", b"%41", b"\xff\xfe", b"c" * 255])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES, st.binary(max_size=50), st.booleans())))
def test_the_last_one_that_may_stays(folder: Folder, tmp_path: Path, puts: list[tuple[bytes, bytes, bool]]) -> None:
    expected: dict[bytes, bytes] = {}
    for name, content, replace in puts:
        if name in expected and not replace:
            with pytest.raises(FileExistsError):
                folder.put(name, content)
        else:
            folder.put(name, content, replace=replace)
            expected[name] = content
    top = os.fsencode(tmp_path)
    found = {}
    for name in os.listdir(top):
        found[name] = Path(os.fsdecode(top + b"/" + name)).read_bytes()
        os.unlink(top + b"/" + name)
    assert found == expected

"""Part files: no name before all is there, the old file or the new one and never a mix, nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from uftp.protocol.names import is_part_name, part_name
from uftp.streams import Durability, PartFile, sweep_leftovers


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    place = tmp_path / "place"
    place.mkdir()
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["anonymous", "named", "unsupported"])
def anonymous(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether to ask for a file without a name; "unsupported" asks a file system that has none."""
    if request.param == "unsupported":
        _without_tmpfile(monkeypatch, errno.EOPNOTSUPP)
    return bool(request.param != "named")


def _without_tmpfile(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real_open = os.open

    def open_(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, os.strerror(code))
        return real_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_)


def _names(directory: int) -> list[str]:
    return sorted(os.listdir(directory))


def _read(directory: int, name: bytes) -> bytes:
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(fd, 1000)
    finally:
        os.close(fd)


def _write(directory: int, name: bytes, content: bytes, mode: int = 0o644) -> None:
    fd = os.open(name, os.O_CREAT | os.O_WRONLY, mode, dir_fd=directory)
    os.write(fd, content)
    os.close(fd)


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("durability", ["rename", "fsync"])
def test_a_file_appears_when_it_is_published(directory: int, anonymous: bool, durability: Durability) -> None:
    before = _open_descriptors()
    with PartFile.create(directory, anonymous=anonymous) as part:
        os.write(part.fd, b"new")
        assert all(is_part_name(os.fsencode(name)) for name in _names(directory))
        part.publish(b"f \xff", durability=durability)
    assert _read(directory, b"f \xff") == b"new"
    assert len(_names(directory)) == 1
    assert _open_descriptors() == before


@pytest.mark.parametrize("durability", ["rename", "fsync"])
def test_what_was_there_is_replaced_at_once(directory: int, anonymous: bool, durability: Durability) -> None:
    _write(directory, b"f", b"old content")
    held = os.open(b"f", os.O_RDONLY, dir_fd=directory)
    with PartFile.create(directory, anonymous=anonymous) as part:
        os.write(part.fd, b"new")
        assert _read(directory, b"f") == b"old content"
        part.publish(b"f", durability=durability)
    assert _read(directory, b"f") == b"new"
    assert _names(directory) == ["f"]
    assert os.read(held, 100) == b"old content", "who has the old file open keeps it"
    os.close(held)


def test_leaving_without_publishing_leaves_nothing(directory: int, anonymous: bool) -> None:
    _write(directory, b"f", b"old")
    before = _open_descriptors()
    with pytest.raises(ZeroDivisionError), PartFile.create(directory, anonymous=anonymous) as part:  # noqa: PT012
        os.write(part.fd, b"new")
        raise ZeroDivisionError
    assert _names(directory) == ["f"]
    assert _read(directory, b"f") == b"old"
    assert _open_descriptors() == before
    part.discard()
    part.discard()


def test_modes(directory: int, anonymous: bool) -> None:
    umask = os.umask(0o027)
    try:
        for name, created, given, expected in (
            (b"a", 0o666, None, 0o640),
            (b"b", 0o600, None, 0o600),
            (b"c", 0o600, 0o664, 0o664),
            (b"d", 0o666, 0o4711, 0o4711),
        ):
            with PartFile.create(directory, mode=created, anonymous=anonymous) as part:
                part.publish(name, mode=given)
            assert stat.S_IMODE(os.stat(name, dir_fd=directory).st_mode) == expected
    finally:
        os.umask(umask)


def test_a_name_that_cannot_be_replaced_leaves_everything_as_it_was(directory: int, anonymous: bool) -> None:
    os.mkdir(b"d", dir_fd=directory)
    before = _open_descriptors()
    for name in (b"d", b"x/y", b"n" * 300, b"."):
        with PartFile.create(directory, anonymous=anonymous) as part:
            os.write(part.fd, b"new")
            with pytest.raises(OSError, match=r"."):
                part.publish(name)
        assert _names(directory) == ["d"]
    assert _open_descriptors() == before


def test_the_directory_may_be_renamed_and_its_descriptor_closed_meanwhile(tmp_path: Path, anonymous: bool) -> None:
    (tmp_path / "a").mkdir()
    fd = os.open(tmp_path / "a", os.O_PATH)
    with PartFile.create(fd, anonymous=anonymous) as part:
        os.close(fd)
        (tmp_path / "a").rename(tmp_path / "b")
        part.publish(b"f")
    assert (tmp_path / "b" / "f").exists()


def test_a_final_link_is_replaced_not_followed(directory: int, anonymous: bool, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"untouched")
    os.symlink(tmp_path / "other", b"f", dir_fd=directory)
    with PartFile.create(directory, anonymous=anonymous) as part:
        part.publish(b"f")
    assert (tmp_path / "other").read_bytes() == b"untouched"
    assert stat.S_ISREG(os.stat(b"f", dir_fd=directory, follow_symlinks=False).st_mode)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL])
def test_file_systems_without_anonymous_files(directory: int, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    _without_tmpfile(monkeypatch, code)
    with PartFile.create(directory) as part:
        assert part.name is not None
        assert _names(directory) == [os.fsdecode(part.name)]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_other_errors_are_told_and_leak_nothing(directory: int, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    _without_tmpfile(monkeypatch, code)
    before = _open_descriptors()
    with pytest.raises(OSError, match=os.strerror(code)):
        PartFile.create(directory)
    assert _open_descriptors() == before
    assert _names(directory) == []


def test_a_full_disk_that_only_a_close_reports_is_reported_before_the_name(
    directory: int, anonymous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_close = os.close
    with PartFile.create(directory, anonymous=anonymous) as part:
        inode = os.fstat(part.fd).st_ino

        def close(fd: int) -> None:
            of_the_part = os.fstat(fd).st_ino == inode
            real_close(fd)
            if of_the_part and fd != part.fd:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        with monkeypatch.context() as patched:
            patched.setattr(os, "close", close)
            with pytest.raises(OSError, match="quota"):
                part.publish(b"f")
    assert _names(directory) == []


MIDWAY = """
import os, sys
from uftp.streams import PartFile
directory = os.open(sys.argv[1], os.O_RDONLY)
with PartFile.create(directory) as part:
    os.write(part.fd, b"half of it")
    print(part.name, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_nothing(directory: int, tmp_path: Path) -> None:
    _write(directory, b"f", b"old")
    with subprocess.Popen(
        [sys.executable, "-c", MIDWAY, tmp_path / "place"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    if name != b"None\n":
        pytest.skip("this file system has no files without a name")
    assert _names(directory) == ["f"]


TOMORROW = 25 * 3600.0


def test_only_old_part_files_of_ones_own_are_swept(directory: int) -> None:
    old, linked, folder = (part_name(bytes([n] * 8)) for n in range(3))
    for name in (old, b"f"):
        _write(directory, name, b"")
    os.symlink(b"f", linked, dir_fd=directory)
    os.mkdir(folder, dir_fd=directory)
    before = _open_descriptors()
    assert sweep_leftovers(directory) == 0
    assert sweep_leftovers(directory, now=time.time() + TOMORROW) == 1
    assert _names(directory) == sorted(os.fsdecode(name) for name in (linked, folder, b"f"))
    assert sweep_leftovers(directory, now=time.time() + TOMORROW) == 0
    assert _open_descriptors() == before


def test_a_running_copy_that_keeps_old_times_is_no_leftover(directory: int) -> None:
    with PartFile.create(directory, anonymous=False) as part:
        os.utime(part.fd, (0, 0))
        assert sweep_leftovers(directory) == 0
        part.publish(b"f")
    assert _names(directory) == ["f"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
def test_part_files_of_others_stay(directory: int) -> None:
    name = part_name(bytes(8))
    _write(directory, name, b"")
    os.chown(name, 12345, 12345, dir_fd=directory)
    assert sweep_leftovers(directory, now=time.time() + TOMORROW) == 0


def test_a_directory_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    fd = os.open(tmp_path / "gone", os.O_PATH)
    (tmp_path / "gone").rmdir()
    assert sweep_leftovers(fd) == 0
    os.close(fd)

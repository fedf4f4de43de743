"""A file that gets its name when it is whole.

The data goes to a file without a name (O_TMPFILE) where the file system can, so that even SIGKILL leaves nothing;
elsewhere, or where the caller wants to find it again, to a hidden part file in the same directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from typing import Final, Literal, Self

from uftp.protocol.names import is_part_name, part_name

Durability = Literal["rename", "fsync"]

_LEFTOVER_SECONDS: Final = 24 * 3600
_SWEEP_ENTRIES: Final = 20_000  # how many entries of a directory a sweep looks at
# Errors that mean "this file system, or this kernel, has no O_TMPFILE", and nothing worse.
NO_TMPFILE: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


class PartFile:
    """An open file that is not there yet under its name.

    Use as a context manager: leaving it without `publish` removes every trace.

    Attributes:
        fd: descriptor, open for reading and writing.
        name: the part's name in the directory, None while it has none.
    """

    def __init__(self, directory: int, fd: int, name: bytes | None) -> None:
        self._directory = directory
        self.fd = fd
        self.name = name

    @classmethod
    def create(cls, directory: int, *, mode: int = 0o666, anonymous: bool = True) -> PartFile:
        """Create one in `directory`, a descriptor, which is duplicated.

        Args:
            directory: where the file will get its name.
            mode: permission bits, less the umask.
            anonymous: try without a name first.

        Raises:
            OSError: no right to create files there, no space.
        """
        directory = os.open(b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            if anonymous:
                try:
                    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
                    return cls(directory, os.open(b".", flags, mode, dir_fd=directory), None)
                except OSError as error:
                    if error.errno not in NO_TMPFILE:
                        raise
            name = part_name(secrets.token_bytes(8))
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            return cls(directory, os.open(name, flags, mode, dir_fd=directory), name)
        except BaseException:
            os.close(directory)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()

    def publish(self, name: bytes, *, mode: int | None = None, durability: Durability = "rename") -> None:
        """Give the file its final name in the directory, replacing what is there, and close it.

        Args:
            name: base name.
            mode: permission bits to set before, None to leave them.
            durability: "fsync" returns when file and name are on the disk; "rename" is safe against a crash of this
                process only.

        Raises:
            OSError: nothing was replaced; the part is gone.
        """
        try:
            if mode is not None:
                os.fchmod(self.fd, mode)
            if durability == "fsync":
                os.fdatasync(self.fd)
            # Network file systems report a full disk when a descriptor is closed: that must come before the name.
            os.close(os.dup(self.fd))
            self._name_it(name)
            if durability == "fsync":
                _sync_directory(self._directory)
        finally:
            self.discard()

    def _name_it(self, name: bytes) -> None:
        if self.name is None:
            try:
                self._link(name)
            except FileExistsError:
                # A link replaces nothing; a rename does. Between the two a crash leaves a part file, not a wrong one.
                part = part_name(secrets.token_bytes(8))
                self._link(part)
                self.name = part
            else:
                return
        os.rename(self.name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self.name = None

    def _link(self, name: bytes) -> None:
        os.link(b"/proc/self/fd/%d" % self.fd, name, dst_dir_fd=self._directory, follow_symlinks=True)

    def discard(self) -> None:
        """Close, and remove what has no final name. May be called more than once."""
        if self.fd < 0:
            return
        if self.name is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.name, dir_fd=self._directory)
            self.name = None
        os.close(self.fd)
        os.close(self._directory)
        self.fd = -1


def _sync_directory(directory: int) -> None:
    # The descriptor at hand was opened by O_PATH, which cannot be synced.
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sweep_leftovers(directory: int, *, now: float | None = None) -> int:
    """Remove part files of this user in `directory` that nothing has touched for a day.

    Args:
        directory: descriptor of it.
        now: seconds since 1970, instead of the clock's.

    Returns:
        How many were removed. Errors leave a file where it is.
    """
    before = (time.time() if now is None else now) - _LEFTOVER_SECONDS
    removed = 0
    try:
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return 0
    try:
        with os.scandir(fd) as entries:
            for _, entry in zip(range(_SWEEP_ENTRIES), entries, strict=False):
                name = os.fsencode(entry.name)
                if is_part_name(name) and _is_leftover(name, fd, before):
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=fd)
                        removed += 1
    finally:
        os.close(fd)
    return removed


def _is_leftover(name: bytes, directory: int, before: float) -> bool:
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    # Not its time of last change: a copy that keeps times has set that to the source's before the part gets its name.
    return info.st_ctime < before and info.st_uid == os.geteuid() and stat.S_ISREG(info.st_mode)

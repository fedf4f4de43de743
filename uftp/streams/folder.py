"""Puts small files into one directory, each with one write and under its name only when it is whole.

What `uftp.streams.partfile` does for a file that comes in many blocks, for those whose bytes are all at hand: as few
system calls as that takes, by a descriptor of the directory, and no object a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from typing import Final

from uftp.protocol.names import part_name
from uftp.streams.partfile import NO_TMPFILE

_NAMELESS: Final = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
_NAMED: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """A directory to put small files into. Use as a context manager, or call `close`.

    Args:
        directory: descriptor; the folder owns it from now on.
    """

    def __init__(self, directory: int) -> None:
        self.directory = directory
        self._nameless = True
        self._made_at = time.time_ns()

    def __enter__(self) -> Folder:  # noqa: PYI034 - a Folder is never subclassed
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the descriptor. May be called more than once."""
        if self.directory >= 0:
            os.close(self.directory)
            self.directory = -1

    def put(
        self,
        name: bytes,
        content: bytes | bytearray | memoryview,
        *,
        mtime_ns: int | None = None,
        permissions: int | None = None,
        replace: bool = False,
    ) -> None:
        """Make a file of this content, time and mode.

        Args:
            name: base name.
            content: all of it.
            mtime_ns: time of last change, None for now.
            permissions: bits of the mode; None for what the umask leaves, or those of the file that is replaced.
            replace: whether a file or a link of this name gives way.

        Raises:
            FileExistsError: the name is in use, and `replace` was not asked for.
            IsADirectoryError: by a directory.
            OSError: no space, no right to write here. In all cases what was there is as it was, and nothing is left.
        """
        if not self._nameless:
            self._put_named(name, content, mtime_ns, permissions, replace)
            return
        try:
            fd = os.open(b".", _NAMELESS, 0o666, dir_fd=self.directory)
        except OSError as error:
            if error.errno not in NO_TMPFILE:
                raise
            self._nameless = False
            self._put_named(name, content, mtime_ns, permissions, replace)
            return
        try:
            self._fill(fd, content, mtime_ns, permissions)
            way = b"/proc/self/fd/%d" % fd
            try:
                os.link(way, name, dst_dir_fd=self.directory, follow_symlinks=True)
            except FileExistsError:
                if not replace:
                    raise
                self._keep_mode(fd, self._present(name), permissions)
                # A link replaces nothing; a rename does.
                part = part_name(secrets.token_bytes(8))
                os.link(way, part, dst_dir_fd=self.directory, follow_symlinks=True)
                self._rename(part, name)
        finally:
            os.close(fd)

    def _put_named(
        self,
        name: bytes,
        content: bytes | bytearray | memoryview,
        mtime_ns: int | None,
        permissions: int | None,
        replace: bool,
    ) -> None:
        """For file systems whose files all have names."""
        present = self._present(name)
        if present is not None and not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        part = part_name(secrets.token_bytes(8))
        fd = os.open(part, _NAMED, 0o666, dir_fd=self.directory)
        try:
            try:
                self._fill(fd, content, mtime_ns, permissions)
                self._keep_mode(fd, present, permissions)
            finally:
                os.close(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=self.directory)
            raise
        self._rename(part, name)

    def _fill(
        self, fd: int, content: bytes | bytearray | memoryview, mtime_ns: int | None, permissions: int | None
    ) -> None:
        size = len(content)
        count = os.write(fd, content) if size else 0
        while count < size:
            count += os.write(fd, memoryview(content)[count:])
        if permissions is not None:
            os.fchmod(fd, permissions)
        if mtime_ns is not None:
            os.utime(fd, ns=(self._made_at, mtime_ns))
        # Network file systems report a full disk when a descriptor is closed: that must come before the name.
        os.close(os.dup(fd))

    def _present(self, name: bytes) -> os.stat_result | None:
        try:
            present = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(present.st_mode):
            raise IsADirectoryError(errno.EISDIR, "a directory has this name")
        return present

    @staticmethod
    def _keep_mode(fd: int, present: os.stat_result | None, permissions: int | None) -> None:
        if permissions is None and present is not None and stat.S_ISREG(present.st_mode):
            os.fchmod(fd, stat.S_IMODE(present.st_mode) & 0o777)

    def _rename(self, part: bytes, name: bytes) -> None:
        try:
            os.rename(part, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=self.directory)
            raise

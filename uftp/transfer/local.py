"""The local side: where downloads go, and what uploads read.

Downloads get their name when every byte is in (PartFile). A tree is written below a directory descriptor, component
by component, and no link in it is followed: what a server names can never lead out. A target the user names himself
may be a link.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections.abc import Iterator
from typing import Final, Protocol

from uftp.client.data import Receive, Send
from uftp.client.wording import printable
from uftp.errors import LocalFileError
from uftp.streams import (
    BLOCK,
    Cancelled,
    Incoming,
    Meter,
    Outgoing,
    PartFile,
    StreamError,
)

_POLL_MILLISECONDS: Final = 250  # how soon a pump that waits for a pipe notices that it is cancelled
_PIPE_BYTES: Final = 65536  # what an empty pipe takes at once
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NULL = os.makedev(1, 3)
_ZERO = os.makedev(1, 5)


class Target(Protocol):
    """Where the bytes of one download go."""

    parallel: bool
    """Whether ranges may come in any order, by several connections."""

    def receiver(self, offset: int) -> Receive:
        """What writes bytes from `offset` on."""

    def finish(self, *, mtime_ns: int | None, permissions: int | None) -> None:
        """All bytes are in.

        Raises:
            OSError: the target could not be finished; nothing partial is left under its name.
        """

    def discard(self) -> None:
        """Remove what has no final name, and close. May be called more than once."""


class NewFile:
    """A file that appears when it is whole, in place of the one that has the name now."""

    parallel = True

    def __init__(self, directory: int, name: bytes) -> None:
        """Begin.

        Args:
            directory: descriptor; not kept.
            name: base name. A link of this name is replaced.

        Raises:
            OSError: no right to write there, or a directory has the name.
        """
        self._name = name
        self._permissions: int | None = None
        with contextlib.suppress(FileNotFoundError):
            present = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(present.st_mode):
                raise IsADirectoryError(21, "a directory has this name")
            if stat.S_ISREG(present.st_mode):
                self._permissions = stat.S_IMODE(present.st_mode) & 0o777
        self._part = PartFile.create(directory)

    def receiver(self, offset: int) -> Receive:
        return _into(self._part.fd, offset)

    def finish(self, *, mtime_ns: int | None, permissions: int | None) -> None:
        if mtime_ns is not None:
            os.utime(self._part.fd, ns=(mtime_ns, mtime_ns))
        self._part.publish(self._name, mode=self._permissions if permissions is None else permissions)

    def discard(self) -> None:
        self._part.discard()


class ExistingFile:
    """A file that is written into, at the same offsets as the source has; for -B with p."""

    parallel = True

    def __init__(self, path: bytes, directory: int | None = None) -> None:
        """Open or create it; below `directory`, a descriptor, no link is followed."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if directory is None else os.O_NOFOLLOW)
        self._fd = os.open(path, flags, 0o666, dir_fd=directory)

    def receiver(self, offset: int) -> Receive:
        return _into(self._fd, offset)

    def finish(self, *, mtime_ns: int | None, permissions: int | None) -> None:
        self.discard()

    def discard(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Nowhere:
    """/dev/null: the kernel drops the bytes."""

    parallel = True

    def receiver(self, offset: int) -> Receive:
        return _drop

    def finish(self, *, mtime_ns: int | None, permissions: int | None) -> None:
        pass

    def discard(self) -> None:
        pass


class Stream:
    """A pipe, a terminal or a device: bytes in order, and no way back.

    Attributes:
        used: whether something was written.
    """

    parallel = False

    def __init__(self, fd: int, *, owned: bool) -> None:
        self._fd = fd
        self._owned = owned
        self.used = False

    def receiver(self, offset: int) -> Receive:
        return self._receive

    def _receive(self, incoming: Incoming, length: int | None, meter: Meter, /) -> int:
        def write(block: memoryview) -> None:
            self.used = True
            _write_stream(self._fd, block, meter)

        if self.used:
            raise StreamError("the connection broke, and what was written cannot be taken back")
        return incoming.to_chunks(write, length, meter)

    def finish(self, *, mtime_ns: int | None, permissions: int | None) -> None:
        self.discard()

    def discard(self) -> None:
        if self._owned and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _into(fd: int, offset: int) -> Receive:
    def receive(incoming: Incoming, length: int | None, meter: Meter, /) -> int:
        return incoming.to_file(fd, offset, length, meter)

    return receive


def _drop(incoming: Incoming, length: int | None, meter: Meter, /) -> int:
    return incoming.to_nowhere(length, meter)


def _write_stream(fd: int, block: memoryview, meter: Meter) -> None:
    while block:
        if meter.cancelled:
            raise Cancelled
        if _ready(fd, select.POLLOUT):
            block = block[os.write(fd, block[:_PIPE_BYTES]) :]


def _ready(fd: int, event: int) -> bool:
    """Wait a moment for a pipe; files are always ready."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(_POLL_MILLISECONDS))


def open_target(path: bytes, *, in_place: bool = False) -> Target:
    """The target for a path the user has named: links are followed, devices and pipes written to.

    Raises:
        OSError: it cannot be written, or is a directory.
    """
    path = os.path.realpath(path)
    try:
        present = os.stat(path)
    except FileNotFoundError:
        present = None
    if present is not None and stat.S_ISCHR(present.st_mode) and present.st_rdev == _NULL:
        return Nowhere()
    if present is not None and not stat.S_ISREG(present.st_mode) and not stat.S_ISDIR(present.st_mode):
        return Stream(os.open(path, os.O_WRONLY | os.O_CLOEXEC), owned=True)
    if in_place:
        return ExistingFile(path)
    directory, name = os.path.split(path)
    fd = os.open(directory, _DIRECTORY)
    try:
        return NewFile(fd, name)
    finally:
        os.close(fd)


class LocalTree:
    """A directory that a tree is written into.

    Args:
        root: its path; links in it are followed. Created if missing, its parent is not.
    """

    def __init__(self, root: bytes) -> None:
        self.root = root

    def create(self) -> None:
        """Make the directory itself.

        Raises:
            OSError: it cannot be made.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.root, 0o777)
        os.close(os.open(self.root, _DIRECTORY))

    @contextlib.contextmanager
    def directory(self, relative: bytes) -> Iterator[int]:
        """A descriptor of a directory below the root, which is made if missing, with all above it.

        Raises:
            OSError: something else is in the way, a link for instance, which is not followed.
        """
        fd = os.open(self.root, _DIRECTORY)
        try:
            for component in relative.split(b"/"):
                if component in (b"", b"."):
                    continue
                if component == b"..":
                    raise PermissionError(1, "a name leads upwards")
                with contextlib.suppress(FileExistsError):
                    os.mkdir(component, 0o777, dir_fd=fd)
                below = os.open(component, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def open_file(self, relative: bytes, *, in_place: bool = False) -> Target:
        """The target for a file of the tree.

        Raises:
            OSError: it cannot be written.
        """
        parent, _, name = relative.rpartition(b"/")
        if name in (b"", b".", b".."):
            raise PermissionError(1, "no file name")
        with self.directory(parent) as fd:
            if in_place:
                return ExistingFile(name, fd)
            return NewFile(fd, name)

    def set_facts(self, relative: bytes, *, mtime_ns: int, permissions: int | None) -> None:
        """Time and permission bits of a directory.

        Raises:
            OSError: not allowed.
        """
        with self.directory(relative) as fd:
            if permissions is not None:
                os.fchmod(fd, permissions)
            os.utime(fd, ns=(mtime_ns, mtime_ns))


class Source:
    """A local file, device or pipe that is uploaded.

    Attributes:
        size: bytes; None where there is no end (a pipe, /dev/zero).
        parallel: whether ranges can be read in any order.
        used: whether something was read from a pipe, which cannot be read again.
        mtime_ns, permissions: its facts.
    """

    def __init__(self, fd: int, *, owned: bool = True) -> None:
        self._fd = fd
        self._owned = owned
        self.used = False
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            self.close()
            raise IsADirectoryError(21, os.strerror(21))
        zero = stat.S_ISCHR(found.st_mode) and found.st_rdev == _ZERO
        null = stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL
        self.parallel = stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode) or zero
        self.size: int | None = found.st_size if stat.S_ISREG(found.st_mode) else 0 if null else None
        self.mtime_ns = found.st_mtime_ns
        self.permissions = stat.S_IMODE(found.st_mode) & 0o777

    @classmethod
    def open(cls, path: bytes) -> Source:
        """Open a file; links are followed.

        Raises:
            OSError: it cannot be read.
        """
        # Without blocking: a named pipe that nobody writes to yet would hold the thread for good.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(fd, True)
        return cls(fd)

    def is_unchanged(self) -> bool:
        """Whether a file is what it was when it was opened, by size and time of last change. Pipes always are."""
        now = os.fstat(self._fd)
        return not stat.S_ISREG(now.st_mode) or (now.st_size, now.st_mtime_ns) == (self.size, self.mtime_ns)

    def sender(self, offset: int, length: int | None) -> Send:
        """What sends `length` bytes from `offset` on; None for all there are.

        Called again after it has read from a pipe, as after a broken connection, it raises StreamError.
        """

        def send(outgoing: Outgoing, meter: Meter, /) -> None:
            if self.parallel and length is not None:
                outgoing.from_file(self._fd, offset, length, meter)
                return
            if self.used:
                raise StreamError("the connection broke, and what was read from a pipe cannot be read again")
            self._send_stream(offset, length, outgoing, meter)

        return send

    def _send_stream(self, skip: int, length: int | None, outgoing: Outgoing, meter: Meter) -> None:
        remaining = length
        while remaining is None or remaining > 0 or skip > 0:
            if meter.cancelled:
                raise Cancelled
            if not _ready(self._fd, select.POLLIN):
                continue
            wanted = skip or remaining
            data = os.read(self._fd, BLOCK if wanted is None else min(BLOCK, wanted))
            self.used = True
            if not data:
                return
            if skip:
                skip -= len(data)
                continue
            outgoing.from_bytes(data, meter)
            if remaining is not None:
                remaining -= len(data)

    def close(self) -> None:
        """Close it. May be called more than once."""
        if self._owned and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def local_error(error: OSError, path: bytes | str, action: str) -> LocalFileError:
    """The error of this package for one of the system's."""
    return LocalFileError(f"{printable(path)}: cannot {action}: {error.strerror or error}")

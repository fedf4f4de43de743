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
    RateLimit,
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

    def receiver(self, offset: int, limit: RateLimit | None = None) -> Receive:
        """What writes bytes from `offset` on, no faster than `limit`."""

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

    def __init__(self, directory: int, name: bytes, part: bytes | None = None) -> None:
        """Begin.

        Args:
            directory: descriptor; not kept.
            name: base name. A link of this name is replaced.
            part: base name it has until then, for one that is gone on with where it is there already; None for none,
                or any.

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
        if part is None:
            self._part = PartFile.create(directory)
        else:
            self._part = _open_part(directory, part)
            if self._permissions is None:
                self._permissions = 0o666 & ~_umask()

    def sync(self) -> None:
        """Put what has arrived on the disk; from any thread.

        Raises:
            OSError: it is not there.
        """
        fd = os.dup(self._part.fd)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    @property
    def fd(self) -> int:
        """Descriptor, open for reading and writing; -1 when it is closed."""
        return self._part.fd

    def leave(self) -> None:
        """Close it, and leave what has arrived under its part name."""
        self._part.name = None
        self._part.discard()

    def receiver(self, offset: int, limit: RateLimit | None = None) -> Receive:
        return _into(self._part.fd, offset, limit)

    def finish(self, *, mtime_ns: int | None, permissions: int | None) -> None:
        if mtime_ns is not None:
            os.utime(self._part.fd, ns=(mtime_ns, mtime_ns))
        self._part.publish(self._name, mode=self._permissions if permissions is None else permissions)

    def discard(self) -> None:
        self._part.discard()


def _open_part(directory: int, name: bytes) -> PartFile:
    """A part file of an earlier copy, or a new one. Whatever else has the name goes: it could lead elsewhere."""
    directory = os.open(b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        fd = _open_own(directory, name)
        if fd is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            # Nobody else's before it has its name: what it replaces may be private.
            fd = os.open(name, flags, 0o600, dir_fd=directory)
        return PartFile(directory, fd, name)
    except BaseException:
        os.close(directory)
        raise


def _umask() -> int:
    """The mask of this process. The system call would change it for all threads for a moment."""
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o077


def _open_own(directory: int, name: bytes) -> int | None:
    """A regular file of this user's that has no other name; None if there is no such."""
    try:
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid():
        return fd
    os.close(fd)
    return None


class ExistingFile:
    """A file that is written into, at the same offsets as the source has; for -B with p.

    Attributes:
        fd: descriptor.
    """

    parallel = True

    def __init__(self, path: bytes, directory: int | None = None) -> None:
        """Open or create it; below `directory`, a descriptor, no link is followed."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        if directory is not None:
            flags |= os.O_NOFOLLOW
            # Who watches what this process writes is told of paths, but not of the directories they count from.
            path = b"/proc/self/fd/%d/%b" % (directory, path)
        self.fd = os.open(path, flags, 0o666)

    def receiver(self, offset: int, limit: RateLimit | None = None) -> Receive:
        return _into(self.fd, offset, limit)

    def finish(self, *, mtime_ns: int | None, permissions: int | None) -> None:
        self.discard()

    def discard(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Nowhere:
    """/dev/null: the kernel drops the bytes."""

    parallel = True

    def receiver(self, offset: int, limit: RateLimit | None = None) -> Receive:
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

    def receiver(self, offset: int, limit: RateLimit | None = None) -> Receive:
        def receive(incoming: Incoming, length: int | None, meter: Meter, /) -> int:
            return self._receive(incoming, length, meter, limit)

        return receive

    def _receive(self, incoming: Incoming, length: int | None, meter: Meter, limit: RateLimit | None) -> int:
        def write(block: memoryview) -> None:
            self.used = True
            _write_stream(self._fd, block, meter)
            if limit is not None:
                limit.spend(len(block), meter)

        if self.used:
            raise StreamError("the connection broke, and what was written cannot be taken back")
        return incoming.to_chunks(write, length, meter)

    def finish(self, *, mtime_ns: int | None, permissions: int | None) -> None:
        self.discard()

    def discard(self) -> None:
        if self._owned and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _into(fd: int, offset: int, limit: RateLimit | None) -> Receive:
    def receive(incoming: Incoming, length: int | None, meter: Meter, /) -> int:
        return incoming.to_file(fd, offset, length, meter, limit)

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


def open_target(path: bytes, *, in_place: bool = False, part: bytes | None = None) -> Target:
    """The target for a path the user has named: links are followed, devices and pipes written to. For `part` see
    `NewFile`.

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
    directory, name = os.path.split(path)
    # Looked up once: a link that takes the place of the file, or of a directory above it, leads nowhere else.
    fd = os.open(directory, (_DIRECTORY | os.O_PATH) if in_place else _DIRECTORY)
    try:
        return ExistingFile(name, fd) if in_place else NewFile(fd, name, part)
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

    def open_file(self, relative: bytes, *, in_place: bool = False, part: bytes | None = None) -> Target:
        """The target for a file of the tree. For `part` see `NewFile`.

        Raises:
            OSError: it cannot be written.
        """
        parent, _, name = relative.rpartition(b"/")
        if name in (b"", b".", b".."):
            raise PermissionError(1, "no file name")
        with self.directory(parent) as fd:
            if in_place:
                return ExistingFile(name, fd)
            return NewFile(fd, name, part)

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
        fd: descriptor, for reading.
        size: bytes; None where there is no end (a pipe, /dev/zero).
        parallel: whether ranges can be read in any order.
        used: whether something was read from a pipe, which cannot be read again.
        mtime_ns, permissions: its facts.
        fingerprint: by what a change is noticed, of a regular file.
    """

    def __init__(self, fd: int, *, owned: bool = True) -> None:
        self.fd = fd
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
        self.fingerprint = source_fingerprint(found)
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
        now = os.fstat(self.fd)
        return not stat.S_ISREG(now.st_mode) or (now.st_size, now.st_mtime_ns) == (self.size, self.mtime_ns)

    def sender(self, offset: int, length: int | None, limit: RateLimit | None = None) -> Send:
        """What sends `length` bytes from `offset` on, None for all there are, no faster than `limit`.

        Called again after it has read from a pipe, as after a broken connection, it raises StreamError.
        """

        def send(outgoing: Outgoing, meter: Meter, /) -> None:
            if self.parallel and length is not None:
                outgoing.from_file(self.fd, offset, length, meter, limit)
                return
            if self.used:
                raise StreamError("the connection broke, and what was read from a pipe cannot be read again")
            self._send_stream(offset, length, outgoing, meter, limit)

        return send

    def _send_stream(
        self, skip: int, length: int | None, outgoing: Outgoing, meter: Meter, limit: RateLimit | None
    ) -> None:
        remaining = length
        while remaining is None or remaining > 0 or skip > 0:
            if meter.cancelled:
                raise Cancelled
            if not _ready(self.fd, select.POLLIN):
                continue
            wanted = skip or remaining
            data = os.read(self.fd, BLOCK if wanted is None else min(BLOCK, wanted))
            self.used = True
            if not data:
                return
            if skip:
                skip -= len(data)
                continue
            outgoing.from_bytes(data, meter)
            if limit is not None:
                limit.spend(len(data), meter)
            if remaining is not None:
                remaining -= len(data)

    def close(self) -> None:
        """Close it. May be called more than once."""
        if self._owned and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def source_fingerprint(found: os.stat_result) -> bytes:
    """By what a change of a file is noticed: size, times of its last changes, and which one it is."""
    return b"%d %d %d %d" % (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def local_error(error: OSError, path: bytes | str, action: str) -> LocalFileError:
    """The error of this package for one of the system's."""
    return LocalFileError(f"{printable(path)}: cannot {action}: {error.strerror or error}")

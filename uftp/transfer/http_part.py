"""Where a file goes that is fetched by HTTP, and the part file that it is in until it is whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from typing import Final

import trio

from uftp.protocol.http_digests import HttpDigest
from uftp.protocol.names import part_name
from uftp.streams import Cancelled, Meter, hash_file
from uftp.transfer.share_pieces import Memory, Remembered

# What has the name is a link, a directory, another's file or a socket.
_NOT_OURS: Final = (errno.ELOOP, errno.EISDIR, errno.EACCES, errno.ENXIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a file goes.

    Attributes:
        directory: descriptor.
        name: it is to have there.
        shown: its path as the user would write it.
        key: its path, by which a later run finds what an earlier one has left.
    """

    directory: int
    name: bytes
    shown: str
    key: bytes


class HttpPart:
    """The part file of what is fetched by ranges, open and locked.

    Attributes:
        fd: descriptor.
        memory: of what is in it; None if it is of no use to a later run.
        remembered: what an earlier run has left in it.
    """

    def __init__(self, place: Place, name: bytes, fd: int, memory: Memory | None) -> None:
        self.fd = fd
        self.memory = memory
        self._place = place
        self._name = name
        self._stays = False
        self.remembered = memory.load() if memory is not None else None
        if self.remembered is not None:
            end = max((end for _, end in self.remembered.done), default=0)
            if os.fstat(fd).st_size < end:
                self.remembered = None
        if self.remembered is None:
            self.forget()

    @classmethod
    def open(cls, url: str, place: Place, *, resume: bool) -> HttpPart:
        """The one of an earlier run, or a new one; of its own where another run is at work on the same.

        Args:
            url: what is fetched.
            place: where to.
            resume: whether it is of use to a later run.

        Raises:
            OSError: it cannot be made.
        """
        digest = _digest(url, place.key)
        if resume:
            name = part_name(digest[:8])
            fd = _open_locked(place.directory, name)
            if fd is not None:
                return cls(place, name, fd, Memory(digest.hex()))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        name = part_name(secrets.token_bytes(8))
        return cls(place, name, os.open(name, flags, 0o666, dir_fd=place.directory), None)

    def forget(self) -> None:
        """What is in it is of no use."""
        self.remembered = None
        os.ftruncate(self.fd, 0)
        if self.memory is not None:
            self.memory.forget()

    def keep(self, found: Remembered) -> None:
        """Leave what is there for a later run."""
        if self.memory is not None:
            self.memory.save(found)
            self._stays = True

    def publish(self) -> None:
        """Give it its name.

        Raises:
            OSError: it has none.
        """
        if (mode := mode_there(self._place)) is not None:
            os.fchmod(self.fd, mode)
        os.close(os.dup(self.fd))  # a full disk may only be told now
        directory = self._place.directory
        os.rename(self._name, self._place.name, src_dir_fd=directory, dst_dir_fd=directory)
        self._stays = True
        if self.memory is not None:
            self.memory.forget()

    def close(self) -> None:
        """Close it; removed if it neither has its name nor is kept."""
        if not self._stays:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._place.directory)
        os.close(self.fd)


def _open_locked(directory: int, name: bytes) -> int | None:
    """A part file of this user's that no other run works on, made if missing; None if that cannot be had.

    Its name can be known before: somebody else's file of that name, or one that has another name as well, is not ours
    to write to, or to give the final name.

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, 0o666, dir_fd=directory)
    except OSError as error:
        if error.errno in _NOT_OURS:
            return None
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
        # The one that had the lock may just have given it its name.
        if ours and os.path.samestat(found, os.stat(name, dir_fd=directory, follow_symlinks=False)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def mode_there(place: Place) -> int | None:
    """Permission bits of the file that is replaced."""
    try:
        found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except OSError:
        return None
    return stat.S_IMODE(found.st_mode) & 0o777 if stat.S_ISREG(found.st_mode) else None


async def agrees(fd: int, size: int, wanted: HttpDigest) -> bool:
    """Whether a file has this digest."""
    meter = Meter()
    found = ""

    async def stop_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            meter.cancelled = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_when_cancelled)
        await trio.lowlevel.checkpoint()
        with contextlib.suppress(Cancelled), trio.CancelScope(shield=True):
            found = await trio.to_thread.run_sync(hash_file, fd, 0, size, wanted.algorithm, meter)
        nursery.cancel_scope.cancel()
    await trio.lowlevel.checkpoint_if_cancelled()
    return found == wanted.hex


def _digest(url: str, target: bytes) -> bytes:
    """Stands for what is fetched, and whereto."""
    return hashlib.sha256(os.fsencode(url) + b"\n" + target).digest()

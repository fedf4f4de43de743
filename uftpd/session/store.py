"""Where an upload goes, so that no file appears under its name before it is whole (DESIGN: data node, paths).

A store of the whole file goes to a part that gets the name at the end. Stores at an offset write in place, and so do
those whose target cannot be replaced without loss: it has other names, belongs to somebody else, is a device, or
stands in a directory that takes no new file. All of this blocks.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Literal, Protocol

from uftp.protocol.ranges import TransferRange
from uftp.streams import Durability, PartFile, sweep_leftovers
from uftpd.session.paths import FileTree, Place, is_null, split

_CANNOT_CREATE = (errno.EACCES, errno.EPERM, errno.EROFS)
_REMEMBERED_SWEEPS = 1000  # a mirror of a million directories must not cost a million names
How = Literal["part", "in-place", "discard"]


class Target(Protocol):
    """An open upload."""

    @property
    def fd(self) -> int:
        """Descriptor to write to."""

    @property
    def offset(self) -> int:
        """Where the first byte goes."""

    @property
    def how(self) -> How:
        """How the data reaches its name."""

    def begin(self) -> None:
        """The client is there, and its first byte due."""

    def set_facts(self, mtime_ns: int | None, permissions: int | None) -> None:
        """Give the file this time of last change and these permission bits, at the latest when it gets its name.

        All bytes are in; None leaves a fact as it would be.
        """

    def commit(self, received: int) -> None:
        """All bytes are in: make them count."""

    def undo(self, written: int) -> None:
        """The transfer has failed: keep nothing of it, except for what a range has brought (EXTENSIONS 1).

        Args:
            written: bytes that have been written.
        """

    def close(self) -> None:
        """Release; without a commit before, a part is gone, and what was written in place stays."""


@dataclass(slots=True)
class _PartTarget:
    part: PartFile
    name: bytes
    mode: int | None
    durability: Durability
    offset: int = 0
    how: How = "part"

    @property
    def fd(self) -> int:
        return self.part.fd

    def begin(self) -> None:
        pass

    def set_facts(self, mtime_ns: int | None, permissions: int | None) -> None:
        if permissions is not None:
            self.mode = permissions
        _set_time(self.part.fd, mtime_ns)

    def commit(self, received: int) -> None:
        self.part.publish(self.name, mode=self.mode, durability=self.durability)

    def undo(self, written: int) -> None:
        pass

    def close(self) -> None:
        self.part.discard()


@dataclass(slots=True)
class _PlacedTarget:
    fd: int
    offset: int
    cut: bool
    durability: Durability
    how: How = "in-place"
    anew: bool = False
    appended: bool = False

    def begin(self) -> None:
        if self.anew:
            os.ftruncate(self.fd, 0)

    def set_facts(self, mtime_ns: int | None, permissions: int | None) -> None:
        if self.how == "discard":
            return
        if permissions is not None:
            os.fchmod(self.fd, permissions)
        _set_time(self.fd, mtime_ns)

    def undo(self, written: int) -> None:
        if self.how == "discard":
            return
        # What another session has appended meanwhile must not go with it.
        if self.anew or (self.appended and os.fstat(self.fd).st_size == self.offset + written):
            os.ftruncate(self.fd, self.offset)

    def commit(self, received: int) -> None:
        if self.cut:
            os.ftruncate(self.fd, self.offset + received)
        if self.durability == "fsync" and self.how != "discard":
            os.fdatasync(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_store(
    tree: FileTree,
    path: bytes,
    wanted: TransferRange,
    durability: Durability,
    swept: set[bytes],
    *,
    follow: bool = True,
) -> Target:
    """Open the target of STOR.

    Args:
        tree: the session's files.
        path: what the client named.
        wanted: RANG, REST and ALLO as set.
        durability: when a commit returns.
        swept: directories already cleared of leftovers; added to.
        follow: write where a link of this name leads; otherwise the file takes the link's place, and a range is not
            written.

    Raises:
        Forbidden, OSError: it cannot be written.
    """
    tree.filter.check_change(path)
    with tree.place(path, follow=follow) as place:
        tree.check_write(place)
        if place.info is not None and stat.S_ISLNK(place.info.st_mode):
            place.info = None  # it gives way, as nothing would
        if wanted.is_whole_file and (part := _open_part(tree, place, durability, swept)) is not None:
            return part
        fd, info = tree.open_write(place, create=True)
        if is_null(info) or not stat.S_ISREG(info.st_mode):
            return _PlacedTarget(fd, 0, cut=False, durability=durability, how="discard")
        # RANG never cuts a file: the Java client uploads whole files in ranges, side by side.
        cut, anew = not wanted.ranged, wanted.is_whole_file
        return _PlacedTarget(fd, wanted.offset, cut=cut, durability=durability, anew=anew)


def _open_part(tree: FileTree, place: Place, durability: Durability, swept: set[bytes]) -> _PartTarget | None:
    """A part for `place`, or None where the file there must be written in place."""
    old = place.info
    if old is not None and not is_replaceable(old):
        return None
    sweep_once(swept, split(place.path)[0], place.directory)
    if old is not None:
        # A file that may not be written may not be replaced either, though the directory would allow it.
        os.close(tree.open_write(place, create=False)[0])
    try:
        # A confined process may not be allowed to link a nameless file, which would only show at the end.
        part = PartFile.create(place.directory, anonymous=not tree.confined)
    except OSError as error:
        if old is not None and error.errno in _CANNOT_CREATE:
            return None
        raise
    mode = None if old is None else stat.S_IMODE(old.st_mode)
    return _PartTarget(part, place.name, mode, durability)


def is_replaceable(old: os.stat_result) -> bool:
    """Whether another file may take this one's name without loss: it is regular, has no other name, and is ours."""
    return stat.S_ISREG(old.st_mode) and old.st_nlink == 1 and old.st_uid == os.geteuid()


def sweep_once(swept: set[bytes], path: bytes, directory: int) -> None:
    """Clear a directory of leftovers unless that has been done.

    Args:
        swept: directories where it has; added to.
        path: of the directory.
        directory: descriptor of it.
    """
    if path in swept:
        return
    if len(swept) >= _REMEMBERED_SWEEPS:
        swept.clear()
    swept.add(path)
    sweep_leftovers(directory)


def open_append(tree: FileTree, path: bytes, durability: Durability) -> Target:
    """Open the target of APPE: its end, whatever range is set.

    Raises:
        Forbidden, OSError: it cannot be written.
    """
    tree.filter.check_change(path)
    with tree.place(path, follow=True) as place:
        tree.check_write(place)
        fd, info = tree.open_write(place, create=True, append=True)
        how: How = "in-place" if stat.S_ISREG(info.st_mode) else "discard"
        return _PlacedTarget(fd, info.st_size, cut=False, durability=durability, how=how, appended=True)


def _set_time(fd: int, mtime_ns: int | None) -> None:
    if mtime_ns is not None:
        os.utime(fd, ns=(os.fstat(fd).st_atime_ns, mtime_ns))

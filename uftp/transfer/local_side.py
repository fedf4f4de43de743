"""A local tree as one side of a sync.

What is written or removed is found by descriptors, and no link on the way to it is followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

import trio

from uftp.client.listings import Entry, Kind
from uftp.errors import UFTPError
from uftp.protocol.names import is_part_name
from uftp.streams import Cancelled, Meter, hash_file
from uftp.transfer.local import local_error
from uftp.transfer.options import Links
from uftp.transfer.plan import join
from uftp.transfer.tree_sides import Facts, Outcome

T = TypeVar("T")

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalSide:
    """A local tree.

    Args:
        root: its top; may be a link.
        links: how links are listed: as what they point to, as links, or not at all.
    """

    def __init__(self, root: bytes, links: Links) -> None:
        self._root = root
        self._links = links

    def display(self, relative: bytes) -> str:
        return os.fsdecode(join(self._root, relative))

    async def entries(self, directories: Sequence[bytes]) -> list[list[Entry] | UFTPError]:
        def scan() -> list[list[Entry] | UFTPError]:
            return [self._scan(relative) for relative in directories]

        return await trio.to_thread.run_sync(scan)

    def _scan(self, relative: bytes) -> list[Entry] | UFTPError:
        path = join(self._root, relative)
        entries: list[Entry] = []
        try:
            with contextlib.ExitStack() as stack:
                # A tree whose links are followed may be one half of it elsewhere; else nothing outside is looked at.
                place: bytes | int = path
                if self._links != "follow":
                    place = stack.enter_context(self._open(relative))
                with os.scandir(place) as found:
                    for item in found:
                        name = os.fsencode(item.name)
                        if not is_part_name(name) and (entry := self._entry(name, item, place)) is not None:
                            entries.append(entry)
        except OSError as error:
            return local_error(error, path, "list it")
        return sorted(entries)

    def _entry(self, name: bytes, item: os.DirEntry[bytes] | os.DirEntry[str], place: bytes | int) -> Entry | None:
        is_link = item.is_symlink()
        if is_link and self._links == "skip":
            return None
        try:
            info = item.stat(follow_symlinks=self._links == "follow")
        except OSError as error:
            if is_link:
                # To nothing, in a circle, to what is not for us: the copy says so, as of a file that cannot be opened.
                return Entry(name, "file", 0, None, None)
            if isinstance(error, FileNotFoundError):
                return None  # gone since
            raise
        mode = info.st_mode
        kind: Kind = "special"
        link = None
        if stat.S_ISLNK(mode):
            kind = "link"
            link = os.readlink(name, dir_fd=place) if isinstance(place, int) else os.readlink(join(place, name))
        elif stat.S_ISDIR(mode):
            kind = "directory"
        elif stat.S_ISREG(mode):
            kind = "file"
        unique = b"%d.%d" % (info.st_dev, info.st_ino) if kind == "directory" else None
        return Entry(name, kind, info.st_size, info.st_mtime_ns, stat.S_IMODE(mode) & 0o777, link, unique)

    @contextlib.contextmanager
    def _open(self, relative: bytes) -> Iterator[int]:
        """A descriptor of a directory; only the top may be a link."""
        fd = os.open(self._root, _DIRECTORY)
        try:
            for component in relative.split(b"/") if relative else ():
                below = os.open(component, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _parent(self, relative: bytes) -> Iterator[tuple[int, bytes]]:
        directory, _, name = relative.rpartition(b"/")
        with self._open(directory) as fd:
            yield fd, name

    async def _each(
        self, items: Sequence[T], step: Callable[[T], None], name: Callable[[T], bytes], what: str
    ) -> list[Outcome]:
        def run() -> list[Outcome]:
            outcomes: list[Outcome] = []
            for item in items:
                try:
                    step(item)
                except OSError as error:
                    outcomes.append(local_error(error, join(self._root, name(item)), what))
                else:
                    outcomes.append(None)
            return outcomes

        return await trio.to_thread.run_sync(run)

    async def make_directories(self, relatives: Sequence[bytes]) -> list[Outcome]:
        def make(relative: bytes) -> None:
            with self._parent(relative) as (fd, name):
                try:
                    os.mkdir(name, 0o777, dir_fd=fd)
                except FileExistsError:
                    os.close(os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd))

        return await self._each(relatives, make, bytes, "create the directory")

    async def make_links(self, links: Sequence[tuple[bytes, bytes]]) -> list[Outcome]:
        def make(link: tuple[bytes, bytes]) -> None:
            with self._parent(link[0]) as (fd, name):
                with contextlib.suppress(FileNotFoundError):
                    if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                        os.unlink(name, dir_fd=fd)
                os.symlink(link[1], name, dir_fd=fd)

        return await self._each(links, make, lambda link: link[0], "make the link")

    async def remove_files(self, relatives: Sequence[bytes]) -> list[Outcome]:
        def remove(relative: bytes) -> None:
            with contextlib.suppress(FileNotFoundError), self._parent(relative) as (fd, name):
                os.unlink(name, dir_fd=fd)

        return await self._each(relatives, remove, bytes, "remove it")

    async def remove_directories(self, relatives: Sequence[bytes]) -> list[Outcome]:
        def remove(relative: bytes) -> None:
            with contextlib.suppress(FileNotFoundError), self._open(relative) as fd:
                for name in map(os.fsencode, os.listdir(fd)):
                    if is_part_name(name):
                        os.unlink(name, dir_fd=fd)
            with contextlib.suppress(FileNotFoundError), self._parent(relative) as (fd, last):
                os.rmdir(last, dir_fd=fd)

        return await self._each(relatives, remove, bytes, "remove the directory")

    async def set_facts(self, facts: Sequence[Facts]) -> list[Outcome]:
        def apply(one: Facts) -> None:
            parent, _, name = one.relative.rpartition(b"/")
            with self._open(parent) as above:
                fd = os.open(name or b".", _FILE, dir_fd=above)
                try:
                    if one.permissions is not None:
                        os.fchmod(fd, one.permissions)
                    if one.mtime_ns is not None:
                        os.utime(fd, ns=(one.mtime_ns, one.mtime_ns))
                finally:
                    os.close(fd)

        return await self._each(facts, apply, lambda one: one.relative, "set time and mode")

    async def digests(self, relatives: Sequence[bytes], algorithm: str) -> list[str | UFTPError]:
        results: list[str | UFTPError] = []
        meter = Meter()

        def one(relative: bytes) -> str | UFTPError:
            path = join(self._root, relative)
            try:
                # The listing has followed links where they are to be followed.
                flags = _FILE if self._links != "follow" else _FILE & ~os.O_NOFOLLOW
                with (
                    self._parent(relative) if self._links != "follow" else contextlib.nullcontext((None, path)) as (
                        parent,
                        name,
                    )
                ):
                    fd = os.open(name, flags, dir_fd=parent)
                try:
                    return hash_file(fd, 0, os.fstat(fd).st_size, algorithm, meter)
                finally:
                    os.close(fd)
            except OSError as error:
                return local_error(error, path, "read it")

        def run() -> None:
            results.extend(one(relative) for relative in relatives)

        try:
            with contextlib.suppress(Cancelled):
                await trio.to_thread.run_sync(run, abandon_on_cancel=True)
        finally:
            meter.cancelled = True  # whoever interrupts this need not wait for the thread
        return results

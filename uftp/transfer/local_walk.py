"""A walk through a local tree, in portions. It blocks, and is meant for a thread: one hop for thousands of entries."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from uftp.client.wording import printable
from uftp.errors import UsageError
from uftp.protocol.names import is_part_name
from uftp.transfer.batch import SmallFile
from uftp.transfer.local import local_error
from uftp.transfer.options import Links
from uftp.transfer.plan import join
from uftp.transfer.walk import (
    GROUP_ENTRIES,
    GROUP_PORTIONS,
    PORTION_ENTRIES,
    KeptLink,
    Lost,
    Portion,
    Selection,
    Subdirectory,
)


class _Way(NamedTuple):
    """The directories from one up to the top, by device and inode."""

    key: tuple[int, int]
    above: _Way | None

    def holds(self, key: tuple[int, int]) -> bool:
        way: _Way | None = self
        while way is not None:
            if way.key == key:
                return True
            way = way.above
        return False


class _Waiting(NamedTuple):
    path: bytes
    relative: bytes
    way: _Way


class LocalWalk:
    """All that is in a directory, and below it; parents first, names in order within a portion.

    Args:
        top: the directory; if it is a link, that is followed.
        links: whether symbolic links below it are followed, kept or left out.
        selection: what belongs to the copy.
        lost: see there.

    Raises:
        OSError: `top` is not there.
    """

    def __init__(self, top: bytes, *, links: Links, selection: Selection, lost: Lost) -> None:
        self._links = links
        self._selection = selection
        self._lost = lost
        info = os.stat(top)
        self.mtime_ns, self.permissions = info.st_mtime_ns, stat.S_IMODE(info.st_mode) & 0o777
        self._waiting = [_Waiting(top, b"", _Way((info.st_dev, info.st_ino), None))]
        self._open: tuple[_Waiting, Iterator[os.DirEntry[bytes]]] | None = None

    def next_group(self) -> list[Portion]:
        """The next portions, some thousand entries; none at the end. One call at a time."""
        portions: list[Portion] = []
        entries = 0
        while entries < GROUP_ENTRIES and len(portions) < GROUP_PORTIONS:
            if self._open is None and not self._open_next(portions):
                break
            if self._open is not None:
                portion, read = self._read()
                portions.append(portion)
                entries += read
        return portions

    def _open_next(self, portions: list[Portion]) -> bool:
        """Begin with the directory whose turn it is; whether there was one."""
        if not self._waiting:
            return False
        here = self._waiting.pop()
        if self._lost(here.relative):
            return True
        try:
            self._open = here, os.scandir(here.path)
        except OSError as error:
            problem = local_error(error, here.path, "list it")
            portions.append(Portion(here.path, here.relative, failures=[(b"", problem)]))
        return True

    def _read(self) -> tuple[Portion, int]:
        assert self._open is not None  # noqa: S101 -- the caller has looked
        here, entries = self._open
        portion = Portion(here.path, here.relative)
        found: list[os.DirEntry[bytes]] = []
        try:
            found += islice(entries, PORTION_ENTRIES)
            ended = len(found) < PORTION_ENTRIES
        except OSError as error:
            portion.failures.append((b"", local_error(error, here.path, "list it")))
            ended = True
        if ended:
            self._open = None
        found.sort(key=lambda entry: entry.name)
        below: list[_Waiting] = []
        for entry in found:
            if entry.name.startswith(b".uftp-") and is_part_name(entry.name):
                continue
            try:
                self._sort_in(entry, here, portion, below)
            except OSError as error:
                relative = join(here.relative, entry.name)
                self._selection.met(relative)
                if self._selection.filters.takes_link(relative, None):
                    portion.failures.append((entry.name, local_error(error, entry.path, "copy it")))
        self._waiting += reversed(below)
        return portion, len(found)

    def _sort_in(self, entry: os.DirEntry[bytes], here: _Waiting, portion: Portion, below: list[_Waiting]) -> None:
        name = entry.name
        relative = here.relative + b"/" + name if here.relative else name
        selection = self._selection
        if self._links != "follow" and entry.is_symlink():
            selection.met(relative)
            info = entry.stat(follow_symlinks=False)
            if not selection.filters.takes_link(relative, info.st_mtime_ns):
                return
            if self._links == "keep":
                portion.links.append(KeptLink(name, os.readlink(entry.path), info.st_mtime_ns))
            else:
                portion.left_out.append((name, "is a link, left out"))
            return
        info = entry.stat()
        permissions = info.st_mode & 0o777
        if stat.S_ISREG(info.st_mode):
            selection.met(relative)
            if selection.filters.takes_file(relative, info.st_size, info.st_mtime_ns):
                portion.files.append(SmallFile(name, info.st_size, info.st_mtime_ns, permissions))
        elif stat.S_ISDIR(info.st_mode):
            if not selection.enters(relative):
                return
            key = (info.st_dev, info.st_ino)
            if here.way.holds(key):
                error = UsageError(f"{printable(entry.path)}: a link leads back up; left out")
                portion.failures.append((name, error))
                return
            portion.directories.append(Subdirectory(name, info.st_mtime_ns, permissions))
            below.append(_Waiting(entry.path, relative, _Way(key, here.way)))
        else:
            selection.met(relative)
            if selection.filters.takes_link(relative, info.st_mtime_ns):
                portion.left_out.append((name, "is neither a file nor a directory, left out"))

    def close(self) -> None:
        """Close what is open, if the walk is not gone to its end."""
        if self._open is not None:
            with contextlib.suppress(AttributeError):  # only the iterator of `scandir` itself can be closed
                self._open[1].close()  # type: ignore[attr-defined]
            self._open = None

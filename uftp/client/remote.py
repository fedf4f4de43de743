"""Operations on remote trees, made of the session's single steps: walking, wildcards, removing, making parents.

Listings show symbolic links as what they point to, so walks follow them; `remove_tree` does not.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Self

from uftp.client.session import FTPSession
from uftp.client.url import has_wildcards
from uftp.client.wording import printable
from uftp.errors import NotFound, Refused, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.protocol.names import is_part_name

# Deeper than any tree people keep; links that lead upwards end here if the server does not end them before.
MAX_DEPTH: Final = 128

ListDirectory = Callable[[bytes], Awaitable[list[FileInfo]]]


@dataclass(frozen=True, slots=True)
class RemoteEntry:
    """A file or directory met on a walk or by a pattern.

    Attributes:
        path: for use in the session.
        relative: below the top of the walk.
        info: its facts.
    """

    path: bytes
    relative: bytes
    info: FileInfo


def join(directory: bytes, name: bytes) -> bytes:
    """`name` in `directory`; an empty directory is where the session starts."""
    return directory + name if not directory or directory.endswith(b"/") else directory + b"/" + name


class Walk(AsyncIterator[RemoteEntry]):
    """Everything below a directory, parents before what is in them, names in order. Not the directory itself.

    Keeps only the listings on the way down in memory. A directory that cannot be listed goes to `on_error`, and the
    walk goes on.

    Args:
        list_directory: `FTPSession.listdir`, or the same through a pool.
        top: where to start.
        on_error: told of each directory that cannot be listed, after it was yielded.
        max_depth: levels below `top` to go into.
    """

    def __init__(
        self,
        list_directory: ListDirectory,
        top: bytes,
        *,
        on_error: Callable[[bytes, UFTPError], None],
        max_depth: int = MAX_DEPTH,
    ) -> None:
        self._list = list_directory
        self._on_error = on_error
        self._max_depth = max_depth
        self._levels: list[list[RemoteEntry]] = []
        self._pending: tuple[bytes, bytes] | None = (top, b"")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RemoteEntry:
        while True:
            if self._pending is not None:
                path, relative = self._pending
                self._pending = None
                await self._descend(path, relative)
            while self._levels and not self._levels[-1]:
                self._levels.pop()
            if not self._levels:
                raise StopAsyncIteration
            entry = self._levels[-1].pop()
            if entry.info.is_dir:
                if len(self._levels) < self._max_depth:
                    self._pending = (entry.path, entry.relative)
                elif self._max_depth == MAX_DEPTH:
                    self._on_error(
                        entry.path, Refused(f"{printable(entry.path)}: too deep; is a link leading upwards?")
                    )
            return entry

    async def _descend(self, path: bytes, relative: bytes) -> None:
        try:
            listing = await self._list(path)
        except UFTPError as error:
            self._on_error(path, error)
            return
        entries = [
            RemoteEntry(join(path, info.name), join(relative, info.name), info)
            for info in listing
            if not is_part_name(info.name)
        ]
        entries.sort(key=lambda entry: entry.path, reverse=True)
        self._levels.append(entries)


def matches(name: bytes, pattern: bytes) -> bool:
    """Whether a file name matches a pattern as a shell would: characters, not bytes; `*` leaves out hidden files."""
    if name.startswith(b".") and not pattern.startswith(b"."):
        return False
    return fnmatch.fnmatchcase(os.fsdecode(name), os.fsdecode(pattern))


async def expand(session: FTPSession, pattern: bytes, literal: bytes) -> list[RemoteEntry]:
    """The files and directories a pattern matches, in order of their names.

    Args:
        session: a usable session.
        pattern: with wildcards in any component.
        literal: the file this also is the name of; taken if the pattern matches nothing.

    Raises:
        NotFound: nothing matches.
        Refused: a directory on the way cannot be listed.
    """
    found = [b"/"] if pattern.startswith(b"/") else [b""]
    components = [component for component in pattern.split(b"/") if component]
    entries: list[RemoteEntry] = []
    for place, component in enumerate(components):
        last = place == len(components) - 1
        if not has_wildcards(component) and not last:
            found = [join(directory, component) for directory in found]
            continue
        entries = []
        for directory in found:
            entries += await _expand_one(session, directory, component)
        found = [entry.path for entry in entries if entry.info.is_dir]
    if not entries:
        info = await session.stat_or_none(literal)
        if info is None:
            raise NotFound(f"{printable(literal)}: no file matches this pattern")
        return [RemoteEntry(literal, info.name, info)]
    return entries


async def _expand_one(session: FTPSession, directory: bytes, component: bytes) -> list[RemoteEntry]:
    if not has_wildcards(component):
        info = await session.stat_or_none(join(directory, component))
        return [RemoteEntry(join(directory, component), component, info)] if info else []
    try:
        listing = await session.listdir(directory)
    except NotFound:
        return []
    names = [info for info in listing if matches(info.name, component) and not is_part_name(info.name)]
    names.sort(key=lambda info: info.name)
    return [RemoteEntry(join(directory, info.name), info.name, info) for info in names]


async def make_directories(session: FTPSession, path: bytes) -> None:
    """Create a directory and those above it that are missing; one that is there is no error.

    Raises:
        Refused: the server says no, or a file is in the way.
    """
    info = await session.stat_or_none(path)
    if info is not None:
        if not info.is_dir:
            raise Refused(f"{printable(path)}: a file is in the way of this directory")
        return
    parent = path.rstrip(b"/").rpartition(b"/")[0]
    if parent:
        await make_directories(session, parent)
    try:
        await session.mkdir(path)
    except (Refused, NotFound):
        # Somebody else may have made it meanwhile.
        info = await session.stat_or_none(path)
        if info is None or not info.is_dir:
            raise


async def remove(session: FTPSession, path: bytes, *, recursive: bool, info: FileInfo | None = None) -> None:
    """Remove a file, or a directory with all that is in it.

    Args:
        session: a usable session.
        path: what to remove.
        recursive: whether directories may go, too.
        info: its facts if known.

    Raises:
        UsageError: a directory without `recursive`, or a name like `.`, `..` or `/`.
        NotFound, Refused: the server says no; what was removed before stays removed.
    """
    last = path.rstrip(b"/").rpartition(b"/")[2]
    if last in (b"", b".", b".."):
        raise UsageError(f"{printable(path) or '.'}: this directory is not removed; name what is in it")
    info = info or await session.stat(path)
    if not info.is_dir:
        await session.delete(path)
        return
    if not recursive:
        raise UsageError(f"{printable(path)}: is a directory; use -r to remove it with all that is in it")
    await remove_tree(session, path)


async def remove_tree(session: FTPSession, top: bytes) -> None:
    """Remove a directory with all that is in it, without following links.

    Raises:
        NotFound, Refused: the server says no; what was removed before stays removed.
    """
    waiting = [top]
    while waiting:
        path = waiting[-1]
        if path == b"":
            # All that was in the directory beneath this mark is gone.
            waiting.pop()
            await session.rmdir(waiting.pop())
            continue
        if await _was_a_link(session, path):
            waiting.pop()
            continue
        waiting.append(b"")
        for entry in await session.listdir(path):
            child = join(path, entry.name)
            if entry.is_dir:
                waiting.append(child)
            else:
                await session.delete(child)


async def _was_a_link(session: FTPSession, path: bytes) -> bool:
    """A link to a directory is listed as a directory. DELE removes the link, and refuses a real directory."""
    try:
        await session.delete(path)
    except (Refused, NotFound):
        return False
    return True

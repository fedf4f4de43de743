"""Removes what interrupted copies have left below a place: their part files, which nothing else shows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Final

import trio

from uftp.client.remote import MAX_DEPTH, join
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl, directory_around, is_url, parse_url
from uftp.client.wording import printable
from uftp.errors import LocalFileError, NotFound, UFTPError, UsageError
from uftp.protocol.names import is_part_name
from uftp.transfer.copy import Access
from uftp.transfer.journal import left_behind
from uftp.transfer.local import local_error
from uftp.transfer.results import CopyState, CopySummary, FileResult

_REPORTED_AT_ONCE: Final = 256  # local files removed between two looks at whether to stop


class _NothingDone(Exception):
    """The journals stay: nothing was removed."""


async def clean(
    target: str, *, access: Access | None = None, state: CopyState | None = None, dry_run: bool = False
) -> CopySummary:
    """Remove the part files in a directory and below, of whichever copy; one under way loses its own, and fails.

    Links are not followed, where the server tells them from directories. Of a file, the directory it is in is cleaned,
    not what is below.

    Args:
        target: a URL or a local path.
        access: credentials and connections.
        state: who is told of each file.
        dry_run: remove nothing.

    Raises:
        UFTPError: there is no such place, or no session.
    """
    access, state = access or Access(), state or CopyState()
    if not is_url(target):
        await _clean_here(os.fsencode(target), state, dry_run=dry_run)
        if not dry_run:
            await trio.to_thread.run_sync(_forget, target)
        return state.summary()
    url = parse_url(target)
    if url.pattern is not None:
        raise UsageError(f"{url.display()}: name a directory to clean, without wildcards")
    async with (
        access.connector(url, directory_around(url), writes=True) as connector,
        await connector.open() as session,
    ):
        state.sessions += 1
        await _clean_there(session, url, state, dry_run=dry_run)
        with contextlib.suppress(_NothingDone):
            await _clean_by_journals(session, url, state, dry_run=dry_run)
    return state.summary()


async def _clean_there(session: FTPSession, url: RemoteUrl, state: CopyState, *, dry_run: bool) -> None:
    info = await session.stat_or_none(url.path)
    top, depth = url.path, MAX_DEPTH
    if info is None or not info.is_dir:
        top, depth = url.path.rstrip(b"/").rpartition(b"/")[0], 0
        if url.path.startswith(b"/") and not top:
            top = b"/"
    links = session.dialect.has_links
    waiting = [(top, 0)]
    while waiting:
        path, level = waiting.pop()
        try:
            entries = await session.listdir(path, links=links)
        except UFTPError as error:
            if not session.usable or path == top:
                raise
            state.on_note(f"{url.display(path)}: not looked into: {error}")
            continue
        for entry in entries:
            place = join(path, entry.name)
            if entry.is_dir and level < depth:
                waiting.append((place, level + 1))
            elif is_part_name(entry.name) and not entry.is_dir:
                problem = None if dry_run else await _delete(session, place)
                state.record(FileResult(source="", target=url.display(place), action="delete", error=problem))


async def _clean_by_journals(session: FTPSession, url: RemoteUrl, state: CopyState, *, dry_run: bool) -> None:
    """Servers of our own leave part files out of listings; of ours here the journals know."""
    with left_behind(url.display()) as parts:
        for path in parts:
            if await session.stat_or_none(path) is None:
                continue
            problem = None if dry_run else await _delete(session, path)
            state.record(FileResult(source="", target=url.display(path), action="delete", error=problem))
        if dry_run:
            raise _NothingDone


async def _delete(session: FTPSession, path: bytes) -> UFTPError | None:
    try:
        await session.delete(path)
    except NotFound:
        return None  # its copy has ended just now
    except UFTPError as error:
        if not session.usable:
            raise
        return error
    return None


async def _clean_here(top: bytes, state: CopyState, *, dry_run: bool) -> None:
    below = True
    if not await trio.to_thread.run_sync(os.path.isdir, top):
        top, below = os.path.dirname(top) or b".", False
    if not await trio.to_thread.run_sync(os.path.isdir, top):
        raise LocalFileError(f"{printable(top)}: no such directory")
    walk = os.walk(top)

    def some() -> Sequence[tuple[bytes, OSError | None]] | None:
        found: list[tuple[bytes, OSError | None]] = []
        for directory, directories, files in walk:
            if not below:
                directories.clear()
            for name in files:
                if is_part_name(name):
                    path = join(directory, name)
                    found.append((path, None if dry_run else _unlink(path)))
            if len(found) >= _REPORTED_AT_ONCE:
                return found
        return found or None

    while (found := await trio.to_thread.run_sync(some)) is not None:
        for path, problem in found:
            error = None if problem is None else local_error(problem, path, "remove it")
            state.record(FileResult(source="", target=os.fsdecode(path), action="delete", error=error))


def _forget(target: str) -> None:
    """Whatever the journals of copies to this place name is gone by now."""
    with left_behind(os.path.abspath(target)):
        pass


def _unlink(path: bytes) -> OSError | None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    return None

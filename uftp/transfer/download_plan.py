"""Downloads, what is to be brought: the remote side is walked, directories are made on the way, files are offered."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from uftp.client.remote import RemoteEntry, Walk, expand
from uftp.client.url import RemoteUrl
from uftp.client.wording import printable
from uftp.errors import NetworkError, TimedOut, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.streams import Meter
from uftp.transfer.batch import Queue
from uftp.transfer.download import Download
from uftp.transfer.local import LocalTree, Stream, Target, local_error, open_target
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.plan import Placement, Root, join, place
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.task import FileTask

_STANDARD_OUTPUT: Final = 1

Offer = Callable[[FileTask], Awaitable[None]]


def _no_stream(url: RemoteUrl, path: bytes) -> UsageError:
    return UsageError(f"{url.display(path)}: is a directory, which cannot go to standard output")


async def find_roots(
    pool: SessionPool,
    urls: Sequence[RemoteUrl],
    options: CopyOptions,
    state: CopyState,
    *,
    to_stdout: bool = False,
) -> list[tuple[Root, FileInfo]]:
    """What the sources name, patterns expanded.

    A directory without -r is a failure if named, and left out if a pattern matches it.

    Raises:
        UFTPError: the only source is not there; with several it is a failure of that one.
    """
    found: list[tuple[Root, FileInfo]] = []
    for url in urls:
        try:
            async with pool.session() as session:
                if url.pattern is not None:
                    entries = await expand(session, url.pattern, url.path)
                else:
                    entries = [RemoteEntry(url.path, b"", await session.stat(url.path))]
        except UFTPError as error:
            if len(urls) == 1 or pool.failed:
                raise
            state.files_found += 1
            state.record(FileResult(source=url.display(), target="", error=error))
            continue
        for entry in entries:
            if entry.info.is_dir and not options.recursive:
                if url.pattern is not None:
                    state.on_note(f"{url.display(entry.path)}: is a directory, left out; use -r to copy it")
                    continue
                if to_stdout:
                    raise _no_stream(url, entry.path)
                raise UsageError(f"{url.display()}: is a directory; use -r to copy it with all that is in it")
            name = entry.path.rpartition(b"/")[2]
            found.append((Root(entry.path, b"" if name in (b".", b"..") else name, entry.info.is_dir), entry.info))
    return found


async def to_standard_output(
    pool: SessionPool, url: RemoteUrl, roots: Sequence[tuple[Root, FileInfo]], options: CopyOptions, state: CopyState
) -> None:
    """Write files to standard output, one after the other.

    Raises:
        UFTPError: the first failure; what follows would stand in the wrong place.
    """
    for root, info in roots:
        if root.is_dir:
            raise _no_stream(url, root.path)
        task = Download(
            root.path,
            info,
            options,
            lambda: Stream(_STANDARD_OUTPUT, owned=False),
            source=url.display(root.path),
            target="-",
            ranges=False,
        )
        state.files_found += 1
        state.bytes_found += task.length or 0
        meter = Meter()
        state.start(meter)
        try:
            async with pool.session() as session:
                await task.prepare(session)
                await task.move(session, Piece(0, task.length), meter)
        finally:
            state.stop(meter)
        state.record(FileResult(source=task.source, target="-", bytes=meter.moved))


class DownloadPlan:
    """Offers a task for each file, directories made on the way.

    Args:
        pool, state, options: of the copy.
        url: of the server, for messages.
        roots: what to bring.
        target: local path.
        several: whether more than one source was named.

    Raises:
        UsageError: see `uftp.transfer.plan.place`.
    """

    def __init__(
        self,
        pool: SessionPool,
        state: CopyState,
        options: CopyOptions,
        url: RemoteUrl,
        roots: Sequence[tuple[Root, FileInfo]],
        target: bytes,
        *,
        ranges: bool,
        several: bool = False,
    ) -> None:
        self._pool = pool
        self._state = state
        self._options = options
        self._url = url
        self._target = target
        self._ranges = ranges
        self._infos = {root.path: info for root, info in roots}
        is_dir = os.path.isdir(target)
        self._placement: Placement = place(
            [root for root, _ in roots],
            target=target,
            target_is_dir=is_dir,
            target_exists=os.path.exists(target),
            several=several,
        )
        self._tree = LocalTree(target)
        self._directories: list[tuple[bytes, FileInfo]] = []

    async def __call__(self, queue: Queue) -> None:
        offer = queue.offer
        if self._placement.into_directory:
            try:
                await trio.to_thread.run_sync(self._tree.create)
            except OSError as error:
                raise local_error(error, self._target, "create the directory") from error
        for item in self._placement.items:
            info = self._infos[item.root.path]
            if item.root.is_dir:
                await self._offer_tree(offer, item.root.path, info, item.relative)
            else:
                await self._offer_file(offer, item.root.path, info, item.relative)

    async def _offer_tree(self, offer: Offer, top: bytes, info: FileInfo, relative: bytes) -> None:
        if not await self._make_directory(top, info, relative):
            return

        def failed(path: bytes, error: UFTPError) -> None:
            self._state.record(FileResult(source=self._url.display(path), target="", error=error))

        async for entry in Walk(self._list, top, on_error=failed):
            below = join(relative, entry.relative)
            if entry.info.is_dir:
                await self._make_directory(entry.path, entry.info, below)
            else:
                await self._offer_file(offer, entry.path, entry.info, below)

    async def _list(self, path: bytes) -> list[FileInfo]:
        # A directory that is not listed is all that is in it: one lost session is not worth that.
        try:
            return await self._list_once(path)
        except TimedOut:
            raise
        except NetworkError:
            return await self._list_once(path)

    async def _list_once(self, path: bytes) -> list[FileInfo]:
        async with self._pool.session() as session:
            return await session.listdir(path)

    async def _make_directory(self, path: bytes, info: FileInfo, relative: bytes) -> bool:
        def make() -> None:
            with self._tree.directory(relative):
                pass

        try:
            await trio.to_thread.run_sync(make)
        except OSError as error:
            shown = printable(join(self._target, relative))
            problem = local_error(error, shown, "create the directory")
            self._state.record(FileResult(source=self._url.display(path), target=shown, error=problem))
            return False
        if self._options.preserve:
            self._directories.append((relative, info))
        return True

    async def _offer_file(self, offer: Offer, path: bytes, info: FileInfo, relative: bytes) -> None:
        byte_range = self._options.byte_range
        in_place = byte_range is not None and byte_range.in_place
        source = self._url.display(path)
        target = os.fsdecode(join(self._target, relative))

        def open_it() -> Target:
            if relative:
                return self._tree.open_file(relative, in_place=in_place)
            return open_target(self._target, in_place=in_place)

        try:
            task = Download(path, info, self._options, open_it, source=source, target=target, ranges=self._ranges)
        except UFTPError as error:
            self._state.record(FileResult(source=source, target=target, error=error))
            return
        if not relative and await trio.to_thread.run_sync(_is_special, self._target):
            task.small = False
            task.special = True
            task.splittable = task.splittable and await trio.to_thread.run_sync(_is_null, self._target)
        await offer(task)

    def set_directory_facts(self) -> None:
        """Give directories their times and modes: the deepest first, as each write changes its parent's time."""
        for relative, info in reversed(self._directories):
            permissions = None if info.permissions is None else info.permissions & 0o777
            try:
                self._tree.set_facts(relative, mtime_ns=info.mtime_ns, permissions=permissions)
            except OSError as error:
                shown = printable(join(self._target, relative))
                self._state.on_note(str(local_error(error, shown, "set time and mode")))


def _is_special(path: bytes) -> bool:
    return os.path.exists(path) and not os.path.isfile(path)


def _is_null(path: bytes) -> bool:
    return os.path.realpath(path) == b"/dev/null"

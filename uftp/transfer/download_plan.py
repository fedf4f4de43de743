"""Downloads, what is to be brought: the remote side is walked, directories are made on the way, files are offered."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from uftp.client.remote import RemoteEntry, expand
from uftp.client.url import RemoteUrl
from uftp.client.wording import printable
from uftp.errors import NotFound, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.streams import Meter
from uftp.transfer.batch import MOST_FILES, Batch, Queue, SmallFile
from uftp.transfer.comparing import take_changed
from uftp.transfer.directory_facts import KeptFacts
from uftp.transfer.download import Download, OpenTarget
from uftp.transfer.local import LocalTree, Stream, Target, local_error, open_target
from uftp.transfer.local_directories import (
    Made,
    look_at_files,
    make_directories,
    make_links,
    open_directory,
    set_facts,
)
from uftp.transfer.look_ahead import LookAhead
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.plan import Placement, Root, join, place, place_exactly
from uftp.transfer.pool import SessionPool
from uftp.transfer.rehearsal import Rehearsal
from uftp.transfer.remote_walk import RemoteWalk
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.walk import LostDirectories, Portion, Selection, part_by_size

_STANDARD_OUTPUT: Final = 1
_FACTS_AT_ONCE: Final = 4096


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
                link = url.kind == "access" and not url.path  # of a single file, too: the session has it in a directory
                hint = "; `uftp get-share` fetches what a link leads to" if link else ""
                raise UsageError(f"{url.display()}: is a directory; use -r to copy it with all that is in it{hint}")
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
            lambda part=None: Stream(_STANDARD_OUTPUT, owned=False),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneTarget:
    """The target of one file, under an exact name: it is no directory that files go into.

    Attributes:
        open: opens it, in a thread.
        shown: what messages and the journal call it.
        place: its path.
        special: whether it is a pipe or a device.
    """

    open: OpenTarget
    shown: str
    place: bytes
    special: bool = False


class DownloadPlan:
    """Offers a task for each file, directories made on the way.

    Args:
        pool, state, options: of the copy.
        url: of the server, for messages.
        roots: what to bring.
        target: local path.
        several: whether more than one source was named.
        begun: whether an interrupted run of the same copy has found no target: then it was made for this.
        lone: the target, if there is one root, and it is a file that goes to an exact name.

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
        begun: bool = False,
        lone: LoneTarget | None = None,
    ) -> None:
        self._pool = pool
        self._state = state
        self._options = options
        self._url = url
        self._target = target
        self._ranges = ranges
        self._infos = {root.path: info for root, info in roots}
        self._lone = lone
        if lone is not None:
            self._placement: Placement = place_exactly(roots[0][0])
        else:
            self._placement = place(
                [root for root, _ in roots],
                target=target,
                target_is_dir=os.path.isdir(target) and not begun,
                target_exists=os.path.exists(target) and not begun,
                several=several,
            )
        self._tree = LocalTree(target)
        self._facts = KeptFacts()
        self._selection = Selection(options.filters)
        self._old: set[bytes] = set()  # directories, below the target, that were there before
        self._lost = LostDirectories()

    async def __call__(self, queue: Queue) -> None:
        async with LookAhead.before(Rehearsal(self._state) if self._options.dry_run else queue) as ahead:
            await self._make_target()
            for item in self._placement.items:
                info = self._infos[item.root.path]
                if item.root.is_dir:
                    await self._offer_tree(ahead, item.root.path, info, item.relative)
                elif self._is_taken(item.root, info):
                    # A lone name was looked at just now, and by itself; what a pattern matches was listed.
                    looked = len(self._infos) == 1 and self._url.pattern is None
                    await self._offer_file(ahead, item.root.path, info, item.relative, looked=looked)
        for name in sorted(self._selection.missing):
            path = join(self._placement.items[0].root.path, name)
            self._failed(path, b"", NotFound(f"{printable(path)}: is in the list of names, but not there"))

    async def _make_target(self) -> None:
        """The directory that everything goes into; its parent has to be there."""
        if self._lone is not None:
            return
        if await trio.to_thread.run_sync(os.path.isdir, self._target):
            self._old.add(b"")
        if not self._placement.into_directory or self._options.dry_run:
            return
        try:
            await trio.to_thread.run_sync(self._tree.create)
        except OSError as error:
            raise local_error(error, self._target, "create the directory") from error

    def _is_taken(self, root: Root, info: FileInfo) -> bool:
        """Whether the filters take a file the user has named."""
        self._selection.met(root.name)
        return self._options.filters.takes_file(root.name, info.size, info.mtime_ns or None)

    # -- trees ------------------------------------------------------------------------------------------------------

    async def _offer_tree(self, queue: Queue, top: bytes, info: FileInfo, place_here: bytes) -> None:
        def lost(relative: bytes) -> bool:
            return self._lost.holds(join(place_here, relative))

        walk = RemoteWalk(
            self._pool,
            top,
            info.unique,
            links=self._options.links,
            selection=self._selection,
            lost=lost,
            retries=self._options.retries,
        )
        if self._options.preserve:
            permissions = None if info.permissions is None else info.permissions & 0o777
            self._facts.add(place_here, info.mtime_ns or None, permissions)
        if place_here:
            await self._make([(top, b"", [place_here])])
        while group := await walk.next_group():
            await self._offer_group(queue, group, place_here)

    async def _offer_group(self, queue: Queue, group: Sequence[Portion], place_here: bytes) -> None:
        group = [portion for portion in group if not self._lost.holds(join(place_here, portion.relative))]
        wanted = []
        for portion in group:
            relative = join(place_here, portion.relative)
            if self._options.preserve:
                for found in portion.directories:
                    self._facts.add(join(relative, found.name), found.mtime_ns, found.permissions)
            if portion.directories:
                wanted.append((portion.directory, relative, [found.name for found in portion.directories]))
        await self._make(wanted)
        for portion in group:
            relative = join(place_here, portion.relative)
            for name, error in portion.failures:
                self._failed(join(portion.directory, name), join(relative, name), error)
            for name, why in portion.left_out:
                self._state.on_note(f"{self._url.display(join(portion.directory, name))}: {why}")
            await self._offer_files(queue, portion, relative)
        await self._make_links(group, place_here)

    async def _make(self, wanted: Sequence[tuple[bytes, bytes, Sequence[bytes]]]) -> None:
        """Make directories, given as (directory of the source, the one below the target, names in it)."""
        if self._options.dry_run or not wanted:
            return

        def make() -> list[list[Made | OSError]]:
            return [make_directories(self._tree, relative, names) for _, relative, names in wanted]

        for (source, relative, names), outcomes in zip(wanted, await trio.to_thread.run_sync(make), strict=True):
            for name, made in zip(names, outcomes, strict=True):
                below = join(relative, name)
                if made == "old":
                    self._old.add(below)
                elif isinstance(made, OSError):
                    shown = printable(join(self._target, below))
                    path = join(source, name) if relative else source
                    self._failed(path, below, local_error(made, shown, "create the directory"))
                    self._lost.add(below)

    async def _make_links(self, group: Sequence[Portion], place_here: bytes) -> None:
        with_links = [(portion, join(place_here, portion.relative)) for portion in group if portion.links]
        if not with_links:
            return

        def make() -> list[list[OSError | None]]:
            times = self._options.preserve
            return [make_links(self._tree, relative, portion.links, times=times) for portion, relative in with_links]

        outcomes: list[list[OSError | None]] = [[None] * len(portion.links) for portion, _ in with_links]
        if not self._options.dry_run:
            outcomes = await trio.to_thread.run_sync(make)
        for (portion, relative), errors in zip(with_links, outcomes, strict=True):
            for link, error in zip(portion.links, errors, strict=True):
                source, target = join(portion.directory, link.name), join(relative, link.name)
                self._state.files_found += 1
                if error is not None:
                    self._failed(source, target, local_error(error, join(self._target, target), "make the link"))
                    continue
                shown = os.fsdecode(join(self._target, target))
                self._state.record(FileResult(source=self._url.display(source), target=shown))

    async def _offer_files(self, queue: Queue, portion: Portion, relative: bytes) -> None:
        files = portion.files
        unchanged = self._options.unchanged
        if unchanged is not None and (relative in self._old or self._options.dry_run):
            names = [file.name for file in files]
            there = await trio.to_thread.run_sync(look_at_files, self._target, relative, names)
            files = take_changed(files, relative, there, unchanged, self._state)
        if self._options.byte_range is not None:
            small, large = list[SmallFile](), files
        else:
            small, large = part_by_size(files)
        for file in large:
            await self._offer_file(queue, join(portion.directory, file.name), _info(file), join(relative, file.name))
        for start in range(0, len(small), MOST_FILES):
            batch = Batch(
                portion.directory,
                join(self._target, relative),
                small[start : start + MOST_FILES],
                upload=False,
                fresh=relative not in self._old,
                task=lambda file: self._task(
                    join(portion.directory, file.name), _info(file), join(relative, file.name)
                ),
                open_directory=lambda: open_directory(self._tree, relative),
            )
            await queue.offer_batch(batch)

    # -- files ------------------------------------------------------------------------------------------------------

    def _task(self, path: bytes, info: FileInfo, relative: bytes, *, looked: bool = False) -> Download:
        byte_range = self._options.byte_range
        in_place = byte_range is not None and byte_range.in_place
        lone = self._lone

        def open_it(part: bytes | None = None) -> Target:
            if relative:
                return self._tree.open_file(relative, in_place=in_place, part=part)
            return open_target(self._target, in_place=in_place, part=part)

        return Download(
            path,
            info,
            self._options,
            open_it if lone is None else lone.open,
            source=self._url.display(path),
            target=os.fsdecode(join(self._target, relative)) if lone is None else lone.shown,
            place=None if lone is None else lone.place,
            ranges=self._ranges,
            looked=looked,
        )

    async def _offer_file(
        self, queue: Queue, path: bytes, info: FileInfo, relative: bytes, *, looked: bool = False
    ) -> None:
        try:
            task = self._task(path, info, relative, looked=looked)
        except UFTPError as error:
            self._failed(path, relative, error)
            return
        if self._lone is not None:
            task.special = self._lone.special
            task.splittable = task.splittable and not task.special
        elif not relative and await trio.to_thread.run_sync(_is_special, self._target):
            task.special = True
            task.splittable = task.splittable and await trio.to_thread.run_sync(_is_null, self._target)
        await queue.offer(task)

    def _failed(self, path: bytes, relative: bytes, error: UFTPError) -> None:
        target = os.fsdecode(join(self._target, relative)) if self._lone is None else self._lone.shown
        self._state.record(FileResult(source=self._url.display(path), target=target, error=error))

    def set_directory_facts(self) -> None:
        """Give directories their times and modes: the deepest first, as each write changes its parent's time."""
        while facts := self._facts.take(_FACTS_AT_ONCE):
            for relative, mtime_ns, permissions in facts:
                if self._options.dry_run or self._lost.holds(relative):
                    continue
                try:
                    set_facts(self._tree, relative, mtime_ns, permissions)
                except OSError as error:
                    shown = printable(join(self._target, relative))
                    self._state.on_note(str(local_error(error, shown, "set time and mode")))


def _info(file: SmallFile) -> FileInfo:
    mode = None if file.permissions is None else stat.S_IFREG | file.permissions
    return FileInfo(name=file.name, size=file.size, mtime_ns=file.mtime_ns or 0, mode=mode)


def _is_special(path: bytes) -> bool:
    return os.path.exists(path) and not os.path.isfile(path)


def _is_null(path: bytes) -> bool:
    return os.path.realpath(path) == b"/dev/null"

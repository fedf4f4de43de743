"""Uploads, what is to be brought: the local side is walked, directories are made on the way, files are offered."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Sequence
from typing import Final

import trio

from uftp.client.dialect import Dialect
from uftp.client.url import RemoteUrl
from uftp.client.wording import printable
from uftp.errors import LocalFileError, Refused, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.transfer.batch import MOST_FILES, Batch, Queue, SmallFile
from uftp.transfer.comparing import list_files, take_changed
from uftp.transfer.directory_facts import KeptFacts
from uftp.transfer.local import local_error
from uftp.transfer.local_walk import LocalWalk
from uftp.transfer.look_ahead import LookAhead
from uftp.transfer.options import CopyOptions, FileFacts
from uftp.transfer.plan import Placement, Root, join, place, place_exactly
from uftp.transfer.pool import SessionPool
from uftp.transfer.rehearsal import Rehearsal
from uftp.transfer.remote_directories import RemoteDirectories
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.upload import STANDARD_INPUT_NAME, Upload
from uftp.transfer.walk import LostDirectories, Portion, Selection, part_by_size

_FACTS_AT_ONCE: Final = 4096


def find_roots(sources: Sequence[bytes], options: CopyOptions, state: CopyState) -> list[Root]:
    """What the sources name; patterns that are no file's name are expanded.

    Raises:
        UsageError: a directory without -r.
        LocalFileError: the only source is not there; with several it is a failure of that one.
    """
    roots: list[Root] = []
    for source in sources:
        names = [source]
        if source != STANDARD_INPUT_NAME and not os.path.lexists(source):
            names = sorted(glob.glob(source)) or [source]
        for path in names:
            try:
                is_dir = path != STANDARD_INPUT_NAME and stat.S_ISDIR(os.stat(path).st_mode)
            except OSError as error:
                problem = local_error(error, path, "read it")
                if len(sources) == 1 and len(names) == 1:
                    raise problem from error
                state.files_found += 1
                state.record(FileResult(source=printable(path), target="", error=problem))
                continue
            if is_dir and not options.recursive:
                if path != source:
                    state.on_note(f"{printable(path)}: is a directory, left out; use -r to copy it")
                    continue
                raise UsageError(f"{printable(path)}: is a directory; use -r to copy it with all that is in it")
            name = path.rpartition(b"/")[2]
            roots.append(Root(path, b"" if name in (b".", b"..") else name, is_dir))
    return roots


class UploadPlan:
    """Offers what is to be brought, directories made on the way, some hundreds of them in each round trip.

    Args:
        pool, state, options: of the copy.
        url: target.
        info: of the target, None if it is not there.
        roots: what to bring.
        dialect: of the server.
        several: whether more than one source was named.
        begun: whether an interrupted run of the same copy has found no target: then it was made for this.
        lone: what messages call the source, if there is one root, and it is a file that goes to the exact name of the
            target.

    Raises:
        Refused: a directory has the exact name.
        UsageError: see `uftp.transfer.plan.place`, or standard input without a file name to store it as.
    """

    def __init__(
        self,
        pool: SessionPool,
        state: CopyState,
        options: CopyOptions,
        url: RemoteUrl,
        info: FileInfo | None,
        roots: Sequence[Root],
        *,
        dialect: Dialect,
        several: bool = False,
        begun: bool = False,
        lone: str | None = None,
    ) -> None:
        self._pool = pool
        self._state = state
        self._options = options
        self._url = url
        self._info = info
        self._dialect = dialect
        self._lone = lone
        if lone is not None:
            if info is not None and info.is_dir:
                raise Refused(f"{url.display()}: a directory has this name")
            self._placement: Placement = place_exactly(roots[0])
        else:
            self._placement = place(
                roots,
                target=url.path,
                target_is_dir=info is not None and info.is_dir and not begun,
                target_exists=info is not None and not begun,
                several=several,
            )
        if self._placement.into_directory and any(root.path == STANDARD_INPUT_NAME for root in roots):
            raise UsageError(f"{url.display()}: is a directory; give standard input a file name there")
        self._remote = RemoteDirectories(pool, retries=options.retries)
        self._facts = KeptFacts()
        self._selection = Selection(options.filters)
        self._old: set[bytes] = set()  # directories, below the target, that were there before
        self._lost = LostDirectories()
        self._listed: dict[bytes, dict[bytes, FileFacts]] = {}

    async def __call__(self, queue: Queue) -> None:
        async with LookAhead.before(Rehearsal(self._state) if self._options.dry_run else queue) as ahead:
            await self._make_target()
            for item in self._placement.items:
                if item.root.is_dir:
                    await self._offer_tree(ahead, item.root.path, item.relative)
                elif self._is_taken(item.root):
                    info = self._info if not item.relative else None
                    await self._offer_file(ahead, item.root.path, item.relative, info)
        for name in sorted(self._selection.missing):
            path = join(self._placement.items[0].root.path, name)
            self._failed(path, b"", LocalFileError(f"{printable(path)}: is in the list of names, but not there"))

    async def _make_target(self) -> None:
        """The directory that everything goes into, if it is not there; its parent has to be."""
        if self._info is not None:
            self._old.add(b"")
            return
        if self._options.dry_run or not self._placement.into_directory or not self._url.path:
            return
        (made,) = await self._remote.make([(self._url.path.rstrip(b"/"), True)])
        if isinstance(made, UFTPError):
            raise made
        if made == "old":
            self._old.add(b"")  # somebody else has made it meanwhile

    def _is_taken(self, root: Root) -> bool:
        """Whether the filters take a file the user has named."""
        filters = self._options.filters
        if filters.takes_all or root.path == STANDARD_INPUT_NAME:
            return True
        try:
            info = os.stat(root.path)
        except OSError:
            return True  # it fails by its name
        self._selection.met(root.name)
        return filters.takes_file(root.name, info.st_size, info.st_mtime_ns)

    # -- trees ------------------------------------------------------------------------------------------------------

    async def _offer_tree(self, queue: Queue, top: bytes, place_there: bytes) -> None:
        def lost(relative: bytes) -> bool:
            return self._lost.holds(join(place_there, relative))

        try:
            walk = await trio.to_thread.run_sync(
                lambda: LocalWalk(top, links=self._options.links, selection=self._selection, lost=lost)
            )
        except OSError as error:
            self._failed(top, place_there, local_error(error, top, "list it"))
            return
        if self._options.preserve:
            self._facts.add(place_there, walk.mtime_ns, walk.permissions)
        if place_there:
            await self._make([(top, place_there, b"")])
        try:
            while group := await trio.to_thread.run_sync(walk.next_group):
                await self._offer_group(queue, group, place_there)
        finally:
            walk.close()

    async def _offer_group(self, queue: Queue, group: Sequence[Portion], place_there: bytes) -> None:
        group = [portion for portion in group if not self._lost.holds(join(place_there, portion.relative))]
        wanted = []
        for portion in group:
            parent = join(place_there, portion.relative)
            for found in portion.directories:
                relative = join(parent, found.name)
                if self._options.preserve:
                    self._facts.add(relative, found.mtime_ns, found.permissions)
                wanted.append((join(portion.directory, found.name), relative, parent))
        await self._make(wanted)
        await self._list_targets(group, place_there)
        for portion in group:
            relative = join(place_there, portion.relative)
            if not self._lost.holds(relative):
                self._report(portion, relative)
                await self._offer_files(queue, portion, relative)
        await self._make_links(group, place_there)

    def _report(self, portion: Portion, relative: bytes) -> None:
        for name, error in portion.failures:
            self._failed(join(portion.directory, name), join(relative, name), error)
        for name, why in portion.left_out:
            self._state.on_note(f"{printable(join(portion.directory, name))}: {why}")

    async def _make(self, wanted: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        """Make directories, given as (source, place below the target, its parent), in one go."""
        if self._options.dry_run or not wanted:
            return
        asked = [(join(self._url.path, relative), parent in self._old) for _, relative, parent in wanted]
        # A parent made in the same go may turn out to be old; then so may be what is in it.
        coming = {relative for _, relative, _ in wanted}
        asked = [(path, old or parent in coming) for (path, old), (_, _, parent) in zip(asked, wanted, strict=True)]
        for (source, relative, parent), made in zip(wanted, await self._remote.make(asked), strict=True):
            if made == "old":
                self._old.add(relative)
            elif isinstance(made, UFTPError):
                if not self._lost.holds(parent):  # else that one has been named
                    self._failed(source, relative, made)
                self._lost.add(relative)

    async def _offer_files(self, queue: Queue, portion: Portion, relative: bytes) -> None:
        files = portion.files
        if self._options.unchanged is not None and (there := self._listed.get(relative)):
            files = take_changed(files, relative, there, self._options.unchanged, self._state)
        if self._options.byte_range is not None:
            small, large = list[SmallFile](), files
        else:
            small, large = part_by_size(files)
        for file in large:
            path = join(portion.directory, file.name)
            await self._offer_file(queue, path, join(relative, file.name), None, file.size)
        directory = join(self._url.path, relative)
        for start in range(0, len(small), MOST_FILES):
            batch = Batch(
                portion.directory,
                directory,
                small[start : start + MOST_FILES],
                upload=True,
                fresh=relative not in self._old,
                task=lambda file: self._task(
                    join(portion.directory, file.name), join(directory, file.name), None, file.size
                ),
            )
            await queue.offer_batch(batch)

    async def _make_links(self, group: Sequence[Portion], place_there: bytes) -> None:
        links = [
            (join(portion.directory, link.name), join(join(place_there, portion.relative), link.name), link.target)
            for portion in group
            for link in portion.links
            if not self._lost.holds(join(place_there, portion.relative))
        ]
        if not links:
            return
        outcomes: Sequence[UFTPError | None] = [None] * len(links)
        if not self._options.dry_run:
            if self._dialect.has_links:
                outcomes = await self._remote.make_links(
                    [(join(self._url.path, relative), text) for _, relative, text in links]
                )
            else:
                outcomes = [
                    Refused(f"{printable(source)}: the server makes no symbolic links") for source, _, _ in links
                ]
        for (source, relative, _), error in zip(links, outcomes, strict=True):
            self._state.files_found += 1
            target = self._url.display(join(self._url.path, relative))
            self._state.record(FileResult(source=os.fsdecode(source), target=target, error=error))

    async def _list_targets(self, group: Sequence[Portion], place_there: bytes) -> None:
        """What is there already, for `CopyOptions.unchanged`; of directories that are not new."""
        if self._options.unchanged is None:
            return
        relatives = {join(place_there, portion.relative) for portion in group if portion.files}
        if self._options.dry_run:
            # Nothing was made, so nothing is known; a directory that is not there cannot be listed.
            wanted = relatives if self._info is not None else set[bytes]()
        else:
            wanted = relatives & self._old
        known = {relative: files for relative, files in self._listed.items() if relative in wanted}
        self._listed = known | await list_files(
            self._pool, self._url.path, sorted(wanted - set(known)), retries=self._options.retries
        )

    # -- files ------------------------------------------------------------------------------------------------------

    def _task(self, path: bytes, remote: bytes, info: FileInfo | None, size: int | None) -> Upload:
        target_itself = remote == self._url.path and not self._placement.into_directory
        return Upload(
            path,
            remote,
            info,
            self._options,
            self._state,
            source=self._shown(path),
            target=self._url.display(remote),
            dialect=self._dialect,
            size=size,
            absent=target_itself and self._info is None,
        )

    async def _offer_file(
        self, queue: Queue, path: bytes, relative: bytes, info: FileInfo | None, size: int | None = None
    ) -> None:
        remote = join(self._url.path, relative)
        try:
            if size is not None:
                task = self._task(path, remote, info, size)
            else:
                task = await trio.to_thread.run_sync(self._task, path, remote, info, None)
        except UFTPError as error:
            self._failed(path, relative, error)
            return
        await queue.offer(task)

    def _failed(self, path: bytes, relative: bytes, error: UFTPError) -> None:
        target = self._url.display(join(self._url.path, relative))
        self._state.record(FileResult(source=self._shown(path), target=target, error=error))

    def _shown(self, path: bytes) -> str:
        return os.fsdecode(path) if self._lone is None else self._lone

    async def set_directory_facts(self) -> None:
        """Give directories their times and modes: the deepest first, as each write changes its parent's time."""
        while facts := self._facts.take(_FACTS_AT_ONCE):
            if self._options.dry_run:
                continue
            wanted = [
                (join(self._url.path, relative) or b".", mtime_ns, permissions)
                for relative, mtime_ns, permissions in facts
                if not self._lost.holds(relative)
            ]
            for path, error in await self._remote.set_facts(wanted):
                self._state.on_note(f"{self._url.display(path)}: time or mode could not be set: {error}")

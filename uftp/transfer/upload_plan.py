"""Uploads, what is to be brought: the local side is walked, directories are made on the way, files are offered."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from uftp.client.dialect import Dialect
from uftp.client.url import RemoteUrl
from uftp.client.wording import printable
from uftp.errors import NotFound, Refused, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.protocol.names import is_part_name
from uftp.transfer.batch import Queue
from uftp.transfer.local import local_error
from uftp.transfer.options import CopyOptions
from uftp.transfer.plan import Placement, Root, join, place
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.task import FileTask
from uftp.transfer.upload import STANDARD_INPUT_NAME, Upload

Offer = Callable[[FileTask], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Found:
    path: bytes
    name: bytes
    is_dir: bool
    key: tuple[int, int]
    mtime_ns: int
    permissions: int
    size: int | None = None
    error: OSError | None = None


def _scan(path: bytes) -> list[_Found]:
    """What is in a local directory, in order, links followed."""
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            if is_part_name(entry.name):
                continue
            try:
                info = entry.stat()
            except OSError as error:
                found.append(_Found(entry.path, entry.name, False, (0, 0), 0, 0, error=error))
                continue
            kind = stat.S_ISDIR(info.st_mode)
            trouble = None if kind or stat.S_ISREG(info.st_mode) else OSError(22, "not a file or directory")
            key = (info.st_dev, info.st_ino)
            permissions = stat.S_IMODE(info.st_mode) & 0o777
            size = None if kind else info.st_size
            found.append(_Found(entry.path, entry.name, kind, key, info.st_mtime_ns, permissions, size, trouble))
    return sorted(found, key=lambda one: one.name)


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
    """Offers a task for each file, directories made on the way.

    Args:
        pool, state, options: of the copy.
        url: target.
        info: of the target, None if it is not there.
        roots: what to bring.
        dialect: of the server.
        several: whether more than one source was named.

    Raises:
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
    ) -> None:
        self._pool = pool
        self._state = state
        self._options = options
        self._url = url
        self._info = info
        self._dialect = dialect
        self._placement: Placement = place(
            roots,
            target=url.path,
            target_is_dir=info is not None and info.is_dir,
            target_exists=info is not None,
            several=several,
        )
        if self._placement.into_directory and any(root.path == STANDARD_INPUT_NAME for root in roots):
            raise UsageError(f"{url.display()}: is a directory; give standard input a file name there")
        self._directories: list[tuple[bytes, _Found]] = []

    async def __call__(self, queue: Queue) -> None:
        offer = queue.offer
        fresh = False
        if self._placement.into_directory and self._info is None and self._url.path:
            async with self._pool.session() as session:
                await session.mkdir(self._url.path.rstrip(b"/"))
            fresh = True
        for item in self._placement.items:
            if item.root.is_dir:
                await self._offer_tree(offer, item.root.path, item.relative, fresh)
            else:
                await self._offer_file(offer, item.root.path, item.relative, self._info if not item.relative else None)

    async def _offer_tree(self, offer: Offer, top: bytes, relative: bytes, fresh: bool) -> None:
        info = await trio.to_thread.run_sync(os.stat, top)
        root = _Found(top, b"", True, (info.st_dev, info.st_ino), info.st_mtime_ns, stat.S_IMODE(info.st_mode) & 0o777)
        # Entries still to visit, with what is known of the way to them; the deepest last.
        waiting: list[tuple[_Found, bytes, bool, frozenset[tuple[int, int]]]] = [(root, relative, fresh, frozenset())]
        while waiting:
            found, place_there, parent_is_fresh, above = waiting.pop()
            if found.error is not None:
                self._failed(found.path, place_there, local_error(found.error, found.path, "copy it"))
            elif not found.is_dir:
                await self._offer_file(offer, found.path, place_there, None, found.size)
            elif found.key in above:
                error = UsageError(f"{printable(found.path)}: a link leads back up; left out")
                self._failed(found.path, place_there, error)
            else:
                is_fresh = await self._make_directory(found, place_there, parent_is_fresh)
                if is_fresh is None:
                    continue
                try:
                    entries = await trio.to_thread.run_sync(_scan, found.path)
                except OSError as problem:
                    self._failed(found.path, place_there, local_error(problem, found.path, "list it"))
                    continue
                inside = above | {found.key}
                waiting += [(entry, join(place_there, entry.name), is_fresh, inside) for entry in reversed(entries)]

    async def _make_directory(self, found: _Found, relative: bytes, parent_is_fresh: bool) -> bool | None:
        """Whether it was made just now; None if it is not there."""
        if self._options.preserve:
            self._directories.append((relative, found))
        if not relative:
            return parent_is_fresh  # the target itself, made or found already
        path = join(self._url.path, relative)
        try:
            async with self._pool.session() as session:
                try:
                    await session.mkdir(path)
                except (Refused, NotFound):
                    info = None if parent_is_fresh else await session.stat_or_none(path)
                    if info is None or not info.is_dir:
                        raise
                    return False
        except UFTPError as error:
            self._failed(found.path, relative, error)
            return None
        return True

    async def _offer_file(
        self, offer: Offer, path: bytes, relative: bytes, info: FileInfo | None, size: int | None = None
    ) -> None:
        remote = join(self._url.path, relative)
        source, target = os.fsdecode(path), self._url.display(remote)

        def make() -> Upload:
            return Upload(
                path,
                remote,
                info,
                self._options,
                self._state,
                source=source,
                target=target,
                dialect=self._dialect,
                size=size,
            )

        try:
            task = make() if size is not None else await trio.to_thread.run_sync(make)
        except UFTPError as error:
            self._failed(path, relative, error)
            return
        await offer(task)

    def _failed(self, path: bytes, relative: bytes, error: UFTPError) -> None:
        target = self._url.display(join(self._url.path, relative))
        self._state.record(FileResult(source=os.fsdecode(path), target=target, error=error))

    async def set_directory_facts(self) -> None:
        """Give directories their times and modes: the deepest first, as each write changes its parent's time."""
        for relative, found in reversed(self._directories):
            path = join(self._url.path, relative) or b"."
            try:
                async with self._pool.session() as session:
                    await session.set_facts(path, mtime_ns=found.mtime_ns, permissions=found.permissions)
            except UFTPError as error:
                self._state.on_note(f"{self._url.display(path)}: time or mode could not be set: {error}")

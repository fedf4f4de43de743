"""Downloads: what there is on the server, and bringing it here."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from uftp.client.data import Receive
from uftp.client.remote import RemoteEntry, Walk, expand
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl
from uftp.client.wording import printable
from uftp.errors import LocalFileError, NetworkError, TimedOut, TransferFailed, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.streams import Incoming, Meter
from uftp.transfer.bundles import SMALL
from uftp.transfer.local import LocalTree, Stream, Target, local_error, open_target
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.plan import Placement, Root, join, place
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.task import FileTask

if TYPE_CHECKING:
    from uftp.client.record_transfers import Retrieval, Transfer

_DEVICES: Final = (b"/dev/zero", b"/dev/null")
_STANDARD_OUTPUT: Final = 1

Offer = Callable[[FileTask], Awaitable[None]]


class Download(FileTask):
    """One file from the server.

    Args:
        path: in the session.
        info: its facts.
        options: what is asked for.
        open_it: opens the target, in a thread.
        source, target: for messages and results.
        ranges: whether the server moves parts of files.

    Attributes:
        special: whether the target is a pipe or a device.
    """

    def __init__(
        self,
        path: bytes,
        info: FileInfo,
        options: CopyOptions,
        open_it: Callable[[], Target],
        *,
        source: str,
        target: str,
        ranges: bool,
    ) -> None:
        super().__init__()
        self.source = source
        self.target = target
        self._path = path
        self._info = info
        self._options = options
        self._open = open_it
        self._to: Target | None = None
        self._before: FileInfo | None = None
        size = None if _is_endless(path, info) else info.size
        self._first = 0
        self.length: int | None = info.size
        if options.byte_range is not None:
            self._first, self.length = options.byte_range.within(size)
        elif size is None:
            raise UsageError(f"{self.source}: has no end; say how much of it with -B, as -B 0-1g")
        self._whole = options.byte_range is None
        self.splittable = ranges
        self.small = self._whole and info.size <= SMALL
        self.special = False

    async def prepare(self, session: FTPSession) -> None:
        if self._whole and self.pieces > 1:
            # Asked as it is at the end, so that any change between is seen; listings may be older and less precise.
            self._before = await session.stat(self._path)
            if self._before.size != self.length:
                raise self._changed()
        self.discard()
        try:
            # The other end of a named pipe may never be opened; of a file, an abandoned thread could leave a part.
            self._to = await trio.to_thread.run_sync(self._open, abandon_on_cancel=self.special)
        except OSError as error:
            raise local_error(error, self.target, "write there") from error

    async def move(self, session: FTPSession, piece: Piece, meter: Meter) -> None:
        assert self._to is not None  # noqa: S101 -- prepared before
        byte_range = self._options.byte_range
        into = piece.offset + (self._first if byte_range is not None and byte_range.in_place else 0)
        receive = self._to.receiver(into)
        try:
            await self._retrieve(session, piece, receive, meter)
        except LocalFileError as error:
            # The session knows the file by its name on the server.
            if isinstance(error.__cause__, OSError):
                raise local_error(error.__cause__, self.target, "write it") from error.__cause__
            raise

    def transfer(self, session: FTPSession) -> Transfer:
        from uftp.client import record_moving

        def receive(incoming: Incoming, length: int | None, meter: Meter, /) -> int:
            self.began = time.monotonic()
            self.discard()  # of an attempt whose connection broke
            try:
                self._to = self._open()
            except OSError as error:
                raise local_error(error, self.target, "write there") from error
            try:
                return self._to.receiver(0)(incoming, length, meter)
            except OSError as error:
                raise local_error(error, self.target, "write it") from error

        def settle() -> None:
            self._take_facts(session, wanted)
            self._give_name()

        wanted = record_moving.retrieval(session, self._path, receive, settle=settle)
        return wanted

    def _take_facts(self, session: FTPSession, transfer: Retrieval) -> None:
        """What came with the file itself is newer, and more exact, than what a listing said."""
        if self._options.preserve:
            from uftp.client.record_moving import read_facts

            self._info = read_facts(session, transfer) or self._info

    async def _retrieve(self, session: FTPSession, piece: Piece, receive: Receive, meter: Meter) -> None:
        if self._whole and piece.length == self.length:
            # What the server announces counts: a file may have grown since it was listed.
            if session.records is not None:
                from uftp.client import record_moving

                wanted = record_moving.retrieval(session, self._path, receive, meter=meter)
                await record_moving.run(session, wanted)
                self._take_facts(session, wanted)
                return
            await session.retrieve(self._path, receive, expected=self.length, meter=meter)
        elif piece.length:
            offset = self._first + piece.offset
            await session.retrieve(self._path, receive, offset=offset, length=piece.length, meter=meter)

    async def finish(self, session: FTPSession) -> None:
        assert self._to is not None  # noqa: S101 -- prepared before
        if self._before is not None:
            await self._check_unchanged(session, self._before)
        await trio.to_thread.run_sync(self._give_name)

    def _give_name(self) -> None:
        assert self._to is not None  # noqa: S101 -- opened before
        facts = self._options.preserve
        mtime_ns = self._info.mtime_ns if facts and self._info.mtime_ns else None
        permissions = self._info.permissions if facts else None
        if permissions is not None:
            permissions &= 0o777
        try:
            self._to.finish(mtime_ns=mtime_ns, permissions=permissions)
        except OSError as error:
            raise local_error(error, self.target, "give the file its name") from error

    async def _check_unchanged(self, session: FTPSession, before: FileInfo) -> None:
        now = await session.stat(self._path)
        if now.size != before.size or now.mtime_ns != before.mtime_ns:
            raise self._changed()

    def _changed(self) -> TransferFailed:
        return TransferFailed(f"{printable(self._path)}: the file changed while it was copied; copy it again")

    def discard(self) -> None:
        if self._to is not None:
            self._to.discard()

    async def clean(self, session: FTPSession) -> None:
        """Nothing: a download leaves no trace on the server."""


def _is_endless(path: bytes, info: FileInfo) -> bool:
    if info.mode is not None and stat.S_IFMT(info.mode):
        return stat.S_ISCHR(info.mode) and not path.endswith(b"/null")
    return path == b"/dev/zero"


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

    async def __call__(self, offer: Offer) -> None:
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

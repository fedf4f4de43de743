"""Uploads: what there is here, and bringing it to the server.

How a file gets there without ever being partial under its name:

- one piece, to our own servers: one STOR, which the server makes atomic;
- several pieces, or any other server: a hidden part name in the target's directory, checked, then renamed;
- -B with p, and devices such as /dev/null: in place, as asked for.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from uftp.client.data import Send
from uftp.client.dialect import Dialect
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl
from uftp.client.wording import printable
from uftp.errors import NotFound, Refused, TransferFailed, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.protocol.names import is_part_name, part_name
from uftp.streams import Meter, Outgoing
from uftp.transfer.bundles import SMALL
from uftp.transfer.local import Source, local_error
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.plan import Placement, Root, join, place
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.task import FileTask

if TYPE_CHECKING:
    from uftp.client.record_transfers import Transfer

_STANDARD_INPUT: Final = 0
STANDARD_INPUT_NAME: Final = b"-"

Offer = Callable[[FileTask], Awaitable[None]]


class Upload(FileTask):
    """One local file to the server.

    Args:
        path: local; `-` for standard input.
        remote: path in the session.
        info: of the file that has this name on the server now, if that is known.
        options: what is asked for.
        state: for notes.
        source, target: for messages and results.
        dialect: of the server.
        size: bytes, if it is known to be a regular file; else it is looked at, which blocks.

    Raises:
        LocalFileError: the file cannot be looked at.
        UsageError: a source without end, or without the asked-for range.
    """

    def __init__(
        self,
        path: bytes,
        remote: bytes,
        info: FileInfo | None,
        options: CopyOptions,
        state: CopyState,
        *,
        source: str,
        target: str,
        dialect: Dialect,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.target = target
        self._path = path
        self._remote = remote
        self._info = info
        self._options = options
        self._state = state
        self._dialect = dialect
        self._from: Source | None = None
        self._part: bytes | None = None
        self._stored = False
        self._verified = False
        endless = False
        if size is not None:
            self._size: int | None = size
            self.splittable = dialect.has_ranges
        else:
            self._from = found = self._open()
            self._size = found.size
            self.splittable = found.parallel and dialect.has_ranges
            endless = found.size is None and found.parallel
            if found.size is not None or endless:
                self.discard()  # until its turn comes; of a pipe the writer would see the end
        self._first = 0
        self.length = self._size
        if options.byte_range is not None:
            self._first, self.length = self._range(options, self._size)
        elif endless:
            raise UsageError(f"{source}: has no end; say how much of it with -B, as -B 0-1g")
        self._in_place = options.byte_range is not None and options.byte_range.in_place
        self.small = size is not None and size <= SMALL and options.byte_range is None and info is None
        self._device = remote == b"/dev/null" or bool(
            info and info.mode is not None and stat.S_IFMT(info.mode) and not stat.S_ISREG(info.mode)
        )

    @staticmethod
    def _range(options: CopyOptions, size: int | None) -> tuple[int, int | None]:
        byte_range = options.byte_range
        if byte_range is not None and size is None and byte_range.last is None:
            return byte_range.first, None  # a pipe, from there to its end
        return byte_range.within(size) if byte_range is not None else (0, size)

    def _open(self) -> Source:
        try:
            if self._path == STANDARD_INPUT_NAME:
                return Source(_STANDARD_INPUT, owned=False)
            return Source.open(self._path)
        except OSError as error:
            raise local_error(error, self._path, "read it") from error

    async def prepare(self, session: FTPSession) -> None:
        if self._from is None:
            self._from = await trio.to_thread.run_sync(self._open)
        if self._from.size != self._size and self._options.byte_range is None:
            if self.pieces > 1:
                raise TransferFailed(f"{self.source}: the file changed while it was copied; copy it again")
            self.length = self._size = self._from.size
        if self._in_place or self._device:
            return
        if self._dialect.stores_atomically and self.pieces == 1 and self.length is not None:
            return
        if self._info is None:
            self._info = await session.stat_or_none(self._remote)
        if self._info is not None and self._info.is_dir:
            raise Refused(f"{self.target}: a directory has this name")
        directory, slash, _ = self._remote.rpartition(b"/")
        self._part = directory + slash + part_name(secrets.token_bytes(8))

    @contextlib.contextmanager
    def _by_its_name(self) -> Iterator[None]:
        """Errors name the target: the part's name, which the session knows, says nothing to a person."""
        try:
            yield
        except UFTPError as error:
            if self._part is not None:
                error.args = (str(error).replace(printable(self._part), printable(self._remote)),)
            raise

    async def move(self, session: FTPSession, piece: Piece, meter: Meter) -> None:
        with self._by_its_name():
            await self._move(session, piece, meter)

    async def _move(self, session: FTPSession, piece: Piece, meter: Meter) -> None:
        assert self._from is not None  # noqa: S101 -- prepared before
        length = self.length if self.pieces == 1 else piece.length
        send = self._from.sender(self._first + piece.offset, length)
        if self._in_place:
            if length != 0:
                offset = await self._place_in_target(session, self._first + piece.offset, length)
                await session.store(self._remote, send, offset=offset, length=length, meter=meter)
            return
        offset = piece.offset if self.pieces > 1 else None
        self._stored = True
        if session.records is not None and session.records.options.digest and offset is None and not self._part:
            await self._move_verified(session, send, length, meter)
            return
        await session.store(self._part or self._remote, send, offset=offset, length=length, meter=meter)

    async def _move_verified(self, session: FTPSession, send: Send, length: int | None, meter: Meter) -> None:
        """The server compares the digest before it gives the name: nothing is left to be asked after it."""
        from uftp.client import record_moving

        assert self._from is not None  # noqa: S101 -- prepared before
        given = record_moving.storage(
            session, self._remote, send, total=length, meter=meter, keep=lambda: self._facts_of(self._from)
        )
        await record_moving.run(session, given)
        assert session.records is not None  # noqa: S101 -- the caller has looked
        self._verified = session.records.options.facts or not self._options.preserve

    def _facts_of(self, source: Source | None) -> bytes:
        from uftp.client.record_moving import kept_facts

        if source is None or not self._options.preserve:
            return b""
        return kept_facts(source.mtime_ns, source.permissions)

    def transfer(self, session: FTPSession) -> Transfer:
        from uftp.client import record_moving

        facts = b""

        def send(outgoing: Outgoing, meter: Meter, /) -> None:
            nonlocal facts
            self.began = time.monotonic()
            with contextlib.closing(self._open()) as source:
                facts = self._facts_of(source)
                try:
                    source.sender(0, source.size)(outgoing, meter)
                except OSError as error:
                    raise local_error(error, self._path, "read it") from error

        return record_moving.storage(session, self._remote, send, total=None, keep=lambda: facts)

    async def _place_in_target(self, session: FTPSession, offset: int, length: int | None) -> int | None:
        """The offset to store at; None where replacing the whole file comes to the same, and the server needs it."""
        if offset or self._dialect.has_ranges:
            return offset
        there = await session.stat_or_none(self._remote)
        if there is None or there.size == 0 or (length is not None and there.size <= length):
            return None
        return offset

    async def finish(self, session: FTPSession) -> None:
        with self._by_its_name():
            await self._finish(session)

    async def _finish(self, session: FTPSession) -> None:
        if self._device or self._verified:
            return
        assert self._from is not None  # noqa: S101 -- prepared before
        if self.pieces > 1 and not self._in_place and not self._from.is_unchanged():
            raise TransferFailed(f"{self.source}: the file changed while its ranges were copied; copy it again")
        await self._check_size(session)
        await self._set_facts(session)
        if self._part is not None:
            await session.rename(self._part, self._remote)
            self._part = None

    async def _check_size(self, session: FTPSession) -> None:
        there = await session.size(self._part or self._remote)
        wanted = self.moved
        if self._in_place:
            if there < self._first + wanted:
                raise TransferFailed(f"{self.target}: the server has only {there} bytes of it")
        elif there != wanted:
            raise TransferFailed(f"{self.target}: {wanted} bytes were sent, the server has {there}")

    async def _set_facts(self, session: FTPSession) -> None:
        assert self._from is not None  # noqa: S101 -- prepared before
        mtime_ns, permissions = None, None
        if self._options.preserve:
            mtime_ns, permissions = self._from.mtime_ns, self._from.permissions
        elif self._part is not None and self._info is not None and self._info.mode is not None:
            permissions = stat.S_IMODE(self._info.mode) & 0o777
        if mtime_ns is None and permissions is None:
            return
        try:
            await session.set_facts(self._part or self._remote, mtime_ns=mtime_ns, permissions=permissions)
        except (Refused, NotFound) as error:
            self._state.on_note(f"{self.target}: time or mode could not be set: {error}")

    def discard(self) -> None:
        if self._from is not None:
            self._from.close()
            self._from = None

    def leaves_remote_part(self) -> bool:
        return self._part is not None and self._stored

    async def clean(self, session: FTPSession) -> None:
        if self._part is not None:
            with contextlib.suppress(NotFound):
                await session.delete(self._part)
            self._part = None


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

    async def __call__(self, offer: Offer) -> None:
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

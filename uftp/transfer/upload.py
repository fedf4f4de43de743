"""Uploads: bringing one file to the server.

How a file gets there without ever being partial under its name:

- one piece, to our own servers: one STOR, which the server makes atomic;
- several pieces, or any other server: a hidden part name in the target's directory, checked, then renamed;
- -B with p, and devices such as /dev/null: in place, as asked for.
"""

from __future__ import annotations

import contextlib
import secrets
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import trio

from uftp.client.data import Send
from uftp.client.dialect import Dialect
from uftp.client.session import FTPSession
from uftp.client.wording import printable
from uftp.errors import NotFound, Refused, TransferFailed, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.protocol.names import part_name
from uftp.streams import Meter, Outgoing
from uftp.transfer.local import Source, local_error
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.results import CopyState
from uftp.transfer.task import FileTask

if TYPE_CHECKING:
    from uftp.client.record_transfers import Transfer

_STANDARD_INPUT: Final = 0
STANDARD_INPUT_NAME: Final = b"-"


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
        self._renaming = False
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
                raise TransferFailed(
                    f"{self.source}: the file changed while it was copied; copy it again", lasting=True
                )
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

    def may_move_again(self) -> bool:
        """What a pipe has given is gone."""
        return self._from is None or self._from.parallel or not self._from.used

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
            raise TransferFailed(
                f"{self.source}: the file changed while its ranges were copied; copy it again", lasting=True
            )
        if self._renaming and await self._was_renamed(session):
            self._part = None
            return
        await self._check_size(session)
        await self._set_facts(session)
        if self._part is not None:
            self._renaming = True
            await session.rename(self._part, self._remote)
            self._part = None

    async def _was_renamed(self, session: FTPSession) -> bool:
        """Whether the session that broke under the renaming has done it."""
        if self._part is None or not self._renaming or await session.stat_or_none(self._part) is not None:
            return False
        there = await session.stat_or_none(self._remote)
        return there is not None and there.size == self.moved

    async def _check_size(self, session: FTPSession) -> None:
        there = await session.size(self._part or self._remote)
        wanted = self.moved
        if self._in_place:
            if there < self._first + wanted:
                raise TransferFailed(f"{self.target}: the server has only {there} bytes of it", lasting=True)
        elif there != wanted:
            raise TransferFailed(f"{self.target}: {wanted} bytes were sent, the server has {there}", lasting=True)

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

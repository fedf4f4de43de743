"""Uploads: bringing one file to the server.

How a file gets there without ever being partial under its name:

- one piece, to our own servers: one STOR, which the server makes atomic;
- several pieces, or any other server: a hidden part name in the target's directory, checked, then renamed;
- -B with p, and devices such as /dev/null: in place, as asked for.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import trio

from uftp.client.data import Send
from uftp.client.dialect import Dialect
from uftp.client.session import FTPSession
from uftp.client.wording import printable
from uftp.errors import NotFound, Refused, TransferFailed, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.protocol.names import part_name
from uftp.streams import Meter, Outgoing, RateLimit
from uftp.transfer.journal import DoneRange, latest
from uftp.transfer.local import Source, local_error, source_fingerprint
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.results import CopyState
from uftp.transfer.task import FileTask
from uftp.transfer.verify import agrees

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
        absent: whether the name was looked for just now, and is free.
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
        absent: bool = False,
    ) -> None:
        super().__init__()
        self.source = source
        self.target = target
        self._path = path
        self._remote = remote
        self._info = info
        self._absent = absent
        self._options = options
        self._state = state
        self._dialect = dialect
        self._from: Source | None = None
        self._part: bytes | None = None
        self._fingerprint: bytes | None = None
        self._stored = False
        self._verified = False
        self._renaming = False
        self._begun = False  # something is in the part file
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
            raise local_error(error, self.source, "read it") from error

    async def prepare(self, session: FTPSession) -> None:
        if self._from is None:
            self._from = await trio.to_thread.run_sync(self._open)
        if self._from.size != self._size and self._options.byte_range is None:
            if self.ranged:
                raise self._changed()
            self.length = self._size = self._from.size
        if self._fingerprint is not None and self._from.fingerprint != self._fingerprint:
            raise self._changed()
        if self._in_place or self._device:
            return
        # A STOR gets its name when it is whole; what nothing has compared by then needs one of its own until it has.
        compared = not self._options.verify or (session.records is not None and session.records.options.digest)
        if compared and self._dialect.stores_atomically and not self.ranged and self.length is not None:
            return
        if self._info is None and not self._absent:
            self._info = await session.stat_or_none(self._remote)
        if self._info is not None and self._info.is_dir:
            raise Refused(f"{self.target}: a directory has this name")
        self._part = self._beside(self.part_name or part_name(secrets.token_bytes(8)))

    def _beside(self, name: bytes) -> bytes:
        directory, slash, _ = self._remote.rpartition(b"/")
        return directory + slash + name

    def _changed(self) -> TransferFailed:
        return TransferFailed(f"{self.source}: the file changed while it was copied; copy it again", lasting=True)

    @contextlib.contextmanager
    def _by_its_name(self) -> Iterator[None]:
        """Errors name the target: the part's name, which the session knows, says nothing to a person."""
        try:
            yield
        except UFTPError as error:
            if self._part is not None:
                error.args = (str(error).replace(printable(self._part), printable(self._remote)),)
            raise

    async def move(self, session: FTPSession, piece: Piece, meter: Meter) -> bytes:
        with self._by_its_name(), self.limit.share() if self.limit else contextlib.nullcontext() as limit:
            return await self._move(session, piece, meter, limit)

    async def _move(self, session: FTPSession, piece: Piece, meter: Meter, limit: RateLimit | None) -> bytes:
        assert self._from is not None  # noqa: S101 -- prepared before
        length = piece.length if self.ranged else self.length
        send = self._from.sender(self._first + piece.offset, length, limit)
        if self._in_place:
            if length != 0:
                offset = await self._place_in_target(session, self._first + piece.offset, length)
                return await self._store(session, self._remote, send, offset, length, meter)
            return b""
        self._stored = True
        if session.records is not None and session.records.options.digest and not self.ranged and not self._part:
            return await self._move_verified(session, send, length, meter)
        if self.ranged and length == 0:
            return b""
        offset = piece.offset if self.ranged else None
        if self._part is not None and self.ranged and self._begun:
            await self._check_part(session, self._part)
        digest = await self._store(session, self._part or self._remote, send, offset, length, meter)
        self._begun = True
        return digest

    async def _check_part(self, session: FTPSession, part: bytes) -> None:
        """A server writes a range into a file that is not there, too: what was in the one before would be missing."""
        if await session.stat_or_none(part) is None:
            raise TransferFailed(f"{self.target}: the unfinished file was removed while it was copied; copy it again")

    async def _store(
        self, session: FTPSession, path: bytes, send: Send, offset: int | None, length: int | None, meter: Meter
    ) -> bytes:
        if session.records is None:
            await session.store(path, send, offset=offset, length=length, meter=meter)
            return b""
        from uftp.client import record_moving

        given = record_moving.storage(session, path, send, total=length, offset=offset, meter=meter)
        await record_moving.run(session, given)
        return given.digest

    async def _move_verified(self, session: FTPSession, send: Send, length: int | None, meter: Meter) -> bytes:
        """The server compares the digest before it gives the name: nothing is left to be asked after it."""
        from uftp.client import record_moving

        assert self._from is not None  # noqa: S101 -- prepared before
        given = record_moving.storage(
            session, self._remote, send, total=length, meter=meter, keep=lambda: self._facts_of(self._from)
        )
        await record_moving.run(session, given)
        assert session.records is not None  # noqa: S101 -- the caller has looked
        self._verified = session.records.options.facts or not self._options.preserve
        return given.digest

    async def verify(self, session: FTPSession, piece: Piece) -> bool | None:
        if self._from is None or not self._from.parallel or self._device or piece.length is None:
            return None
        with self._by_its_name():
            here = self._first + piece.offset
            there = here if self._in_place else piece.offset
            length = piece.length if self.ranged or self.length is None else self.length
            return await agrees(
                session, self._part or self._remote, there, length, local=self._from.fd, local_offset=here
            )

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
                    raise local_error(error, self.source, "read it") from error

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
        if self.ranged and not self._in_place and not self._from.is_unchanged():
            raise self._changed()
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
        return there is not None and there.size == (self.length if self.ranged else self.moved)

    async def _check_size(self, session: FTPSession) -> None:
        there = await session.size(self._part or self._remote)
        wanted = self.length if self.ranged and self.length is not None else self.moved
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

    def leave(self) -> None:
        self._part = None
        self.discard()

    async def clean(self, session: FTPSession) -> None:
        if self._part is not None:
            await self._delete(session, self._part)
            self._part = None

    async def _delete(self, session: FTPSession, path: bytes) -> None:
        with contextlib.suppress(NotFound):
            await session.delete(path)

    # -- going on with it later -------------------------------------------------------------------------------------

    @property
    def can_be_kept(self) -> bool:
        whole = self._options.byte_range is None and self.length is not None
        return whole and self.splittable and not self._device and self._path != STANDARD_INPUT_NAME

    def identity(self) -> bytes | None:
        if self._options.byte_range is not None:
            return None
        if self._from is not None:
            return None if self._from.size is None else b"%d %d" % (self._from.size, self._from.mtime_ns)
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return b"%d %d" % (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None

    def place(self) -> bytes:
        return self._remote

    async def fingerprint(self, session: FTPSession) -> bytes:
        try:
            found = await trio.to_thread.run_sync(os.stat, self._path)
        except OSError as error:
            raise local_error(error, self.source, "read it") from error
        self._fingerprint = source_fingerprint(found)
        return self._fingerprint

    async def is_there(self, session: FTPSession, done_at: int) -> bool:
        # The server's clock is another one, so that only contents tell, or times that the copy itself has set.
        there = await session.stat_or_none(self._remote)
        if there is None or there.is_dir or there.size != self.length:
            return False
        source = await trio.to_thread.run_sync(self._open)
        try:
            if self._options.preserve and there.mtime_ns == source.mtime_ns:
                return True
            return await agrees(session, self._remote, 0, there.size, local=source.fd) is True
        finally:
            source.close()

    async def holds(self, session: FTPSession, part: bytes, ranges: Sequence[DoneRange]) -> bool:
        there = await session.stat_or_none(self._beside(part))
        if there is None or there.size < max(done.offset + done.length for done in ranges):
            return False
        source = await trio.to_thread.run_sync(self._open)
        try:
            for done in latest(ranges):
                if not await self._has(session, self._beside(part), done, source):
                    return False
        finally:
            source.close()
        self._begun = True
        return True

    async def _has(self, session: FTPSession, path: bytes, done: DoneRange, source: Source) -> bool:
        if done.digest and "BLAKE3" in session.dialect.features.hash_algorithms:
            found = await session.checksum(path, "BLAKE3", offset=done.offset, length=done.length)
            return found.digest == done.digest.hex()
        return await agrees(session, path, done.offset, done.length, local=source.fd) is True

    async def adopt(self, session: FTPSession, part: bytes) -> int:
        there = self._info or await session.stat_or_none(self._remote)
        if there is None or there.is_dir or not there.size or self.length is None or there.size > self.length:
            return 0
        source = await trio.to_thread.run_sync(self._open)
        try:
            if await agrees(session, self._remote, 0, there.size, local=source.fd) is not True:
                return 0
        finally:
            source.close()
        await session.rename(self._remote, self._beside(part))
        self._begun = True
        return there.size

    async def remove_part(self, session: FTPSession, part: bytes) -> None:
        await self._delete(session, self._beside(part))

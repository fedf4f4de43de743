"""Downloads: bringing one file from the server."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from uftp.client.data import Receive
from uftp.client.session import FTPSession
from uftp.client.wording import printable
from uftp.errors import LocalFileError, TransferFailed, UsageError
from uftp.protocol.facts import FileInfo
from uftp.streams import Incoming, Meter, hash_file
from uftp.transfer.journal import DoneRange, latest
from uftp.transfer.local import ExistingFile, NewFile, Stream, Target, local_error
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.task import FileTask
from uftp.transfer.verify import agrees

if TYPE_CHECKING:
    from uftp.client.record_transfers import Retrieval, Transfer


class OpenTarget(Protocol):
    """Opens the target of a download, in a thread; `part` as for `uftp.transfer.local.NewFile`."""

    def __call__(self, part: bytes | None = None) -> Target: ...


class Download(FileTask):
    """One file from the server.

    Args:
        path: in the session.
        info: its facts.
        options: what is asked for.
        open_it: opens the target, in a thread.
        source, target: for messages and results.
        place: path of the target; by default `target` is it.
        ranges: whether the server moves parts of files.
        looked: whether `info` is from a look at this file alone, just now.

    Attributes:
        special: whether the target is a pipe or a device.
    """

    def __init__(
        self,
        path: bytes,
        info: FileInfo,
        options: CopyOptions,
        open_it: OpenTarget,
        *,
        source: str,
        target: str,
        place: bytes | None = None,
        ranges: bool,
        looked: bool = False,
    ) -> None:
        super().__init__()
        self.source = source
        self.target = target
        self._place = place
        self._path = path
        self._info = info
        self._options = options
        self._open = open_it
        self._to: Target | None = None
        self._before: FileInfo | None = None
        self._looked = looked
        size = None if _is_endless(path, info) else info.size
        self._first = 0
        self.length: int | None = info.size
        if options.byte_range is not None:
            self._first, self.length = options.byte_range.within(size)
        elif size is None:
            raise UsageError(f"{self.source}: has no end; say how much of it with -B, as -B 0-1g")
        self._whole = options.byte_range is None
        self.splittable = ranges
        self.special = False

    async def prepare(self, session: FTPSession) -> None:
        if self._whole and self.ranged and self._before is None:
            await self._look_before(session)
        self.discard()
        try:
            # The other end of a named pipe may never be opened; of a file, an abandoned thread could leave a part.
            self._to = await trio.to_thread.run_sync(self._open, self.part_name, abandon_on_cancel=self.special)
        except OSError as error:
            raise local_error(error, self.target, "write there") from error

    async def _look_before(self, session: FTPSession) -> FileInfo:
        """Asked as it is at the end, so that any change between is seen; listings may be older and less precise."""
        self._before = found = self._info if self._looked else await session.stat(self._path)
        self._looked = False
        if found.size != self.length:
            raise self._changed()
        return found

    async def move(self, session: FTPSession, piece: Piece, meter: Meter) -> bytes:
        assert self._to is not None  # noqa: S101 -- prepared before
        byte_range = self._options.byte_range
        into = piece.offset + (self._first if byte_range is not None and byte_range.in_place else 0)
        try:
            with self.limit.share() if self.limit else contextlib.nullcontext() as limit:
                return await self._retrieve(session, piece, self._to.receiver(into, limit), meter)
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

    async def _retrieve(self, session: FTPSession, piece: Piece, receive: Receive, meter: Meter) -> bytes:
        if self._whole and not self.ranged:
            # What the server announces counts: a file may have grown since it was listed.
            if session.records is None:
                self.length = await session.retrieve(self._path, receive, expected=self.length, meter=meter)
                return b""
            return await self._retrieve_records(session, receive, meter, whole=True)
        if not piece.length:
            return b""
        offset = self._first + piece.offset
        if session.records is None:
            await session.retrieve(self._path, receive, offset=offset, length=piece.length, meter=meter)
            return b""
        return await self._retrieve_records(session, receive, meter, offset=offset, length=piece.length)

    async def _retrieve_records(
        self,
        session: FTPSession,
        receive: Receive,
        meter: Meter,
        *,
        offset: int = 0,
        length: int | None = None,
        whole: bool = False,
    ) -> bytes:
        from uftp.client import record_moving

        wanted = record_moving.retrieval(session, self._path, receive, offset=offset, length=length, meter=meter)
        await record_moving.run(session, wanted)
        if whole:
            self._take_facts(session, wanted)
        return wanted.digest

    async def verify(self, session: FTPSession, piece: Piece) -> bool | None:
        if not isinstance(self._to, NewFile | ExistingFile) or self.length is None:
            return None
        length = piece.length if self.ranged or not self._whole else self.length
        if length is None:
            return None
        there = self._first + piece.offset
        byte_range = self._options.byte_range
        here = there if byte_range is not None and byte_range.in_place else piece.offset
        return await agrees(session, self._path, there, length, local=self._to.fd, local_offset=here)

    def may_move_again(self) -> bool:
        """A pipe cannot take back what was written; a file begun anew is opened anew, as it may be shorter now."""
        if isinstance(self._to, Stream):
            return not self._to.used
        if not self.ranged and self.pieces == 1:
            self.prepared = False
        return True

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
        return TransferFailed(
            f"{printable(self._path)}: the file changed while it was copied; copy it again", lasting=True
        )

    def discard(self) -> None:
        if self._to is not None:
            self._to.discard()

    async def clean(self, session: FTPSession) -> None:
        """Nothing: a download leaves no trace on the server."""

    # -- going on with it later -------------------------------------------------------------------------------------

    @property
    def can_be_kept(self) -> bool:
        return self._whole and self.splittable and not self.special and self.length is not None

    def identity(self) -> bytes | None:
        if not self._whole:
            return None
        return b"%d %d" % (self._info.size, self._info.mtime_ns or 0)

    def place(self) -> bytes:
        return os.path.abspath(os.fsencode(self.target)) if self._place is None else self._place

    async def fingerprint(self, session: FTPSession) -> bytes:
        found = await self._look_before(session)
        return b"%d %d" % (found.size, found.mtime_ns or 0)

    async def is_there(self, session: FTPSession, done_at: int) -> bool:
        def look() -> bool:
            try:
                found = os.stat(self.place())
            except OSError:
                return False
            if not stat.S_ISREG(found.st_mode) or found.st_size != self.length:
                return False
            return found.st_ctime_ns <= done_at or (self._options.preserve and found.st_mtime_ns == self._info.mtime_ns)

        return await trio.to_thread.run_sync(look)

    async def holds(self, session: FTPSession, part: bytes, ranges: Sequence[DoneRange]) -> bool:
        target = await self._open_part(part)
        if target is None:
            return False
        try:
            if os.fstat(target.fd).st_size < max(done.offset + done.length for done in ranges):
                return False
            for done in latest(ranges):
                if not await self._has(session, target.fd, done):
                    return False
        finally:
            target.leave()
        return True

    async def _open_part(self, part: bytes) -> NewFile | None:
        try:
            target = await trio.to_thread.run_sync(self._open, part)
        except OSError as error:
            raise local_error(error, self.target, "write there") from error
        if isinstance(target, NewFile):
            return target
        target.discard()
        return None

    async def _has(self, session: FTPSession, fd: int, done: DoneRange) -> bool:
        if not done.digest:
            return await agrees(session, self._path, done.offset, done.length, local=fd) is True
        try:
            found = await trio.to_thread.run_sync(hash_file, fd, done.offset, done.length, "BLAKE3")
        except OSError as error:
            raise local_error(error, self.target, "read what is there of it") from error
        return found == done.digest.hex()

    async def adopt(self, session: FTPSession, part: bytes) -> int:
        def open_old() -> int:
            return os.open(self.place(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

        try:
            old = await trio.to_thread.run_sync(open_old)
        except OSError:
            return 0
        try:
            found = os.fstat(old)
            if not stat.S_ISREG(found.st_mode) or not found.st_size or found.st_size > (self.length or 0):
                return 0
            if await agrees(session, self._path, 0, found.st_size, local=old) is not True:
                return 0
            target = await self._open_part(part)
            if target is None:
                return 0
            try:
                await trio.to_thread.run_sync(_copy_head, old, target.fd, found.st_size)
            except OSError as error:
                raise local_error(error, self.target, "copy what is there of it") from error
            finally:
                target.leave()
            return found.st_size
        finally:
            os.close(old)

    async def remove_part(self, session: FTPSession, part: bytes) -> None:
        target = await self._open_part(part)
        if target is not None:
            target.discard()

    def sync(self) -> None:
        if isinstance(self._to, NewFile):
            self._to.sync()

    def leave(self) -> None:
        if isinstance(self._to, NewFile):
            self._to.leave()
        else:
            self.discard()


def _copy_head(source: int, target: int, length: int) -> None:
    done = 0
    while done < length:
        count = os.copy_file_range(source, target, length - done, done, done)
        if count == 0:
            raise OSError(5, "the file became shorter")
        done += count


def _is_endless(path: bytes, info: FileInfo) -> bool:
    if info.mode is not None and stat.S_IFMT(info.mode):
        return stat.S_ISCHR(info.mode) and not path.endswith(b"/null")
    return path == b"/dev/zero"

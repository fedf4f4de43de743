"""Downloads: bringing one file from the server."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from uftp.client.data import Receive
from uftp.client.session import FTPSession
from uftp.client.wording import printable
from uftp.errors import LocalFileError, TransferFailed, UsageError
from uftp.protocol.facts import FileInfo
from uftp.streams import Incoming, Meter
from uftp.transfer.local import Stream, Target, local_error
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.task import FileTask

if TYPE_CHECKING:
    from uftp.client.record_transfers import Retrieval, Transfer

_DEVICES: Final = (b"/dev/zero", b"/dev/null")


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

    def may_move_again(self) -> bool:
        """A pipe cannot take back what was written; a file begun anew is opened anew, as it may be shorter now."""
        if isinstance(self._to, Stream):
            return not self._to.used
        if self.pieces == 1:
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


def _is_endless(path: bytes, info: FileInfo) -> bool:
    if info.mode is not None and stat.S_IFMT(info.mode):
        return stat.S_ISCHR(info.mode) and not path.endswith(b"/null")
    return path == b"/dev/zero"

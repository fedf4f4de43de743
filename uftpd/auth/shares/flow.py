"""One file at a time over a session of its own: a download in blocks as the client takes them, an upload as it comes.

Nothing is read from the node before the block before has been handed on, so a slow client holds one block here, and the
kernel's buffers do the rest. A flow that is left in its middle closes the session: what is still on its way would be
in front of the next file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import trio

from uftp.client.wording import printable, refusal, server_said
from uftp.errors import NetworkError, PeerBrokeProtocol, TimedOut, TransferFailed, UFTPError
from uftp.protocol import ProtocolError
from uftp.protocol.ranges import rang_command
from uftp.protocol.records import ABORT, END, MAX_RAW, pack_header, pack_trailer, parse_reason, unpack_trailer
from uftp.protocol.replies import Reply
from uftpd.auth.shares.announced import announced_length
from uftpd.auth.shares.channel import Channel

BLOCK: Final = 1024 * 1024
STALL_SECONDS: Final = 120.0  # the node may be silent for so long in the middle of a file: tape, a hanging file system
_SMALL_RECORD: Final = 256 * 1024
_EXPLANATION_SECONDS: Final = 5.0


class Flow:
    """See the module.

    Args:
        channel: nobody else uses it meanwhile.

    Attributes:
        session: for commands that move no data, between two transfers.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.session = channel.session

    @property
    def usable(self) -> bool:
        """Whether another transfer may follow."""
        return self._channel.usable

    def close(self) -> None:
        """End it, whatever is under way."""
        self._channel.close()

    async def open(self, path: bytes, offset: int, length: int) -> Download:
        """Begin to read a part of a file.

        Returns:
            The download; its first block can be waited for.

        Raises:
            NotFound, Refused: the node says no; the session goes on.
            TransferFailed: the file has no such part any more.
            NetworkError, PeerBrokeProtocol: the session is of no use.
        """
        line = b"RETR " + self.session.wire(path)
        number = self._channel.count()
        try:
            control = self.session.control
            async with control.dialogue():
                await control.send(rang_command(offset, length).encode() + b"\r\n" + line)
                ranged = await control.receive()
                reply = await control.receive()
                if ranged.code != 350 or reply.is_success:
                    raise PeerBrokeProtocol(f"{self.session.name}: {reply.code} {printable(reply.text)} to RETR")
                if not reply.is_preliminary:
                    raise refusal(reply, path, "read it")
            announced = announced_length(reply)
        except (NetworkError, PeerBrokeProtocol):
            self.close()
            raise
        except trio.Cancelled:
            self.close()
            raise
        if announced != length:
            self.close()
            raise TransferFailed(f"{printable(path)}: {length} bytes were due, the node has {announced}")
        return Download(self._channel, path, number, length)

    async def store(self, path: bytes, blocks: AsyncIterator[bytes], length: int | None) -> int:
        """Store a file; it has its name when this returns, and if it raises nothing is kept.

        Args:
            path: the file.
            blocks: its bytes; an error in it ends the upload.
            length: how many there will be; None if unknown.

        Returns:
            The bytes stored.

        Raises:
            NotFound, Refused: the node says no.
            TransferFailed: the node could not store it, or not all bytes came.
            NetworkError, PeerBrokeProtocol: the session is of no use.
        """
        number = self._channel.count()
        try:
            return await self._store(path, number, blocks, length)
        except BaseException:
            # In doubt about what the node still expects, the connection ends: it keeps nothing of a part.
            self.close()
            raise

    async def _store(self, path: bytes, number: int, blocks: AsyncIterator[bytes], length: int | None) -> int:
        control = self.session.control
        sent = 0
        line = b"STOR " + self.session.wire(path)
        async with control.dialogue():
            told = b"" if length is None else b"ALLO %d\r\n" % length
            await control.send(told + line)
            if told and not (allowed := await control.receive()).is_success:
                raise refusal(allowed, path, "store it")
            reply = await control.receive()
            if not reply.is_preliminary:
                raise refusal(reply, path, "store it")
            final: list[Reply | UFTPError] = []
            failure: list[Exception] = []
            async with trio.open_nursery() as nursery:

                async def listen() -> None:
                    # A failure is told while the bytes still come: a full disk, a quota.
                    try:
                        final.append(await control.receive(float("inf")))
                    except UFTPError as error:
                        final.append(error)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(listen)
                try:
                    sent = await self._send(path, number, blocks, length)
                    with trio.move_on_after(self.session.final_timeout):
                        await trio.sleep_forever()  # until the reply is in
                    raise TimedOut(f"{printable(path)}: the node does not say whether it stored the file")
                except Exception as error:
                    if not final:
                        failure.append(error)
                        # The node may be about to say why it takes no more.
                        if isinstance(error, NetworkError):
                            with trio.move_on_after(_EXPLANATION_SECONDS):
                                await trio.sleep_forever()
                    nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()
            if not final:
                raise failure[0] if failure else NetworkError(f"{self.session.name}: no reply")
            outcome = final[0]
            if isinstance(outcome, UFTPError):
                raise outcome
            if outcome.is_success and not failure:
                return sent
            if outcome.is_success:
                raise failure[0]
            if outcome.code in (550, 553):
                raise refusal(outcome, path, "store it")
            raise TransferFailed(f"{printable(path)}: {server_said(outcome)}", code=outcome.code)

    async def _send(self, path: bytes, number: int, blocks: AsyncIterator[bytes], length: int | None) -> int:
        channel = self._channel
        sent = 0
        async for block in blocks:
            view = memoryview(block)
            while view:
                part = view[:MAX_RAW]
                view = view[len(part) :]
                header = pack_header(0, len(part), number)
                with trio.fail_after(STALL_SECONDS):
                    if len(part) <= _SMALL_RECORD:
                        await channel.send_all(header + part)
                    else:
                        await channel.send_all(header)
                        await channel.send_all(part)
                sent += len(part)
        if length is not None and sent != length:
            raise TransferFailed(f"{printable(path)}: {sent} of {length} bytes came")
        trailer = pack_trailer(b"", None)
        await channel.send_all(pack_header(END, len(trailer), number) + trailer)
        return sent


class Download:
    """A part of a file, as it comes. `take` until `left` is 0, then `finish`."""

    def __init__(self, channel: Channel, path: bytes, number: int, length: int) -> None:
        self._channel = channel
        self._path = path
        self._number = number
        self._record = 0  # bytes of the record that are still to come
        self._last = False
        self._ended = False
        self.left = length

    async def take(self) -> bytes:
        """The next bytes, between one and `BLOCK`; `left` must not be 0.

        Raises:
            TransferFailed: the node gave up.
            NetworkError, PeerBrokeProtocol: the session is of no use.
        """
        try:
            while not self._record:
                await self._next_record()
            data = await self._receive(min(BLOCK, self._record, self.left))
        except BaseException:
            self._channel.close()
            raise
        self._record -= len(data)
        self.left -= len(data)
        return data

    async def finish(self) -> bytes:
        """All bytes are here: see that the node says so, too.

        Returns:
            The facts of the file that the node sends with its end.

        Raises:
            TransferFailed: it says that something went wrong.
            NetworkError, PeerBrokeProtocol: the session is of no use.
        """
        session = self._channel.session
        try:
            while not self._last:
                if self._record:
                    raise PeerBrokeProtocol(f"{session.name}: more bytes than were announced")
                await self._next_record()
            rest = b""
            while len(rest) < self._record:
                rest += await self._receive(self._record - len(rest))
            try:
                trailer = unpack_trailer(rest, facts=True, digest=False)
            except ProtocolError as error:
                raise PeerBrokeProtocol(f"{session.name}: {error}") from error
            if trailer.length != len(rest):
                raise PeerBrokeProtocol(f"{session.name}: more bytes than were announced")
            async with session.control.dialogue():
                reply = await session.control.receive(session.final_timeout)
            if not reply.is_success:
                raise TransferFailed(f"{printable(self._path)}: {server_said(reply)}", code=reply.code)
        except BaseException:
            self._channel.close()
            raise
        self._ended = True
        return trailer.facts or b""

    def close(self) -> None:
        """Leave it. In its middle that ends the session."""
        if not self._ended:
            self._channel.close()

    async def _receive(self, count: int) -> bytes:
        try:
            with trio.fail_after(STALL_SECONDS):
                return await self._channel.receive_some(count)
        except trio.TooSlowError:
            raise NetworkError(f"{self._channel.session.name}: no byte for {STALL_SECONDS:.0f} seconds") from None

    async def _next_record(self) -> None:
        if self._last:
            raise TransferFailed(f"{printable(self._path)}: the data ended early")
        with trio.fail_after(STALL_SECONDS):
            header = await self._channel.receive_header(self._number)
        self._record = header.length
        if header.flags & ABORT:
            reason = parse_reason(await self._channel.receive_exactly(header.length))
            raise TransferFailed(f"{printable(self._path)}: the node gave up: {reason}")
        self._last = bool(header.flags & END)

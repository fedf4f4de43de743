"""Transfers of an FTP session: data connections, RETR, STOR, APPE and listings.

A transfer has succeeded only if the bytes announced (by the server's 150 or by us) have moved *and* the final reply
is 2xx. Everything else raises; whoever gave the place to write to throws away what came.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from uftp.client.data import Receive, Send, connect_data, run_pump
from uftp.client.dialect import Dialect
from uftp.client.layers import safe_buffer_bytes
from uftp.client.wording import printable, refusal, server_said
from uftp.errors import (
    LocalFileError,
    NetworkError,
    PeerBrokeProtocol,
    Refused,
    TimedOut,
    TransferFailed,
    UFTPError,
)
from uftp.protocol import ProtocolError
from uftp.protocol.passive import parse_extended_passive, parse_passive
from uftp.protocol.ranges import OPEN_LENGTH, RESET_COMMAND, rang_command
from uftp.protocol.replies import Reply
from uftp.streams import (
    ConnectionBroken,
    Link,
    Meter,
    SourceEnded,
    Stalled,
    StreamError,
)

if TYPE_CHECKING:
    from uftp.client.session import FTPSession

# A million files with names of 200 bytes.
MAX_LISTING_BYTES: Final = 256 * 1024 * 1024
# How long a server may take to explain a data connection that broke.
_EXPLANATION_SECONDS: Final = 20.0

_ANNOUNCED = re.compile(r"OK (-?[0-9]{1,30}) bytes")


class DataPorts:
    """Opens the data connections of one session; remembers whether EPSV works there."""

    def __init__(self) -> None:
        self._extended = True

    async def open(self, session: FTPSession, prelude: list[bytes]) -> Link:
        """Send the lines of `prelude`, then EPSV (or PASV), and connect.

        UFTP servers take all lines in one go, which saves a round trip.

        Raises:
            Refused: the server says no to one of them.
            NetworkError, PeerBrokeProtocol: see there.
        """
        control = session.control
        several = [b"NOOP %d" % session.streams] if session.streams > 1 else []
        lines = [*prelude, *several, b"EPSV" if self._extended else b"PASV"]
        if session.dialect.is_uftp:
            replies = await control.commands(lines)
        else:
            replies = [await control.command(line) for line in lines]
        for line, reply in zip(prelude, replies, strict=False):
            if not (reply.is_success or reply.is_intermediate):
                raise refusal(reply, None, f"set {printable(line)}")
        streams = _granted(replies[-2], session.streams) if several else 1
        connections: list[socket.socket] = []
        try:
            # The server reads nothing until we have connected, so each port is asked for when the last one is used.
            connections.append(await self._connect(session, replies[-1]))
            while len(connections) < streams:
                reply = await control.command(b"EPSV" if self._extended else b"PASV")
                connections.append(await self._connect(session, reply))
        except BaseException:
            for connection in connections:
                connection.close()
            raise
        return Link(connections, session.layers, framed=streams > 1)

    async def _connect(self, session: FTPSession, reply: Reply) -> socket.socket:
        control = session.control
        try:
            host = control.socket.getpeername()[0]
        except OSError as error:  # reset by now
            raise NetworkError(f"{session.name}: the connection broke: {error.strerror}") from error
        family = control.socket.family
        if self._extended and reply.code != 229:
            # 522 is upstream's and our word for "no port free"; PASV would get none either.
            if reply.code in (421, 522) or family == socket.AF_INET6:
                raise refusal(reply, None, "open a data connection")
            self._extended = False
            reply = await control.command(b"PASV")
        if not self._extended and reply.code != 227:
            raise refusal(reply, None, "open a data connection")
        try:
            port = parse_extended_passive(reply) if self._extended else parse_passive(reply)[1]
        except ProtocolError as error:
            raise PeerBrokeProtocol(f"{control.name}: {error}") from error
        # The address in 227 is not looked at: it is wrong behind NAT, and could point at somebody else.
        return await connect_data(
            (host, port),
            family,
            connect_timeout=session.connect_timeout,
            stall_timeout=session.stall_timeout,
        )


def _granted(reply: Reply, wanted: int) -> int:
    """How many data connections the reply to `NOOP n` grants."""
    if reply.code == 222:
        return wanted
    match = re.match(r"Opening ([0-9]{1,4}) ", reply.text)
    if reply.code != 223 or not match:
        raise refusal(reply, None, "open several data connections")
    return max(1, min(wanted, int(match[1])))


def range_line(dialect: Dialect, offset: int, length: int | None) -> bytes:
    """The command that makes the next transfer move `length` bytes from `offset`.

    Raises:
        Refused: the server cannot.
    """
    if dialect.has_ranges:
        if dialect.range_end_is_inclusive and length is not None:
            return f"RANG {offset} {offset + length - 1}".encode()
        return rang_command(offset, length).encode()
    if dialect.has_restart:
        return b"REST %d" % offset
    raise Refused("the server cannot move parts of files")


@dataclass(frozen=True, slots=True)
class _Due:
    """What a RETR has to bring.

    Attributes:
        limit: most bytes to take; None until the end of the stream.
        required: bytes that must come; None if nobody knows.
        cut: the server would send more than is wanted, so the connection is cut and its complaint ignored.
    """

    limit: int | None
    required: int | None
    cut: bool = False


def _due(dialect: Dialect, reply: Reply, length: int | None, expected: int | None) -> _Due:
    match = _ANNOUNCED.search(reply.text) if dialect.is_uftp else None
    announced = int(match[1]) if match else None
    if announced is not None and announced >= OPEN_LENGTH:
        announced = None  # upstream repeats the open end of a range
    if length is not None:
        return _Due(length, length, cut=not dialect.has_ranges)
    if announced is not None:
        return _Due(max(0, announced), max(0, announced))
    return _Due(None, expected)


async def retrieve(
    session: FTPSession,
    path: bytes,
    receive: Receive,
    *,
    offset: int,
    length: int | None,
    expected: int | None,
    meter: Meter,
) -> int:
    """Fetch `length` bytes of a file from `offset` on.

    Args:
        session: a usable session.
        path: the file.
        receive: takes the bytes, in a thread; its offsets are its own matter.
        offset: first byte.
        length: exactly so many bytes; None for all there are.
        expected: bytes due if the server does not say; None if unknown.
        meter: counts, and stops.

    Returns:
        Bytes received.

    Raises:
        NotFound, Refused: the server did not begin; nothing was received.
        TransferFailed: too few or too many bytes, or the server reports a failure.
        LocalFileError: `receive` could not write.
        TimedOut, NetworkError, PeerBrokeProtocol: see there; the session is closed.
    """
    prelude: list[bytes] = []
    if offset or length is not None:
        if session.dialect.has_ranges or offset:
            prelude = [range_line(session.dialect, offset, length)]
    elif session.dialect.kind == "upstream":
        prelude = [RESET_COMMAND.encode()]  # a failed transfer leaves its range behind
    line = b"RETR " + session.wire(path)
    start = meter.moved
    async with session.control.dialogue():
        link = await session.open_data(prelude)
        try:
            reply = await _begin(session, line, path, "read it")
            due = _due(session.dialect, reply, length, expected)

            def pump() -> bool:
                incoming = link.incoming()
                receive(incoming, due.limit, meter)
                got = meter.moved - start
                return due.cut or (due.limit is not None and got < due.limit) or incoming.finish()

            try:
                complete = await run_pump(link, meter, pump, sending=False)
            except (StreamError, OSError) as error:
                raise await _explain(session, link, path, meter.moved - start, error) from error
            except UFTPError as error:
                session.control.break_off(str(error))  # the final reply is not read
                raise
        finally:
            # Rejects what a sender still has in flight; for one that is done it makes no difference.
            link.close()
        final = await session.control.receive(session.final_timeout)
    moved = meter.moved - start
    if not final.is_success and not (due.cut and moved == due.required and final.code != 421):
        raise _failed(path, moved, server_said(final))
    if not complete:
        raise _failed(path, moved, "the server sent more than it had announced")
    if due.required is not None and moved != due.required:
        raise _failed(path, moved, f"{due.required} bytes were due; did the file change?")
    return moved


async def store(
    session: FTPSession,
    path: bytes,
    send: Send,
    *,
    length: int | None,
    offset: int | None,
    append: bool,
    meter: Meter,
) -> int:
    """Store bytes as a file, or into one.

    Args:
        session: a usable session.
        path: the file.
        send: sends the bytes, in a thread.
        length: how many it will send; None if that is not known.
        offset: None to replace the file; a number to write from there into a file, which is never cut.
        append: add to the file's end.
        meter: counts, and stops.

    Returns:
        Bytes sent.

    Raises:
        NotFound, Refused: the server did not begin.
        TransferFailed: not all was sent, or the server reports a failure. Part of it may be there.
        LocalFileError: `send` could not read.
        TimedOut, NetworkError, PeerBrokeProtocol: see there; the session is closed.
    """
    dialect = session.dialect
    prelude: list[bytes] = []
    if offset is not None:
        prelude = [range_line(dialect, offset, length)]
    elif dialect.is_uftp:
        if dialect.kind == "upstream":
            prelude = [RESET_COMMAND.encode()]
        if length is not None:
            prelude.append(b"ALLO %d" % length)
    if offset == 0 and not dialect.has_ranges:
        # REST 0 is no REST: the file would be cut.
        raise Refused(f"{printable(path)}: this server cannot write into the beginning of a file")
    if append and dialect.kind == "upstream":
        raise Refused(f"{printable(path)}: this server cannot append")
    line = (b"APPE " if append else b"STOR ") + session.wire(path)
    start = meter.moved
    async with session.control.dialogue():
        size = safe_buffer_bytes(session.layers, length, session.buffer_bytes) if dialect.kind == "upstream" else None
        if size is not None and (await session.control.command(b"OPTS BUFFER_SIZE %d" % size)).is_success:
            session.buffer_bytes = size
        link = await session.open_data(prelude)
        try:
            await _begin(session, line, path, "write it")

            def pump() -> None:
                outgoing = link.outgoing()
                send(outgoing, meter)
                if length is not None and meter.moved - start != length:
                    raise SourceEnded(f"{meter.moved - start} of {length} bytes could be read")
                outgoing.end()

            try:
                await run_pump(link, meter, pump, sending=True)
            except (StreamError, OSError) as error:
                raise await _explain(session, link, path, meter.moved - start, error) from error
            except UFTPError as error:
                session.control.break_off(str(error))  # the final reply is not read
                raise
            final = await session.control.receive(session.final_timeout)
        except BaseException:
            link.reset()
            raise
        link.close()
    moved = meter.moved - start
    if not final.is_success:
        raise _failed(path, moved, server_said(final))
    return moved


async def fetch_listing(session: FTPSession, line: bytes, path: bytes) -> bytes:
    """The text of a listing command; inside a dialogue.

    Raises:
        NotFound, Refused: the server did not begin.
        TransferFailed: it broke off.
    """
    meter = Meter()
    link = await session.open_data()
    listing = bytearray()

    def keep(block: memoryview) -> None:
        if len(listing) + len(block) > MAX_LISTING_BYTES:
            raise StreamError(f"more than {MAX_LISTING_BYTES} bytes")
        listing.extend(block)

    try:
        await _begin(session, line, path, "list it")

        def pump() -> None:
            incoming = link.incoming()
            incoming.to_chunks(keep, None, meter)
            incoming.finish()

        try:
            await run_pump(link, meter, pump, sending=False)
        except (StreamError, OSError) as error:
            raise await _explain(session, link, path, meter.moved, error) from error
    finally:
        link.close()
    final = await session.control.receive(session.final_timeout)
    if not final.is_success:
        raise _failed(path, meter.moved, server_said(final))
    return bytes(listing)


async def _begin(session: FTPSession, line: bytes, path: bytes, action: str) -> Reply:
    reply = await session.control.command(line)
    if reply.is_preliminary:
        return reply
    if reply.is_success:
        raise PeerBrokeProtocol(f"{session.name}: {reply.code} {printable(reply.text)} before any data")
    raise refusal(reply, path, action)


async def _explain(session: FTPSession, link: Link, path: bytes, moved: int, error: Exception) -> UFTPError:
    """The error for a pump that failed, with what the server says about it; a session in doubt is closed."""
    link.reset()
    if isinstance(error, Stalled):
        return TimedOut(
            f"{printable(path)}: no byte moved for {session.stall_timeout:.0f} seconds, after {moved} bytes"
        )
    said = ""
    try:
        final = await session.control.receive(_EXPLANATION_SECONDS)
        said = f"; {server_said(final)}"
    except (NetworkError, PeerBrokeProtocol) as trouble:
        session.control.break_off(str(trouble))
    if isinstance(error, ConnectionBroken):
        return _failed(path, moved, f"the data connection broke{said}")
    if isinstance(error, SourceEnded):
        return _failed(path, moved, f"the local file became shorter meanwhile: {error}")
    if isinstance(error, OSError):
        return LocalFileError(f"{printable(path)}: the local side failed: {error.strerror or error}")
    return _failed(path, moved, f"{printable(str(error))}{said}")


def _failed(path: bytes, moved: int, why: str) -> TransferFailed:
    return TransferFailed(f"{printable(path)}: the transfer failed after {moved} bytes: {why}")

"""The control connection: lines out, replies in, each wait with a deadline.

Whatever leaves the dialogue in doubt (a time-out, a cancellation, an end of stream, something that is no reply)
closes the connection for good: the next reply could be the answer to an older command.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, cast

import trio

from uftp.errors import (
    LocalFileError,
    NetworkError,
    NotFound,
    PeerBrokeProtocol,
    Refused,
    TimedOut,
    TransferFailed,
    UFTPError,
)
from uftp.protocol import ProtocolError
from uftp.protocol.replies import MAX_REPLY_LINE_BYTES, Reply, ReplyReader
from uftp.streams import enable_keepalive

logger = logging.getLogger("uftp.client")

_RECEIVE_BYTES: Final = 64 * 1024


class ControlConnection:
    """A connected control connection.

    Args:
        stream: the connection.
        name: host and port for messages.
        timeout: longest silence of the server while a reply is due, in seconds.
        host, port: what was connected to.

    Attributes:
        round_trip: seconds that the quickest reply to a command has taken; None before there was one.
        when_broken: called once when the connection is closed: what belongs to the session has to end with it.
    """

    def __init__(self, stream: trio.SocketStream, name: str, timeout: float, *, host: str = "", port: int = 0) -> None:
        self._stream = stream
        self._reader = ReplyReader()
        self.name = name
        self.host = host
        self.port = port
        self._timeout = timeout
        self._broken: str | None = None
        self.round_trip: float | None = None
        self.when_broken: Callable[[], None] | None = None
        with contextlib.suppress(OSError):
            enable_keepalive(cast("socket.socket", stream.socket))  # trio's has the two members it needs

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket, to ask for its addresses."""
        return self._stream.socket

    @property
    def usable(self) -> bool:
        """Whether the dialogue is in a known state."""
        return self._broken is None

    @property
    def why_broken(self) -> str:
        """Why it was closed; empty if it is open."""
        return self._broken or ""

    @contextlib.asynccontextmanager
    async def dialogue(self) -> AsyncIterator[None]:
        """Around every exchange: if it ends in anything but a clean reply, the connection is closed for good.

        Only errors that were raised with all replies read leave it open.
        """
        if self._broken is not None:
            raise NetworkError(f"{self.name}: the session is closed ({self._broken})")
        try:
            yield
        except (NotFound, Refused, TransferFailed, LocalFileError):
            raise
        except UFTPError as error:
            self.break_off(str(error))
            raise
        except BaseException:
            self.break_off("interrupted")
            raise

    def break_off(self, reason: str) -> None:
        """Close at once, without a word to the server."""
        if self._broken is None:
            self._broken = reason
            trio.lowlevel.notify_closing(self._stream.socket)
            self._stream.socket.close()
            if self.when_broken is not None:
                self.when_broken()

    async def send(self, line: bytes, *, shown: bytes | None = None) -> None:
        """Send a line, or several with line ends between them.

        Args:
            line: without line end.
            shown: what the log shows instead, for secrets.

        Raises:
            NetworkError, TimedOut: the connection is broken.
        """
        if logger.isEnabledFor(logging.DEBUG):
            for one in (line if shown is None else shown).split(b"\r\n"):
                logger.debug("> %s", one.decode("utf-8", "backslashreplace"))
        try:
            with trio.fail_after(self._timeout):
                await self._stream.send_all(line + b"\r\n")
        except trio.TooSlowError:
            raise TimedOut(f"{self.name}: the server takes no commands") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The server may have said why before it closed; the next read tells.
            pass

    async def receive(self, silence: float | None = None) -> Reply:
        """The next reply.

        Args:
            silence: longest in seconds, the connection's own by default. Lines that say "still busy" count
                as signs of life.

        Raises:
            TimedOut, NetworkError: nothing came, or the connection ended.
            PeerBrokeProtocol: something came that is no reply.
        """
        while (reply := self._next_reply()) is None:
            await self._fill(silence)
        return reply

    async def receive_some(self, silence: float | None = None) -> list[Reply]:
        """All replies that are here, at least one: what `receive` gives one by one, for commands sent ahead.

        Raises:
            TimedOut, NetworkError, PeerBrokeProtocol: as `receive`. After TimedOut it may be called again.
        """
        replies: list[Reply] = []
        while not replies:
            while (reply := self._next_reply()) is not None:
                replies.append(reply)
            if not replies:
                await self._fill(silence)
        return replies

    def _next_reply(self) -> Reply | None:
        try:
            reply = self._reader.next_reply()
        except ProtocolError as error:
            raise PeerBrokeProtocol(f"{self.name}: {error}; is this an FTP port?") from error
        if reply is not None and logger.isEnabledFor(logging.DEBUG):
            logger.debug("< %d %s", reply.code, reply.text.encode("utf-8", "backslashreplace").decode())
        return reply

    async def _fill(self, silence: float | None) -> None:
        """Take bytes until a line end is among them, or too many: single bytes could drip for ever."""
        silence = self._timeout if silence is None else silence
        deadline = trio.current_time() + silence
        data = b""
        taken = 0
        while b"\n" not in data and taken <= MAX_REPLY_LINE_BYTES:
            try:
                with trio.fail_at(deadline):
                    data = await self._stream.receive_some(_RECEIVE_BYTES)
            except trio.TooSlowError:
                raise TimedOut(f"{self.name}: no reply within {silence:.0f} seconds") from None
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise NetworkError(f"{self.name}: the connection broke") from error
            if not data:
                raise NetworkError(f"{self.name}: the server closed the connection")
            self._reader.receive_data(data)
            taken += len(data)

    async def command(self, line: bytes, *, silence: float | None = None, shown: bytes | None = None) -> Reply:
        """Send a line and wait for its reply."""
        began = trio.current_time()
        await self.send(line, shown=shown)
        reply = await self.receive(silence)
        took = trio.current_time() - began
        if self.round_trip is None or took < self.round_trip:
            self.round_trip = took
        return reply

    async def commands(self, lines: Sequence[bytes]) -> list[Reply]:
        """Send several lines in one go, to a server that takes them so, and wait for the reply to each."""
        await self.send(b"\r\n".join(lines))
        return [await self.receive() for _ in lines]

    async def aclose(self) -> None:
        """Close the connection; waits for nothing."""
        self.break_off("closed")
        await trio.lowlevel.checkpoint()


async def open_control(
    host: str,
    port: int,
    *,
    family: socket.AddressFamily = socket.AF_UNSPEC,
    connect_timeout: float,
    reply_timeout: float,
    name: str = "",
) -> ControlConnection:
    """Connect to a server, to all its addresses if need be.

    Args:
        host, port: the server.
        family: of the addresses.
        connect_timeout, reply_timeout: see `SessionOptions`.
        name: what messages call it; by default host and port.

    Raises:
        NetworkError, TimedOut: no connection.
    """
    name = name or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    try:
        with trio.fail_after(connect_timeout):
            stream = await _connect(host, port, family)
    except trio.TooSlowError:
        raise TimedOut(f"{name}: no connection within {connect_timeout:.0f} seconds; is a firewall between?") from None
    except socket.gaierror as error:
        only = {socket.AF_INET: " with an IPv4 address", socket.AF_INET6: " with an IPv6 address"}.get(family, "")
        raise NetworkError(f"{name}: no such host{only}; check the name") from error
    except OSError as error:
        raise NetworkError(f"{name}: cannot connect: {_reason(error)}") from error
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ControlConnection(stream, name, reply_timeout, host=host, port=port)


async def _connect(host: str, port: int, family: socket.AddressFamily) -> trio.SocketStream:
    if family == socket.AF_UNSPEC:
        return await trio.open_tcp_stream(host, port)
    addresses = await trio.socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    last: OSError = OSError("no address of this family")
    for found, kind, protocol, _, address in addresses:
        attempt = trio.socket.socket(found, kind, protocol)
        try:
            await attempt.connect(address)
        except OSError as error:
            attempt.close()
            last = error
        except BaseException:
            attempt.close()
            raise
        else:
            return trio.SocketStream(attempt)
    raise last


def _reason(error: BaseException) -> str:
    """The words of the system behind trio's "all attempts failed"."""
    inner: BaseException | None = error.__cause__
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    source = inner if isinstance(inner, OSError) else error
    return (source.strerror if isinstance(source, OSError) else None) or str(source)

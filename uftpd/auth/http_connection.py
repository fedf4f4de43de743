"""One HTTP connection: what hypercorn does, with bounds it has no settings for, and less work for each reply.

- Only HTTP/1.1, a place for each connection, and a time in which a peer has to take what it asked for.
- Status, headers and a small body leave with one system call. What hypercorn does for each request besides (a task for
  the idle timer, a send for every event) is more work than a small file is.
- A reply that breaks off in its middle ends the connection; where its end is all that marks the end of the body
  (HTTP/1.0), by a reset.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

import h11
import hypercorn.protocol
import hypercorn.trio.run
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState

from uftp.errors import NetworkError
from uftpd.auth.addresses import parse_address
from uftpd.auth.connections import Connections, TooManyConnections

OUTGOING: Final = "uftpd.outgoing"  # where the state of a scope has its `OutgoingBytes`
SEND_BYTES: Final = 64 * 1024  # a peer has `limits.idle_seconds` to take so much
_JOINED_BYTES: Final = 128 * 1024  # a body up to this size goes with its head

_Sendable = h11.Data | h11.EndOfMessage | h11.InformationalResponse | h11.Response


class BoundedConfig(Protocol):
    """What a configuration of hypercorn has beside its own settings."""

    connections: Connections
    any_address: Any


class _OnlyHttp11(H11Protocol):
    """HTTP/1.1 that stays HTTP/1.1.

    Hypercorn turns to HTTP/2 when a client begins with its preface or asks for an upgrade, whatever was agreed in TLS,
    and has no setting against it.
    """

    _head = b""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        connection = getattr(self.send, "__self__", None)
        if isinstance(connection, BoundedConnection):
            # Hypercorn has one state for all connections.
            self.connection_state = ConnectionState({**self.connection_state, OUTGOING: connection.outgoing})

    async def _check_protocol(self, event: object) -> None:
        pass

    async def _send_h11_event(self, event: _Sendable) -> None:
        try:
            data = self.connection.send(event) or b""
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._head = data  # waits for the first bytes of the body, or its end
            return
        if self._head:
            head, self._head = self._head, b""
            if len(data) > _JOINED_BYTES:
                await self.send(RawData(data=head))
            else:
                data = head + data
        if data:
            await self.send(RawData(data=data))

    @property
    def is_cut(self) -> bool:
        """Whether a reply has begun and not come to its end, and nothing but the end of the connection could tell."""
        return self.connection.our_state is h11.SEND_BODY and self.connection.their_http_version == b"1.0"


class _IdleTimer:
    """Closes a connection that waits too long for its next request; one task for all of them."""

    def __init__(self, connection: BoundedConnection) -> None:
        self._connection = connection
        self._scope: trio.CancelScope | None = None
        self._idle = True
        self._ended = False

    async def restart(self, task_group: Any, action: Callable[[], Awaitable[None]]) -> None:
        """The connection is idle from now on."""
        self._idle = True
        if self._ended:
            return
        if self._scope is None:
            self._scope = trio.CancelScope()
            task_group.spawn(self._run, self._scope)
        self._scope.deadline = trio.current_time() + self._connection.config.keep_alive_timeout
        if self._connection.context.terminated.is_set():
            self._scope.cancel()

    async def stop(self) -> None:
        """A request has come."""
        self._idle = False
        if self._scope is not None:
            self._scope.deadline = float("inf")

    def end(self) -> None:
        """The connection has ended."""
        self._ended = True
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._connection.context.terminated.wait()
            if not self._idle:
                await trio.sleep_forever()  # the request that runs may end; `restart` sees that it was the last
        if not self._ended:
            self._ended = True
            with trio.CancelScope(shield=True):
                await self._connection.close_from_here()


class OutgoingBytes:
    """What of a reply is still on its way, as the kernel knows it.

    Args:
        connection: the socket.
        seconds: longest time in which the peer may take nothing.
    """

    def __init__(self, connection: trio.socket.SocketType, seconds: Callable[[], float]) -> None:
        self._connection = connection
        self._seconds = seconds

    def waiting(self) -> int:
        """Bytes that the peer's system has not confirmed."""
        try:
            found = fcntl.ioctl(self._connection.fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError):
            return 1  # closed: nobody knows
        return int.from_bytes(found, sys.byteorder)

    async def wait_taken(self) -> None:
        """Wait until there are none.

        Raises:
            NetworkError: the peer takes nothing more.
        """
        pause, before, since = 0.001, -1, trio.current_time()
        while left := self.waiting():
            if left != before:
                before, since = left, trio.current_time()
            elif trio.current_time() > since + self._seconds():
                raise NetworkError("the client took nothing more")
            await trio.sleep(pause)
            pause = min(2 * pause, 0.1)


class BoundedConnection(TCPServer):
    """A connection there is a place for, and whose peer has to take what it asked for.

    Hypercorn lets no time limit and no shutdown end a write: a peer that stops reading would keep its connection, and
    its place among the requests served at once, for ever.
    """

    async def run(self) -> None:
        plain = self._plain
        self.idle_task = cast("Any", _IdleTimer(self))
        self.outgoing = OutgoingBytes(plain.socket, lambda: self.config.keep_alive_timeout)
        config = cast("BoundedConfig", self.config)
        try:
            peer = parse_address(plain.socket.getpeername()[0])
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with config.connections.place(peer or config.any_address):
                await super().run()
        except (OSError, TooManyConnections):
            await trio.aclose_forcefully(plain)

    @property
    def _plain(self) -> trio.SocketStream:
        return self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream

    async def close_from_here(self) -> None:
        """Close the connection, as at the end of an idle time."""
        await self._initiate_server_close()

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            cast("_IdleTimer", self.idle_task).end()

    async def _close(self) -> None:
        protocol = getattr(self, "protocol", None)
        inner = getattr(protocol, "protocol", None)
        if isinstance(inner, _OnlyHttp11) and inner.is_cut:
            with contextlib.suppress(OSError):
                self._plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(self._plain)
            return
        await super()._close()

    async def protocol_send(self, event: object) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)  # type: ignore[arg-type]  # whatever hypercorn hands on
            return
        try:
            self.send_lock.acquire_nowait()
        except trio.WouldBlock:
            await self.send_lock.acquire()
        try:
            await self._send(memoryview(event.data))
            return
        except trio.TooSlowError:
            await trio.aclose_forcefully(self.stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        except trio.Cancelled:
            # Half of it may be on its way: whatever came next would be read as its rest.
            await trio.aclose_forcefully(self._plain)
            raise
        finally:
            self.send_lock.release()
        await self.protocol.handle(Closed())

    async def _send(self, data: memoryview) -> None:
        # Piece by piece, so that a large reply has no less time than a small one.
        seconds = self.config.keep_alive_timeout
        stream: trio.SSLStream[trio.SocketStream] | trio.SocketStream = self.stream
        while data:
            with trio.fail_after(seconds):
                if isinstance(stream, trio.SocketStream):
                    sent = await stream.socket.send(data)
                else:
                    sent = min(len(data), SEND_BYTES)
                    await stream.send_all(data[:sent])
            data = data[sent:]


def install() -> None:
    """Have hypercorn use these; it has no setting for that."""
    hypercorn.protocol.H11Protocol = _OnlyHttp11  # type: ignore[attr-defined]
    hypercorn.trio.run.TCPServer = BoundedConnection  # type: ignore[attr-defined]

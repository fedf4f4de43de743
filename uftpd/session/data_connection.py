"""Data connections of a session: passive ports, who may connect, and the connections in use (DATA-PLANE section 6).

A listener lives only while its client has yet to connect. Strangers that reach it are turned away and it waits on.
Commands are read meanwhile; a transfer waits for the connection when it needs it.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from uftp.protocol.command_port import plain_address
from uftp.streams import NO_LAYERS, Link, enable_keepalive

_BACKLOG: Final = 16  # strangers queue up here while the right client is on its way
_MOST_GREETING: Final = 16  # connections that have yet to prove whose they are; the oldest gives way to the next
Greeter = Callable[[trio.socket.SocketType], Awaitable[bytes]]
_DRAIN_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 0.1


class NoDataConnection(Exception):
    """There is no data connection, or the client did not make it in time."""


class NoFreePort(Exception):
    """Every port of the range was in use for as long as EPSV may wait."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """How data connections are made.

    Attributes:
        local: address to listen on, that of the control connection.
        peer: address clients must come from.
        advertise: IPv4 address for PASV replies, empty for `local`.
        port_range: for people, empty if any port will do.
        port_wait_seconds: how long a free port of the range may take.
        connect_seconds: how long a client may take to connect.
    """

    local: str
    peer: str
    advertise: str
    port_range: str
    port_wait_seconds: float
    connect_seconds: float


class DataConnections:
    """See the module.

    Args:
        settings: how.
        nursery: lives as long as the session; accepting runs in it.
        want_port: gets a port of the range, 0 if none came free; unused without a range.
        return_port: hands it back.

    Attributes:
        greeter: checks what a new connection says first (MODE U's hello). It returns the connection's nonce, empty for
            one that is not the client's. None where the address is all there is to check.
        nonce: what `greeter` has returned for the connection in use.
        layers: on all connections of transfers outside MODE U.
    """

    def __init__(
        self,
        settings: DataSettings,
        nursery: trio.Nursery,
        want_port: Callable[[], Awaitable[int]],
        return_port: Callable[[int, bool], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._nursery = nursery
        self._want_port = want_port
        self._asking = trio.CancelScope()
        self._nobody = False
        self._return_port = return_port
        self._local = _plain_text(settings.local)
        self._peer = _plain_text(settings.peer).partition("%")[0]
        self._slots: list[_Slot] = []
        self._wanted = 1
        self.layers = NO_LAYERS
        self.greeter: Greeter | None = None
        self.nonce = b""

    @property
    def is_accepting(self) -> bool:
        """Whether the client is expected to connect."""
        return any(slot.is_accepting for slot in self._slots)

    @property
    def connection(self) -> socket.socket | None:
        """The connection the client has made, the first of several. It stays in this object's care."""
        return self._slots[0].connection if self._slots else None

    async def settled(self) -> None:
        """Wait until the client has connected, or will not."""
        for slot in list(self._slots):
            await slot.done.wait()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, or a client is expected to make one."""
        return any(slot.is_accepting or slot.connection is not None for slot in self._slots)

    @property
    def wanted(self) -> int:
        """How many connections the next transfer has."""
        return self._wanted

    def want(self, count: int) -> None:
        """Close what is open; the next transfer has `count` connections, each asked for by `listen`.

        One that is open, or waited for, stays where one is wanted, as before: upstream nodes that copy from or to this
        one ask for it before they say how many they want (DATA-PLANE 12). Left from earlier, `listen` closes it.
        """
        if count == self._wanted == len(self._slots) == 1:
            return
        self.give_up()
        self._wanted = count

    @property
    def passive_address(self) -> str | None:
        """The IPv4 address for a PASV reply, None where the control connection is real IPv6."""
        if self._settings.advertise:
            return self._settings.advertise
        return None if ":" in self._local else self._local

    async def listen(self) -> int:
        """Wait for the client on a new port. As many connections as wanted are closed first, and one is wanted then.

        Returns:
            The port.

        Raises:
            NoFreePort: none in the range came free.
        """
        if len(self._slots) >= self._wanted:
            await self.close()
        listener, leased = await self._bind()
        slot = _Slot(listener, leased)
        self._slots.append(slot)
        self._nursery.start_soon(self._accept, slot)
        return int(listener.getsockname()[1])

    async def _bind(self) -> tuple[trio.socket.SocketType, int]:
        if not self._settings.port_range:
            return _listener(self._local, 0), 0
        # The front ends each wait; this ends a row of ports that other programs turn out to hold.
        deadline = trio.current_time() + self._settings.port_wait_seconds
        while port := await self._ask_for_port():
            try:
                return _listener(self._local, port), port
            except OSError as error:
                await self._return_port(port, error.errno == errno.EADDRINUSE)
                if error.errno != errno.EADDRINUSE:
                    raise
                if trio.current_time() >= deadline:
                    break
        raise NoFreePort(f"No free port in the range {self._settings.port_range}")

    async def _ask_for_port(self) -> int:
        with trio.CancelScope() as self._asking:
            return 0 if self._nobody else await self._want_port()
        return 0

    def ask_no_more(self) -> None:
        """Nobody is left who could use a port: wait for none, now and later."""
        self._nobody = True
        self._asking.cancel()

    async def _accept(self, slot: _Slot) -> None:
        try:
            with trio.move_on_after(self._settings.connect_seconds), slot.scope:
                async with trio.open_nursery() as greetings:
                    while slot.connection is None:
                        try:
                            connection, address = await slot.listener.accept()
                        except OSError:  # out of descriptors or memory, mostly; it may pass
                            await trio.sleep(_RETRY_SECONDS)
                            continue
                        ours = _plain_text(address[0]).partition("%")[0] == self._peer
                        if not ours or slot.scope.cancel_called:
                            connection.close()
                        elif self.greeter is None:
                            slot.take(connection)
                        else:
                            # Side by side: one that says nothing must not keep the client waiting.
                            slot.make_room()
                            greetings.start_soon(self._greet, self.greeter, connection, slot, greetings)
        finally:
            slot.listener.close()
            slot.done.set()
            if slot.leased:
                with trio.CancelScope(shield=True), trio.move_on_after(5):
                    await self._return_port(slot.leased, False)

    async def _greet(
        self,
        greeter: Greeter,
        connection: trio.socket.SocketType,
        slot: _Slot,
        greetings: trio.Nursery,
    ) -> None:
        nonce = b""
        ours = False
        scope = trio.CancelScope()
        slot.greeting.append(scope)
        try:
            with scope:
                nonce = await greeter(connection)
            # Meanwhile another may have proved to be the client's, or nobody wants one any more.
            ours = bool(nonce) and slot.connection is None and not slot.scope.cancel_called
        finally:
            slot.greeting.remove(scope)
            if not ours:
                connection.close()
        if ours and slot.take(connection):
            self.nonce = nonce
            greetings.cancel_scope.cancel()

    async def link(self, stall_seconds: float) -> Link:
        """The connections, once the client has made them, fit for a pump. They stay in this object's care.

        Args:
            stall_seconds: longest wait for the client to move a byte.

        Raises:
            NoDataConnection: none was asked for, or not all came.
        """
        await self.settled()
        connections = [slot.connection for slot in self._slots if slot.connection is not None]
        if not connections:
            raise NoDataConnection("no data connection")
        if len(connections) != self._wanted:
            raise NoDataConnection(f"{len(connections)} of {self._wanted} data connections")
        link = Link(connections, self.layers, framed=self._wanted > 1)
        link.prepare(stall_seconds)
        return link

    async def close(self) -> None:
        """Close the connections and stop listening."""
        slots, self._slots, self._wanted = self._slots, [], 1
        for slot in slots:
            slot.scope.cancel()
        for slot in slots:
            await slot.done.wait()
            if slot.connection is not None:
                slot.connection.close()

    def finish(self, *, drain: bool) -> None:
        """End the connections after a transfer. The next one has a single connection, unless `want` says otherwise.

        Args:
            drain: the peer may still be sending; closing at once would reset the connection before it has read the
                end of ours.
        """
        connections = [slot.connection for slot in self._slots if slot.connection is not None]
        self._slots = [slot for slot in self._slots if slot.is_accepting]
        self._wanted = 1
        for connection in connections:
            if drain:
                self._nursery.start_soon(_drain, connection)
            else:
                connection.close()

    def give_up(self) -> None:
        """Close the connections, or wait no longer for the client to make them: the ports may serve others."""
        for slot in self._slots:
            slot.scope.cancel()
        self.finish(drain=False)
        self._slots = []

    def break_off(self) -> None:
        """Make every pump on the connections stop at once. They are of no use after."""
        for slot in self._slots:
            try:
                if slot.connection is not None:
                    slot.connection.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                if error.errno not in (errno.ENOTCONN, errno.EBADF):  # a pump's thread may just have closed it
                    raise


def _plain_text(address: str) -> str:
    """The address in its one form, IPv4 where it is mapped into IPv6."""
    return str(plain_address(ipaddress.ip_address(address)))


class _Slot:
    """One port that the client was told, and the connection it makes there."""

    def __init__(self, listener: trio.socket.SocketType, leased: int) -> None:
        self.listener = listener
        self.leased = leased
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.greeting: list[trio.CancelScope] = []
        self.connection: socket.socket | None = None

    @property
    def is_accepting(self) -> bool:
        """Whether the client may still come."""
        return self.connection is None and not self.done.is_set()

    def take(self, connection: trio.socket.SocketType) -> bool:
        """Whether it could be taken."""
        with contextlib.suppress(OSError):  # reset by now; the client may come again
            self.connection = _plain_socket(connection)
            return True
        return False

    def make_room(self) -> None:
        """For one more connection to be greeted."""
        if len(self.greeting) >= _MOST_GREETING:
            self.greeting[0].cancel()


def _listener(address: str, port: int) -> trio.socket.SocketType:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of other sessions on this port, closed or not, must not keep us from listening on it again.
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plain.bind((address, port))
        plain.listen(_BACKLOG)
        return trio.socket.from_stdlib_socket(plain)
    except BaseException:
        plain.close()
        raise


def _plain_socket(connection: trio.socket.SocketType) -> socket.socket:
    plain = socket.socket(fileno=connection.detach())
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        enable_keepalive(plain)
    except OSError:
        plain.close()
        raise
    return plain


async def _drain(connection: socket.socket) -> None:
    """Read and drop what the peer still sends, briefly, and close."""
    connection.setblocking(False)
    waiting = trio.socket.from_stdlib_socket(connection)
    try:
        with trio.move_on_after(_DRAIN_SECONDS):
            waiting.shutdown(socket.SHUT_WR)
            while await waiting.recv(65536):
                pass
    except OSError:
        pass  # the peer reset it: as good as closed
    finally:
        waiting.close()

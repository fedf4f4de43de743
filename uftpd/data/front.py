"""The front: accepts clients and auth servers, proves logins, and hands them to sessions (DESIGN: data node).

Runs without privilege, under trio. It parses what comes from the network before login and has no right to any user's
files. It ends when the spawner does.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import resource
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from uftp._version import __version__
from uftp.protocol import LineTooLong
from uftp.protocol.command_port import IPAddress, Purpose, plain_address
from uftp.protocol.lines import LineReader
from uftp.protocol.replies import Reply, greeting, reply
from uftp.streams import enable_keepalive
from uftpd.config.data import DataConfig, checked
from uftpd.config.toml import ConfigError, load
from uftpd.data.acl import AccessList, server_context
from uftpd.data.children import SessionRefused
from uftpd.data.command_server import CommandServer
from uftpd.data.copies import site_features
from uftpd.data.ledger import Ledger, LoginError
from uftpd.data.login import Attempt, LoginDialogue
from uftpd.data.objects import ObjectFront, object_url
from uftpd.data.rights import become_service_user
from uftpd.data.sessions import Arrival, Sessions
from uftpd.events import EventLog, configure
from uftpd.peers import fetch_authorities

_log = EventLog("front")


@dataclass(frozen=True, slots=True)
class ObjectSockets:
    """What the object server listens on.

    Attributes:
        plain: for HTTP.
        tls: for HTTPS; relays accept there.
        relayed: brings what relays have decrypted; None without HTTPS.
    """

    plain: Sequence[socket.socket] = ()
    tls: Sequence[socket.socket] = ()
    relayed: socket.socket | None = None


_Handler = Callable[[trio.SocketStream], Awaitable[None]]

_SWEEP_SECONDS: Final = 5.0
_MAX_PIPELINED: Final = 64 * 1024  # bytes behind the password that are handed on with the connection
_CLOSING_SECONDS: Final = 2.0
_TOO_MANY: Final = reply(421, "Too many connections that have not logged in, try again later")


def run(
    config: DataConfig,
    config_path: Path | None,
    spawner: socket.socket,
    ftp_listeners: Sequence[socket.socket],
    command_listeners: Sequence[socket.socket],
    objects: ObjectSockets,
    ready: Callable[[], None],
) -> None:
    """Be the front process, until the spawner says so or is gone."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    tls, acl = _command_port_tls(config)
    authorities = fetch_authorities(config.copies)
    own_user = None if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    become_service_user(config)
    front = Front(config, config_path, spawner, tls, acl, own_user, authorities)
    trio.run(front.serve, ftp_listeners, command_listeners, objects, ready)


def _command_port_tls(config: DataConfig) -> tuple[ssl.SSLContext | None, AccessList | None]:
    """Read with the rights the service was started with: the key need not be the service user's."""
    port = config.command_port
    if port.plain:
        return None, None
    if port.acl is None:
        raise ConfigError("command_port.acl: required for TLS")
    return server_context(port), AccessList(port.acl, subset=port.acl_subset)


class Front:
    """See the module.

    Args:
        config: settings.
        config_path: the file they are from, None if there is none.
        spawner: socket to it.
        tls, acl: of the command port; None without TLS.
        own_user: whom every session runs as; None: the node was started by root and serves all users.
        authorities: see `uftpd.peers.fetch_authorities`.
    """

    def __init__(
        self,
        config: DataConfig,
        config_path: Path | None,
        spawner: socket.socket,
        tls: ssl.SSLContext | None,
        acl: AccessList | None,
        own_user: str | None,
        authorities: str = "",
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._ledger = Ledger(_session_limits(config), trio.current_time)
        self._sessions = Sessions(config, self._ledger, spawner)
        self._sessions.copies.authorities = authorities
        self._command_server = CommandServer(config, self._ledger, self._sessions, tls, acl, own_user)
        self._unproven = 0
        self._unproven_by_address: Counter[IPAddress] = Counter()
        self._accepting = trio.CancelScope()
        self._objects: ObjectFront | None = None

    async def serve(
        self,
        ftp_listeners: Sequence[socket.socket],
        command_listeners: Sequence[socket.socket],
        objects: ObjectSockets,
        ready: Callable[[], None],
    ) -> None:
        """Serve until drained, or until the spawner is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            self._objects = ObjectFront(self._config, self._ledger, self._sessions, nursery)
            self._command_server.objects_url = object_url(self._config, objects.plain, objects.tls)
            nursery.start_soon(self._accept, ftp_listeners, command_listeners, objects, nursery)
            ready()
            await self._sessions.run(on_drain=self._stop_accepting, on_reload=self._reload)
            nursery.cancel_scope.cancel()

    async def _accept(
        self,
        ftp: Sequence[socket.socket],
        command: Sequence[socket.socket],
        objects: ObjectSockets,
        connections: trio.Nursery,
    ) -> None:
        async def accept(
            handler: Callable[[trio.SocketStream], Awaitable[None]], plain: Sequence[socket.socket]
        ) -> None:
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener)) for listener in plain]
            # Waits out EMFILE instead of spinning or dying.
            await trio.serve_listeners(handler, listeners, handler_nursery=connections)

        self._command_server.ftp_port = ftp[0].getsockname()[1]
        with self._accepting:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept, self._client, ftp)
                nursery.start_soon(accept, self._command_server.serve, command)
                if self._objects is not None and objects.plain:
                    nursery.start_soon(accept, self._objects.serve, objects.plain)
                if self._objects is not None and objects.relayed is not None:
                    nursery.start_soon(self._objects.serve_relayed, objects.relayed)

    def _stop_accepting(self) -> None:
        self._accepting.cancel()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            self._ledger.sweep()

    def _reload(self) -> None:
        if self._config_path is None:
            return
        try:
            config = checked(load(self._config_path, DataConfig), self._config_path)
        except ConfigError as error:
            _log("configuration not reloaded", level="error", reason=str(error))
            return
        configure(config.log.level, config.log.format)
        self._reload_tls(config)
        self._reload_authorities(config)
        self._config = config
        self._ledger.limits = _session_limits(config)
        self._sessions.config = config
        self._command_server.config = config
        if self._objects is not None:
            self._objects.config = config
        _log("configuration reloaded")

    def _reload_tls(self, config: DataConfig) -> None:
        """Take over certificate, key and CA where this process may still read them; a key often is root's alone."""
        try:
            if config.command_port.plain != self._config.command_port.plain:
                # The socket stays where it is bound, which without TLS may only be loopback.
                raise ConfigError("command_port.plain: changed")
            self._command_server.set_tls(*_command_port_tls(config))
        except ConfigError as error:
            _log("TLS of the command port stays as it was until a restart", level="warning", reason=str(error))

    def _reload_authorities(self, config: DataConfig) -> None:
        try:
            self._sessions.copies.authorities = fetch_authorities(config.copies)
        except ConfigError as error:
            _log("authorities for https URLs stay as they were until a restart", level="warning", reason=str(error))

    # -- clients ----------------------------------------------------------------------------------------------------

    async def _client(self, stream: trio.SocketStream) -> None:
        """A connection to the FTP port, until it logs in or ends."""
        connection = stream.socket
        try:
            peer = _address(connection.getpeername())
            local = _address(connection.getsockname())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            enable_keepalive(_borrowed(connection))
        except OSError:
            connection.close()
            return
        limits = self._config.limits
        if self._unproven >= limits.unproven or self._unproven_by_address[peer] >= limits.unproven_per_address:
            _log("connection refused", level="warning", peer=str(peer), unproven=self._unproven)
            with contextlib.suppress(OSError):
                _borrowed(connection).send(_TOO_MANY.encode())
            connection.close()
            return
        self._unproven += 1
        self._unproven_by_address[peer] += 1
        try:
            with trio.move_on_after(limits.login_seconds) as deadline:
                await self._log_in(stream, peer, local)
            if deadline.cancelled_caught:
                with trio.move_on_after(_CLOSING_SECONDS):
                    await stream.send_all(reply(421, "Login took too long, closing the control connection").encode())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client went away
        except Exception as error:
            _log("login failed", level="error", peer=str(peer), error=repr(error))
        finally:
            self._unproven -= 1
            self._unproven_by_address[peer] -= 1
            if not self._unproven_by_address[peer]:
                del self._unproven_by_address[peer]
            connection.close()

    async def _log_in(self, stream: trio.SocketStream, peer: IPAddress, local: IPAddress) -> None:
        dialogue = LoginDialogue(site_features(self._config))
        reader = LineReader(max_bytes=self._config.limits.line_bytes, telnet=True)
        await stream.send_all(greeting(__version__, self._config.ftp.text).encode())
        while True:
            while (line := _next_line(reader)) is None:
                data = await stream.receive_some(4096)
                if not data:
                    return
                reader.receive_data(data)
            answer = dialogue.receive_long_line() if line is _LONG else dialogue.receive_line(line)
            if isinstance(answer, Attempt):
                received = reader.take_rest()[:_MAX_PIPELINED]
                arrival = Arrival(peer, local, received, dialogue.wants_utc)
                refused = await self._start(answer.secret, stream.socket, arrival)
                if refused is not None:
                    await stream.send_all(refused.encode())
                return
            await stream.send_all(answer.reply.encode())
            if answer.close:
                return

    async def _start(self, secret: str, connection: trio.socket.SocketType, arrival: Arrival) -> Reply | None:
        """Start the session; None once it answers the client itself."""
        peer = arrival.peer
        session_id = secrets.token_hex(4)
        try:
            request = self._ledger.claim(secret, peer, session_id)
        except LoginError as error:
            _log("login refused", level="warning", peer=str(peer), reason=str(error))
            return reply(error.code, str(error))
        try:
            await self._sessions.start(session_id, request, connection, arrival)
        except SessionRefused as error:
            facts = {"session": session_id, "request": request.request_id or None, "user": request.user}
            _log("login refused", level="warning", **facts, peer=str(peer), reason=str(error))
            return reply(530, f"Not logged in: {error}")
        _log(
            "session started",
            session=session_id,
            user=request.user,
            peer=str(peer),
            request=request.request_id or None,
            purpose=request.purpose.value,
            access=request.access.name,
        )
        return None


_LONG: Final = b"\0too long"


def _next_line(reader: LineReader) -> bytes | None:
    try:
        return reader.next_line()
    except LineTooLong:
        return _LONG


def _session_limits(config: DataConfig) -> dict[Purpose, int]:
    return {purpose: config.limits.per_user(purpose) for purpose in Purpose}


def _address(name: tuple[str, int] | tuple[str, int, int, int]) -> IPAddress:
    return plain_address(ipaddress.ip_address(name[0]))


def _borrowed(connection: trio.socket.SocketType) -> socket.socket:
    """The plain socket under a trio one."""
    return connection._sock  # type: ignore[attr-defined,no-any-return]

"""The front's part of the object server: from a connection to the process that serves its object.

It reads the head of the first request, and no more of it than which object is meant; looks the secret up, as for a
login; has a process started if there is none yet for this secret; and hands the connection over with every byte that
has come. A connection comes back if its next request is for another object. Whatever is wrong with a secret (unknown,
ended, for another address) is one answer, 404, and one guess costs a connection.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from uftp.protocol.command_port import IPAddress, plain_address
from uftp.streams import enable_keepalive
from uftpd.config.data import DataConfig
from uftpd.config.toml import HostPort
from uftpd.data.children import SessionRefused
from uftpd.data.ledger import Ledger, LoginError, ObjectClaim
from uftpd.data.sessions import Sessions
from uftpd.events import EventLog
from uftpd.session import object_messages
from uftpd.session.object_connection import close_politely, receive
from uftpd.session.object_messages import Connection
from uftpd.session.object_request import BadRequest, HeadReader, ObjectRequest, parse_head, plain_answer

_log = EventLog("objects")

_HANDOVER_SECONDS: Final = 10.0
_WILDCARDS: Final = ("0.0.0.0", "::", "")


def object_url(config: DataConfig, plain: Sequence[socket.socket], tls: Sequence[socket.socket]) -> str:
    """What auth servers are told: the configured address, or the one of the first listener, HTTPS before HTTP."""
    if not (plain or tls):
        return ""
    if config.objects.url:
        return config.objects.url
    scheme, listener = ("https", tls[0]) if tls else ("http", plain[0])
    host, port = listener.getsockname()[:2]
    if host in _WILDCARDS:
        host = config.ftp.advertise or socket.getfqdn()
    return f"{scheme}://{HostPort(host, port)}"


@dataclass(slots=True)
class _Object:
    """An object server, starting or at work."""

    id: str
    channel: socket.socket
    decided: trio.Event = field(default_factory=trio.Event)
    refused: str = ""


class ObjectFront:
    """See the module.

    Args:
        config: settings; replaced on reload.
        ledger: knows the secrets.
        sessions: starts processes.
        nursery: for connections that come back, and for what is to be heard of object servers.
    """

    def __init__(self, config: DataConfig, ledger: Ledger, sessions: Sessions, nursery: trio.Nursery) -> None:
        self.config = config
        self._ledger = ledger
        self._sessions = sessions
        self._nursery = nursery
        self._objects: dict[bytes, _Object] = {}  # by digest of the secret
        self._unproven = 0
        self._unproven_by_address: Counter[IPAddress] = Counter()

    async def serve(self, stream: trio.SocketStream) -> None:
        """A connection to a listener for plain HTTP."""
        with stream.socket:
            connection: socket.socket = stream.socket._sock  # type: ignore[attr-defined]
            try:
                peer = ipaddress.ip_address(connection.getpeername()[0])
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                enable_keepalive(connection)
            except OSError:
                return
            await self._guarded(connection, peer, b"")

    async def serve_relayed(self, channel: socket.socket) -> None:
        """Connections that come decrypted out of relays, for as long as there is a channel to them."""
        while True:
            await trio.lowlevel.wait_readable(channel)
            try:
                message, connection = object_messages.receive(channel)
            except BlockingIOError:
                continue
            except msgspec.MsgspecError as error:
                _log("relay broke its protocol", level="error", error=str(error))
                continue
            if message is None:
                return
            if isinstance(message, Connection) and connection is not None:
                self._adopt(connection, message)

    def _adopt(self, connection: socket.socket, message: Connection) -> None:
        async def serve() -> None:
            with connection:
                connection.setblocking(False)
                await self._guarded(connection, ipaddress.ip_address(message.peer), message.received)

        self._nursery.start_soon(serve)

    # -- a connection, until its object server has it -----------------------------------------------------------------

    async def _guarded(self, connection: socket.socket, peer: IPAddress, received: bytes) -> None:
        peer = plain_address(peer)
        limits = self.config.limits
        if self._unproven >= limits.unproven or self._unproven_by_address[peer] >= limits.unproven_per_address:
            _log("connection refused", level="warning", peer=str(peer), unproven=self._unproven)
            with contextlib.suppress(OSError):
                connection.send(plain_answer(429), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            return
        try:
            with self._counted(peer):
                await self._direct(connection, peer, received)
        except BadRequest as error:
            await close_politely(connection, plain_answer(error.status))
        except _Unserved as unserved:
            await close_politely(connection, plain_answer(unserved.status, with_body=unserved.with_body))
        except Exception as error:
            _log("request failed", level="error", peer=str(peer), error=repr(error))

    @contextlib.contextmanager
    def _counted(self, peer: IPAddress) -> Iterator[None]:
        self._unproven += 1
        self._unproven_by_address[peer] += 1
        try:
            yield
        finally:
            self._unproven -= 1
            self._unproven_by_address[peer] -= 1
            if not self._unproven_by_address[peer]:
                del self._unproven_by_address[peer]

    async def _direct(self, connection: socket.socket, peer: IPAddress, received: bytes) -> None:
        """Hand the connection to its object server.

        Raises:
            BadRequest: what came is no request.
            _Unserved: it is for nothing that is served.
        """
        reader = HeadReader(received)
        with trio.move_on_after(self.config.objects.head_seconds) as deadline:
            while (head := reader.next_head()) is None:
                data = await receive(connection)
                if not data:
                    return
                reader.receive_data(data)
        if deadline.cancelled_caught or head is None:
            raise BadRequest(408)
        request = parse_head(head)
        try:
            claim = self._ledger.claim_object(request.secret, peer)
            server = await self._server(claim)
        except LoginError as error:
            _log("request refused", level="warning", peer=str(peer), reason=str(error))
            raise _Unserved(404 if error.code == 404 else 503, request) from error
        except SessionRefused as error:
            _log(
                "request refused",
                level="warning",
                user=claim.request.user,
                request=claim.request.request_id or None,
                peer=str(peer),
                reason=str(error),
            )
            raise _Unserved(503, request) from error
        if not await self._hand_over(server, connection, Connection(peer=str(peer), received=head + reader.rest)):
            raise _Unserved(503, request)

    async def _hand_over(self, server: _Object, connection: socket.socket, message: Connection) -> bool:
        with trio.move_on_after(_HANDOVER_SECONDS):
            while True:
                try:
                    object_messages.send(server.channel, message, connection)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(server.channel)
                except OSError:
                    return False
                else:
                    return True
        return False

    # -- object servers -----------------------------------------------------------------------------------------------

    async def _server(self, claim: ObjectClaim) -> _Object:
        """The process for a secret.

        Raises:
            LoginError, SessionRefused: there is none, and cannot be one.
        """
        server = self._objects.get(claim.digest)
        if server is None:
            server = self._begin(claim)
        await server.decided.wait()
        if server.refused:
            raise SessionRefused(server.refused)
        return server

    def _begin(self, claim: ObjectClaim) -> _Object:
        object_id = secrets.token_hex(4)
        self._ledger.begin_object(claim, object_id)
        try:
            mine, theirs = object_messages.channel_pair()
        except OSError as error:
            self._ledger.end(object_id)
            raise SessionRefused(f"Cannot start a process: {error.strerror}") from error
        server = self._objects[claim.digest] = _Object(object_id, mine)
        self._nursery.start_soon(self._start, claim, server, theirs)
        return server

    async def _start(self, claim: ObjectClaim, server: _Object, theirs: socket.socket) -> None:
        """Start it, and listen to it until its end. Not cancelled with the client that asked first: others wait."""
        request = claim.request
        try:
            with theirs:
                await self._sessions.start_object(server.id, claim, theirs)
            _log(
                "object server started",
                session=server.id,
                user=request.user,
                request=request.request_id or None,
                purpose=request.purpose.value,
            )
        except SessionRefused as error:
            server.refused = str(error)
        except Exception as error:
            _log("object server failed", level="error", session=server.id, error=repr(error))
            server.refused = "internal error"
        server.decided.set()
        try:
            if not server.refused:
                await self._listen(server)
        finally:
            if self._objects.get(claim.digest) is server:
                del self._objects[claim.digest]
            trio.lowlevel.notify_closing(server.channel)
            server.channel.close()

    async def _listen(self, server: _Object) -> None:
        """Take connections back, until the process has nothing to do or is gone."""
        while True:
            await trio.lowlevel.wait_readable(server.channel)
            try:
                message, connection = object_messages.receive(server.channel)
            except BlockingIOError:
                continue
            except OSError:
                return
            except msgspec.MsgspecError as error:
                _log("object server broke its protocol", level="error", session=server.id, error=str(error))
                return
            if not (isinstance(message, Connection) and connection is not None):
                return
            self._adopt(connection, message)


class _Unserved(Exception):
    def __init__(self, status: int, request: ObjectRequest) -> None:
        super().__init__(status)
        self.status = status
        self.with_body = request.method != "HEAD"

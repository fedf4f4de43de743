"""The front's view of session processes: starts them by way of the spawner, listens to them, and keeps their books.

For each running session there is a task that reads its report socket: log and usage lines, and ports of the range.
"""

from __future__ import annotations

import array
import ipaddress
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from uftp.protocol.command_port import IPAddress, Purpose, TransferRequest
from uftpd.config.data import DataConfig
from uftpd.data import spawn_messages
from uftpd.data.ledger import Ledger, ObjectClaim
from uftpd.data.ports import PortPool
from uftpd.data.spawn_messages import DrainAll, Exited, Inherited, Kill, Reload, Spawn
from uftpd.events import EventLog
from uftpd.session import messages
from uftpd.session.messages import (
    Drain,
    Failed,
    FromSession,
    KeyFileRequest,
    KeyFiles,
    ObjectSettings,
    Port,
    Rate,
    Ready,
    Record,
    ReturnPort,
    SessionSettings,
    ToSession,
    Transfers,
    WantPort,
    report_pair,
)

_log = EventLog("session")

_START_SECONDS: Final = 10.0
_USER_INFO_SECONDS: Final = 5.0
# A session says what it did; who it is, and when and where the line was written, is not for it to say.
_OUR_FACTS: Final = frozenset({"self", "session", "request", "user", "level", "text", "time", "part", "event"})


class SessionRefused(Exception):
    """The session process did not come to be; the message is for the client, behind `530 Not logged in: `."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a client came in.

    Attributes:
        peer, local: addresses of both ends of the control connection.
        received: bytes that came behind the password.
        wants_utc: it is a general FTP client, which takes times for UTC.
    """

    peer: IPAddress
    local: IPAddress
    received: bytes
    wants_utc: bool


_NO_ARRIVAL: Final = Arrival(ipaddress.IPv4Address(0), ipaddress.IPv4Address(0), b"", wants_utc=True)


class _Child:
    """One child process, as the front knows it."""

    def __init__(self, child_id: str, user: str, report: trio.socket.SocketType, request_id: str) -> None:
        self.id = child_id
        self.user = user
        self.request_id = request_id
        self.report = report
        self.outcome: Ready | Failed | KeyFiles | None = None
        self.decided = trio.Event()
        self.end_reason = "the session process ended"
        self.exited = trio.Event()

    def decide(self, outcome: Ready | Failed | KeyFiles) -> None:
        """The first word counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.decided.set()

    def tell(self, message: ToSession) -> None:
        """Send to the child; one that does not listen loses it."""
        try:
            self.report._sock.send(messages.encode(message), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # type: ignore[attr-defined]
        except OSError:
            _log("message not taken", level="warning", session=self.id)


async def _receive(report: trio.socket.SocketType) -> bytes:
    """The next message of a child, empty when there is none to come."""
    try:
        return await report.recv(messages.MAX_MESSAGE)
    except ConnectionResetError:
        # It ended with a message of ours unread, which the kernel tells before it hands over the child's last words.
        return await report.recv(messages.MAX_MESSAGE)


class Sessions:
    """See the module.

    Args:
        config: settings for new sessions; replaced on reload.
        ledger: told when sessions end.
        spawner: socket to it.
    """

    def __init__(self, config: DataConfig, ledger: Ledger, spawner: socket.socket) -> None:
        self.config = config
        self._ledger = ledger
        self._spawner = trio.socket.from_stdlib_socket(spawner)
        self._spawner_lock = trio.Lock()
        self._children: dict[str, _Child] = {}
        self._nursery: trio.Nursery | None = None
        self._draining = False
        self._over = trio.Event()
        self._user_info_limit = trio.CapacityLimiter(4)
        self._ports: PortPool | None = None
        self._ports_changed = trio.Event()
        if config.ftp.port_range is not None:
            self._ports = PortPool(
                config.ftp.port_range,
                config.limits.waiting_ports_per_user,
                config.ftp.port_wait_seconds,
                trio.current_time,
            )

    # -- the spawner ------------------------------------------------------------------------------------------------

    async def run(self, *, on_drain: Callable[[], None], on_reload: Callable[[], None]) -> None:
        """Follow the spawner's messages until all is drained, or it is gone."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._ports is not None:
                nursery.start_soon(self._grant_ports, self._ports)
            nursery.start_soon(self._follow_spawner, on_drain, on_reload)
            await self._over.wait()
            nursery.cancel_scope.cancel()

    async def _follow_spawner(self, on_drain: Callable[[], None], on_reload: Callable[[], None]) -> None:
        while data := await self._next_message():
            match spawn_messages.decode_from_spawner(data):
                case Exited() as exited:
                    self._exited(exited)
                case Inherited(sessions=sessions):
                    self._ledger.inherit(sessions)
                case DrainAll():
                    self._draining = True
                    on_drain()
                    for child in self._children.values():
                        child.tell(Drain(seconds=self.config.limits.drain_seconds))
                    self._check_drained()
                case Reload():
                    on_reload()
        _log("spawner is gone", level="error")
        self._over.set()

    async def _next_message(self) -> bytes:
        try:
            return await self._spawner.recv(spawn_messages.MAX_MESSAGE)
        except ConnectionResetError:  # it went without reading our last word
            return b""

    def _check_drained(self) -> None:
        if self._draining and not self._children:
            self._over.set()

    def _exited(self, exited: Exited) -> None:
        self._ledger.end(exited.id)
        child = self._children.get(exited.id)
        if child is None:
            return
        child.end_reason = exited.refused or child.end_reason
        child.exited.set()
        self._share_rate(child.user)

    async def _tell_spawner(self, message: Spawn | Kill, *sockets: socket.socket) -> None:
        fds = array.array("i", [s.fileno() for s in sockets])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if sockets else []
        async with self._spawner_lock:
            await self._spawner.sendmsg([spawn_messages.encode(message)], ancillary)

    # -- starting ---------------------------------------------------------------------------------------------------

    async def start(
        self,
        session_id: str,
        request: TransferRequest,
        connection: trio.socket.SocketType,
        arrival: Arrival,
    ) -> None:
        """Start a login session on `connection`, which the caller keeps and closes. Its slot is this method's care.

        Raises:
            SessionRefused: it did not come to be; the slot is free again.
        """
        settings = self._settings(session_id, request, arrival)
        await self._begin(session_id, "session", request, settings, connection._sock)  # type: ignore[attr-defined]

    async def start_object(self, object_id: str, claim: ObjectClaim, channel: socket.socket) -> None:
        """Start an object server, which takes connections from `channel`. Its slot is this method's care.

        Raises:
            SessionRefused: it did not come to be; the slot is free again.
        """
        objects = self.config.objects
        settings = ObjectSettings(
            session=self._settings(object_id, claim.request, _NO_ARRIVAL),
            digest=claim.digest,
            expires=claim.seconds,
            connections=objects.connections,
            head_seconds=objects.head_seconds,
            idle_seconds=objects.idle_seconds,
            stall_seconds=objects.stall_seconds,
            longest_seconds=objects.longest_seconds,
        )
        await self._begin(object_id, "object", claim.request, settings, channel)

    async def _begin(
        self,
        session_id: str,
        kind: messages.Kind,
        request: TransferRequest,
        settings: SessionSettings | ObjectSettings,
        handed_over: socket.socket,
    ) -> None:
        try:
            child = await self._spawn(
                session_id,
                kind,
                request.user,
                settings,
                handed_over,
                request_id=request.request_id,
                purpose=request.purpose,
            )
        except BaseException:
            self._ledger.end(session_id)
            raise
        outcome = await self._outcome(child, _START_SECONDS)
        if isinstance(outcome, Failed):
            raise SessionRefused(outcome.reason)
        self._share_rate(request.user)
        if self._draining:
            child.tell(Drain(seconds=self.config.limits.drain_seconds))

    async def user_info(self, user: str) -> KeyFiles:
        """Home and accepted keys of an account.

        Raises:
            SessionRefused: unknown, not served, or it took too long.
        """
        async with self._user_info_limit:
            request = KeyFileRequest(user=user, key_files=self.config.files.key_files)
            child = await self._spawn(f"keys-{secrets.token_hex(4)}", "user-info", user, request)
            outcome = await self._outcome(child, _USER_INFO_SECONDS)
        if isinstance(outcome, KeyFiles):
            return outcome
        raise SessionRefused(outcome.reason if isinstance(outcome, Failed) else "no answer")

    async def _spawn(
        self,
        child_id: str,
        kind: messages.Kind,
        user: str,
        first: SessionSettings | ObjectSettings | KeyFileRequest,
        *sockets: socket.socket,
        request_id: str = "",
        purpose: Purpose = Purpose.LOGIN,
    ) -> _Child:
        if self._nursery is None:
            raise SessionRefused("the server is starting")
        try:
            mine, theirs = report_pair()
        except OSError as error:
            raise SessionRefused(f"Cannot start a process: {error.strerror}") from error
        mine.send(messages.encode(first))
        child = _Child(child_id, user, trio.socket.from_stdlib_socket(mine), request_id)
        self._children[child_id] = child  # first: the spawner's word of its end may come at once
        self._nursery.start_soon(self._listen, child)
        try:
            await self._tell_spawner(Spawn(id=child_id, kind=kind, user=user, purpose=purpose), *sockets, theirs)
        except BaseException:
            child.exited.set()  # there never was one
            raise
        finally:
            theirs.close()
        return child

    async def _outcome(self, child: _Child, seconds: float) -> Ready | Failed | KeyFiles:
        with trio.move_on_after(seconds, shield=True):  # half-started sessions would be nobody's
            await child.decided.wait()
        if child.outcome is None:
            child.decide(Failed(reason="looking up the account took too long"))
            with trio.move_on_after(_START_SECONDS, shield=True):
                await self._tell_spawner(Kill(id=child.id))
        assert child.outcome is not None  # noqa: S101 - decided above
        return child.outcome

    def _settings(self, session_id: str, request: TransferRequest, arrival: Arrival) -> SessionSettings:
        ftp, limits, files = self.config.ftp, self.config.limits, self.config.files
        return SessionSettings(
            session_id=session_id,
            user=request.user,
            groups=request.groups,
            file=request.file,
            access=int(request.access),
            includes=request.includes,
            excludes=request.excludes,
            scope=request.scope,
            rate=request.rate_limit,
            received=arrival.received,
            peer=str(arrival.peer),
            local=str(arrival.local),
            advertise=ftp.advertise,
            port_range=str(ftp.port_range) if ftp.port_range is not None else "",
            port_wait_seconds=ftp.port_wait_seconds,
            line_bytes=limits.line_bytes,
            idle_seconds=limits.idle_seconds,
            data_connect_seconds=limits.data_connect_seconds,
            stall_seconds=limits.stall_seconds,
            drain_seconds=limits.drain_seconds,
            durability=files.durability,
            umask=int(files.umask, 8),
            confine_links=files.confine_links,
            write_protected=files.write_protected,
            utc_times=files.legacy_times == "utc" or arrival.wants_utc,
            key=request.key or b"",
            algorithm=request.algorithm.value if request.key and request.algorithm else "",
            cipher_allowed=request.algorithm is None or request.algorithm.value in self.config.transfers.legacy_ciphers,
            compress=request.compress,
            streams=limits.streams,
        )

    # -- listening --------------------------------------------------------------------------------------------------

    async def _listen(self, child: _Child) -> None:
        try:
            while data := await _receive(child.report):
                self._take(child, messages.decode_from_session(data))
        except OSError:
            pass  # the process is gone; the spawner tells how
        except msgspec.MsgspecError as error:
            _log("session broke its protocol", level="error", session=child.id, error=str(error))
            await self._tell_spawner(Kill(id=child.id))
        finally:
            child.report.close()
        # Only now: what it had to say, its outcome or a wish for a port, may be read after the word of its end.
        await child.exited.wait()
        if self._ports is not None:
            self._ports.forget(child.id)
            self._ports_changed.set()
        child.decide(Failed(reason=child.end_reason))
        del self._children[child.id]
        self._check_drained()

    def _take(self, child: _Child, message: FromSession) -> None:
        match message:
            case Ready() | Failed() | KeyFiles():
                child.decide(message)
            case Record():
                self._write(child, message)
            case Transfers(before=before, rows=rows, behind=behind):
                _log.transfers(self._facts_of(child) | before, rows, behind)
            case WantPort():
                self._want_port(child)
            case ReturnPort(port=port, busy=busy):
                if self._ports is not None:
                    self._ports.give_back(child.id, port, busy=busy)
                    self._ports_changed.set()

    def _write(self, child: _Child, record: Record) -> None:
        facts = {key: value for key, value in record.fields.items() if key not in _OUR_FACTS}
        _log(record.event, level=record.level, **self._facts_of(child), **facts)

    @staticmethod
    def _facts_of(child: _Child) -> dict[str, str]:
        # The auth server logs the same id, so that who it was there is found for every transfer here.
        request = {"request": child.request_id} if child.request_id else {}
        return {"session": child.id, **request, "user": child.user}

    def _want_port(self, child: _Child) -> None:
        if self._ports is None or not self._ports.want(child.id, child.user):
            child.tell(Port(port=0))
            return
        self._ports_changed.set()

    async def _grant_ports(self, ports: PortPool) -> None:
        while True:
            for session_id, port in ports.grants():
                if (child := self._children.get(session_id)) is not None:
                    child.tell(Port(port=port))
            self._ports_changed = trio.Event()
            wait = ports.next_change()
            with trio.move_on_at(float("inf") if wait is None else wait):
                await self._ports_changed.wait()

    def _share_rate(self, user: str) -> None:
        """Each of a user's sessions gets an equal share of the user's rate."""
        rate = self.config.limits.rate_per_user
        if not rate:
            return
        active = [self._children[i] for i in self._ledger.active(user) if i in self._children]
        for child in active:
            child.tell(Rate(rate=max(1, rate // len(active))))

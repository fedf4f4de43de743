"""The front's view of session processes: starts them by way of the spawner, listens to them, and keeps their books.

For each running session there is a task that reads its report socket: log and usage lines, and ports of the range.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from uftp.protocol.command_port import IPAddress, TransferRequest
from uftpd.config.data import DataConfig
from uftpd.data.children import Child, Children, Job, SessionRefused
from uftpd.data.copies import Copies
from uftpd.data.ledger import Ledger, ObjectClaim
from uftpd.data.ports import PortPool
from uftpd.data.spawn_messages import DrainAll, Exited, Inherited, Reload
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
    Transfers,
    WantPort,
)

_log = EventLog("session")

_USER_INFO_SECONDS: Final = 5.0
# A session says what it did; who it is, and when and where the line was written, is not for it to say.
_OUR_FACTS: Final = frozenset({"self", "session", "request", "user", "level", "text", "time", "part", "event"})


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
        self._children = Children(spawner, self._take, self._ended)
        self.copies = Copies(
            lambda: self.config, ledger, self._children, self._settings_without_connection, self._share_rate
        )
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
            self._children.nursery = nursery
            if self._ports is not None:
                nursery.start_soon(self._grant_ports, self._ports)
            nursery.start_soon(self._follow_spawner, on_drain, on_reload)
            await self._over.wait()
            nursery.cancel_scope.cancel()

    async def _follow_spawner(self, on_drain: Callable[[], None], on_reload: Callable[[], None]) -> None:
        while (word := await self._children.next_word()) is not None:
            match word:
                case Exited() as exited:
                    self._ledger.end(exited.id)
                    if (child := self._children.exited(exited)) is not None:
                        self._share_rate(child.user)
                case Inherited(sessions=sessions):
                    self._ledger.inherit(sessions)
                case DrainAll():
                    self._draining = self.copies.draining = True
                    on_drain()
                    for child in self._children.all():
                        child.tell(Drain(seconds=self.config.limits.drain_seconds))
                    self._check_drained()
                case Reload():
                    on_reload()
        _log("spawner is gone", level="error")
        self._over.set()

    def _check_drained(self) -> None:
        if self._draining and not self._children:
            self._over.set()

    def _ended(self, child: Child) -> None:
        if self._ports is not None:
            self._ports.forget(child.id)
            self._ports_changed.set()
        self.copies.gone(child)
        self._check_drained()

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
        job = Job(id=session_id, kind=kind, user=request.user, first=settings, purpose=request.purpose, request=request)
        try:
            child = await self._children.spawn(job, handed_over)
        except BaseException:
            self._ledger.end(session_id)
            raise
        await self._children.outcome(child)
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
            job = Job(id=f"keys-{secrets.token_hex(4)}", kind="user-info", user=user, first=request)
            outcome = await self._children.outcome(await self._children.spawn(job), _USER_INFO_SECONDS)
        if isinstance(outcome, KeyFiles):
            return outcome
        raise SessionRefused("no answer")

    def _settings_without_connection(self, child_id: str, request: TransferRequest) -> SessionSettings:
        return self._settings(child_id, request, _NO_ARRIVAL)

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
            copies=self.config.copies.enabled,
            fetches=self.config.copies.https != "none",
        )

    # -- listening --------------------------------------------------------------------------------------------------

    def _take(self, child: Child, message: FromSession) -> None:
        match message:
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
            case Ready() | Failed() | KeyFiles():
                pass  # the children themselves see to these
            case _:
                self.copies.take(child, message)

    def _write(self, child: Child, record: Record) -> None:
        facts = {key: value for key, value in record.fields.items() if key not in _OUR_FACTS}
        _log(record.event, level=record.level, **self._facts_of(child), **facts)

    @staticmethod
    def _facts_of(child: Child) -> dict[str, str]:
        # The auth server logs the same id, so that who it was there is found for every transfer here.
        request = {"request": child.request_id} if child.request_id else {}
        return {"session": child.id, **request, "user": child.user}

    def _want_port(self, child: Child) -> None:
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
        found = (self._children.get(child_id) for child_id in self._ledger.active(user))
        active = [child for child in found if child is not None]
        for child in active:
            child.tell(Rate(rate=max(1, rate // len(active))))

"""Sessions on data nodes that this server keeps warm for shares: a login costs some 20 ms, the next file one.

For each account and object there are *lanes*, which many small requests share, and *flows*, each taken by one large
transfer at a time. A node without MODE U gets plain sessions, one request at a time. All are bounded in number; one
that was idle for a while is closed, and so is one that failed.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Generic, Protocol, TypeVar

import trio

from uftp.client.login import SessionOptions, log_in
from uftp.client.session import FTPSession
from uftp.errors import AuthenticationFailed, NetworkError, Refused, UFTPError
from uftp.protocol.command_port import RequestRefused
from uftpd.auth.errors import NodeFailed, Unavailable
from uftpd.auth.events import logger
from uftpd.auth.nodes.client import NodeUnreachable
from uftpd.auth.nodes.instance import NodeInstance
from uftpd.auth.nodes.registry import LogicalServer
from uftpd.auth.session import require_up
from uftpd.auth.shares.channel import Channel
from uftpd.auth.shares.failures import as_request_error, shown
from uftpd.auth.shares.flow import Flow
from uftpd.auth.shares.lane import Lane
from uftpd.auth.shares.model import Share
from uftpd.auth.shares.reach import transfer_request
from uftpd.config.shares import Shares

LANE_LOAD: Final = 48  # requests under way on a lane before another one is opened
MOST_LANES: Final = 4  # for one object
OPEN_SECONDS: Final = 30.0
_PING_SECONDS: Final = 5.0
_LONGEST_PAUSE: Final = 4.0
_EVICTED: Final = 4  # idle sessions that make room at once where a node has none
_OPTIONS: Final = SessionOptions(
    mode="stream", connect_timeout=10, reply_timeout=30, final_timeout=300, stall_timeout=120
)


class _Closable(Protocol):
    @property
    def usable(self) -> bool: ...

    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)

Account = tuple[str, str]
"""Logical server and account, for which a node counts sessions."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a session is for. A share that was changed gets new ones, and so does who has another rate."""

    share: Share
    write: bool
    rate: int = 0

    @property
    def account(self) -> Account:
        """Whose sessions they are."""
        return self.share.server, self.share.uid

    @classmethod
    def of(cls, share: Share, *, write: bool, rate: int) -> Key:
        """For a use of a share, at so many bytes a second; 0 for no limit."""
        return cls(replace(share, access_count=0, last_access=0, downloads=0), write, rate)


class Plain:
    """A session on a node without MODE U."""

    def __init__(self, session: FTPSession) -> None:
        self.session = session

    @property
    def usable(self) -> bool:
        """Whether it can be used again."""
        return self.session.usable

    def close(self) -> None:
        """Close it at once."""
        self.session.control.break_off("closed")


@dataclass(slots=True)
class _Idle(Generic[T]):
    item: T
    since: float


@dataclass(slots=True)
class _Sessions:
    """Those of one key."""

    lanes: list[Lane] = field(default_factory=list)
    flows: list[_Idle[Flow]] = field(default_factory=list)
    plain: list[_Idle[Plain]] = field(default_factory=list)
    opening: trio.Lock = field(default_factory=trio.Lock)
    total: int = 0
    lanes_used: float = 0.0
    users: int = 0
    simple: bool = False  # the node has no MODE U


class Pool:
    """See the module.

    Args:
        settings: of `[shares]`.
        background: where lanes run.
    """

    def __init__(self, settings: Shares, background: trio.Nursery) -> None:
        self._settings = settings
        self._background = background
        self._addresses = tuple(ipaddress.ip_address(text) for text in settings.client_address)
        self._by_key: dict[Key, _Sessions] = {}
        self._by_account: Counter[Account] = Counter()
        self._total = 0
        self._watching = False
        self._freed = trio.Event()

    @property
    def total(self) -> int:
        """Sessions that are open."""
        return self._total

    # -- taking -----------------------------------------------------------------------------------------------------

    async def lane(self, server: LogicalServer, share: Share, rate: int = 0) -> Lane | None:
        """A lane to read the object of a share; None if its node has no MODE U. The rate is in bytes a second.

        Raises:
            NodeFailed, Unavailable: there is no session to be had.
        """
        key = Key.of(share, write=False, rate=rate)
        with self._using(key) as sessions:
            sessions.lanes_used = trio.current_time()
            lane = self._best_lane(sessions)
            if lane is None and not sessions.simple:
                # Of many requests at once one logs in, and the others wait for it.
                async with sessions.opening:
                    lane = self._best_lane(sessions)
                    if lane is None and not sessions.simple:
                        lane = await self._open_lane(server, share, key, sessions)
            return lane

    def _best_lane(self, sessions: _Sessions) -> Lane | None:
        lanes = [lane for lane in sessions.lanes if lane.usable]
        if not lanes:
            return None
        best = min(lanes, key=lambda lane: lane.busy)
        if best.busy < LANE_LOAD or len(lanes) >= MOST_LANES or self._total >= self._settings.sessions:
            return best
        return None

    async def _open_lane(self, server: LogicalServer, share: Share, key: Key, sessions: _Sessions) -> Lane | None:
        opened = await self._open(server, share, key, sessions)
        if isinstance(opened, Plain):
            self._put_back(sessions.plain, opened, key, sessions)
            return None
        lane = Lane(opened)
        sessions.lanes.append(lane)
        self._background.start_soon(self._run_lane, lane, key, sessions)
        return lane

    async def _run_lane(self, lane: Lane, key: Key, sessions: _Sessions) -> None:
        try:
            await lane.run()
        except Exception:
            logger.exception("a lane failed")  # in the background nobody else would catch it
        finally:
            sessions.lanes.remove(lane)
            self._gone(key, sessions)

    @asynccontextmanager
    async def flow(
        self, server: LogicalServer, share: Share, rate: int = 0, *, write: bool = False
    ) -> AsyncIterator[Flow | Plain]:
        """A session for one large transfer; a `Plain` one if the node has no MODE U.

        Raises:
            NodeFailed, Unavailable: there is no session to be had.
        """
        key = Key.of(share, write=write, rate=rate)
        with self._using(key) as sessions:
            flow: Flow | Plain | None = self._take(sessions.flows, key, sessions)
            if flow is None and sessions.simple:
                flow = self._take(sessions.plain, key, sessions)
            if flow is None:
                opened = await self._open(server, share, key, sessions)
                flow = Flow(opened) if isinstance(opened, Channel) else opened
            try:
                yield flow
            finally:
                if isinstance(flow, Flow):
                    self._put_back(sessions.flows, flow, key, sessions)
                else:
                    self._put_back(sessions.plain, flow, key, sessions)

    @asynccontextmanager
    async def session(self, server: LogicalServer, share: Share, rate: int = 0) -> AsyncIterator[FTPSession]:
        """A session for commands that move no data and take their time, such as HASH.

        Raises:
            NodeFailed, Unavailable: there is none to be had.
        """
        async with self.flow(server, share, rate) as flow:
            yield flow.session

    # -- keeping ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _using(self, key: Key) -> Iterator[_Sessions]:
        sessions = self._by_key.setdefault(key, _Sessions())
        sessions.users += 1
        try:
            yield sessions
        finally:
            sessions.users -= 1
            self._forget(key, sessions)

    def _forget(self, key: Key, sessions: _Sessions) -> None:
        if not sessions.total and not sessions.users:
            self._by_key.pop(key, None)

    def _take(self, idle: list[_Idle[T]], key: Key, sessions: _Sessions) -> T | None:
        while idle:
            item = idle.pop().item
            if item.usable:
                return item
            item.close()
            self._gone(key, sessions)
        return None

    def _put_back(self, idle: list[_Idle[T]], item: T, key: Key, sessions: _Sessions) -> None:
        if item.usable and self._total <= self._settings.sessions:
            idle.append(_Idle(item, trio.current_time()))
            self._freed.set()
            return
        item.close()
        self._gone(key, sessions)

    def _gone(self, key: Key, sessions: _Sessions) -> None:
        sessions.total -= 1
        self._total -= 1
        self._by_account[key.account] -= 1
        if not self._by_account[key.account]:
            del self._by_account[key.account]
        self._freed.set()
        self._forget(key, sessions)

    async def _watch(self) -> None:
        """Close what was idle for long, until nothing is left; all of it when this server ends."""
        try:
            while self._total:
                await trio.sleep(max(1.0, self._settings.idle_seconds / 4))
                self._close_idle(trio.current_time() - self._settings.idle_seconds)
        finally:
            self._watching = False
            self._close_idle(math.inf)

    def _close_idle(self, before: float) -> None:
        for key, sessions in list(self._by_key.items()):
            self._close_kind(sessions.flows, key, sessions, before)
            self._close_kind(sessions.plain, key, sessions, before)
            if sessions.lanes_used < before:
                for lane in sessions.lanes:
                    if not lane.busy:
                        lane.close()

    def _close_kind(self, idle: list[_Idle[T]], key: Key, sessions: _Sessions, before: float) -> None:
        for entry in [entry for entry in idle if entry.since < before or not entry.item.usable]:
            idle.remove(entry)
            entry.item.close()
            self._gone(key, sessions)

    def _evict(self, account: Account | None = None) -> bool:
        """Close an idle session, the one that was used longest ago, to have room for another.

        Args:
            account: only one of this account; None for any.

        Returns:
            Whether there is room now; that of a lane comes a little later.
        """
        sets = [(key, s) for key, s in self._by_key.items() if account in (None, key.account)]
        found = [
            (since, key)
            for key, s in sets
            for since in (*(entry.since for entry in s.flows), *(entry.since for entry in s.plain))
        ]
        unused = [(s.lanes_used, lane) for _, s in sets for lane in s.lanes if lane.usable and not lane.busy]
        oldest = min(unused, key=lambda pair: pair[0], default=None)
        if found:
            since, key = min(found, key=lambda pair: pair[0])
            if oldest is None or since <= oldest[0]:
                sessions = self._by_key[key]
                self._close_kind(sessions.flows, key, sessions, since + 1e-6)
                self._close_kind(sessions.plain, key, sessions, since + 1e-6)
                return True
        if oldest is not None:
            oldest[1].close()
        return False

    # -- opening ----------------------------------------------------------------------------------------------------

    async def _open(self, server: LogicalServer, share: Share, key: Key, sessions: _Sessions) -> Channel | Plain:
        """Open one more session, which counts from here on."""
        await self._room(key, sessions)
        sessions.total += 1
        self._total += 1
        self._by_account[key.account] += 1
        if not self._watching:
            self._watching = True
            self._background.start_soon(self._watch)
        try:
            with trio.fail_after(OPEN_SECONDS):
                session = await self._log_in_at_last(server, share, key)
                try:
                    return await Channel.open(session)
                except Refused:
                    sessions.simple = True
                    return Plain(session)
                except BaseException:
                    session.control.break_off("not needed")
                    raise
        except BaseException as error:
            self._gone(key, sessions)
            if isinstance(error, trio.TooSlowError):
                raise Unavailable("The data node does not answer, try again later") from None
            if isinstance(error, UFTPError):
                raise as_request_error(error) from error
            raise

    async def _room(self, key: Key, sessions: _Sessions) -> None:
        settings = self._settings
        with trio.move_on_after(settings.wait_seconds):
            while True:
                if sessions.total >= settings.sessions_per_share:
                    room = False
                elif self._by_account[key.account] >= settings.sessions_per_account:
                    room = self._evict(key.account)
                else:
                    room = self._total < settings.sessions or self._evict()
                if room:
                    return
                self._freed = trio.Event()
                await self._freed.wait()
        raise _too_many()

    async def _log_in_at_last(self, server: LogicalServer, share: Share, key: Key) -> FTPSession:
        """As `_log_in`; while the node has no room for the account, idle sessions of it are closed."""
        pause = 0.05
        while True:
            try:
                return await self._log_in(server, share, key)
            except _NoRoom as error:
                if pause > _LONGEST_PAUSE:
                    raise Unavailable(str(error), headers={"Retry-After": "10"}) from error
                for _ in range(_EVICTED):
                    self._evict(key.account)
                await trio.sleep(pause)
                pause *= 2

    async def _log_in(self, server: LogicalServer, share: Share, key: Key) -> FTPSession:
        require_up(server)
        refusal: Exception | None = None
        for instance in server.candidates(None):
            ping = await instance.ping(max_age=_PING_SECONDS)
            if ping is None:
                continue
            extensions = bool(ping.features)
            request = transfer_request(
                share,
                write=key.write,
                client_ip=self._addresses,
                extensions=extensions,
                expires=OPEN_SECONDS,
                rate_limit=key.rate,
            )
            try:
                announced = await instance.transfer(request)
                session = await log_in(
                    _host(instance),
                    announced.port,
                    user="anonymous",
                    password=announced.secret,
                    options=_OPTIONS,
                )
                if extensions and session.dialect.kind != "ours":
                    # Since the ping it has become a node that would have passed over what restricts the session.
                    session.control.break_off("not the node it was")
                    raise NodeFailed("The data node was exchanged, try again")
                return session
            except NodeUnreachable:
                continue
            except RequestRefused as error:
                if "too many" in str(error).lower():
                    raise _NoRoom(f"UFTPD server '{server.name}': {shown(error)}") from None
                raise NodeFailed(f"UFTPD server '{server.name}': {shown(error)}") from None
            except AuthenticationFailed as error:
                raise _NoRoom(f"The data node lets nobody in now: {shown(error)}") from error
            except NetworkError as error:
                refusal = error
        if refusal is not None:
            raise Unavailable(f"UFTPD server '{server.name}': {shown(refusal)}")
        raise Unavailable(f"No data node of '{server.name}' answers, try again later")


class _NoRoom(Exception):
    """The node has as many sessions of this account as it allows."""


def _too_many() -> Unavailable:
    return Unavailable("Too many downloads at once, try again later", headers={"Retry-After": "10"})


def _host(instance: NodeInstance) -> str:
    """Where its FTP port is; of several addresses the first."""
    return instance.settings.host.replace(",", " ").split()[0]

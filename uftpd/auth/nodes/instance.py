"""One data node as the auth server sees it: does it live, what can it do (CONTROL-PLANE section 3)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from uftp.protocol.command_port import PingRequest, Request, RequestRefused, TransferRequest, UserInfoRequest
from uftp.protocol.command_replies import (
    PingReply,
    UserInfoReply,
    parse_ping_reply,
    parse_transfer_reply,
    parse_user_info_reply,
)
from uftpd.auth.events import event, logger
from uftpd.auth.nodes.client import CommandPort, NodeUnreachable
from uftpd.config.auth import CommandPortClient, Instance
from uftpd.config.toml import HostPort

SECRET_BYTES = 16  # twice that many hexadecimal digits
COPIES = "RCP-PROGRESS"  # of a node that keeps to the peers it is told (EXTENSIONS sections 3 and 7)
STATUS_SECONDS = 1.0  # an answer younger than this is news enough for a status
MIN_REST_SECONDS = 1.0  # between background pings of a node that is down, whatever the configuration says


@dataclass(frozen=True, slots=True)
class Announced:
    """A session a node is expecting.

    Attributes:
        port: its FTP port, from its own answer.
        secret: the password to log in with.
    """

    port: int
    secret: str


def new_secret() -> str:
    """A one-time password: no quotes, no blanks, since it is also an argument of copy verbs (CONTROL-PLANE 2.1)."""
    return secrets.token_hex(SECRET_BYTES)


def needs_extensions(request: TransferRequest) -> bool:
    """Whether the request may only go to a node that knows the fields of EXTENSIONS section 7: an upstream node
    would pass over the ones that restrict it.
    """
    return bool(request.scope) or request.http or request.max_logins is not None


class NodeInstance:
    """A data node and its health. Starts as alive; every exchange settles whether it is.

    Attributes:
        server: name of the logical server.
        number: from 1, within the logical server.
        settings: where it is.
        up: whether the last exchange went well.
        ping_reply: the last one; None before the first.
    """

    def __init__(
        self,
        server: str,
        number: int,
        settings: Instance,
        port: CommandPort,
        limits: CommandPortClient,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.server = server
        self.number = number
        self.settings = settings
        self.up = True
        self.ping_reply: PingReply | None = None
        self._port = port
        self._limits = limits
        self._clock = clock
        self._failed_at: float | None = None
        self._pinged_at: float | None = None
        self._last_reason = ""
        self._lock = trio.Lock()
        self._ping_over: trio.Event | None = None
        self._ftp_port = 0

    def take_over(self, other: NodeInstance) -> None:
        """Go on with what is known of the node under its former configuration."""
        self.up, self.ping_reply = other.up, other.ping_reply
        self._failed_at, self._pinged_at = other._failed_at, other._pinged_at
        self._last_reason = other._last_reason
        self._ftp_port = other._ftp_port

    @property
    def ftp_address(self) -> HostPort | None:
        """Where clients are sent; None until the node has told its port."""
        return HostPort(self.settings.host, self._ftp_port) if self._ftp_port else None

    # -- health -----------------------------------------------------------------------------------------------------

    def is_left_alone(self) -> bool:
        """Whether it failed so shortly ago that it is not contacted."""
        return (
            not self.up and self._failed_at is not None and self._clock() < self._failed_at + self._limits.down_seconds
        )

    def answered_within(self, seconds: float) -> bool:
        """Whether it lives, as far as a ping of the last so many seconds tells."""
        return self.up and self._pinged_at is not None and self._clock() < self._pinged_at + seconds

    def was_never_heard(self) -> bool:
        """Whether neither an answer nor a failure has told anything about it yet."""
        return self.up and self.ping_reply is None

    def is_known_to_live(self) -> bool:
        """Whether an answer is so young that a status can be told from it."""
        return self.answered_within(min(STATUS_SECONDS, self._limits.reuse_seconds))

    def background_ping(self, nursery: trio.Nursery) -> trio.Event:
        """Have the node pinged, unless that is under way; the event tells when it is over."""
        if self._ping_over is None:
            self._ping_over = trio.Event()
            nursery.start_soon(self._ping_in_background, self._ping_over)
        return self._ping_over

    async def _ping_in_background(self, over: trio.Event) -> None:
        try:
            await self._ping_and_log()
        finally:
            self._ping_over = None
            over.set()

    async def watch(self) -> None:
        """Ping the node from time to time, for ever."""
        while True:
            await trio.sleep(max(0.0, self._next_ping() - self._clock()))
            await self._ping_and_log()

    async def _ping_and_log(self) -> None:
        """A ping whose failure, of whatever kind, ends nothing else."""
        try:
            await self.ping(max_age=0)
        except Exception:
            logger.exception("ping failed", extra={"facts": {"server": self.server, "instance": self.number}})
            self._failed(NodeUnreachable("internal error"))

    def _next_ping(self) -> float:
        if not self.up and self._failed_at is not None:
            return self._failed_at + max(self._limits.down_seconds, MIN_REST_SECONDS)
        return self._clock() if self._pinged_at is None else self._pinged_at + self._limits.ping_every_seconds

    async def ping(self, *, max_age: float) -> PingReply | None:
        """What the node says of itself, or None if it does not answer or is left alone.

        Args:
            max_age: an answer younger than this, in seconds, is good enough.
        """
        async with self._lock:
            if self.is_left_alone():
                return None
            if self.answered_within(max_age):
                return self.ping_reply
            try:
                reply = await self._ask(PingRequest, seconds=self._limits.ping_seconds)
            except NodeUnreachable:
                return None
            self.ping_reply = parse_ping_reply(reply)
            self._ftp_port = self.ping_reply.listen_port or self._ftp_port
            self._pinged_at = self._clock()
            return self.ping_reply

    def _answered(self) -> None:
        if not self.up:
            event("data node is back", server=self.server, instance=self.number)
        self.up = True
        self._failed_at = None
        self._last_reason = ""

    def _failed(self, error: NodeUnreachable) -> None:
        # A node that stays down is asked again and again; once said is enough.
        known = not self.up and str(error) == self._last_reason
        event(
            "data node does not answer",
            level=logging.DEBUG if known else logging.WARNING,
            server=self.server,
            instance=self.number,
            reason=str(error),
        )
        self.up = False
        self._failed_at = self._clock()
        self._last_reason = str(error)

    # -- requests ---------------------------------------------------------------------------------------------------

    async def transfer(self, request: TransferRequest) -> Announced:
        """Have the node expect a session.

        Each attempt has a secret of its own, whatever the request says: a node that fell silent may have it.

        Raises:
            NodeUnreachable: no reply.
            RequestRefused: the node's own words, or it cannot keep to the request's restrictions.
        """
        features = self.ping_reply.features if self.ping_reply is not None else ()
        extensions = bool(features)
        if request.peers and COPIES not in features:
            request = replace(request, peers=())
        if needs_extensions(request) and not extensions:
            raise RequestRefused("this data node is too old for restricted sessions")
        attempt = request

        def next_attempt() -> TransferRequest:
            nonlocal attempt
            attempt = replace(request, secret=new_secret())
            return attempt

        reply = await self._ask(next_attempt, extensions=extensions)
        port = parse_transfer_reply(reply)
        self._ftp_port = port or self._ftp_port
        return Announced(port, attempt.secret)

    async def user_info(self, account: str) -> UserInfoReply:
        """Home and accepted SSH keys of an account.

        Raises:
            NodeUnreachable: no reply.
            RequestRefused: the node's own words, for an account it does not know or serve.
        """
        return parse_user_info_reply(await self._ask(lambda: UserInfoRequest(account)))

    async def _ask(
        self, next_attempt: Callable[[], Request], *, extensions: bool = False, seconds: float | None = None
    ) -> bytes:
        """One exchange, repeated where that may help; settles the node's health."""
        try:
            try:
                reply = await self._port.exchange(self.settings, next_attempt(), extensions=extensions, seconds=seconds)
            except NodeUnreachable as error:
                if not error.worth_repeating:
                    raise
                reply = await self._port.exchange(self.settings, next_attempt(), extensions=extensions, seconds=seconds)
        except NodeUnreachable as error:
            self._failed(error)
            raise
        self._answered()
        return reply

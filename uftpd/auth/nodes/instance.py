"""One data node as the auth server sees it: does it live, what can it do (CONTROL-PLANE section 3)."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from uftp.protocol.command_port import PingRequest, TransferRequest, UserInfoRequest
from uftp.protocol.command_replies import (
    PingReply,
    UserInfoReply,
    parse_ping_reply,
    parse_transfer_reply,
    parse_user_info_reply,
)
from uftpd.auth.events import event
from uftpd.auth.nodes.client import CommandPort, NodeUnreachable
from uftpd.config.auth import CommandPortClient, Instance

STATUS_PING_SECONDS = 60.0  # reading the status of a node asks for a new ping if the last one is older


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
        self._lock = trio.Lock()

    def is_left_alone(self) -> bool:
        """Whether it failed so shortly ago that it is not contacted."""
        return (
            not self.up and self._failed_at is not None and self._clock() < self._failed_at + self._limits.down_seconds
        )

    def wants_ping(self) -> bool:
        """Whether somebody who reads the status should have a ping sent."""
        if self.is_left_alone() or self._lock.locked():
            return False
        return self._pinged_at is None or self._clock() > self._pinged_at + STATUS_PING_SECONDS

    async def ping(self, *, max_age: float) -> PingReply | None:
        """What the node says of itself, or None if it does not answer or is left alone.

        Args:
            max_age: an answer younger than this, in seconds, is good enough.
        """
        async with self._lock:
            if self.is_left_alone():
                return None
            if self.up and self._pinged_at is not None and self._clock() < self._pinged_at + max_age:
                return self.ping_reply
            try:
                reply = await self._port.exchange(self.settings, PingRequest())
            except NodeUnreachable as error:
                self._failed(error)
                return None
            self.ping_reply = parse_ping_reply(reply)
            self._pinged_at = self._clock()
            self._answered()
            return self.ping_reply

    async def transfer(self, request: TransferRequest) -> int:
        """Have the node expect a session.

        Returns:
            The FTP port to log in at.

        Raises:
            NodeUnreachable: no reply.
            RequestRefused: the node's own words.
        """
        extensions = self.ping_reply is not None and bool(self.ping_reply.features)
        try:
            reply = await self._port.exchange(self.settings, request, extensions=extensions)
        except NodeUnreachable as error:
            self._failed(error)
            raise
        self._answered()
        return parse_transfer_reply(reply)

    async def user_info(self, account: str) -> UserInfoReply:
        """Home and accepted SSH keys of an account.

        Raises:
            NodeUnreachable: no reply.
            RequestRefused: the node's own words, for an account it does not know or serve.
        """
        try:
            reply = await self._port.exchange(self.settings, UserInfoRequest(account))
        except NodeUnreachable as error:
            self._failed(error)
            raise
        self._answered()
        return parse_user_info_reply(reply)

    def _answered(self) -> None:
        if not self.up:
            event("data node is back", server=self.server, instance=self.number)
        self.up = True
        self._failed_at = None

    def _failed(self, error: NodeUnreachable) -> None:
        event(
            "data node does not answer",
            level=logging.WARNING,
            server=self.server,
            instance=self.number,
            reason=str(error),
        )
        self.up = False
        self._failed_at = self._clock()

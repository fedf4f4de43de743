"""A data node for tests of the auth server: a command port over real sockets, and nothing behind."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from uftp.protocol.command_port import (
    PingRequest,
    RequestReader,
    RequestRefused,
    TransferRequest,
    UserInfoRequest,
    parse_request,
)
from uftp.protocol.command_replies import (
    PingReply,
    UserInfoReply,
    encode_ping_reply,
    encode_refusal,
    encode_transfer_reply,
    encode_user_info_reply,
)


@dataclass
class FakeNode:
    """What the node answers, and what it was asked.

    Attributes:
        refusal: answer transfer requests with this error.
        raw_reply: answer everything with these bytes.
        silent: accept connections and say nothing.
        closed: close connections without a byte, as for a peer that is not on the list.
        ends_resumed: close connections that resume a session of TLS.
        resumed: connections that did.
        keys: SSH keys it reports, by account; it knows no other accounts.
        asked_for_keys: the accounts it was asked about.
        mute: so many transfer requests are taken without an answer.
    """

    ping: PingReply = field(default_factory=lambda: PingReply(version="3.5.3", max_sessions=16))
    ftp_port: int = 64434
    refusal: str | None = None
    raw_reply: bytes | None = None
    silent: bool = False
    closed: bool = False
    address: str = ""
    fields: list[Mapping[str, str]] = field(default_factory=list)
    transfers: list[TransferRequest] = field(default_factory=list)
    pings: int = 0
    ends_resumed: bool = False
    resumed: int = 0
    mute: int = 0
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked_for_keys: list[str] = field(default_factory=list)

    async def handle(self, stream: trio.abc.Stream) -> None:
        async with stream:
            try:
                await self._answer(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _answer(self, stream: trio.abc.Stream) -> None:
        reader = RequestReader()
        fields = None
        while self.silent and await stream.receive_some(4096):
            pass
        if isinstance(stream, trio.SSLStream):
            await stream.do_handshake()
            self.resumed += stream.session_reused
            if self.ends_resumed and stream.session_reused:
                return
        while fields is None:
            data = await stream.receive_some(4096)
            if not data or self.closed:
                return
            fields = reader.receive_data(bytes(data))
        self.fields.append(dict(fields))
        reply = self._reply(fields)
        if self.mute and "secret" in fields:
            self.mute -= 1
            return
        await stream.send_all(reply)

    def _reply(self, fields: Mapping[str, str]) -> bytes:
        if self.raw_reply is not None:
            return self.raw_reply
        try:
            request = parse_request(fields)
        except RequestRefused as error:
            return encode_refusal(str(error))
        if isinstance(request, PingRequest):
            self.pings += 1
            return encode_ping_reply(self.ping)
        if isinstance(request, UserInfoRequest):
            self.asked_for_keys.append(request.user)
            if request.user not in self.keys:
                return b"500 No such user or no home directory found\n"
            home = f"/home/{request.user}"
            return encode_user_info_reply(
                UserInfoReply(version="1", user=request.user, home=home, accepted_keys=self.keys[request.user])
            )
        assert isinstance(request, TransferRequest)
        self.transfers.append(request)
        return encode_refusal(self.refusal) if self.refusal else encode_transfer_reply(self.ftp_port)


@asynccontextmanager
async def serving(node: FakeNode, tls: ssl.SSLContext | None = None, *, port: int = 0) -> AsyncIterator[FakeNode]:
    """Serve the node on loopback, on a free port unless one is given; its `address` states it."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        node.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        handlers: list[trio.abc.Listener[trio.abc.Stream]] = list(listeners)
        if tls is not None:
            handlers = [trio.SSLListener(listener, tls) for listener in listeners]
        nursery.start_soon(trio.serve_listeners, node.handle, handlers)
        yield node
        nursery.cancel_scope.cancel()

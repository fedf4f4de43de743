"""Bodies that are sent as they come, and end with their connection if they cannot be finished.

A client knows a whole body by its length or its last chunk. So whatever goes wrong in the middle, nothing may look like
an end: the reply is left unfinished, and the server closes the connection with a reset (`uftpd.auth.http_connection`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from uftp.errors import UFTPError
from uftpd.auth.edge import context_of_scope
from uftpd.auth.errors import RequestError
from uftpd.auth.http_connection import OUTGOING, OutgoingBytes
from uftpd.auth.shares.failures import as_request_error, shown

SMALL: Final = 128 * 1024


class End(Enum):
    """How a body ended."""

    WHOLE = "delivered"
    CLIENT_LEFT = "delivery cut off by the client"
    STOPPED = "delivery stopped"
    FAILED = "delivery failed"


class Sink:
    """Where the parts of a body go. With the first one the reply begins.

    Attributes:
        sent: bytes that the connection has taken.
        begun: whether the reply has begun.
        withdrawn: whether the share was, meanwhile; then the connection ends, but it is not the client that has left.
    """

    def __init__(self, send: Send, start: Message) -> None:
        self._send = send
        self._start = start
        self.sent = 0
        self.begun = False
        self.withdrawn = False

    async def begin(self) -> None:
        """Send status and headers, if they are not sent yet."""
        if not self.begun:
            self.begun = True
            await self._send(self._start)

    async def put(self, data: bytes) -> None:
        """Send a part; returns when the connection has taken it."""
        await self.begin()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.sent += len(data)


class Streamed(Response):
    """A reply whose body `produce` sends.

    Args:
        status: of the reply.
        headers: of the reply; without Content-Length it is sent in chunks.
        produce: puts the body into the sink, all of it, or raises.
        finished: told how it ended, and how many bytes the connection took; shielded from cancellation.
        confirm: whether it counts as delivered only when the client's system has it all.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        produce: Callable[[Sink], Awaitable[None]],
        finished: Callable[[End, int], Awaitable[None]],
        *,
        confirm: bool = False,
    ) -> None:
        super().__init__(None, status)
        self.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
        ]
        self._produce = produce
        self._finished = finished
        self._confirm = confirm

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        context = context_of_scope(scope)
        context.becomes_transfer()
        start: Message = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        sink = Sink(send, start)
        end = End.STOPPED
        failure: Exception | None = None
        left = complete = False
        outgoing: OutgoingBytes | None = scope.get("state", {}).get(OUTGOING)

        async def watch() -> None:
            nonlocal left, end
            while (await receive())["type"] != "http.disconnect":
                pass
            if complete and outgoing is not None and not outgoing.waiting():
                end = End.WHOLE  # it had all it was to get, and closed before we could say so
            left = True
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                try:
                    await self._produce(sink)
                    complete = True
                    if self._confirm and outgoing is not None:
                        await outgoing.wait_taken()
                    end = End.WHOLE
                except Exception as error:
                    failure = error
                    end = End.FAILED
                nursery.cancel_scope.cancel()
            if sink.withdrawn and end is not End.WHOLE:
                end = End.STOPPED
            elif end is End.STOPPED and left:
                end = End.CLIENT_LEFT
            if end is End.WHOLE and not left:
                await sink.begin()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            context.outcome = end.value
            context.facts["bytes"] = sink.sent
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 15):
                await self._finished(end, sink.sent)
        if failure is None:
            return
        if isinstance(failure, UFTPError):
            context.facts["reason"] = shown(failure)
            failure = as_request_error(failure)
        if not sink.begun or not isinstance(failure, RequestError):
            raise failure  # an error reply as any other; or one for the log
        context.facts.setdefault("reason", shown(failure))

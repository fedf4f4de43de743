"""An HTTPS server of a few lines that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import json
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from running_auth import Pki


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        line: the first one.
        headers: names in lower case.
        body: all of it.
    """

    line: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class SmallHttps:
    """The server.

    Attributes:
        answers: status and body of the answers to come, and a place for a redirect; then 200 for ever.
        asked: the requests so far.
        url: where it is.
        connections: so many were made.
    """

    answers: deque[tuple[int, bytes, str]] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    connections: int = 0

    async def handle(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        """One request a connection."""
        self.connections += 1
        try:
            async with stream:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = await stream.receive_some(65536)
                    if not data:
                        return
                    head += data
                head, _, body = head.partition(b"\r\n\r\n")
                line, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
                while len(body) < int(headers.get("content-length", "0")):
                    body += await stream.receive_some(65536)
                self.asked.append(Asked(line, headers, body))
                status, answer, place = self.answers.popleft() if self.answers else (200, b"{}", "")
                more = f"Location: {place}\r\n" if place else ""
                text = f"HTTP/1.1 {status} X\r\n{more}Content-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
                await stream.send_all(text.encode() + answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


@asynccontextmanager
async def small_https(pki: Pki) -> AsyncIterator[SmallHttps]:
    """Serve on a free port of loopback, for the block."""
    server = SmallHttps()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    pki.ca.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
        server.url = f"https://127.0.0.1:{listeners[0].transport_listener.socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, server.handle, listeners)
        yield server
        nursery.cancel_scope.cancel()

"""Heads of HTTP requests to the object server, sans I/O (RFC 9112, and no more of it than one object needs).

Only GET and HEAD are served, and neither may bring a body: so there is no framing that two readers of one connection
could understand differently. A head that is not exactly what the RFC says (a bare line feed, a blank before a colon,
a folded or repeated line that counts once) is answered 400, and the connection ends. General HTTP libraries were not
taken, since each child of the spawner would carry them, and each request pays for what is never asked for here.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_HEAD_BYTES: Final = 16 * 1024
_MAX_FIELDS: Final = 100

_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_ABSOLUTE = re.compile(r"https?://[^/?#]+", re.IGNORECASE)
_END: Final = b"\r\n\r\n"
_REASONS: Final = {
    200: "OK",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    412: "Precondition Failed",
    416: "Range Not Satisfiable",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class BadRequest(Exception):
    """A request that is answered with this status, and its connection closed.

    Attributes:
        status: of the answer.
    """

    def __init__(self, status: int) -> None:
        super().__init__(_REASONS[status])
        self.status = status


@dataclass(frozen=True, slots=True)
class ObjectRequest:
    """A request for an object.

    Attributes:
        method: GET or HEAD.
        secret: what names the object; empty if the target is no `/o/<secret>`.
        below: decoded steps behind the secret; None if one of them can be no file name.
        headers: names in lower case, repeated ones joined with commas.
        keep_alive: the client wants to ask for more on this connection.
    """

    method: str
    secret: str
    below: tuple[bytes, ...] | None
    headers: Mapping[str, str]
    keep_alive: bool


class HeadReader:
    """Cuts a connection's bytes into heads. Feed it with `receive_data`, then ask for `next_head`."""

    def __init__(self, received: bytes = b"") -> None:
        self._buffer = bytearray(received)
        self._searched = 0

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._buffer += data

    def next_head(self) -> bytes | None:
        """A whole head with its end, None if more has to come.

        Raises:
            BadRequest: too large, or not HTTP.
        """
        if self._searched == 0 and self._buffer[:2] == b"\r\n":  # old clients end a request so (RFC 9112 2.2)
            del self._buffer[:2]
        end = self._buffer.find(_END, max(0, self._searched - 3), MAX_HEAD_BYTES)
        if end < 0:
            if len(self._buffer) >= MAX_HEAD_BYTES:
                raise BadRequest(431)
            # Who ends lines otherwise would wait for an answer, and we for the end of the head.
            feed = self._buffer.find(b"\n", self._searched)
            while feed >= 0:
                if self._buffer[feed - 1 : feed] != b"\r":
                    raise BadRequest(400)
                feed = self._buffer.find(b"\n", feed + 1)
            self._searched = len(self._buffer)
            return None
        head = bytes(self._buffer[: end + len(_END)])
        del self._buffer[: end + len(_END)]
        self._searched = 0
        return head

    @property
    def rest(self) -> bytes:
        """What is behind the last head."""
        return bytes(self._buffer)


def parse_head(head: bytes) -> ObjectRequest:
    """Understand a head as `HeadReader` cuts it.

    Raises:
        BadRequest: it is no GET or HEAD of the form that is served.
    """
    first, *lines = head[: -len(_END)].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise BadRequest(505 if re.search(rb" HTTP/[02-9]\.[0-9]$", first) else 400)
    headers = _fields(lines)
    is_1_1 = match[3] == b"1"
    if (is_1_1 and "host" not in headers) or "," in headers.get("host", ""):
        raise BadRequest(400)
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise BadRequest(400)
    method = match[1].decode()
    if method not in ("GET", "HEAD"):
        raise BadRequest(405)
    secret, below = _target(match[2].decode("ascii"))
    options = {word.strip() for word in headers.get("connection", "").lower().split(",")}
    keep_alive = "close" not in options if is_1_1 else "keep-alive" in options
    return ObjectRequest(method, secret, below, headers, keep_alive)


def _fields(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > _MAX_FIELDS:
        raise BadRequest(431)
    headers: dict[str, str] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadRequest(400)
        name, value = match[1].decode().lower(), match[2].decode("latin-1").rstrip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _target(target: str) -> tuple[str, tuple[bytes, ...] | None]:
    absolute = _ABSOLUTE.match(target)
    path = (target[absolute.end() :] if absolute else target).partition("?")[0].partition("#")[0]
    root, *steps = path.split("/")
    if root or len(steps) < 2 or steps[0] != "o":
        return "", None
    return urllib.parse.unquote(steps[1], errors="surrogateescape"), _below(steps[2:])


def _below(steps: list[str]) -> tuple[bytes, ...] | None:
    below = tuple(urllib.parse.unquote_to_bytes(step) for step in steps)
    if below and below[-1] == b"":
        below = below[:-1]
    if any(step in (b"", b".", b"..") or b"/" in step or b"\0" in step for step in below):
        return None
    return below


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return f"HTTP/1.1 {status} {_REASONS[status]}\r\n".encode()


def plain_answer(status: int, *, with_body: bool = True, close: bool = True, more: str = "") -> bytes:
    """A whole answer about nothing but its status.

    Args:
        status: of it.
        with_body: False for HEAD.
        close: whether the connection ends with it.
        more: further header lines, each with its end.
    """
    body = f"{status} {_REASONS[status]}\n".encode()
    fields = (
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        f"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
        f"Connection: {'close' if close else 'keep-alive'}\r\n"
    )
    if status == 405:
        more += "Allow: GET, HEAD\r\n"
    if status in (429, 503):
        more += "Retry-After: 5\r\n"
    return status_line(status) + (fields + more + "\r\n").encode() + (body if with_body else b"")

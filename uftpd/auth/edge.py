"""What every request passes before a resource sees it: a number, a time limit, a place, and errors as JSON.

Also the one log line a request: resources add their facts to the context, this module writes them when the reply is
on its way. Peers never see tracebacks.
"""

from __future__ import annotations

import logging
import math
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from uftp.protocol.command_port import IPAddress
from uftpd.auth.addresses import TrustedProxies, parse_address
from uftpd.auth.errors import BadRequest, RequestError, Unavailable
from uftpd.auth.events import event, logger
from uftpd.auth.metrics import Metrics
from uftpd.config.auth import Limits
from uftpd.events import Fact

UNKNOWN_SESSION = 432  # the protocol's own status: unknown security session

_CONTEXT = "uftpd.context"
_NO_ADDRESS = "0.0.0.0"  # stands for a peer without address
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
_SHARE_ID = re.compile(r"(/rest/+(?:access|share)/+[^/]+/+[^/]{8})[^/]*")  # secret: logs have its beginning
_CLIENT_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# These two stand in every reply, whoever makes it.
HEADERS_OF_ALL = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))

# Replies are for programs: a browser that is made to open one shall not run, frame, guess at or pass on any of it.
_SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_TEXTS = {404: "No such resource, please check your URL", 405: "This resource does not have that method"}


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request.

    Attributes:
        request_id: names it in our log, and in that of the data node.
        peer: address of the client, as a trusted proxy says if there is one.
        forwarded: all that a trusted proxy says of the client's addresses; None without one.
        facts: for the log line.
        outcome: text of the log line.
        reply_headers: further headers of the reply, whatever it will be.
        resource: its path in the table of resources; empty if there is none.
        becomes_transfer: called when the request begins to move a file: it has no time limit from then on, and gives up
            its place among the requests served at once. What bounds it is how fast the peer takes or sends.
    """

    request_id: str
    peer: IPAddress
    forwarded: str | None
    facts: dict[str, Fact] = field(default_factory=dict)
    outcome: str = "request"
    reply_headers: dict[str, str] = field(default_factory=dict)
    resource: str = ""
    becomes_transfer: Callable[[], None] = field(default=lambda: None, repr=False)


async def _discard(receive: Receive) -> None:
    """Read what a request that was refused early still sends.

    Else a body of more pieces than the server keeps for us would hold up the end of the reply, until the peer leaves.
    """
    more = True
    while more:
        more = bool((await receive()).get("more_body", False))


def context_of(request: Request) -> RequestContext:
    """The context of a request that came through `Edge`."""
    return context_of_scope(request.scope)


def context_of_scope(scope: Scope) -> RequestContext:
    """As `context_of`, for the scope of the request."""
    context = scope[_CONTEXT]
    assert isinstance(context, RequestContext)  # noqa: S101 - for the type checker
    return context


def error_reply(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as clients read it (CONTROL-PLANE 1.2)."""
    body = {"errorMessage": text, "status": status}
    return JSONResponse(body, status, dict(headers or {}))


def _request_id(scope: Scope) -> str:
    """As the client calls its request, if that is a plain word, so that its log and ours name the same; else new."""
    named = [value for key, value in scope["headers"] if key.lower() == b"x-request-id"]
    if len(named) == 1 and _CLIENT_ID.fullmatch(named[0]):
        return str(named[0], "ascii")
    return secrets.token_hex(8)


def _check_framing(scope: Scope) -> None:
    """Refuse a body with two lengths, and all that comes behind it on this connection (RFC 9112 section 6.1).

    A proxy that goes by the other length would take what is in the body for nobody's, and we for the proxy's word.

    Raises:
        BadRequest: there are two.
    """
    names = {key.lower() for key, _ in scope["headers"]}
    if {b"transfer-encoding", b"content-length"} <= names:
        text = "Content-Length and Transfer-Encoding exclude each other"
        raise BadRequest(text, headers={"Connection": "close"})


def _complete(headers: Iterable[tuple[bytes, bytes]], context: RequestContext) -> list[tuple[bytes, bytes]]:
    """The headers of a reply, with those every reply has; what a resource set itself stands."""
    found = [*headers, (b"x-request-id", context.request_id.encode())]
    found += [(key.encode("latin-1"), value.encode("latin-1")) for key, value in context.reply_headers.items()]
    present = {key.lower() for key, _ in found}
    return found + [header for header in _SECURITY_HEADERS if header[0] not in present]


class Edge:
    """The outermost ASGI application."""

    def __init__(
        self,
        inner: ASGIApp,
        limits: Limits,
        proxies: TrustedProxies,
        metrics: Metrics,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._inner = inner
        self._limits = limits
        self._proxies = proxies
        self._metrics = metrics
        self._clock = clock
        self._places = trio.CapacityLimiter(limits.requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            else:
                await self._inner(scope, receive, send)
            return
        start = self._clock()
        context = RequestContext(_request_id(scope), *self._client(scope))
        scope[_CONTEXT] = context
        scope["app"] = self  # makes the router raise instead of answering in plain text
        status = 0

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _complete(message.get("headers", ()), context)
            await send(message)

        self._metrics.in_flight.inc()
        try:
            reply = await self._serve(scope, receive, watched_send, context)
            if reply is not None and not status:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_discard, receive)
                    await reply(scope, receive, watched_send)
                    nursery.cancel_scope.cancel()
        finally:
            self._count(context, scope["method"], status, self._clock() - start)
            # What is about the request comes first in the line, then what the resource found out.
            about: dict[str, Any] = {
                "id": context.request_id,
                "peer": str(context.peer),
                "method": scope["method"],
                "path": _SHARE_ID.sub(r"\1...", scope["path"]),
                "status": status,
                "seconds": self._clock() - start,
            }
            event(context.outcome, **(about | context.facts))

    def _count(self, context: RequestContext, method: str, status: int, seconds: float) -> None:
        # A label must be one of few words; a stranger may send any method to any path.
        resource = context.resource or "none"
        self._metrics.in_flight.dec()
        self._metrics.requests.labels(resource, method if method in _METHODS else "other", str(status)).inc()
        self._metrics.request_seconds.labels(resource).observe(seconds)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, context: RequestContext) -> Response | None:
        """Run the inner application; what it raises becomes the reply to send."""
        try:
            _check_framing(scope)
            try:
                self._places.acquire_on_behalf_of_nowait(context)
            except trio.WouldBlock:
                raise Unavailable("This server is too busy, try again later") from None
            waits = True

            def give_place_up() -> None:
                nonlocal waits
                if waits:
                    waits = False
                    self._places.release_on_behalf_of(context)

            def become_transfer() -> None:
                give_place_up()
                timer.deadline = math.inf

            context.becomes_transfer = become_transfer
            try:
                with trio.fail_after(self._limits.request_seconds) as timer:
                    await self._inner(scope, receive, send)
            finally:
                give_place_up()
        except RequestError as error:
            context.facts.setdefault("reason", str(error))
            if error.status == UNKNOWN_SESSION:  # without a body, by the protocol
                return Response(status_code=error.status)
            return error_reply(error.status, str(error), error.headers)
        except HTTPException as error:
            return error_reply(error.status_code, _TEXTS.get(error.status_code, error.detail), error.headers)
        except trio.TooSlowError:
            return error_reply(503, "The request took too long, try again later")
        except Exception:
            logger.exception("request failed", extra={"facts": {"id": context.request_id}})
            return error_reply(500, f"Internal error; the server's log has it as request {context.request_id}")
        return None

    def _client(self, scope: Scope) -> tuple[IPAddress, str | None]:
        host = scope["client"][0] if scope.get("client") else _NO_ADDRESS
        peer = parse_address(host) or parse_address(_NO_ADDRESS)
        assert peer is not None  # noqa: S101 - for the type checker
        if peer not in self._proxies:
            return peer, None
        named = [v.decode("latin-1") for k, v in scope["headers"] if k.lower() == b"x-unicore-consignor-ip"]
        if not named:
            return peer, None
        # One that the client sent itself may stand beside the proxy's: then neither is believed.
        forwarded = named[0] if len(named) == 1 else ""
        addresses = (parse_address(item) for item in forwarded.replace(",", " ").split())
        return next((address for address in addresses if address is not None), peer), forwarded


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        RequestError: 413 if it is too large, 408 if it does not come in time.
        BadRequest: the client went away.
    """
    body = bytearray()
    try:
        with trio.fail_after(limits.body_seconds):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > limits.body_bytes:
                        text = f"The request body is larger than {limits.body_bytes} bytes"
                        raise RequestError(text, status=413)
    except trio.TooSlowError:
        raise RequestError("The request body did not come in time", status=408) from None
    except RequestError:
        raise
    except Exception as error:
        event("request cut off", level=logging.DEBUG, id=context_of(request).request_id, reason=str(error))
        raise BadRequest("The request was cut off") from None
    return bytes(body)

"""Errors as pages, for people: what a resource raises becomes a page if the request comes from a browser.

Programs get the JSON of the edge, which stands in front of this.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from uftpd.auth.edge import context_of
from uftpd.auth.errors import RequestError
from uftpd.auth.pages.negotiation import prefers_page
from uftpd.auth.pages.render import error_page
from uftpd.auth.pages.views import ErrorView

_PLACES = ("/ui/", "/rest/access/")
_WITH_LOGIN = "/rest/access/"
_ASK = 'Basic realm="UFTP", charset="UTF-8"'
_NOT_KNOWN, _NOT_LET_IN = 401, 403


def base_path(external_url: str) -> str:
    """The path below which a server is reached, without a `/` at its end; mostly empty."""
    return urlsplit(external_url).path.rstrip("/")


class ErrorPages:
    """An ASGI application around another one.

    Args:
        inner: raises `RequestError` and `HTTPException`.
        base: path in front of all addresses.
    """

    def __init__(self, inner: ASGIApp, base: str) -> None:
        self._inner = inner
        self._base = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or not scope["path"].startswith(_PLACES) or not prefers_page(Request(scope)):
            await self._inner(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._inner(scope, receive, watched)
        except RequestError as error:
            if started:
                raise
            context_of(Request(scope)).facts.setdefault("reason", str(error))
            await self._answer(scope, receive, send, error.status, str(error), error.headers)
        except HTTPException as error:
            if started:
                raise
            await self._answer(scope, receive, send, error.status_code, "", dict(error.headers or {}))

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        status: int,
        text: str,
        headers: MutableMapping[str, Any],
    ) -> None:
        request = Request(scope)
        if scope["path"].startswith(_WITH_LOGIN):
            shown = request.headers.get("authorization", "").lower()
            # A browser remembers a password until it is told 401; with another status it would never ask again.
            if status == _NOT_LET_IN and shown.startswith("basic "):
                status = _NOT_KNOWN
            if status == _NOT_KNOWN:
                headers.setdefault("WWW-Authenticate", _ASK)
        view = ErrorView(status=status, text=text, request_id=context_of(request).request_id, base=self._base)
        await error_page(view, headers=headers)(scope, receive, send)

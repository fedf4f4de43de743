"""People who have logged in by a browser.

The cookie is the id of a security session (CONTROL-PLANE 1.1), so that it holds at every auth server of a site, from
one address, no longer than the credentials it came from, and can be ended. It is only read below `/ui/`, and only
together with a form's token is anything changed by it.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from uftpd.auth.caller import Callers
from uftpd.auth.endpoints import Access, Caller, check_role
from uftpd.auth.errors import Refused, Unavailable
from uftpd.auth.pages.forms import check_origin, form_token, read_form
from uftpd.auth.security_sessions import SecuritySession, UnknownSession
from uftpd.config.auth import Limits

PLACE = "/ui"
IDLE_SECONDS = 3600
"""A browser forgets its cookie when it has shown it to nobody for so long."""

_LOGIN_COOKIE = "uftp-login"
_FORM_COOKIE = "uftp-form"
_MAX_COOKIE = 64


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who has logged in.

    Attributes:
        caller: who, and what they may.
        session: shown by the cookie.
    """

    caller: Caller
    session: SecuritySession

    @property
    def token(self) -> str:
        """For the forms of this person's pages."""
        return form_token(self.session.id)


class Visitors:
    """Logs people in and out.

    Args:
        callers: knows people.
        base: path in front of all addresses.
        external_url: as configured.
    """

    def __init__(self, callers: Callers, base: str, external_url: str) -> None:
        self._callers = callers
        self._base = base
        self._https = external_url.startswith("https:")

    async def find(self, request: Request) -> Visitor | None:
        """Who shows a cookie; None if nobody does, or not any more.

        Raises:
            Refused: somebody who may not use this server.
        """
        shown = request.cookies.get(_LOGIN_COOKIE, "")
        if not 0 < len(shown) <= _MAX_COOKIE:
            return None
        try:
            caller, session = await self._callers.find_by_session(shown, request)
        except UnknownSession:
            return None
        if not caller.identity.method:
            return None  # the anonymous user
        check_role(Access.MEMBERS, caller.granted.role)
        return Visitor(caller, session)

    async def sent(self, request: Request, limits: Limits) -> tuple[Visitor | None, Mapping[str, str]]:
        """Who sent a form, and what is in it.

        Raises:
            Refused: it was not sent by our own page.
            RequestError: it cannot be read.
        """
        form = await read_form(request, limits)
        visitor = await self.find(request)
        if visitor is not None:
            check_origin(request, form, visitor.session.id)
        return visitor, form

    async def log_in(self, form: Mapping[str, str], request: Request) -> Visitor:
        """Log somebody in with a name and a password, or with a token of any kind this server takes.

        Raises:
            Refused: that is not accepted.
            Unavailable: there is no session to be had.
            RequestError: this server cannot find that out now.
        """
        if bearer := form.get("bearer", "").strip():
            if not bearer.isascii() or not bearer.isprintable() or " " in bearer:
                raise Refused("That is no token")
            authorization = f"Bearer {bearer}"
        else:
            user, password = form.get("user", ""), form.get("password", "")
            if not user or not password or ":" in user:
                raise Refused("Name or password is missing")
            authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        caller, session = await self._callers.log_in(authorization, request)
        if not caller.identity.method:
            raise Refused("Name or password is missing")
        check_role(Access.MEMBERS, caller.granted.role)
        if session is None:
            raise Unavailable("Nobody can log in by a browser just now: security sessions are off, or too many")
        return Visitor(caller, session)

    async def log_out(self, visitor: Visitor) -> None:
        """End the session.

        Raises:
            StoreUnavailable: it cannot be ended now.
        """
        await self._callers.log_out(visitor.session)

    def remember(self, response: Response, visitor: Visitor, request: Request) -> None:
        """Give the browser its cookie, or make it last longer."""
        left = int(min(IDLE_SECONDS, visitor.session.expires - time.time()))
        self._set(response, _LOGIN_COOKIE, visitor.session.id, max(1, left), request)

    def forget(self, response: Response, request: Request) -> None:
        """Take the cookies from the browser."""
        for name in (_LOGIN_COOKIE, _FORM_COOKIE):
            self._set(response, name, "", 0, request)

    def stranger(self, request: Request) -> str:
        """What the cookie says of somebody who has not logged in; it is for the token of the form alone."""
        shown = request.cookies.get(_FORM_COOKIE, "")
        return shown if len(shown) <= _MAX_COOKIE else ""

    def meet(self, response: Response, request: Request, secret: str) -> None:
        """Give a stranger's browser the cookie that the form needs."""
        self._set(response, _FORM_COOKIE, secret, IDLE_SECONDS, request)

    def _set(self, response: Response, name: str, value: str, seconds: int, request: Request) -> None:
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path=self._base + PLACE,
            secure=self._https or request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


def new_secret() -> str:
    """For a stranger's cookie."""
    return secrets.token_urlsafe(18)

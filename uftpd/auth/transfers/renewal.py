"""Logging in at another auth server with what the owner has left here, and keeping that valid.

A token that its server calls renewable is exchanged for the next one when half of its time is over (CONTROL-PLANE
1.5, 5.4); a refresh token gets a token when there is none, or the last one was refused (RFC 6749 section 6). What comes
of it is kept at once, before it is used: providers take a refresh token only once.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import httpx2
import trio

from uftp.client.credentials import UsernamePassword, checked_token
from uftp.client.vetted_http import Answer, exchange
from uftp.errors import AuthenticationFailed, NetworkError, UFTPError, UsageError
from uftpd.auth.events import logger
from uftpd.auth.transfers.credentials import StoredCredential

Keep = Callable[[StoredCredential], Awaitable[None]]
"""Keeps a renewed credential. Raises what it likes: then the new one is not used."""

_SECONDS: Final = 30.0
_SHIELD_SECONDS: Final = 90.0
_MARGIN_SECONDS: Final = 30.0  # a token that ends so soon is not shown any more
_MAX_REPLY: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class TokenTimes:
    """What a token says of itself; nobody has verified it.

    Attributes:
        issued, ends: Unix seconds; 0 if it does not say.
        renewable: its server gives another one for it.
        limited: it is for that server only.
    """

    issued: float = 0.0
    ends: float = 0.0
    renewable: bool = False
    limited: bool = False

    @classmethod
    def of(cls, token: str) -> TokenTimes:
        """Of a JWT; nothing is known of any other token."""
        parts = token.split(".")
        try:
            claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
            is_delegation = str(claims.get("etd", "")).lower() == "true"
            return cls(
                issued=float(claims.get("iat") or 0),
                ends=float(claims.get("exp") or 0),
                renewable=is_delegation and str(claims.get("renewable", "")).lower() == "true",
                limited="aud" in claims,
            )
        except (IndexError, ValueError, TypeError, AttributeError, binascii.Error, RecursionError):
            return cls()


class StoredLogin:
    """A credential in the sense of `uftp.client.credentials`, which renews itself as far as it can.

    Args:
        stored: what the owner has left.
        service: URL of the auth server's session resource, `https://HOST/rest/auth/NAME`.
        http: a client that connects only where this site allows it.
        keep: told of each new one.
        clock: Unix seconds.
    """

    method = "STORED"

    def __init__(
        self,
        stored: StoredCredential,
        service: str,
        http: httpx2.AsyncClient,
        keep: Keep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stored = stored
        self._base = service.rpartition("/")[0]
        self._http = http
        self._keep = keep
        self._clock = clock
        self._lock = trio.Lock()

    @property
    def description(self) -> str:
        """What is tried, for error texts."""
        if self._stored.username:
            return f"the stored password of {self._stored.username!r}"
        return "the stored token"

    async def authorization(self) -> str | None:
        """The header of the next request.

        Raises:
            AuthenticationFailed: the provider gives no more tokens.
            NetworkError: it does not answer.
        """
        if self._stored.username:
            return await UsernamePassword(self._stored.username, self._stored.password).authorization()
        if self._stored.refresh_token and self._is_over():
            async with self._lock:
                if self._is_over():
                    await self._refresh()
        return f"Bearer {self._stored.token}"

    async def renew(self, refused: str) -> bool:
        """Get another token for one that was refused, if there is a refresh token."""
        if not self._stored.refresh_token:
            return False
        async with self._lock:
            if refused == f"Bearer {self._stored.token}":
                await self._refresh()
        return True

    def _is_over(self) -> bool:
        ends = TokenTimes.of(self._stored.token).ends
        return not self._stored.token or (ends > 0 and ends < self._clock() + _MARGIN_SECONDS)

    async def _refresh(self) -> None:
        # Not cut off in the middle: the provider may have taken the old one by then, and only this has the new one.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _SHIELD_SECONDS):
            await self._refresh_now()
            return
        raise NetworkError("A fresh token could not be kept in time")

    async def _refresh_now(self) -> None:
        stored = self._stored
        form = {"grant_type": "refresh_token", "refresh_token": stored.refresh_token, "client_id": stored.client_id}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if stored.client_secret:
            pair = f"{quote_plus(stored.client_id)}:{quote_plus(stored.client_secret)}"  # RFC 6749 section 2.3.1
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        answer = await exchange(
            self._http,
            "POST",
            stored.token_endpoint,
            headers=headers,
            content=urlencode(form).encode(),
            max_bytes=_MAX_REPLY,
            seconds=_SECONDS,
        )
        reply = _json_object(answer)
        if answer.status >= 500 or answer.status == 429:
            raise NetworkError(f"{_origin(stored.token_endpoint)}: no fresh token just now ({answer.status})")
        token, fresh = reply.get("access_token"), reply.get("refresh_token")
        if answer.status != 200 or not isinstance(token, str):
            raise AuthenticationFailed(f"{_origin(stored.token_endpoint)}: the login there has ended ({answer.status})")
        try:
            renewed = replace(
                stored,
                token=checked_token(token),
                refresh_token=checked_token(fresh) if isinstance(fresh, str) else stored.refresh_token,
            )
        except UsageError:
            raise AuthenticationFailed(f"{_origin(stored.token_endpoint)}: the token it gives is none") from None
        await self._keep(renewed)
        self._stored = renewed

    async def freshen(self) -> None:
        """Exchange a renewable token when half of its time is over. What does not work may work the next time."""
        times = TokenTimes.of(self._stored.token)
        now = self._clock()
        if self._stored.refresh_token or not times.renewable or not times.issued <= now < times.ends:
            return
        if now - times.issued < (times.ends - times.issued) / 2:
            return
        async with self._lock:
            try:
                await self._exchange(times)
            except UFTPError as error:
                logger.info("a stored token was not renewed", extra={"facts": {"reason": str(error)[:200]}})

    async def _exchange(self, times: TokenTimes) -> None:
        query = {"lifetime": str(int(times.ends - times.issued)), "renewable": "true"}
        if times.limited:
            query["limited"] = "true"
        url = f"{self._base}/token?{urlencode(query)}"
        headers = {"Authorization": f"Bearer {self._stored.token}", "Accept": "text/plain"}
        answer = await exchange(self._http, "GET", url, headers=headers, max_bytes=_MAX_REPLY, seconds=_SECONDS)
        if answer.status != 200:
            raise NetworkError(f"{_origin(url)}: no new token for the old one ({answer.status})")
        renewed = replace(self._stored, token=checked_token(answer.body.decode("ascii", "replace")))
        await self._keep(renewed)
        self._stored = renewed


def _json_object(answer: Answer) -> dict[str, Any]:
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])

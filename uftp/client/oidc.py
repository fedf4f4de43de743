"""An OpenID Connect provider, as a program without a browser talks to it.

Discovery (OpenID Connect Discovery 1.0 section 4), the device login (RFC 8628), refreshing (RFC 6749 section 6) and
revocation (RFC 7009). Tokens go to addresses the issuer's own document names, over TLS; plain http is for this machine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx2
import trio

from uftp.client.credentials import checked_token
from uftp.client.wording import printable
from uftp.errors import (
    AuthenticationFailed,
    LocalFileError,
    NetworkError,
    PeerBrokeProtocol,
    TimedOut,
    UsageError,
)

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"

Clock = Callable[[], float]
"""Unix seconds."""

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_MAX_REPLY_BYTES: Final = 1024 * 1024
_TIMEOUT_SECONDS: Final = 30.0
_DEFAULT_INTERVAL_SECONDS: Final = 5.0  # RFC 8628 section 3.2
_SLOW_DOWN_SECONDS: Final = 5.0  # section 3.5
_LONGEST_INTERVAL_SECONDS: Final = 60.0
_LONGEST_LOGIN_SECONDS: Final = 1800.0
_DEFAULT_TOKEN_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcClient:
    """Which provider, and what this program is called there.

    Attributes:
        issuer: URL of the provider.
        client_id: as registered there, for device logins.
        client_secret: where the provider gave one.
        scopes: what is asked for.
        ca: PEM file with CAs to trust besides the system's.
    """

    issuer: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    scopes: tuple[str, ...] = ("openid",)
    ca: str | None = None

    def __post_init__(self) -> None:
        """Check the issuer.

        Raises:
            UsageError: not an https URL.
        """
        if not is_safe_url(self.issuer):
            raise UsageError(f"{printable(self.issuer)}: not an issuer; they look like https://HOST/PATH")
        if not self.client_id:
            raise UsageError(f"{self.issuer}: a client id is needed to log in there (--client-id)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a provider gave. Times in Unix seconds.

    Attributes:
        access_token: opens things until `expires`.
        expires: as the provider says, counted from when it was asked.
        refresh_token: gets the next ones; None if there is none.
    """

    access_token: str = field(repr=False)
    expires: float
    refresh_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """A device login that a person has to confirm in a browser.

    Attributes:
        user_code: to be typed there.
        address: where.
        address_with_code: the same with the code in it, if the provider has such.
        seconds: how long the person has.
        device_code, verifier, interval: what the program shows the provider, and every how many seconds.
    """

    user_code: str
    address: str
    address_with_code: str | None
    seconds: float
    device_code: str = field(repr=False)
    verifier: str = field(repr=False)
    interval: float = _DEFAULT_INTERVAL_SECONDS


class LoginEnded(AuthenticationFailed):
    """The provider does not refresh these tokens any more; the person has to log in again."""


def is_safe_url(url: str) -> bool:
    """Whether tokens may go to `url`: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment or not url.isascii() or not url.isprintable():
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)


class Provider:
    """Talks to a provider. Use as an async context manager."""

    def __init__(self, client: OidcClient) -> None:
        """Prepare.

        Raises:
            LocalFileError: the CA file cannot be used.
        """
        self._client = client
        self._http = httpx2.AsyncClient(
            verify=_tls_context(client.ca), timeout=_TIMEOUT_SECONDS, follow_redirects=False, trust_env=True
        )
        self._metadata: Mapping[str, Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.aclose()

    async def begin_device_login(self) -> DeviceCode:
        """Ask for a code to show to the person (RFC 8628 section 3.1).

        Raises:
            UFTPError: the provider does not answer, does not know this client, or has no such logins.
        """
        address = await self._endpoint("device_authorization_endpoint", "logins by device code")
        # A proof key (RFC 7636) is no part of RFC 8628, but some providers require it; others ignore it.
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        form = {"scope": " ".join(self._client.scopes), "code_challenge": challenge, "code_challenge_method": "S256"}
        status, reply = await self._post(address, form)
        if status != 200:
            raise AuthenticationFailed(f"{self._client.issuer}: no login can be started: {_problem(status, reply)}")
        code, user_code = reply.get("device_code"), reply.get("user_code")
        page = reply.get("verification_uri", reply.get("verification_url"))
        complete = reply.get("verification_uri_complete")
        if not (isinstance(code, str) and isinstance(user_code, str) and isinstance(page, str) and code):
            raise PeerBrokeProtocol(f"{self._client.issuer}: the reply lacks the code for the login")
        return DeviceCode(
            user_code=printable(user_code)[:100],
            address=printable(page)[:2000],
            address_with_code=printable(complete)[:2000] if isinstance(complete, str) else None,
            seconds=_seconds(reply.get("expires_in"), 600.0, _LONGEST_LOGIN_SECONDS),
            device_code=code,
            verifier=verifier,
            interval=max(1.0, _seconds(reply.get("interval"), _DEFAULT_INTERVAL_SECONDS, _LONGEST_INTERVAL_SECONDS)),
        )

    async def wait_confirmed(self, code: DeviceCode, clock: Clock) -> Tokens:
        """Ask until the person has confirmed or refused the login (RFC 8628 sections 3.4 and 3.5).

        Args:
            code: of `begin_device_login`.
            clock: Unix seconds.

        Raises:
            AuthenticationFailed: refused, or not confirmed in time.
            UFTPError: the provider says anything else.
        """
        address = await self._endpoint("token_endpoint", "tokens")
        form = {"grant_type": DEVICE_GRANT, "device_code": code.device_code, "code_verifier": code.verifier}
        interval = code.interval
        with trio.move_on_after(code.seconds):
            while True:
                await trio.sleep(interval)
                asked = clock()
                try:
                    status, reply = await self._post(address, form)
                except NetworkError:
                    # Section 3.5: back off when the network fails; the person is still busy in the browser.
                    interval = min(interval * 2, _LONGEST_INTERVAL_SECONDS)
                    continue
                if status == 200:
                    return self._read_tokens(reply, asked)
                match reply.get("error"):
                    case "authorization_pending":
                        pass
                    case "slow_down":
                        interval = min(interval + _SLOW_DOWN_SECONDS, _LONGEST_INTERVAL_SECONDS)
                    case "access_denied":
                        raise AuthenticationFailed(f"{self._client.issuer}: the login was refused in the browser")
                    case "expired_token":
                        break
                    case _ if status >= 500 or status == 429:
                        interval = min(interval * 2, _LONGEST_INTERVAL_SECONDS)
                    case _:
                        raise AuthenticationFailed(
                            f"{self._client.issuer}: the login failed: {_problem(status, reply)}"
                        )
        raise AuthenticationFailed(f"{self._client.issuer}: the login was not confirmed in time; try again")

    async def refresh(self, refresh_token: str, clock: Clock) -> Tokens:
        """New tokens for old (RFC 6749 section 6). The provider may have replaced the refresh token, too.

        Raises:
            LoginEnded: it does not refresh this one any more.
            UFTPError: it does not answer, or says anything else.
        """
        address = await self._endpoint("token_endpoint", "tokens")
        asked = clock()
        status, reply = await self._post(address, {"grant_type": "refresh_token", "refresh_token": refresh_token})
        if status == 200:
            return self._read_tokens(reply, asked, refresh_token)
        if status >= 500 or status == 429:
            raise NetworkError(f"{self._client.issuer}: no fresh token just now: {_problem(status, reply)}")
        raise LoginEnded(f"{self._client.issuer}: the login has ended: {_problem(status, reply)}")

    async def revoke(self, refresh_token: str) -> bool:
        """Make the provider forget a login (RFC 7009).

        Returns:
            Whether it knows how to.

        Raises:
            UFTPError: it does not answer, or refuses.
        """
        if not isinstance((await self._discover()).get("revocation_endpoint"), str):
            return False
        address = await self._endpoint("revocation_endpoint", "revocation")
        status, reply = await self._post(address, {"token": refresh_token, "token_type_hint": "refresh_token"})
        if status != 200:
            raise NetworkError(f"{self._client.issuer}: the login is not revoked there: {_problem(status, reply)}")
        return True

    def _read_tokens(self, reply: Mapping[str, Any], asked: float, refresh_token: str | None = None) -> Tokens:
        token, kind, fresh = reply.get("access_token"), reply.get("token_type"), reply.get("refresh_token")
        if not isinstance(token, str) or not isinstance(kind, str) or kind.lower() != "bearer":
            raise PeerBrokeProtocol(f"{self._client.issuer}: the reply has no bearer token")
        try:
            token = checked_token(token)
        except UsageError as error:
            raise PeerBrokeProtocol(f"{self._client.issuer}: {error}") from None
        return Tokens(
            access_token=token,
            expires=asked + _seconds(reply.get("expires_in"), _DEFAULT_TOKEN_SECONDS, 10 * 365 * 86400.0),
            refresh_token=fresh if isinstance(fresh, str) and fresh else refresh_token,
        )

    async def _endpoint(self, name: str, what: str) -> str:
        address = (await self._discover()).get(name)
        if address is None:
            raise UsageError(f"{self._client.issuer}: this provider has no {what}; use oidc-agent (-O) or a token (-A)")
        if not isinstance(address, str) or not is_safe_url(address):
            raise PeerBrokeProtocol(f"{self._client.issuer}: its configuration names no safe address for {what}")
        if self._client.issuer.startswith("https:") and not address.startswith("https:"):
            raise PeerBrokeProtocol(f"{self._client.issuer}: its configuration leads away from https")
        return address

    async def _discover(self) -> Mapping[str, Any]:
        if self._metadata is None:
            url = self._client.issuer.rstrip("/") + "/.well-known/openid-configuration"
            status, document = await self._exchange("GET", url, None)
            if status != 200:
                raise UsageError(f"{url}: no identity provider there ({status}); check the issuer")
            said = document.get("issuer")
            if not isinstance(said, str) or said.rstrip("/") != self._client.issuer.rstrip("/"):
                raise PeerBrokeProtocol(
                    f"{url}: it is the configuration of {printable(str(said))[:200]}; use that as the issuer"
                )
            self._metadata = document
        return self._metadata

    async def _post(self, url: str, form: Mapping[str, str]) -> tuple[int, Mapping[str, Any]]:
        fields = {"client_id": self._client.client_id, **form}
        if self._client.client_secret is not None:
            fields["client_secret"] = self._client.client_secret
        return await self._exchange("POST", url, fields)

    async def _exchange(self, method: str, url: str, form: Mapping[str, str] | None) -> tuple[int, Mapping[str, Any]]:
        content = bytearray()
        try:
            with trio.fail_after(2 * _TIMEOUT_SECONDS):  # the library's own limit starts anew with each byte
                async with self._http.stream(
                    method, url, data=form, headers={"Accept": "application/json"}
                ) as response:
                    async for chunk in response.aiter_bytes():
                        content += chunk
                        if len(content) > _MAX_REPLY_BYTES:
                            raise PeerBrokeProtocol(f"{url}: the reply is longer than {_MAX_REPLY_BYTES} bytes")
        except (httpx2.TimeoutException, trio.TooSlowError) as error:
            raise TimedOut(f"{url}: the identity provider does not answer; try again later") from error
        except httpx2.HTTPError as error:
            raise NetworkError(f"{url}: the identity provider cannot be reached: {_reason(error)}") from error
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise UsageError(f"{printable(url)}: not a valid URL") from error
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            return response.status_code, document
        if response.status_code == 200 and method == "POST" and not content.strip():
            return 200, {}  # revocation has no reply
        if response.status_code == 200:
            raise PeerBrokeProtocol(f"{url}: the reply is not a JSON object; is this an identity provider?")
        return response.status_code, {}


def _tls_context(ca: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror if not isinstance(error, ssl.SSLError) else "it holds no PEM certificates"
            raise LocalFileError(f"{ca}: cannot use the CA file: {reason}") from error
    return context


def _seconds(value: object, default: float, longest: float) -> float:
    """A number of seconds from a reply: some providers send text."""
    try:
        number = float(value) if isinstance(value, int | float | str) else default
    except ValueError:
        number = default
    return min(number, longest) if math.isfinite(number) and number >= 0 else default


def _problem(status: int, reply: Mapping[str, Any]) -> str:
    told = [reply[name] for name in ("error", "error_description") if isinstance(reply.get(name), str)]
    return printable(" ".join(": ".join(told).split()))[:300] or f"status {status}, and no reason"


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__

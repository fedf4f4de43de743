"""Logging in with a token of an identity provider (CONTROL-PLANE 5.5).

Three ways to find out whose it is: its signature, checked here with the keys the issuer publishes; the provider's
userinfo; the provider's introspection. The last two send the token to the provider, so tokens that cannot be its own
are not sent.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from uftpd.auth.identity.base import Credentials, Identity, LoginRefused
from uftpd.auth.identity.claims import ClaimsReader
from uftpd.auth.identity.jwt import Jwt, bearer_jwt, check_times, read_time, verified
from uftpd.auth.identity.provider import IssuerKeys, Provider, ProviderFailed
from uftpd.auth.identity.throttle import Throttle
from uftpd.config.login import OidcProvider
from uftpd.config.toml import ConfigError

METHOD = "OAUTH"
MAX_REMEMBERED = 4096
MAX_TOKEN_CHARACTERS = 16 * 1024

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # RFC 6750 section 2.1


@dataclass(frozen=True, slots=True)
class _Known:
    """A token that was accepted, and until when that counts, by both clocks."""

    identity: Identity
    until: float
    expires: float


class OidcAuthenticator:
    """Bearer tokens of one provider."""

    def __init__(
        self,
        name: str,
        settings: OidcProvider,
        throttle: Throttle,
        clock: Callable[[], float] = trio.current_time,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the files the settings name.

        Raises:
            ConfigError: one of them cannot be used.
        """
        self._settings = settings
        self._throttle = throttle
        self._clock = clock
        self._wall_clock = wall_clock
        self._provider = Provider(name, settings, clock)
        self._keys = {issuer: IssuerKeys(self._provider, issuer, clock) for issuer in settings.issuers}
        self._reader = ClaimsReader(settings)
        self._client_secret = _read_secret(settings)
        self._cache_key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._running: dict[bytes, trio.Event] = {}

    async def authenticate(self, credentials: Credentials) -> Identity | None:
        """The identity of the holder; None if this cannot be a token of this provider.

        Raises:
            LoginRefused: the token is not accepted, or the provider cannot be asked.
            RequestError: too many failed logins.
        """
        value = credentials.value
        if credentials.scheme != "bearer" or len(value) > MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(value):
            return None
        token = bearer_jwt(credentials)
        if not self._may_be_ours(token):
            return None
        key = hmac.digest(self._cache_key, value.encode("ascii"), hashlib.sha256)
        # A client that opens many sessions sends one token many times: the provider is asked once.
        while (identity := self._remembered(key)) is None and key in self._running:
            await self._running[key].wait()
        if identity is not None:
            return identity
        self._running[key] = trio.Event()
        try:
            return await self._check(key, credentials, token)
        finally:
            self._running.pop(key).set()

    def _may_be_ours(self, token: Jwt | None) -> bool:
        if token is None:
            return self._settings.verify != "jwks"
        issuer = token.text("iss")
        if token.flag("etd") or (issuer and issuer == token.text("sub")):
            return False  # of an auth server, or signed with an SSH key
        if self._settings.verify == "jwks":
            return issuer in self._keys
        return not issuer or not self._settings.issuers or issuer in self._settings.issuers

    async def _check(self, key: bytes, credentials: Credentials, token: Jwt | None) -> Identity:
        address, user = credentials.address, f"oidc:{token.text('sub') if token is not None else ''}"
        if self._settings.verify == "jwks" and token is not None:
            if not await self._is_signed(token):
                await self._throttle.failed(address, user)
                raise LoginRefused("token: not signed by its issuer")
            claims = token.claims
            check_times(token, self._wall_clock(), leeway=self._settings.leeway_seconds)
            self._check_audience(claims)
        else:
            await self._throttle.wait(address, self._throttle.attempt(address, user))
            try:
                claims = await self._by_asking(credentials.value, token)
            except ProviderFailed:
                self._throttle.uncounted(address, user)
                raise
            self._throttle.succeeded(address, user)
        now = self._wall_clock()
        expires = _end(claims, token, now + self._settings.cache_seconds)
        if now > expires + self._settings.leeway_seconds:
            raise LoginRefused("token: expired")
        identity = Identity(self._reader.name(claims), METHOD, self._reader.attributes(claims), expires=expires)
        self._remember(key, identity, min(self._settings.cache_seconds, expires - now), expires)
        return identity

    async def _is_signed(self, token: Jwt) -> bool:
        if token.algorithm not in self._settings.algorithms:
            return False
        keys = await self._keys[token.text("iss")].fitting(token.key_id, token.algorithm)
        return any(verified(token, published.key) for published in keys)

    async def _by_asking(self, value: str, token: Jwt | None) -> Mapping[str, Any]:
        if token is not None and token.number("exp") is not None:
            check_times(token, self._wall_clock(), leeway=self._settings.leeway_seconds)
        name = self._provider.name
        if self._settings.verify == "userinfo":
            answer = await self._provider.get(self._settings.address, {"Authorization": f"Bearer {value}"})
            if answer.status != 200:
                raise LoginRefused(f"identity provider {name}: status {answer.status} for this token")
            if token is not None:
                self._check_audience(token.claims, lenient=True)
            return answer.content
        form = {"client_id": self._settings.client_id, "client_secret": self._client_secret, "token": value}
        answer = await self._provider.post(self._settings.address, form)
        if answer.status != 200 or answer.content.get("active") is not True:
            raise LoginRefused(f"identity provider {name}: this token is not active (status {answer.status})")
        self._check_issuer(answer.content)
        self._check_audience(answer.content)
        return answer.content

    def _check_issuer(self, claims: Mapping[str, Any]) -> None:
        issuer = claims.get("iss")
        if self._settings.issuers and issuer is not None and issuer not in self._settings.issuers:
            raise LoginRefused("token: of another issuer")

    def _check_audience(self, claims: Mapping[str, Any], *, lenient: bool = False) -> None:
        """Check `aud`, `azp` and `client_id`; `lenient` lets claims pass that are not there."""
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        wanted = self._settings.audiences
        if wanted and not (lenient and audience is None) and not any(item in wanted for item in audiences):
            raise LoginRefused("token: made for another audience")
        client = claims.get("azp", claims.get("client_id"))
        wanted = self._settings.clients
        if wanted and not (lenient and client is None) and client not in wanted:
            raise LoginRefused("token: made for another client")

    def _remembered(self, key: bytes) -> Identity | None:
        known = self._known.get(key)
        if known is None:
            return None
        if self._clock() >= known.until or self._wall_clock() >= known.expires:
            del self._known[key]
            return None
        return known.identity

    def _remember(self, key: bytes, identity: Identity, seconds: float, expires: float) -> None:
        if seconds > 0:
            self._known[key] = _Known(identity, self._clock() + seconds, expires)
            while len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)


def _end(claims: Mapping[str, Any], token: Jwt | None, default: float) -> float:
    """When the token ends, as its issuer or it itself says; `default` if neither does."""
    stated = (read_time(claims, "exp"), token.number("exp") if token is not None else None)
    return min((end for end in stated if end is not None), default=default)


def _read_secret(settings: OidcProvider) -> str:
    path = settings.client_secret_file
    if path is None:
        return ""
    try:
        secret = path.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    if not secret:
        raise ConfigError(f"{path}: empty")
    return secret

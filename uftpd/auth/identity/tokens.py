"""Tokens this server issues, and the checking of those of its own and of servers it trusts (CONTROL-PLANE 5.4).

Beside the claims of the protocol, a token of ours has

    jti          its id, for revocation
    chain        the id of the token at the beginning of a chain of renewals: revoking that one ends them all
    auth_time    the login at the beginning of a chain of renewals, which bounds the chain
    attributes   what the way of logging in had preset, role included; without it, `uid` means the role user as well
    servers      the logical servers the login holds for, if not all

so that a token opens what the login behind it opened, and nothing more.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from uftp.protocol.command_port import is_clean
from uftp.protocol.dn import InvalidName, canonical
from uftpd.auth.attributes.base import ACCOUNT, ROLE
from uftpd.auth.errors import BadRequest, Refused
from uftpd.auth.events import event
from uftpd.auth.identity.accounts import is_account_name
from uftpd.auth.identity.base import Credentials, Identity, LoginEnded, LoginRefused, TokenFacts
from uftpd.auth.identity.credential import ServerCredential, usable_key
from uftpd.auth.identity.jwt import (
    Jwt,
    PublicKey,
    bearer_jwt,
    check_audience,
    check_times,
    verified,
    verified_by_secret,
)
from uftpd.auth.identity.revocation import Revocations
from uftpd.auth.identity.throttle import Throttle
from uftpd.config.login import TokenLogin, TrustedIssuer
from uftpd.config.toml import ConfigError

METHOD = "ETD"
LEEWAY_SECONDS = 60.0
LEAST_SECRET_BYTES = 32
MAX_LIFETIME_DIGITS = 12

Attributes = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Issuer:
    """Somebody whose signature counts: by key, or by shared secret."""

    name: str
    key: PublicKey | None = None
    secret: bytes = field(default=b"", repr=False)
    starts: float = 0.0
    ends: float = float("inf")

    def signed(self, token: Jwt, now: float) -> bool:
        if not self.starts <= now <= self.ends:
            return False
        return verified(token, self.key) if self.key is not None else verified_by_secret(token, self.secret)


def load_issuers(trusted: Sequence[TrustedIssuer]) -> tuple[_Issuer, ...]:
    """Read the certificates and secrets of other servers.

    Raises:
        ConfigError: a file cannot be read or used; a secret is too short.
    """
    return tuple(_load_issuer(issuer) for issuer in trusted)


def _load_issuer(trusted: TrustedIssuer) -> _Issuer:
    path = trusted.certificate or trusted.secret_file
    assert path is not None  # noqa: S101 - the configuration has one of them
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if trusted.certificate is None:
        secret = data.strip()
        if len(secret) < LEAST_SECRET_BYTES:
            raise ConfigError(f"{path}: a shared secret has at least {LEAST_SECRET_BYTES} bytes")
        return _Issuer(canonical(trusted.dn), secret=secret)
    try:
        certificate = x509.load_pem_x509_certificates(data)[0]
        name = canonical(certificate.subject.rfc4514_string())
    except (ValueError, InvalidName):
        raise ConfigError(f"{path}: no certificate in PEM form") from None
    return _Issuer(
        name,
        usable_key(certificate, path),
        starts=certificate.not_valid_before_utc.timestamp(),
        ends=certificate.not_valid_after_utc.timestamp(),
    )


class TokenAuthenticator:
    """Delegation tokens. One that is not accepted ends the login: no other way is tried (CONTROL-PLANE 5.1)."""

    def __init__(
        self,
        settings: TokenLogin,
        credential: ServerCredential | None,
        revocations: Revocations,
        throttle: Throttle,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the certificates and secrets of trusted issuers.

        Raises:
            ConfigError: one of them cannot be used.
        """
        self._settings = settings
        self._own_name = credential.canonical_dn if credential is not None else ""
        self._audience = frozenset({credential.dn} if credential is not None else ())
        self._issuers = load_issuers(settings.issuers)
        if credential is not None:
            self._issuers = (_Issuer(credential.canonical_dn, credential.key), *self._issuers)
        self._revocations = revocations
        self._throttle = throttle
        self._wall_clock = wall_clock

    async def authenticate(self, credentials: Credentials) -> Identity | None:
        """The identity a token was issued for; None if this is no delegation token.

        Raises:
            LoginEnded: a delegation token that is not accepted.
            RequestError: revocations cannot be looked up.
        """
        token = bearer_jwt(credentials)
        if token is None or not token.flag("etd") or not token.text("sub") or not token.text("iss"):
            return None
        now = self._wall_clock()
        try:
            issuer = canonical(token.text("iss"))
            own = issuer == self._own_name
            if not any(known.name == issuer and known.signed(token, now) for known in self._issuers):
                await self._throttle.failed(credentials.address, "token")
                raise LoginEnded("token: not signed by a server we trust")
            longest = None if own else float(self._settings.longest_renewal_seconds)
            expires = check_times(token, now, leeway=LEEWAY_SECONDS, longest=longest)
            check_audience(token, self._audience)
            if not own and "servers" in token.claims:
                # Nodes of the other site vouch for that login, and for their own servers only.
                raise LoginEnded("token: holds for some servers of its issuer only")
            facts = _facts(token)
            for found in facts.ids():
                if await self._revocations.is_revoked(found):
                    raise LoginEnded("token: revoked")
            return _identity(token, facts, expires, own=own)
        except LoginRefused as refusal:
            raise LoginEnded(str(refusal)) from None
        except (ValueError, InvalidName) as error:
            raise LoginEnded(f"token: {error}") from None


def _facts(token: Jwt) -> TokenFacts:
    since = token.number("auth_time") or token.number("iat")
    return TokenFacts(
        jti=token.text("jti"),
        renewable=token.flag("renewable") and since is not None,
        limited="aud" in token.claims,
        since=since or 0.0,
        chain=token.text("chain"),
    )


def _identity(token: Jwt, facts: TokenFacts, expires: float, *, own: bool) -> Identity:
    """Whom a proven token makes.

    Raises:
        ValueError: claims of our own making that we never make so.
    """
    attributes: Attributes = {}
    servers: tuple[str, ...] | None = None
    if own:
        attributes = _attributes(token)
        if "servers" in token.claims:
            servers = token.texts("servers")
    preferences = token.text("preferences")
    return Identity(
        token.text("sub"),
        METHOD,
        attributes,
        servers=servers,
        expires=expires,
        preferences=(preferences,) if preferences else None,
        token=facts,
    )


def _attributes(token: Jwt) -> Attributes:
    if "attributes" in token.claims:
        table = token.claims["attributes"]
        if not isinstance(table, dict):
            raise ValueError("attributes are no object")
        found: dict[str, tuple[str, ...]] = {}
        for name, values in table.items():
            if not isinstance(values, list) or not all(isinstance(v, str) and is_clean(v) for v in values):
                raise ValueError("attributes are no lists of texts")
            found[name] = tuple(values)
        return found
    account = token.text("uid")
    if not account:
        return {}
    if not is_account_name(account):
        raise ValueError("uid is no account name")
    return {ACCOUNT: (account,), ROLE: ("user",)}


class TokenIssuer:
    """Makes tokens for people who are logged in."""

    def __init__(
        self, settings: TokenLogin, credential: ServerCredential | None, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._credential = credential
        self._wall_clock = wall_clock

    def issue(
        self,
        identity: Identity,
        preferences: Sequence[str] = (),
        *,
        lifetime: int | None = None,
        renewable: bool = False,
        limited: bool = False,
    ) -> str:
        """A token for somebody.

        Args:
            identity: who.
            preferences: lines of the preferences header in force, already checked.
            lifetime: seconds; None for the default. A renewal ends with its chain, whatever is asked for.
            renewable: it may be used to get another.
            limited: it is for this server only; a token got with a limited one always is.

        Returns:
            The compact form.

        Raises:
            BadRequest: the lifetime is too long, or none at all.
            Refused: no tokens here, none for anonymous callers, or not with this token.
        """
        credential, settings = self._credential, self._settings
        if not settings.issue or credential is None or not credential.dn:
            raise Refused("This server issues no tokens")
        if not identity.method:
            raise Refused("There are no tokens for anonymous callers")
        former, now = identity.token, self._wall_clock()
        if former is not None and not former.renewable:
            raise Refused("Your token is not renewable")
        since = former.since if former is not None else now
        end = min(self._end(credential, lifetime, now), since + settings.longest_renewal_seconds)
        if end - now < 1:
            raise Refused("Your token cannot be renewed any further: log in again")
        claims: dict[str, Any] = {
            "sub": identity.dn,
            "iss": credential.dn,
            "iat": int(now),
            "exp": int(end),
            "etd": "true",
            "jti": secrets.token_urlsafe(16),
            "auth_time": int(since),
        }
        if former is not None and (chain := former.chain or former.jti):
            claims["chain"] = chain
        if identity.attributes:
            claims["attributes"] = {name: list(values) for name, values in identity.attributes.items()}
        if accounts := identity.attributes.get(ACCOUNT):
            claims["uid"] = accounts[0]
        if identity.servers is not None:
            claims["servers"] = list(identity.servers)
        if preferences:
            claims["preferences"] = ",".join(preferences)
        if renewable:
            claims["renewable"] = "true"
        if limited or (former is not None and former.limited):
            claims["aud"] = credential.dn
        event(
            "token issued",
            dn=identity.dn,
            jti=claims["jti"],
            chain=claims.get("chain"),
            seconds=end - now,
            limited="aud" in claims,
        )
        return credential.sign(json.dumps(claims, separators=(",", ":")).encode())

    def _end(self, credential: ServerCredential, lifetime: int | None, now: float) -> float:
        if lifetime is None:
            return min(now + self._settings.default_seconds, credential.ends)
        if not 1 <= lifetime <= self._settings.longest_seconds:
            raise BadRequest(f"lifetime: 1 to {self._settings.longest_seconds} seconds")
        if now + lifetime > credential.ends:
            raise BadRequest("lifetime: beyond the end of the server's certificate")
        return now + lifetime


def read_lifetime(text: str | None) -> int | None:
    """The query parameter `lifetime`; None if it is missing.

    Raises:
        BadRequest: not a whole number.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_LIFETIME_DIGITS):
        raise BadRequest("lifetime: expected a number of seconds")
    return int(text)

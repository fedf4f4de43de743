"""Questions to an identity provider: bounded in time and size, never redirected; its keys (RFC 7517, OIDC Discovery).

A provider that cannot be reached is left alone for a while. One that answers nonsense to one question is not: else a
stranger's strange token could lock out everybody.
"""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import trio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from uftpd.auth.events import event
from uftpd.auth.identity.base import LoginRefused
from uftpd.auth.identity.jwt import PublicKey
from uftpd.config.login import OidcProvider, is_safe_url
from uftpd.config.toml import ConfigError

MAX_REPLY_BYTES = 256 * 1024
MAX_AT_ONCE = 8  # questions under way to one provider
MAX_QUEUED = 64
MAX_KEYS = 64

KEYS_SECONDS = 600.0  # the keys of an issuer are asked for again when they are older
OLD_KEYS_SECONDS = 86400.0  # without an answer they are used so long
UNKNOWN_KEY_SECONDS = 10.0  # a token with an unknown key has them asked for again, but not more often

_DISCOVERY = "/.well-known/openid-configuration"
_LEAST_RSA_BITS = 2048
_GATEWAY_ERRORS = frozenset({502, 503, 504})


class ProviderFailed(LoginRefused):
    """The provider did not answer, or nonsense: its tokens cannot be checked now."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider said: HTTP status, and the JSON object of a 200."""

    status: int
    content: Mapping[str, Any]


class Provider:
    """One identity provider over HTTP."""

    def __init__(self, name: str, settings: OidcProvider, clock: Callable[[], float] = trio.current_time) -> None:
        """Read the CA file, if there is one.

        Raises:
            ConfigError: it cannot be used.
        """
        self.name = name
        self._settings = settings
        self._clock = clock
        self._tls = ssl.create_default_context()
        if settings.ca is not None:
            try:
                self._tls = ssl.create_default_context(cafile=settings.ca)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"{settings.ca}: no usable CA certificates: {error.strerror or error}") from error
        self._down_until: dict[str, float] = {}
        self._places = trio.CapacityLimiter(MAX_AT_ONCE)

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask with GET.

        Raises:
            ProviderFailed: no usable answer.
        """
        return await self._ask("GET", url, headers, None)

    async def post(self, url: str, form: Mapping[str, str]) -> Answer:
        """Ask with a form.

        Raises:
            ProviderFailed: no usable answer.
        """
        return await self._ask("POST", url, None, form)

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str] | None, form: Mapping[str, str] | None
    ) -> Answer:
        origin = urlsplit(url).netloc
        if self._clock() < self._down_until.get(origin, 0.0):
            raise ProviderFailed(f"identity provider {self.name}: did not answer shortly ago")
        if self._places.statistics().tasks_waiting >= MAX_QUEUED:
            raise ProviderFailed(f"identity provider {self.name}: too many questions at once")
        async with self._places:
            try:
                with trio.fail_after(self._settings.timeout_seconds):
                    status, body = await self._exchange(method, url, headers, form)
            except trio.TooSlowError:
                raise self._down(origin, f"no answer within {self._settings.timeout_seconds:g} s") from None
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
                raise self._down(origin, str(error) or type(error).__name__) from None
        if status in _GATEWAY_ERRORS:
            raise self._down(origin, f"status {status}")
        return Answer(status, self._object(body) if status == 200 else {})

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str] | None, form: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        # Compressed replies would make the limit below meaningless.
        asked = {"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})}
        async with (
            httpx2.AsyncClient(verify=self._tls, follow_redirects=False, timeout=None) as client,
            client.stream(method, url, headers=asked, data=dict(form) if form is not None else None) as response,
        ):
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ProviderFailed(f"identity provider {self.name}: compressed its answer unasked")
            body = bytearray()
            # Left by cancellation: leaving the loop would leave the library's generators to the garbage collector.
            with trio.CancelScope() as reading:
                async for chunk in response.aiter_raw():
                    body += chunk[: MAX_REPLY_BYTES + 1 - len(body)]
                    if len(body) > MAX_REPLY_BYTES:
                        reading.cancel()
            if len(body) > MAX_REPLY_BYTES:
                raise ProviderFailed(f"identity provider {self.name}: answer larger than {MAX_REPLY_BYTES} bytes")
            return response.status_code, bytes(body)

    def _object(self, body: bytes) -> Mapping[str, Any]:
        try:
            value = json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ProviderFailed(f"identity provider {self.name}: its answer is no JSON object")
        return value

    def _down(self, origin: str, reason: str) -> ProviderFailed:
        self._down_until[origin] = self._clock() + self._settings.down_seconds
        event(
            "identity provider does not answer", level=logging.ERROR, provider=self.name, address=origin, reason=reason
        )
        return ProviderFailed(f"identity provider {self.name}: does not answer")


# -- keys -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A key of an issuer; `key_id` and `algorithm` may be empty."""

    key_id: str
    algorithm: str
    key: PublicKey

    def fits(self, key_id: str, algorithm: str) -> bool:
        """Whether a token that names these may have been signed with it."""
        return (not key_id or not self.key_id or key_id == self.key_id) and self.algorithm in ("", algorithm)


class IssuerKeys:
    """The keys one issuer publishes, as of shortly ago."""

    def __init__(self, provider: Provider, issuer: str, clock: Callable[[], float] = trio.current_time) -> None:
        self._provider = provider
        self._issuer = issuer
        self._clock = clock
        self._keys: tuple[PublishedKey, ...] = ()
        self._fetched: float | None = None
        self._tried: float | None = None
        self._lock = trio.Lock()

    async def fitting(self, key_id: str, algorithm: str) -> tuple[PublishedKey, ...]:
        """The keys a token may have been signed with; the issuer is asked if there are none or all are old.

        Raises:
            ProviderFailed: there are none, and the issuer cannot be asked.
        """
        async with self._lock:
            now = self._clock()
            found = self._select(key_id, algorithm)
            old = self._fetched is None or now >= self._fetched + KEYS_SECONDS
            if (old or not found) and (self._tried is None or now >= self._tried + UNKNOWN_KEY_SECONDS):
                self._tried = now
                try:
                    self._keys = await self._fetch()
                    self._fetched = self._clock()
                except ProviderFailed:
                    if self._fetched is None or now >= self._fetched + OLD_KEYS_SECONDS:
                        raise
                found = self._select(key_id, algorithm)
            if self._fetched is None or now >= self._fetched + OLD_KEYS_SECONDS:
                raise ProviderFailed(f"identity provider {self._provider.name}: its keys are not known")
            return found

    def _select(self, key_id: str, algorithm: str) -> tuple[PublishedKey, ...]:
        return tuple(key for key in self._keys if key.fits(key_id, algorithm))

    async def _fetch(self) -> tuple[PublishedKey, ...]:
        answer = await self._provider.get(self._issuer.rstrip("/") + _DISCOVERY)
        if answer.content.get("issuer") != self._issuer:
            raise self._wrong(f"its configuration is not that of issuer {self._issuer}")
        address = answer.content.get("jwks_uri")
        if not isinstance(address, str) or not is_safe_url(address):
            raise self._wrong("no usable jwks_uri in its configuration")
        keys = (await self._provider.get(address)).content.get("keys")
        if not isinstance(keys, list):
            raise self._wrong("no keys at its jwks_uri")
        return read_keys(keys)

    def _wrong(self, reason: str) -> ProviderFailed:
        event("identity provider cannot be used", level=logging.ERROR, provider=self._provider.name, reason=reason)
        return ProviderFailed(f"identity provider {self._provider.name}: {reason}")


def read_keys(published: Sequence[object]) -> tuple[PublishedKey, ...]:
    """The keys of a JWK set that can check signatures; all others are passed over."""
    found = []
    for item in published[:MAX_KEYS]:
        if not isinstance(item, dict) or item.get("use", "sig") != "sig":
            continue
        key = _read_key(item)
        key_id, algorithm = item.get("kid", ""), item.get("alg", "")
        if key is not None and isinstance(key_id, str) and isinstance(algorithm, str):
            found.append(PublishedKey(key_id, algorithm, key))
    return tuple(found)


def _read_key(item: Mapping[str, Any]) -> PublicKey | None:
    # Only what makes up the public key: nothing else an issuer writes beside it may change how it is read.
    public = {name: item[name] for name in ("kty", "n", "e", "crv", "x", "y") if isinstance(item.get(name), str)}
    try:
        match public.get("kty"):
            case "RSA" if len(public.get("n", "")) * 6 >= _LEAST_RSA_BITS:
                key: object = RSAKey.import_key(public).public_key
            case "EC":
                key = ECKey.import_key(public).public_key
            case "OKP":
                key = OKPKey.import_key(public).public_key
            case _:
                return None
    except (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, rsa.RSAPublicKey):
        return key if _LEAST_RSA_BITS <= key.key_size <= 16384 else None
    return key if isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)) else None

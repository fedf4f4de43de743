"""JSON Web Tokens: taking one apart, checking its signature and its times, signing (RFC 7515, 7518, 7519, 8037).

Taking apart proves nothing: until `verified` has said yes, claims may be used for one thing, finding the key to check
them with. The key decides which algorithms are possible, never the token: there is no `none`, and no way to an HMAC
with a public key as its secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

# `ec.ECDSA` imports the backend when it is first used, by when this process may have no right to read its packages.
import cryptography.hazmat.backends.openssl.backend  # noqa: F401
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from uftpd.auth.identity.base import Credentials, LoginRefused

MAX_TOKEN_CHARACTERS = 16 * 1024  # as much as HTTP servers commonly take in a header
_TYPES = frozenset({"", "jwt", "at+jwt", "application/jwt", "application/at+jwt"})

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_LATEST = 1 << 53  # Unix seconds; beyond it floats are no longer whole
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_DIGESTS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
_CURVES: Mapping[str, type[ec.EllipticCurve]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})


class NoToken(ValueError):
    """Text that is no signed JSON Web Token."""


@dataclass(frozen=True, slots=True)
class Jwt:
    """A token taken apart, nothing of it proven.

    Attributes:
        algorithm, key_id: as the header names them; the latter may be empty.
        claims: the payload.
        signed: the bytes the signature is about.
        signature: as it stands there.
    """

    algorithm: str
    key_id: str
    claims: Mapping[str, Any] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def text(self, claim: str) -> str:
        """A claim that is text; empty if there is none."""
        value = self.claims.get(claim)
        return value if isinstance(value, str) else ""

    def flag(self, claim: str) -> bool:
        """A claim that is true, as a boolean or as text in any case (CONTROL-PLANE T8)."""
        value = self.claims.get(claim)
        return value is True or (isinstance(value, str) and value.lower() == "true")

    def texts(self, claim: str) -> tuple[str, ...]:
        """A claim that is text or a list of texts."""
        value = self.claims.get(claim)
        items = value if isinstance(value, list) else [value]
        return tuple(item for item in items if isinstance(item, str))

    def number(self, claim: str) -> float | None:
        """A claim that is a time; None if there is none.

        Raises:
            LoginRefused: it is there, but is no number.
        """
        return read_time(self.claims, claim)


def read_time(claims: Mapping[str, Any], claim: str) -> float | None:
    """A claim that is a time, in Unix seconds; None if there is none.

    Raises:
        LoginRefused: it is there, but is no time.
    """
    value = claims.get(claim)
    if value is None:
        return None
    number = math.inf
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LATEST:
        number = float(value)
    if not math.isfinite(number):
        raise LoginRefused(f"token: {claim} is no time")
    return number


def parse_jwt(text: str) -> Jwt:
    """Take the compact form of a signed token apart.

    Raises:
        NoToken: it is not one; also for header fields that would change how it is to be read (`crit`), and for names
            that occur twice.
    """
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise NoToken("too long")
    segments = text.split(".")
    if len(segments) != 3:
        raise NoToken("not three parts")
    header, claims = _object(segments[0]), _object(segments[1])
    algorithm, key_id, kind = header.get("alg"), header.get("kid", ""), header.get("typ", "")
    if not isinstance(algorithm, str) or not isinstance(key_id, str) or not isinstance(kind, str):
        raise NoToken("a header field of the wrong type")
    if "crit" in header or "b64" in header or kind.lower() not in _TYPES:
        raise NoToken("a header field that is not understood")
    signed = f"{segments[0]}.{segments[1]}".encode("ascii")
    return Jwt(algorithm, key_id, claims, signed, _decode(segments[2]))


def bearer_jwt(credentials: Credentials) -> Jwt | None:
    """The token of a Bearer header; None if it is another scheme, or no token of this form."""
    if credentials.scheme != "bearer":
        return None
    try:
        return parse_jwt(credentials.value)
    except NoToken:
        return None


def _object(segment: str) -> dict[str, Any]:
    try:
        value = json.loads(_decode(segment).decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_no_repetition)
    except (ValueError, RecursionError):
        raise NoToken("a part is not JSON") from None
    if not isinstance(value, dict):
        raise NoToken("a part is no JSON object")
    return value


def _decode(segment: str) -> bytes:
    if not _SEGMENT.fullmatch(segment):
        raise NoToken("not base64url")
    try:
        return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except (binascii.Error, ValueError):
        raise NoToken("not base64url") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


# -- signatures -----------------------------------------------------------------------------------------------------


def verified(token: Jwt, key: PublicKey, *, any_curve: bool = False) -> bool:
    """Whether `key` made the signature, by an algorithm that fits the key.

    Args:
        token: what is signed.
        key: RSA, EC (P-256, P-384, P-521) or Ed25519.
        any_curve: take ES256 for all three curves: pyuftp and pyunicore name it for every EC key (CONTROL-PLANE T7).
            What is checked then is ECDSA by the key's own curve over SHA-256, with numbers of the curve's size: weaker
            than ES384 or ES512, no weaker than ES256.
    """
    name = token.algorithm
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if name not in _RSA:
                return False
            digest = _HASHES[name[2:]]
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            key.verify(token.signature, token.signed, pss if name.startswith("PS") else padding.PKCS1v15(), digest)
            return True
        if isinstance(key, ed25519.Ed25519PublicKey):
            if name != "EdDSA":
                return False
            key.verify(token.signature, token.signed)
            return True
        curve = _CURVES.get(name)
        fits = curve is not None and isinstance(key.curve, curve)
        if not fits and not (any_curve and name == "ES256" and isinstance(key.curve, tuple(_CURVES.values()))):
            return False
        key.verify(_der(token.signature, key.curve), token.signed, ec.ECDSA(_HASHES[name[2:]]))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _der(signature: bytes, curve: ec.EllipticCurve) -> bytes:
    """The two numbers of an ECDSA signature, of equal length (RFC 7518 section 3.4), as DER."""
    size = (curve.key_size + 7) // 8
    if len(signature) != 2 * size:
        raise ValueError("the signature has the wrong length")
    r, s = (int.from_bytes(half, "big") for half in (signature[:size], signature[size:]))
    return utils.encode_dss_signature(r, s)


def sign(payload: bytes, key: PrivateKey) -> str:
    """A token in compact form, by the algorithm CONTROL-PLANE 5.4 names for this kind of key.

    Raises:
        ValueError: an EC key on a curve there is none for.
    """
    if isinstance(key, rsa.RSAPrivateKey):
        signed = _signing_input("RS256", payload)
        return _compact(signed, key.sign(signed, padding.PKCS1v15(), _HASHES["256"]))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signed = _signing_input("EdDSA", payload)
        return _compact(signed, key.sign(signed))
    name = next((name for name, curve in _CURVES.items() if isinstance(key.curve, curve)), "")
    if not name:
        raise ValueError(f"no algorithm for {key.curve.name}")
    signed = _signing_input(name, payload)
    size = (key.curve.key_size + 7) // 8
    numbers = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(_HASHES[name[2:]])))
    return _compact(signed, b"".join(number.to_bytes(size, "big") for number in numbers))


def _signing_input(algorithm: str, payload: bytes) -> bytes:
    header = json.dumps({"alg": algorithm, "typ": "JWT"}, separators=(",", ":")).encode()
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload))


def _compact(signed: bytes, signature: bytes) -> str:
    return f"{signed.decode()}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def verified_by_secret(token: Jwt, secret: bytes) -> bool:
    """Whether the signature is an HMAC with this secret."""
    digest = _DIGESTS.get(token.algorithm)
    if digest is None:
        return False
    return hmac.compare_digest(hmac.new(secret, token.signed, digest).digest(), token.signature)


# -- claims ---------------------------------------------------------------------------------------------------------


def check_times(token: Jwt, now: float, *, leeway: float, longest: float | None = None) -> float:
    """Check `exp`, which must be there, and `nbf`.

    Args:
        token: whose.
        now: Unix seconds.
        leeway: by how many seconds clocks may differ.
        longest: how many seconds ahead the token may end at most.

    Returns:
        When the token ends, in Unix seconds.

    Raises:
        LoginRefused: it has ended, does not hold yet, or holds for too long.
    """
    end, start = token.number("exp"), token.number("nbf")
    if end is None:
        raise LoginRefused("token: without exp")
    if now > end + leeway:
        raise LoginRefused("token: expired")
    if start is not None and now < start - leeway:
        raise LoginRefused("token: does not hold yet")
    if longest is not None and end > now + longest + leeway:
        raise LoginRefused(f"token: ends more than {longest:.0f} s ahead")
    return end


def check_audience(token: Jwt, accepted: frozenset[str]) -> None:
    """Check `aud` if there is one: one of its values must be accepted, letter by letter.

    Raises:
        LoginRefused: the token is for somebody else.
    """
    value = token.claims.get("aud")
    if value is not None and not accepted.intersection(token.texts("aud")):
        raise LoginRefused("token: made for another audience")

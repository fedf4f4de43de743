"""Tokens as clients make them, and as nobody should."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt

_DIGESTS = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """A token with an HMAC, whatever its header says."""
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    digest = _DIGESTS.get(str(header.get("alg")), hashlib.sha256)
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), digest))}"


def algorithm_of(key: Any) -> str:
    """The usual algorithm for a private key."""
    name = type(key).__name__
    if "RSA" in name:
        return "RS256"
    if "Ed25519" in name:
        return "EdDSA"
    return {256: "ES256", 384: "ES384", 521: "ES512"}[key.curve.key_size]


def made(key: Any, *, lifetime: float = 300, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token signed with a private key; a claim that is None is left out."""
    now = time.time()
    payload = {"iat": int(now), "exp": int(now + lifetime), **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    # Signed as bytes: a peer library must not object to claims that are wrong on purpose.
    return jwt.api_jws.PyJWS().encode(
        json.dumps(payload).encode(), key, algorithm=algorithm_of(key), headers={"typ": "JWT", **(headers or {})}
    )


def ssh_token(key: Any, name: str = "joe", **claims: Any) -> str:
    """A token as clients sign it with an SSH key."""
    return made(key, **{"sub": name, "iss": name, "etd": "false", **claims})

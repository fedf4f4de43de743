"""Tokens taken apart and checked: what is refused whoever signed it, and that the key decides about the algorithm."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import ipaddress
import json
from typing import Any

import jwt as peer_jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from made_tokens import b64, forged, made

from uftpd.auth.identity.base import LoginRefused, read_authorization
from uftpd.auth.identity.jwt import (
    MAX_TOKEN_CHARACTERS,
    NoToken,
    bearer_jwt,
    check_audience,
    check_times,
    parse_jwt,
    verified,
    verified_by_secret,
)

RSA = rsa.generate_private_key(65537, 2048)
P256, P384, P521 = (ec.generate_private_key(curve()) for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1))
ED = ed25519.Ed25519PrivateKey.generate()

FITTING: list[tuple[Any, str]] = [
    *((RSA, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    (P256, "ES256"),
    (P384, "ES384"),
    (P521, "ES512"),
    (ED, "EdDSA"),
]


@pytest.mark.parametrize(("key", "algorithm"), FITTING)
def test_a_peers_signature_is_right_and_changes_are_seen(key: Any, algorithm: str) -> None:
    text = peer_jwt.encode({"sub": "joe"}, key, algorithm=algorithm)
    assert verified(parse_jwt(text), key.public_key())
    header, payload, signature = text.split(".")
    other = b64(json.dumps({"sub": "ann"}).encode())
    assert not verified(parse_jwt(f"{header}.{other}.{signature}"), key.public_key())
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    raw[5] ^= 1
    assert not verified(parse_jwt(f"{header}.{payload}.{b64(bytes(raw))}"), key.public_key())
    for wrong in (b"\0", bytes(64), bytes(len(raw) + 1), bytes(raw[:-1])):
        assert not verified(parse_jwt(f"{header}.{payload}.{b64(wrong)}"), key.public_key())


@pytest.mark.parametrize(("key", "algorithm"), FITTING)
def test_the_key_decides_about_the_algorithm(key: Any, algorithm: str) -> None:
    for _, other in FITTING:
        if algorithm == other or (algorithm[1:2] == "S" and algorithm[0] in "RP" and other[0] in "RP"):
            continue
        # A right signature under a wrong name counts for nothing.
        _, payload, signature = peer_jwt.encode({"sub": "joe"}, key, algorithm=algorithm).split(".")
        renamed = f"{b64(json.dumps({'alg': other}).encode())}.{payload}.{signature}"
        assert not verified(parse_jwt(renamed), key.public_key(), any_curve=True)


@pytest.mark.parametrize("key", [RSA, P256, ED])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_secret(key: Any, algorithm: str) -> None:
    for encoding, form in (
        (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        (Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        (Encoding.OpenSSH, PublicFormat.OpenSSH),
    ):
        secret = key.public_key().public_bytes(encoding, form)
        token = parse_jwt(forged({"alg": algorithm}, {"sub": "joe"}, secret))
        assert not verified(token, key.public_key(), any_curve=True)
        assert verified_by_secret(token, secret)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "hs256", "RS1", "rs256", "ES256K", "Ed25519"])
def test_no_key_takes_other_algorithms(algorithm: str) -> None:
    for signature in (b"", b"\0", bytes(64)):
        header = b64(json.dumps({"alg": algorithm}).encode())
        text = f"{header}.{b64(b'{}')}.{b64(signature)}"
        if not signature:
            with pytest.raises(NoToken):
                parse_jwt(text)
            continue
        for key, _ in FITTING:
            assert not verified(parse_jwt(text), key.public_key(), any_curve=True)
        assert not verified_by_secret(parse_jwt(text), b"s" * 32)


def _signed_like_older_clients(key: ec.EllipticCurvePrivateKey, claims: dict[str, Any]) -> str:
    """ES256 whatever the curve, as PyJWT did until it began to check the curve (CONTROL-PLANE T7)."""
    header = b64(b'{"alg":"ES256","typ":"JWT"}')
    signed = f"{header}.{b64(json.dumps(claims).encode())}"
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    size = (key.curve.key_size + 7) // 8
    return f"{signed}.{b64(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"


@pytest.mark.parametrize("key", [P384, P521])
def test_es256_over_another_curve_only_where_it_is_asked_for(key: ec.EllipticCurvePrivateKey) -> None:
    token = parse_jwt(_signed_like_older_clients(key, {"sub": "joe"}))
    assert verified(token, key.public_key(), any_curve=True)
    assert not verified(token, key.public_key())
    assert not verified(token, P256.public_key(), any_curve=True)
    unusual = ec.generate_private_key(ec.SECP256K1())
    token = parse_jwt(_signed_like_older_clients(unusual, {"sub": "joe"}))
    assert not verified(token, unusual.public_key(), any_curve=True)


def test_an_ecdsa_signature_of_zeros_or_in_der_is_none() -> None:
    text = peer_jwt.encode({"sub": "joe"}, P256, algorithm="ES256")
    header, payload, _ = text.split(".")
    der = P256.sign(f"{header}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
    for signature in (bytes(64), b"\xff" * 64, der):
        assert not verified(parse_jwt(f"{header}.{payload}.{b64(signature)}"), P256.public_key())


def test_pss_and_pkcs_are_not_mixed_up() -> None:
    header, payload = b64(b'{"alg":"PS256"}'), b64(b"{}")
    signature = RSA.sign(f"{header}.{payload}".encode(), padding.PKCS1v15(), hashes.SHA256())
    assert not verified(parse_jwt(f"{header}.{payload}.{b64(signature)}"), RSA.public_key())


# -- form -------------------------------------------------------------------------------------------------------------

_GOOD_HEADER = b64(b'{"alg":"EdDSA"}')


def _with_payload(payload: bytes) -> str:
    return f"{_GOOD_HEADER}.{b64(payload)}.AAAA"


def _with_header(header: bytes) -> str:
    return f"{b64(header)}.e30.AAAA"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "e30.e30.e30",  # no alg
        f"{_GOOD_HEADER}.e30.",
        f"{_GOOD_HEADER}.e30.!",
        f"{_GOOD_HEADER}.e30=.AAAA",
        f"{_GOOD_HEADER}.e3+/.AAAA",
        f"{_GOOD_HEADER}.e30.AAAA ",
        f"{_GOOD_HEADER}.e30.AAAA\n",
        f"{_GOOD_HEADER}.e30.A",
        _with_payload(b"[]"),
        _with_payload(b"1"),
        _with_payload(b"{"),
        _with_payload(b"\xff"),
        _with_payload(b'{"exp":NaN}'),
        _with_payload(b'{"sub":"a","sub":"b"}'),
        _with_payload(b"[" * 5000),
        _with_payload(b'{"exp":' + b"9" * 5000 + b"}"),
        _with_header(b'{"alg":null}'),
        _with_header(b'{"alg":["RS256"]}'),
        _with_header(b'{"alg":"EdDSA","kid":1}'),
        _with_header(b'{"alg":"EdDSA","crit":["x"],"x":1}'),
        _with_header(b'{"alg":"EdDSA","b64":false}'),
        _with_header(b'{"alg":"EdDSA","typ":"logout+jwt"}'),
        f"{_GOOD_HEADER}.e30." + "A" * MAX_TOKEN_CHARACTERS,
    ],
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(NoToken):
        parse_jwt(text)


@given(st.text() | st.text(st.sampled_from('eyJ0.AQ-_{}":,= \n'), max_size=60))
def test_any_text_is_a_token_or_none(text: str) -> None:
    with contextlib.suppress(NoToken):
        parse_jwt(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_CLAIM_NAMES = st.sampled_from(["sub", "iss", "exp", "nbf", "iat", "aud", "etd", "uid", "attributes", "servers", "x"])


@given(st.dictionaries(_CLAIM_NAMES, _JSON, max_size=8))
def test_any_claims_are_read_or_refused(claims: dict[str, Any]) -> None:
    with contextlib.suppress(NoToken):
        token = parse_jwt(forged({"alg": "EdDSA"}, claims, b"x"))
        token.flag("etd")
        token.texts("aud")
        assert isinstance(token.text("sub"), str)
        for check in (lambda: check_times(token, 1e9, leeway=60), lambda: check_audience(token, frozenset())):
            with contextlib.suppress(LoginRefused):
                check()


def test_only_bearer_headers_hold_tokens() -> None:
    text = made(ED, sub="joe")
    here = ipaddress.ip_address("192.0.2.1")
    assert bearer_jwt(read_authorization(f"bearer {text}", here, "r")) is not None
    for header in (None, "", f"Basic {text}", f"{text}", "Bearer", "Bearer x", f"Bearer {text} {text}"):
        assert bearer_jwt(read_authorization(header, here, "r")) is None


# -- claims -----------------------------------------------------------------------------------------------------------

_NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": _NOW + 300}, ""),
        ({"exp": _NOW - 59}, ""),
        ({"exp": _NOW + 300.5, "nbf": _NOW + 59}, ""),
        ({"exp": _NOW + 86400 + 59}, ""),
        ({"exp": None, "nbf": None}, "without exp"),
        ({}, "without exp"),
        ({"exp": _NOW - 61}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": -1}, "expired"),
        ({"exp": _NOW + 300, "nbf": _NOW + 61}, "does not hold yet"),
        ({"exp": _NOW + 86400 + 61}, "ends more than"),
        ({"exp": str(_NOW + 300)}, "exp is no time"),
        ({"exp": True}, "exp is no time"),
        ({"exp": [_NOW + 300]}, "exp is no time"),
        ({"exp": 10**400}, "exp is no time"),
        ({"exp": _NOW + 300, "nbf": "x"}, "nbf is no time"),
    ],
)
def test_times(claims: dict[str, Any], words: str) -> None:
    token = parse_jwt(forged({"alg": "EdDSA"}, claims, b"x"))
    if not words:
        assert check_times(token, _NOW, leeway=60, longest=86400) == claims["exp"]
        return
    with pytest.raises(LoginRefused, match=words):
        check_times(token, _NOW, leeway=60, longest=86400)


@pytest.mark.parametrize(
    ("audience", "fits"),
    [
        (None, True),
        ("CN=AUTH,O=x", True),
        (["other", "CN=AUTH,O=x"], True),
        ("cn=auth,o=x", False),  # letter by letter
        ("CN=AUTH, O=x", False),
        ("", False),
        ([], False),
        ([1, None], False),
        ({"CN=AUTH,O=x": 1}, False),
        ("CN=AUTH,O=xy", False),
    ],
)
def test_audiences(audience: object, fits: bool) -> None:
    token = parse_jwt(forged({"alg": "EdDSA"}, {"aud": audience}, b"x"))
    if fits:
        check_audience(token, frozenset({"CN=AUTH,O=x"}))
    else:
        with pytest.raises(LoginRefused, match="audience"):
            check_audience(token, frozenset({"CN=AUTH,O=x"}))


def test_flags_are_tolerant_of_text_and_of_nothing_else() -> None:
    values = [True, "true", "TRUE", "True", False, "false", "1", 1, None, [], ["true"], "yes"]
    token = parse_jwt(forged({"alg": "EdDSA"}, {f"f{n}": value for n, value in enumerate(values)}, b"x"))
    assert [token.flag(f"f{n}") for n in range(len(values))] == [True] * 4 + [False] * 8
    assert not token.flag("none")


def test_hmac_is_compared_as_a_whole() -> None:
    text = forged({"alg": "HS256"}, {}, b"s" * 32)
    signed, _, _ = text.rpartition(".")
    digest = hmac.digest(b"s" * 32, signed.encode(), hashlib.sha256)
    assert verified_by_secret(parse_jwt(text), b"s" * 32)
    assert not verified_by_secret(parse_jwt(f"{signed}.{b64(digest[:16])}"), b"s" * 32)
    assert not verified_by_secret(parse_jwt(text), b"t" * 32)

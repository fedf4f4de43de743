"""Agreeing on MODE U: options, hello, keys."""

from __future__ import annotations

import contextlib
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol import ProtocolError
from uftp.protocol.record_mode import (
    DEFAULT_LEVEL,
    MAX_CONNECTIONS,
    MAX_LEVEL,
    ConnectionKeys,
    HelloChecker,
    HelloRefused,
    RecordOptions,
    derive_keys,
    format_agreed,
    format_options,
    make_hello,
    parse_agreed,
    parse_options,
)

SALT, NONCE, KEY = bytes(range(32)), bytes(range(32, 64)), bytes(range(100, 148))


@st.composite
def options(draw: st.DrawFn) -> RecordOptions:
    compress = draw(st.booleans())
    return RecordOptions(
        crypt=draw(st.booleans()),
        compress=compress,
        level=draw(st.integers(1, MAX_LEVEL)) if compress else DEFAULT_LEVEL,
        digest=draw(st.booleans()),
        sparse=draw(st.booleans()),
        facts=draw(st.booleans()),
    )


def test_the_line_and_the_reply_of_the_document() -> None:
    everything = RecordOptions(crypt=True, compress=True, level=3, digest=True, sparse=True, facts=True)
    line = "OPTS MODE U CRYPT AES-256-GCM COMPRESS ZSTD LEVEL 3 DIGEST BLAKE3 SPARSE FACTS"
    agreed = f"MODE U CRYPT=AES-256-GCM;COMPRESS=ZSTD;LEVEL=3;DIGEST=BLAKE3;SPARSE=1;FACTS=1;SALT={SALT.hex()};"
    assert format_options(everything) == line
    assert format_agreed(everything, SALT) == agreed
    assert parse_options(line.removeprefix("OPTS MODE U ")) == everything
    assert parse_agreed(agreed) == (everything, SALT)


@given(options())
def test_options_come_back(wanted: RecordOptions) -> None:
    line = format_options(wanted).removeprefix("OPTS MODE U")
    assert parse_options(line) == parse_options(line.lower()) == wanted
    assert parse_agreed(format_agreed(wanted, SALT)) == (wanted, SALT)


@pytest.mark.parametrize(
    "argument",
    [
        "CRYPT",
        "CRYPT ROT13",
        "CRYPT AES-256-GCM CRYPT AES-256-GCM",
        "COMPRESS GZIP",
        "COMPRESS ZSTD LEVEL",
        "COMPRESS ZSTD LEVEL 0",
        "COMPRESS ZSTD LEVEL 20",
        "COMPRESS ZSTD LEVEL -1",
        "COMPRESS ZSTD LEVEL 1.5",
        "COMPRESS ZSTD LEVEL ٣",
        "LEVEL 3",
        "DIGEST MD5",
        "SPARSE 1",
        "TURBO",
    ],
)
def test_unknown_options_and_values_are_refused(argument: str) -> None:
    with pytest.raises(ProtocolError):
        parse_options(argument)


@given(st.text())
def test_junk_is_options_or_our_own_error(text: str) -> None:
    for parse in (parse_options, parse_agreed):
        with contextlib.suppress(ProtocolError):
            parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "OK",
        "MODE U",
        "MODE U CRYPT=AES-256-GCM;",
        f"MODE U SALT={SALT.hex()[:-2]};",
        f"MODE U SALT={SALT.hex()}",
        f"MODE U CRYPT=NONE;SALT={SALT.hex()};",
        f"MODE U SPARSE=0;SALT={SALT.hex()};",
        f"MODE U TURBO=1;SALT={SALT.hex()};",
        f"MODE U SPARSE=1;SPARSE=1;SALT={SALT.hex()};",
        f"MODE S SALT={SALT.hex()};",
    ],
)
def test_garbled_replies_are_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_agreed(text)


# -- hello and keys


def expand(key: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 by hand (RFC 5869), one block."""
    extracted = hmac.new(SALT + NONCE, key, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def test_keys_and_proof_are_those_of_the_document() -> None:
    keys = derive_keys(KEY, SALT, NONCE)
    assert keys.client_to_server == expand(KEY, b"uftp mode-u v1 client-to-server")
    assert keys.server_to_client == expand(KEY, b"uftp mode-u v1 server-to-client")
    head = b"UFTPU\x01\r\n" + NONCE
    proof = hmac.new(expand(KEY, b"uftp mode-u v1 hello"), head, hashlib.sha256).digest()
    assert make_hello(KEY, SALT, NONCE) == head + proof
    assert len(head + proof) == 72


def test_keys_do_not_show() -> None:
    keys = derive_keys(KEY, SALT, NONCE)
    assert keys.client_to_server.hex() not in repr(keys)
    assert repr(keys.client_to_server) not in repr(keys)
    assert isinstance(keys, ConnectionKeys)


@pytest.mark.parametrize("key", [b"", KEY])
def test_a_hello_is_good_once(key: bytes) -> None:
    checker = HelloChecker(key, SALT)
    assert checker.check(make_hello(key, SALT, NONCE)) == NONCE
    with pytest.raises(HelloRefused, match="replayed"):
        checker.check(make_hello(key, SALT, NONCE))
    other = bytes(32)
    assert checker.check(make_hello(key, SALT, other)) == other


@given(st.integers(0, 72 * 8 - 1))
def test_a_changed_bit_anywhere_proves_nothing(bit: int) -> None:
    hello = bytearray(make_hello(KEY, SALT, NONCE))
    hello[bit // 8] ^= 1 << bit % 8
    checker = HelloChecker(KEY, SALT)
    with pytest.raises(HelloRefused):
        checker.check(bytes(hello))
    assert checker.check(make_hello(KEY, SALT, NONCE)) == NONCE, "a refused one does not use its nonce up"


@given(st.binary(max_size=200))
def test_junk_is_no_hello(junk: bytes) -> None:
    with pytest.raises(HelloRefused):
        HelloChecker(b"", SALT).check(junk)


def test_a_hello_for_another_salt_or_key_proves_nothing() -> None:
    for hello in (make_hello(KEY, bytes(32), NONCE), make_hello(b"", SALT, NONCE), make_hello(KEY[1:], SALT, NONCE)):
        with pytest.raises(HelloRefused, match="proof"):
            HelloChecker(KEY, SALT).check(hello)


def test_a_salt_serves_so_many_connections() -> None:
    checker = HelloChecker(b"", SALT)
    for number in range(MAX_CONNECTIONS):
        checker.check(make_hello(b"", SALT, number.to_bytes(32, "big")))
    with pytest.raises(HelloRefused, match="1000"):
        checker.check(make_hello(b"", SALT, NONCE))

"""The old ciphers: what the Java library encrypts, at any split."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol import ProtocolError
from uftp.protocol.legacy_ciphers import BLOCK_BYTES, Decryptor, Encryptor, check_key, padding_length

CASES = [
    (case["algo"], base64.b64decode(case["key_base64"]), bytes.fromhex(plain), bytes.fromhex(cipher))
    for case in json.loads((Path(__file__).parent.parent / "vectors" / "crypto.json").read_text())["cases"]
    for plain, cipher in case["plain_cipher_hex"]
]
KEYS = {"AES": bytes(range(48)), "BLOWFISH": bytes(range(56))}


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize(("name", "key", "plain", "cipher"), CASES)
def test_vectors(name: str, key: bytes, plain: bytes, cipher: bytes) -> None:
    encryptor = Encryptor(name, key)
    assert encryptor.update(plain) + encryptor.finish() == cipher
    decryptor = Decryptor(name, key)
    found = decryptor.update(cipher)
    decryptor.finish()
    assert found[: -padding_length(found, BLOCK_BYTES[name])] == plain


@given(st.sampled_from(sorted(KEYS)), st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=5))
def test_there_and_back_at_any_split(name: str, plain: bytes, cuts: list[int]) -> None:
    encryptor, decryptor = Encryptor(name, KEYS[name]), Decryptor(name, KEYS[name])
    wire = b"".join(encryptor.update(piece) for piece in pieces(plain, cuts)) + encryptor.finish()
    assert len(wire) == (len(plain) // BLOCK_BYTES[name] + 1) * BLOCK_BYTES[name]
    found = b""
    fed = 0
    for piece in pieces(wire, cuts):
        fed += len(piece)
        found += decryptor.update(piece)
        assert len(found) == fed // BLOCK_BYTES[name] * BLOCK_BYTES[name], "every whole block at once"
    assert found[: -padding_length(found, BLOCK_BYTES[name])] == plain


@pytest.mark.parametrize("name", sorted(KEYS))
def test_an_end_inside_a_block(name: str) -> None:
    decryptor = Decryptor(name, KEYS[name])
    decryptor.update(bytes(BLOCK_BYTES[name] + 1))
    with pytest.raises(ProtocolError):
        decryptor.finish()


@pytest.mark.parametrize("last", [b"", b"\0" * 16, b"\x11" * 17, b"\x01\x02" * 8, b"x" * 15 + b"\x03", b"\x10" * 15])
def test_no_padding(last: bytes) -> None:
    with pytest.raises(ProtocolError):
        padding_length(last, 16)


@given(st.binary(max_size=40), st.sampled_from([8, 16]))
def test_padding_of_junk_is_a_count_or_an_error(last: bytes, block: int) -> None:
    try:
        count = padding_length(last, block)
    except ProtocolError:
        return
    assert 1 <= count <= block
    assert last.endswith(bytes([count]) * count)


@pytest.mark.parametrize(
    ("name", "size"), [("AES", 16), ("AES", 33), ("AES", 56), ("BLOWFISH", 3), ("BLOWFISH", 57), ("DES", 8)]
)
def test_keys_that_do_not_fit(name: str, size: int) -> None:
    with pytest.raises(ProtocolError):
        check_key(name, bytes(size))
    with pytest.raises(ProtocolError):
        Encryptor(name, bytes(size))

"""Digests in headers of HTTP: every notation, and what is none."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol.http_digests import HttpDigest, find_digest

DATA = b"what is served"
SHA256 = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
SHA512 = base64.b64encode(hashlib.sha512(DATA).digest()).decode()
MD5 = base64.b64encode(hashlib.md5(DATA).digest()).decode()
BEST = HttpDigest("SHA-256", hashlib.sha256(DATA).hexdigest())


@pytest.mark.parametrize(
    "headers",
    [
        {"repr-digest": f"sha-256=:{SHA256}:"},
        {"repr-digest": f"sha-512=:{SHA512}:, sha-256=:{SHA256}:"},
        {"repr-digest": f"unixsum=:AAA=:, SHA-256=:{SHA256}:;q=1"},
        {"digest": f"SHA-256={SHA256}"},
        {"digest": f"md5={MD5},sha-256={SHA256}"},
        {"digest": f"sha-256={SHA256}", "content-md5": MD5},
        {"repr-digest": f"sha-256=:{SHA256}:", "digest": "sha-256=AAAA"},
    ],
    ids=str,
)
@pytest.mark.parametrize("whole", [True, False])
def test_of_the_file(headers: dict[str, str], whole: bool) -> None:
    assert find_digest(headers, whole=whole) == BEST


@pytest.mark.parametrize(
    ("headers", "algorithm"),
    [
        ({"content-digest": f"sha-512=:{SHA512}:"}, "SHA-512"),
        ({"content-md5": MD5}, "MD5"),
        ({"content-md5": f" {MD5} "}, "MD5"),
    ],
    ids=str,
)
def test_of_the_content_says_nothing_of_a_range(headers: dict[str, str], algorithm: str) -> None:
    found = find_digest(headers, whole=True)
    assert found is not None
    assert found.algorithm == algorithm
    assert find_digest(headers, whole=False) is None


def test_of_an_object_store() -> None:
    found = find_digest({"x-goog-hash": f"crc32c=n03x6A==, md5={MD5}"}, whole=False)
    assert found == HttpDigest("MD5", hashlib.md5(DATA).hexdigest())


@pytest.mark.parametrize(
    "field",
    [
        "",
        "sha-256",
        "sha-256=",
        f"sha-256=:{SHA256}",
        f"sha-256={SHA256[:-4]}",
        "sha-256=????",
        "sha-1=:AAAA:",
        "a" * 9999,
    ],
)
def test_what_makes_no_sense(field: str) -> None:
    assert find_digest({"repr-digest": field, "digest": field}, whole=True) is None


@given(
    st.dictionaries(st.sampled_from(["repr-digest", "digest", "content-digest", "content-md5"]), st.text(), max_size=4)
)
def test_any_junk(headers: dict[str, str]) -> None:
    found = find_digest(headers, whole=True)
    assert found is None or len(found.hex) in (32, 64, 128)


@given(st.binary())
def test_round_trip(data: bytes) -> None:
    digest = hashlib.sha256(data)
    field = f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert find_digest({"repr-digest": field}, whole=False) == HttpDigest("SHA-256", digest.hexdigest())

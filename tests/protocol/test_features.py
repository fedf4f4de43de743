"""FEAT: our own list, and those of others with their run-together lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol.features import DEFAULT_HASH, EXTENSION_FEATURES, HASH_ALGORITHMS, Features, feature_lines
from uftp.protocol.replies import ReplyReader

VECTORS = Path(__file__).parent.parent / "vectors"


def _reference() -> Features:
    steps = json.loads((VECTORS / "session.json").read_text())["steps"]
    reader = ReplyReader()
    reader.receive_data(next(step["s"] for step in steps if step["c"] == "FEAT").encode())
    received = reader.next_reply()
    assert received is not None
    return Features.parse(received.inner)


@pytest.mark.parametrize(
    "name",
    ["PASV", "EPSV", "RANG STREAM", "REST STREAM", "MFMT", "MLSD", "MLST", "APPE", "KEEP-ALIVE", "ARCHIVE", "HASH",
     "MFF Modify;UNIX.mode;"],
)  # fmt: skip
def test_the_reference_servers_list_is_read_in_spite_of_its_missing_commas(name: str) -> None:
    assert name in _reference()


def test_what_the_reference_server_lacks() -> None:
    features = _reference()
    for name in ("RFC_RANG", "MODE U", "UTC", "NAMES PCT", "SIZE", "HASH BLAKE3", "STREAM", ""):
        assert name not in features
    assert features.hash_algorithms == ["MD5", "SHA-1", "SHA-256", "SHA-512"]


def test_our_list_stands_one_feature_a_line() -> None:
    lines = feature_lines(keep_alive=True, cipher=None, hash_algorithm=DEFAULT_HASH)
    assert all(line.startswith(b" ") and not line.startswith(b"  ") for line in lines)
    stripped = [line.strip().decode() for line in lines]
    assert len(set(stripped)) == len(stripped)
    # Names the Java client compares as they are.
    for name in (
        "PASV",
        "EPSV",
        "KEEP-ALIVE",
        "MFMT",
        "MFF Modify;UNIX.mode;",
        "UTF8",
        "REST STREAM",
        "RANG STREAM",
        "ARCHIVE",
    ):
        assert name in stripped
    assert "HASH MD5*;SHA-1;SHA-256;SHA-512;BLAKE3" in stripped
    assert not any(line.startswith("RFC_RANG") for line in stripped)


def test_our_list_depends_on_the_session() -> None:
    features = Features.parse(feature_lines(keep_alive=False, cipher="AES", hash_algorithm="BLAKE3"))
    assert "KEEP-ALIVE" not in features
    assert "CRYPTED-AES" in features
    assert "CRYPTED-BLOWFISH" not in features
    assert features.hash_algorithms == list(HASH_ALGORITHMS)


@pytest.mark.parametrize("name", EXTENSION_FEATURES)
def test_what_a_ping_reply_promises_is_found_in_feat(name: str) -> None:
    assert name in Features.parse(feature_lines(keep_alive=False, cipher=None, hash_algorithm="SHA-256"))


@given(st.lists(st.binary()))
def test_any_junk_is_a_set_of_lines(inner: list[bytes]) -> None:
    features = Features.parse(inner)
    assert "PASV" not in features or any(b"PASV" in line.upper() for line in inner)
    features.hash_algorithms  # noqa: B018  reading it must not fail

"""HASH replies: the published table, and what any server may send."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol import ProtocolError
from uftp.protocol.features import HASH_ALGORITHMS
from uftp.protocol.hashing import FileHash, find_algorithm, format_hash, parse_hash
from uftp.protocol.ranges import WHOLE_FILE, rang, rest
from uftp.protocol.replies import ReplyReader, reply

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "vectors" / "hash.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{', '.join(case['before'])} {len(case['content'])}")
def test_replies_of_the_reference_server_are_made_and_read(case: dict[str, Any]) -> None:
    content = case["content"].encode()
    algorithm, current = "MD5", WHOLE_FILE
    for command in case["before"]:
        verb, _, argument = command.partition(" ")
        if verb == "OPTS":
            found = find_algorithm(argument.removeprefix("HASH "))
            assert found is not None
            algorithm = found
        else:
            current, _ = (rang if verb == "RANG" else rest)(argument.encode())
    part = content[current.offset :][: current.readable(len(content))]
    digest = hashlib.new(algorithm.replace("SHA-1", "sha1").replace("-", ""), part).hexdigest()
    length = current.length if current.length is not None else max(0, len(content) - current.offset)
    path = case["reply"].rstrip("\n").rpartition(" ")[2]
    ours = reply(213, format_hash(algorithm, current.offset, length, digest) + path)
    assert ours.encode() == case["reply"].replace("\n", "\r\n").encode()

    reader = ReplyReader()
    reader.receive_data(b"213-\n213-\n" + case["reply"].encode())
    received = reader.next_reply()
    assert received is not None
    assert parse_hash(received) == parse_hash(ours) == FileHash(
        algorithm, current.offset, int(case["reply"].split()[2].partition("-")[2]), digest, path
    )  # fmt: skip


@given(
    st.sampled_from(HASH_ALGORITHMS),
    st.integers(0, 2**64),
    st.integers(0, 2**64),
    st.binary(min_size=1).map(bytes.hex),
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
)
def test_what_is_written_is_read_back(algorithm: str, offset: int, length: int, digest: str, path: str) -> None:
    found = parse_hash(reply(213, format_hash(algorithm, offset, length, digest) + path))
    assert (found.algorithm, found.first, found.digest, found.path) == (algorithm, offset, digest, path)
    assert found.last == (offset + length - 1 if offset or length else 0)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (213, "10"),
        (213, "MD5 0-9 xyz /f"),
        (213, "MD5 0 00 /f"),
        (213, "MD5 -1-9 00 /f"),
        (213, "MD5 0-9 00"),
        (213, "MD5 0-" + "9" * 5000 + " 00 /f"),
        (213, "MD5 " + "9" * 5000 + "-9 00 /f"),
        (550, "MD5 0-9 00 /f"),
    ],
)
def test_what_is_no_hash_reply(code: int, text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_hash(reply(code, text))


@given(st.binary() | st.text("MD5 0123456789abcdef-/", max_size=60).map(str.encode))
def test_any_junk_is_a_hash_or_a_protocol_error(text: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        parse_hash(reply(213, text))


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("md5", "MD5"),
        ("SHA1", "SHA-1"),
        ("sha_256", "SHA-256"),
        ("Sha-512", "SHA-512"),
        ("blake3", "BLAKE3"),
        ("MD4", None),
        ("", None),
        ("SHA", None),
    ],
)
def test_algorithms_by_any_spelling(name: str, algorithm: str | None) -> None:
    assert find_algorithm(name) == algorithm

"""Records of MODE U: what a header says and may say, holes, trailers, and what ties records to commands."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol.record_mode import RecordOptions
from uftp.protocol.records import (
    ABORT,
    END,
    HOLE,
    MAX_CONTENT,
    MAX_FACTS,
    MAX_FRAME,
    MAX_HOLE,
    MAX_RAW,
    MAX_REASON,
    ZSTD,
    Header,
    RecordError,
    binding,
    check_header,
    content_size,
    format_reason,
    nonce,
    pack_header,
    pack_header_into,
    pack_hole,
    pack_trailer,
    parse_reason,
    unpack_header,
    unpack_hole,
    unpack_trailer,
)

PLAIN = RecordOptions()
EVERYTHING = RecordOptions(crypt=True, compress=True, digest=True, sparse=True, facts=True)
FLAGS = st.integers(0, 15).map(lambda bits: bits << 28)


@given(FLAGS, st.integers(0, 2**28 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=8))
def test_headers_come_back(flags: int, length: int, number: int, before: bytes) -> None:
    packed = pack_header(flags, length, number)
    assert len(packed) == 8
    assert unpack_header(before + packed, len(before)) == Header(flags, length, number)
    buffer = bytearray(16)
    pack_header_into(buffer, 5, flags, length, number)
    assert buffer[5:13] == packed


def test_a_header_byte_by_byte() -> None:
    assert pack_header(END | ZSTD, 0x0123456, 7) == bytes.fromhex("a0123456 00000007")


@pytest.mark.parametrize(
    ("header", "options"),
    [
        (Header(0, 1, 5), PLAIN),
        (Header(0, MAX_RAW, 5), PLAIN),
        (Header(END, 0, 5), PLAIN),
        (Header(END, MAX_RAW, 5), PLAIN),
        (Header(ABORT, 0, 5), PLAIN),
        (Header(ABORT, MAX_REASON, 5), PLAIN),
        (Header(0, MAX_CONTENT + 16, 5), EVERYTHING),
        (Header(END, 16, 5), EVERYTHING),
        (Header(ABORT, 16, 5), EVERYTHING),
        (Header(ZSTD, MAX_FRAME + 16, 5), EVERYTHING),
        (Header(END | ZSTD, 100, 5), EVERYTHING),
        (Header(HOLE, 24, 5), EVERYTHING),
    ],
)
def test_records_that_may_be(header: Header, options: RecordOptions) -> None:
    check_header(header, options, 5)
    with pytest.raises(RecordError, match="due"):
        check_header(header, options, 6)


@pytest.mark.parametrize(
    ("header", "options", "why"),
    [
        (Header(0, 0, 5), PLAIN, "empty"),
        (Header(0, 16, 5), EVERYTHING, "empty"),
        (Header(ZSTD, 16, 5), EVERYTHING, "empty"),
        (Header(0, 15, 5), EVERYTHING, "tag"),
        (Header(END, 0, 5), EVERYTHING, "tag"),
        (Header(0, MAX_RAW + 1, 5), PLAIN, "limit"),
        (Header(END, MAX_RAW + 1, 5), PLAIN, "limit"),
        (Header(0, MAX_CONTENT + 17, 5), EVERYTHING, "limit"),
        (Header(END, MAX_CONTENT + 17, 5), EVERYTHING, "limit"),
        (Header(ZSTD, MAX_FRAME + 17, 5), EVERYTHING, "limit"),
        (Header(HOLE, 9 + 16, 5), EVERYTHING, "limit"),
        (Header(ABORT, MAX_REASON + 1, 5), PLAIN, "limit"),
        (Header(END | ABORT, 0, 5), PLAIN, "ABORT"),
        (Header(ABORT | ZSTD, 20, 5), EVERYTHING, "ABORT"),
        (Header(ZSTD, 20, 5), PLAIN, "agreed"),
        (Header(HOLE, 8, 5), PLAIN, "agreed"),
        (Header(HOLE | ZSTD, 30, 5), EVERYTHING, "hole"),
    ],
)
def test_records_that_may_not_be(header: Header, options: RecordOptions, why: str) -> None:
    with pytest.raises(RecordError, match=why):
        check_header(header, options, 5)


def test_numbers_go_round_after_32_bits() -> None:
    assert unpack_header(pack_header(0, 1, 2**32 + 3)).number == 3
    check_header(Header(0, 1, 3), PLAIN, 2**32 + 3)


@given(FLAGS, st.integers(0, 2**28 - 1), st.integers(0, 2**32 - 1), st.sampled_from([PLAIN, EVERYTHING]))
def test_any_header_passes_or_is_our_own_error(flags: int, length: int, number: int, options: RecordOptions) -> None:
    try:
        check_header(Header(flags, length, number), options, number)
    except RecordError:
        return
    assert length <= MAX_RAW


# -- holes, trailers, reasons


@given(st.integers(1, MAX_HOLE))
def test_holes_come_back(length: int) -> None:
    assert unpack_hole(pack_hole(length)) == length


@given(st.binary(max_size=20))
def test_junk_is_a_hole_or_our_own_error(junk: bytes) -> None:
    try:
        assert 0 < unpack_hole(junk) <= MAX_HOLE
    except RecordError:
        assert len(junk) != 8 or not 0 < int.from_bytes(junk, "big") <= MAX_HOLE


@given(
    st.binary(max_size=100),
    st.none() | st.binary(max_size=100),
    st.none() | st.binary(min_size=32, max_size=32),
)
def test_trailers_come_back(content: bytes, facts: bytes | None, digest: bytes | None) -> None:
    payload = content + pack_trailer(facts, digest)
    trailer = unpack_trailer(payload, facts=facts is not None, digest=digest is not None)
    assert (trailer.facts, trailer.digest) == (facts, digest)
    assert payload[: len(payload) - trailer.length] == content


@given(st.binary(max_size=100), st.booleans(), st.booleans())
def test_junk_is_a_trailer_or_our_own_error(junk: bytes, facts: bool, digest: bool) -> None:
    try:
        assert 0 <= unpack_trailer(junk, facts=facts, digest=digest).length <= len(junk)
    except RecordError:
        assert facts or digest


def test_facts_are_bounded() -> None:
    with pytest.raises(ValueError, match="4097"):
        pack_trailer(bytes(MAX_FACTS + 1), None)
    payload = bytes(MAX_FACTS + 1) + (MAX_FACTS + 1).to_bytes(2, "big")
    with pytest.raises(RecordError):
        unpack_trailer(payload, facts=True, digest=False)


@given(st.text(max_size=1000))
def test_reasons_are_bounded_and_fit_for_a_log(text: str) -> None:
    payload = format_reason(text)
    assert len(payload) <= MAX_REASON
    payload.decode()
    assert parse_reason(payload).isprintable()


@given(st.binary(max_size=2000))
def test_any_reason_is_fit_for_a_log(payload: bytes) -> None:
    assert parse_reason(payload).isprintable()


# -- compressed and encrypted ones


def test_the_content_size_of_a_frame() -> None:
    frame = zstandard.ZstdCompressor().compress(b"x" * 1000)
    assert content_size(frame) == 1000


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"junk that is no frame",
        zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000),
        zstandard.ZstdCompressor().compress(bytes(MAX_CONTENT + 1)),
    ],
    ids=["empty", "junk", "no size", "too large"],
)
def test_frames_that_may_not_be(frame: bytes) -> None:
    with pytest.raises(RecordError):
        content_size(frame)


@given(st.binary(max_size=64), st.booleans())
def test_junk_is_a_frame_or_our_own_error(junk: bytes, with_magic: bool) -> None:
    with contextlib.suppress(RecordError):
        assert 0 <= content_size(b"\x28\xb5\x2f\xfd" * with_magic + junk) <= MAX_CONTENT


def test_nonces_count() -> None:
    assert nonce(0) == bytes(12)
    assert nonce(2**32 - 1) == bytes.fromhex("00000000 00000000 ffffffff")


def test_the_binding_is_that_of_the_document() -> None:
    assert binding(b"STOR a b ", 5, 10) == hashlib.sha256(b"STOR a b \n5\n10").digest()
    assert binding(b"RETR x", 0, None) == hashlib.sha256(b"RETR x\n0\n-1").digest()
    assert binding(b"RETR x", 0, 2**70) == hashlib.sha256(b"RETR x\n0\n1180591620717411303424").digest()

"""Framing of several streams: vectors, any cut of the input, and what a reader must refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uftp.protocol import ProtocolError
from uftp.protocol.jparss import (
    HEADER_BYTES,
    MAX_BLOCK,
    FrameReader,
    FrameWriter,
    check_header,
    chunk_lengths,
    pack_header,
    run_blocks,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "jparss.json").read_text())


def framed(blocks: Sequence[bytes], streams: int) -> list[bytes]:
    """What travels, by the formula of the document."""
    wires = [b""] * streams
    for sequence, block in enumerate(blocks):
        at = 0
        for stream, chunk in enumerate(chunk_lengths(len(block), streams)):
            wires[stream] += pack_header(stream, sequence, len(block), chunk) + block[at : at + chunk]
            at += chunk
    return wires


def written(writer: FrameWriter, payload: bytes, streams: int) -> list[bytes]:
    at = 0
    for place in writer.begin_run(len(payload)):
        place[:] = payload[at : at + len(place)]
        at += len(place)
    assert at == len(payload)
    return [bytes(writer.wire(stream)) for stream in range(streams)]


def read(wires: Sequence[bytes], pieces: Sequence[int], limit: int | None = None, *, skip: bool = False) -> bytes:
    """Feed a reader in pieces of the given sizes, over and over, the stream that is behind first."""
    reader = FrameReader(len(wires))
    fed = [0] * len(wires)
    got = bytearray()
    count = 0
    turn = 0
    while True:
        rest = None if limit is None else limit - count
        if skip:
            found = reader.skip(rest)
        else:
            taken = reader.take(rest)
            found = sum(map(len, taken))
            got += b"".join(taken)
        count += found
        if found:
            continue
        stream = reader.furthest_behind()
        if stream is None or count == limit:
            break
        room = reader.room(stream)
        piece = wires[stream][fed[stream] : fed[stream] + min(len(room), pieces[turn % len(pieces)])]
        turn += 1
        if not piece:
            reader.end(stream)
            continue
        room[: len(piece)] = piece
        reader.received(stream, len(piece))
        fed[stream] += len(piece)
    if limit is None:
        for stream in range(len(wires)):
            if reader.left_over(stream):
                raise ProtocolError(f"stream {stream} ended inside a frame")
    return bytes(count) if skip else bytes(got)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["note"] or f"{case['streams']} streams")
def test_vectors(case: dict[str, list[str]]) -> None:
    streams = int(case["streams"])  # type: ignore[call-overload]
    blocks = [bytes.fromhex(block) for block in case["blocks"]]
    wires = [bytes.fromhex(wire) for wire in case["wire"]]
    writer = FrameWriter(streams)
    parts = [written(writer, block, streams) for block in blocks]
    assert [b"".join(part[stream] for part in parts) for stream in range(streams)] == wires
    assert read(wires, [1]) == read(wires, [10000]) == b"".join(blocks)


@pytest.mark.parametrize("case", VECTORS["must_reject"], ids=lambda case: case["note"])
def test_headers_to_refuse(case: dict[str, str]) -> None:
    streams = int(case.get("streams", 2))
    with pytest.raises(ProtocolError):
        check_header(bytes.fromhex(case["header"]), stream=0, streams=streams, sequence=0)


@pytest.mark.parametrize("streams", [2, 3, 4, 7, 256])
@pytest.mark.parametrize(
    "size",
    [
        1,
        2,
        15,
        16,
        17,
        MAX_BLOCK - 1,
        MAX_BLOCK,
        MAX_BLOCK + 1,
        2 * MAX_BLOCK,
        5 * MAX_BLOCK + 7,
        64 * MAX_BLOCK - 1,
        64 * MAX_BLOCK,
    ],
)
def test_runs_of_any_length(streams: int, size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    writer = FrameWriter(streams)
    wires = [b""] * streams
    for at in range(0, size, writer.capacity):
        part = written(writer, payload[at : at + writer.capacity], streams)
        wires = [wire + more for wire, more in zip(wires, part, strict=True)]
    assert wires == framed([payload[at : at + MAX_BLOCK] for at in range(0, size, MAX_BLOCK)], streams)
    assert read(wires, [1 << 20]) == payload
    assert read(wires, [4099]) == payload


@pytest.mark.parametrize("streams", [2, 3, 4, 5, 64])
def test_a_short_block_leaves_no_trace_in_the_next_run(streams: int) -> None:
    writer = FrameWriter(streams)
    payloads = [b"x" * 5, b"y" * (3 * MAX_BLOCK), b"z" * (2 * MAX_BLOCK - 1), b"w" * (4 * MAX_BLOCK)]
    parts = [written(writer, payload, streams) for payload in payloads]
    wires = [b"".join(part[stream] for part in parts) for stream in range(streams)]
    assert read(wires, [70000]) == b"".join(payloads)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=200), max_size=8),
    st.integers(2, 6),
    st.lists(st.integers(1, 90), min_size=1, max_size=6),
    st.booleans(),
)
def test_any_blocks_at_any_split(blocks: list[bytes], streams: int, pieces: list[int], skip: bool) -> None:
    payload = b"".join(blocks)
    got = read(framed(blocks, streams), pieces, skip=skip)
    assert got == (bytes(len(payload)) if skip else payload)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 4), st.integers(0, 6 * MAX_BLOCK), st.integers(1, 100000), st.booleans())
def test_a_limit_is_kept_inside_blocks(streams: int, limit: int, piece: int, skip: bool) -> None:
    payload = bytes(range(251)) * 400
    payload = payload[: 6 * MAX_BLOCK]
    wires = framed([payload[at : at + MAX_BLOCK] for at in range(0, len(payload), MAX_BLOCK)], streams)
    wanted = payload[:limit]
    assert read(wires, [piece], limit=len(wanted), skip=skip) == (bytes(len(wanted)) if skip else wanted)


def test_what_lies_behind_a_limit_comes_with_the_next_call() -> None:
    reader = FrameReader(2)
    for stream, wire in enumerate(framed([b"abcdefghij", b"klm"], 2)):
        reader.room(stream)[: len(wire)] = wire
        reader.received(stream, len(wire))
    assert b"".join(reader.take(3)) == b"abc"
    assert b"".join(reader.take(4)) == b"defg"
    assert b"".join(reader.take()) == b"hij"
    assert b"".join(reader.take()) == b"klm"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_header_bit_is_noticed(data: st.DataObject) -> None:
    streams = data.draw(st.integers(2, 4))
    payload = bytes(data.draw(st.sampled_from([10, 3 * MAX_BLOCK, 4 * MAX_BLOCK + 5])))
    blocks = [payload[at : at + MAX_BLOCK] for at in range(0, len(payload), MAX_BLOCK)]
    wires = framed(blocks, streams)
    stream, number = data.draw(st.integers(0, streams - 1)), data.draw(st.integers(0, len(blocks) - 1))
    at = sum(HEADER_BYTES + chunk_lengths(len(block), streams)[stream] for block in blocks[:number])
    at += data.draw(st.integers(0, HEADER_BYTES - 1))
    broken = bytearray(wires[stream])
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    wires[stream] = bytes(broken)
    with pytest.raises(ProtocolError):
        read(wires, [data.draw(st.integers(1, 70000))])


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 4), st.integers(0, 3), st.integers(1, 400), st.integers(1, 300))
def test_a_stream_cut_anywhere_is_noticed(streams: int, which: int, cut: int, piece: int) -> None:
    wires = framed([b"0123456789" * 20, b"abc"], streams)
    which %= streams
    cut = min(cut, len(wires[which]))
    wires[which] = wires[which][:-cut]
    with pytest.raises(ProtocolError):
        read(wires, [piece])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=100), min_size=2, max_size=4), st.booleans())
def test_junk_is_an_error_of_ours_or_nothing(wires: list[bytes], likely: bool) -> None:
    if likely:
        wires = [b"\xce\xbf" + bytes([0, stream]) + wire for stream, wire in enumerate(wires)]
    try:
        got = read(wires, [7])
    except ProtocolError:
        return
    assert got == b""
    assert not any(wires)


def test_sequence_numbers_wrap() -> None:
    writer = FrameWriter(2)
    reader = FrameReader(2)
    writer._sequence = reader._sequence = 2**32 - 2
    payload = bytes(range(250)) * 500
    wires = written(writer, payload, 2)
    for stream, wire in enumerate(wires):
        reader.room(stream)[: len(wire)] = wire
        reader.received(stream, len(wire))
    assert b"".join(reader.take()) == payload


def test_a_stream_that_runs_ahead_is_full_and_the_other_comes_first() -> None:
    reader = FrameReader(2)
    wires = framed([bytes(MAX_BLOCK)] * run_blocks(2), 2)
    reader.room(0)[:] = wires[0]
    reader.received(0, len(wires[0]))
    assert reader.is_full(0)
    assert reader.furthest_behind() == 1
    assert reader.take() == []

"""The messages of delta sync, against the vectors, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol import ProtocolError
from uftp.protocol.rsync import (
    BLOCK_SUM,
    MAX_BLOCK,
    MAX_BLOCKS,
    RECORD,
    SUMS_HEADER,
    Record,
    SumsHeader,
    block_count,
    block_size,
    parse_record,
    parse_sums_header,
)

VECTOR: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "rsync.json").read_text())


def test_sums_of_the_vector() -> None:
    data = bytes.fromhex(VECTOR["follower_to_leader_hex"])
    header = parse_sums_header(data[: SUMS_HEADER.size])
    assert header == SumsHeader(512, 5)
    assert len(data) == SUMS_HEADER.size + header.blocks * BLOCK_SUM.size
    assert block_size(2500) == 512
    assert block_count(2500, 512) == 5


@pytest.mark.parametrize("leader", ["java_leader_records", "python_leader_records"])
def test_records_of_the_vector(leader: str) -> None:
    for record in VECTOR[leader]:
        raw = bytes.fromhex(record["header"])
        assert parse_record(raw, 5) == Record(record["index"], record["literal_length"])
        assert RECORD.pack(record["index"], record["literal_length"]) == raw


@pytest.mark.parametrize(
    ("size", "block"), [(0, 512), (511_999, 512), (513_000, 513), (2**30, 1073741), (2**50, 2**30)]
)
def test_block_sizes_of_other_programs(size: int, block: int) -> None:
    assert block_size(size) == block


@given(st.integers(0, 2**45), st.booleans())
def test_blocks_are_few_and_not_too_large(size: int, finer: bool) -> None:
    block = block_size(size, finer=finer)
    assert 512 <= block <= MAX_BLOCK
    assert block_count(size, block) <= MAX_BLOCKS
    assert (block_count(size, block) - 1) * block < max(1, size) <= max(1, block_count(size, block) * block)


@pytest.mark.parametrize(("block", "count"), [(512, -1), (512, MAX_BLOCKS + 1), (0, 1), (-1, 5), (511, 1)])
def test_sums_that_make_no_sense(block: int, count: int) -> None:
    with pytest.raises(ProtocolError):
        parse_sums_header(SUMS_HEADER.pack(block, count))


@pytest.mark.parametrize(("index", "length"), [(-2, 0), (5, 0), (2**31 - 1, 0), (0, -1), (-1, -(2**63))])
def test_records_that_make_no_sense(index: int, length: int) -> None:
    with pytest.raises(ProtocolError):
        parse_record(RECORD.pack(index, length), 5)


@given(st.binary(min_size=12, max_size=12), st.integers(0, MAX_BLOCKS))
def test_junk_is_a_record_that_can_be_or_an_error(data: bytes, count: int) -> None:
    try:
        record = parse_record(data, count)
    except ProtocolError:
        return
    assert -1 <= record.block < count
    assert record.length >= 0

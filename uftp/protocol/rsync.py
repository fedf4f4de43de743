"""The messages of SYNC-TO-CLIENT and SYNC-TO-SERVER on the data connection (DATA-PLANE section 11), sans I/O.

The *follower* has the old file and sends a sum of each of its blocks; the *leader* has the new one and answers with
records: literal bytes, then the number of an old block to put behind them.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from uftp.protocol._errors import ProtocolError

MIN_BLOCK: Final = 512  # bytes; no known program uses smaller ones
MAX_BLOCK: Final = 2**30  # the field has 31 bits, and other programs count in them
# Blocks a leader keeps the sums of: 100 MiB. Java followers keep to 512 bytes above 2 GiB, so this takes their files up
# to that size and no further; others send about a thousand sums.
MAX_BLOCKS: Final = 2**22
_OWN_BLOCKS: Final = 8192  # what our two ends send: finer than the thousand of old programs, so less of a file moves
_OWN_STEP: Final = 64

SUMS_HEADER: Final = struct.Struct(">ii")
BLOCK_SUM: Final = struct.Struct(">q16s")
RECORD: Final = struct.Struct(">iq")
LAST: Final = -1


class SumsHeader(NamedTuple):
    """What a follower sends first: bytes in a block, and how many blocks there are."""

    block_size: int
    blocks: int


class Record(NamedTuple):
    """What stands in front of each literal: the old block to put behind it, -1 for none and the end; its length."""

    block: int
    length: int


def block_size(size: int, *, finer: bool = False) -> int:
    """Bytes in a block of an old file of `size` bytes; its last block may be shorter.

    Args:
        size: bytes in the file.
        finer: the leader is one of ours. Others get what every known follower sends.
    """
    wanted = -(-size // (_OWN_BLOCKS * _OWN_STEP)) * _OWN_STEP if finer else size // 1000
    return min(MAX_BLOCK, max(MIN_BLOCK, wanted))


def block_count(size: int, block: int) -> int:
    """How many blocks of `block` bytes there are in `size`."""
    return -(-size // block)


def parse_sums_header(data: bytes) -> SumsHeader:
    """Read the first message of a follower.

    Raises:
        ProtocolError: numbers that cannot be.
    """
    header = SumsHeader(*SUMS_HEADER.unpack(data))
    if not 0 <= header.blocks <= MAX_BLOCKS:
        raise ProtocolError(f"{header.blocks} block sums are too many, or make no sense")
    if header.blocks and header.block_size < MIN_BLOCK:
        raise ProtocolError(f"blocks of {header.block_size} bytes make no sense")
    return header


def parse_record(data: bytes, count: int) -> Record:
    """Read a record's header.

    Args:
        data: its 12 bytes.
        count: blocks there are.

    Raises:
        ProtocolError: a block that does not exist, or a length that cannot be.
    """
    record = Record(*RECORD.unpack(data))
    if not LAST <= record.block < count:
        raise ProtocolError(f"block {record.block} of {count}")
    if record.length < 0:
        raise ProtocolError(f"a literal of {record.length} bytes")
    return record

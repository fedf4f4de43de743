"""Framing of several data streams, compatible with JPARSS (DATA-PLANE section 7).

The payload is cut into blocks, and each block over all streams: one header and one chunk a stream and block. Both ends
work on runs of blocks in buffers that are used again, so that the caller moves a run with a few system calls.
"""

from __future__ import annotations

import functools
import struct
from typing import Final

from uftp.protocol._errors import ProtocolError

MAGIC: Final = 0xCEBF
HEADER_BYTES: Final = 16
MAX_BLOCK: Final = 16384  # bytes; Java readers fail on a larger one
# Blocks of a run: 1 MiB of payload. More gains nothing, fewer cost system calls.
RUN_BLOCKS: Final = 64
_MAX_CHUNKS: Final = 1024  # of a run; the kernel takes no more pieces in one vector

_HEADER: Final = struct.Struct(">HHIII")
_MAGIC_BYTES: Final = MAGIC.to_bytes(2, "big")
_SEQUENCE_MASK: Final = 0xFFFF_FFFF
_MAX_PADDING: Final = 16


def chunk_lengths(block: int, streams: int) -> list[int]:
    """How many bytes of a block each stream carries; the last one takes what does not divide."""
    share = block // streams
    return [share] * (streams - 1) + [block - (streams - 1) * share]


def pack_header(stream: int, sequence: int, block: int, chunk: int) -> bytes:
    """The header in front of a chunk."""
    return _HEADER.pack(MAGIC, stream, sequence & _SEQUENCE_MASK, block, chunk)


def check_header(header: bytes | memoryview, *, stream: int, streams: int, sequence: int) -> int:
    """Check the header of a chunk.

    Args:
        header: its 16 bytes.
        stream: the connection it came on, from 0.
        streams: how many there are.
        sequence: number of the block that is due.

    Returns:
        Length of the block.

    Raises:
        ProtocolError: something in it is not as it must be.
    """
    magic, number, found, block, chunk = _HEADER.unpack(header)
    if magic != MAGIC:
        raise ProtocolError(f"stream {stream}: no frame header where one is due")
    if number != stream:
        raise ProtocolError(f"stream {stream}: a frame of stream {number}")
    if found != sequence & _SEQUENCE_MASK:
        raise ProtocolError(f"stream {stream}: block {found} where {sequence} is due")
    if not 1 <= block <= MAX_BLOCK:
        raise ProtocolError(f"stream {stream}: a block of {block} bytes")
    if chunk != chunk_lengths(block, streams)[stream]:
        raise ProtocolError(f"stream {stream}: a chunk of {chunk} bytes of a block of {block}")
    return int(block)


def run_blocks(streams: int) -> int:
    """Blocks a run has at most."""
    return min(RUN_BLOCKS, _MAX_CHUNKS // streams)


@functools.lru_cache(maxsize=4096)
def _headers_of(blocks: int, chunk: int) -> struct.Struct:
    """Reads the headers of a run of blocks in one call."""
    return struct.Struct(f"{HEADER_BYTES}s{chunk}x" * blocks)


class FrameWriter:
    """Lays out runs of blocks in one buffer a stream.

    Args:
        streams: how many, at least 2.

    Attributes:
        capacity: payload bytes of a run.
    """

    def __init__(self, streams: int) -> None:
        self._streams = streams
        blocks = run_blocks(streams)
        self.capacity = blocks * MAX_BLOCK
        self._chunks = chunk_lengths(MAX_BLOCK, streams)
        self._strides = [HEADER_BYTES + chunk for chunk in self._chunks]
        # The last chunk of a short block can be longer than that of a full one, by less than a byte a stream.
        self._buffers = [memoryview(bytearray(blocks * stride + streams)) for stride in self._strides]
        self._blocks = blocks
        self._lengths = [0] * streams
        self._sequence = 0
        self._short_slot: int | None = None
        for slot in range(blocks):
            self._write_full_headers(slot)
        # Where the chunks of full blocks lie never changes.
        self._places = [
            buffer[slot * stride + HEADER_BYTES : (slot + 1) * stride]
            for slot in range(blocks)
            for buffer, stride in zip(self._buffers, self._strides, strict=True)
        ]

    def _write_full_headers(self, slot: int) -> None:
        for stream, (buffer, stride, chunk) in enumerate(zip(self._buffers, self._strides, self._chunks, strict=True)):
            _HEADER.pack_into(buffer, slot * stride, MAGIC, stream, 0, MAX_BLOCK, chunk)

    def begin_run(self, length: int) -> list[memoryview]:
        """Prepare the headers of the next blocks: full ones, and one with the rest.

        Args:
            length: payload bytes, 1 to `capacity`.

        Returns:
            Where the payload goes, in order. It must all be filled before `wire` is sent.
        """
        if self._short_slot is not None:
            # It may have reached into the next slot.
            for slot in range(self._short_slot, min(self._short_slot + 2, self._blocks)):
                self._write_full_headers(slot)
            self._short_slot = None
        full, rest = divmod(length, MAX_BLOCK)
        numbers = struct.pack(f">{full}I", *((self._sequence + n) & _SEQUENCE_MASK for n in range(full)))
        for stream, (buffer, stride) in enumerate(zip(self._buffers, self._strides, strict=True)):
            for byte in range(4):
                buffer[4 + byte : full * stride : stride] = numbers[byte::4]
            self._lengths[stream] = full * stride
        places = self._places[: full * self._streams]
        if rest:
            self._short_slot = full
            for stream, chunk in enumerate(chunk_lengths(rest, self._streams)):
                buffer, start = self._buffers[stream], self._lengths[stream]
                _HEADER.pack_into(buffer, start, MAGIC, stream, (self._sequence + full) & _SEQUENCE_MASK, rest, chunk)
                self._lengths[stream] = end = start + HEADER_BYTES + chunk
                places.append(buffer[start + HEADER_BYTES : end])
        self._sequence += full + bool(rest)
        return places

    def wire(self, stream: int) -> memoryview:
        """What travels on a stream for the run begun last."""
        return self._buffers[stream][: self._lengths[stream]]


class FrameReader:
    """Puts the blocks of several streams together again, and checks every header.

    Args:
        streams: how many.
        padded: whether cipher padding follows the last frame of a stream.
    """

    def __init__(self, streams: int, *, padded: bool = False) -> None:
        self._streams = streams
        self._padded = padded
        self._chunks = chunk_lengths(MAX_BLOCK, streams)
        self._strides = [HEADER_BYTES + chunk for chunk in self._chunks]
        blocks = run_blocks(streams)
        # The last chunk of a short block can be longer than that of a full one, by less than a byte a stream.
        longer = [0] * (streams - 1) + [streams]
        self._buffers = [
            memoryview(bytearray(blocks * stride + more)) for stride, more in zip(self._strides, longer, strict=True)
        ]
        self._starts = [0] * streams
        self._ends = [0] * streams
        self._over = [False] * streams
        self._sequence = 0
        self._surplus: list[bytes] = []
        self._expected = [
            bytearray(pack_header(stream, 0, MAX_BLOCK, chunk) * blocks) for stream, chunk in enumerate(self._chunks)
        ]

    def room(self, stream: int) -> memoryview:
        """Where the next bytes of a stream go; empty if it `is_full`. Ends the life of `take`'s views."""
        buffer, start, end = self._buffers[stream], self._starts[stream], self._ends[stream]
        if start:
            buffer[: end - start] = buffer[start:end]
            self._starts[stream], self._ends[stream] = 0, end - start
        return buffer[self._ends[stream] :]

    def is_full(self, stream: int) -> bool:
        """Whether there is no room, since other streams have to catch up."""
        return self._ends[stream] - self._starts[stream] == len(self._buffers[stream])

    def received(self, stream: int, count: int) -> None:
        """`count` bytes have been put into the room of `stream`."""
        self._ends[stream] += count

    def end(self, stream: int) -> None:
        """No more bytes come on `stream`."""
        self._over[stream] = True

    def furthest_behind(self) -> int | None:
        """The stream to read from first, of those that have not ended: without it no block gets whole.

        A sender that goes through the streams in turn is never kept from sending on this one.
        """
        open_ones = [stream for stream in range(self._streams) if not self._over[stream]]
        return min(open_ones, key=self._share, default=None)

    def _share(self, stream: int) -> int:
        return (self._ends[stream] - self._starts[stream]) // self._strides[stream]

    def take(self, limit: int | None = None) -> list[memoryview]:
        """The payload of all blocks that are whole, in order, in memory that is used again.

        Args:
            limit: bytes to give at most; no header behind them is looked at.

        Raises:
            ProtocolError: a header is wrong, or a stream ended before the others.
        """
        if self._surplus:
            return self._take_surplus(limit)
        taken: list[memoryview] = []
        size = 0
        while limit is None or size < limit:
            rest = None if limit is None else limit - size
            block = self._pass_full_blocks(rest, taken) or self._take_block(taken)
            if not block:
                break
            size += block
        if limit is not None and size > limit:
            self._keep_surplus(taken, size - limit)
        return taken

    def skip(self, limit: int | None = None) -> int:
        """Like `take`, for who wants to know only how many bytes there are: cheaper."""
        if self._surplus or (limit is not None and limit < MAX_BLOCK):
            return sum(map(len, self.take(limit)))
        size = 0
        while limit is None or limit - size >= MAX_BLOCK:
            block = self._pass_full_blocks(None if limit is None else limit - size, None) or self._take_block([])
            if not block:
                break
            size += block
        return size

    def _pass_full_blocks(self, limit: int | None, taken: list[memoryview] | None) -> int:
        """The usual case: a run of full blocks whose headers are all as expected. Payload bytes passed, 0 for none."""
        whole = min(map(self._share, range(self._streams)))
        if limit is not None:
            whole = min(whole, limit // MAX_BLOCK)
        if whole < 2:
            return 0
        numbers = struct.pack(f">{whole}I", *((self._sequence + n) & _SEQUENCE_MASK for n in range(whole)))
        size = whole * HEADER_BYTES
        for stream, chunk in enumerate(self._chunks):
            expected, buffer, start = self._expected[stream], self._buffers[stream], self._starts[stream]
            for byte in range(4):
                expected[4 + byte : size : HEADER_BYTES] = numbers[byte::4]
            if b"".join(_headers_of(whole, chunk).unpack_from(buffer, start)) != expected[:size]:
                return 0
        if taken is not None:
            columns = [
                [buffer[at : at + chunk] for at in range(start + HEADER_BYTES, start + whole * stride, stride)]
                for buffer, start, stride, chunk in zip(
                    self._buffers, self._starts, self._strides, self._chunks, strict=True
                )
            ]
            taken += [chunk for block in zip(*columns, strict=True) for chunk in block]
        for stream, stride in enumerate(self._strides):
            self._starts[stream] += whole * stride
        self._sequence += whole
        return whole * MAX_BLOCK

    def _take_block(self, taken: list[memoryview]) -> int:
        """One block of any length; 0 if it is not whole."""
        least = min(end - start for start, end in zip(self._starts, self._ends, strict=True))
        if least < HEADER_BYTES and not any(self._over):
            return 0  # the usual case while streams run apart
        block = 0
        whole = True
        for stream, (buffer, start, end) in enumerate(zip(self._buffers, self._starts, self._ends, strict=True)):
            if end - start < HEADER_BYTES or self._may_be_padding(stream):
                whole = False
                continue
            found = check_header(
                buffer[start : start + HEADER_BYTES], stream=stream, streams=self._streams, sequence=self._sequence
            )
            if block and found != block:
                raise ProtocolError(f"stream {stream}: a block of {found} bytes, on other streams it has {block}")
            block = found
            whole = whole and end - start - HEADER_BYTES >= chunk_lengths(block, self._streams)[stream]
        if not whole:
            if block:
                self._check_all_go_on(block)
            return 0
        for stream, chunk in enumerate(chunk_lengths(block, self._streams)):
            first = self._starts[stream] + HEADER_BYTES
            if chunk:
                taken.append(self._buffers[stream][first : first + chunk])
            self._starts[stream] = first + chunk
        self._sequence += 1
        return block

    def _check_all_go_on(self, block: int) -> None:
        for stream, chunk in enumerate(chunk_lengths(block, self._streams)):
            if self._over[stream] and self._ends[stream] - self._starts[stream] < HEADER_BYTES + chunk:
                raise ProtocolError(f"stream {stream}: ended before its part of block {self._sequence}")

    def _may_be_padding(self, stream: int) -> bool:
        start, end = self._starts[stream], self._ends[stream]
        return self._padded and end - start <= _MAX_PADDING and self._buffers[stream][start : start + 2] != _MAGIC_BYTES

    def _keep_surplus(self, taken: list[memoryview], surplus: int) -> None:
        while surplus:
            last = taken.pop()
            keep = max(0, len(last) - surplus)
            self._surplus.insert(0, bytes(last[keep:]))
            surplus -= len(last) - keep
            if keep:
                taken.append(last[:keep])

    def _take_surplus(self, limit: int | None) -> list[memoryview]:
        taken = [memoryview(piece) for piece in self._surplus]
        self._surplus = []
        excess = 0 if limit is None else max(0, sum(map(len, taken)) - limit)
        self._keep_surplus(taken, excess)
        return taken

    def left_over(self, stream: int) -> bytes:
        """What came on a stream behind its last frame: nothing, the padding of a cipher, or half a frame."""
        return bytes(self._buffers[stream][self._starts[stream] : self._ends[stream]])

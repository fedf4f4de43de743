"""Sums of blocks, and the search for blocks in another file at any place (DATA-PLANE section 11), by NumPy.

The weak sum of x_0 ... x_(L-1) has two halves: a, the sum of x_j, and b, that of (L-j)*x_j, both mod 2^16. From one
place to the next a grows by d_k = x_(k+L) - x_k, and b by a_(k+1) - L*x_k: so both are running sums, which NumPy
makes for a whole chunk. It adds up a row about 30 times slower than it adds two rows; hence chunks are laid out in
columns, and a running sum is 16 additions of long rows.

Import this only where it is needed: NumPy takes 0.1 s to load.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from uftp.protocol.rsync import BLOCK_SUM

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIECE: Final = 1024 * 1024  # bytes read at once
_COLUMNS: Final = 16  # places next to each other that one row of a chunk's layout skips
_SMALLEST_CHUNK: Final = 64 * 1024  # places looked at behind a match, where the next one is likely near
_LARGEST_CHUNK: Final = 256 * 1024  # then; what is made of so many stays in the processor's cache
_FILTER_BITS: Final = 3  # the table of the first filter takes 512 KiB
_FILTER_MASK: Final = (1 << _FILTER_BITS) - 1
_WEIGHTS: Final[NDArray[np.uint16]] = (np.arange(PIECE, 0, -1, dtype=np.uint32) & 0xFFFF).astype(np.uint16)


class WeakSum:
    """The weak sum of bytes that come in pieces."""

    def __init__(self) -> None:
        self._a = 0
        self._b = 0

    def update(self, data: memoryview | bytes) -> None:
        """Add at most `PIECE` bytes."""
        x = np.frombuffer(data, dtype=np.uint8)
        self._b += self._a * len(x) + int(np.sum(x * _WEIGHTS[PIECE - len(x) :], dtype=np.uint16))
        self._a += int(np.sum(x, dtype=np.uint32))

    @property
    def value(self) -> int:
        """32 bits, b in the upper half."""
        return (self._b & 0xFFFF) << 16 | self._a & 0xFFFF


def weak_sum(data: memoryview) -> int:
    """The weak sum of at most `PIECE` bytes."""
    total = WeakSum()
    total.update(data)
    return total.value


def weak_sums(data: memoryview, block: int) -> list[int]:
    """The weak sums of the blocks in `data`: a whole number of blocks of at most `PIECE` bytes each."""
    x = np.frombuffer(data, dtype=np.uint8).reshape(-1, block)
    a = np.sum(x, axis=1, dtype=np.uint32) & 0xFFFF
    b = np.sum(x * _WEIGHTS[PIECE - block :], axis=1, dtype=np.uint16).astype(np.uint32)
    found: list[int] = np.bitwise_or(b << 16, a).tolist()
    return found


def md5(data: memoryview | bytes) -> bytes:
    """The strong sum the protocol has. It finds blocks; it is not what the copy is verified by."""
    return hashlib.md5(data, usedforsecurity=False).digest()


class BlockIndex:
    """The sums of a follower's blocks, to be found by.

    Args:
        block: bytes in each but the last.
        sums: as they came, 24 bytes a block.
    """

    def __init__(self, block: int, sums: bytes | bytearray) -> None:
        table = np.frombuffer(sums, dtype=np.dtype([("weak", ">u8"), ("high", ">u8"), ("low", ">u8")]))
        self.block = block
        self.count = len(table)
        self._sums = sums
        weak = table["weak"].astype(np.uint32)
        high, low = table["high"].astype(np.uint64), table["low"].astype(np.uint64)
        # Equal blocks stand in the order of their numbers, so that the first is found.
        order = np.lexsort((low, high, weak))
        self._weak, self._high, self._low = weak[order], high[order], low[order]
        self._numbers = order
        # Two filters, each a look-up: nearly all places fail the first, by b and the lowest bits of a.
        self._lower = np.zeros(65536 << _FILTER_BITS, dtype=bool)
        self._lower[(weak & _FILTER_MASK) << 16 | weak >> 16] = True
        self._halves_a = np.zeros(65536, dtype=bool)
        self._halves_a[weak & 0xFFFF] = True
        self._last = (int(weak[-1]), int(high[-1]), int(low[-1])) if self.count else None
        self._in_order = weak

    def is_block(self, number: int, strong: bytes) -> bool:
        """Whether block `number` is there and has this strong sum, which the weak one adds nothing to."""
        end = BLOCK_SUM.size * (number + 1)
        return self._sums[end - len(strong) : end] == strong

    def find(self, weak: int, strong: bytes, preferred: int = -1) -> int | None:
        """The number of the first block with these sums; the preferred one if that is equal."""
        low, high = _range(self._weak, np.uint32(weak), 0, self.count)
        low, high = _range(self._high, np.uint64(int.from_bytes(strong[:8], "big")), low, high)
        low, high = _range(self._low, np.uint64(int.from_bytes(strong[8:], "big")), low, high)
        if low == high:
            return None
        if preferred >= 0:
            at = low + int(np.searchsorted(self._numbers[low:high], preferred))
            if at < high and int(self._numbers[at]) == preferred:
                return preferred
        return int(self._numbers[low])

    def is_last(self, weak: int, strong: bytes) -> bool:
        """Whether these are the sums of the last block, which may be short."""
        sums = (weak, int.from_bytes(strong[:8], "big"), int.from_bytes(strong[8:], "big"))
        return self._last == sums

    @property
    def last_weak(self) -> int:
        """The weak sum of the last block; there must be one."""
        return int(self._in_order[-1])

    def places(self, a: NDArray[np.uint16], b: NDArray[np.uint16]) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
        """Where in these sums a block's weak sum stands, and what it is."""
        lower = np.bitwise_and(a, _FILTER_MASK, dtype=np.uint32)
        lower <<= 16
        lower |= b
        hits = np.flatnonzero(np.take(self._lower, lower, mode="clip"))
        halves = a[hits]
        kept = self._halves_a[halves]
        hits, halves = hits[kept], halves[kept]
        weak = b[hits].astype(np.uint32) << 16 | halves
        at = np.searchsorted(self._weak, weak)
        at[at == self.count] = 0
        kept = self._weak[at] == weak
        return hits[kept], weak[kept]


def _range(values: NDArray[np.unsignedinteger], wanted: np.unsignedinteger, low: int, high: int) -> tuple[int, int]:
    """Where `wanted` stands in the sorted values between `low` and `high`."""
    part = values[low:high]
    return low + int(np.searchsorted(part, wanted, "left")), low + int(np.searchsorted(part, wanted, "right"))


class RollingSearch:
    """Looks for blocks at every place of a file.

    Args:
        source: descriptor of a regular file.
        size: its bytes.
        index: the blocks.
    """

    def __init__(self, source: int, size: int, index: BlockIndex) -> None:
        self._source = source
        self._size = size
        self._index = index
        self._trail = np.zeros(_LARGEST_CHUNK, dtype=np.uint8)
        self._lead = np.zeros(_LARGEST_CHUNK, dtype=np.uint8)
        self._rows = [np.empty(_LARGEST_CHUNK, dtype=np.uint16) for _ in range(4)]

    def chunks(self, place: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Look at all places from `place` on, chunk by chunk, growing ones.

        Yields:
            The first place that has not been looked at, and the places found before it with their weak sums, in
            order.

        Raises:
            OSError: reading failed.
            EOFError: the file has become shorter.
        """
        block, end = self._index.block, self._size - self._index.block + 1
        if place >= end:
            return
        weak = self._weak_at(place)
        a, b = weak & 0xFFFF, weak >> 16
        chunk = _SMALLEST_CHUNK
        while place < end:
            count = min(chunk, end - place)
            found, a, b = self._chunk(place, count, block, a, b)
            place += count
            yield place, found
            chunk = min(_LARGEST_CHUNK, 2 * chunk)

    def _weak_at(self, place: int) -> int:
        total = WeakSum()
        for piece in pieces(self._source, place, self._index.block):
            total.update(piece)
        return total.value

    def _chunk(self, place: int, count: int, block: int, a0: int, b0: int) -> tuple[list[tuple[int, int]], int, int]:
        """The places found, and the halves at the place behind the chunk (if that is a place)."""
        rows = -(-count // _COLUMNS)
        shape = (_COLUMNS, rows)
        x, d, a, b = (memory[: _COLUMNS * rows].reshape(shape) for memory in self._rows)
        self._load(self._trail, place, count, rows, x)
        self._load(self._lead, place + block, min(count, self._size - place - block), rows, d)
        d -= x
        _running(d, a0, a)
        # d becomes a at the next place, then what b grows by.
        d += a
        next_a = int(d[-1, -1])
        x *= np.uint16(block & 0xFFFF)
        d -= x
        _running(d, b0, b)
        next_b = int(b[-1, -1]) + int(d[-1, -1])
        hits, weak = self._index.places(a.ravel(), b.ravel())
        places = hits % rows * _COLUMNS + hits // rows
        order = np.argsort(places)
        places, weak = places[order], weak[order]
        kept = int(np.searchsorted(places, count))
        found = list(zip((places[:kept] + place).tolist(), weak[:kept].tolist(), strict=True))
        return found, next_a, next_b & 0xFFFF

    def _load(self, buffer: NDArray[np.uint8], place: int, count: int, rows: int, into: NDArray[np.uint16]) -> None:
        """Read bytes so that those next to each other stand in different rows; zeros behind them."""
        view = buffer.data
        got = 0
        while got < count:
            read = os.preadv(self._source, [view[got:count]], place + got)
            if read == 0:
                raise EOFError
            got += read
        buffer[count : rows * _COLUMNS] = 0
        into[...] = buffer[: rows * _COLUMNS].reshape(rows, _COLUMNS).T


def _running(steps: NDArray[np.uint16], start: int, out: NDArray[np.uint16]) -> None:
    """Running sums of `steps`, of all before each, on top of `start`; by columns, see the module."""
    out[0] = 0
    for row in range(1, _COLUMNS):
        np.add(out[row - 1], steps[row - 1], out=out[row])
    before = np.empty(steps.shape[1], dtype=np.uint16)
    before[0] = start
    np.add(out[-1, :-1], steps[-1, :-1], out=before[1:])
    np.cumsum(before, dtype=np.uint16, out=before)
    out += before


def suffixes_with(source: int, start: int, size: int, weak: int) -> Iterator[int]:
    """The lengths of the ends of a file, from short to long, that have this weak sum.

    Args:
        source: descriptor.
        start: ends that begin before it are not looked at.
        size: bytes in the file.
        weak: the sum.

    Raises:
        EOFError: the file has become shorter.
    """
    a = b = 0
    end = size
    while end > start:
        begin = max(start, end - PIECE)
        data = b"".join(bytes(piece) for piece in pieces(source, begin, end - begin))
        x = np.frombuffer(data, dtype=np.uint8)[::-1].astype(np.uint16)
        # One more byte in front: a grows by it, b by it times the new length.
        lengths = np.arange(size - end + 1, size - begin + 1, dtype=np.uint64)
        all_a = np.cumsum(x, dtype=np.uint16) + np.uint16(a)
        all_b = np.cumsum(x * lengths.astype(np.uint16), dtype=np.uint16) + np.uint16(b)
        for hit in np.flatnonzero((all_a == weak & 0xFFFF) & (all_b == weak >> 16)).tolist():
            yield int(lengths[hit])
        a, b = int(all_a[-1]), int(all_b[-1])
        end = begin


def pieces(source: int, place: int, count: int) -> Iterator[memoryview]:
    """`count` bytes of a file in pieces of at most `PIECE`; the memory is used again.

    Raises:
        EOFError: the file has become shorter.
    """
    buffer = memoryview(bytearray(min(PIECE, max(1, count))))
    while count > 0:
        read = os.preadv(source, [buffer[:count]], place)
        if read == 0:
            raise EOFError
        yield buffer[:read]
        place, count = place + read, count - read

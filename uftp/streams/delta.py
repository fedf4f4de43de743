"""Delta sync of one file over one plain data connection: the leader's and the follower's side (DATA-PLANE section 11).

Both block and run in a thread; errors are those of `uftp.streams.pump`. The protocol has no check of the whole file:
whoever asked for the sync compares digests after it.

Import this only where it is needed; see `uftp.streams.blocksums`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from uftp.protocol import ProtocolError
from uftp.protocol.rsync import (
    BLOCK_SUM,
    LAST,
    RECORD,
    SUMS_HEADER,
    block_count,
    block_size,
    parse_record,
    parse_sums_header,
)
from uftp.streams._meter import Meter, RateLimit
from uftp.streams.blocksums import (
    PIECE,
    BlockIndex,
    RollingSearch,
    WeakSum,
    md5,
    pieces,
    suffixes_with,
    weak_sum,
    weak_sums,
)
from uftp.streams.pump import (
    Cancelled,
    ConnectionBroken,
    Garbled,
    SourceEnded,
    Stalled,
    receive_file,
    send_bytes,
    send_file,
    translate,
)

_READ_AHEAD: Final = 64 * 1024
_HEADERS_AT_ONCE: Final = 64 * 1024
# A leader that finds nothing says nothing until it has read all of its file, and must not be taken for dead. That it
# is alive the kernel finds out (keepalive).
_PATIENCE_SECONDS: Final = 3600.0
# What blocks that only seem to match may cost, in bytes hashed: a peer can make every place seem so.
_FRUITLESS: Final = 4
_FRUITLESS_LEAST: Final = 256 * 1024 * 1024
_FRUITLESS_EACH: Final = 8192
_COPY_ERRORS: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)


@dataclass(frozen=True, slots=True)
class DeltaResult:
    """What a sync came to.

    Attributes:
        size: bytes in the new file.
        literal: of them, those that moved.
    """

    size: int
    literal: int


class Match(NamedTuple):
    """A block of the old file that stands at `place` in the new one."""

    place: int
    block: int
    length: int


class _Reader:
    """Reads exact numbers of bytes, ahead of what is asked for."""

    def __init__(self, connection: socket.socket, meter: Meter, patience: float = 0.0) -> None:
        self._connection = connection
        self._meter = meter
        self._patience = patience  # seconds, beyond the time-out of the socket
        self._ahead = bytearray()

    def read(self, count: int) -> bytes:
        """The next `count` bytes; waits long for them."""
        while len(self._ahead) < count:
            self._receive(max(_READ_AHEAD, count - len(self._ahead)))
        return self._take(count)

    def _take(self, count: int) -> bytes:
        found = bytes(self._ahead[:count])
        del self._ahead[:count]
        return found

    def _receive(self, most: int) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            if self._meter.cancelled:
                raise Cancelled
            try:
                data = self._connection.recv(min(most, PIECE))
            except OSError as error:
                problem = translate(error, self._meter)
                if isinstance(problem, Stalled) and time.monotonic() < deadline:
                    continue
                raise problem from error
            if not data:
                if self._meter.cancelled:
                    raise Cancelled
                raise ConnectionBroken("the peer ended the exchange before it was complete")
            self._meter.moved += len(data)
            self._ahead += data
            return

    def to_file(self, target: int, offset: int, length: int, limit: RateLimit | None) -> None:
        """Write the next `length` bytes to a file."""
        ahead = self._take(min(length, len(self._ahead)))
        _write(target, memoryview(ahead), offset)
        rest = length - len(ahead)
        if receive_file(self._connection, target, offset + len(ahead), rest, self._meter, limit) < rest:
            raise ConnectionBroken("the peer ended the exchange in the middle of the data")

    def finish(self) -> None:
        """Raise `Garbled` if there is more than there should be."""
        if self._ahead:
            raise Garbled("the peer sent more than the exchange has")


def _write(target: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(target, data, offset)
        data, offset = data[count:], offset + count


# -- the leader ---------------------------------------------------------------------------------------------------


class Leader:
    """Has the new file, and tells the follower how to make it.

    Args:
        connection: plain, see `uftp.streams.prepare`.
        source: descriptor of the new file.
        size: its bytes.
        meter: counts what moves on the connection, and stops.
        limit: rate to keep to.
    """

    def __init__(
        self, connection: socket.socket, source: int, size: int, meter: Meter, limit: RateLimit | None = None
    ) -> None:
        self._connection = connection
        self._source = source
        self._size = size
        self._meter = meter
        self._limit = limit
        self._index: BlockIndex | None = None

    @property
    def old_blocks(self) -> int:
        """How many blocks the follower has; known after `read_sums`."""
        return 0 if self._index is None else self._index.count

    def read_sums(self) -> None:
        """Take the follower's sums.

        Raises:
            Garbled: what came makes no sense.
            StreamError: the connection.
        """
        reader = _Reader(self._connection, self._meter)
        try:
            header = parse_sums_header(reader.read(SUMS_HEADER.size))
        except ProtocolError as error:
            raise Garbled(str(error)) from error
        sums = bytearray()
        while missing := header.blocks * BLOCK_SUM.size - len(sums):
            sums += reader.read(min(missing, PIECE))
        reader.finish()
        self._index = BlockIndex(header.block_size, sums)

    def matches(self) -> Iterator[Match]:
        """Where in the new file there are blocks of the old one, in order and without overlap.

        Raises:
            SourceEnded: the file was cut meanwhile.
            Cancelled: the meter says so.
            OSError: reading failed.
        """
        index = self._index
        if index is None or not index.count:
            return
        try:
            place = 0
            for match in self._whole_blocks(index):
                place = match.place + match.length
                yield match
            yield from self._short_last_block(index, place)
        except EOFError:
            raise SourceEnded("the file became shorter meanwhile") from None

    def _whole_blocks(self, index: BlockIndex) -> Iterator[Match]:
        search = RollingSearch(self._source, self._size, index)
        fruitless = max(_FRUITLESS * self._size, _FRUITLESS_LEAST)
        place, expected = 0, 0
        while True:
            # Behind a match, the next block is likely the next match.
            for match in self._run_of_blocks(index, place, expected):
                yield match
                place, expected = match.place + match.length, match.block + 1
            matched = False
            for looked_at, found in search.chunks(place):
                self._check()
                for candidate, weak in found:
                    if candidate < place:
                        continue
                    number = index.find(weak, self._strong(candidate, index.block), expected)
                    if number is None:
                        fruitless -= index.block + _FRUITLESS_EACH
                        if fruitless < 0:
                            return
                        continue
                    matched = True
                    yield Match(candidate, number, index.block)
                    place, expected = candidate + index.block, number + 1
                    for match in self._run_of_blocks(index, place, expected):
                        yield match
                        place, expected = match.place + match.length, match.block + 1
                if matched and place > looked_at:
                    break
            else:
                return

    def _run_of_blocks(self, index: BlockIndex, place: int, expected: int) -> Iterator[Match]:
        """Blocks that follow each other in the new file as well, until one does not."""
        block, at_once = index.block, 1
        while count := min(at_once, (self._size - place) // block):
            self._check()
            for data, strong in self._blocks(place, count, block):
                number: int | None = expected
                if not index.is_block(expected, strong):
                    number = index.find(self._weak(place, block) if data is None else weak_sum(data), strong)
                if number is None:
                    return
                yield Match(place, number, block)
                place, expected = place + block, number + 1
            at_once = min(2 * at_once, max(1, PIECE // block))

    def _blocks(self, place: int, count: int, block: int) -> Iterator[tuple[memoryview | None, bytes]]:
        """Blocks and their strong sums; of one that is larger than a piece only the sum."""
        if block > PIECE:
            for number in range(count):
                yield None, self._strong(place + number * block, block)
            return
        data = memoryview(b"".join(bytes(piece) for piece in pieces(self._source, place, count * block)))
        for at in range(0, count * block, block):
            yield data[at : at + block], md5(data[at : at + block])

    def _weak(self, place: int, length: int) -> int:
        total = WeakSum()
        for piece in pieces(self._source, place, length):
            self._check()
            total.update(piece)
        return total.value

    def _short_last_block(self, index: BlockIndex, place: int) -> Iterator[Match]:
        """The last block may be short; nobody says how short, so every end of the file is one it may be."""
        attempts = 8
        for length in suffixes_with(
            self._source, max(place, self._size - index.block + 1), self._size, index.last_weak
        ):
            self._check()
            if index.is_last(index.last_weak, self._strong(self._size - length, length)):
                yield Match(self._size - length, index.count - 1, length)
                return
            attempts -= 1
            if not attempts:
                return

    def _strong(self, place: int, length: int) -> bytes:
        digest = hashlib.md5(usedforsecurity=False)
        for piece in pieces(self._source, place, length):
            self._check()
            digest.update(piece)
        return digest.digest()

    def _check(self) -> None:
        if self._meter.cancelled:
            raise Cancelled

    def send(self, matches: Iterator[Match]) -> DeltaResult:
        """Send the records for these matches, and what lies between them.

        Raises:
            SourceEnded: the file was cut meanwhile.
            StreamError: the connection.
            OSError: reading failed.
        """
        headers = bytearray()
        place = literal = 0
        for match in matches:
            length = match.place - place
            headers += RECORD.pack(match.block, length)
            if length or len(headers) >= _HEADERS_AT_ONCE:
                self._send(headers, place, length)
            literal += length
            place = match.place + match.length
        headers += RECORD.pack(LAST, self._size - place)
        self._send(headers, place, self._size - place)
        return DeltaResult(self._size, literal + self._size - place)

    def _send(self, headers: bytearray, place: int, length: int) -> None:
        send_bytes(bytes(headers), self._connection, self._meter)
        headers.clear()
        if length:
            send_file(self._source, place, length, self._connection, self._meter, self._limit)

    def send_old(self) -> None:
        """Have the follower keep what it has: every block in its turn. Ends an exchange that should not be."""
        send_bytes(
            b"".join(RECORD.pack(number, 0) for number in range(self.old_blocks)) + RECORD.pack(LAST, 0),
            self._connection,
            self._meter,
        )


def lead(
    connection: socket.socket, source: int, size: int, meter: Meter, limit: RateLimit | None = None
) -> DeltaResult:
    """Be the leader, from the first byte to the last; see `Leader`."""
    leader = Leader(connection, source, size, meter, limit)
    leader.read_sums()
    return leader.send(leader.matches())


# -- the follower -------------------------------------------------------------------------------------------------


def follow(
    connection: socket.socket,
    old: int,
    size: int,
    target: int,
    meter: Meter,
    limit: RateLimit | None = None,
    *,
    finer: bool = False,
) -> DeltaResult:
    """Be the follower: make the new file from the old one and what the leader sends.

    Args:
        connection: plain, see `uftp.streams.prepare`.
        old: descriptor of the old file, for reading.
        size: its bytes.
        target: descriptor of an empty file, which becomes the new one.
        meter: counts what moves on the connection, and stops.
        limit: rate to keep to.
        finer: smaller blocks; for leaders of ours.

    Raises:
        Garbled: what came makes no sense.
        SourceEnded: the old file was cut meanwhile.
        StreamError: the connection.
        OSError: a file cannot be read or written.
    """
    block = block_size(size, finer=finer)
    count = block_count(size, block)
    _send_sums(connection, old, size, block, meter)
    reader = _Reader(connection, meter, _PATIENCE_SECONDS)
    place = literal = 0
    number = 0
    while number != LAST:
        try:
            number, length = parse_record(reader.read(RECORD.size), count)
        except ProtocolError as error:
            raise Garbled(str(error)) from error
        reader.to_file(target, place, length, limit)
        place, literal = place + length, literal + length
        if number != LAST:
            start = number * block
            length = min(block, size - start)
            _copy(old, start, target, place, length, meter)
            place += length
    reader.finish()
    return DeltaResult(place, literal)


def _send_sums(connection: socket.socket, old: int, size: int, block: int, meter: Meter) -> None:
    send_bytes(SUMS_HEADER.pack(block, block_count(size, block)), connection, meter)
    at_once = max(1, PIECE // block)
    whole = size // block
    try:
        for first in range(0, whole, at_once):
            sums = sums_of_blocks(old, first * block, min(at_once, whole - first), block, meter)
            send_bytes(b"".join(BLOCK_SUM.pack(*each) for each in sums), connection, meter)
        if size % block:
            last = _sum(old, whole * block, size % block, meter)
            send_bytes(BLOCK_SUM.pack(*last), connection, meter)
    except EOFError:
        raise SourceEnded("the file became shorter meanwhile") from None


def sums_of_blocks(source: int, place: int, count: int, block: int, meter: Meter) -> Iterator[tuple[int, bytes]]:
    """The weak and strong sums of `count` whole blocks from `place` on, of at most `PIECE` bytes, or of a single one.

    Raises:
        EOFError: the file has become shorter.
        Cancelled: the meter says so.
    """
    if block > PIECE:
        for number in range(count):
            yield _sum(source, place + number * block, block, meter)
        return
    if meter.cancelled:
        raise Cancelled
    data = memoryview(b"".join(bytes(piece) for piece in pieces(source, place, count * block)))
    weak = weak_sums(data, block)
    for number in range(count):
        yield weak[number], md5(data[number * block : (number + 1) * block])


def _sum(source: int, place: int, length: int, meter: Meter) -> tuple[int, bytes]:
    weak, strong = WeakSum(), hashlib.md5(usedforsecurity=False)
    for piece in pieces(source, place, length):
        if meter.cancelled:
            raise Cancelled
        weak.update(piece)
        strong.update(piece)
    return weak.value, strong.digest()


def _copy(old: int, start: int, target: int, place: int, length: int, meter: Meter) -> None:
    """Copy a block from file to file, by the kernel where it can."""
    end = start + length
    by_kernel = True
    while start < end:
        if meter.cancelled:
            raise Cancelled
        count = 0
        if by_kernel:
            try:
                count = os.copy_file_range(old, target, min(end - start, 16 * PIECE), start, place)
            except OSError as error:
                if error.errno not in _COPY_ERRORS:
                    raise
                by_kernel = False
        if not by_kernel:
            data = os.pread(old, min(end - start, PIECE), start)
            _write(target, memoryview(data), place)
            count = len(data)
        if count == 0:
            raise SourceEnded("the old file became shorter meanwhile")
        start, place = start + count, place + count

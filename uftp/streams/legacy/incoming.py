"""A transfer from the peer through legacy layers."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from uftp.protocol import ProtocolError
from uftp.protocol.jparss import FrameReader
from uftp.protocol.legacy_ciphers import BLOCK_BYTES, padding_length
from uftp.streams._meter import Meter, RateLimit
from uftp.streams.legacy.lanes import ReceivingLane
from uftp.streams.legacy.sockets import any_readable, wait_readable
from uftp.streams.pump import Cancelled, ConnectionBroken, Garbled

if TYPE_CHECKING:
    from uftp.streams.link import Layers

_RUN_BYTES: Final = 1024 * 1024
_MAX_VECTOR: Final = 1024  # pieces the kernel takes in one call
_LAST_WORD_SECONDS: Final = 10.0


class _Payload(Protocol):
    def take(self, most: int | None, meter: Meter) -> list[memoryview]:
        """Payload in memory that is used again; empty at the end of the data."""
        ...

    def skip(self, most: int | None, meter: Meter) -> int:
        """The same, counted only; 0 at the end."""
        ...

    def open_connections(self) -> list[socket.socket]:
        """Those that have not ended."""
        ...

    @property
    def ended(self) -> bool: ...

    @property
    def marked(self) -> bool:
        """After the end: whether every layer has said so itself."""
        ...


class LegacyIncoming:
    """See `uftp.streams.Incoming`.

    Args:
        connections: stream i is the i-th.
        layers: on each of them.
        framed: whether blocks are cut over the connections.
    """

    facts = b""

    def __init__(self, connections: Sequence[socket.socket], layers: Layers, *, framed: bool) -> None:
        self._payload: _Payload = _Framed(connections, layers) if framed else _Single(connections[0], layers)
        self._complete = False
        self.marked = not layers.plain

    def to_file(
        self, target: int, offset: int, length: int | None, meter: Meter, limit: RateLimit | None = None
    ) -> int:
        """See `Incoming`."""
        position = offset

        def write(pieces: list[memoryview]) -> None:
            nonlocal position
            position = _write_all(target, pieces, position)

        return self._take(write, length, meter, limit)

    def to_chunks(self, write: Callable[[memoryview], None], length: int | None, meter: Meter) -> int:
        """See `Incoming`."""

        def write_each(pieces: list[memoryview]) -> None:
            for piece in pieces:
                write(piece)

        return self._take(write_each, length, meter, None)

    def to_nowhere(self, length: int | None, meter: Meter) -> int:
        """See `Incoming`."""
        return self._take(None, length, meter, None)

    def _take(
        self,
        write: Callable[[list[memoryview]], None] | None,
        length: int | None,
        meter: Meter,
        limit: RateLimit | None,
    ) -> int:
        remaining = length
        received = 0
        while remaining is None or remaining > 0:
            if meter.cancelled:
                raise Cancelled
            most = None if limit is None else limit.block_size(_RUN_BYTES)
            if remaining is not None:
                most = remaining if most is None else min(most, remaining)
            count = self._pass_on(write, most, meter)
            if not count:
                self._check_mark()
                break
            received += count
            meter.moved += count
            if remaining is not None:
                remaining -= count
            if limit is not None:
                limit.spend(count, meter)
        self._complete = remaining == 0
        return received

    def _pass_on(self, write: Callable[[list[memoryview]], None] | None, most: int | None, meter: Meter) -> int:
        if write is None:
            return self._payload.skip(most, meter)
        pieces = self._payload.take(most, meter)
        write(pieces)
        return sum(map(len, pieces))

    def _check_mark(self) -> None:
        if self.marked and not self._payload.marked:
            raise Garbled("the data ended without its end mark: it was cut off")

    def finish(self) -> bool:
        """See `Incoming`.

        Peers in use leave trailer and padding out once they have sent all they announced, or close before they have
        read ours: then nothing is missing. One that neither sends nor closes for some seconds is taken to be done.
        """
        meter = Meter()
        try:
            while not self._payload.ended:
                if self._complete and not any_readable(self._payload.open_connections(), _LAST_WORD_SECONDS):
                    break
                if self._payload.take(_RUN_BYTES, meter):
                    return False
        except ConnectionBroken:
            if not self._complete:
                raise
            return True
        if not self._complete:
            self._check_mark()
        return True


class _Single:
    """One connection without frames."""

    def __init__(self, connection: socket.socket, layers: Layers) -> None:
        self._lane = ReceivingLane(connection, layers, framed=False)
        self._buffer = memoryview(bytearray(_RUN_BYTES))

    def open_connections(self) -> list[socket.socket]:
        """See `_Payload`."""
        return [self._lane.connection]

    @property
    def ended(self) -> bool:
        return self._lane.ended

    @property
    def marked(self) -> bool:
        return self._lane.marked

    def take(self, most: int | None, meter: Meter) -> list[memoryview]:
        """See `_Payload`."""
        room = self._buffer if most is None else self._buffer[:most]
        while not self._lane.ended:
            if meter.cancelled:
                raise Cancelled
            count = self._lane.pull(room, meter)
            if count:
                return [room[:count]]
        return []

    def skip(self, most: int | None, meter: Meter) -> int:
        """See `_Payload`."""
        return sum(map(len, self.take(most, meter)))


class _Framed:
    """Blocks cut over several connections."""

    def __init__(self, connections: Sequence[socket.socket], layers: Layers) -> None:
        self._lanes = [ReceivingLane(connection, layers, framed=True) for connection in connections]
        self._padding = BLOCK_BYTES[layers.cipher] if layers.cipher and not layers.compress else 0
        self._compress = layers.compress
        self._frames = FrameReader(len(connections), padded=self._padding > 0)
        self._checked = False
        self.marked = False

    def open_connections(self) -> list[socket.socket]:
        """See `_Payload`."""
        return [lane.connection for lane in self._lanes if not lane.ended]

    @property
    def ended(self) -> bool:
        return self._checked

    def take(self, most: int | None, meter: Meter) -> list[memoryview]:
        """See `_Payload`."""
        try:
            while not (pieces := self._frames.take(most)) and self._read(meter):
                pass
        except ProtocolError as error:
            raise Garbled(str(error)) from error
        return pieces

    def skip(self, most: int | None, meter: Meter) -> int:
        """See `_Payload`."""
        try:
            while not (count := self._frames.skip(most)) and self._read(meter):
                pass
        except ProtocolError as error:
            raise Garbled(str(error)) from error
        return count

    def _read(self, meter: Meter) -> bool:
        """Take in what there is, first of all on the stream without which no block gets whole; False at the end."""
        if meter.cancelled:
            raise Cancelled
        if all(lane.ended for lane in self._lanes):
            self._check_ends()
            return False
        first = self._frames.furthest_behind()
        if first is not None and self._pull(first, meter):
            return True
        waiting = [n for n, lane in enumerate(self._lanes) if not lane.ended and not self._frames.is_full(n)]
        ready = wait_readable([self._lanes[n].connection for n in waiting], meter)
        for number, is_ready in zip(waiting, ready, strict=True):
            if is_ready:
                self._pull(number, meter)
        return True

    def _pull(self, number: int, meter: Meter) -> bool:
        """Whether there was anything, its end included."""
        lane = self._lanes[number]
        count = lane.pull(self._frames.room(number), meter, wait=False)
        self._frames.received(number, count)
        if lane.ended:
            self._frames.end(number)
        return count > 0 or lane.ended

    def _check_ends(self) -> None:
        """All connections have ended: each must have done so behind its last frame, and its padding."""
        marks = 0
        for number, lane in enumerate(self._lanes):
            rest = self._frames.left_over(number)
            if rest and (not self._padding or padding_length(rest, self._padding) != len(rest)):
                raise ProtocolError(f"stream {number}: ended inside a frame")
            marks += lane.marked if self._compress else bool(rest)
        self.marked = marks == len(self._lanes)
        self._checked = True


def _write_all(target: int, pieces: list[memoryview], offset: int) -> int:
    """Write `pieces` one behind the other; the offset behind them."""
    start = 0
    while start < len(pieces):
        vector = pieces[start : start + _MAX_VECTOR]
        size = sum(map(len, vector))
        count = os.pwritev(target, vector, offset)
        offset += count
        start += len(vector)
        if count < size:  # a disk that is getting full; the next call says so
            for piece in vector:
                if count < len(piece):
                    offset = _write_one(target, piece[count:], offset)
                    count = 0
                else:
                    count -= len(piece)
    return offset


def _write_one(target: int, data: memoryview, offset: int) -> int:
    while data:
        count = os.pwrite(target, data, offset)
        data = data[count:]
        offset += count
    return offset

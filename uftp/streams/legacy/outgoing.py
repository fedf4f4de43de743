"""A transfer to the peer through legacy layers."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from uftp.protocol.jparss import MAX_BLOCK, FrameWriter
from uftp.streams._meter import Meter, RateLimit
from uftp.streams.legacy.lanes import SendingLane
from uftp.streams.legacy.sockets import send_on_all
from uftp.streams.pump import Cancelled, ConnectionBroken, SourceEnded, finish_sending

if TYPE_CHECKING:
    from uftp.streams.link import Layers

_RUN_BYTES: Final = 1024 * 1024


class LegacyOutgoing:
    """See `uftp.streams.Outgoing`.

    Args:
        connections: stream i is the i-th.
        layers: on each of them.
        framed: whether blocks are cut over the connections.
    """

    def __init__(self, connections: Sequence[socket.socket], layers: Layers, *, framed: bool) -> None:
        self._connections = connections
        self._frames = FrameWriter(len(connections)) if framed else None
        self._lanes = [SendingLane(layers, framed=framed) for _ in connections]
        self._capacity = _RUN_BYTES if self._frames is None else self._frames.capacity
        self._single = memoryview(bytearray(0 if framed else self._capacity))
        self._single_length = 0
        self._pending = bytearray()

    def from_file(self, source: int, offset: int, length: int, meter: Meter, limit: RateLimit | None = None) -> None:
        """See `Outgoing`."""
        self._send_pending(meter)
        end = offset + length
        while offset < end:
            if meter.cancelled:
                raise Cancelled
            size = min(self._run_bytes(limit), end - offset)
            _read(source, offset, self._begin_run(size), size)
            self._send_run(meter)
            offset += size
            meter.moved += size
            if limit is not None:
                limit.spend(size, meter)

    def from_bytes(self, data: bytes | memoryview, meter: Meter) -> None:
        """See `Outgoing`. Counted when taken."""
        self._pending += data
        meter.moved += len(data)
        whole = len(self._pending) // self._capacity * self._capacity
        if whole:
            view = memoryview(bytes(self._pending[:whole]))
            del self._pending[:whole]
            self._send_view(view, meter)

    def end(self, facts: bytes = b"") -> None:
        """See `Outgoing`. A peer that has all the payload and closed already is no error."""
        meter = Meter()
        self._send_pending(meter)
        send_on_all(self._connections, [lane.flush() for lane in self._lanes], meter)
        lasts = [lane.finish() for lane in self._lanes]
        has_payload = any(payload for _, payload in lasts)
        try:
            send_on_all(self._connections, [data for data, _ in lasts], meter)
        except ConnectionBroken:
            if has_payload:
                raise
        for connection in self._connections:
            finish_sending(connection)

    def abort(self, reason: str = "") -> None:
        """Nothing can be said in the data; the connections must be reset by whoever owns them."""

    def _run_bytes(self, limit: RateLimit | None) -> int:
        if limit is None:
            return self._capacity
        # Whole blocks: some receivers lose step where a chunk is no multiple of the cipher's block.
        return max(MAX_BLOCK, limit.block_size(self._capacity) // MAX_BLOCK * MAX_BLOCK)

    def _begin_run(self, size: int) -> list[memoryview]:
        if self._frames is not None:
            return self._frames.begin_run(size)
        self._single_length = size
        return [self._single[:size]]

    def _send_run(self, meter: Meter) -> None:
        frames = self._frames
        wires = [
            self._single[: self._single_length] if frames is None else frames.wire(stream)
            for stream in range(len(self._connections))
        ]
        send_on_all(self._connections, [lane.update(w) for lane, w in zip(self._lanes, wires, strict=True)], meter)

    def _send_pending(self, meter: Meter) -> None:
        view = memoryview(bytes(self._pending))
        self._pending.clear()
        self._send_view(view, meter)

    def _send_view(self, view: memoryview, meter: Meter) -> None:
        while view:
            size = min(self._capacity, len(view))
            for place in self._begin_run(size):
                place[:], view = view[: len(place)], view[len(place) :]
            self._send_run(meter)


def _read(source: int, offset: int, places: list[memoryview], size: int) -> None:
    """Fill `places`, `size` bytes together, with what the file has from `offset` on."""
    count = os.preadv(source, places, offset)
    while count < size:  # the end of the file, or a file system that gives less
        if count == 0:
            raise SourceEnded(f"the file ended {size} bytes early")
        places = _behind(places, count)
        offset += count
        size -= count
        count = os.preadv(source, places, offset)


def _behind(places: list[memoryview], count: int) -> list[memoryview]:
    for number, place in enumerate(places):
        if count < len(place):
            return [place[count:], *places[number + 1 :]]
        count -= len(place)
    return []

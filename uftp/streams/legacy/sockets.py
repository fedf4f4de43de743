"""Several connections at once, in a pump's thread: send on all, wait for any."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Sequence
from typing import Final

from uftp.streams._meter import Meter
from uftp.streams.pump import Cancelled, Stalled, translate

_SEND_BLOCK: Final = 1024 * 1024
_TIMEVAL: Final = struct.Struct("ll")


def patience(connection: socket.socket) -> float | None:
    """Seconds a pump may wait on a connection, as `prepare` has set it; None for ever."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.size)
    seconds, microseconds = _TIMEVAL.unpack(raw)
    return (seconds + microseconds / 1e6) or None


def send_on_all(connections: Sequence[socket.socket], data: Sequence[bytes | memoryview], meter: Meter) -> None:
    """Send `data[i]` on connection i, on whichever takes it: a peer that reads them in turn must not block us.

    Raises:
        ConnectionBroken, Stalled, Cancelled: see `uftp.streams.pump`.
    """
    waiting = [(c, memoryview(d)) for c, d in zip(connections, data, strict=True) if len(d)]
    while waiting:
        if meter.cancelled:
            raise Cancelled
        # The last one may block: nothing else waits for its turn.
        flags = 0 if len(waiting) == 1 else socket.MSG_DONTWAIT
        left = []
        for connection, view in waiting:
            count = _send(connection, view, flags, meter)
            if count < len(view):
                left.append((connection, view[count:]))
        if flags and len(left) == len(waiting):
            _wait([connection for connection, _ in left], select.POLLOUT, meter)
        waiting = left


def _send(connection: socket.socket, view: memoryview, flags: int, meter: Meter) -> int:
    try:
        return connection.send(view[:_SEND_BLOCK], flags)
    except BlockingIOError as error:
        if flags:
            return 0
        raise translate(error, meter) from error
    except OSError as error:
        raise translate(error, meter) from error


def wait_readable(connections: Sequence[socket.socket], meter: Meter) -> list[bool]:
    """Which of `connections` have bytes, or their end, to be read; at least one has.

    Raises:
        Stalled, Cancelled: see `uftp.streams.pump`.
    """
    ready = _wait(connections, select.POLLIN, meter)
    return [connection.fileno() in ready for connection in connections]


def any_readable(connections: Sequence[socket.socket], seconds: float) -> bool:
    """Whether there is something to be read within `seconds`; always, if there is nothing to wait for."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return not connections or bool(poll.poll(seconds * 1000))


def _wait(connections: Sequence[socket.socket], event: int, meter: Meter) -> set[int]:
    poll = select.poll()
    for connection in connections:
        poll.register(connection, event)
    seconds = patience(connections[0])
    events = poll.poll(None if seconds is None else seconds * 1000)
    if meter.cancelled:
        raise Cancelled
    if not events:
        raise Stalled("no data moved for too long")
    return {fd for fd, _ in events}

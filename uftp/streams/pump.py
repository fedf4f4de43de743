"""The pumps: move bytes between a file and a data connection, in a thread, by blocking system calls.

Blocking calls let the kernel do the waiting: a slow file system never stalls an event loop, and the GIL is free
while the kernel copies. Plain files are sent by sendfile, without a copy into this process; received by one reused
buffer and pwrite, which was measured as fast as `cp` (splice into a file was slower).

A pump waits for the peer at most the time-out of its socket (see `prepare`), counted while the socket waits, not
while the file system does. It never closes anything.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from uftp.streams._meter import Meter, RateLimit

BLOCK: Final = 1024 * 1024  # bytes a receive asks for; larger gains nothing, smaller costs system calls
SEND_BLOCK: Final = 8 * 1024 * 1024  # bytes one sendfile may move: how far a cancelled pump can run on
_SO_MAX_PACING_RATE: Final = 47  # <asm-generic/socket.h>; not in the socket module
_MSG_TRUNC: Final = socket.MSG_TRUNC


class StreamError(Exception):
    """Base of what a pump raises for the data connection; errors of the file pass as the OSError they are."""


class ConnectionBroken(StreamError):
    """The peer reset or closed the connection while data was due."""


class Stalled(StreamError):
    """The peer moved no byte for the time allowed."""


class Cancelled(StreamError):
    """The meter was cancelled."""


class Garbled(StreamError):
    """What came is not what the layer's bytes look like, was changed on the way, or ended without its end mark."""


class SourceEnded(StreamError):
    """The file ended before the announced length: it was cut while being sent."""


def prepare(connection: socket.socket, stall_seconds: float) -> None:
    """Make `connection` fit for a pump: blocking, no Nagle delay, dead peers noticed.

    Args:
        connection: a connected TCP socket.
        stall_seconds: longest wait for the peer to move a byte.
    """
    connection.setblocking(True)
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    timeout = struct.pack("ll", int(stall_seconds), int(stall_seconds % 1 * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    enable_keepalive(connection)


def enable_keepalive(connection: socket.socket) -> None:
    """Have the kernel find dead peers: after 60 s without traffic, probes every 15 s, four of them."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def send_file(
    source: int, offset: int, length: int, connection: socket.socket, meter: Meter, limit: RateLimit | None = None
) -> None:
    """Send `length` bytes of the file `source` from `offset`.

    Args:
        source: descriptor of a regular file, or of /dev/zero (whose offset means nothing).
        offset: first byte.
        length: bytes; the caller has limited it to what the file holds.
        connection: see `prepare`.
        meter: counts, and stops.
        limit: rate to keep to, by pacing the socket.

    Raises:
        SourceEnded: the file was cut meanwhile.
        ConnectionBroken, Stalled, Cancelled: see there.
        OSError: reading the file failed.
    """
    end = offset + length
    paced: int | None = None  # what an earlier transfer on this connection has set is not known
    while offset < end:
        if meter.cancelled:
            raise Cancelled
        if limit is not None and limit.rate != paced:
            paced = limit.rate
            pace(connection, paced)
        block = SEND_BLOCK if limit is None else limit.block_size(SEND_BLOCK)
        try:
            count = os.sendfile(connection.fileno(), source, offset, min(block, end - offset))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS):
                _send_by_copy(source, offset, end, connection, meter)
                return
            raise translate(error, meter) from error
        if count == 0:
            raise SourceEnded(f"the file ended {end - offset} bytes early")
        offset += count
        meter.moved += count


def _send_by_copy(source: int, offset: int, end: int, connection: socket.socket, meter: Meter) -> None:
    """For files the kernel cannot send from: some file systems, and devices of older kernels."""
    while offset < end:
        data = os.pread(source, min(BLOCK, end - offset), offset)
        if not data:
            raise SourceEnded(f"the file ended {end - offset} bytes early")
        send_bytes(data, connection, meter)
        offset += len(data)


def send_bytes(data: bytes | memoryview, connection: socket.socket, meter: Meter) -> None:
    """Send `data`, such as a listing.

    Raises:
        ConnectionBroken, Stalled, Cancelled: see there.
    """
    view = memoryview(data)
    while view:
        if meter.cancelled:
            raise Cancelled
        try:
            count = connection.send(view[:BLOCK])
        except OSError as error:
            raise translate(error, meter) from error
        view = view[count:]
        meter.moved += count


def receive_file(
    connection: socket.socket,
    target: int,
    offset: int,
    length: int | None,
    meter: Meter,
    limit: RateLimit | None = None,
) -> int:
    """Write what comes to the file `target` from `offset` on.

    Args:
        connection: see `prepare`.
        target: descriptor of a regular file, or of /dev/null.
        offset: where the first byte goes.
        length: bytes to take at most; None: all until the peer closes.
        meter: counts, and stops.
        limit: rate to keep to.

    Returns:
        The bytes received: `length`, or fewer if the peer closed before. It is for the caller to know whether
        fewer are enough.

    Raises:
        ConnectionBroken, Stalled, Cancelled: see there. What was written before stays in the file.
        OSError: writing failed; the disk is full, a quota is used up.
    """
    start = meter.moved
    buffer = memoryview(bytearray(BLOCK))
    remaining = length
    while remaining is None or remaining > 0:
        if meter.cancelled:
            raise Cancelled
        wanted = BLOCK if limit is None else limit.block_size(BLOCK)
        if remaining is not None:
            wanted = min(wanted, remaining)
        try:
            count = connection.recv_into(buffer, wanted)
        except OSError as error:
            raise translate(error, meter) from error
        if count == 0:
            _check_end(meter)
            break
        _write_all(target, buffer[:count], offset)
        offset += count
        meter.moved += count
        if remaining is not None:
            remaining -= count
        if limit is not None:
            limit.spend(count, meter)
    return meter.moved - start


def receive_chunks(
    connection: socket.socket, write: Callable[[memoryview], None], length: int | None, meter: Meter
) -> int:
    """Like `receive_file`, for pipes and others that have no offsets: hands every block to `write`, in order.

    Args:
        connection: see `prepare`.
        write: takes all of a block before it returns; the memory is used again.
        length: bytes to take at most; None: all until the peer closes.
        meter: counts, and stops.

    Raises:
        ConnectionBroken, Stalled, Cancelled: see there.
        OSError: from `write`.
    """
    start = meter.moved
    buffer = memoryview(bytearray(BLOCK))
    remaining = length
    while remaining is None or remaining > 0:
        if meter.cancelled:
            raise Cancelled
        try:
            count = connection.recv_into(buffer, BLOCK if remaining is None else min(BLOCK, remaining))
        except OSError as error:
            raise translate(error, meter) from error
        if count == 0:
            _check_end(meter)
            break
        write(buffer[:count])
        meter.moved += count
        if remaining is not None:
            remaining -= count
    return meter.moved - start


def receive_nowhere(connection: socket.socket, length: int | None, meter: Meter) -> int:
    """Like `receive_file` into /dev/null, for measuring: the kernel drops the bytes without copying them here."""
    start = meter.moved
    scratch = bytearray(BLOCK)
    remaining = length
    while remaining is None or remaining > 0:
        if meter.cancelled:
            raise Cancelled
        wanted = BLOCK if remaining is None else min(BLOCK, remaining)
        try:
            count = connection.recv_into(scratch, wanted, _MSG_TRUNC)
        except OSError as error:
            raise translate(error, meter) from error
        if count == 0:
            _check_end(meter)
            break
        meter.moved += count
        if remaining is not None:
            remaining -= count
    return meter.moved - start


def receive_bytes(connection: socket.socket, meter: Meter, *, max_bytes: int) -> bytes:
    """Everything until the peer closes, such as a listing.

    Raises:
        StreamError: more than `max_bytes` came.
        ConnectionBroken, Stalled, Cancelled: see there.
    """
    chunks: list[bytes] = []
    received = 0
    while True:
        if meter.cancelled:
            raise Cancelled
        try:
            chunk = connection.recv(65536)
        except OSError as error:
            raise translate(error, meter) from error
        if not chunk:
            _check_end(meter)
            return b"".join(chunks)
        chunks.append(chunk)
        received += len(chunk)
        meter.moved += len(chunk)
        if received > max_bytes:
            raise StreamError(f"more than {max_bytes} bytes")


def finish_sending(connection: socket.socket) -> None:
    """Say end of data; a peer that has what it wanted and closed already is no error."""
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET):
            raise


def _write_all(target: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(target, data, offset)
        data = data[count:]
        offset += count


def _check_end(meter: Meter) -> None:
    # Whoever cancels may shut the socket down, which reads as an end of data like any other.
    if meter.cancelled:
        raise Cancelled


def pace(connection: socket.socket, rate: int) -> None:
    """Have the kernel send no faster than `rate` bytes a second; 0 lifts the limit."""
    # All ones is no limit.
    value = rate or 0xFFFF_FFFF_FFFF_FFFF
    connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("Q", value))


def translate(error: OSError, meter: Meter) -> Exception:
    """The pump's own error for one of a socket; errors of a file, which sendfile mixes in, stay as they are."""
    if meter.cancelled:
        return Cancelled()
    if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.ETIMEDOUT):
        return Stalled("no data moved for too long")
    if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN):
        return ConnectionBroken("the peer closed the data connection")
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENETRESET):
        return ConnectionBroken(error.strerror or "network error")
    return error

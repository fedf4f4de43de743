"""Sends pieces of a file over HTTP connections, many at a time, with few threads.

A thread takes a turn with one connection: it moves what the socket takes (sendfile, so no byte enters this process),
waits a moment for more room while nobody else wants the thread, and comes back. A connection whose client is slower
waits on the event loop for the next turn. So a fast client has a thread to itself, a slow file system stalls nobody's
loop, and a thousand slow clients share the few threads.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Final

import trio

from uftpd.session.object_answer import Answer, Piece

_THREADS: Final = 8
_BLOCK: Final = 8 * 1024 * 1024  # bytes one sendfile may move
_TURN: Final = 64 * 1024 * 1024  # bytes a turn may move: then the next connection has the thread
_PATIENCE_MS: Final = 50  # a turn waits this long for room while threads are free
_SMALL: Final = 64 * 1024  # a file this small goes out with its head, in one call, if it is in memory


class Broken(Exception):
    """The connection cannot be used any more; the message says why, for the log."""


class Sender:
    """Sends answers; one for all connections of a process.

    Args:
        stall_seconds: a client that takes nothing for so long is given up.
        rate: bytes a second now, for all connections together; 0 for no limit.
    """

    def __init__(self, stall_seconds: float, rate: Callable[[], int]) -> None:
        self._stall_seconds = stall_seconds
        self._rate = rate
        self._threads = trio.CapacityLimiter(_THREADS)
        self._allowance_at = 0.0

    async def send(self, connection: socket.socket, file: int, answer: Answer, sent: list[int]) -> None:
        """Send a whole answer.

        Args:
            connection: non-blocking.
            file: descriptor the pieces are in.
            answer: what goes out.
            sent: its one item grows by the bytes of the file that are with the kernel.

        Raises:
            Broken: the client is gone or stalled, or the file has become shorter: the connection is in the middle of
                an answer and must be closed.
            OSError: reading the file failed; the same.
        """
        if len(answer.pieces) == 1 and await self._sent_at_once(connection, file, answer.pieces[0], sent):
            return
        for piece in answer.pieces:
            await self.send_bytes(connection, piece.before, more=bool(piece.length))
            await self._send_piece(connection, file, piece, sent)
        await self.send_bytes(connection, answer.after)

    async def _sent_at_once(self, connection: socket.socket, file: int, piece: Piece, sent: list[int]) -> bool:
        """A small answer whose part of the file is in memory, in one system call and without a thread."""
        if not 0 < piece.length <= _SMALL or self._rate():
            return False
        content = bytearray(piece.length)
        try:
            if os.preadv(file, [content], piece.offset, os.RWF_NOWAIT) != piece.length:
                return False
        except OSError:  # not in memory, or a file system that cannot tell: the slow way finds out
            return False
        await self.send_bytes(connection, piece.before + content)
        sent[0] += piece.length
        return True

    async def send_bytes(self, connection: socket.socket, data: bytes, *, more: bool = False) -> None:
        """Send `data`; with `more` the kernel may wait for what follows.

        Raises:
            Broken: see `send`.
        """
        view = memoryview(data)
        flags = socket.MSG_NOSIGNAL | (socket.MSG_MORE if more else 0)
        while view:
            try:
                view = view[connection.send(view, flags) :]
            except BlockingIOError:
                await self._wait(connection)
            except OSError as error:
                raise Broken("closed") from error

    async def _send_piece(self, connection: socket.socket, file: int, piece: Piece, sent: list[int]) -> None:
        offset, end = piece.offset, piece.offset + piece.length
        while offset < end:
            most, patience = min(_TURN, end - offset), _PATIENCE_MS
            if rate := self._rate():
                most, patience = min(most, max(16 * 1024, rate // 16)), 0
            if self._threads.available_tokens <= 1:
                patience = 0
            moved = await trio.to_thread.run_sync(
                _turn, connection.fileno(), file, offset, most, patience, sent, limiter=self._threads
            )
            offset += moved
            if rate:
                await self._keep_to(rate, moved)
            if offset < end and moved < most:
                await self._wait(connection)

    async def _keep_to(self, rate: int, moved: int) -> None:
        now = trio.current_time()
        self._allowance_at = max(self._allowance_at, now - 0.125) + moved / rate
        await trio.sleep_until(self._allowance_at)

    async def _wait(self, connection: socket.socket) -> None:
        with trio.move_on_after(self._stall_seconds) as waiting:
            await trio.lowlevel.wait_writable(connection)
        if waiting.cancelled_caught:
            raise Broken("stalled")


def _turn(connection: int, file: int, offset: int, length: int, patience_ms: int, sent: list[int]) -> int:
    """Move up to `length` bytes, as long as the socket takes them; how many it were. Runs in a thread."""
    end = offset + length
    start = offset
    while offset < end:
        try:
            count = os.sendfile(connection, file, offset, min(_BLOCK, end - offset))
        except BlockingIOError:
            if not (patience_ms and _has_room(connection, patience_ms)):
                break
            continue
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS):  # a file system that cannot
                copied = _copy(connection, file, offset, end)
                if copied is None:
                    break
                count = copied
            elif error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTUNREACH):
                raise Broken("closed") from error
            else:
                raise
        if count == 0:
            raise Broken("the file has become shorter")
        offset += count
        sent[0] += count
    return offset - start


def _has_room(connection: int, patience_ms: int) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    return bool(poll.poll(patience_ms))


def _copy(connection: int, file: int, offset: int, end: int) -> int | None:
    """Like sendfile, by way of this process; None if the socket is full."""
    data = os.pread(file, min(1024 * 1024, end - offset), offset)
    if not data:
        return 0
    try:
        return os.write(connection, data)
    except BlockingIOError:
        return None
    except OSError as error:
        raise Broken("closed") from error

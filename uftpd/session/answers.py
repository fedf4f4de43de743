"""Replies of a pipeline on their way to the client: gathered, and in order (EXTENSIONS section 1, pipelining).

A reply that says that records have been sent waits for them, and those behind it wait with it.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from typing import Final

from uftp.protocol.replies import reply
from uftp.streams.records import RecordWriter

_SEND_SECONDS: Final = 120.0  # a client that takes no reply for so long is gone
_GATHERED: Final = 32 * 1024  # bytes
LOST: Final = reply(426, "The data connection broke before the last bytes were sent").encode()


class ClientGone(Exception):
    """The control connection broke or ended; there is nobody left to tell."""


class Answers:
    """See the module. For the one thread that serves; replies are bytes as they are sent.

    Args:
        connection: the control connection, non-blocking.

    Attributes:
        writer: sends the records that replies wait for; None without a data connection.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.writer: RecordWriter | None = None
        self._connection = connection
        self._gathered = bytearray()
        # How many bytes of records must have been sent; the reply; what is said instead if they cannot be.
        self._held: deque[tuple[int, bytes, bytes]] = deque()

    def close(self) -> None:
        """Give the connection back; the client keeps its own end open."""
        self._connection.close()

    def say(self, answer: bytes) -> None:
        """Send later.

        Raises:
            ClientGone: the client does not take it.
        """
        if self._held:
            self._held.append((0, answer, answer))
            return
        self._gathered += answer
        if len(self._gathered) >= _GATHERED:
            self.send()

    def say_when_sent(self, answer: bytes, if_lost: bytes) -> None:
        """Send once all records said so far are with the kernel; `if_lost` if they cannot be.

        Raises:
            ClientGone: the client does not take it.
        """
        writer = self.writer
        if writer is None or writer.said <= writer.sent:
            self.say(answer)
        else:
            self._held.append((writer.said, answer, if_lost))

    def release(self) -> None:
        """Let replies go whose records are sent, or never will be.

        Raises:
            ClientGone: the client does not take it.
        """
        held, writer = self._held, self.writer
        if not held:
            return
        sent = 0 if writer is None else writer.sent
        lost = writer is None or writer.broken
        while held and (lost or held[0][0] <= sent):
            due, answer, if_lost = held.popleft()
            self._gathered += answer if due <= sent else if_lost
        if len(self._gathered) >= _GATHERED:
            self.send()

    def send(self) -> None:
        """Send what is gathered and waits for nothing.

        Raises:
            ClientGone: the client does not take it.
        """
        if not self._gathered:
            return
        view = memoryview(bytes(self._gathered))
        self._gathered.clear()
        deadline = time.monotonic() + _SEND_SECONDS
        try:
            while view:
                try:
                    view = view[self._connection.send(view) :]
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(self._connection, select.POLLOUT)
                    left = deadline - time.monotonic()
                    if left <= 0 or not poll.poll(left * 1000):
                        raise ClientGone from None
        except OSError as error:
            raise ClientGone from error

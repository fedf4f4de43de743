"""A plain non-blocking socket of an HTTP client, for front and object server alike: it is handed between them."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

import trio

_RECEIVE: Final = 16 * 1024
_CLOSING_SECONDS: Final = 2.0


async def receive(connection: socket.socket) -> bytes:
    """What comes next; empty if the client is gone, in whatever way."""
    while True:
        try:
            return connection.recv(_RECEIVE)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(connection)
        except OSError:
            return b""


async def close_politely(connection: socket.socket, last_words: bytes = b"") -> None:
    """Say `last_words`, which are few, and end; the caller closes.

    The client gets a moment to read them: with bytes of its own unread the kernel would reset the connection, and
    they would be lost.
    """
    with contextlib.suppress(OSError):
        if last_words:
            connection.send(last_words, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        connection.shutdown(socket.SHUT_WR)
        with trio.move_on_after(_CLOSING_SECONDS):
            while await receive(connection):
                pass

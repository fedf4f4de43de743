"""MODE U in a session: what was agreed, how many transfers there were, and the data connection that serves them all.

(EXTENSIONS section 1. The records are in `uftp.streams.records`, transfers by them in `record_transfers`.)
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from typing import Final

import trio

from uftp.protocol.record_mode import HELLO_BYTES, SALT_BYTES, HelloChecker, HelloRefused, RecordOptions, derive_keys
from uftp.streams import prepare
from uftp.streams.records import RecordReader, RecordWriter

_HELLO_SECONDS: Final = 10.0


class RecordConnection:
    """One data connection in MODE U, both directions.

    Args:
        connection: as the client made it; stays in the care of its owner.
        reader, writer: on it.
    """

    def __init__(self, connection: socket.socket, reader: RecordReader, writer: RecordWriter) -> None:
        self.connection = connection
        self.reader = reader
        self.writer = writer

    def is_broken(self) -> bool:
        """Whether it serves no further transfer."""
        return self.reader.broken or self.writer.broken or self.connection.fileno() < 0

    def close(self) -> None:
        """Give back what reader and writer hold."""
        self.reader.close()
        self.writer.close()


class RecordMode:
    """See the module.

    Args:
        options: that apply.
        session_key: empty without CRYPT.
        log: gets what strangers do at the data port.

    Attributes:
        options: that apply.
        salt: for the 200 reply.
        number: transfer commands since MODE U, refused ones included.
    """

    def __init__(self, options: RecordOptions, session_key: bytes, log: Callable[..., None]) -> None:
        self.options = options
        self.salt = secrets.token_bytes(SALT_BYTES)
        self.number = 0
        self._session_key = session_key if options.crypt else b""
        self._checker = HelloChecker(self._session_key, self.salt)
        self._log = log
        self._connection: RecordConnection | None = None

    async def greet(self, connection: trio.socket.SocketType) -> bytes:
        """Read a new connection's hello: its nonce, or nothing if it is not the client's."""
        hello = b""
        try:
            with trio.fail_after(_HELLO_SECONDS):
                while len(hello) < HELLO_BYTES:
                    data = await connection.recv(HELLO_BYTES - len(hello))  # no more: records may follow
                    if not data:
                        raise HelloRefused("it ended")
                    hello += data
            return self._checker.check(hello)
        except (HelloRefused, OSError, trio.TooSlowError) as error:
            reason = "nothing came in time" if isinstance(error, trio.TooSlowError) else str(error)
            self._log("data-connection-refused", level="warning", reason=reason)
            return b""

    def attach(
        self,
        connection: socket.socket,
        nonce: bytes,
        stall_seconds: float,
        *,
        before_reading: Callable[[], None],
        before_writing: Callable[[], None],
    ) -> RecordConnection:
        """Reader and writer for the session's data connection; the same ones as long as it lives.

        Args:
            connection: greeted.
            nonce: of its hello.
            stall_seconds: longest wait for the client to move a byte.
            before_reading, before_writing: see `RecordReader` and `RecordWriter`.
        """
        if self._connection is not None and self._connection.connection is connection:
            return self._connection
        self.detach()
        prepare(connection, stall_seconds)
        keys = derive_keys(self._session_key, self.salt, nonce)
        self._connection = RecordConnection(
            connection,
            RecordReader(connection, self.options, keys.client_to_server, before_waiting=before_reading),
            RecordWriter(connection, self.options, keys.server_to_client, before_waiting=before_writing),
        )
        return self._connection

    @property
    def attached(self) -> RecordConnection | None:
        """What `attach` has made last."""
        return self._connection

    def detach(self) -> None:
        """Forget the data connection; closing it is for its owner."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

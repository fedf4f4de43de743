"""MODE U, the client's side: agreeing on it, and the one data connection that serves a session (EXTENSIONS 1)."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

from uftp.client.wording import printable, server_said
from uftp.errors import NetworkError, PeerBrokeProtocol, Refused
from uftp.protocol import ProtocolError
from uftp.protocol.record_mode import DEFAULT_LEVEL, RecordOptions, format_options, parse_agreed
from uftp.protocol.replies import Reply
from uftp.streams import Link, StreamError
from uftp.streams.records import RecordReader, RecordWriter, say_hello

if TYPE_CHECKING:
    from uftp.client.session import FTPSession
    from uftp.protocol.features import Features

__all__ = ["DEFAULT_LEVEL", "RecordConnection", "RecordMode", "choose_options", "request_lines"]

ENTER: Final = b"MODE U"


def choose_options(features: Features, *, key: bytes, level: int | None, digest: bool = True) -> RecordOptions:
    """What to ask a server for that lists MODE U.

    Args:
        features: its FEAT reply.
        key: session key; empty for a session that moves its data in clear.
        level: of compression; None for none.
        digest: whether transfers are to carry digests.

    Raises:
        Refused: data shall be encrypted, and the server cannot do it in this mode.
    """
    crypt = "MODE U CRYPT AES-256-GCM" in features
    if key and not crypt:
        raise Refused("the server has MODE U, but no encryption in it")
    compress = level is not None and "MODE U COMPRESS ZSTD" in features
    return RecordOptions(
        crypt=bool(key),
        compress=compress,
        level=level if compress and level is not None else DEFAULT_LEVEL,
        digest=digest and "MODE U DIGEST BLAKE3" in features,
        sparse="MODE U SPARSE" in features,
        facts="MODE U FACTS" in features,
    )


def request_lines(options: RecordOptions) -> list[bytes]:
    """The two lines that ask for MODE U. They may go in one; nothing may follow before their replies."""
    return [format_options(options).encode(), ENTER]


class RecordMode:
    """MODE U as agreed in one session, and its data connection, which is opened when it is needed.

    Args:
        options: agreed.
        key: session key, empty without encryption.
        salt: from the reply to `MODE U`.

    Attributes:
        options: see there.
        transfers: STOR, APPE, RETR and listing lines sent since MODE U.
    """

    def __init__(self, options: RecordOptions, key: bytes, salt: bytes) -> None:
        self.options = options
        self.transfers = 0
        self._key = key
        self._salt = salt
        self._fresh = True
        self._connection: RecordConnection | None = None

    @classmethod
    def agreed(cls, options: RecordOptions, key: bytes, replies: tuple[Reply, Reply]) -> RecordMode:
        """From the replies to `request_lines`.

        Raises:
            Refused: the server says no to one of them.
            PeerBrokeProtocol: it agreed to something else.
        """
        for reply, line in zip(replies, request_lines(options), strict=True):
            if not reply.is_success:
                said = server_said(reply)
                raise Refused(f"the server lists MODE U, but refuses {printable(line)}: {said}", code=reply.code)
        return cls(options, key, _salt(options, replies[1]))

    async def connection(self, session: FTPSession) -> RecordConnection:
        """The data connection, a new one if there is none or it has ended; inside a dialogue, all replies read.

        Raises:
            Refused, NetworkError, PeerBrokeProtocol: there is none to be had.
        """
        if self._connection is not None and self._connection.is_open():
            return self._connection
        self.drop()
        if not self._fresh:
            # A new salt and a new count, whatever the two ends made of the one that broke.
            reply = await session.control.command(ENTER)
            if not reply.is_success:
                raise Refused(f"{session.name}: MODE U is refused: {server_said(reply)}", code=reply.code)
            self._salt = _salt(self.options, reply)
            self.transfers = 0
        self._fresh = False
        link = await session.open_data()
        try:
            keys = say_hello(link.connections[0], self._key, self._salt)
        except (StreamError, OSError) as error:
            link.close()
            raise NetworkError(f"{session.name}: the data connection broke at its beginning: {error}") from error
        connection = link.connections[0]
        self._connection = RecordConnection(
            link,
            RecordReader(connection, self.options, keys.server_to_client),
            RecordWriter(connection, self.options, keys.client_to_server),
        )
        return self._connection

    def drop(self) -> None:
        """Close the data connection, if there is one. While a pipeline uses it, it is only shut down."""
        if self._connection is not None:
            self._connection.drop()
            if not self._connection.in_use:
                self._connection = None

    def describe(self) -> str:
        """For a person: what protects and packs the data."""
        options = self.options
        parts = ["MODE U"]
        parts.append("AES-256-GCM" if options.crypt else "not encrypted")
        if options.compress:
            parts.append(f"zstd level {options.level}")
        if options.digest:
            parts.append("verified by BLAKE3")
        return ", ".join(parts)


class RecordConnection:
    """A data connection in MODE U.

    Attributes:
        reader, writer: its two directions, one thread each.
        in_use: whether threads work on it.
    """

    def __init__(self, link: Link, reader: RecordReader, writer: RecordWriter) -> None:
        self._link = link
        self.reader = reader
        self.writer = writer
        self.in_use = False
        self._broken = False

    @property
    def connection(self) -> socket.socket:
        """The connection itself, for the threads that work on it."""
        return self._link.connections[0]

    def is_open(self) -> bool:
        """Whether it can be used: the server may have closed its end while nothing moved."""
        if self._broken:
            return False
        try:
            return self._link.connections[0].recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def break_off(self) -> None:
        """Stop the threads at work on it; it is of no further use."""
        self._broken = True
        with contextlib.suppress(OSError):
            self._link.shutdown()

    def drop(self) -> None:
        """Close it, or stop it if it is in use; then `release` closes."""
        if self.in_use:
            self.break_off()
        else:
            self._close(reset=self._broken)
            self._broken = True

    def release(self, *, close: bool) -> None:
        """No thread works on it any more.

        Args:
            close: whether the server has no use for it.
        """
        self.in_use = False
        if close or self._broken or self.reader.broken or self.writer.broken:
            self._broken = True
            self._close(reset=True)

    def _close(self, *, reset: bool) -> None:
        self.reader.close()
        self.writer.close()
        if reset:
            self._link.reset()
        else:
            self._link.close()


def _salt(options: RecordOptions, reply: Reply) -> bytes:
    try:
        agreed, salt = parse_agreed(reply.text)
    except ProtocolError as error:
        raise PeerBrokeProtocol(f"MODE U: {printable(str(error))}") from error
    if agreed != options:
        raise PeerBrokeProtocol(
            "MODE U: the server agreed to something else than was asked for; somebody may be changing the traffic"
        )
    return salt

"""A raw client of MODE U, for tests: says exactly what a test wants said, and shows what comes back."""

from __future__ import annotations

import os
import socket
from typing import Final, Self

from raw_ftp import TIMEOUT, RawFtp

from uftp.protocol.record_mode import (
    ConnectionKeys,
    RecordOptions,
    derive_keys,
    format_options,
    make_hello,
    parse_agreed,
)
from uftp.protocol.records import binding
from uftp.streams import Meter, prepare
from uftp.streams.records import RecordIncoming, RecordOutgoing, RecordReader, RecordWriter

PLAIN: Final = RecordOptions()
KEY: Final = bytes(range(48))


class RecordFtp:
    """A session in MODE U over a `RawFtp` that has logged in.

    Attributes:
        number: transfer commands sent.
    """

    def __init__(self, ftp: RawFtp, options: RecordOptions = PLAIN, key: bytes = b"") -> None:
        self.ftp = ftp
        self.options = options
        self.key = key if options.crypt else b""
        self.number = 0
        self.data: socket.socket | None = None
        ftp.ok(format_options(options))
        agreed, self.salt = parse_agreed(ftp.ok("MODE U").decode()[4:])
        assert agreed == options

    def connect(self) -> None:
        """EPSV, connect, hello."""
        data = socket.create_connection((self.ftp.host, self.ftp.passive()), TIMEOUT)
        data.sendall(self.hello())
        self.attach(data)

    def hello(self) -> bytes:
        self.nonce = os.urandom(32)
        return make_hello(self.key, self.salt, self.nonce)

    def attach(self, data: socket.socket) -> None:
        """Go on with this connection, whose hello was said."""
        self.close()
        keys: ConnectionKeys = derive_keys(self.key, self.salt, self.nonce)
        self.data = data
        prepare(data, TIMEOUT)
        self.writer = RecordWriter(data, self.options, keys.client_to_server)
        self.reader = RecordReader(data, self.options, keys.server_to_client)

    def close(self) -> None:
        if self.data is not None:
            self.writer.close()
            self.reader.close()
            self.data.close()
            self.data = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def count(self, line: str | bytes, offset: int = 0, length: int | None = None) -> tuple[int, bytes]:
        """Number and binding of the transfer that `line` is about to start."""
        self.number += 1
        return self.number, binding(line.encode() if isinstance(line, str) else line, offset, length)

    @staticmethod
    def binding_of(line: str, offset: int = 0, length: int | None = None) -> bytes:
        """The binding alone, of a line whose number is known."""
        return binding(line.encode(), offset, length)

    def outgoing(self, line: str, offset: int = 0, length: int | None = None) -> RecordOutgoing:
        """Send the line of an upload, and begin its sequence."""
        self.ftp.send(line)
        return self.writer.begin(*self.count(line, offset, length))

    def incoming(self, line: str, offset: int = 0, length: int | None = None, *, facts: bool = True) -> RecordIncoming:
        """Begin the sequence of a download whose line was sent."""
        return self.reader.begin(*self.count(line, offset, length), facts=facts)

    def store(self, line: str, content: bytes, facts: bytes = b"", offset: int = 0, length: int | None = None) -> bytes:
        """A whole upload: its replies."""
        outgoing = self.outgoing(line, offset, length)
        outgoing.from_bytes(content, Meter())
        outgoing.end(facts)
        self.writer.flush()
        first = self.ftp.reply()
        return first + self.ftp.reply() if first.startswith(b"150") else first

    def retrieve(self, line: str, offset: int = 0, length: int | None = None, *, facts: bool = True) -> bytes:
        """A whole download: its content. The replies must be the usual ones."""
        first = self.ftp.command(line)
        assert first.startswith(b"150 "), first
        incoming = self.incoming(line, offset, length, facts=facts)
        content = self.take(incoming)
        assert self.ftp.reply() == b"226 File transfer successful\r\n"
        self.facts = incoming.facts
        return content

    @staticmethod
    def take(incoming: RecordIncoming) -> bytes:
        """All of a sequence."""
        chunks: list[bytes] = []
        incoming.to_chunks(lambda data: chunks.append(bytes(data)), None, Meter())
        assert incoming.finish()
        return b"".join(chunks)

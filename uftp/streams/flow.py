"""The bytes of one transfer, whatever carries them: one interface over plain connections, legacy layers and records.

Whoever moves a file says from where to where and how much, and does not know what the bytes look like on the wire.
Every method blocks and runs in a thread; errors are those of `uftp.streams.pump`.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final, Protocol

from uftp.streams._meter import Meter, RateLimit
from uftp.streams.pump import (
    finish_sending,
    receive_chunks,
    receive_file,
    receive_nowhere,
    send_bytes,
    send_file,
)

_LAST_WORD_SECONDS: Final = 10.0


class Outgoing(Protocol):
    """The bytes of one transfer on their way to the peer: any number of `from_...`, then one `end` or `abort`."""

    def from_file(self, source: int, offset: int, length: int, meter: Meter, limit: RateLimit | None = None) -> None:
        """Send `length` bytes of the file `source` from `offset`; see `send_file`.

        Raises:
            SourceEnded: the file was cut meanwhile.
            StreamError: the connection, see `uftp.streams.pump`.
            OSError: reading the file failed.
        """
        ...

    def from_bytes(self, data: bytes | memoryview, meter: Meter) -> None:
        """Send bytes at hand: a listing, what a pipe gave. They may be sent later, with what follows, `end` at latest.

        Raises:
            StreamError: the connection, see `uftp.streams.pump`.
        """
        ...

    def end(self, facts: bytes = b"") -> None:
        """All is sent: trailer, padding, end record or end of stream, whatever the layer has.

        A peer that has what it wanted and closed already is no error.

        Args:
            facts: MLST facts of the file, where the connection carries them (EXTENSIONS 1, FACTS).

        Raises:
            StreamError: the connection, see `uftp.streams.pump`.
        """
        ...

    def abort(self, reason: str = "") -> None:
        """Give the transfer up so that the peer cannot take it for whole. Never fails."""
        ...


class Incoming(Protocol):
    """The bytes of one transfer as they arrive: any number of `to_...`, then `finish`.

    Attributes:
        marked: whether the end of the data is marked in the data, so that a cut stream shows. Without that an end
            of file is all there is.
        facts: MLST facts that came with the end; empty without.
    """

    @property
    def marked(self) -> bool: ...

    @property
    def facts(self) -> bytes: ...

    def to_file(
        self, target: int, offset: int, length: int | None, meter: Meter, limit: RateLimit | None = None
    ) -> int:
        """Write to the file `target` from `offset` on.

        Args:
            target: descriptor.
            offset: where the first byte goes.
            length: bytes to take at most; None: all there are.
            meter: counts payload bytes, and stops.
            limit: rate to keep to.

        Returns:
            The bytes received: `length`, or fewer if the data ended before.

        Raises:
            Garbled: what came is not what this layer's bytes look like, or ended without its end mark.
            StreamError: the connection, see `uftp.streams.pump`.
            OSError: writing failed.
        """
        ...

    def to_chunks(self, write: Callable[[memoryview], None], length: int | None, meter: Meter) -> int:
        """Like `to_file`, handing every block to `write`, which takes all of it before it returns."""
        ...

    def to_nowhere(self, length: int | None, meter: Meter) -> int:
        """Like `to_file`, keeping nothing."""
        ...

    def finish(self) -> bool:
        """Read on to the end of the data.

        Returns:
            Whether nothing came behind what was taken.

        Raises:
            Garbled: the end mark is missing or says that something is wrong (checksum, tag, digest).
            StreamError: the connection, see `uftp.streams.pump`; the peer aborted.
        """
        ...


class PlainOutgoing:
    """One connection, nothing but the bytes; its end is the end of the stream."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def from_file(self, source: int, offset: int, length: int, meter: Meter, limit: RateLimit | None = None) -> None:
        """See `Outgoing`."""
        send_file(source, offset, length, self._connection, meter, limit)

    def from_bytes(self, data: bytes | memoryview, meter: Meter) -> None:
        """See `Outgoing`."""
        send_bytes(data, self._connection, meter)

    def end(self, facts: bytes = b"") -> None:
        """See `Outgoing`."""
        finish_sending(self._connection)

    def abort(self, reason: str = "") -> None:
        """Nothing can be said in the data; the connection must be reset by whoever owns it."""


class PlainIncoming:
    """One connection, nothing but the bytes."""

    marked = False
    facts = b""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def to_file(
        self, target: int, offset: int, length: int | None, meter: Meter, limit: RateLimit | None = None
    ) -> int:
        """See `Incoming`."""
        return receive_file(self._connection, target, offset, length, meter, limit)

    def to_chunks(self, write: Callable[[memoryview], None], length: int | None, meter: Meter) -> int:
        """See `Incoming`."""
        return receive_chunks(self._connection, write, length, meter)

    def to_nowhere(self, length: int | None, meter: Meter) -> int:
        """See `Incoming`."""
        return receive_nowhere(self._connection, length, meter)

    def finish(self) -> bool:
        """See `Incoming`. A peer that neither sends nor closes for some seconds is taken to be done."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if not poll.poll(_LAST_WORD_SECONDS * 1000):
            return True
        try:
            return self._connection.recv(1) == b""
        except OSError:
            return True  # a reset behind the last byte that was announced loses nothing

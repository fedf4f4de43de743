"""The data connections of one transfer, and what lies between their bytes and those of the file."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from uftp.streams.flow import Incoming, Outgoing, PlainIncoming, PlainOutgoing
from uftp.streams.pump import prepare


@dataclass(frozen=True, slots=True)
class Layers:
    """What a session has agreed on for its data connections outside MODE U (DATA-PLANE section 8).

    Attributes:
        compress: gzip.
        cipher: "AES" or "BLOWFISH"; empty for none.
        key: of the cipher, as in the transfer request: for AES 16 bytes IV and the key.
        pads_always: several streams with AES alone get their padding even where a stream is a multiple of the cipher's
            block; one client in use then fails (DATA-PLANE 7.1).
    """

    compress: bool = False
    cipher: str = ""
    key: bytes = field(default=b"", repr=False)
    pads_always: bool = True

    @property
    def plain(self) -> bool:
        """Whether there is no layer at all."""
        return not self.compress and not self.cipher


NO_LAYERS: Final = Layers()


class Link:
    """See the module.

    Args:
        connections: stream i of the framing is the i-th.
        layers: on each of them.
        framed: whether blocks are cut over the connections (DATA-PLANE section 7); never for a single one.
    """

    def __init__(
        self, connections: Sequence[socket.socket], layers: Layers = NO_LAYERS, *, framed: bool = False
    ) -> None:
        self.connections = tuple(connections)
        self._layers = layers
        self._framed = framed and len(self.connections) > 1

    @property
    def plain(self) -> bool:
        """Whether it is one connection with nothing but the bytes, which can carry one transfer after the other."""
        return not self._framed and self._layers.plain

    def prepare(self, stall_seconds: float) -> None:
        """Make the connections fit for pumps; see `uftp.streams.pump.prepare`."""
        for connection in self.connections:
            prepare(connection, stall_seconds)

    def outgoing(self) -> Outgoing:
        """For one transfer to the peer."""
        if not self.plain:
            from uftp.streams.legacy import LegacyOutgoing

            return LegacyOutgoing(self.connections, self._layers, framed=self._framed)
        return PlainOutgoing(self.connections[0])

    def incoming(self) -> Incoming:
        """For one transfer from the peer."""
        if not self.plain:
            from uftp.streams.legacy import LegacyIncoming

            return LegacyIncoming(self.connections, self._layers, framed=self._framed)
        return PlainIncoming(self.connections[0])

    def shutdown(self) -> None:
        """Make every pump on the connections stop at once. They are of no use after."""
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                if error.errno not in (errno.ENOTCONN, errno.EBADF):
                    raise

    def close(self) -> None:
        """Close the connections; what is sent still arrives."""
        for connection in self.connections:
            connection.close()

    def reset(self) -> None:
        """Close with a reset and drop what is not sent, so that the peer never takes it for a proper end of data."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

"""One connection with its layers: gzip nearer to the file, the cipher nearer to the wire (DATA-PLANE section 8)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from uftp.protocol import ProtocolError
from uftp.protocol.legacy_ciphers import Decryptor, Encryptor, padding_length
from uftp.streams._meter import Meter
from uftp.streams.legacy.gzip_layer import Packer, Unpacker
from uftp.streams.pump import Cancelled, Garbled, translate

if TYPE_CHECKING:
    from uftp.streams.link import Layers

_WIRE_BYTES: Final = 256 * 1024  # read at once from a connection with layers


class SendingLane:
    """Plain bytes to what travels on one connection.

    Args:
        layers: of the session.
        framed: the plain bytes are frames: the peer waits for whole chunks, so nothing may be held back.
    """

    def __init__(self, layers: Layers, *, framed: bool) -> None:
        self._packer = Packer() if layers.compress else None
        self._encryptor = Encryptor(layers.cipher, layers.key) if layers.cipher else None
        self._framed = framed
        self._pads_always = layers.pads_always or layers.compress or layers.cipher != "AES" or not framed

    def update(self, data: bytes | memoryview) -> bytes | memoryview:
        """What may travel now. Without any layer it is `data` itself."""
        if self._packer is not None:
            data = self._packer.update(data)
            if self._framed:
                data += self._packer.flush()
        return data if self._encryptor is None else self._encryptor.update(data)

    def flush(self) -> bytes:
        """All that was held back, but for bytes of an unfinished cipher block."""
        if self._packer is None or self._framed:
            return b""
        data = self._packer.flush()
        return data if self._encryptor is None else self._encryptor.update(data)

    def finish(self) -> tuple[bytes, bool]:
        """The end of the data.

        Returns:
            Trailer and padding, and whether the peer needs them for the last bytes of the file. (With gzip it can have
            these without: they were flushed.)
        """
        data = b"" if self._packer is None else self._packer.finish()
        if self._encryptor is None:
            return data, False
        partial = self._packer is None and self._encryptor.partial > 0
        data = self._encryptor.update(data)
        # A client that reads frames with AES takes a whole block of padding for a header (DATA-PLANE 7.1).
        if self._pads_always or self._encryptor.partial:
            data += self._encryptor.finish()
        return data, partial


class ReceivingLane:
    """One connection to plain bytes.

    Args:
        connection: see `uftp.streams.pump.prepare`.
        layers: of the session.
        framed: the plain bytes are frames; padding behind them is left to who reads these.

    Attributes:
        ended: nothing more comes.
        marked: the layers say so themselves, not just the connection.
    """

    def __init__(self, connection: socket.socket, layers: Layers, *, framed: bool) -> None:
        self.connection = connection
        self._unpacker = Unpacker() if layers.compress else None
        self._decryptor = Decryptor(layers.cipher, layers.key) if layers.cipher else None
        self._wire = None if layers.plain else memoryview(bytearray(_WIRE_BYTES))
        self._holds_back = bool(layers.cipher) and not layers.compress and not framed
        self._held = b""
        self._plain = memoryview(b"")
        self._wire_ended = False
        self._flags = 0
        self.ended = False
        self.marked = False

    def pull(self, room: memoryview, meter: Meter, *, wait: bool = True) -> int:
        """Put plain bytes into `room`, reading from the connection at most once.

        Args:
            room: not empty.
            meter: stops.
            wait: for the connection, if it has nothing yet.

        Returns:
            How many; 0 if more must be read first, or the lane has `ended`.

        Raises:
            Garbled: what came does not decode.
            ConnectionBroken, Stalled, Cancelled: see `uftp.streams.pump`.
        """
        if self.ended:
            return 0
        self._flags = 0 if wait else socket.MSG_DONTWAIT
        if self._wire is None:
            count = self._receive(room, meter)
            self.ended = self._wire_ended
            return count
        try:
            return self._pull_through(room, self._wire, meter)
        except ProtocolError as error:
            raise Garbled(str(error)) from error

    def _pull_through(self, room: memoryview, wire: memoryview, meter: Meter) -> int:
        if self._unpacker is not None:
            data = b""
            if self._unpacker.hungry and not self._wire_ended:
                data = self._decrypted(wire[: self._receive(wire, meter)])
            plain = self._unpacker.update(data, len(room))
            room[: len(plain)] = plain
            # What comes behind the trailer (padding, other junk) means nothing.
            self.marked = self._unpacker.ended
            self.ended = self.marked or (self._wire_ended and not plain)
            return len(plain)
        if not len(self._plain) and not self._wire_ended:
            self._plain = memoryview(self._hold_back(self._decrypted(wire[: self._receive(wire, meter)])))
        count = min(len(room), len(self._plain))
        room[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        self.ended = self._wire_ended and not len(self._plain)
        return count

    def _decrypted(self, data: memoryview) -> bytes:
        if self._decryptor is None:
            return bytes(data)
        if self._wire_ended:
            # An unfinished sender may leave half a block; with gzip behind it only the trailer tells.
            if self._unpacker is None:
                self._decryptor.finish()
            return b""
        return self._decryptor.update(data)

    def _hold_back(self, data: bytes) -> bytes:
        """Keep what may turn out to be padding, and take it off at the end."""
        if not self._holds_back or self._decryptor is None:
            return data
        data = self._held + data
        block = self._decryptor.block
        if not self._wire_ended:
            self._held = data[-block:]
            return data[:-block]
        if not data:
            return data
        self.marked = True
        return data[: -padding_length(data, block)]

    def _receive(self, room: memoryview, meter: Meter) -> int:
        try:
            count = self.connection.recv_into(room, 0, self._flags)
        except BlockingIOError as error:
            if self._flags:
                return 0
            raise translate(error, meter) from error
        except OSError as error:
            raise translate(error, meter) from error
        if count == 0:
            if meter.cancelled:
                raise Cancelled
            self._wire_ended = True
        return count

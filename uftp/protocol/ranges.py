"""RANG, REST and ALLO: what part of a file the next transfer moves (DATA-PLANE section 5).

The state lives until the next RETR, STOR, APPE, HASH or listing, whether that succeeds or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from uftp.protocol._errors import ProtocolError

# Clients that know no length send 2^63-1 and more. No file system holds this much, so it means "to the end".
OPEN_LENGTH = 2**62

_INTEGER = re.compile(rb"-?[0-9]{1,40}")


@dataclass(frozen=True, slots=True)
class TransferRange:
    """Part of a file, as set on the control connection.

    Attributes:
        offset: first byte.
        length: bytes from there, None to the end (of the file, or of the data received).
        ranged: set by RANG: a store writes into the file and never cuts it.
    """

    offset: int = 0
    length: int | None = None
    ranged: bool = False

    @property
    def is_whole_file(self) -> bool:
        """Whether a store with this range replaces the file."""
        return not self.ranged and self.offset == 0

    @property
    def expected_length(self) -> int | None:
        """Bytes a store must receive; None where the end of the data is the only mark."""
        return self.length if self.length is not None and self.length < OPEN_LENGTH else None

    def readable(self, size: int) -> int:
        """Bytes a RETR or HASH of a file of `size` bytes reads: ALLO alone limits no read."""
        rest = max(0, size - self.offset)
        return min(rest, self.length) if self.ranged and self.length is not None else rest


WHOLE_FILE = TransferRange()


def parse_integers(argument: bytes, count: int) -> list[int]:
    """The first `count` words of `argument` as integers of any size; further words are ignored.

    Raises:
        ProtocolError: too few words, or one that is no integer.
    """
    words = argument.split()[:count]
    if len(words) < count or not all(_INTEGER.fullmatch(word) for word in words):
        raise ProtocolError("Argument syntax error")
    return [int(word) for word in words]


def rang(argument: bytes) -> tuple[TransferRange, str]:
    """The range after `RANG first end`, end exclusive, and the text of the 350 reply.

    Raises:
        ProtocolError: syntax, a negative offset, or a negative length other than -1, which means "to the end".
    """
    first, end = parse_integers(argument, 2)
    if (first, end) == (1, 0):
        return WHOLE_FILE, "Resetting range"
    length = end - first
    if first < 0 or length < -1:
        raise ProtocolError("Illegal range")
    if first >= OPEN_LENGTH:
        raise ProtocolError("Offset too large")
    text = f"Restarting at {first}. End byte range at {end}"
    return TransferRange(first, None if length == -1 else length, ranged=True), text


def rest(argument: bytes) -> tuple[TransferRange, str]:
    """The range after `REST offset`, which forgets any length, and the text of the 350 reply.

    Raises:
        ProtocolError: syntax, or an offset no file can have.
    """
    (offset,) = parse_integers(argument, 1)
    if not 0 <= offset < OPEN_LENGTH:
        raise ProtocolError("Illegal offset")
    return TransferRange(offset), f"Restarting at {offset}."


def allo(current: TransferRange, argument: bytes) -> tuple[TransferRange, str]:
    """`current` with the length of `ALLO length [R record]`, and the text of the 200 reply. -1 unsets it.

    Raises:
        ProtocolError: syntax, or a length below -1.
    """
    (length,) = parse_integers(argument, 1)
    if length < -1:
        raise ProtocolError("Illegal length")
    text = f"OK Will read up to {length} bytes from data connection."
    return TransferRange(current.offset, None if length == -1 else length, current.ranged), text


def rang_command(offset: int, length: int | None) -> str:
    """The RANG line for a client that wants `length` bytes from `offset`, in the form every server takes."""
    end = offset + (2**63 - 1 if length is None else length)
    # (1, 0) is the reset; no length is negative here, so that pair cannot come out.
    return f"RANG {offset} {end}"


RESET_COMMAND = "RANG 1 0"

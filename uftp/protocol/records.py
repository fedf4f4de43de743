"""The records of MODE U: headers, their limits, what END carries, nonces and additional data (EXTENSIONS section 1).

Sans I/O, and without the bulk: whoever moves the payload asks here what a header means and whether it may stand there.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

import zstandard

from uftp.protocol._errors import ProtocolError
from uftp.protocol.record_mode import RecordOptions

HEADER_BYTES: Final = 8
TAG_BYTES: Final = 16
DIGEST_BYTES: Final = 32
MAX_RAW: Final = 4 * 1024 * 1024  # bytes of a plain raw record, which needs no buffer of its size
MAX_CONTENT: Final = 1024 * 1024  # plain bytes of a record that must be held as a whole: encrypted or compressed
MAX_FRAME: Final = MAX_CONTENT + MAX_CONTENT // 256 + 64  # zstd's own bound for incompressible content, and a little
MAX_REASON: Final = 512
MAX_FACTS: Final = 4096  # bytes; the two of a file take about 60
MAX_RECORDS: Final = 2**32  # of one direction of an encrypted connection
HOLE_BYTES: Final = 8
MAX_HOLE: Final = 2**62  # no file system holds more; sums of offsets stay below 2^63

END: Final = 1 << 31
ABORT: Final = 1 << 30
ZSTD: Final = 1 << 29
HOLE: Final = 1 << 28
_LENGTH: Final = (1 << 28) - 1

_header = struct.Struct(">II")
_hole = struct.Struct(">Q")
_facts_length = struct.Struct(">H")
_nonce = struct.Struct(">IQ")


class RecordError(ProtocolError):
    """A record that must not be: the receiver closes the data connection and the transfer fails."""


class Header(NamedTuple):
    """The 8 bytes before a payload.

    Attributes:
        flags: any of END, ABORT, ZSTD, HOLE.
        length: bytes of the payload on the wire, the tag included.
        number: of the transfer, from 1.
    """

    flags: int
    length: int
    number: int


def pack_header(flags: int, length: int, number: int) -> bytes:
    """The bytes of a header; `length` is below 2^28."""
    return _header.pack(flags | length, number & 0xFFFF_FFFF)


def pack_header_into(buffer: bytearray | memoryview, offset: int, flags: int, length: int, number: int) -> None:
    """Like `pack_header`, into `buffer` at `offset`."""
    _header.pack_into(buffer, offset, flags | length, number & 0xFFFF_FFFF)


def unpack_header(buffer: bytes | bytearray | memoryview, offset: int = 0) -> Header:
    """Read the 8 bytes at `offset`. What they say is not checked: see `check_header`."""
    word, number = _header.unpack_from(buffer, offset)
    return Header(word & ~_LENGTH, word & _LENGTH, number)


def check_header(header: Header, options: RecordOptions, due: int) -> None:
    """Check a record by its header alone.

    Args:
        header: of the record.
        options: agreed for the connection.
        due: number of the transfer whose records are due.

    Raises:
        RecordError: another number, flags that were not agreed or do not go together, too long, or empty.
    """
    flags, length, number = header
    if number != due & 0xFFFF_FFFF:
        raise RecordError(f"a record of transfer {number} where {due} is due")
    content = length
    if options.crypt:
        content -= TAG_BYTES
        if content < 0:
            raise RecordError("a record that is too short for its tag")
    if not flags:
        limit = MAX_CONTENT if options.crypt else MAX_RAW
        if content == 0:
            raise RecordError("an empty record")
    else:
        limit = _limit_of(flags, content, options)
    if content > limit:
        raise RecordError(f"a record of {content} bytes, above the limit of {limit}")


def _limit_of(flags: int, content: int, options: RecordOptions) -> int:
    if flags & ABORT:
        if flags != ABORT:
            raise RecordError("ABORT together with another flag")
        return MAX_REASON
    if flags & ZSTD and not options.compress:
        raise RecordError("a compressed record, which was not agreed")
    if flags & HOLE and not options.sparse:
        raise RecordError("a hole, which was not agreed")
    if flags & HOLE and flags & ZSTD:
        raise RecordError("a compressed hole")
    if content == 0 and flags != END:
        raise RecordError("an empty record")
    if flags & ZSTD:
        return MAX_FRAME
    if flags & HOLE:
        return HOLE_BYTES + (trailer_limit(options) if flags & END else 0)
    return MAX_CONTENT if options.crypt else MAX_RAW


def content_size(frame: bytes | bytearray | memoryview) -> int:
    """The size a zstd frame states for its content.

    Raises:
        RecordError: not a frame, none that states its size, or one above the limit.
    """
    try:
        parameters = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise RecordError(f"not a zstd frame: {error}") from None
    size = parameters.content_size
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        raise RecordError("a zstd frame that does not state its content size")
    if size > MAX_CONTENT:
        raise RecordError(f"a zstd frame of {size} bytes, above the limit of {MAX_CONTENT}")
    if parameters.dict_id:
        raise RecordError("a zstd frame that needs a dictionary")
    return int(size)


# -- holes and trailers ---------------------------------------------------------------------------------------------


def pack_hole(length: int) -> bytes:
    """The payload of a HOLE record: `length` zeros, at least one."""
    return _hole.pack(length)


def unpack_hole(payload: bytes | bytearray | memoryview) -> int:
    """The length of the run of zeros.

    Raises:
        RecordError: not 8 bytes, none, or more than a file can have.
    """
    if len(payload) != HOLE_BYTES:
        raise RecordError(f"a hole whose payload has {len(payload)} bytes")
    (length,) = _hole.unpack(payload)
    if not 0 < length <= MAX_HOLE:
        raise RecordError(f"a hole of {length} bytes")
    return int(length)


@dataclass(frozen=True, slots=True)
class Trailer:
    """What closes the payload of an END record.

    Attributes:
        length: bytes of payload it takes.
        facts: MLST facts; None where this transfer carries none.
        digest: 32 bytes; None where none was agreed.
    """

    length: int
    facts: bytes | None
    digest: bytes | None


def trailer_limit(options: RecordOptions) -> int:
    """The most bytes a trailer can take."""
    return (MAX_FACTS + _facts_length.size) * options.facts + DIGEST_BYTES * options.digest


def pack_trailer(facts: bytes | None, digest: bytes | None) -> bytes:
    """The bytes behind the last data of a transfer.

    Args:
        facts: None where FACTS was not agreed or the transfer is a listing; at most 4096 bytes.
        digest: None where DIGEST was not agreed.

    Raises:
        ValueError: longer facts.
    """
    if facts is not None and len(facts) > MAX_FACTS:
        raise ValueError(f"facts of {len(facts)} bytes")
    closing = b"" if facts is None else facts + _facts_length.pack(len(facts))
    return closing if digest is None else closing + digest


def unpack_trailer(payload: bytes | bytearray | memoryview, *, facts: bool, digest: bool) -> Trailer:
    """Read the trailer at the end of an END record's plain payload.

    Args:
        payload: of the END record, decrypted and decompressed.
        facts: whether this transfer carries facts: agreed, and no listing.
        digest: whether DIGEST was agreed.

    Raises:
        RecordError: it is too short, or its facts are longer than they may be.
    """
    end = len(payload)
    found_digest = found_facts = None
    if digest:
        if end < DIGEST_BYTES:
            raise RecordError("an END record without its digest")
        end -= DIGEST_BYTES
        found_digest = bytes(payload[end : end + DIGEST_BYTES])
    if facts:
        if end < _facts_length.size:
            raise RecordError("an END record without its facts")
        end -= _facts_length.size
        (length,) = _facts_length.unpack_from(payload, end)
        if length > min(end, MAX_FACTS):
            raise RecordError("an END record whose facts are longer than they may be")
        found_facts = bytes(payload[end - length : end])
        end -= length
    return Trailer(len(payload) - end, found_facts, found_digest)


def format_reason(reason: str) -> bytes:
    """The payload of an ABORT record: at most 512 bytes of UTF-8."""
    return reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore").encode()


def parse_reason(payload: bytes | bytearray | memoryview) -> str:
    """The text of an ABORT record, fit for a log and for a person."""
    text = bytes(payload[:MAX_REASON]).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)


# -- encryption -----------------------------------------------------------------------------------------------------


def nonce(counter: int) -> bytes:
    """The GCM nonce of the record with this place in its direction of the connection, from 0."""
    return _nonce.pack(0, counter)


def binding(line: bytes, offset: int, length: int | None) -> bytes:
    """What ties a transfer's first record to its command: goes behind the header into the additional data.

    Args:
        line: the command line as sent, without CRLF.
        offset, length: as set by RANG, REST and ALLO, `None` if no length is set. (RANG's length is end minus first.)
    """
    return hashlib.sha256(b"%b\n%d\n%d" % (line, offset, -1 if length is None else length)).digest()

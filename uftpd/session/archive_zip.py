"""Reads a zip archive as a stream (APPNOTE.TXT 6.3.10): stored and deflated members, zip64, data descriptors.

What a stream cannot tell is checked when the central directory comes at the end: it must name the same members at
the same places. Only there it shows that a member is a symbolic link; by then its target's name has been unpacked as
a file, which is reported. Each member's length and CRC must be right before it gets its name.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from uftpd.session.archive_input import MAX_NAME, ArchiveError, ArchiveInput, Kind, Member, Members, Parse

LOCAL: Final = b"PK\x03\x04"
_CENTRAL: Final = b"PK\x01\x02"
END: Final = b"PK\x05\x06"
_END_64: Final = b"PK\x06\x06"
_LOCATOR_64: Final = b"PK\x06\x07"
_SIGNATURE: Final = b"PK\x05\x05"
_DESCRIPTOR: Final = b"PK\x07\x08"

_LOCAL_HEADER: Final = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL_HEADER: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")
_UNSET: Final = 0xFFFFFFFF
_ENCRYPTED: Final = 0x0001 | 0x0040 | 0x2000
_PATCH: Final = 0x0020
_STREAMED: Final = 0x0008
_STORED: Final = 0
_DEFLATED: Final = 8
_ZIP64: Final = 0x0001
_TIMESTAMP: Final = 0x5455
_PIECE: Final = 256 * 1024  # what is taken from, and given to, the decompressor at once: bounds memory, bombs or not
_NANOSECONDS: Final = 10**9
_UNIX: Final = 3  # "version made by" of systems whose modes the attributes hold
_KIND_MASK: Final = 0o170000
_NOT_FILES: Final = {0o120000: "is a link", 0o020000: "is a device", 0o060000: "is a device", 0o010000: "is a pipe"}


@dataclass(frozen=True, slots=True)
class _Local:
    """A local file header; sizes are None where they only come behind the data."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int | None
    size: int | None
    zip64: bool
    mtime_ns: int | None


class _Census:
    """Compares the members that came with those the central directory names, in any order and constant memory.

    Each list becomes the sum of the members' keyed digests; nobody who does not know the key can make two different
    lists with the same sum.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._difference = 0
        self.count = 0

    def came(self, offset: int, name: bytes, crc: int, size: int) -> None:
        """A member has been read."""
        self.count += 1
        self._difference += self._digest(offset, name, crc, size)

    def named(self, offset: int, name: bytes, crc: int, size: int) -> None:
        """The directory names one."""
        self.count -= 1
        self._difference -= self._digest(offset, name, crc, size)

    def _digest(self, offset: int, name: bytes, crc: int, size: int) -> int:
        text = struct.pack("<QQI", offset, size, crc) + name
        return int.from_bytes(hashlib.blake2b(text, key=self._key, digest_size=32).digest(), "big")

    @property
    def agrees(self) -> bool:
        """Whether both lists were the same."""
        return self.count == 0 and self._difference % 2**256 == 0


def parse_zip(source: ArchiveInput, members: Members) -> Parse[None]:
    """Read an archive to the record at its end.

    Raises:
        ArchiveError: it is damaged or cut, or cannot be read as a stream.
    """
    census = _Census()
    while (yield from source.peek(4)) == LOCAL:
        yield from _member(source, members, census)
    yield from _directory(source, members, census)


def _member(source: ArchiveInput, members: Members, census: _Census) -> Parse[None]:
    offset = source.consumed
    local = yield from _local_header(source)
    name = local.name
    refusal = _refusal(local)
    kind: Kind = "refused" if refusal else "directory" if name.endswith(b"/") else "file"
    if len(name) > MAX_NAME:
        kind, refusal, name = "refused", "has a name that is too long", name[:100] + b"..."
    members.begin(Member(name, kind, refusal, None, local.mtime_ns))
    crc, size = local.crc, local.size
    if local.flags & _ENCRYPTED or local.method not in (_STORED, _DEFLATED):
        if local.packed is None:
            raise ArchiveError(f"a member {refusal[3:]}, of unknown length: the rest cannot be found")
        yield from source.skip(local.packed)
        if local.flags & _STREAMED:
            yield from _descriptor(source, local.crc, local.packed, local.size or 0)
        members.finish(0)
    else:
        crc, size = yield from _content(source, local, members)
    census.came(offset, local.name, crc, size or 0)


def _refusal(local: _Local) -> str:
    if local.flags & _ENCRYPTED:
        return "is encrypted"
    if local.flags & _PATCH:
        return "is patch data"
    if local.method not in (_STORED, _DEFLATED):
        return f"is compressed by method {local.method}"
    return ""


def _local_header(source: ArchiveInput) -> Parse[_Local]:
    raw = yield from source.read(_LOCAL_HEADER.size)
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack(raw)
    name = yield from source.read(name_length)
    extra = _extra_fields((yield from source.read(extra_length)))
    zip64 = _ZIP64 in extra
    if zip64 and _UNSET in (packed, size):
        if len(extra[_ZIP64]) < 16:
            raise ArchiveError("a member whose size cannot be read")
        size, packed = struct.unpack_from("<QQ", extra[_ZIP64])
    # A writer that did not know the sizes left them zero and wrote them behind the data.
    later = bool(flags & _STREAMED) and not packed
    stamp = extra.get(_TIMESTAMP, b"")
    mtime_ns = struct.unpack_from("<i", stamp, 1)[0] * _NANOSECONDS if len(stamp) >= 5 and stamp[0] & 1 else None
    return _Local(name, flags, method, crc, None if later else packed, None if later else size, zip64, mtime_ns)


def _extra_fields(data: bytes) -> dict[int, bytes]:
    """Extra fields by their number; what does not add up is left out, as other readers do."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        number, length = struct.unpack_from("<HH", data, at)
        found.setdefault(number, data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _content(source: ArchiveInput, local: _Local, members: Members) -> Parse[tuple[int, int]]:
    """Unpack the data of a member and check it; its CRC and size."""
    if local.method == _DEFLATED:
        crc, packed, size, problem = yield from _inflate(source, local.packed, members)
    else:
        crc, size, packed, problem = 0, 0, local.packed or 0, ""
        while size < packed:
            data = yield from source.some(packed - size)
            crc = zlib.crc32(data, crc)
            members.write(size, data)
            size += len(data)
    stated = local.crc
    if local.flags & _STREAMED:
        try:
            stated = yield from _descriptor(source, crc, packed, size)
        except ArchiveError:
            if local.method == _STORED and local.packed is None:
                # Only a search for the next header could tell where it ends, and its own content may look so.
                raise ArchiveError(
                    "a stored member whose length stands behind it; it cannot come as a stream"
                ) from None
            raise
    elif not problem and local.size != size:
        problem = f"has {size} bytes, not {local.size} as it says"
    if not problem and stated != crc:
        problem = "is damaged: its checksum is wrong"
    members.finish(size, problem)
    return stated, size if local.size is None else local.size


def _inflate(source: ArchiveInput, packed: int | None, members: Members) -> Parse[tuple[int, int, int, str]]:
    """Decompress; CRC, bytes taken, bytes made, and what was wrong."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    crc = taken = made = 0
    problem = ""
    pending = b""
    while not inflater.eof and not problem:
        if not pending:
            if packed is not None and taken == packed:
                problem = "is damaged: its data is cut"
                break
            left = _PIECE if packed is None else min(_PIECE, packed - taken)
            pending = bytes((yield from source.some(left)))
            taken += len(pending)
        try:
            data = inflater.decompress(pending, _PIECE)
        except zlib.error as error:
            if packed is None:
                raise ArchiveError("a member whose data is damaged, and whose length is unknown") from error
            problem = "is damaged: its data cannot be decompressed"
            break
        pending = inflater.unconsumed_tail
        if data:
            crc = zlib.crc32(data, crc)
            members.write(made, memoryview(data))
            made += len(data)
    if packed is None:
        source.give_back(inflater.unused_data)
        taken -= len(inflater.unused_data)
    else:
        if inflater.unused_data or taken < packed:
            problem = problem or "is damaged: there is more behind its data"
        yield from source.skip(packed - taken)
        taken = packed
    return crc, taken, made, problem


def _descriptor(source: ArchiveInput, crc: int, packed: int, size: int) -> Parse[int]:
    """Read the record behind the data, in whichever of its four forms; the CRC it states.

    It tells us nothing but whether the data was right, so it is looked for by what it must be.
    """
    found = yield from source.peek(24)
    sizes64 = struct.pack("<QQ", packed, size)
    sizes32 = struct.pack("<II", packed & _UNSET, size & _UNSET)
    for start in (4, 0):
        if start and found[:4] != _DESCRIPTOR:
            continue
        # The long form first: a short one is followed by a header, whose first bytes are no zeros.
        for sizes in (sizes64, sizes32):
            if found[start + 4 : start + 4 + len(sizes)] == sizes:
                yield from source.skip(start + 4 + len(sizes))
                return int.from_bytes(found[start : start + 4], "little")
    raise ArchiveError("a member whose length does not match the record behind it")


# -- the directory at the end -------------------------------------------------------------------------------------


def _directory(source: ArchiveInput, members: Members, census: _Census) -> Parse[None]:
    while True:
        mark = yield from source.peek(4)
        if mark == _CENTRAL:
            yield from _central_header(source, members, census)
        elif mark == _SIGNATURE:
            yield from _skip_counted(source, 4, 2)
        elif mark == _END_64:
            yield from _skip_counted(source, 4, 8)
        elif mark == _LOCATOR_64:
            yield from source.skip(20)
        elif mark == END:
            yield from _skip_counted(source, 20, 2)
            break
        elif len(mark) < 4:
            raise ArchiveError("the archive ends without its directory; it may have been cut")
        else:
            raise ArchiveError("there is something in the archive that is no member")
    if not census.agrees:
        raise ArchiveError("the directory at the end of the archive names other members than those that came")


def _skip_counted(source: ArchiveInput, before: int, width: int) -> Parse[None]:
    """Skip a record whose length stands in `width` bytes behind `before` others."""
    head = yield from source.read(before + width)
    yield from source.skip(int.from_bytes(head[before:], "little"))


def _central_header(source: ArchiveInput, members: Members, census: _Census) -> Parse[None]:
    raw = yield from source.read(_CENTRAL_HEADER.size)
    fields = _CENTRAL_HEADER.unpack(raw)
    made_by, crc, packed, size = fields[1], fields[7], fields[8], fields[9]
    name_length, extra_length, comment_length = fields[10:13]
    attributes, offset = fields[15], fields[16]
    name = yield from source.read(name_length)
    extra = _extra_fields((yield from source.read(extra_length)))
    yield from source.skip(comment_length)
    # Only what did not fit stands in the field, in this order.
    large = extra.get(_ZIP64, b"")
    values = []
    for value in (size, packed, offset):
        if value == _UNSET and len(large) >= 8:
            value, large = int.from_bytes(large[:8], "little"), large[8:]
        values.append(value)
    census.named(values[2], name, crc, values[0])
    if made_by >> 8 == _UNIX and (problem := _NOT_FILES.get(attributes >> 16 & _KIND_MASK)) is not None:
        members.complain(name[:MAX_NAME], f"{problem}, unpacked as a file that holds its data")

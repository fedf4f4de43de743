"""Archives as streams of bytes: tar (POSIX pax) and zip (with zip64), without a file to go back in.

Sans I/O: a packer gives the bytes that stand before, behind and between the files' own. The size of a file must be
known beforehand; one that turns out shorter or longer must break the whole archive off.

Names are UTF-8. In zip a name that is not has its odd bytes replaced, since there is no way to say it; tar has it as
it is.
"""

from __future__ import annotations

import stat
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from typing import IO, Final, Protocol

from isal import isal_zlib

BLOCK: Final = 512
_RECORD: Final = 20 * BLOCK
_MAX_OCTAL: Final = 8**11 - 1
_PLAIN_NAME: Final = 100
_SPOOLED: Final = 4 * 1024 * 1024  # of a zip's directory; beyond that it goes to a temporary file

# Already packed: to deflate them once more costs time and gains nothing.
_PACKED: Final = (
    b".gz", b".bz2", b".xz", b".zst", b".zip", b".7z", b".rar", b".tgz", b".tbz", b".txz", b".lz4", b".br",
    b".jpg", b".jpeg", b".png", b".gif", b".webp", b".avif", b".heic", b".mp3", b".mp4", b".mkv", b".webm", b".mov",
    b".ogg", b".flac", b".aac", b".docx", b".xlsx", b".pptx", b".odt", b".ods", b".jar", b".whl", b".npz", b".parquet",
)  # fmt: skip


class Packer(Protocol):
    """Makes an archive, one member after the other."""

    media_type: str

    def directory(self, name: bytes, mtime: int, permissions: int) -> bytes:
        """A directory; `name` is relative, without a slash at its end."""
        ...

    def begin(self, name: bytes, size: int, mtime: int, permissions: int) -> bytes:
        """What stands before a file."""
        ...

    def data(self, block: bytes) -> bytes:
        """The form of bytes of the file begun."""
        ...

    def end(self) -> bytes:
        """What stands behind the file begun, all of whose bytes were given to `data`."""
        ...

    def close(self) -> Iterator[bytes]:
        """What stands at the end of the archive."""
        ...


# -- tar ------------------------------------------------------------------------------------------------------------


class TarPacker:
    """POSIX.1-2001 pax format; headers of a member that needs none are plain ustar."""

    media_type = "application/x-tar"

    def __init__(self) -> None:
        self._written = 0
        self._pad = b""

    def directory(self, name: bytes, mtime: int, permissions: int) -> bytes:
        """See `Packer`."""
        return self._count(_tar_member(name + b"/", 0, mtime, permissions, b"5"))

    def begin(self, name: bytes, size: int, mtime: int, permissions: int) -> bytes:
        """See `Packer`."""
        self._pad = bytes(-size % BLOCK)
        return self._count(_tar_member(name, size, mtime, permissions, b"0"))

    def data(self, block: bytes) -> bytes:
        """See `Packer`."""
        self._written += len(block)
        return block

    def end(self) -> bytes:
        """See `Packer`."""
        return self._count(self._pad)

    def close(self) -> Iterator[bytes]:
        """See `Packer`."""
        closing = self._count(bytes(2 * BLOCK))
        yield closing + bytes(-self._written % _RECORD)

    def _count(self, data: bytes) -> bytes:
        self._written += len(data)
        return data


def _tar_member(name: bytes, size: int, mtime: int, permissions: int, kind: bytes) -> bytes:
    extended = {}
    plain = name
    if len(name) > _PLAIN_NAME or not name.isascii():
        extended[b"path"] = name
        plain = name.decode("utf-8", "replace").encode("ascii", "replace")[-_PLAIN_NAME:]
        try:
            name.decode("utf-8")
        except UnicodeDecodeError:
            extended = {b"hdrcharset": b"BINARY"} | extended
    if size > _MAX_OCTAL:
        extended[b"size"] = b"%d" % size
    if not 0 <= mtime <= _MAX_OCTAL:
        extended[b"mtime"] = b"%d" % mtime
    head = b""
    if extended:
        records = b"".join(_pax_record(key, value) for key, value in extended.items())
        head = _tar_header(b"././@PaxHeader", len(records), 0, 0o644, b"x") + records + bytes(-len(records) % BLOCK)
    return head + _tar_header(plain, min(size, _MAX_OCTAL), min(max(mtime, 0), _MAX_OCTAL), permissions, kind)


def _pax_record(key: bytes, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (key, value)
    length = len(rest)
    while length != len(rest) + len(str(length)):  # the length counts itself
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _tar_header(name: bytes, size: int, mtime: int, permissions: int, kind: bytes) -> bytes:
    header = bytearray(
        name.ljust(100, b"\0")
        + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (permissions & 0o777, 0, 0, size, mtime)
        + b" " * 8
        + kind
        + bytes(100)
        + b"ustar\x0000"
        + bytes(64)
        + b"0000000\x000000000\0"
        + bytes(167)
    )
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


# -- zip ------------------------------------------------------------------------------------------------------------

_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_STORED: Final = 0
_DEFLATED: Final = 8
_MAX32: Final = 0xFFFF_FFFF
_MAX16: Final = 0xFFFF
_UTF8: Final = 0x0800
_DESCRIPTOR: Final = 0x0008  # lengths and checksum stand behind the data
_UNIX: Final = 3 << 8
_ZIP64_FROM: Final = 0xF000_0000  # a file that deflate might blow up beyond what 32 bits hold


class ZipPacker:
    """Files that may pack well are deflated at the fastest level, others stored; each with a data descriptor.

    Lengths and checksum are known only when a file has gone through, and there is no way back to its header.
    """

    media_type = "application/zip"

    def __init__(self) -> None:
        self._offset = 0
        self._central: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOLED)  # noqa: SIM115 - `close` ends it
        self._members = 0
        self._name = b""
        self._method = _STORED
        self._crc = 0
        self._size = 0
        self._packed = 0
        self._start = 0
        self._large = False
        self._time = 0
        self._mode = 0
        self._mtime = 0
        self._deflate: isal_zlib.Compress | None = None

    def directory(self, name: bytes, mtime: int, permissions: int) -> bytes:
        """See `Packer`."""
        self._enter(name + b"/", mtime, stat.S_IFDIR | permissions)
        local = _LOCAL.pack(
            0x04034B50, 20, _UTF8, _STORED, self._time & _MAX16, self._time >> 16, 0, 0, 0, len(self._name), 9
        )
        head = local + self._name + self._unix_time()
        self._offset += len(head)
        self._note(_UTF8)
        return head

    def begin(self, name: bytes, size: int, mtime: int, permissions: int) -> bytes:
        """See `Packer`."""
        self._enter(name, mtime, stat.S_IFREG | permissions)
        packs = size > 64 and not name.lower().endswith(_PACKED)
        self._method = _DEFLATED if packs else _STORED
        self._deflate = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -15) if packs else None
        self._large = size >= _ZIP64_FROM
        # In zip64 the descriptor has 8 bytes a length; whoever reads the stream knows it by this field.
        extra = (struct.pack("<HHQQ", 1, 16, 0, 0) if self._large else b"") + self._unix_time()
        lengths = _MAX32 if self._large else 0
        local = _LOCAL.pack(
            0x04034B50,
            45 if self._large else 20,
            _UTF8 | _DESCRIPTOR,
            self._method,
            self._time & _MAX16,
            self._time >> 16,
            0,
            lengths,
            lengths,
            len(self._name),
            len(extra),
        )
        head = local + self._name + extra
        self._offset += len(head)
        return head

    def data(self, block: bytes) -> bytes:
        """See `Packer`."""
        self._crc = zlib.crc32(block, self._crc)
        self._size += len(block)
        packed = block if self._deflate is None else self._deflate.compress(block)
        self._packed += len(packed)
        return packed

    def end(self) -> bytes:
        """See `Packer`."""
        rest = b"" if self._deflate is None else self._deflate.flush()
        self._deflate = None
        self._packed += len(rest)
        form = "<IIQQ" if self._large else "<IIII"
        descriptor = struct.pack(form, 0x08074B50, self._crc, self._packed, self._size)
        self._offset += self._packed + len(descriptor)
        self._note(_UTF8 | _DESCRIPTOR)
        return rest + descriptor

    def close(self) -> Iterator[bytes]:
        """See `Packer`."""
        start = self._offset
        size = self._central.tell()
        self._central.seek(0)
        with self._central as central:
            while block := central.read(256 * 1024):
                yield block
        members, at = self._members, start + size
        if members >= _MAX16 or size >= _MAX32 or start >= _MAX32:
            yield struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, _UNIX | 45, 45, 0, 0, members, members, size, start)
            yield struct.pack("<IIQI", 0x07064B50, 0, at, 1)
        few = min(members, _MAX16)
        yield struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, few, few, min(size, _MAX32), min(start, _MAX32), 0)

    def _enter(self, name: bytes, mtime: int, mode: int) -> None:
        self._name = name.decode("utf-8", "replace").encode()[:_MAX16]
        self._method, self._crc, self._size, self._packed = _STORED, 0, 0, 0
        self._large = False
        self._start = self._offset
        self._mode = mode
        self._mtime = mtime
        self._time = _dos_time(mtime)

    def _unix_time(self) -> bytes:
        """Info-ZIP's extended timestamp: seconds in UTC, where DOS has local time by twos."""
        return struct.pack("<HHBi", 0x5455, 5, 1, min(max(self._mtime, -(2**31)), 2**31 - 1))

    def _note(self, flags: int) -> None:
        """The member's line in the directory at the end."""
        wide = [
            value
            for value, limit in ((self._size, _MAX32), (self._packed, _MAX32), (self._start, _MAX32))
            if value >= limit
        ]
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        extra += self._unix_time()
        self._central.write(
            _CENTRAL.pack(
                0x02014B50,
                _UNIX | (45 if wide or self._large else 20),
                45 if wide or self._large else 20,
                flags,
                self._method,
                self._time & _MAX16,
                self._time >> 16,
                self._crc,
                min(self._packed, _MAX32),
                min(self._size, _MAX32),
                len(self._name),
                len(extra),
                0,
                0,
                0,
                self._mode << 16 | (0x10 if stat.S_ISDIR(self._mode) else 0),
                min(self._start, _MAX32),
            )
            + self._name
            + extra
        )
        self._members += 1


def _dos_time(mtime: int) -> int:
    """Date and time as DOS has them: from 1980 to 2107, by two seconds."""
    try:
        t = time.gmtime(mtime)
    except (OverflowError, ValueError, OSError):
        t = time.gmtime(0)
    if t.tm_year < 1980:
        return (1 << 21) | (1 << 16)
    if t.tm_year > 2107:
        return (127 << 25) | (12 << 21) | (31 << 16) | (23 << 11) | (59 << 5) | 29
    date = (t.tm_year - 1980) << 25 | t.tm_mon << 21 | t.tm_mday << 16
    return date | t.tm_hour << 11 | t.tm_min << 5 | t.tm_sec // 2

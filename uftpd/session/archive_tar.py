"""Reads a tar archive as a stream: ustar, GNU and PAX forms (POSIX.1-2024, pax; the GNU tar manual, "Tar Internals").

tarfile of the standard library takes an archive that is cut or garbled between two members for one that ends there,
and holds headers of any size in memory; here both are errors. Names are bytes throughout.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from uftpd.session.archive_input import MAX_NAME, ArchiveError, ArchiveInput, Kind, Member, Members, Parse

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
# A PAX header may hold access control lists and other attributes, which the kernel keeps to 64 KiB each.
_MAX_PAX: Final = 1024 * 1024
_MAX_LONG_NAME: Final = 64 * 1024
_MAX_SIZE: Final = 2**63 - 1
_MAX_SPARSE_PARTS: Final = 1_000_000  # 16 MiB of numbers; a file with more holes is not kept
_NANOSECONDS: Final = 10**9
_MAX_KEPT: Final = 2 * MAX_NAME  # bytes of a value; what is cut is too long for a name, and no number
_SPARSE: Final = b"GNU.sparse."
_KEYS: Final = frozenset(
    (b"path", b"linkpath", b"size", b"mtime", *(_SPARSE + k for k in (b"name", b"major", b"minor", b"realsize")))
)
_RECORD = re.compile(rb"([0-9]{1,8}) ([^=\n]{1,256})=", re.DOTALL)
_TIME = re.compile(rb"(-?[0-9]{1,12})(?:\.([0-9]{1,30}))?")

_REFUSED: Final = {
    b"1": "is a link",
    b"2": "is a link",
    b"3": "is a device",
    b"4": "is a device",
    b"6": "is a pipe",
    b"M": "is the rest of a file from another volume",
}
_WITHOUT_DATA: Final = frozenset(b"12345" + b"6V")
_FILES: Final = frozenset(b"0\x007S")


@dataclass(slots=True)
class _Header:
    """One header block, with what longer names and PAX records before it have changed."""

    name: bytes
    kind: bytes
    size: int
    mode: int | None
    mtime_ns: int | None
    block: bytes
    pax: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Ahead:
    """What stood before a header and belongs to it."""

    name: bytes | None = None
    pax: dict[bytes, bytes] = field(default_factory=dict)


def parse_tar(source: ArchiveInput, members: Members) -> Parse[None]:
    """Read an archive to its end mark, a block of zeros.

    Raises:
        ArchiveError: it is damaged, or ends without the mark.
    """
    defaults: dict[bytes, bytes] = {}
    ahead = _Ahead()
    first = True
    while True:
        block = yield from source.peek(_BLOCK)
        if not block and not first:
            raise ArchiveError("the archive ends without its end mark; it may have been cut")
        block = yield from source.read(_BLOCK)
        if block == _ZEROS:
            return
        header = _parse_header(block, first=first)
        first = False
        if header.kind == b"L":
            ahead.name = (yield from _metadata(source, header.size, _MAX_LONG_NAME)).rstrip(b"\0")
        elif header.kind == b"K":  # the long target of a link, which is refused
            yield from source.skip(_padded(header.size))
        elif header.kind in (b"x", b"X"):
            ahead.pax.update(_of_use(parse_pax((yield from _metadata(source, header.size, _MAX_PAX)))))
        elif header.kind == b"g":
            defaults.update(_of_use(parse_pax((yield from _metadata(source, header.size, _MAX_PAX)))))
            if defaults.keys() & {b"path", b"size", b"linkpath"}:
                raise ArchiveError("a header for all members sets a name or a size")
        else:
            header.pax = {**defaults, **ahead.pax}
            _complete(header, ahead.name)
            ahead = _Ahead()
            yield from _member(source, header, members)


def _metadata(source: ArchiveInput, size: int, most: int) -> Parse[bytes]:
    if size > most:
        raise ArchiveError(f"a header of {size} bytes; at most {most} are read")
    data = yield from source.read(size)
    yield from source.skip(_padded(size) - size)
    return data


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _parse_header(block: bytes, *, first: bool) -> _Header:
    try:
        stated = _number(block[148:156])
        # Old programs summed signed bytes.
        rest = block[:148] + b" " * 8 + block[156:]
        if stated not in (sum(rest), sum(rest) - 256 * sum(byte > 127 for byte in rest)):
            raise ArchiveError("a header does not match its checksum")
        name = block[:100].partition(b"\0")[0]
        if block[257:263] == b"ustar\0" and (prefix := block[345:500].partition(b"\0")[0]):
            name = prefix + b"/" + name
        return _Header(
            name=name,
            kind=block[156:157],
            size=_size(_number(block[124:136])),
            mode=_number(block[100:108]) & 0o7777,
            mtime_ns=_number(block[136:148]) * _NANOSECONDS,
            block=block,
        )
    except ArchiveError as error:
        if first:
            raise ArchiveError("this is neither a tar nor a zip archive") from error
        raise


def _number(raw: bytes) -> int:
    """Octal digits, or GNU's binary form, whose first bit is set."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big", signed=False) & ((1 << (8 * len(raw) - 1)) - 1)
        return value - (1 << (8 * len(raw) - 1)) if raw[0] & 0x40 else value
    digits = raw.partition(b"\0")[0].strip()
    try:
        return int(digits or b"0", 8)
    except ValueError:
        raise ArchiveError("a header with a number that is none") from None


def _size(value: int) -> int:
    if not 0 <= value <= _MAX_SIZE:
        raise ArchiveError("a member with a size that cannot be")
    return value


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records of a PAX header; of two with one key the last.

    Raises:
        ArchiveError: these are no such records.
    """
    found = {}
    at = 0
    while at < len(data):
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or end > len(data) or end <= match.end() or data[end - 1 : end] != b"\n":
            raise ArchiveError("an extended header that cannot be read")
        found[match[2]] = data[match.end() : end - 1]
        at = end
    return found


def _of_use(records: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Those that are looked at, and short: any number of headers may follow each other, and what they say is kept."""
    found = {key: value[:_MAX_KEPT] for key, value in records.items() if key in _KEYS}
    if any(key.startswith(_SPARSE) for key in records):
        found.setdefault(_SPARSE, b"")  # of whatever form
    return found


def _complete(header: _Header, long_name: bytes | None) -> None:
    pax = header.pax
    if long_name is not None:
        header.name = long_name
    header.name = pax.get(b"GNU.sparse.name", pax.get(b"path", header.name))
    if b"size" in pax:
        header.size = _size(_decimal(pax[b"size"]))
    if (match := _TIME.fullmatch(pax.get(b"mtime", b""))) is not None:
        fraction = int((match[2] or b"").ljust(9, b"0")[:9])
        whole = int(match[1]) * _NANOSECONDS
        header.mtime_ns = whole - fraction if match[1].startswith(b"-") else whole + fraction


def _decimal(text: bytes) -> int:
    if not (text.isdigit() and len(text) <= 19):
        raise ArchiveError("an extended header with a number that is none")
    return int(text)


def _member(source: ArchiveInput, header: _Header, members: Members) -> Parse[None]:
    code = header.kind[0]
    if code == ord("V"):
        return  # the label of a volume
    kind: Kind = "refused"
    reason = _REFUSED.get(header.kind, f"is of the unknown type {header.kind!r}")
    if code in _FILES:
        kind = "file"
        if code in b"0\0" and header.name.endswith(b"/") and not _is_sparse(header):
            kind = "directory"  # as it was before there was a type for them
    elif header.kind in (b"5", b"D"):
        kind = "directory"
    if len(header.name) > MAX_NAME:
        kind, reason = "refused", "has a name that is too long"
        header.name = header.name[:100] + b"..."
    member = Member(header.name, kind, reason if kind == "refused" else "", header.mode, header.mtime_ns)
    data_size = 0 if code in _WITHOUT_DATA else header.size
    if kind == "file" and _is_sparse(header):
        yield from _sparse_member(source, header, member, members)
        return
    members.begin(member)
    yield from _data(source, data_size, 0, members)
    members.finish(data_size)
    yield from source.skip(_padded(data_size) - data_size)


def _data(source: ArchiveInput, size: int, offset: int, members: Members) -> Parse[None]:
    end = offset + size
    while offset < end:
        data = yield from source.some(end - offset)
        members.write(offset, data)
        offset += len(data)


# -- files with holes ---------------------------------------------------------------------------------------------


def _is_sparse(header: _Header) -> bool:
    return header.kind == b"S" or _SPARSE in header.pax


def _sparse_member(source: ArchiveInput, header: _Header, member: Member, members: Members) -> Parse[None]:
    if header.kind == b"S":
        parts, size = yield from _old_gnu_map(source, header)
        used = 0
    elif header.pax.get(b"GNU.sparse.major") == b"1" and header.pax.get(b"GNU.sparse.minor") == b"0":
        size = _size(_decimal(header.pax.get(b"GNU.sparse.realsize", b"")))
        parts, used = yield from _pax_map(source, header.size)
    else:
        # Versions 0.0 and 0.1, which no program writes unless asked to.
        members.begin(Member(member.name, "refused", "is a sparse file of an old form"))
        yield from source.skip(_padded(header.size))
        members.finish(0)
        return
    _check_map(parts, size, header.size - used)
    members.begin(member)
    for offset, length in _pairs(parts):
        yield from _data(source, length, offset, members)
    members.finish(size)
    yield from source.skip(_padded(header.size) - header.size)


def _old_gnu_map(source: ArchiveInput, header: _Header) -> Parse[tuple[array[int], int]]:
    """The map in the header and in the blocks that follow it: offset and length of each part."""
    parts = array("q")
    block, start, count, more = header.block, 386, 4, header.block[482]
    size = _size(_number(header.block[483:495]))
    while True:
        for at in range(start, start + 24 * count, 24):
            entry = block[at : at + 24]
            if entry[:1] != b"\0":
                parts.extend((_size(_number(entry[:12])), _size(_number(entry[12:]))))
        if not more:
            return parts, size
        if len(parts) > 2 * _MAX_SPARSE_PARTS:
            raise ArchiveError("a file with too many holes")
        block = yield from source.read(_BLOCK)
        start, count, more = 0, 21, block[504]


def _pax_map(source: ArchiveInput, available: int) -> Parse[tuple[array[int], int]]:
    """The map at the beginning of the data, decimal numbers on lines of their own; and the bytes it takes."""
    numbers = array("q")
    used = 0
    rest = b""
    while not numbers or len(numbers) < 1 + 2 * numbers[0]:
        if used + _BLOCK > available:
            raise ArchiveError("a sparse file whose map is cut")
        *lines, rest = (rest + (yield from source.read(_BLOCK))).split(b"\n")
        used += _BLOCK
        numbers.extend(_size(_decimal(line)) for line in lines)
        if len(rest) > _BLOCK or (numbers and numbers[0] > _MAX_SPARSE_PARTS):
            raise ArchiveError("a sparse file whose map makes no sense")
    if len(numbers) != 1 + 2 * numbers[0]:
        raise ArchiveError("a sparse file whose map makes no sense")
    return numbers[1:], used


def _pairs(parts: array[int]) -> Iterator[tuple[int, int]]:
    return zip(parts[::2], parts[1::2], strict=True)


def _check_map(parts: array[int], size: int, available: int) -> None:
    end = 0
    for offset, length in _pairs(parts):
        if offset < end or offset + length > size:
            raise ArchiveError("a sparse file whose parts overlap or lie outside it")
        end = offset + length
    if sum(parts[1::2]) != available:
        raise ArchiveError("a sparse file whose parts do not add up")

"""What a copy is asked to do, and the notation of sizes and byte ranges."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from uftp.errors import UsageError
from uftp.transfer.filters import Filters

MIB: Final = 1024 * 1024
_FACTORS: Final = {"": 1, "k": 1024, "m": MIB, "g": 1024 * MIB, "t": 1024 * 1024 * MIB}
_SIZE = re.compile(r"([0-9]{1,18})([kmgt]?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Part of a file, as -B says it.

    Attributes:
        first: first byte.
        last: last byte, which belongs to the range; None to the end.
        in_place: write at the same offset into the target and leave the rest of it (the suffix p); otherwise the
            range becomes the whole target.
    """

    first: int
    last: int | None
    in_place: bool = False

    def within(self, size: int | None) -> tuple[int, int]:
        """Offset and length of the range in a source of `size` bytes, None for one without end.

        Raises:
            UsageError: no end anywhere, or the range begins behind the source's end.
        """
        if size is None:
            if self.last is None:
                raise UsageError("the source has no end; give the range one, as -B 0-1g")
            return self.first, self.last - self.first + 1
        if self.first > size:
            raise UsageError(f"the range begins at byte {self.first}, but the source has only {size} bytes")
        end = size if self.last is None else min(size, self.last + 1)
        return self.first, max(0, end - self.first)


def parse_size(text: str) -> int:
    """Bytes, with an optional suffix k, m, g or t (powers of 1024).

    Examples:
        >>> parse_size("16m")
        16777216

    Raises:
        UsageError: not such a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r}: not a size; sizes look like 1048576, 512k, 16m or 2g")
    return int(match[1]) * _FACTORS[match[2].lower()]


def parse_byte_range(text: str) -> ByteRange:
    """Read `FIRST-LAST`, both inclusive, one of them may be missing, with `-p` behind for in place.

    Examples:
        >>> parse_byte_range("0-1k-p")
        ByteRange(first=0, last=1024, in_place=True)

    Raises:
        UsageError: not such a range.
    """
    parts = text.split("-")
    if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2].lower() != "p") or not (parts[0] or parts[1]):
        raise UsageError(f"{text!r}: not a byte range; ranges look like 0-1023, 1m-, -99 or 0-1023-p")
    first = parse_size(parts[0]) if parts[0] else 0
    last = parse_size(parts[1]) if parts[1] else None
    if last is not None and last < first:
        raise UsageError(f"{text!r}: the range ends before it begins")
    return ByteRange(first, last, len(parts) == 3)


class FileFacts(NamedTuple):
    """What is known of a file on one side before it is copied.

    Attributes:
        relative: its path below the target directory.
        size: bytes.
        mtime_ns: nanoseconds since 1970; None if unknown.
        permissions: None if unknown.
    """

    relative: bytes
    size: int
    mtime_ns: int | None
    permissions: int | None


Links = Literal["follow", "keep", "skip"]
Unchanged = Callable[[FileFacts, FileFacts], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """How to copy.

    Attributes:
        recursive: copy directories with all that is in them.
        preserve: keep times and permission bits.
        threads: sessions at once; None for what helps.
        most_sessions: how many there can be at once, however many would help; None for as many as the server grants.
        split_threshold: bytes from which a file is split into ranges that several sessions carry; None for what
            helps.
        byte_range: copy only this part of each file.
        archive: the sources are archives, which the server unpacks into the target.
        filters: which files of the sources.
        dry_run: look at everything, report what would be copied, and change nothing.
        links: symbolic links in trees are copied as what they point to, kept as links, or left out. A link named as a
            source is always followed.
        verify: compare each file with its source before it gets its name.
        resume: go on where an earlier copy of the same ended. None: if a journal of it exists; True: take over
            partial targets without one, too; False: never.
        retries: attempts after the first one, a file, for what may pass.
        limit_rate: bytes per second that all sessions together do not exceed; 0 for no limit.
        max_errors: failed files after which the copy ends; None for no limit.
        unchanged: asked with the facts of a source and of the file that has its target's name; True leaves it.
            Both sides are listed for it.
    """

    recursive: bool = False
    preserve: bool = False
    threads: int | None = None
    most_sessions: int | None = None
    split_threshold: int | None = None
    byte_range: ByteRange | None = None
    archive: bool = False
    filters: Filters = field(default_factory=Filters)
    dry_run: bool = False
    links: Links = "follow"
    verify: bool = True
    resume: bool | None = None
    retries: int = 5
    limit_rate: int = 0
    max_errors: int | None = None
    unchanged: Unchanged | None = None

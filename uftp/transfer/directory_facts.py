"""Times and modes of directories, kept until all is copied: each file that is written changes them again."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_NOT_SAID: Final = 0xFFFF
_NEVER: Final = -(2**63)
# Behind the path: time in nanoseconds, permission bits, and the length of the path, so that it reads backwards.
_RECORD: Final = struct.Struct("<qHI")


class DirectoryFacts(NamedTuple):
    """What a directory shall have.

    Attributes:
        relative: its path below the target.
        mtime_ns: nanoseconds since 1970; None to leave it.
        permissions: None to leave them.
    """

    relative: bytes
    mtime_ns: int | None
    permissions: int | None


class KeptFacts:
    """The facts of all directories of a copy, in a few bytes each; the last ones come out first.

    As parents are added before what is in them, what comes out is deepest first.
    """

    def __init__(self) -> None:
        self._records = bytearray()

    def add(self, relative: bytes, mtime_ns: int | None, permissions: int | None) -> None:
        """Keep those of one directory; a time no file system can have is left out."""
        if mtime_ns is None or not _NEVER < mtime_ns < 2**63:
            mtime_ns = _NEVER
        self._records += relative
        self._records += _RECORD.pack(mtime_ns, _NOT_SAID if permissions is None else permissions, len(relative))

    def take(self, most: int) -> list[DirectoryFacts]:
        """Up to `most` of them, which are forgotten here; none at the end."""
        taken: list[DirectoryFacts] = []
        for facts in self._backwards():
            taken.append(facts)
            if len(taken) == most:
                break
        return taken

    def _backwards(self) -> Iterator[DirectoryFacts]:
        records = self._records
        while records:
            start = len(records) - _RECORD.size
            mtime_ns, permissions, length = _RECORD.unpack_from(records, start)
            relative = bytes(records[start - length : start])
            del records[start - length :]
            yield DirectoryFacts(
                relative,
                None if mtime_ns == _NEVER else mtime_ns,
                None if permissions == _NOT_SAID else permissions,
            )

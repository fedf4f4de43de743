"""The bytes of an archive as they arrive, for parsers that are generators: they pause where the bytes run out.

So a parser is fed block by block by whoever receives the data, on any kind of data connection, without a thread of
its own and without holding more than the few bytes of a header.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeVar

T = TypeVar("T")

Parse = Generator[None, "memoryview | None", T]
"""A step of a parser: pauses for the next block, is sent None at the end of the data, and returns a value."""

MAX_NAME: Final = 4096  # bytes; PATH_MAX, beyond which no system call takes a path
Kind = Literal["file", "directory", "refused"]


class ArchiveError(Exception):
    """What came is no archive, or is damaged so that the rest of it cannot be read. The message is for the client."""


@dataclass(frozen=True, slots=True)
class Member:
    """What an archive says of one member.

    Attributes:
        name: as it stands in the archive; nothing has been checked.
        kind: "refused" for what is never unpacked.
        reason: why a member is refused.
        mode: permission bits, None where the archive has none.
        mtime_ns: time of last change, None where the archive has none that is exact.
    """

    name: bytes
    kind: Kind = "file"
    reason: str = ""
    mode: int | None = None
    mtime_ns: int | None = None


class Members(Protocol):
    """Takes what a parser finds. For each member: `begin`, `write` any number of times, `finish`."""

    def begin(self, member: Member) -> None:
        """A member starts. One that cannot be kept is noted there; its data still comes."""

    def write(self, offset: int, data: memoryview) -> None:
        """Bytes of it; the memory is used again."""

    def finish(self, size: int, problem: str = "") -> None:
        """The member is complete, `size` bytes with all holes; or it is not, for this reason."""

    def complain(self, name: bytes, problem: str) -> None:
        """Something is wrong with a member that has been finished before."""


class ArchiveInput:
    """See the module.

    Attributes:
        consumed: bytes taken by parsers so far.
    """

    def __init__(self) -> None:
        self.consumed = 0
        self._kept = b""  # looked at, and not consumed
        self._view = memoryview(b"")
        self._ended = False

    def _more(self) -> Parse[bool]:
        """Wait for a block; whether one came. What is left of the last one must be in `_kept`."""
        if self._ended:
            return False
        view = yield
        if view is None:
            self._ended = True
            return False
        self._view = view
        return True

    def peek(self, count: int) -> Parse[bytes]:
        """The next `count` bytes, or fewer at the end of the data, without consuming them."""
        while len(self._kept) < count:
            missing = count - len(self._kept)
            self._kept += bytes(self._view[:missing])
            self._view = self._view[missing:]
            if len(self._kept) < count and not (yield from self._more()):
                break
        return self._kept[:count]

    def read(self, count: int) -> Parse[bytes]:
        """Exactly `count` bytes; for headers, since all of them are held.

        Raises:
            ArchiveError: the data ended.
        """
        found = yield from self.peek(count)
        if len(found) < count:
            raise ArchiveError("the data ended in the middle of the archive")
        self._kept = self._kept[count:]
        self.consumed += count
        return found

    def some(self, most: int) -> Parse[memoryview]:
        """Between 1 and `most` bytes, without a copy.

        Raises:
            ArchiveError: the data ended.
        """
        if self._kept:
            found, self._kept = self._kept[:most], self._kept[most:]
            self.consumed += len(found)
            return memoryview(found)
        if not self._view and not (yield from self._more()):
            raise ArchiveError("the data ended in the middle of the archive")
        view, self._view = self._view[:most], self._view[most:]
        self.consumed += len(view)
        return view

    def give_back(self, data: bytes) -> None:
        """Let `data`, taken last, be read again."""
        self._kept = data + self._kept
        self.consumed -= len(data)

    def skip(self, count: int) -> Parse[None]:
        """Consume `count` bytes.

        Raises:
            ArchiveError: the data ended.
        """
        while count > 0:
            count -= len((yield from self.some(count)))

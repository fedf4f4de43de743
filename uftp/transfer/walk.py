"""What a walk through a tree hands on: a directory's entries in portions, so that no tree is ever held as a whole.

A portion of a directory comes before those of the directories in it, and all that it names belongs to the copy: what
the filters leave out is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from uftp.errors import UFTPError
from uftp.transfer.batch import SMALL, SmallFile
from uftp.transfer.filters import Filters

PORTION_ENTRIES: Final = 2048  # of a directory that are handed on together
GROUP_ENTRIES: Final = 4096  # of several directories
GROUP_PORTIONS: Final = 256


class Subdirectory(NamedTuple):
    """A directory in the one that a portion is of.

    Attributes:
        name: in it.
        mtime_ns: nanoseconds since 1970; None if unknown.
        permissions: the nine bits of `rwxrwxrwx`; None if unknown.
    """

    name: bytes
    mtime_ns: int | None
    permissions: int | None


class KeptLink(NamedTuple):
    """A symbolic link that is copied as one.

    Attributes:
        name: in its directory.
        target: what it points to, as it stands in the link.
        mtime_ns: nanoseconds since 1970; None if unknown.
    """

    name: bytes
    target: bytes
    mtime_ns: int | None


@dataclass(slots=True, eq=False)
class Portion:
    """Some of the entries of a directory.

    Attributes:
        directory: its path on the source's side.
        relative: below the top of the walk; empty for the top itself.
        directories, files, links: what is to be copied. Files are regular, and of any size.
        failures: what could not be looked at, by name, empty for the directory itself.
        left_out: what a person should know was not copied, by name, and why.
    """

    directory: bytes
    relative: bytes
    directories: list[Subdirectory] = field(default_factory=list)
    files: list[SmallFile] = field(default_factory=list)
    links: list[KeptLink] = field(default_factory=list)
    failures: list[tuple[bytes, UFTPError]] = field(default_factory=list)
    left_out: list[tuple[bytes, str]] = field(default_factory=list)


class Selection:
    """The filters of a copy at work, with what they were asked for and have not met yet.

    Args:
        filters: see there.

    Attributes:
        missing: names of the list (`Filters.files_from`) that no walk has met so far.
    """

    def __init__(self, filters: Filters) -> None:
        self.filters = filters
        self.missing: set[bytes] = set(filters.files_from or ())

    def met(self, relative: bytes) -> None:
        """A path is there, whether or not other filters take it."""
        self.missing.discard(relative)

    def enters(self, relative: bytes) -> bool:
        """Whether a directory belongs to the copy."""
        if self.missing:
            self.missing.discard(relative)
            if not self.filters.enters(relative):
                # What is in it can no longer be met; that patterns leave it out is no failure.
                inside = relative + b"/"
                self.missing = {name for name in self.missing if not name.startswith(inside)}
                return False
            return True
        return self.filters.enters(relative)


class LostDirectories:
    """Directories that could not be made, by their paths below the target; nothing can be brought into them."""

    def __init__(self) -> None:
        self._lost: set[bytes] = set()

    def add(self, relative: bytes) -> None:
        """One more."""
        self._lost.add(relative)

    def holds(self, relative: bytes) -> bool:
        """Whether a directory, or one that it is in, is among them."""
        if not self._lost:
            return False
        while relative not in self._lost:
            above = relative.rpartition(b"/")[0]
            if not relative:
                return False
            relative = above
        return True


def part_by_size(files: list[SmallFile]) -> tuple[list[SmallFile], list[SmallFile]]:
    """Files for batches, and those that go alone."""
    large = [file for file in files if file.size > SMALL]
    return (files, large) if not large else ([file for file in files if file.size <= SMALL], large)


Lost = Callable[[bytes], bool]
"""Whether a directory, by its path below the top, need not be entered: it could not be made on the other side."""

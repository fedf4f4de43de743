"""The two sides of a sync as it sees them: a tree here and one on a server are listed, made and removed in one way.

Paths are relative to the top of the tree, without a slash at either end; the top itself is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from uftp.client.listings import Entry
from uftp.errors import UFTPError

Outcome = UFTPError | None


class Facts(NamedTuple):
    """What a directory, or an unchanged file, shall have.

    Attributes:
        relative: which.
        mtime_ns: nanoseconds since 1970; None to leave it.
        permissions: the nine bits; None to leave them.
    """

    relative: bytes
    mtime_ns: int | None
    permissions: int | None


class Side(Protocol):
    """One of the two trees. Methods that take several return an outcome for each, in order: None if it is done."""

    def display(self, relative: bytes) -> str:
        """The place as a user would write it."""

    async def entries(self, directories: Sequence[bytes]) -> Sequence[Sequence[Entry] | UFTPError]:
        """The entries of each directory in order of their names, or why there are none."""

    async def make_directories(self, relatives: Sequence[bytes]) -> Sequence[Outcome]:
        """Make directories, those above others first; one that is there is no error."""

    async def make_links(self, links: Sequence[tuple[bytes, bytes]]) -> Sequence[Outcome]:
        """Make symbolic links of (place, what it points to), in place of links of that name."""

    async def remove_files(self, relatives: Sequence[bytes]) -> Sequence[Outcome]:
        """Remove files and links; what is gone already is no error."""

    async def remove_directories(self, relatives: Sequence[bytes]) -> Sequence[Outcome]:
        """Remove directories that are empty, but for unfinished transfers."""

    async def set_facts(self, facts: Sequence[Facts]) -> Sequence[Outcome]:
        """Set times and modes."""

    async def digests(self, relatives: Sequence[bytes], algorithm: str) -> Sequence[str | UFTPError]:
        """Digests of whole files in lower-case hex."""

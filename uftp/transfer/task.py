"""One file to copy, as the workers see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from uftp.client.session import FTPSession
from uftp.errors import UFTPError
from uftp.streams import Meter
from uftp.transfer.journal import DoneRange
from uftp.transfer.pieces import Piece
from uftp.transfer.rate import RateShares

if TYPE_CHECKING:
    from uftp.client.record_transfers import Transfer


class FileTask(ABC):
    """One file to copy.

    Attributes:
        source, target: as the user would write them.
        length: bytes to move; None if unknown.
        splittable: whether pieces may be moved in any order.
        ranged: whether it is moved in ranges, be it one, and not as a whole.
        part_name: base name of its part file if that is kept when the copy is interrupted; None if it is not.
        unverified: whether nothing could compare it with its source.
        limit: rate that all transfers keep to together.
    """

    source: str
    target: str
    length: int | None
    splittable: bool

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.prepared = False
        self.finished = False
        self.pieces = 0
        self.unhandled = 0
        self.unmoved = 0
        self.moved = 0
        self.meters: set[Meter] = set()
        self.error: UFTPError | None = None
        self.began: float | None = None
        self.ranged = False
        self.unverified = False
        self.part_name: bytes | None = None
        self.limit: RateShares | None = None

    @abstractmethod
    async def prepare(self, session: FTPSession) -> None:
        """Open what is needed. Once, before the first piece."""

    @abstractmethod
    async def move(self, session: FTPSession, piece: Piece, meter: Meter) -> bytes:
        """Move a piece. May be called again after it failed, if `may_move_again`.

        Returns:
            The BLAKE3 digest that both ends have compared; empty if they have not.
        """

    async def verify(self, session: FTPSession, piece: Piece) -> bool | None:
        """Whether a piece that moved without a digest is on both sides the same; None if nobody can tell."""
        return None

    def may_move_again(self) -> bool:
        """Whether a piece whose move failed may be moved again; then what it left is out of the way."""
        return True

    @abstractmethod
    async def finish(self, session: FTPSession) -> None:
        """All pieces are there: check, and give the final name. May be called again after it failed."""

    def transfer(self, session: FTPSession) -> Transfer:
        """All of it as one transfer of a pipeline, instead of all the other steps; the session is in MODE U."""
        raise NotImplementedError

    @abstractmethod
    def discard(self) -> None:
        """Close and remove what is on this side. Always called at the end, once or more; blocks briefly."""

    def leaves_remote_part(self) -> bool:
        """Whether `clean` has something to remove."""
        return False

    @abstractmethod
    async def clean(self, session: FTPSession) -> None:
        """Remove what is left on the server."""

    # -- what makes it possible to go on with it later --------------------------------------------------------------

    @property
    def can_be_kept(self) -> bool:
        """Whether a part of it could be of use to a later copy."""
        return False

    def identity(self) -> bytes | None:
        """Size and time of the source, by which a file is known to be done; None if they say nothing. May block."""
        return None

    def place(self) -> bytes:
        """The target's path."""
        return self.target.encode("utf-8", "surrogateescape")

    async def fingerprint(self, session: FTPSession) -> bytes:
        """By what a changed source is noticed, at most 255 bytes.

        Raises:
            UFTPError: it cannot be looked at.
        """
        raise NotImplementedError

    async def is_there(self, session: FTPSession, done_at: int) -> bool:
        """Whether the target is still what was copied there by `done_at`, in nanoseconds since 1970."""
        return False

    async def holds(self, session: FTPSession, part: bytes, ranges: Sequence[DoneRange]) -> bool:
        """Whether the part file `part` still has these ranges of the source, the last of them looked at."""
        return False

    async def adopt(self, session: FTPSession, part: bytes) -> int:
        """Make a partial target the part file, if it begins as the source does.

        Returns:
            Its bytes; 0 if nothing was done.
        """
        return 0

    async def remove_part(self, session: FTPSession, part: bytes) -> None:
        """Remove a part file that is of no use, if it is there."""
        raise NotImplementedError

    def sync(self) -> None:
        """Put on the disk here what has arrived; blocks.

        Raises:
            OSError: it is not there.
        """
        return

    def leave(self) -> None:
        """As `discard`, but what has arrived stays under `part_name`."""
        self.discard()

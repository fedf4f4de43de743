"""One file to copy, as the workers see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import trio

from uftp.client.session import FTPSession
from uftp.errors import UFTPError
from uftp.streams import Meter
from uftp.transfer.pieces import Piece

if TYPE_CHECKING:
    from uftp.client.record_transfers import Transfer


class FileTask(ABC):
    """One file to copy.

    Attributes:
        source, target: as the user would write them.
        length: bytes to move; None if unknown.
        splittable: whether pieces may be moved in any order.
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

    @abstractmethod
    async def prepare(self, session: FTPSession) -> None:
        """Open what is needed. Once, before the first piece."""

    @abstractmethod
    async def move(self, session: FTPSession, piece: Piece, meter: Meter) -> None:
        """Move a piece. May be called again after it failed, if `may_move_again`."""

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

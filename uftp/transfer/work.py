"""What is queued for the workers, and the queue: ranges of files, steps that end a file, and batches of small files."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import trio

from uftp.transfer.batch import Batch
from uftp.transfer.pieces import Piece
from uftp.transfer.task import FileTask

_QUEUED_PIECES: Final = 1024  # bounds what the planner runs ahead, and what it keeps of it
_QUEUED_BATCHES: Final = 32


@dataclass(slots=True, eq=False)
class PieceWork:
    """A range of a file to move.

    Attributes:
        task, piece: which.
        attempts: that have failed.
        moved: whether it is there, and only has to be compared.
        digest: BLAKE3 of it that both ends have compared; empty if they have not.
    """

    task: FileTask
    piece: Piece
    attempts: int = 0
    moved: bool = False
    digest: bytes = b""


@dataclass(slots=True, eq=False)
class EndWork:
    """A file all of whose bytes are there: it is checked, and gets its name.

    Attributes:
        task: which.
        attempts: that have failed.
    """

    task: FileTask
    attempts: int = 0


@dataclass(slots=True, eq=False)
class BatchWork:
    """Small files for the lane.

    Attributes:
        batch: they.
        attempts: that have ended before the files were begun.
    """

    batch: Batch
    attempts: int = 0


Work = PieceWork | EndWork | BatchWork


class WorkQueue:
    """Work on its way from the planner to the workers. It ends when all that was put in is settled.

    Large files come first: begun last they would leave one worker at work and the others without. The worker that is
    asked to prefers batches, so that both kinds are under way from the beginning.
    """

    def __init__(self) -> None:
        self._again: deque[Work] = deque()
        self._pieces: deque[PieceWork] = deque()
        self._batches: deque[BatchWork] = deque()
        self._open = 0  # work put in and not settled
        self._complete = False
        self._workers = trio.lowlevel.ParkingLot()
        self._planner = trio.lowlevel.ParkingLot()
        self._token: trio.lowlevel.TrioToken | None = None
        self._ended = trio.Event()

    async def put(self, work: PieceWork | BatchWork) -> None:
        """Queue work of the planner's; waits while there is enough of its kind."""
        if self._token is None:
            self._token = trio.lowlevel.current_trio_token()
        while self._is_full(work):
            await self._planner.park()
        self._open += 1
        if isinstance(work, BatchWork):
            self._batches.append(work)
        else:
            self._pieces.append(work)
        self._workers.unpark()

    def _is_full(self, work: PieceWork | BatchWork) -> bool:
        if isinstance(work, BatchWork):
            return len(self._batches) >= _QUEUED_BATCHES
        return len(self._pieces) >= _QUEUED_PIECES

    def add(self, work: Work) -> None:
        """Queue work that comes of other work, before all else."""
        self.expect()
        self.put_back(work)

    def expect(self) -> None:
        """Something will be put back that was not taken from here."""
        self._open += 1

    def put_back(self, work: Work) -> None:
        """Queue again what was taken and not settled."""
        self._again.append(work)
        self._workers.unpark()

    def settle(self) -> None:
        """Something that was taken is done or given up."""
        self._open -= 1
        if not self._open and self._complete:
            self._ended.set()
            self._workers.unpark_all()

    def complete(self) -> None:
        """The planner has put in everything."""
        self._complete = True
        if not self._open:
            self._ended.set()
        self._workers.unpark_all()

    async def ended(self) -> None:
        """Wait until everything is settled."""
        await self._ended.wait()

    @property
    def waiting(self) -> int:
        """How much nobody has taken."""
        return len(self._again) + len(self._pieces) + len(self._batches)

    async def take(self, *, batches_first: bool) -> Work | None:
        """The next work; None when everything is settled."""
        while True:
            work = self._next(batches_first)
            if work is not None:
                self._planner.unpark_all()
                return work
            if self._complete and not self._open:
                return None
            await self._workers.park()

    def _next(self, batches_first: bool) -> Work | None:
        if self._again:
            return self._again.popleft()
        first, second = (self._batches, self._pieces) if batches_first else (self._pieces, self._batches)
        if first:
            return first.popleft()
        return second.popleft() if second else None

    def take_batch(self, *, batches_first: bool) -> BatchWork | None:
        """A further batch for a lane, if there is one and nothing comes before it. From any thread, never waits."""
        if self._again or (self._pieces and not batches_first):
            return None
        try:
            work = self._batches.popleft()
        except IndexError:
            return None
        if self._token is not None and len(self._batches) < _QUEUED_BATCHES // 2:
            self._token.run_sync_soon(self._planner.unpark_all, idempotent=True)
        return work

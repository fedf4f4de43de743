"""Small files, as many as there are at once, in one pipeline over one session (EXTENSIONS 1, pipelining)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from uftp.client.record_transfers import Transfer
from uftp.errors import UFTPError
from uftp.transfer.pieces import Piece
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState
from uftp.transfer.task import FileTask

SMALL: Final = 1024 * 1024  # bytes up to which a file is carried in a bundle; above it a round trip is a small part
SMALL_FOR_ONE: Final = 10  # files in a bundle that take as long as one with round trips of its own
_AT_ONCE: Final = 64  # files taken from the queue together, so that several workers share what there is

Part = tuple[FileTask, Piece]


class Bundle:
    """Carries small files until none is waiting.

    Args:
        pool: lends the session.
        state: counts.
        queue: where more of them come from. The bundle ends when it is empty, and gives the session back: the planner
            may want it.
        done: told of each file that is done, or has failed with its `error`.

    Attributes:
        possible: whether the server has what it takes.
    """

    def __init__(
        self,
        pool: SessionPool,
        state: CopyState,
        queue: trio.MemoryReceiveChannel[Part],
        done: Callable[[FileTask], None],
    ) -> None:
        self.possible = True
        self._pool = pool
        self._state = state
        self._queue = queue
        self._done = done
        self._waiting: deque[FileTask] = deque()
        self._aside: list[Part] = []
        self._tried: dict[FileTask, int] = {}
        self._under_way: dict[Transfer, FileTask] = {}

    async def run(self, first: Part) -> list[Part]:
        """Carry `first`, which is small, and those that follow it.

        Returns:
            What was taken from the queue and has to be carried in another way.
        """
        self._waiting.append(first[0])
        try:
            while self._waiting:
                try:
                    await self._carry()
                except UFTPError as error:
                    # No session, or no data connection: that is the answer for one file, and the next one tries anew.
                    self._fail(self._waiting.popleft(), error)
                if not self.possible:
                    # So may a later session turn out, after one that broke: then others are waiting, too.
                    return [(task, Piece(0, task.length)) for task in self._waiting] + self._aside
        finally:
            for transfer, task in self._under_way.items():
                self._count(transfer, task)
        return self._aside

    async def _carry(self) -> None:
        async with self._pool.session() as session:
            mode = session.records
            if mode is None or not (mode.options.digest and mode.options.facts):
                self.possible = False
                return

            def supply() -> list[Transfer]:
                self._take_more()
                transfers = []
                while self._waiting:
                    task = self._waiting.popleft()
                    if task.error is not None:
                        self._done(task)
                        continue
                    transfer = task.transfer(session)
                    transfer.attempts = self._tried.pop(task, 0)
                    self._under_way[transfer] = task
                    self._state.start(transfer.meter)
                    transfers.append(transfer)
                return transfers

            left = await session.pipeline(supply, self._concluded)
        for transfer in left:
            task = self._under_way.pop(transfer)
            self._count(transfer, task)
            self._tried[task] = transfer.attempts
            self._waiting.append(task)

    def _take_more(self) -> None:
        while len(self._waiting) < _AT_ONCE and not self._aside:
            try:
                task, piece = self._queue.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return
            if task.small:
                self._waiting.append(task)
            else:
                self._aside.append((task, piece))

    def _concluded(self, transfer: Transfer) -> None:
        task = self._under_way.pop(transfer)
        self._count(transfer, task)
        task.error = task.error or transfer.error
        self._done(task)

    def _count(self, transfer: Transfer, task: FileTask) -> None:
        self._state.stop(transfer.meter)
        task.moved += transfer.meter.moved

    def _fail(self, task: FileTask, error: UFTPError) -> None:
        task.error = task.error or error
        self._done(task)

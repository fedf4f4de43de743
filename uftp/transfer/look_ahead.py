"""Lets a plan look ahead: small files wait, within bounds, while large ones that come later in the tree are found.

A large file that begins last would keep one session busy when all others are done.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import trio

from uftp.errors import UFTPError
from uftp.transfer.batch import Batch, Queue
from uftp.transfer.task import FileTask

_MOST_FILES: Final = 16_384  # that wait here, a few hundred bytes each
_MOST_BATCHES: Final = 2048


class LookAhead:
    """A queue before a queue; see the module. Tasks pass at once, batches in their turn."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._waiting: deque[Batch] = deque()
        self._files = 0
        self._changed = trio.Event()
        self._ended = False
        self._failed: UFTPError | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, queue: Queue) -> AsyncIterator[LookAhead]:
        """For the block; at its end all batches have been handed on.

        Raises:
            UFTPError: what the block raises, after that; or what `queue` has answered.
        """
        ahead = cls(queue)
        failed: UFTPError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ahead._hand_on)
            try:
                yield ahead
            except UFTPError as error:
                failed = error
            ahead._ended = True
            ahead._change()
        failed = failed or ahead._failed
        if failed is not None:
            raise failed

    async def offer(self, task: FileTask, /) -> None:
        """See `Queue`."""
        self._check()
        await self._queue.offer(task)

    async def offer_batch(self, batch: Batch, /) -> None:
        """See `Queue`; waits while enough wait here."""
        self._check()
        self._waiting.append(batch)
        self._files += len(batch.files)
        self._change()
        while self._files > _MOST_FILES or len(self._waiting) > _MOST_BATCHES:
            changed = self._changed
            await changed.wait()
            self._check()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _hand_on(self) -> None:
        try:
            while True:
                while not self._waiting:
                    if self._ended:
                        return
                    await self._changed.wait()
                batch = self._waiting.popleft()
                await self._queue.offer_batch(batch)
                self._files -= len(batch.files)
                self._change()
        except UFTPError as error:
            self._failed = error
            self._change()

"""Workers leave no part files, whenever they are interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import trio

from uftp.client.session import FTPSession
from uftp.errors import TransferFailed
from uftp.streams import Meter
from uftp.transfer.batch import Queue
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState
from uftp.transfer.task import FileTask
from uftp.transfer.workers import Scheduler


class Session:
    """Cannot do anything."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Pool:
    """Lends sessions that cannot do anything."""

    failed = False
    is_short = False
    live = 1
    round_trip = None

    async def open_ahead(self) -> None:
        await trio.lowlevel.checkpoint()

    def may_open(self) -> bool:
        return True

    def allow(self, limit: int) -> None:
        pass

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[FTPSession]:
        await trio.lowlevel.checkpoint()
        yield cast("FTPSession", Session())

    async def call(self, step: Callable[[FTPSession], Awaitable[None]]) -> None:
        async with self.session() as session:
            await step(session)


class FailingTask(FileTask):
    """Leaves a part file on the server, whose removal takes a while."""

    source = target = "x"
    length = 10
    splittable = False

    def __init__(self) -> None:
        super().__init__()
        self.cleaning = trio.Event()
        self.cleaned = False

    async def prepare(self, session: FTPSession) -> None:
        pass

    async def move(self, session: FTPSession, piece: Piece, meter: Meter) -> None:
        raise TransferFailed("no")

    async def finish(self, session: FTPSession) -> None:
        raise AssertionError

    def discard(self) -> None:
        pass

    def leaves_remote_part(self) -> bool:
        return not self.cleaned

    async def clean(self, session: FTPSession) -> None:
        self.cleaning.set()
        await trio.sleep(0.05)
        self.cleaned = True


async def test_an_interrupt_during_the_cleaning_of_a_failed_file() -> None:
    task = FailingTask()
    scheduler = Scheduler(cast("SessionPool", Pool()), CopyState(), CopyOptions(retries=0))

    async def plan(queue: Queue) -> None:
        await queue.offer(task)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scheduler.run, plan)
        await task.cleaning.wait()
        nursery.cancel_scope.cancel()
    assert task.cleaned

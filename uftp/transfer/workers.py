"""Workers that move pieces of files, each with a session of its own, from one queue.

A file is prepared by whoever takes its first piece, and finished by whoever brings its last one. A piece that fails
stops the other pieces of its file; the other files go on.

Where a session has MODE U, a worker takes as many small files as are there at once, and has their commands sent ahead
of their replies: a small file then costs no round trip. See `uftp.transfer.bundles`.
"""

from __future__ import annotations

import os
import time
from typing import Final

import trio

from uftp.client.session import FTPSession
from uftp.errors import UFTPError
from uftp.streams import Meter
from uftp.transfer.batch import Batch, Plan
from uftp.transfer.bundles import SMALL_FOR_ONE, Bundle, Part
from uftp.transfer.pieces import Piece, Splitting, count_pieces, split
from uftp.transfer.plan import join
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.task import FileTask

_QUEUED_PIECES: Final = 1024  # bounds what the planner runs ahead
_CLEANING_SECONDS: Final = 15.0  # for removing part files after Ctrl-C


class Scheduler:
    """Runs file tasks; see the module.

    Args:
        pool: sessions; its limit grows with the workers.
        state: counts and reports.
        splitting: how to cut files, and how many workers are worth it.
    """

    def __init__(self, pool: SessionPool, state: CopyState, splitting: Splitting) -> None:
        self._pool = pool
        self._state = state
        self._splitting = splitting
        self._workers = 0
        self._pieces = 0
        self._worth = 0.0  # files, by what a further session would save
        self._open_tasks: set[FileTask] = set()
        self._send, self._receive = trio.open_memory_channel[tuple[FileTask, Piece]](_QUEUED_PIECES)
        self._nursery: trio.Nursery | None = None
        self._plan_error: UFTPError | None = None
        self._bundles = True  # until a server turns out to have no MODE U

    async def run(self, plan: Plan) -> None:
        """Run `plan`, which offers work, and the workers, until all is done.

        Cancelling leaves no part files, on either side, if the server can be reached within a quarter of a minute.

        Raises:
            UFTPError: what `plan` raises, after the tasks offered before have ended.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                async with self._send:
                    try:
                        await plan(self)
                    except UFTPError as error:
                        self._plan_error = error
                self._state.planned = True
        finally:
            with trio.move_on_after(_CLEANING_SECONDS, shield=True):
                for task in list(self._open_tasks):
                    await self._clean(task)
        if self._plan_error is not None:
            raise self._plan_error

    async def offer(self, task: FileTask) -> None:
        """Queue a task; waits while enough is queued."""
        self._state.files_found += 1
        self._state.bytes_found += task.length or 0
        if task.length is None:
            _expect_pieces(task, 1)
            await self._queue(task, Piece(0, None))
            return
        size = self._splitting.piece_size(task.length) if task.splittable else max(1, task.length)
        _expect_pieces(task, count_pieces(task.length, size))
        for piece in split(task.length, size):
            await self._queue(task, piece)

    async def offer_batch(self, batch: Batch) -> None:
        """Queue small files of one directory; waits while enough is queued.

        A file whose task cannot be made is recorded as failed.
        """
        for file in batch.files:
            try:
                task = batch.task(file)
            except UFTPError as error:
                source = os.fsdecode(join(batch.source_directory, file.name))
                target = os.fsdecode(join(batch.target_directory, file.name))
                self._state.files_found += 1
                self._state.record(FileResult(source=source, target=target, error=error))
            else:
                await self.offer(task)

    async def _queue(self, task: FileTask, piece: Piece) -> None:
        self._open_tasks.add(task)
        self._pieces += 1
        self._worth += 1 / SMALL_FOR_ONE if task.small and self._bundles else 1
        wanted = self._splitting.workers(pieces=self._pieces, files=int(self._worth), size=self._state.bytes_found)
        while self._workers < wanted and self._nursery is not None:
            self._workers += 1
            self._pool.allow(self._workers)
            self._nursery.start_soon(self._work)
        try:
            self._send.send_nowait((task, piece))
        except trio.WouldBlock:
            await self._send.send((task, piece))

    async def _work(self) -> None:
        async for task, piece in self._receive:
            alone: list[Part] = [(task, piece)]
            if task.small and self._bundles:
                bundle = Bundle(self._pool, self._state, self._receive, self._after_bundle)
                alone = await bundle.run((task, piece))
                self._bundles = bundle.possible
            for one in alone:
                await self._work_on(*one)

    def _after_bundle(self, task: FileTask) -> None:
        """A small file is done or has failed."""
        task.unhandled = task.unmoved = 0
        if task.error is None:
            task.finished = True
            task.discard()
            self._open_tasks.discard(task)
            self._record(task)
        elif self._nursery is not None:
            self._nursery.start_soon(self._end, task)

    async def _work_on(self, task: FileTask, piece: Piece) -> None:
        meter = Meter()
        if task.error is None:
            try:
                async with self._pool.session() as session:
                    await self._run_piece(session, task, piece, meter)
            except UFTPError as error:
                self._fail(task, error)
        task.unhandled -= 1
        if task.unhandled == 0:
            await self._end(task)

    async def _run_piece(self, session: FTPSession, task: FileTask, piece: Piece, meter: Meter) -> None:
        async with task.lock:
            if task.began is None:
                task.began = time.monotonic()
            if not task.prepared:
                await task.prepare(session)
                task.prepared = True
        if task.error is not None:
            return
        task.meters.add(meter)
        self._state.start(meter)
        try:
            await task.move(session, piece, meter)
        finally:
            self._state.stop(meter)
            task.meters.discard(meter)
            task.moved += meter.moved
        task.unmoved -= 1
        if task.unmoved == 0 and task.error is None:
            await task.finish(session)
            task.finished = True

    def _fail(self, task: FileTask, error: UFTPError) -> None:
        if task.error is None:
            task.error = error
            for meter in task.meters:
                meter.cancelled = True

    async def _end(self, task: FileTask) -> None:
        await self._clean(task)
        self._record(task)

    def _record(self, task: FileTask) -> None:
        seconds = 0.0 if task.began is None else time.monotonic() - task.began
        self._state.record(
            FileResult(source=task.source, target=task.target, bytes=task.moved, seconds=seconds, error=task.error)
        )

    async def _clean(self, task: FileTask) -> None:
        # Interrupted half-way, the task stays open, and is cleaned at the end of `run`.
        if task.finished:
            task.discard()  # closes a descriptor; removing an unfinished file may take longer
        else:
            await self._remove_parts(task)
        self._open_tasks.discard(task)

    async def _remove_parts(self, task: FileTask) -> None:
        await trio.to_thread.run_sync(task.discard)
        if not task.leaves_remote_part():
            return
        try:
            async with self._pool.session() as session:
                await task.clean(session)
        except UFTPError as error:
            self._state.on_note(f"{task.target}: an unfinished part file may be left there: {error}")


def _expect_pieces(task: FileTask, count: int) -> None:
    task.pieces = task.unhandled = task.unmoved = count

"""Workers that move pieces of files, each with a session of its own, from one queue.

A file is prepared by whoever takes its first piece, and finished by whoever brings its last one. A piece that fails
for a reason that may pass is tried again, after a while and on another session; one that fails for good stops the
other pieces of its file, and the other files go on.

Where a session has what it takes, a worker hands small files to `uftp.transfer.lane` by the batch: such a file costs
no round trip. What the lane has not carried comes back, and goes the long way, with a task of its own.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

import trio

from uftp.client.session import FTPSession
from uftp.errors import Refused, TransferFailed, UFTPError
from uftp.streams import Meter
from uftp.transfer import lane
from uftp.transfer.batch import Batch, Plan, SmallFile
from uftp.transfer.growth import Growth, Seen
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece, Splitting, split, split_rest
from uftp.transfer.pool import SessionPool
from uftp.transfer.rate import RateShares
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.resuming import Resuming
from uftp.transfer.retrying import may_pass, wait_before
from uftp.transfer.task import FileTask
from uftp.transfer.work import BatchWork, EndWork, PieceWork, Work, WorkQueue

_SMALL_FOR_ONE: Final = 10  # files of a batch that take as long as one with round trips of its own
# On a line this quick (seconds a round trip) one session fills the processors: more are for throughput to ask for.
_NEAR: Final = 0.005
_SMALL_FOR_ONE_NEAR: Final = 1000
_CLEANING_SECONDS: Final = 15.0  # for removing part files after Ctrl-C
_LANE_TRIES: Final = 2  # after that the files of a batch go one by one
_INTERVAL_SECONDS: Final = 1.0  # between two looks at the rate
_FILE_BYTES: Final = 64 * 1024  # that a file counts for in it: what takes about as long as naming one
_NOTE_SECONDS: Final = 30.0  # between two notes that something is tried again


class Scheduler:
    """Runs file tasks; see the module.

    Args:
        pool: sessions; its limit grows with the workers.
        state: counts and reports.
        options: how often to try, and when to give up.
        resuming: what an earlier run has left, and where this one notes what it does; None for neither.
        splitting: how to cut files, and how many workers are worth it.
    """

    def __init__(
        self,
        pool: SessionPool,
        state: CopyState,
        options: CopyOptions,
        resuming: Resuming | None = None,
        splitting: Splitting | None = None,
    ) -> None:
        self._pool = pool
        self._state = state
        self._options = options
        self._resuming = resuming
        self._limit = state.limit = RateShares(options.limit_rate)
        self._splitting = splitting or Splitting.of(options)
        self._workers = 0
        self._grown = 0  # workers that throughput has shown to be worth it
        self._pieces = 0
        self._worth = 0.0  # files, by what a further session would save
        self._open_tasks: set[FileTask] = set()
        self._queue = WorkQueue()
        self._nursery: trio.Nursery | None = None
        self._plan_error: UFTPError | None = None
        self._has_lane = True  # until a server turns out to have none
        self._scope = trio.CancelScope()
        self._noted: float | None = None

    async def run(self, plan: Plan) -> None:
        """Run `plan`, which offers work, and the workers, until all is done, or too many files have failed.

        Cancelling leaves no part files, on either side, if the server can be reached within a quarter of a minute, but
        for those that a later run goes on with.

        Raises:
            UFTPError: what `plan` raises, after the work offered before has ended.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as beside:
                    if self._resuming is not None:
                        beside.start_soon(self._resuming.run)
                    if self._splitting.automatic:
                        beside.start_soon(self._grow)
                    async with trio.open_nursery() as nursery:
                        self._nursery = nursery
                        try:
                            await plan(self)
                        except UFTPError as error:
                            self._plan_error = error
                        self._state.planned = True
                        self._queue.complete()
                    beside.cancel_scope.cancel()
        finally:
            with trio.move_on_after(_CLEANING_SECONDS, shield=True):
                for task in list(self._open_tasks):
                    await self._clean(task)
        if self._plan_error is not None:
            raise self._plan_error

    # -- the planner's side -----------------------------------------------------------------------------------------

    async def offer(self, task: FileTask) -> None:
        """Queue a task; waits while enough is queued."""
        self._state.files_found += 1
        self._check_failures()
        if self._resuming is not None and await self._resuming.is_done(task):
            self._state.files_unchanged += 1
            task.discard()
            return
        pieces = await self._pieces_of(task)
        self._state.bytes_found += task.length or 0
        self._expect(task, len(pieces))
        for piece in pieces:
            self._pieces += 1
            self._worth += 1
            self._begin_workers()
            await self._queue.put(PieceWork(task, piece))

    async def _pieces_of(self, task: FileTask) -> list[Piece]:
        """What is to be moved of a file; an empty piece if nothing is, as it has to be ended."""
        length = task.length
        if length is None:
            return [Piece(0, None)]
        if self._resuming is not None and task.can_be_kept and self._splitting.is_worth_keeping(length):
            there = await self._resuming.take_up(task)
            if task.part_name is not None:
                task.ranged = True
                size = self._splitting.kept_piece_size(length, self._pool.round_trip)
                return list(split_rest(length, size, there)) or [Piece(length, 0)]
        size = self._splitting.piece_size(length) if task.splittable else max(1, length)
        pieces = list(split(length, size))
        task.ranged = len(pieces) > 1
        return pieces

    async def offer_batch(self, batch: Batch) -> None:
        """Queue small files of one directory; waits while enough is queued."""
        self._state.files_found += len(batch.files)
        self._check_failures()
        if self._resuming is not None:
            left = await self._resuming.not_done(batch)
            if len(left) < len(batch.files):
                self._state.files_unchanged += len(batch.files) - len(left)
                batch = replace(batch, files=left)
                if not left:
                    return
        self._state.bytes_found += batch.size
        self._pieces += len(batch.files)
        self._worth += len(batch.files) / (self._small_for_one if self._has_lane else 1)
        self._begin_workers()
        await self._queue.put(BatchWork(batch))

    @property
    def _small_for_one(self) -> int:
        round_trip = self._pool.round_trip
        return _SMALL_FOR_ONE_NEAR if round_trip is not None and round_trip < _NEAR else _SMALL_FOR_ONE

    def _expect(self, task: FileTask, pieces: int) -> None:
        task.pieces = task.unhandled = task.unmoved = pieces
        task.limit = self._limit
        self._open_tasks.add(task)

    def _begin_workers(self) -> None:
        wanted = self._splitting.workers(
            pieces=self._pieces,
            files=int(self._worth),
            size=self._state.bytes_found,
            round_trip=self._pool.round_trip,
        )
        while self._workers < max(wanted, self._grown) and self._nursery is not None:
            self._workers += 1
            self._pool.allow(self._workers)
            self._nursery.start_soon(self._work, self._workers)

    async def _grow(self) -> None:
        """Add workers as long as that makes things faster."""
        growth = Growth()
        done, used, then = self._done_so_far(), time.process_time(), time.monotonic()
        while True:
            await trio.sleep(_INTERVAL_SECONDS)
            before, used_before, since = done, used, then
            done, used, then = self._done_so_far(), time.process_time(), time.monotonic()
            seconds = max(then - since, 0.001)
            growth, more = growth.after(
                Seen(
                    rate=(done - before) / seconds,
                    workers=self._workers,
                    sessions=self._pool.live,
                    waiting=self._queue.waiting,
                    most=self._splitting.most_grown,
                    capped=bool(self._options.limit_rate) or self._pool.is_short,
                    busy=(used - used_before) / seconds / (os.cpu_count() or 1),
                )
            )
            if more:
                self._grown = self._workers + 1
                self._begin_workers()

    def _done_so_far(self) -> int:
        return self._state.moved + self._state.files_done * _FILE_BYTES

    # -- workers ----------------------------------------------------------------------------------------------------

    async def _work(self, number: int) -> None:
        batches_first = number == 1
        if number > 1:
            await self._log_in()
        while (work := await self._queue.take(batches_first=batches_first)) is not None:
            if isinstance(work, BatchWork):
                await self._carry(work, batches_first=batches_first)
            elif isinstance(work, PieceWork):
                await self._move(work)
            else:
                await self._finish(work)

    async def _log_in(self) -> None:
        """Have a session before work is taken, which others could do meanwhile; not longer than there is any."""
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                await self._queue.ended()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end)
            with contextlib.suppress(UFTPError):  # the work itself will meet it
                await self._pool.open_ahead()
            nursery.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[FTPSession]:
        """A session for one step. After an error that may pass the next try gets another one."""
        async with self._pool.session() as session:
            try:
                yield session
            except UFTPError as error:
                if may_pass(error) and not isinstance(error, Refused) and self._pool.may_open():
                    await session.aclose()
                raise

    def _is_tried_again(self, work: Work, error: UFTPError) -> bool:
        """Whether `work`, which failed, is queued again for later."""
        if work.attempts >= self._options.retries or self._pool.failed or not may_pass(error):
            return False
        work.attempts += 1
        self._retry(work, error)
        return True

    def _retry(self, work: Work, error: UFTPError) -> None:
        self._state.retries += 1
        now = time.monotonic()
        if self._noted is None or now - self._noted > _NOTE_SECONDS:
            self._noted = now
            self._state.on_note(f"trying again: {error}")
        self._put_back_later(work)

    def _put_back_later(self, work: Work) -> None:
        async def wait() -> None:
            await trio.sleep(wait_before(work.attempts))
            self._queue.put_back(work)

        assert self._nursery is not None  # noqa: S101 -- workers run in it
        self._nursery.start_soon(wait)

    # -- files that go alone ----------------------------------------------------------------------------------------

    async def _move(self, work: PieceWork) -> None:
        task = work.task
        if task.error is None:
            try:
                async with self._session() as session:
                    compared = await self._step(session, work)
            except UFTPError as error:
                if task.error is None and task.may_move_again() and self._is_tried_again(work, error):
                    return
                self._fail(task, error)
            else:
                if not compared:
                    self._queue.put_back(work)  # others may move their pieces meanwhile
                    return
                if task.error is None:
                    self._note_range(work)
                    task.unmoved -= 1
        if task.error is None and task.unmoved == 0:
            await self._finish(EndWork(task))
        else:
            await self._handled(task)

    async def _step(self, session: FTPSession, work: PieceWork) -> bool:
        """Move a piece or, if it has moved without a digest, compare it. Whether that was all."""
        task, piece = work.task, work.piece
        if not work.moved:
            work.digest = await self._run_piece(session, task, piece)
            work.moved = True
            return bool(work.digest or not self._options.verify or task.error is not None or piece.length == 0)
        same = await task.verify(session, piece)
        if same is None:
            self._note_unverified(task)
        elif not same:
            work.moved = False
            raise TransferFailed(f"{task.source}: what has arrived is not what the source has")
        return True

    def _note_unverified(self, task: FileTask) -> None:
        if not self._state.unverified:
            self._state.on_note("no checksums can be had to compare files with their sources; only sizes are")
        if not task.unverified:
            task.unverified = True
            self._state.unverified += 1

    def _note_range(self, work: PieceWork) -> None:
        if self._resuming is not None:
            self._resuming.note_range(work.task, work.piece, work.digest)

    async def _run_piece(self, session: FTPSession, task: FileTask, piece: Piece) -> bytes:
        async with task.lock:
            if task.began is None:
                task.began = time.monotonic()
            if not task.prepared:
                await task.prepare(session)
                task.prepared = True
        if task.error is not None:
            return b""
        meter = Meter()
        task.meters.add(meter)
        self._state.start(meter, task.source)
        try:
            digest = await task.move(session, piece, meter)
            task.moved += meter.moved
        except BaseException:
            meter.moved = 0  # of a piece nothing counts before its end
            raise
        finally:
            self._state.stop(meter)
            task.meters.discard(meter)
        return digest

    async def _finish(self, work: EndWork) -> None:
        task = work.task
        try:
            async with self._session() as session:
                await task.finish(session)
            task.finished = True
        except UFTPError as error:
            if self._is_tried_again(work, error):
                return
            self._fail(task, error)
        await self._handled(task)

    def _fail(self, task: FileTask, error: UFTPError) -> None:
        if task.error is None:
            task.error = error
            for meter in task.meters:
                meter.cancelled = True

    async def _handled(self, task: FileTask) -> None:
        """One piece of it is through, or given up."""
        task.unhandled -= 1
        if task.unhandled == 0:
            await self._clean(task)
            seconds = 0.0 if task.began is None else time.monotonic() - task.began
            self._record(
                FileResult(source=task.source, target=task.target, bytes=task.moved, seconds=seconds, error=task.error)
            )
        self._queue.settle()

    def _record(self, result: FileResult) -> None:
        self._state.record(result)
        self._check_failures()

    def _check_failures(self) -> None:
        most = self._options.max_errors
        if most is not None and self._state.files_failed >= max(1, most) and not self._scope.cancel_called:
            self._state.ended_early = True
            self._scope.cancel()

    async def _clean(self, task: FileTask) -> None:
        # Interrupted half-way, the task stays open, and is cleaned at the end of `run`.
        if task.finished:
            self._note_end(task)
            task.discard()  # closes a descriptor; removing an unfinished file may take longer
        elif self._is_kept(task):
            await self._leave(task)
        else:
            await self._remove_parts(task)
            self._note_end(task)
        self._open_tasks.discard(task)

    def _is_kept(self, task: FileTask) -> bool:
        if task.part_name is None or self._resuming is None or not self._resuming.keep():
            return False
        return task.error is None or may_pass(task.error) or self._pool.failed

    def _note_end(self, task: FileTask) -> None:
        if self._resuming is not None:
            self._resuming.note_end(task)

    async def _leave(self, task: FileTask) -> None:
        """A later run of the copy goes on with it."""
        if self._resuming is not None:
            await self._resuming.flush()  # as long as it is open
        await trio.to_thread.run_sync(task.leave)

    async def _remove_parts(self, task: FileTask) -> None:
        await trio.to_thread.run_sync(task.discard)
        if not task.leaves_remote_part():
            return
        try:
            await self._pool.call(task.clean)
        except UFTPError as error:
            self._state.on_note(f"{task.target}: an unfinished part file may be left there: {error}")

    # -- batches ----------------------------------------------------------------------------------------------------

    async def _carry(self, work: BatchWork, *, batches_first: bool) -> None:
        waiting: list[BatchWork] = [work]
        given: dict[Batch, BatchWork] = {}
        progress = False

        def supply() -> Batch | None:
            one = waiting.pop() if waiting else self._queue.take_batch(batches_first=batches_first)
            if one is None:
                return None
            given[one.batch] = one
            return one.batch

        def done(batch: Batch, files: Sequence[SmallFile]) -> None:
            nonlocal progress
            progress = True
            self._carried(batch, files)

        try:
            async with self._session() as session:
                if lane.possible(session, verify=self._options.verify) and not self._options.limit_rate:
                    rest = await lane.carry(session, supply, done, options=self._options, state=self._state)
                else:
                    self._has_lane = False
                    rest = []
        except UFTPError as error:
            if not self._is_tried_again(work, error):
                for file in work.batch.files:
                    self._record_small(work.batch, file, error)
                self._queue.settle()
            return
        lost: dict[Batch, list[SmallFile]] = {one.batch: one.batch.files for one in waiting}
        for batch, file, trouble in rest:
            if trouble is None:
                lost.setdefault(batch, []).append(file)
            elif self._options.retries and may_pass(trouble):
                self._go_alone(batch, file, trouble)
            else:
                self._record_small(batch, file, trouble)
        for batch, files in lost.items():
            attempts = work.attempts if progress else work.attempts + 1
            self._carry_again(batch, files, attempts if self._has_lane else _LANE_TRIES)
        for _ in (*waiting, *given):
            self._queue.settle()

    def _carry_again(self, batch: Batch, files: list[SmallFile], attempts: int) -> None:
        """Files that were not begun, or were lost with a connection."""
        if attempts >= _LANE_TRIES:
            for file in files:
                self._go_alone(batch, file, None)
        else:
            self._queue.add(BatchWork(replace(batch, files=files), attempts))

    def _go_alone(self, batch: Batch, file: SmallFile, error: UFTPError | None) -> None:
        """Have one file of a batch carried by its own task; at once, or after `error` later."""
        try:
            task = batch.task(file)
        except UFTPError as unfit:
            self._record_small(batch, file, unfit)
            return
        self._expect(task, 1)
        work = PieceWork(task, Piece(0, task.length))
        if error is None:
            self._queue.add(work)
        else:
            work.attempts = 1
            self._queue.expect()
            self._retry(work, error)

    def _carried(self, batch: Batch, files: Sequence[SmallFile]) -> None:
        if self._resuming is not None:
            self._resuming.note_batch(batch, files)
        if not self._state.each_file:
            self._state.files_done += len(files)
            return
        for file in files:
            self._record_small(batch, file, None)

    def _record_small(self, batch: Batch, file: SmallFile, error: UFTPError | None) -> None:
        source, target = batch.shown(file)
        size = file.size if error is None else 0
        self._record(FileResult(source=source, target=target, bytes=size, error=error))

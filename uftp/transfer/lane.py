"""The fast lane: batches of small files over one session in MODE U (EXTENSIONS 1, pipelining).

Nearly all of them go through `uftp.transfer.lane_thread`; what that puts aside, and sessions that compress, go through
the pipeline that carries any transfer.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from uftp.client.record_transfers import Transfer
from uftp.client.session import FTPSession
from uftp.errors import UFTPError
from uftp.streams import Meter
from uftp.transfer.batch import Batch, SmallFile
from uftp.transfer.lane_thread import LaneThread, Rest
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState
from uftp.transfer.task import FileTask

__all__ = ["Done", "Rest", "Supply", "carry", "possible"]

Supply = Callable[[], Batch | None]
Done = Callable[[Batch, Sequence[SmallFile]], None]

_GRACE_SECONDS: Final = 2.0  # for a thread that was told to stop
_AT_ONCE: Final = 64  # tasks made together, on the general way


def possible(session: FTPSession, *, verify: bool = True) -> bool:
    """Whether a session has what the lane takes: MODE U, with facts, and digests if files are to be verified."""
    mode = session.records
    return mode is not None and mode.options.facts and (mode.options.digest or not verify)


async def carry(
    session: FTPSession, supply: Supply, done: Done, *, options: CopyOptions, state: CopyState
) -> list[Rest]:
    """Carry batches, uploads and downloads in any order, until `supply` has none at the moment.

    Args:
        session: one for which `possible` holds, and nobody else's meanwhile. It may not be usable afterwards.
        supply: called whenever there is room for more, **from any thread**: the next batch, None if there is none now;
            then the lane ends what it has, and returns. What it gave is done, or is returned.
        done: told on the event loop of files that are whole, verified and under their names, many at once, all of one
            batch. `size` of each is what has moved of it.
        options: what to keep of the files.
        state: its meters count the bytes while they move, and `bytes_done` afterwards. No file is recorded there.

    Returns:
        What was not carried. None of it is there under its name, unless it was before, or the connection was lost
        before the server could say so.

    Raises:
        UFTPError: there is no data connection to be had; no batch was taken.
        trio.Cancelled: what was under way is given up, and the session closed.
    """
    mode = session.records
    assert mode is not None  # noqa: S101 - possible
    if mode.options.compress or logging.getLogger("uftp.client").isEnabledFor(logging.DEBUG):
        return await _carry_each(session, [], supply, done, state)
    async with session.control.dialogue():
        connection = await mode.connection(session)
    meter = Meter()
    lane = LaneThread(session, mode, connection, supply, preserve=options.preserve, meter=meter, on_done=done)
    state.start(meter)
    connection.in_use = True
    finished = False
    try:
        finished = await _run(session, lane)
    finally:
        connection.release(close=not finished)
        if not finished and session.usable:
            session.control.break_off(str(lane.lost or "interrupted"))
        lane.take_done()
        lane.close()
        state.stop(meter)
    if lane.aside:
        if finished:
            return lane.rest + await _carry_each(session, lane.aside, lambda: None, done, state)
        lane.rest += (Rest(batch, file, None) for batch, file in lane.aside)
    return lane.rest


async def _run(session: FTPSession, lane: LaneThread) -> bool:
    """Run the thread; whether the session is of further use."""
    over = trio.Event()

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not over.is_set():
                lane.stop()
                with trio.move_on_after(_GRACE_SECONDS, shield=True) as grace:
                    await over.wait()
                if grace.cancelled_caught and session.records is not None:
                    session.records.drop()  # a step that blocks ends with its connection

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.lowlevel.checkpoint()
        # A limiter of its own: a session must not wait for the threads of others.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lane.run, limiter=trio.CapacityLimiter(1))
        over.set()
        nursery.cancel_scope.cancel()
    await trio.lowlevel.checkpoint_if_cancelled()
    return lane.lost is None


async def _carry_each(
    session: FTPSession,
    first: Sequence[tuple[Batch, SmallFile]],
    supply: Supply,
    done: Done,
    state: CopyState,
) -> list[Rest]:
    """Carry files by a task each, in one pipeline."""
    waiting: deque[tuple[Batch, SmallFile]] = deque(first)
    running: dict[Transfer, tuple[Batch, SmallFile, FileTask]] = {}
    rest: list[Rest] = []

    def more() -> list[Transfer]:
        if not waiting and (batch := supply()) is not None:
            waiting.extend((batch, file) for file in batch.files)
        transfers: list[Transfer] = []
        while waiting and len(transfers) < _AT_ONCE:
            batch, file = waiting.popleft()
            try:
                task = batch.task(file)
            except UFTPError as error:
                rest.append(Rest(batch, file, error))
                continue
            transfer = task.transfer(session)
            running[transfer] = (batch, file, task)
            state.start(transfer.meter)
            transfers.append(transfer)
        return transfers

    def concluded(transfer: Transfer) -> None:
        batch, file, task = running.pop(transfer)
        if transfer.error is not None:
            transfer.meter.moved = 0
        state.stop(transfer.meter)
        task.discard()
        if transfer.error is None:
            done(batch, [file._replace(size=transfer.meter.moved)])
        else:
            rest.append(Rest(batch, file, transfer.error))

    left: list[Transfer] = []
    try:
        left = await session.pipeline(more, concluded)
    except UFTPError:
        if not first:
            raise
    finally:
        for transfer, (_, _, task) in running.items():
            transfer.meter.moved = 0
            state.stop(transfer.meter)
            task.discard()
    rest += (Rest(*running[transfer][:2], None) for transfer in left)
    rest += (Rest(batch, file, None) for batch, file in waiting)
    return rest

"""The fast lane: batches of small files over one session in MODE U (EXTENSIONS 1, pipelining)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from uftp.client.record_transfers import Transfer
from uftp.client.session import FTPSession
from uftp.errors import UFTPError
from uftp.transfer.batch import Batch, SmallFile
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState
from uftp.transfer.task import FileTask

Supply = Callable[[], Batch | None]
Done = Callable[[Batch, Sequence[SmallFile]], None]


class Rest(NamedTuple):
    """A file that the lane has not carried.

    Attributes:
        batch, file: which.
        error: why it failed; None if it was not begun, or was lost with a connection that broke under another one.
    """

    batch: Batch
    file: SmallFile
    error: UFTPError | None


def possible(session: FTPSession) -> bool:
    """Whether a session has what the lane takes: MODE U, with digests and facts."""
    mode = session.records
    return mode is not None and mode.options.digest and mode.options.facts


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
        What was not carried. None of it is there under its name, unless it was before.

    Raises:
        UFTPError: there is no data connection to be had; no batch was taken.
        trio.Cancelled: as soon as the server has stopped, or within a few seconds.
    """
    waiting: deque[tuple[Batch, SmallFile]] = deque()
    running: dict[Transfer, tuple[Batch, SmallFile, FileTask]] = {}
    rest: list[Rest] = []

    def more() -> list[Transfer]:
        if not waiting and (batch := supply()) is not None:
            waiting.extend((batch, file) for file in batch.files)
        transfers: list[Transfer] = []
        while waiting and len(transfers) < 64:
            batch, file = waiting.popleft()
            task = batch.task(file)
            transfer = task.transfer(session)
            running[transfer] = (batch, file, task)
            state.start(transfer.meter)
            transfers.append(transfer)
        return transfers

    def concluded(transfer: Transfer) -> None:
        batch, file, task = running.pop(transfer)
        state.stop(transfer.meter)
        task.discard()
        if transfer.error is None:
            done(batch, [file._replace(size=transfer.meter.moved)])
        else:
            rest.append(Rest(batch, file, transfer.error))

    try:
        left = await session.pipeline(more, concluded)
    finally:
        for transfer, (_, _, task) in running.items():
            state.stop(transfer.meter)
            task.discard()
    rest += (Rest(*running[transfer][:2], None) for transfer in left)
    rest += (Rest(batch, file, None) for batch, file in waiting)
    return rest

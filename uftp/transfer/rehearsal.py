"""A dry run: what a plan would have copied is reported as if it had been, and nothing moves."""

from __future__ import annotations

import trio

from uftp.transfer.batch import Batch
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.task import FileTask


class Rehearsal:
    """A queue (`uftp.transfer.batch.Queue`) that only tells.

    Args:
        state: its totals become those that the copy would have; `bytes_done` too, so that a summary says them.
    """

    def __init__(self, state: CopyState) -> None:
        self._state = state

    async def offer(self, task: FileTask, /) -> None:
        """Report one file."""
        self._report(task.source, task.target, task.length or 0)
        task.discard()
        await trio.lowlevel.checkpoint()

    async def offer_batch(self, batch: Batch, /) -> None:
        """Report small files."""
        for file in batch.files:
            source, target = batch.shown(file)
            self._report(source, target, file.size)
        await trio.lowlevel.checkpoint()

    def _report(self, source: str, target: str, size: int) -> None:
        self._state.files_found += 1
        self._state.bytes_found += size
        self._state.bytes_done += size
        self._state.record(FileResult(source=source, target=target, bytes=size))

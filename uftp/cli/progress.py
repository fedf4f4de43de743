"""The progress display: one bar for the whole job, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from uftp.cli.settings import Settings
    from uftp.transfer.results import CopyState

_INTERVAL: Final = 0.2  # seconds
_PATIENCE: Final = 0.5  # a job done by then needs no bar


@asynccontextmanager
async def showing_progress(settings: Settings, state: CopyState, *, enabled: bool) -> AsyncIterator[None]:
    """Show the state of a copy on standard error while the block runs, if that is a terminal."""
    if not enabled or settings.quiet or settings.json or settings.debug or not sys.stderr.isatty():
        yield
        return
    failure: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_display, state)
        try:
            yield
        except BaseException as error:
            # Carried over the nursery, which would put it into a group.
            failure.append(error)
        nursery.cancel_scope.cancel()
    if failure:
        raise failure[0]


async def _display(state: CopyState) -> None:
    await trio.sleep(_PATIENCE)
    while not state.sessions:  # noqa: ASYNC110 -- a plain count; until then somebody may be typing a password
        await trio.sleep(_INTERVAL)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.fields[files]}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=None, files="")
        while True:
            done = state.files_done + state.files_failed
            found = f"{state.files_found}{'' if state.planned else '+'}"
            total = state.bytes_found if state.planned else None
            progress.update(task, completed=state.moved, total=total, files=f"{done}/{found} files")
            progress.refresh()
            await trio.sleep(_INTERVAL)

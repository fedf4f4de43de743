"""How far a copy is: a bar on a terminal, a line now and then in a log, and a snapshot for SIGUSR1."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import click
import trio

from uftp.cli.output import human_size
from uftp.cli.runner import one_line

if TYPE_CHECKING:
    from uftp.cli.settings import Settings
    from uftp.transfer.results import CopyState

_INTERVAL: Final = 0.2  # seconds
_PATIENCE: Final = 0.5  # a job done by then needs no bar
_SHOWN: Final = 16  # files named in a snapshot


@asynccontextmanager
async def showing_progress(
    settings: Settings, state: CopyState, *, interval: int = 60, bar: bool = True
) -> AsyncIterator[None]:
    """Show the state of a copy on standard error while the block runs.

    Args:
        settings: --quiet, --json and --debug turn the bar off, --quiet the lines too.
        state: of the copy.
        interval: seconds between lines where standard error is no terminal; 0 for none.
        bar: whether a terminal gets a bar; not where standard output is what is copied.
    """
    terminal = sys.stderr.isatty()
    failure: list[BaseException] = []
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer, signals, state)
            if terminal and bar and not (settings.quiet or settings.json or settings.debug):
                nursery.start_soon(_display, state)
            elif not terminal and interval and not settings.quiet:
                nursery.start_soon(_log, state, interval)
            try:
                yield
            except BaseException as error:
                # Carried over the nursery, which would put it into a group.
                failure.append(error)
            nursery.cancel_scope.cancel()
    if failure:
        raise failure[0]


async def _answer(signals: AsyncIterator[int], state: CopyState) -> None:
    async for _ in signals:
        for line in snapshot(state):
            click.echo(one_line(f"uftp: {line}"), err=True)


async def _log(state: CopyState, interval: int) -> None:
    moved = state.moved
    while True:
        await trio.sleep(interval)
        now = state.moved
        click.echo(one_line(f"uftp: {progress_line(state, (now - moved) / interval)}"), err=True)
        moved = now


def progress_line(state: CopyState, rate: float | None = None) -> str:
    """Files, bytes, rate and time left in a line.

    Args:
        state: of the copy.
        rate: bytes per second of late; None for that since the beginning.
    """
    seconds = max(time.monotonic() - state.started, 1e-9)
    moved = state.moved
    there = moved + state.taken_over
    rate = moved / seconds if rate is None else rate
    done = state.files_done + state.files_failed
    more = "" if state.planned else "+"
    known = there <= state.bytes_found
    parts = [
        f"{done}/{state.files_found}{more} files",
        f"{human_size(there)} of {human_size(state.bytes_found)}{more}" if known else human_size(there),
        f"{human_size(rate)}/s",
    ]
    if state.files_unchanged:
        parts.append(f"{state.files_unchanged} unchanged")
    if state.files_failed:
        parts.append(f"{state.files_failed} failed")
    if state.planned and rate and known:
        parts.append(f"{duration((state.bytes_found - there) / rate)} left")
    return ", ".join(parts)


def snapshot(state: CopyState) -> list[str]:
    """What goes on, in lines: totals, sessions, and what is being moved."""
    lines = [progress_line(state), f"sessions opened: {state.sessions}"]
    running = state.running()
    for name, moved in running[:_SHOWN]:
        lines.append(f"  {human_size(moved)} of {name}")
    if len(running) > _SHOWN:
        lines.append(f"  and {len(running) - _SHOWN} more")
    return lines


def duration(seconds: float) -> str:
    """A time in its two largest units, as `2 min 05 s`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


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
            progress.update(task, completed=state.moved + state.taken_over, total=total, files=f"{done}/{found} files")
            progress.refresh()
            await trio.sleep(_INTERVAL)

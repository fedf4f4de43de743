"""What `uftp transfer` says of transfers: lines, tables, how far they are, and what they came to."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from uftp.cli.output import human_size, print_json
from uftp.cli.progress import duration
from uftp.cli.runner import one_line
from uftp.cli.settings import Settings
from uftp.client.wording import printable
from uftp.errors import SomeFailed, TransferFailed, UFTPError

if TYPE_CHECKING:
    from uftp.client.managed import Transfer, TransferError

_INTERVAL: Final = 0.2  # seconds
_PATIENCE: Final = 0.5  # what is done by then needs no bar
_NAME_WIDTH: Final = 60
_ERRORS_SHOWN: Final = 20
_ELSEWHERE: Final = re.compile("https://[^:]+(:[0-9]+)?[^:]*/rest/auth/", re.IGNORECASE)


def record(transfer: Transfer, reference: str) -> dict[str, object]:
    """The members of a transfer's line of `--json` output: all that the server says, and what names it here."""
    return {"type": "transfer", "transfer": reference, **transfer.document}


def error_record(transfer: Transfer, error: TransferError) -> dict[str, object]:
    """The members of a line of `--json` output about a file that could not be copied."""
    return {
        "type": "error",
        "id": transfer.id,
        "source": error.source,
        "target": error.target,
        "error": error.error,
    }


def title(transfer: Transfer) -> str:
    """What is copied where, in a few words."""
    if transfer.name:
        return printable(transfer.name)
    first = printable(transfer.sources[0]) if transfer.sources else "?"
    more = f" and {len(transfer.sources) - 1} more" if len(transfer.sources) > 1 else ""
    return f"{first}{more} -> {printable(transfer.target)}"


def describe_state(transfer: Transfer) -> str:
    """Where it stands, and what has been asked of it."""
    asked = {"pause": ", to be paused", "cancel": ", to be cancelled"}.get(transfer.wanted, "")
    return printable(transfer.state) + asked


def progress_line(transfer: Transfer) -> str:
    """State, files, bytes, rate and time left in a line."""
    return ", ".join([describe_state(transfer), *_progress(transfer)])


def _progress(transfer: Transfer) -> list[str]:
    parts = []
    if transfer.files or transfer.files_found or transfer.bytes:
        parts = [_files(transfer), _bytes(transfer)]
    if transfer.files_failed:
        parts.append(f"{transfer.files_failed} failed")
    if transfer.state == "active" and transfer.rate:
        parts.append(f"{human_size(transfer.rate)}/s")
        if transfer.total > transfer.bytes:
            parts.append(f"{duration((transfer.total - transfer.bytes) / transfer.rate)} left")
    wait = transfer.next_try - time.time()
    if transfer.state == "queued" and wait > 1:
        parts.append(f"next try in {duration(wait)}")
    return parts


def _why(transfer: Transfer) -> str:
    return f": {printable(transfer.reason)}" if transfer.reason else ""


def _files(transfer: Transfer) -> str:
    done = transfer.files
    return f"{done}/{transfer.files_found} files" if transfer.files_found > done else _count(done, "file", "files")


def _bytes(transfer: Transfer) -> str:
    done = human_size(transfer.bytes)
    return f"{done} of {human_size(transfer.total)}" if transfer.total > transfer.bytes else done


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


# -- listing --------------------------------------------------------------------------------------------------------


def print_table(transfers: Sequence[Transfer]) -> None:
    """A line for each."""
    rows = [("ID", "STATE", "SUBMITTED", "FILES", "DONE", "RATE", "WHAT")]
    for transfer in transfers:
        share = f" ({100 * transfer.bytes // transfer.total}%)" if 0 < transfer.bytes < transfer.total else ""
        failed = f", {transfer.files_failed} failed" if transfer.files_failed else ""
        rows.append(
            (
                transfer.id,
                printable(transfer.state),
                _moment(transfer.created),
                f"{transfer.files}/{max(transfer.files_found, transfer.files)}{failed}",
                f"{human_size(transfer.bytes)}{share}",
                f"{human_size(transfer.rate)}/s" if transfer.state == "active" and transfer.rate else "",
                title(transfer),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    reasons = [
        "",
        *(one_line(f"  {transfer.state}{_why(transfer)}") if transfer.reason else "" for transfer in transfers),
    ]
    for row, reason in zip(rows, reasons, strict=True):
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]))
        if reason:
            click.echo(reason)


def _moment(seconds: float) -> str:
    if not seconds:
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"


def print_one(transfer: Transfer, reference: str, errors: Sequence[TransferError], *, more: bool) -> None:
    """All that is known of one."""
    lines = [("Transfer", reference)]
    if transfer.name:
        lines.append(("Name", printable(transfer.name)))
    lines.append(("State", describe_state(transfer)))
    if transfer.reason:
        lines.append(("Reason", printable(transfer.reason)))
    lines += [("From", printable(source)) for source in transfer.sources]
    lines.append(("To", printable(transfer.target)))
    options = transfer.document.get("options")
    if isinstance(options, Mapping) and (words := _in_words(options)):
        lines.append(("Options", words))
    lines.append(("Progress", ", ".join(_progress(transfer)) or "nothing moved yet"))
    if transfer.node:
        lines.append(("Node", printable(transfer.node)))
    if transfer.attempts > 1:
        lines.append(("Attempts", str(transfer.attempts)))
    for label, seconds in (("Submitted", transfer.created), ("Started", transfer.started), ("Ended", transfer.ended)):
        if seconds:
            lines.append((label, _moment(seconds)))
    for label, text in lines:
        click.echo(one_line(f"{label + ':':<10} {text}"))
    for error in errors:
        click.echo(one_line(f"{'Failed:':<10} {_failure(error)}"))
    if more:
        click.echo(f"{'':<10} and more; --all shows all of them")
    if advice := _advice(transfer, reference):
        click.echo(f"{'Next:':<10} {advice}")


def _in_words(options: Mapping[str, Any]) -> str:
    """What is not as usual."""
    words = [name for name in ("recursive", "preserve", "encrypt", "compress") if options.get(name) is True]
    words += [f"no {name}" for name in ("verify", "resume") if options.get(name) is False]
    rate, retries = options.get("limitRate"), options.get("retries")
    if type(rate) is int and rate > 0:
        words.append(f"at most {human_size(rate)}/s")
    if type(retries) is int:
        words.append(_count(retries, "retry", "retries"))
    return ", ".join(words)


def _failure(error: TransferError) -> str:
    return f"{printable(error.source)}: {printable(error.error)}"


def _advice(transfer: Transfer, reference: str) -> str:
    match transfer.state:
        case "paused":
            # Without a reason its owner has paused it.
            login = "--login " if transfer.reason and _is_elsewhere(transfer) else ""
            return f"uftp transfer resume {login}{reference}"
        case "failed" | "cancelled":
            # What was left to log in with elsewhere is gone.
            return f"uftp transfer retry {'--login ' if _is_elsewhere(transfer) else ''}{reference}"
        case "queued" | "active":
            return f"uftp transfer wait {reference}"
    return ""


def _is_elsewhere(transfer: Transfer) -> bool:
    """Whether one side is at an auth server that is not the one that looks after the transfer."""
    return any(_ELSEWHERE.match(place) for place in (*transfer.sources, transfer.target))


# -- the end --------------------------------------------------------------------------------------------------------


def print_failures(errors: Sequence[TransferError], *, more: bool, reference: str) -> None:
    """The files that could not be copied, on standard error."""
    for error in errors[:_ERRORS_SHOWN]:
        click.echo(one_line(f"uftp: {_failure(error)}"), err=True)
    if more or len(errors) > _ERRORS_SHOWN:
        click.echo(f"uftp: more files failed; `uftp transfer show --all {reference}` names all of them", err=True)


def describe_end(transfer: Transfer) -> str:
    """What one came to, in a line."""
    seconds = transfer.ended - transfer.started if transfer.ended and transfer.started else 0.0
    took = f" in {duration(seconds)} ({human_size(transfer.bytes / seconds)}/s)" if seconds >= 1 else ""
    failed = f", {transfer.files_failed} failed" if transfer.files_failed else ""
    return f"{transfer.state}: {_count(transfer.files, 'file', 'files')}{failed}, {human_size(transfer.bytes)}{took}"


def failure_of(transfer: Transfer, reference: str) -> UFTPError | None:
    """The error that waiting for one ends with; None if all is well."""
    advice = _advice(transfer, reference)
    match transfer.state:
        case "succeeded":
            return None
        case "paused":
            return UFTPError(f"{reference} is paused{_why(transfer)}; to go on: {advice}")
        case "cancelled":
            return UFTPError(f"{reference} was cancelled{_why(transfer)}")
        case _ if transfer.files and transfer.files_failed:
            why = _why(transfer) or f": {_count(transfer.files_failed, 'file', 'files')} could not be copied"
            return SomeFailed(f"{reference} has failed{why}; to try again: {advice}")
        case _:
            return TransferFailed(
                f"{reference} has {printable(transfer.state)}{_why(transfer)}; to try again: {advice}"
            )


# -- progress -------------------------------------------------------------------------------------------------------


class Watching:
    """What is known of transfers that somebody waits for.

    Args:
        settings: common options.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._latest: dict[str, Transfer] = {}

    def changed(self, reference: str, transfer: Transfer) -> None:
        """One is not as it was."""
        before = self._latest.get(reference)
        self._latest[reference] = transfer
        is_new = before is None or (before.state, before.reason) != (transfer.state, transfer.reason)
        # What keeps it from going on is worth a line each time; all else for those who want to know.
        waits = transfer.state == "queued" and bool(transfer.reason)
        if is_new and not transfer.is_final and (waits or (before is not None and self._settings.verbose)):
            self.note(f"{reference} is {printable(transfer.state)}{_why(transfer)}")

    def note(self, text: str) -> None:
        """Say something on standard error, unless nothing is to be said."""
        if not self._settings.quiet:
            click.echo(one_line(f"uftp: {text}"), err=True)

    @asynccontextmanager
    async def shown(self, interval: int) -> AsyncIterator[None]:
        """Show how far they are while the block runs: bars on a terminal, else a line each `interval` seconds."""
        import trio

        settings = self._settings
        failure: list[BaseException] = []
        async with trio.open_nursery() as nursery:
            if sys.stderr.isatty():
                if not (settings.quiet or settings.json or settings.debug):
                    nursery.start_soon(self._display)
            elif interval and not settings.quiet:
                nursery.start_soon(self._log, interval)
            try:
                yield
            except BaseException as error:
                # Carried over the nursery, which would put it into a group.
                failure.append(error)
            nursery.cancel_scope.cancel()
        if failure:
            raise failure[0]

    async def _log(self, interval: int) -> None:
        import trio

        while True:
            await trio.sleep(interval)
            for reference, transfer in self._latest.items():
                if not transfer.is_final:
                    click.echo(one_line(f"uftp: {reference}: {progress_line(transfer)}"), err=True)

    async def _display(self) -> None:
        import trio

        await trio.sleep(_PATIENCE)
        while not self._latest:  # noqa: ASYNC110 -- a plain dictionary; until then somebody may be typing a password
            await trio.sleep(_INTERVAL)
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
        )

        columns = (TextColumn("{task.fields[files]}"), BarColumn(), DownloadColumn(), TextColumn("{task.fields[rate]}"))
        with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
            tasks = {}
            while True:
                for reference, transfer in self._latest.items():
                    if reference not in tasks:
                        tasks[reference] = progress.add_task("", total=None, files="", rate="")
                    name = f"{title(transfer)[:_NAME_WIDTH]}  " if len(self._latest) > 1 else ""
                    parts = _progress(transfer)
                    rate = ", ".join(part for part in parts if part.endswith(("/s", " left")) or "try" in part)
                    progress.update(
                        tasks[reference],
                        completed=transfer.bytes,
                        total=transfer.total or None,
                        files=escape(f"{name}{describe_state(transfer)}  {_files(transfer)}"),
                        rate=escape(rate),
                    )
                progress.refresh()
                await trio.sleep(_INTERVAL)


def print_record(transfer: Transfer, reference: str, errors: Sequence[TransferError] = ()) -> None:
    """A transfer and its errors as JSON, an object a line."""
    print_json(record(transfer, reference))
    for error in errors:
        print_json(error_record(transfer, error))

"""What `cp` and `sync` say while they work and at the end: results, notes, failures and the summary."""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import TYPE_CHECKING, Final

import click

from uftp.cli.output import human_size, print_json
from uftp.cli.runner import one_line, print_error
from uftp.cli.settings import Settings
from uftp.client.wording import printable

if TYPE_CHECKING:
    from uftp.transfer.results import CopyState, CopySummary, FileResult

# Options whose value is a secret, or holds one behind a colon.
_SECRET_OPTIONS: Final = ("-A", "--auth-token", "--source-token", "--target-token", "--one-time-password")
_USER_OPTIONS: Final = ("-u", "--user", "--source-user", "--target-user")
_URL_PASSWORD: Final = re.compile(r"(ftp://[^/@:]*):[^/@]*@", re.IGNORECASE)


class Reports:
    """Told of what happens in a copy, and says it as the options ask for.

    Args:
        settings: common options.
        each_rate: show the rate of each file.
        dry_run: nothing is done; what would be is the result, on standard output.
    """

    def __init__(self, settings: Settings, *, each_rate: bool = False, dry_run: bool = False) -> None:
        from uftp.transfer.results import CopyState

        self._settings = settings
        self._each_rate = each_rate
        self._dry_run = dry_run
        self._several = False
        self._pending: list[FileResult] = []
        self.state: CopyState = CopyState(on_result=self._result, on_note=self._note, on_session=self._session)

    def _result(self, result: FileResult) -> None:
        state = self.state
        self._several = self._several or state.files_found > 1 or state.files_done + state.files_failed > 1
        if self._settings.json:
            print_json({**result.to_json(), "dry_run": True} if self._dry_run else result.to_json())
        if result.error is not None:
            # A single failure is printed once, at the end.
            self._pending.append(result)
            if self._several:
                self._print_pending()
        elif self._settings.json:
            return
        elif self._dry_run:
            if not self._settings.quiet:
                click.echo(printable(_action(result)))
        elif self._settings.verbose or self._each_rate:
            # Small files that go together are not timed one by one.
            rate = f" [{human_size(result.bytes / result.seconds)}/s]" if result.seconds else ""
            measured = f" [{result.bytes} bytes]{rate}" if result.action == "copy" else ""
            click.echo(one_line(f"{_action(result).removeprefix('copy ')}{measured}"), err=True)

    def _print_pending(self) -> None:
        for one in self._pending:
            if one.error is not None:
                print_error(self._settings, one.error, one.problem)
        self._pending.clear()

    def _note(self, text: str) -> None:
        if not self._settings.quiet:
            click.echo(one_line(f"uftp: {text}"), err=True)

    def _session(self, text: str) -> None:
        if self._settings.verbose:
            click.echo(one_line(f"uftp: {text}"), err=True)

    def finish(self, summary: CopySummary, *, show: bool) -> None:
        """Say what it came to; `show` in words, too, where nobody has asked for JSON.

        Raises:
            UFTPError: some files failed.
        """
        if not (len(self._pending) == summary.failed == 1 and not summary.files):
            self._print_pending()  # else the one error is raised below
        if self._settings.json:
            print_json({**summary.to_json(), "dry_run": True} if self._dry_run else summary.to_json())
        elif self._dry_run:
            if not self._settings.quiet:
                click.echo(describe(summary, dry_run=True), err=True)
        elif show:
            click.echo(describe(summary), err=True)
        summary.raise_for_failures()

    def interrupted(self) -> str:
        """What to tell somebody who has pressed Ctrl-C."""
        state = self.state
        if self._dry_run:
            return "nothing was changed"
        if "-" in sys.argv[1:]:
            return "what came from standard input has to come again"
        done = f"{state.files_done} of {_found(state)} files done; " if state.files_found else ""
        return f"{done}to go on: {resume_command(sys.argv)}"


def _found(state: CopyState) -> str:
    return f"{state.files_found}{'' if state.planned else '+'}"


def _action(result: FileResult) -> str:
    if result.action == "delete":
        return f"delete {result.target}"
    return f"{result.action} {result.source} -> {result.target}"


def describe(summary: CopySummary, *, dry_run: bool = False) -> str:
    """The summary in a line."""
    if dry_run:
        return (
            f"{_count(summary.files, 'file', 'files')} to copy ({human_size(summary.bytes)}), {summary.deleted} to "
            f"delete, {summary.unchanged} unchanged, {summary.failed} with errors; nothing was changed"
        )
    parts = [_count(summary.files, "file", "files")]
    if summary.unchanged:
        parts.append(f"{summary.unchanged} unchanged")
    if summary.deleted:
        parts.append(f"{summary.deleted} deleted")
    if summary.failed:
        parts.append(f"{summary.failed} failed")
    if summary.not_tried:
        parts.append(f"{summary.not_tried} not tried")
    if summary.retries:
        parts.append(f"{summary.retries} retries")
    if summary.unverified:
        parts.append(f"{summary.unverified} without checksum")
    if summary.taken_over:
        parts.append(f"{human_size(summary.taken_over)} taken over")
    rate = human_size(summary.bytes / summary.seconds) if summary.seconds else "-"
    return f"{', '.join(parts)}, {human_size(summary.bytes)} in {summary.seconds:.1f} s ({rate}/s)"


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def resume_command(arguments: list[str]) -> str:
    """The command line that was run, as it is typed again; secrets in it as `...`."""
    shown = [os.path.basename(arguments[0])]
    previous = ""
    one_time = "-p" if "rcp" in arguments[1:2] else "-A"  # for others -p keeps times
    for argument in arguments[1:]:
        name, equals, value = argument.partition("=")
        if argument.startswith(one_time) and argument[2:3] not in ("", "@"):
            shown.append(f"{one_time}...")
        elif previous in (*_SECRET_OPTIONS, one_time) and not argument.startswith("@"):
            shown.append("...")
        elif previous in _USER_OPTIONS and ":" in argument:
            shown.append(argument.partition(":")[0] + ":...")
        elif equals and name in _SECRET_OPTIONS and not value.startswith("@"):
            shown.append(f"{name}=...")
        elif equals and name in _USER_OPTIONS and ":" in value:
            shown.append(f"{name}={value.partition(':')[0]}:...")
        else:
            shown.append(_URL_PASSWORD.sub(r"\1:...@", argument))
        previous = argument
    return shlex.join(shown)

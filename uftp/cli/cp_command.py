"""`uftp cp`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from uftp.cli.data_options import DataOptions, data_options
from uftp.cli.output import human_size, print_json
from uftp.cli.runner import one_line, print_error, run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import is_url, parse_url
from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.transfer.options import CopyOptions
    from uftp.transfer.results import CopyState, CopySummary, FileResult

_LATER = {
    "resume": "-R: resuming is not available yet; without it the file is copied from its beginning",
}


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.argument("target", metavar="TARGET")
@click.option("-r", "--recurse", "--recursive", "recursive", is_flag=True, help="Directories with all that is in them.")
@click.option("-p", "--preserve", is_flag=True, help="Keep times and permission bits.")
@click.option("-t", "--threads", type=click.IntRange(1, 64), help="Sessions at once; automatic if not given.")
@click.option("-T", "--split-threshold", metavar="SIZE", help="Split files from this size on, as 512m.")
@click.option("-B", "--bytes", "byte_range", metavar="FIRST-LAST[-p]", help="Only these bytes; see above.")
@click.option("-D", "--show-performance", is_flag=True, help="Show the rate of each file, and of all, at the end.")
@data_options
@click.option("-R", "--resume", is_flag=True, help="Go on with partial files (not available yet).")
@click.option("-a", "--archive", is_flag=True, help="Send tar or zip archives, and unpack them into TARGET.")
@common_options
def command(
    settings: Settings,
    sources: Sequence[str],
    target: str,
    recursive: bool,
    preserve: bool,
    threads: int | None,
    split_threshold: str | None,
    byte_range: str | None,
    show_performance: bool,
    data: DataOptions,
    archive: bool,
    **later: bool,
) -> None:
    """Copy files to a server, or from one. One side is local, the other one URLs of one server.

    A target that is a directory, or ends with a slash, gets each source under its own name. A source directory with
    a slash at its end means what is in it. `-` is standard input or output.

    No file ever has its name before all of it is there. A failed file is named, and the others go on. Large files
    are split into ranges that several sessions carry at once.

    -a sends tar or zip archives, which the server unpacks into TARGET, a directory, as they arrive: files and
    directories only, links are refused. What could not be unpacked is named.

    -B 0-1023 copies these bytes only (both ends included; sizes may have k, m, g behind them). With -p behind, as
    0-1023-p, they are written at the same place of the target, and the rest of it stays as it is.

    With --json each line is one object: for each file {"type": "file", "source", "target", "bytes", "seconds", "ok"},
    with "error" and "exit_code" if it failed; at the end {"type": "summary", "files", "failed", "bytes", "seconds"}.

    \b
    Examples:
      uftp cp results.tar https://auth.example.org:9000/rest/auth/CLUSTER:/data/
      uftp cp -r 'https://auth.example.org:9000/rest/auth/CLUSTER:/data/run*' .
      tar c work | uftp cp - https://auth.example.org:9000/rest/auth/CLUSTER:backup.tar
      tar c work | uftp cp -a - https://auth.example.org:9000/rest/auth/CLUSTER:/data/
    """
    for name, reason in _LATER.items():
        if later[name]:
            raise UsageError(reason)
    from uftp.transfer.options import CopyOptions, parse_byte_range, parse_size

    options = CopyOptions(
        recursive=recursive,
        preserve=preserve,
        threads=threads,
        split_threshold=parse_size(split_threshold) if split_threshold else None,
        byte_range=parse_byte_range(byte_range) if byte_range else None,
        archive=archive,
    )
    if archive and (recursive or preserve or byte_range):
        raise UsageError("-a: takes archives as they are; -r, -p and -B make no sense with it")
    summary = _copy(settings, sources, target, options, data, show_performance)
    if settings.json:
        print_json(summary.to_json())
    elif show_performance or (sys.stderr.isatty() and not settings.quiet and target != "-"):
        click.echo(_describe(summary), err=True)
    summary.raise_for_failures()


def _copy(
    settings: Settings,
    sources: Sequence[str],
    target: str,
    options: CopyOptions,
    data: DataOptions,
    show_performance: bool,
) -> CopySummary:
    from uftp.cli.progress import showing_progress
    from uftp.transfer.copy import copy_files
    from uftp.transfer.results import CopyState

    several = False

    def on_result(result: FileResult) -> None:
        nonlocal several
        several = several or state.files_found > 1 or state.files_done + state.files_failed > 1
        if settings.json:
            print_json(result.to_json())
        if result.error is not None:
            # A single failure is printed once, at the end.
            pending.append(result)
            if several:
                for one in pending:
                    if one.error is not None:
                        print_error(settings, one.error, one.problem)
                pending.clear()
        elif (settings.verbose or show_performance) and not settings.json:
            rate = human_size(result.bytes / result.seconds) if result.seconds else "-"
            line = f"{result.source} -> {result.target} [{result.bytes} bytes] [{rate}/s]"
            click.echo(one_line(line), err=True)

    def on_note(text: str) -> None:
        if not settings.quiet:
            click.echo(one_line(f"uftp: {text}"), err=True)

    def on_session(text: str) -> None:
        if settings.verbose:
            click.echo(one_line(f"uftp: {text}"), err=True)

    pending: list[FileResult] = []
    state: CopyState = CopyState(on_result=on_result, on_note=on_note, on_session=on_session)
    sources, target = [settings.expand(source) for source in sources], settings.expand(target)
    remote = target if is_url(target) else next((source for source in sources if is_url(source)), None)
    if remote is None:
        raise UsageError(f"{target}: neither source nor target is a URL; one of them must be on a server")
    access = data.apply(settings.access(parse_url(remote)))

    async def run() -> CopySummary:
        async with showing_progress(settings, state, enabled=target != "-"):
            return await copy_files(sources, target, access=access, options=options, state=state)

    summary = run_async(settings, run)
    if len(pending) == 1 and summary.files:
        print_error(settings, pending[0].error or UsageError(""), pending[0].problem)
    return summary


def _describe(summary: CopySummary) -> str:
    rate = human_size(summary.bytes / summary.seconds) if summary.seconds else "-"
    files = f"{summary.files} file{'' if summary.files == 1 else 's'}"
    failed = f", {summary.failed} failed" if summary.failed else ""
    return f"{files}{failed}, {human_size(summary.bytes)} in {summary.seconds:.1f} s ({rate}/s)"

"""`uftp cp`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from uftp.cli.copy_options import ManyOptions, OrderedCommand, many_options
from uftp.cli.data_options import DataOptions, data_options
from uftp.cli.runner import Interrupted, run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import is_url, parse_url
from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.transfer.results import CopySummary


@click.command(cls=OrderedCommand)
@click.argument("sources", metavar="SOURCE...", nargs=-1)
@click.argument("target", metavar="TARGET")
@click.option("-r", "--recurse", "--recursive", "recursive", is_flag=True, help="Directories with all that is in them.")
@click.option("-p", "--preserve", is_flag=True, help="Keep times and permission bits.")
@click.option("-t", "--threads", type=click.IntRange(1, 64), help="Sessions at once; automatic if not given.")
@click.option("-T", "--split-threshold", metavar="SIZE", help="Split files from this size on, as 512m.")
@click.option("-B", "--bytes", "byte_range", metavar="FIRST-LAST[-p]", help="Only these bytes; see above.")
@click.option("-D", "--show-performance", is_flag=True, help="Show the rate of each file, and of all, at the end.")
@many_options
@data_options
@click.option(
    "-R/--no-resume",
    "--resume/ ",
    "resume",
    default=None,
    help="Go on with partial files, and leave what is there already; or begin anew, whatever a last run has left.",
)
@click.option("--clean", is_flag=True, help="Remove what interrupted copies have left in TARGET; copy nothing.")
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
    many: ManyOptions,
    data: DataOptions,
    resume: bool | None,
    clean: bool,
    archive: bool,
) -> None:
    """Copy files to a server, or from one. One side is local, the other one URLs of one server.

    A target that is a directory, or ends with a slash, gets each source under its own name. A source directory with
    a slash at its end means what is in it. `-` is standard input or output.

    No file ever has its name before all of it is there, and each is compared with its source by checksum. A failed
    file is named, and the others go on. Large files are split into ranges that several sessions carry at once.

    After an interrupt, of whatever kind, the same command goes on where the last run stopped. `uftp cp --clean TARGET`
    removes what such runs have left, if nobody wants to go on.

    Of a tree, --include and --exclude choose what is copied: patterns as of rsync, of which the first one that matches
    decides. --dry-run shows what comes of them.

    -a sends tar or zip archives, which the server unpacks into TARGET, a directory, as they arrive: files and
    directories only, links are refused. What could not be unpacked is named.

    -B 0-1023 copies these bytes only (both ends included; sizes may have k, m, g behind them). With -p behind, as
    0-1023-p, they are written at the same place of the target, and the rest of it stays as it is.

    With --json each line is one object: for each file {"type": "file", "source", "target", "bytes", "seconds", "ok"},
    with "error" and "exit_code" if it failed; at the end {"type": "summary", "files", "failed", "bytes", ...}.

    \b
    Examples:
      uftp cp results.tar https://auth.example.org:9000/rest/auth/CLUSTER:/data/
      uftp cp -r 'https://auth.example.org:9000/rest/auth/CLUSTER:/data/run*' .
      uftp cp -r --exclude '*.tmp' --dry-run runs https://auth.example.org:9000/rest/auth/CLUSTER:/data/
      tar c work | uftp cp - https://auth.example.org:9000/rest/auth/CLUSTER:backup.tar
      tar c work | uftp cp -a - https://auth.example.org:9000/rest/auth/CLUSTER:/data/
    """
    from uftp.cli.copy_reports import Reports
    from uftp.cli.progress import showing_progress
    from uftp.transfer.copy import copy_files
    from uftp.transfer.options import CopyOptions, parse_byte_range, parse_size

    sources, target = [settings.expand(source) for source in sources], settings.expand(target)
    if clean:
        _clean(settings, sources, target, dry_run=many.dry_run)
        return
    if not sources:
        raise UsageError("only one place is named; name what to copy, and then where to")
    options = CopyOptions(
        recursive=recursive,
        preserve=preserve,
        threads=threads,
        split_threshold=parse_size(split_threshold) if split_threshold else None,
        byte_range=parse_byte_range(byte_range) if byte_range else None,
        archive=archive,
        filters=many.filters(),
        dry_run=many.dry_run,
        links=many.links,
        verify=many.verify,
        resume=resume,
        retries=many.retries,
        limit_rate=many.rate(),
        max_errors=many.max_errors,
    )
    if archive and (recursive or preserve or byte_range or many.is_selective or many.dry_run):
        raise UsageError("-a: takes archives as they are; -r, -p, -B, filters and --dry-run make no sense with it")
    if many.dry_run and "-" in (*sources, target):
        raise UsageError("--dry-run: standard input and output are streams; there is nothing to look at before")
    remote = target if is_url(target) else next((source for source in sources if is_url(source)), None)
    if remote is None:
        raise UsageError(f"{target}: neither source nor target is a URL; one of them must be on a server")
    if is_url(target) and all(is_url(source) for source in sources):
        raise UsageError("both sides are servers; `uftp rcp` copies from one to the other")
    access = data.apply(settings.access(parse_url(remote)))
    reports = Reports(settings, each_rate=show_performance, dry_run=many.dry_run)

    async def run() -> CopySummary:
        async with showing_progress(settings, reports.state, interval=many.progress_interval, bar=target != "-"):
            return await copy_files(sources, target, access=access, options=options, state=reports.state)

    try:
        summary = run_async(settings, run, when_interrupted=reports.interrupted)
    except Interrupted:
        # There is nothing to go on with, and a directory that was made now would be taken for one that was there.
        if not reports.state.completed:
            raise
        summary = reports.state.summary()
    on_terminal = sys.stderr.isatty() and not settings.quiet and target != "-"
    reports.finish(summary, show=show_performance or on_terminal)


def _clean(settings: Settings, sources: Sequence[str], target: str, *, dry_run: bool) -> None:
    from uftp.cli.copy_reports import Reports
    from uftp.transfer.cleaning import clean

    if sources:
        raise UsageError("--clean: removes what is left in TARGET; name it alone")
    access = settings.access(parse_url(target)) if is_url(target) else None
    reports = Reports(settings, dry_run=dry_run)
    summary = run_async(
        settings,
        lambda: clean(target, access=access, state=reports.state, dry_run=dry_run),
        when_interrupted=lambda: f"{reports.state.deleted} removed",
    )
    if not (settings.json or settings.quiet or dry_run):
        click.echo(f"{summary.deleted} unfinished files removed", err=True)
    reports.finish(summary, show=False)

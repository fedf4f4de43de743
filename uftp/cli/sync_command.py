"""`uftp sync`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from uftp.cli.copy_options import ManyOptions, OrderedCommand, many_options
from uftp.cli.data_options import DataOptions, data_options
from uftp.cli.output import human_size, print_json
from uftp.cli.runner import one_line, run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import is_url, parse_url
from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.transfer.results import CopySummary
    from uftp.transfer.sync import SyncSummary


@click.command(cls=OrderedCommand)
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("--delete", is_flag=True, help="Remove from TARGET what SOURCE does not have.")
@click.option("--delete-excluded", is_flag=True, help="Remove what the patterns leave out, too.")
@click.option("--force", is_flag=True, help="With --delete: even if SOURCE is empty.")
@click.option("-c", "--checksum", is_flag=True, help="Compare by checksum, not by time, what has the same size.")
@click.option("--size-only", is_flag=True, help="Compare by size alone.")
@click.option("--update", is_flag=True, help="Leave files that are newer in TARGET.")
@click.option(
    "--delta",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="Send only the changes of large files: where it pays (the default), always, or never.",
)
@click.option("-t", "--threads", type=click.IntRange(1, 64), help="Sessions at once; automatic if not given.")
@many_options
@data_options
@common_options
def command(
    settings: Settings,
    source: str,
    target: str,
    delete: bool,
    delete_excluded: bool,
    force: bool,
    checksum: bool,
    size_only: bool,
    update: bool,
    delta: Literal["auto", "always", "never"],
    threads: int | None,
    many: ManyOptions,
    data: DataOptions,
) -> None:
    """Make TARGET equal to SOURCE, a tree or a file, moving only what differs. One is here, the other on a server.

    Of a tree, TARGET is the place of the tree itself, with or without a slash at its end: what is in SOURCE is in
    TARGET afterwards. Files of the same size and time are taken for equal, the others are copied with their times and
    modes. What only TARGET has stays there, unless --delete is given. Then it is removed, but only after everything
    was copied: if a file fails or a directory cannot be listed, nothing is removed. What --include and --exclude leave
    out is neither copied nor removed. --dry-run shows what would be done.

    Of a single file, both ends find the blocks they have in common, wherever these stand, and the rest moves. The
    result is compared with the original by checksum before it gets its name here; on a server it is copied again if it
    should not be equal. Where a server has no delta sync, or TARGET is not there yet, the whole file is copied. In
    trees that is done with large files where the line is so slow that it pays.

    With --json each line is one object. For a tree: {"type": "file", "link", "mkdir" or "delete", "source", "target",
    "bytes", "seconds", "ok"}, with "error" and "exit_code" if it failed, and "dry_run" in a dry run; at the end
    {"type": "summary", "files", "failed", "unchanged", "deleted", "bytes", "seconds", ...}. For a file: {"type":
    "sync", "source", "target", "size", "literal", "method", "reason", "verified", "seconds"}; literal is the number of
    bytes that had to move.

    \b
    Examples:
      uftp sync runs https://auth.example.org:9000/rest/auth/CLUSTER:/data/runs
      uftp sync --delete --exclude '*.tmp' --dry-run https://auth.example.org:9000/rest/auth/CLUSTER:/data/runs runs
      uftp sync results.db https://auth.example.org:9000/rest/auth/CLUSTER:/data/results.db
    """
    from uftp.cli.copy_reports import Reports
    from uftp.cli.progress import showing_progress
    from uftp.transfer.options import CopyOptions
    from uftp.transfer.sync import SyncSummary
    from uftp.transfer.tree_sync import TreeSyncOptions, sync_places

    source, target = settings.expand(source), settings.expand(target)
    remote = source if is_url(source) else target
    if not is_url(remote):
        raise UsageError(f"{target}: neither source nor target is a URL; one of them must be on a server")
    options = TreeSyncOptions(
        copy=CopyOptions(
            threads=threads,
            filters=many.filters(),
            dry_run=many.dry_run,
            links=many.links,
            verify=many.verify,
            retries=many.retries,
            limit_rate=many.rate(),
            max_errors=many.max_errors,
        ),
        delete=delete,
        delete_excluded=delete_excluded,
        force=force,
        checksum=checksum,
        size_only=size_only,
        update=update,
        delta=delta,
    )
    access = data.apply(settings.access(parse_url(remote)))
    reports = Reports(settings, dry_run=many.dry_run)

    async def run() -> CopySummary | SyncSummary:
        async with showing_progress(settings, reports.state, interval=many.progress_interval):
            return await sync_places(source, target, access=access, options=options, state=reports.state)

    summary = run_async(settings, run, when_interrupted=reports.interrupted)
    if not isinstance(summary, SyncSummary):
        reports.finish(summary, show=not settings.quiet)
    elif settings.json:
        print_json(summary.to_json())
    elif not settings.quiet:
        click.echo(one_line(_describe(summary)), err=True)


def _describe(summary: SyncSummary) -> str:
    took = f"in {summary.seconds:.1f} s"
    if summary.method == "copy":
        return f"{summary.target}: all {human_size(summary.size)} copied {took}: {summary.reason}"
    percent = 100 * summary.literal / summary.size if summary.size else 0.0
    moved = f"{human_size(summary.literal)} of {human_size(summary.size)} moved ({percent:.1f} %)"
    return f"{summary.target}: {moved} {took}, equal by {summary.verified}"

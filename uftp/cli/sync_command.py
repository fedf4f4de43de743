"""`uftp sync`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from uftp.cli.output import human_size, print_json
from uftp.cli.runner import one_line, run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import is_url, parse_url
from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.transfer.sync import SyncSummary


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@common_options
def command(settings: Settings, source: str, target: str) -> None:
    """Make TARGET equal to SOURCE, moving only what differs. One of them is a file here, the other one on a server.

    Both ends find the blocks they have in common, wherever these stand in the file, and the rest moves. The result is
    compared with the original by checksum before it gets its name here; on a server it is copied again if it should
    not be equal. Where a server has no delta sync, or TARGET is not there yet, the whole file is copied.

    For trees use cp -r.

    With --json one object: {"type": "sync", "source", "target", "size", "literal", "method", "reason", "verified",
    "seconds"}; literal is the number of bytes that had to move.

    \b
    Examples:
      uftp sync results.db https://auth.example.org:9000/rest/auth/CLUSTER:/data/results.db
      uftp sync https://auth.example.org:9000/rest/auth/CLUSTER:/data/results.db .
    """
    from uftp.cli.progress import showing_progress
    from uftp.transfer.results import CopyState
    from uftp.transfer.sync import sync_file

    source, target = settings.expand(source), settings.expand(target)
    remote = source if is_url(source) else target
    if not is_url(remote):
        raise UsageError(f"{target}: neither source nor target is a URL; one of them must be on a server")
    access = settings.access(parse_url(remote))

    def on_note(text: str) -> None:
        if not settings.quiet:
            click.echo(one_line(f"uftp: {text}"), err=True)

    state = CopyState(on_note=on_note)

    async def run() -> SyncSummary:
        async with showing_progress(settings, state):
            return await sync_file(source, target, access=access, state=state)

    summary = run_async(settings, run)
    if settings.json:
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

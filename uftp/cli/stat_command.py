"""`uftp stat`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from uftp.cli.output import describe, iso_time, print_json, print_name
from uftp.cli.runner import run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import RemoteUrl

if TYPE_CHECKING:
    from uftp.client.session import FTPSession


@click.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@common_options
def command(settings: Settings, urls: Sequence[str]) -> None:
    """Show type, size, time, mode and your rights of files and directories.

    \b
    Example:
      uftp stat https://auth.example.org:9000/rest/auth/CLUSTER:/data/run1.nc
    """
    from uftp.cli.places import for_each, matching

    async def show_one(session: FTPSession, url: RemoteUrl) -> None:
        for entry in await matching(session, url):
            info = entry.info
            if settings.json:
                print_json(describe(info, entry.path))
                continue
            flags = zip(
                ("read", "write", "enter" if info.is_dir else "execute"),
                (info.readable, info.writable, info.executable),
                strict=True,
            )
            print_name(f"Path:     {os.fsdecode(entry.path) or '.'}")
            click.echo(f"Type:     {'directory' if info.is_dir else 'file'}")
            click.echo(f"Size:     {info.size}")
            click.echo(f"Modified: {iso_time(info.mtime_ns)}")
            if info.permissions is not None:
                click.echo(f"Mode:     {info.permissions:04o}")
            click.echo(f"Rights:   {', '.join(word for word, flag in flags if flag) or 'none'}")

    run_async(settings, lambda: for_each(settings, urls, show_one))

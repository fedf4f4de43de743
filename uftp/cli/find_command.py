"""`uftp find`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from uftp.cli.output import describe, print_json, print_name
from uftp.cli.runner import print_error, run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import RemoteUrl
from uftp.errors import SomeFailed, UFTPError

if TYPE_CHECKING:
    from uftp.client.session import FTPSession
    from uftp.protocol.facts import FileInfo


@click.command()
@click.argument("url", metavar="URL")
@click.option("-r", "--recurse", is_flag=True, help="Go into subdirectories.")
@click.option("-F", "--files-only", is_flag=True, help="List files only, not directories.")
@click.option("-p", "--pattern", default="*", metavar="PATTERN", help="List only entries whose name matches.")
@common_options
def command(settings: Settings, url: str, recurse: bool, files_only: bool, pattern: str) -> None:
    """List what is in a directory, with -r the whole tree, one path a line.

    \b
    Example:
      uftp find -r -F -p '*.nc' https://auth.example.org:9000/rest/auth/CLUSTER:/data/
    """
    from fnmatch import fnmatchcase

    from uftp.cli.places import for_each, matching
    from uftp.client.remote import MAX_DEPTH, Walk

    failed: list[UFTPError] = []

    def show(path: bytes, info: FileInfo) -> None:
        if (files_only and info.is_dir) or not fnmatchcase(os.fsdecode(info.name), pattern):
            return
        if settings.json:
            print_json(describe(info, path))
        else:
            print_name(os.fsdecode(path))

    def not_listed(path: bytes, error: UFTPError) -> None:
        failed.append(error)
        print_error(settings, error)

    async def find_one(session: FTPSession, place: RemoteUrl) -> None:
        for top in await matching(session, place):
            path = top.path.rstrip(b"/") or (b"/" if top.path else b".")
            show(path, top.info)
            if top.info.is_dir:
                depth = MAX_DEPTH if recurse else 1
                async for entry in Walk(session.listdir, top.path and path, on_error=not_listed, max_depth=depth):
                    show(entry.path, entry.info)

    run_async(settings, lambda: for_each(settings, [url], find_one))
    if failed:
        raise SomeFailed(f"{len(failed)} of the directories could not be listed")

"""`uftp ls`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from uftp.cli.output import describe, long_line, print_json, print_name
from uftp.cli.runner import run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import RemoteUrl

if TYPE_CHECKING:
    from uftp.client.session import FTPSession
    from uftp.protocol.facts import FileInfo


@click.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("-a", "--all", "show_all", is_flag=True, help="Unfinished uploads, too.")
@click.option("-l", "--long", "long", is_flag=True, help="Rights, size and time (this is how it is without -1).")
@click.option("-1", "--names", is_flag=True, help="Names only, one a line.")
@click.option("-d", "--directory", is_flag=True, help="Directories themselves, not what is in them.")
@common_options
def command(settings: Settings, urls: Sequence[str], show_all: bool, long: bool, names: bool, directory: bool) -> None:
    """List directories, and files.

    Each line has the rights that you have (r, w, x), the size in bytes, the time of the last change and the name.

    \b
    Example:
      uftp ls -u alice https://auth.example.org:9000/rest/auth/CLUSTER:/data/
    """
    from uftp.cli.places import for_each, matching
    from uftp.client.remote import join
    from uftp.protocol.names import is_part_name

    def show(entries: Sequence[tuple[bytes, FileInfo]]) -> None:
        kept = [entry for entry in entries if show_all or not is_part_name(entry[1].name)]
        width = max((len(str(info.size)) for _, info in kept), default=1)
        for path, info in kept:
            if settings.json:
                print_json(describe(info, path))
            else:
                print_name(os.fsdecode(info.name) if names and not long else long_line(info, width))

    async def list_one(session: FTPSession, url: RemoteUrl) -> None:
        entries = await matching(session, url)
        files = [entry for entry in entries if directory or not entry.info.is_dir]
        show([(entry.path, replace(entry.info, name=entry.path) if url.pattern else entry.info) for entry in files])
        for entry in entries:
            if not entry.info.is_dir or directory:
                continue
            if (len(entries) > 1 or len(urls) > 1) and not settings.json:
                print_name(f"{os.fsdecode(entry.path) or '.'}:")
            found = sorted(await session.listdir(entry.path), key=lambda info: info.name)
            show([(join(entry.path, info.name), info) for info in found])

    run_async(settings, lambda: for_each(settings, urls, list_one))

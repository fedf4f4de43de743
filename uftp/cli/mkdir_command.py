"""`uftp mkdir`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from uftp.cli.runner import run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import RemoteUrl, directory_around

if TYPE_CHECKING:
    from uftp.client.session import FTPSession


@click.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("-p", "--parents", is_flag=True, help="Create missing parents; a directory that is there is no error.")
@common_options
def command(settings: Settings, urls: Sequence[str], parents: bool) -> None:
    """Create directories.

    \b
    Example:
      uftp mkdir -p https://auth.example.org:9000/rest/auth/CLUSTER:/data/2026/november
    """
    from uftp.cli.places import for_each
    from uftp.client.remote import make_directories
    from uftp.client.url import parse_url

    async def make_one(session: FTPSession, url: RemoteUrl) -> None:
        if parents:
            await make_directories(session, url.path.rstrip(b"/") or url.path)
        else:
            await session.mkdir(url.path.rstrip(b"/") or url.path or b".")

    async def make_all() -> None:
        for text in map(settings.expand, urls):
            # A session needs a directory that is there: with -p it may be any of those above.
            url = parse_url(text)
            base = (b"/" if url.path.startswith(b"/") else b"") if parents else directory_around(url)
            await for_each(settings, [text], make_one, directory=base, writes=True)

    run_async(settings, make_all)

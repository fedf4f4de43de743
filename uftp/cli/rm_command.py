"""`uftp rm`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from uftp.cli.runner import run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import RemoteUrl, directory_of, session_directory

if TYPE_CHECKING:
    from uftp.client.session import FTPSession


@click.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("-r", "--recurse", "--recursive", "recursive", is_flag=True, help="Directories with all that is in them.")
@common_options
def command(settings: Settings, urls: Sequence[str], recursive: bool) -> None:
    """Remove files; with -r directories, too. Links are removed, not what they point to.

    \b
    Example:
      uftp rm 'https://auth.example.org:9000/rest/auth/CLUSTER:/data/*.tmp'
    """
    from uftp.cli.places import for_each, matching
    from uftp.client.remote import remove
    from uftp.client.url import parse_url

    async def remove_one(session: FTPSession, url: RemoteUrl) -> None:
        for entry in await matching(session, url):
            await remove(session, entry.path.rstrip(b"/") or entry.path, recursive=recursive, info=entry.info)

    urls = [settings.expand(url) for url in urls]
    places = [parse_url(text) for text in urls]
    # What is removed must not be the directory the session sits in.
    above = [place.with_path(place.path.rstrip(b"/")) if place.pattern is None else place for place in places]
    base = directory_of(session_directory(above)) if above else None
    run_async(settings, lambda: for_each(settings, urls, remove_one, directory=base, writes=True))

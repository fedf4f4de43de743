"""`uftp mv`."""

from __future__ import annotations

import click

from uftp.cli.runner import run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import is_url, parse_url, session_directory
from uftp.errors import UsageError


@click.command()
@click.argument("source", metavar="URL")
@click.argument("target", metavar="TARGET")
@common_options
def command(settings: Settings, source: str, target: str) -> None:
    """Rename or move a file or directory on a server.

    TARGET is a URL on the same server, or just a path there. A directory gets the source under its own name; a file
    of the new name is replaced.

    \b
    Example:
      uftp mv https://auth.example.org:9000/rest/auth/CLUSTER:/data/run1.nc /data/old/
    """
    from uftp.cli.places import session_on
    from uftp.client.remote import join

    source, target = settings.expand(source), settings.expand(target, or_path=True)
    here = parse_url(source)
    there = parse_url(target) if is_url(target) else parse_url(f"{_service(source)}{target}")
    if here.service != there.service:
        raise UsageError("both places must be on the same server; use cp for others")
    if here.pattern is not None or there.pattern is not None:
        raise UsageError("mv takes no wildcards")
    path = here.path.rstrip(b"/")
    if not path:
        raise UsageError(f"{here.display()}: names no file")

    async def move() -> None:
        base = session_directory([here.with_path(path), there.with_path(there.path.rstrip(b"/"))])
        async with session_on(settings, here, base, writes=True) as session:
            name = there.path.rstrip(b"/") or there.path
            info = await session.stat_or_none(name)
            if info is not None and info.is_dir:
                name = join(there.path, path.rpartition(b"/")[2])
            elif there.path.endswith(b"/"):
                raise UsageError(f"{there.display()}: no such directory; create it with mkdir")
            await session.rename(path, name)

    run_async(settings, move)


def _service(source: str) -> str:
    url = parse_url(source)
    if url.kind != "ftp":
        return f"{url.service}:"
    scheme, _, rest = source.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"

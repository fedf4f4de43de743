"""`uftp checksum`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from uftp.cli.output import print_json, print_name
from uftp.cli.runner import run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import RemoteUrl
from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.client.session import FTPSession


@click.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("-a", "--algorithm", metavar="NAME", help="MD5, SHA-1, SHA-256, SHA-512 or BLAKE3; the server's default.")
@click.option("-B", "--bytes", "byte_range", metavar="FIRST-LAST", help="Only these bytes, as 0-1023.")
@common_options
def command(settings: Settings, urls: Sequence[str], algorithm: str | None, byte_range: str | None) -> None:
    """Compute checksums of files on the server; each line has the checksum in hex and the path.

    \b
    Example:
      uftp checksum -a SHA-256 'https://auth.example.org:9000/rest/auth/CLUSTER:/data/*.nc'
    """
    from uftp.cli.places import for_each, matching
    from uftp.transfer.options import parse_byte_range

    asked = parse_byte_range(byte_range) if byte_range else None

    async def hash_one(session: FTPSession, url: RemoteUrl) -> None:
        for entry in await matching(session, url):
            if entry.info.is_dir:
                if url.pattern is None:
                    raise UsageError(f"{url.display()}: is a directory; name files")
                continue
            offset, length = asked.within(entry.info.size) if asked else (0, None)
            result = await session.checksum(entry.path, algorithm, offset=offset, length=length)
            if settings.json:
                record = {"path": os.fsdecode(entry.path), "algorithm": result.algorithm, "checksum": result.digest}
                print_json({**record, "size": entry.info.size})
            else:
                print_name(f"{result.digest} {os.fsdecode(entry.path)}")

    run_async(settings, lambda: for_each(settings, urls, hash_one))

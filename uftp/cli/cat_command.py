"""`uftp cat`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from uftp.cli.data_options import DataOptions, data_options
from uftp.cli.runner import run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import parse_url


@click.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option("-B", "--bytes", "byte_range", metavar="FIRST-LAST", help="Only these bytes of each file, as 0-1023.")
@data_options
@common_options
def command(settings: Settings, urls: Sequence[str], byte_range: str | None, data: DataOptions) -> None:
    """Write files to standard output, one after the other.

    \b
    Example:
      uftp cat https://auth.example.org:9000/rest/auth/CLUSTER:/data/log.txt | less
    """
    from uftp.transfer.copy import copy_files
    from uftp.transfer.options import CopyOptions, parse_byte_range

    options = CopyOptions(byte_range=parse_byte_range(byte_range) if byte_range else None)
    urls = [settings.expand(url) for url in urls]
    access = data.apply(settings.access(parse_url(urls[0])))
    summary = run_async(settings, lambda: copy_files(urls, "-", access=access, options=options))
    summary.raise_for_failures()

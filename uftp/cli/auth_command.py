"""`uftp auth`."""

from __future__ import annotations

import click

from uftp.cli.output import print_json
from uftp.cli.runner import run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import directory_of, parse_url


@click.command()
@click.argument("url", metavar="URL")
@click.option("-p", "--persistent", is_flag=True, help="The password may be used for several logins.")
@common_options
def command(settings: Settings, url: str, persistent: bool) -> None:
    """Get host, port and a one-time password, for use with any FTP client as user `anonymous`.

    Also known as `authenticate`.

    \b
    Example:
      uftp auth -u alice https://auth.example.org:9000/rest/auth/CLUSTER:/data/
      Connect to ftp1.example.org:64434 password: hzkqvwtrnxbmlpadcfye
    """
    place = parse_url(settings.expand(url))
    # The session is another program's, which shall find itself in this directory, also in one below the home.
    below_home = place.kind == "auth" and not place.path.startswith(b"/")
    directory = directory_of(place.path) if below_home else None

    async def ask() -> None:
        async with settings.access(place).connector(place, directory) as connector:
            grant = await connector.authenticate(persistent=persistent)
        if settings.json:
            record = {"host": grant.hosts[0], "port": grant.port, "user": "anonymous", "password": grant.secret}
            print_json({**record, "persistent": persistent})
        else:
            host = f"[{grant.hosts[0]}]" if ":" in grant.hosts[0] else grant.hosts[0]
            click.echo(f"Connect to {host}:{grant.port} password: {grant.secret}")

    run_async(settings, ask)

"""`uftp info`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from uftp.cli.output import human_size, print_json
from uftp.cli.runner import one_line, run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import RemoteUrl, parse_url
from uftp.errors import SomeFailed, UFTPError, UsageError

_NO_SERVERS = ("client", "server")


@click.command()
@click.argument("url", metavar="URL")
@click.option("-C", "--connect-to-uftpd", "connect", is_flag=True, help="Log in to each server, too.")
@click.option("-R", "--raw", is_flag=True, help="Print the server's JSON reply as it is.")
@common_options
def command(settings: Settings, url: str, connect: bool, raw: bool) -> None:
    """Show who you are to an auth server, and which servers you may use.

    \b
    Example:
      uftp info -u alice https://auth.example.org:9000/rest/auth
    """
    place = parse_url(settings.expand_server(url), need_server=False)
    if place.kind == "ftp":
        raise UsageError(f"{place.service}: an FTP server has no information to show; use an https URL")

    async def show() -> None:
        from uftp.client.auth import AuthServer

        access = settings.access(place)
        async with AuthServer(access.credential, access.http) as server:
            reply = await server.info(place.info_url)
        if raw:
            click.echo(json.dumps(reply, indent=2))
        elif settings.json:
            print_json(reply)
        else:
            _print_reply(reply, place.info_url, access.credential.method)
        if connect:
            names = [name for name in reply if name not in _NO_SERVERS]
            failed = [name for name in names if not await _try_login(settings, place, name)]
            if failed:
                raise SomeFailed(f"no login to {', '.join(map(one_line, failed))}")

    run_async(settings, show)


def _print_reply(reply: Mapping[str, Any], url: str, method: str) -> None:
    client, server = _object(reply.get("client")), _object(reply.get("server"))
    _line("Client identity:", client.get("dn", "N/A"))
    _line("Client auth method:", client.get("authenticationMethod", method))
    _line("Auth server type:", f"AuthServer v{server.get('version', 'n/a')}")
    for name, value in reply.items():
        if name in _NO_SERVERS:
            continue
        found = _object(value)
        _line("Server:", name)
        _line("  URL base:", f"{url}/{name}:")
        _line("  Description:", found.get("description", "N/A"))
        _line("  Remote user info:", f"uid={found.get('uid', 'N/A')};gid={found.get('gid', 'N/A')}")
        rate = found.get("rateLimit")
        if isinstance(rate, int) and rate > 0:
            _line("  Rate limit:", f"{human_size(rate)}/s")
        limit = found.get("sessionLimit")
        if isinstance(limit, int) and limit > 0:
            _line("  Session limit:", limit)
        for reservation in found.get("reservations") or []:
            _line("  Reservation:", reservation)
        sharing = str(_object(found.get("dataSharing")).get("enabled", False)).lower() == "true"
        _line("  Sharing support:", "enabled" if sharing else "disabled")
        _line("  Server status:", found.get("status", "N/A"))


def _line(label: str, value: object) -> None:
    from uftp.client.wording import printable

    click.echo(f"{label:19} {printable(str(value))}")


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


async def _try_login(settings: Settings, place: RemoteUrl, name: str) -> bool:
    from uftp.cli.places import session_on

    url = RemoteUrl(kind="auth", service=f"{place.info_url}/{name}", server=name)
    try:
        async with session_on(settings, url) as session:
            await session.listdir(b"")
            version = session.dialect.version or "unknown"
            where = session.name
    except UFTPError as error:
        click.echo(one_line(f"uftp: {name}: {error}"), err=True)
        return False
    if settings.json:
        print_json({"name": name, "connected": where, "version": version})
    else:
        click.echo(f"Connected to UFTPD '{name}' at {where}")
        click.echo(f" * UFTPD server version {version}")
    return True

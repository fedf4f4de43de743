"""`uftp issue-token`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import click

from uftp.cli.lifetimes import parse_lifetime
from uftp.cli.output import print_json
from uftp.cli.runner import one_line, run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import parse_url
from uftp.errors import UsageError


@click.command()
@click.argument("server", metavar="SERVER")
@click.option("-l", "--lifetime", metavar="SECONDS", help="How long it is good; also as 90m, 12h, 7d.")
@click.option("-R", "--renewable", is_flag=True, help="It can be used to get another.")
@click.option("-L", "--limited", is_flag=True, help="It is good for this auth server only.")
@click.option("-I", "--inspect", is_flag=True, help="Say on standard error what is in it.")
@common_options
def command(
    settings: Settings, server: str, lifetime: str | None, renewable: bool, limited: bool, inspect: bool
) -> None:
    """Get a token from an auth server that stands for you: for a job, or a script on another machine.

    Whoever has the token is you, until it ends. Give it to uftp with -A @FILE or in the variable UFTP_TOKEN.

    \b
    Example:
      (umask 077; uftp issue-token -l 12h https://auth.example.org:9000/rest/auth > token)
      uftp ls -A @token https://auth.example.org:9000/rest/auth/CLUSTER:/data/
    """
    place = parse_url(settings.expand_server(server), need_server=False)
    if place.kind == "ftp":
        raise UsageError(f"{place.service}: an FTP server gives no tokens; use an https URL")
    seconds = parse_lifetime(lifetime) if lifetime is not None else None

    async def ask() -> str:
        from uftp.client.auth import AuthServer

        access = settings.access(place)
        async with AuthServer(access.credential, access.http) as auth:
            return await auth.issue_token(place.info_url, lifetime=seconds, renewable=renewable, limited=limited)

    token = run_async(settings, ask)
    claims = read_claims(token)
    if inspect and not settings.json:
        for line in _in_words(claims):
            click.echo(one_line(line), err=True)
    if settings.json:
        print_json({"token": token, "claims": claims})
    else:
        click.echo(token)


def read_claims(token: str) -> dict[str, Any]:
    """What a signed token says (RFC 7519), unproven; empty if it cannot be read."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _in_words(claims: Mapping[str, Any]) -> list[str]:
    from uftp.client.wording import printable

    def said(name: str, default: str) -> str:
        value = claims.get(name)
        return printable(value if isinstance(value, str) else default if value is None else json.dumps(value))

    begin, end = claims.get("iat"), claims.get("exp")
    is_timed = isinstance(begin, int | float) and isinstance(end, int | float)
    uid = f" (uid={said('uid', '')})" if claims.get("uid") is not None else ""
    return [
        f"Subject:      {said('sub', 'n/a')}{uid}",
        f"Lifetime (s): {int(end - begin) if is_timed else 'n/a'}",  # type: ignore[operator]  # both are numbers
        f"Issued by:    {said('iss', 'n/a')}",
        f"Valid for:    {said('aud', '<unlimited>')}",
        f"Renewable:    {said('renewable', 'no')}",
    ]

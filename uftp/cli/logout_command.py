"""`uftp logout`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from uftp.cli.runner import one_line, run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import parse_url
from uftp.errors import AuthenticationFailed, UFTPError, UsageError

if TYPE_CHECKING:
    from uftp.client.login_store import LoginStore, StoredLogin


@click.command()
@click.argument("server", metavar="[SERVER]", required=False)
@click.option("-a", "--all", "everywhere", is_flag=True, help="At all servers.")
@common_options
def command(settings: Settings, server: str | None, everywhere: bool) -> None:
    """Forget a login made with `uftp login`, here and at the identity provider.

    \b
    Examples:
      uftp logout https://auth.example.org:9000/rest/auth
      uftp logout --all
    """
    from uftp.cli.login_command import base_of
    from uftp.client.login_store import LoginStore

    if (server is None) != everywhere:
        raise UsageError("log out where? Give the URL of an auth server or the name of an endpoint, or else --all")
    store = LoginStore()

    async def log_out() -> None:
        if server is None:
            logins = store.all()
        else:
            base = base_of(parse_url(settings.expand_server(server), need_server=False))
            login = store.load(base)
            if login is None:
                raise AuthenticationFailed(f"not logged in at {base}")
            logins = [login]
        for login in logins:
            await _end(store, login)
            if not settings.quiet:
                click.echo(one_line(f"Logged out at {login.server}"))

    run_async(settings, log_out)


async def _end(store: LoginStore, login: StoredLogin) -> None:
    from uftp.client.oidc import Provider

    async with store.locked(login.server):
        login = store.load(login.server) or login
        store.forget(login.server)
    if login.tokens.refresh_token is None:
        return
    try:
        async with Provider(login.client) as provider:
            await provider.revoke(login.tokens.refresh_token)
    except UFTPError as error:
        # It is gone here, which is what was asked for; that the provider still knows it is worth a line.
        click.echo(one_line(f"uftp: {error}"), err=True)

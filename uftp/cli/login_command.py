"""`uftp login`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from uftp.cli.output import iso_time, print_json
from uftp.cli.runner import one_line, run_async
from uftp.cli.settings import Settings, common_options
from uftp.client.url import RemoteUrl, parse_url
from uftp.errors import AuthenticationFailed, UFTPError, UsageError
from uftp.protocol.facts import NANOSECONDS

if TYPE_CHECKING:
    from uftp.client.endpoints import OidcSettings
    from uftp.client.login_store import StoredLogin
    from uftp.client.oidc import OidcClient, Tokens


@click.command()
@click.argument("server", metavar="[SERVER]", required=False)
@click.option("--issuer", metavar="URL", help="Identity provider, if the auth server does not name one.")
@click.option("--client-id", metavar="ID", help="What this program is called there.")
@click.option("--client-secret-file", metavar="FILE", help="File with the client's secret, if it has one.")
@click.option("--scope", "scopes", metavar="SCOPE", multiple=True, help="What to ask for; may be repeated.")
@click.option("--show", is_flag=True, help="Show the logins there are, and until when.")
@common_options
def command(
    settings: Settings,
    server: str | None,
    issuer: str | None,
    client_id: str | None,
    client_secret_file: str | None,
    scopes: Sequence[str],
    show: bool,
) -> None:
    """Log in to an auth server through its identity provider.

    Shows an address and a code; open the address in any browser, on any machine, and confirm. The login is kept for
    later commands and refreshed by itself until the provider ends it, or `uftp logout` does.

    Where to log in is taken from the options, the endpoint's settings, or the auth server itself. An identity
    provider with a certificate of a CA of its own needs --ca.

    \b
    Examples:
      uftp login https://auth.example.org:9000/rest/auth
      uftp login juelich
      uftp login --show
    """
    place = _place(settings, server)
    if show:
        _show(settings, place)
        return
    if place is None:
        raise UsageError("log in where? Give the URL of an auth server, or the name of an endpoint")
    endpoint = settings.endpoint(place)
    options = _Asked(issuer, client_id, client_secret_file, tuple(scopes), settings.ca)
    asked = options.completed_by(endpoint.oidc if endpoint is not None else None)

    async def log_in() -> None:
        from uftp.client.login_store import LoginStore, StoredLogin

        client = await _client(settings, place, asked)
        tokens = await _tokens(client)
        name = await _who(settings, place, tokens)
        store = LoginStore()
        login = StoredLogin(server=base_of(place), client=client, tokens=tokens, name=name)
        async with store.locked(login.server):
            store.save(login)
        if settings.json:
            print_json(_describe(login))
        else:
            click.echo(one_line(f"Logged in at {login.server}" + (f" as {name}" if name else "")))
            if tokens.refresh_token is None:
                click.echo(f"The provider does not refresh this login; it ends {_when(tokens.expires)}.", err=True)

    run_async(settings, log_in)


def base_of(place: RemoteUrl) -> str:
    """Base URL of the auth server of `place`, under which logins are kept."""
    return place.info_url.removesuffix("/rest/auth")


def _place(settings: Settings, server: str | None) -> RemoteUrl | None:
    if server is None:
        return None
    place = parse_url(settings.expand_server(server), need_server=False)
    if place.kind == "ftp":
        raise UsageError(f"{place.service}: an FTP server knows no logins of this kind; use an https URL")
    return place


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is known of the provider; files by their names."""

    issuer: str | None
    client_id: str | None
    secret_file: str | None
    scopes: tuple[str, ...]
    ca: str | None

    def completed_by(self, configured: OidcSettings | None) -> _Asked:
        """With an endpoint's settings where the options say nothing; those of another issuer are none of its."""
        if configured is None or self.issuer not in (None, configured.issuer):
            return self
        return _Asked(
            configured.issuer,
            self.client_id or configured.client_id,
            self.secret_file or configured.client_secret_file,
            self.scopes or configured.scopes,
            self.ca or configured.ca,
        )

    def client(self) -> OidcClient:
        """The provider, all members known.

        Raises:
            UFTPError: a file cannot be read, or the issuer is no URL.
        """
        from uftp.client.credentials import read_secret_file
        from uftp.client.oidc import OidcClient

        secret_file = os.path.expanduser(self.secret_file) if self.secret_file else None
        return OidcClient(
            issuer=self.issuer or "",
            client_id=self.client_id or "",
            client_secret=read_secret_file(secret_file, "secret") if secret_file else None,
            scopes=self.scopes or ("openid",),
            ca=os.path.abspath(os.path.expanduser(self.ca)) if self.ca else None,
        )


async def _client(settings: Settings, place: RemoteUrl, asked: _Asked) -> OidcClient:
    """Which provider: from the options, else the endpoint, else what the auth server says."""
    if asked.issuer is None or asked.client_id is None:
        told = await _announced(settings, place, asked.issuer)
        scopes = tuple(map(str, told.get("scopes") or ()))
        asked = replace(
            asked,
            issuer=str(told["issuer"]),
            client_id=asked.client_id or str(told["clientId"]),
            scopes=asked.scopes or scopes,
        )
    return asked.client()


async def _announced(settings: Settings, place: RemoteUrl, issuer: str | None) -> Mapping[str, Any]:
    """What the auth server says of its provider, in the member `oidc` of `server` of its information."""
    from uftp.client.auth import AuthServer, HttpOptions
    from uftp.client.credentials import Anonymous
    from uftp.client.wording import printable

    http = HttpOptions(ca=settings.ca_file(place), insecure=settings.insecure, family=settings.family)
    async with AuthServer(Anonymous(), http) as server:
        reply = await server.info(place.info_url)
    own = reply.get("server")
    listed = own.get("oidc") if isinstance(own, dict) else None
    found = [
        entry
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("issuer"), str) and isinstance(entry.get("clientId"), str)
    ]
    fitting = [entry for entry in found if issuer in (None, entry["issuer"])]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(printable(entry["issuer"]) for entry in fitting)
        raise UsageError(f"{place.info_url}: several identity providers; choose with --issuer from {names}")
    raise UsageError(
        f"{place.info_url}: it does not say where to log in; give --issuer and --client-id, or log in with -i or -P"
    )


async def _tokens(client: OidcClient) -> Tokens:
    from uftp.client.oidc import Provider

    async with Provider(client) as provider:
        code = await provider.begin_device_login()
        minutes = max(1, round(code.seconds / 60))
        click.echo(f"Open   {code.address}", err=True)
        click.echo(f"Code   {code.user_code}", err=True)
        if code.address_with_code is not None:
            click.echo(f"or     {code.address_with_code}", err=True)
        click.echo(f"Waiting for you to confirm, {minutes} min at most (Ctrl-C gives up) ...", err=True)
        return await provider.wait_confirmed(code, time.time)


async def _who(settings: Settings, place: RemoteUrl, tokens: Tokens) -> str:
    """The name the auth server has for this person.

    Raises:
        AuthenticationFailed: it does not take the token; then the login is of no use.
    """
    from uftp.client.auth import AuthServer, HttpOptions
    from uftp.client.credentials import BearerToken

    http = HttpOptions(ca=settings.ca_file(place), insecure=settings.insecure, family=settings.family)
    try:
        async with AuthServer(BearerToken(tokens.access_token), http) as server:
            reply = await server.info(place.info_url)
    except AuthenticationFailed:
        raise
    except UFTPError as error:
        click.echo(one_line(f"uftp: the login is kept, but could not be tried: {error}"), err=True)
        return ""
    client = reply.get("client")
    name = client.get("dn") if isinstance(client, dict) else None
    return name if isinstance(name, str) else ""


def _show(settings: Settings, place: RemoteUrl | None) -> None:
    from uftp.client.login_store import LoginStore

    store = LoginStore()
    if place is None:
        logins = store.all()
    else:
        login = store.load(base_of(place))
        logins = [login] if login is not None else []
    if not logins and place is not None:
        raise AuthenticationFailed(f"not logged in at {base_of(place)}")
    for login in logins:
        if settings.json:
            print_json(_describe(login))
        else:
            lasting = "refreshed by itself" if login.tokens.refresh_token else f"ends {_when(login.tokens.expires)}"
            if not login.tokens.refresh_token and login.tokens.expires <= time.time():
                lasting = "has ended"
            click.echo(one_line(f"{login.server}: {login.name or 'logged in'}, by {login.client.issuer}, {lasting}"))


def _describe(login: StoredLogin) -> dict[str, object]:
    return {
        "server": login.server,
        "name": login.name,
        "issuer": login.client.issuer,
        "client_id": login.client.client_id,
        "scopes": list(login.client.scopes),
        "expires": iso_time(int(login.tokens.expires) * NANOSECONDS),
        "refreshed": login.tokens.refresh_token is not None,
    }


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))

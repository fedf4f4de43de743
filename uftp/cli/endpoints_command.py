"""`uftp endpoints`."""

from __future__ import annotations

import click

from uftp.cli.output import print_json
from uftp.cli.runner import one_line
from uftp.cli.settings import Settings, common_options


@click.command()
@common_options
def command(settings: Settings) -> None:
    """List the names set up for servers in the file config.toml, where `uftp ls juelich:data/` finds them.

    The file is $XDG_CONFIG_HOME/uftp/config.toml, mostly ~/.config/uftp/config.toml; the variable UFTP_CONFIG names
    another. Only `url` is needed; the rest is as the options of the same names.

    \b
    Example:
      [endpoints.juelich]
      url = "https://auth.example.org:9000/rest/auth/CLUSTER"
      user = "alice"
      identity = "~/.ssh/id_ed25519"
      # or: password_file, token_file, oidc_agent; also: ca, group, client, audience
      # options = { NAME = "VALUE" }

    \b
      [endpoints.juelich.oidc]            # for `uftp login juelich`, if the server does not tell
      issuer = "https://idp.example.org/realms/campus"
      client_id = "uftp-cli"
      scopes = ["openid"]
    """
    from uftp.client.endpoints import config_path, load_endpoints

    known = load_endpoints()
    width = max(map(len, known), default=0)
    for name, endpoint in sorted(known.items()):
        method = next(
            (kind for kind in ("identity", "password_file", "token_file", "oidc_agent") if getattr(endpoint, kind)),
            None,
        )
        if settings.json:
            print_json({"name": name, "url": endpoint.url, "user": endpoint.user, "method": method})
        else:
            words = [endpoint.url, *([f"as {endpoint.user}"] if endpoint.user else []), *([method] if method else [])]
            click.echo(one_line(f"{name:{width}}  {', '.join(words)}"))
    if not known and not settings.quiet:
        click.echo(f"uftp: no endpoints in {config_path()}; `uftp endpoints --help` shows how one looks", err=True)

"""The options every command has, and what they come to: credentials, connections, output.

Letters and meanings are those of the existing clients.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from uftp.errors import UsageError

if TYPE_CHECKING:
    from uftp.client.credentials import Credential
    from uftp.client.url import RemoteUrl
    from uftp.transfer.copy import Access

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS_VARIABLE = "UFTP_OPTIONS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The common options as given."""

    user: str | None
    ask_password: bool
    password_file: str | None
    token: str | None
    identity: str | None
    oidc_agent: str | None
    group: str | None
    client: str | None
    ipv4: bool
    ipv6: bool
    ca: str | None
    insecure: bool
    verbose: bool
    quiet: bool
    json: bool
    debug: bool

    @property
    def family(self) -> socket.AddressFamily:
        """Which addresses to use.

        Raises:
            UsageError: both were excluded.
        """
        if self.ipv4 and self.ipv6:
            raise UsageError("only one of -4 and -6 makes sense")
        return socket.AF_INET if self.ipv4 else socket.AF_INET6 if self.ipv6 else socket.AF_UNSPEC

    def credential(self, url: RemoteUrl) -> Credential:
        """Who one is at `url`; asks for a password if need be.

        Raises:
            UFTPError: see `uftp.client.credentials.choose_credential`.
        """
        from uftp.client.credentials import USER_VARIABLE, Anonymous, choose_credential

        if self.identity is not None or self.oidc_agent is not None:
            option = "-i" if self.identity is not None else "-O"
            raise UsageError(f"{option}: logging in with keys or agents is not available yet; use -u and -P, or -A")
        user = self.user
        if url.kind == "ftp":
            named = user or url.user or os.environ.get(USER_VARIABLE)
            if url.password is not None or named in (None, "anonymous", "ftp"):
                return Anonymous()
            user = named
        token = self.token
        if token is not None and token.startswith("@"):
            from uftp.client.credentials import read_secret_file

            token = read_secret_file(token[1:])
        ask = _ask if self.ask_password or sys.stdin.isatty() else None
        return choose_credential(user=user, ask=ask, password_file=self.password_file, token=token)

    def access(self, url: RemoteUrl) -> Access:
        """How to reach the server of `url`.

        Raises:
            UFTPError: contradictory options, or no credential to be had.
        """
        from uftp.client.auth import HttpOptions
        from uftp.client.login import SessionOptions
        from uftp.transfer.copy import Access

        family = self.family
        return Access(
            credential=self.credential(url),
            http=HttpOptions(ca=self.ca, insecure=self.insecure, family=family),
            session=SessionOptions(family=family, server_options=_server_options()),
            client=self.client,
            group=self.group,
        )


def _ask(prompt: str) -> str:
    import getpass

    try:
        return getpass.getpass(prompt, stream=sys.stderr)
    except (EOFError, KeyboardInterrupt):
        click.echo(err=True)
        raise click.Abort from None


def _server_options() -> dict[str, str]:
    options = {}
    for item in os.environ.get(OPTIONS_VARIABLE, "").split(","):
        name, equals, value = item.strip().partition("=")
        if equals:
            options[name] = value
        elif name:
            raise UsageError(f"{OPTIONS_VARIABLE}: {name!r} is not NAME=VALUE")
    return options


_COMMON = (
    click.option("-u", "--user", metavar="NAME", help="User name, or NAME:PASSWORD; `anonymous` for nobody."),
    click.option("-P", "--password", "ask_password", is_flag=True, help="Ask for the password."),
    click.option("--password-file", metavar="FILE", help="Take the password from the first line of FILE."),
    click.option("-A", "--auth-token", "token", metavar="TOKEN", help="Bearer token, or @FILE that holds it."),
    click.option("-i", "--identity", metavar="KEYFILE", help="Private key file (not available yet)."),
    click.option("-O", "--oidc-agent", metavar="ACCOUNT", help="Token from oidc-agent (not available yet)."),
    click.option("-g", "--group", metavar="GROUP", help="Primary group to work with."),
    click.option("-X", "--client", metavar="ADDRESSES", help="Client addresses, if the auth server cannot see them."),
    click.option("-4", "--force-ipv4", "ipv4", is_flag=True, help="Use IPv4 only."),
    click.option("-6", "--force-ipv6", "ipv6", is_flag=True, help="Use IPv6 only."),
    click.option("--ca", metavar="FILE", help="Trust the CA certificates in FILE, not the system's."),
    click.option("--insecure", is_flag=True, help="Do not verify the auth server's certificate."),
    click.option("--json", is_flag=True, help="Print one JSON object a line."),
    click.option("-q", "--quiet", is_flag=True, help="Neither progress nor notes; errors only."),
    click.option("-v", "--verbose", is_flag=True, help="Say more on standard error."),
    click.option("--debug", is_flag=True, help="Show the dialogue with the server, and tracebacks."),
)
_NAMES = tuple(Settings.__dataclass_fields__)


def common_options(function: F) -> F:
    """Give a command the common options; it gets them as one `Settings` in front of its own parameters.

    Errors of the package become one line on standard error and an exit code.
    """
    from uftp.cli.runner import reporting_errors

    @functools.wraps(function)
    def wrapped(**values: Any) -> Any:
        settings = Settings(**{name: values.pop(name) for name in _NAMES})
        return reporting_errors(settings, lambda: function(settings, **values))

    decorated: Any = wrapped
    for option in reversed(_COMMON):
        decorated = option(decorated)
    # Own options come first in the help, so the common ones move behind them.
    parameters = decorated.__click_params__
    parameters[:] = parameters[-len(_COMMON) :] + parameters[: -len(_COMMON)]
    return decorated  # type: ignore[no-any-return]

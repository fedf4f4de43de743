"""The options every command has, and what they come to: credentials, connections, output.

Letters and meanings are those of the existing clients.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from uftp.errors import LocalFileError, UsageError

if TYPE_CHECKING:
    from uftp.client.credentials import Credential
    from uftp.client.endpoints import Endpoint
    from uftp.client.url import RemoteUrl
    from uftp.transfer.copy import Access

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS_VARIABLE = "UFTP_OPTIONS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The common options as given, and what was found by them while the command runs."""

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
    _endpoints: dict[str, tuple[str, Endpoint]] = field(default_factory=dict, repr=False)
    _credentials: dict[str, Credential] = field(default_factory=dict, repr=False)
    _says_where: bool = False  # of a command with two servers: whoever is asked must know by which

    @property
    def family(self) -> socket.AddressFamily:
        """Which addresses to use.

        Raises:
            UsageError: both were excluded.
        """
        if self.ipv4 and self.ipv6:
            raise UsageError("only one of -4 and -6 makes sense")
        return socket.AF_INET if self.ipv4 else socket.AF_INET6 if self.ipv6 else socket.AF_UNSPEC

    def expand(self, place: str, *, or_path: bool = False) -> str:
        """A place as typed with the name of an endpoint replaced by its URL; URLs and local paths as they are.

        The endpoint's settings apply to its server from then on.

        Args:
            place: as typed.
            or_path: whether what looks like an endpoint and is none is left as it is.

        Raises:
            NotFound: no such endpoint.
            UFTPError: the file with the endpoints is at fault.
        """
        from uftp.client.endpoints import find_endpoint, load_endpoints, split_place

        parts = split_place(place)
        if parts is None or (or_path and parts[0] not in load_endpoints()):
            return place
        name, path = parts
        endpoint = find_endpoint(name)
        self._use(name, endpoint)
        return endpoint.url_of(path)

    def expand_server(self, server: str) -> str:
        """The URL of a server for commands that need no path: `NAME` and `NAME:` mean an endpoint's.

        Raises:
            UFTPError: see `expand`.
        """
        from uftp.client.endpoints import find_endpoint, split_place
        from uftp.client.url import is_url

        name = server.partition(":")[0]
        if is_url(server) or split_place(f"{name}:") is None:
            return server  # a URL, or what cannot be a name, which is for `parse_url` to refuse
        endpoint = find_endpoint(name)
        self._use(name, endpoint)
        return endpoint.url

    def endpoint(self, url: RemoteUrl) -> Endpoint | None:
        """The endpoint `url` was reached by, if it was by one."""
        found = self._endpoints.get(url.service)
        return found[1] if found is not None else None

    def _use(self, name: str, endpoint: Endpoint) -> None:
        other, _ = self._endpoints.setdefault(endpoint.place.service, (name, endpoint))
        if other != name:
            raise UsageError(f"{other} and {name} are the same server; use one of them in a command")

    def credential(self, url: RemoteUrl) -> Credential:
        """Who one is at `url`; the same object each time, so that nobody is asked twice.

        Raises:
            UFTPError: see `uftp.client.choosing.choose_credential`.
        """
        if url.service not in self._credentials:
            self._credentials[url.service] = self._choose(url)
        return self._credentials[url.service]

    def _choose(self, url: RemoteUrl) -> Credential:
        from uftp.client.choosing import PASSWORD_VARIABLE, USER_VARIABLE, Wishes, choose_credential
        from uftp.client.credentials import Anonymous

        wishes = Wishes(
            user=self.user,
            ask_password=self.ask_password,
            password_file=self.password_file,
            token=self.token,
            identity=self.identity,
            oidc_agent=self.oidc_agent,
        )
        endpoint = self.endpoint(url)
        configured = Wishes.of(endpoint) if endpoint is not None else Wishes()
        if url.kind == "ftp":
            wishes.check()
            named = wishes.user or url.user or configured.user or os.environ.get(USER_VARIABLE)
            if url.password is not None or named in (None, "anonymous", "ftp"):
                return Anonymous()
            is_known = wishes.has_method or configured.has_method or PASSWORD_VARIABLE in os.environ
            if wishes.token is None and wishes.oidc_agent is None:
                # Neither keys nor tokens mean anything to an FTP server.
                wishes = replace(wishes, user=named, ask_password=wishes.ask_password or not is_known)
        return choose_credential(
            wishes,
            configured=configured,
            server=url.info_url.removesuffix("/rest/auth") if url.kind != "ftp" else None,
            ask=self._asking(url) if self.ask_password or sys.stdin.isatty() else None,
            note=self._note,
        )

    def with_servers_named(self) -> Settings:
        """The same, with the server named where somebody is asked for a secret."""
        return replace(self, _says_where=True)

    def _asking(self, url: RemoteUrl) -> Callable[[str], Awaitable[str]]:
        if not self._says_where:
            return ask_secret
        where = url.service.partition("/rest/")[0]
        return lambda prompt: ask_secret(f"{where}: {prompt}")

    def _note(self, text: str) -> None:
        if self.verbose or self.debug:
            from uftp.cli.runner import one_line

            click.echo(one_line(f"uftp: {text}"), err=True)

    def access(self, url: RemoteUrl) -> Access:
        """How to reach the server of `url`.

        Raises:
            UFTPError: contradictory options, or no credential to be had.
        """
        from uftp.client.auth import HttpOptions
        from uftp.client.login import SessionOptions
        from uftp.transfer.copy import Access

        family, endpoint = self.family, self.endpoint(url)
        options = {**(endpoint.options if endpoint is not None else {}), **_server_options()}
        return Access(
            credential=self.credential(url),
            http=HttpOptions(ca=self.ca_file(url), insecure=self.insecure, family=family),
            session=SessionOptions(family=family, server_options=options),
            client=self.client or (endpoint.client if endpoint is not None else None),
            group=self.group or (endpoint.group if endpoint is not None else None),
        )

    def ca_file(self, url: RemoteUrl) -> str | None:
        """File with the CAs to trust at `url`; None for the system's."""
        endpoint = self.endpoint(url)
        ca = self.ca or (endpoint.ca if endpoint is not None else None)
        return os.path.expanduser(ca) if ca is not None else None


def first_line(path: str) -> str:
    """The first line of a file that holds a secret.

    Raises:
        LocalFileError: it cannot be read, or is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except OSError as error:
        raise LocalFileError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise LocalFileError(f"{path}: not UTF-8") from None


async def ask_secret(prompt: str) -> str:
    """Ask on the terminal without showing what is typed. Cancelled, the terminal is as it was before.

    Raises:
        AuthenticationFailed: there is nobody at the terminal.
    """
    import getpass

    import trio

    def ask() -> str:
        return getpass.getpass(prompt, stream=sys.stderr)

    with _terminal_kept():
        try:
            return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)
        except EOFError:
            from uftp.errors import AuthenticationFailed

            raise AuthenticationFailed("nothing was typed") from None


@contextlib.contextmanager
def _terminal_kept() -> Iterator[None]:
    """Give the terminal its settings back: a thread that still waits for a line has turned its echo off."""
    import termios

    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        yield  # no terminal to keep
        return
    try:
        before = termios.tcgetattr(terminal)
        try:
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
    finally:
        os.close(terminal)


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
    click.option("-P", "--password", "ask_password", is_flag=True, help="Ask for the password (with -i: passphrase)."),
    click.option("--password-file", metavar="FILE", help="Take the password from the first line of FILE."),
    click.option("-A", "--auth-token", "token", metavar="TOKEN", help="Bearer token, or @FILE that holds it."),
    click.option(
        "-i", "--identity", metavar="KEYFILE", help="SSH private key to log in with; ssh-agent's if it has it."
    ),
    click.option("-O", "--oidc-agent", metavar="ACCOUNT", help="Token of this account of oidc-agent."),
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
_NAMES = tuple(name for name in Settings.__dataclass_fields__ if not name.startswith("_"))


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

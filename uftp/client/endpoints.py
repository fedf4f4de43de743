"""Named endpoints: `juelich:data/` instead of a URL and options, from the file of a person.

    $XDG_CONFIG_HOME/uftp/config.toml     default: ~/.config/uftp/config.toml; UFTP_CONFIG names another

    [endpoints.juelich]
    url = "https://uftp.example.org:9000/rest/auth/CLUSTER"
    user = "alice"
    identity = "~/.ssh/id_ed25519"

A name is what stands before the first colon, if no slash comes before it, as with scp and rsync; so a local file `a:b`
is `./a:b`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from uftp.client.url import RemoteUrl, is_url, parse_url
from uftp.errors import LocalFileError, NotFound, UsageError

CONFIG_VARIABLE: Final = "UFTP_CONFIG"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_PLACE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,63}):(?!//)(.*)", re.ASCII | re.DOTALL)
_MAX_FILE_BYTES: Final = 1024 * 1024

Text = Annotated[str, msgspec.Meta(min_length=1)]


class OidcSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[endpoints.NAME.oidc]`: for `uftp login`; needed only where the auth server does not tell.

    Attributes:
        issuer: URL of the identity provider.
        client_id: what this program is called there.
        client_secret_file: file with the client's secret in its first line, if it has one.
        scopes: what is asked for.
        ca: PEM file with CAs to trust for the provider, besides the system's.
    """

    issuer: Text
    client_id: Text
    client_secret_file: Text | None = None
    scopes: tuple[Text, ...] = ("openid",)
    ca: Text | None = None


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[endpoints.NAME]`. Paths may begin with `~`.

    Attributes:
        url: of the auth server with the name of a server, or without (then for `info`, `login`, `issue-token`), or
            of an FTP server.
        user: account name.
        identity: SSH key file.
        password_file, token_file: files with the secret in their first line.
        oidc_agent: account of oidc-agent.
        audience: DN of the auth server; tokens signed with a key are then good there and nowhere else.
        oidc: for `uftp login`.
        ca: PEM file with the CAs to trust instead of the system's.
        group: primary group to work with.
        client: addresses the FTP connections come from, if the auth server cannot see them.
        options: OPTS to set after login, name to value.
    """

    url: Text
    user: Text | None = None
    identity: Text | None = None
    password_file: Text | None = None
    token_file: Text | None = None
    oidc_agent: Text | None = None
    audience: Text | None = None
    oidc: OidcSettings | None = None
    ca: Text | None = None
    group: Text | None = None
    client: Text | None = None
    options: dict[str, str] = {}

    def __post_init__(self) -> None:
        methods = [
            name
            for name in ("identity", "password_file", "token_file", "oidc_agent")
            if getattr(self, name) is not None
        ]
        if len(methods) > 1:
            raise ValueError(f"{' and '.join(methods)} are two ways to log in; give one")
        if not is_url(self.url):
            raise ValueError("url is no URL of a UFTP or FTP server")
        try:
            place = self.place
        except UsageError as error:
            raise ValueError(str(error)) from None
        if place.path or place.pattern is not None:
            raise ValueError("url has a path; it stands behind the name, as NAME:path")
        if place.password is not None:
            raise ValueError("url has a password; use password_file")

    @property
    def place(self) -> RemoteUrl:
        """The server."""
        return parse_url(self.url, need_server=False)

    def url_of(self, path: str) -> str:
        """The URL of a place there, path as typed.

        Raises:
            UsageError: the endpoint names no server.
        """
        base = self.url.rstrip("/:")
        place = self.place
        if place.kind == "ftp":
            return f"{base}{path}" if path.startswith("/") else f"{base}/~/{path}"
        if not place.server:
            raise UsageError(f"{base}: names no server; `uftp info` lists them, then add one of them to the url")
        return f"{base}:{path}"


def config_path(environment: Mapping[str, str] | None = None) -> str:
    """Where the file is, or would be."""
    environment = os.environ if environment is None else environment
    if environment.get(CONFIG_VARIABLE):
        return environment[CONFIG_VARIABLE]
    base = environment.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # as the XDG base directory specification has it
        base = os.path.expanduser("~/.config")
    return os.path.join(base, "uftp", "config.toml")


def load_endpoints(path: str | None = None) -> dict[str, Endpoint]:
    """All endpoints by name; none if there is no file.

    Args:
        path: the file; None for the usual place.

    Raises:
        LocalFileError: the file cannot be read.
        UsageError: it says something that makes no sense.
    """
    import tomllib

    path = config_path() if path is None else path
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LocalFileError(f"{path}: cannot read the configuration: {error.strerror}") from error
    try:
        document = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from error
    found = {}
    tables = document.pop("endpoints", {})
    if document or not isinstance(tables, dict):
        raise UsageError(f"{path}: {next(iter(document), 'endpoints')}: only tables [endpoints.NAME] can stand here")
    for name, table in tables.items():
        if not _NAME.fullmatch(name) or name.lower() in ("http", "https", "ftp"):
            raise UsageError(f"{path}: {name!r} cannot be the name of an endpoint; take letters, digits, '-', '_', '.'")
        try:
            found[name] = msgspec.convert(table, Endpoint)
        except msgspec.ValidationError as error:
            raise UsageError(f"{path}: {_in_words(f'endpoints.{name}', error)}") from error
    return found


def split_place(text: str) -> tuple[str, str] | None:
    """Endpoint and path of a place as typed; None for a URL or a local path."""
    match = _PLACE.fullmatch(text)
    return (match[1], match[2]) if match else None


def find_endpoint(name: str, path: str | None = None) -> Endpoint:
    """An endpoint by name.

    Args:
        name: as in the file.
        path: the file; None for the usual place.

    Raises:
        NotFound: there is none.
        LocalFileError, UsageError: see `load_endpoints`.
    """
    known = load_endpoints(path)
    if name in known:
        return known[name]
    where = config_path() if path is None else path
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        said = f"did you mean {' or '.join(close)}?"
    elif known:
        said = f"{where} has {', '.join(sorted(known))}"
    else:
        said = f"{where} has none"
    raise NotFound(f"{name}: no such endpoint; {said}; a local file of that name is ./{name}:...")


def _in_words(table: str, error: msgspec.ValidationError) -> str:
    text, _, place = str(error).partition(" - at `")
    inner = place.rstrip("`").removeprefix("$")
    unknown = re.match(r"Object contains unknown field `(.*)`", text)
    if unknown:
        fields = OidcSettings.__struct_fields__ if inner == ".oidc" else Endpoint.__struct_fields__
        close = difflib.get_close_matches(unknown[1], fields, n=1)
        text = f"no such setting: {unknown[1]}" + (f"; did you mean {close[0]}?" if close else "")
    return f"{table}{inner}: {text}"

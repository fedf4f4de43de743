"""What `uftpd standalone` was asked for: checked, with every default filled in."""

from __future__ import annotations

import os
import pwd
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uftp.protocol.command_port import is_clean
from uftpd.config.peer_entry import parse_entry
from uftpd.config.toml import ConfigError, PortRange

DEFAULT_AUTH_PORT = 9000
DEFAULT_FTP_PORT = 64434
DEFAULT_COMMAND_PORT = 64435
DEFAULT_NODE = "TEST"
MAX_NODES = 16

_NODE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,63}", re.ASCII)
_ROOT_STATE = Path("/var/lib/uftpd")
_WILDCARDS = ("0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True)
class Login:
    """An account to log in with.

    Attributes:
        name: to log in with.
        password: or where it is, see `read_password`.
    """

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneOptions:
    """Everything that was asked for.

    Attributes:
        state: the state directory.
        host: address to listen on.
        auth_port, ftp_port, command_port, objects_port: 0 picks a free one. Further nodes use every second port from
            there on.
        direct: shared files are fetched from the data nodes' object servers.
        port_range: of data connections, for all nodes.
        nodes: names of the data nodes.
        users: accounts; empty: one with a random password for each mapped name.
        mapping: login name to local account.
        allow_peers: what the nodes may copy with beside each other; entries as in `copies.allow`.
        peer_authorities: certificates of the authorities to trust elsewhere, beside the system's (PEM).
        service_user: whom the auth server runs as when started by root.
        ready_json: print one line for programs instead of a text for people.
        log_level: of all processes.
    """

    state: Path
    host: str = "127.0.0.1"
    auth_port: int = DEFAULT_AUTH_PORT
    ftp_port: int = DEFAULT_FTP_PORT
    command_port: int = DEFAULT_COMMAND_PORT
    objects_port: int = 0
    direct: bool = False
    port_range: PortRange | None = None
    nodes: tuple[str, ...] = (DEFAULT_NODE,)
    users: tuple[Login, ...] = ()
    mapping: dict[str, str]
    allow_peers: tuple[str, ...] = ()
    peer_authorities: bytes = b""
    service_user: str = "nobody"
    ready_json: bool = False
    log_level: str = "info"

    @property
    def public_host(self) -> str:
        """The name clients are told: the address listened on, or this machine's name if that is every address."""
        return socket.getfqdn() if self.host in _WILDCARDS else self.host


def default_state() -> Path:
    """`$XDG_STATE_HOME/uftpd`, `~/.local/state/uftpd`; for root `/var/lib/uftpd`."""
    if base := os.environ.get("XDG_STATE_HOME"):
        return Path(base) / "uftpd"
    return _ROOT_STATE if os.geteuid() == 0 else Path.home() / ".local/state/uftpd"


def parse_user(text: str) -> Login:
    """Read `NAME:PASSWORD` or `NAME:@FILE`. The file is not read yet.

    Raises:
        ConfigError: no colon, an empty part, or a name that cannot stand in a password file.
    """
    name, colon, password = text.partition(":")
    if not colon or not name:
        raise ConfigError("--user: expected NAME:PASSWORD or NAME:@FILE")
    if not is_clean(name) or name != name.strip() or name.startswith("#"):
        raise ConfigError(f"--user: {name!r} cannot be a login name")
    if not password:
        raise ConfigError(f"--user: the password of '{name}' is empty")
    return Login(name, password)


def read_password(login: Login) -> str:
    """The password; of a file the first line.

    Raises:
        ConfigError: the file cannot be read, or its first line is empty.
    """
    if not login.password.startswith("@"):
        return login.password
    path = Path(login.password[1:])
    try:
        password = path.read_text().partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"--user: {path}: cannot be read: {reason}") from error
    if not password:
        raise ConfigError(f"--user: {path}: its first line is empty")
    return password


def parse_nodes(names: Sequence[str]) -> tuple[str, ...]:
    """The node names, without repetition.

    Raises:
        ConfigError: a name that cannot stand in a URL, a repeated one, or too many.
    """
    for name in names:
        if not _NODE_NAME.fullmatch(name) or name in ("client", "server", "token", "certificate"):
            raise ConfigError(f"--node: '{name}' cannot be a name; use letters, digits, '_' and '.'")
    if len(set(names)) != len(names) or len(names) > MAX_NODES:
        raise ConfigError(f"--node: names must differ, and there can be {MAX_NODES}")
    return tuple(names) or (DEFAULT_NODE,)


def parse_peers(items: Sequence[str]) -> tuple[str, ...]:
    """Other servers to copy with, without repetition.

    Raises:
        ConfigError: one that is no host, address or network.
    """
    for item in items:
        try:
            parse_entry(item)
        except ValueError as error:
            raise ConfigError(f"--allow-peer: {error}") from None
    return tuple(dict.fromkeys(items))


def read_authorities(paths: Sequence[Path]) -> bytes:
    """The certificates in these files, one after the other (PEM).

    Raises:
        ConfigError: a file cannot be read, or there is no certificate in it.
    """
    found = []
    for path in paths:
        try:
            text = path.read_text(encoding="ascii", errors="replace")
        except OSError as error:
            raise ConfigError(f"--peer-ca: {path}: {error.strerror}") from None
        try:
            loaded = ssl.create_default_context(cadata=text).cert_store_stats()["x509_ca"] if text.strip() else 0
        except (ssl.SSLError, ValueError):
            loaded = 0
        if not loaded:
            raise ConfigError(f"--peer-ca: {path}: no certificate of an authority in PEM form")
        found.append(text.encode().rstrip() + b"\n")
    return b"".join(found)


def parse_mapping(items: Sequence[str], users: Sequence[Login]) -> dict[str, str]:
    """Which local account each login name stands for.

    Without root that is always the current user; as root it must be said.

    Raises:
        ConfigError: as root nothing is mapped; an account does not exist, is root, or cannot be acted as.
    """
    mapping = {}
    for item in items:
        name, colon, account = item.partition(":")
        if not colon or not name or not account:
            raise ConfigError("--map: expected NAME:UNIXUSER")
        mapping[name] = account
    if os.geteuid() == 0:
        return _mapping_of_root(mapping, users)
    current = _account_name(os.geteuid())
    for name, account in mapping.items():
        if account != current:
            raise ConfigError(f"--map {name}:{account}: without root everybody is '{current}', who started this")
    names = [*mapping, *(user.name for user in users)] or [current]
    return dict.fromkeys(names, current)


def _mapping_of_root(mapping: dict[str, str], users: Sequence[Login]) -> dict[str, str]:
    if not mapping:
        raise ConfigError(
            "refusing to run as root without --map NAME:UNIXUSER: somebody has to say which local account a login "
            "may use (or start this as an ordinary user)"
        )
    for name, account in mapping.items():
        try:
            entry = pwd.getpwnam(account)
        except KeyError:
            raise ConfigError(f"--map {name}:{account}: there is no local account '{account}'") from None
        if entry.pw_uid == 0:
            raise ConfigError(f"--map {name}:{account}: sessions never run as root")
    for user in users:
        if user.name not in mapping:
            raise ConfigError(f"--user {user.name}: add --map {user.name}:UNIXUSER to say whose account that is")
    return mapping


def _account_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise ConfigError(f"the current user id {uid} has no account name") from None

"""The state directory of `uftpd standalone`: everything it keeps, and nothing outside it.

STATE/            0700 (as root 0711: the CA certificate is for everybody, all else lies in closed directories)
  lock            held while the servers run
  ca.pem          for clients
  account         name and password of an account that was made up, 0600
  uftpd.log       the log of all processes
  private/        the authority's key
  auth/           the auth server: configuration, certificate, password file, map file, store
  nodes/NAME/     a data node: configuration, certificate, list of admitted auth servers
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import secrets
import socket
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from uftp.protocol.dn import Attribute, Name, canonical, format_name
from uftpd.config.peer_entry import parse_entry
from uftpd.config.toml import ConfigError, HostPort
from uftpd.files import write_private
from uftpd.standalone.options import StandaloneOptions

MAX_LOG_BYTES = 16 * 1024 * 1024
DRAIN_SECONDS = 5  # Ctrl-C should not take long; transfers of our own client resume

_PASSWORD_CHARACTERS = 20
_ALPHABET = string.ascii_letters + string.digits
_COMMON_NAME, _ORGANISATION = "2.5.4.3", "2.5.4.10"


@dataclass(frozen=True, slots=True)
class ServiceUser:
    """Whom the auth server runs as when started by root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """Where a data node is.

    Attributes:
        ftp, command: what is listened on.
        objects: where browsers find its object server.
    """

    ftp: HostPort
    command: HostPort
    objects: HostPort


def find_service_user(name: str) -> ServiceUser | None:
    """The account; None if we are not root, and nothing is dropped.

    Raises:
        ConfigError: there is no such account, or it is root.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"--service-user: there is no local account '{name}'") from None
    if entry.pw_uid == 0:
        raise ConfigError("--service-user: must not be root")
    return ServiceUser(name, entry.pw_uid, entry.pw_gid)


class StateDirectory:
    """The directory, made if need be, and locked until this process ends."""

    def __init__(self, path: Path, service: ServiceUser | None) -> None:
        """Open and lock the directory.

        Raises:
            ConfigError: it is not ours, cannot be made, or another standalone server uses it.
        """
        self.path = path.absolute()
        self._service = service
        self._lock = -1
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            os.chmod(self.path, 0o700 if service is None else 0o711)
            self._take_lock()
            self._make("private")
            self._make("accounts")
            self._make("auth", readable=True)
            self._make("nodes", readable=True)
        except OSError as error:
            raise ConfigError(f"{error.filename or self.path}: {error.strerror}") from error

    def _check_owner(self) -> None:
        status = self.path.stat()
        if status.st_uid != os.geteuid():
            raise ConfigError(f"{self.path}: belongs to somebody else; name another directory with --state")

    def _take_lock(self) -> None:
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise ConfigError(
                f"{self.path}: in use by process {pid or 'unknown'}; stop it, or name another directory with --state"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def release_in_child(self) -> None:
        """Children do not hold the lock."""
        os.close(self._lock)

    def _make(self, name: str, *, readable: bool = False) -> Path:
        """A directory below; `readable` ones can be read by the service user, too."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        if self._service is not None and readable:
            os.chown(path, 0, self._service.gid)
            os.chmod(path, 0o750)  # noqa: S103 -- for that group, which is the service user's
        return path

    def write(self, path: Path, data: bytes) -> None:
        """Write a file that the service user may read, and nobody else."""
        write_private(path, data, mode=0o600 if self._service is None else 0o640)
        if self._service is not None:
            os.chown(path, 0, self._service.gid)

    def open_log(self) -> int:
        """A descriptor to append to the log; a large old one is kept aside."""
        path = self.path / "uftpd.log"
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.rename(path.with_suffix(".log.1"))
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @property
    def log_path(self) -> Path:
        """Where `open_log` writes."""
        return self.path / "uftpd.log"

    @property
    def ca_path(self) -> Path:
        """The CA certificate for clients."""
        return self.path / "ca.pem"

    def password_path(self, name: str) -> Path:
        """Where a password that was made up is kept: the file has nothing else in it."""
        return self.path / "accounts" / quote(name, safe=" @")

    # -- accounts -----------------------------------------------------------------------------------------------------

    def made_up_passwords(self, names: Sequence[str]) -> tuple[dict[str, str], bool]:
        """Random passwords, kept for the next start.

        Returns:
            Passwords by name, and whether any of them is new.

        Raises:
            OSError: they cannot be kept.
        """
        passwords = {}
        new = False
        for name in names:
            path = self.password_path(name)
            try:
                passwords[name] = path.read_text().strip()
            except FileNotFoundError:
                passwords[name] = "".join(secrets.choice(_ALPHABET) for _ in range(_PASSWORD_CHARACTERS))
                write_private(path, passwords[name].encode() + b"\n")
                new = True
        return passwords, new

    def write_accounts(self, passwords: Mapping[str, str], mapping: Mapping[str, str]) -> None:
        """The password file and the map file of the auth server.

        Raises:
            ConfigError: a name cannot stand in a password file.
            OSError: something cannot be written.
        """
        from uftpd.auth.identity.password_file import password_line

        try:
            lines = [
                (self._line_that_holds(name, password) or password_line(name, password, _dn(name))) + "\n"
                for name, password in passwords.items()
            ]
        except ValueError as error:
            raise ConfigError(f"--user: {error}") from None
        self.write(self.path / "auth/passwords", "".join(lines).encode())
        entries = {
            canonical(_dn(name)): {"role": "user", "xlogin": account}
            for name, account in mapping.items()
            if name in passwords
        }
        self.write(self.path / "auth/map.json", json.dumps(entries, indent=2).encode())

    def _line_that_holds(self, name: str, password: str) -> str | None:
        """The line of an earlier start if it still says the same: a new salt would end the sessions opened by it."""
        from uftpd.auth.identity.password_file import parse_password_file, verify_password

        try:
            text = (self.path / "auth/passwords").read_text()
        except (OSError, ValueError):
            return None
        table = parse_password_file(text)
        account = table.accounts.get(name)
        if account is None or account.salt is not None or account.dn != _dn(name):
            return None
        if not verify_password(account, password.encode(), table.decoy):
            return None
        return f"{name}:{account.hash}::{account.dn}"

    # -- servers ------------------------------------------------------------------------------------------------------

    def prepare(self, options: StandaloneOptions, auth: HostPort, nodes: Mapping[str, NodeAddresses]) -> None:
        """Certificates and configuration files of all servers.

        Args:
            options: what was asked for.
            auth: address of the auth server.
            nodes: addresses of each data node.

        Raises:
            OSError: something cannot be written.
        """
        from uftpd.pki import Authority

        authority = Authority(self.path / "private")
        ca = authority.certificate_path.read_bytes()
        write_private(self.ca_path, ca, mode=0o644)
        hosts = [options.public_host, "localhost", "127.0.0.1", "::1"]
        directory = self.path / "auth"
        pair = authority.ensure(directory, "auth", "uftpd auth", hosts)
        self.write(directory / "ca.pem", ca)
        authorities = ca.rstrip() + b"\n" + options.peer_authorities  # for what lies outside: never for command ports
        self.write(directory / "authorities.pem", authorities)
        self.write(directory / "auth.toml", _auth_toml(options, auth, nodes).encode())
        peers = _own_peers(options, auth, nodes.values())
        for name, addresses in nodes.items():
            place = self._make(f"nodes/{name}", readable=True)
            authority.ensure(place, "node", f"uftpd data {name}", hosts)
            self.write(place / "ca.pem", ca)
            self.write(place / "authorities.pem", authorities)
            self.write(place / "acl", f"# auth servers that may use the command port\n{pair.subject}\n".encode())
            self.write(place / "data.toml", _data_toml(options, addresses, peers).encode())

    @property
    def auth_config_path(self) -> Path:
        """The auth server's configuration file."""
        return self.path / "auth/auth.toml"

    def node_config_path(self, name: str) -> Path:
        """A data node's configuration file."""
        return self.path / "nodes" / name / "data.toml"


def _dn(name: str) -> str:
    attributes = (Attribute(_COMMON_NAME, name), Attribute(_ORGANISATION, "UFTP standalone"))
    return format_name(Name(tuple((attribute,) for attribute in attributes)))


def _auth_toml(options: StandaloneOptions, auth: HostPort, nodes: Mapping[str, NodeAddresses]) -> str:
    tables = "".join(
        f"\n[nodes.{_text(name)}]\n"
        f"description = {_text(f'Data node {name} of a standalone server')}\n"
        f"[[nodes.{_text(name)}.instances]]\n"
        f"host = {_text(options.public_host)}\n"
        f"command = {_text(str(addresses.command))}\n"
        for name, addresses in nodes.items()
    )
    own_addresses = ", ".join(map(_text, _own_addresses(options.public_host)))
    return f"""# Written at every start of uftpd standalone; changes are lost.
[server]
listen = [{_text(str(auth))}]
certificate = "auth.pem"
key = "auth.key"
site_name = "standalone"

[login]
password_file = "passwords"

[attributes]
map_file = "map.json"

[command_port]
ca = "ca.pem"

[store]
path = "store.sqlite"

[shares]
servers = []
allow_write = true
direct = {"true" if options.direct else "false"}
client_address = [{own_addresses}]

[transfers]
enabled = true
key_file = "transfers.key"
allow = [{", ".join(map(_text, options.allow_peers))}]
https_ca = "authorities.pem"
client_address = [{own_addresses}]

[limits]
drain_seconds = {DRAIN_SECONDS}

[log]
level = {_text(options.log_level)}
{tables}"""


def _own_addresses(public_host: str) -> list[str]:
    """Where the connections of this machine to itself come from: loopback, or where its name leads."""
    found = ["127.0.0.1", "::1"]
    with contextlib.suppress(OSError, UnicodeError):
        results = socket.getaddrinfo(public_host, None, type=socket.SOCK_STREAM)
        found += [str(place[0]).partition("%")[0] for *_, place in results]
    return list(dict.fromkeys(found))


def _own_peers(options: StandaloneOptions, auth: HostPort, nodes: Iterable[NodeAddresses]) -> list[str]:
    """The servers here, as clients may name them: nodes copy with each other, and fetch what is shared here."""
    ports = [auth.port]
    for addresses in nodes:
        ports += [addresses.ftp.port, addresses.objects.port]
    hosts = [options.public_host, *_own_addresses(options.public_host)]
    named = (str(HostPort(host, port)) for port in ports for host in dict.fromkeys(hosts))
    return [peer for peer in named if _is_entry(peer)]


def _is_entry(text: str) -> bool:
    try:
        parse_entry(text)
    except ValueError:  # a name of this machine that is no host name; its addresses are there
        return False
    return True


def _data_toml(options: StandaloneOptions, addresses: NodeAddresses, peers: Sequence[str]) -> str:
    port_range = f"port_range = {_text(str(options.port_range))}\n" if options.port_range else ""
    lowest = _lowest_uid(options.mapping)
    allow = ", ".join(_text(account) for account in sorted(set(options.mapping.values())))
    return f"""# Written at every start of uftpd standalone; changes are lost.
[ftp]
listen = [{_text(str(addresses.ftp))}]
{port_range}
[command_port]
listen = {_text(str(addresses.command))}
certificate = "node.pem"
key = "node.key"
ca = "ca.pem"
acl = "acl"

[objects]
listen_tls = [{_text(str(addresses.objects))}]
certificate = "node.pem"
key = "node.key"
url = {_text(f"https://{addresses.objects}")}

[copies]
allow = [{", ".join(map(_text, [*options.allow_peers, *peers]))}]
https_ca = "authorities.pem"

[users]
lowest_uid = {lowest}
allow = [{allow}]
service_user = {_text(options.service_user)}

[limits]
drain_seconds = {DRAIN_SECONDS}

[log]
level = {_text(options.log_level)}
"""


def _lowest_uid(mapping: Mapping[str, str]) -> int:
    """The usual bound, or below it what was asked for by name."""
    return max(1, min([500, *(pwd.getpwnam(account).pw_uid for account in mapping.values())]))


def _text(value: str) -> str:
    """A TOML basic string; JSON's form is one for text without control characters."""
    return json.dumps(value, ensure_ascii=False)

"""Configuration of an auth server (`uftpd auth`): one TOML file, every setting with its default.

    [server]                        # where it serves
    listen = ["0.0.0.0:9000"]
    certificate = "auth.pem"
    key = "auth.key"

    [login]                         # who people are; see uftpd.config.login
    password_file = "passwords"

    [attributes]                    # what they may do
    map_file = "map.json"

    [command_port]                  # how it reaches the data nodes
    ca = "ca.pem"

    [nodes.CLUSTER]                 # one table a logical server, one instance or several
    description = "Cluster storage"
    [[nodes.CLUSTER.instances]]
    host = "ftp1.example.org"
    command = "ftp1.internal:64435"

Values are validated here as far as no other setting or file is needed; `problems` checks what concerns several.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from uftp.protocol.dn import InvalidName, parse_name
from uftpd.config.login import Login, login_problems
from uftpd.config.operating import Monitoring, SecuritySessionSettings, StoreSettings
from uftpd.config.section import Count, Seconds, Section
from uftpd.config.shares import Shares
from uftpd.config.toml import ConfigError, HostPort
from uftpd.config.transfers import Transfers

DEFAULT_PORT = 9000

# `client` and `server` are members of the info reply beside the servers; the others are resources (CONTROL-PLANE 1.5).
RESERVED_NAMES = frozenset({"client", "server", "token", "certificate"})
_SERVER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,63}", re.ASCII)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Server(Section, frozen=True):
    """`[server]`: where the REST interface is served.

    Attributes:
        listen: addresses for HTTPS. "[::]:PORT" takes IPv4 too.
        certificate, key: PEM files, the certificate with its chain. Read again when they change.
        plain_http: serve without TLS, on loopback only, for a reverse proxy on the same machine.
        external_url: what clients see, as "https://auth.example.org:9000"; empty: whatever address they asked for.
        site_name: shown to clients.
        trusted_proxies: addresses or networks whose X-UNICORE-Consignor-IP and X-UNICORE-Gateway are believed.
    """

    listen: tuple[HostPort, ...] = (HostPort("::", DEFAULT_PORT),)
    certificate: Path | None = None
    key: Path | None = None
    plain_http: bool = False
    external_url: str = ""
    site_name: str = "AUTH"
    trusted_proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.listen:
            raise ValueError("listen: at least one address is needed")
        if self.external_url and not re.fullmatch(r"https?://[^\s/]+(/[^\s]*[^\s/])?", self.external_url):
            raise ValueError("external_url: expected https://HOST[:PORT][/PATH] without a slash at the end")
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(f"trusted_proxies: '{proxy}' is no address or network") from None


class AttributeFiles(Section, frozen=True):
    """`[attributes]`: which role, accounts and groups a person has.

    Attributes:
        map_file: JSON, names to attributes; read again when it changes.
        match: how its keys are compared with a name: "strict", or "regexp" (RE2's kind; see uftpd.config.patterns).
    """

    map_file: Path | None = None
    match: Literal["strict", "regexp"] = "strict"


class CommandPortClient(Section, frozen=True):
    """`[command_port]`: the certificate shown to data nodes, and what theirs are checked against.

    Attributes:
        certificate, key: PEM files; default: those of `[server]`.
        ca: PEM file with the CAs that issue the nodes' certificates. No other CA is trusted.
        connect_seconds: for connection and TLS handshake.
        reply_seconds: for the whole reply.
        ping_seconds: the same for a ping, so that a node that hangs is soon passed over.
        ping_every_seconds: each node is asked this often whether it lives, so that a request seldom finds it out.
        down_seconds: a node that did not answer is left alone this long.
        reuse_seconds: an answer this young counts as proof of life, without another ping.
        status_wait_seconds: how long somebody who asks for the status waits for nodes that have not answered lately.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    connect_seconds: Seconds = 10.0
    reply_seconds: Seconds = 60.0
    ping_seconds: Seconds = 10.0
    ping_every_seconds: Annotated[float, msgspec.Meta(ge=1)] = 30.0
    down_seconds: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    reuse_seconds: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    status_wait_seconds: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.0


class Instance(Section, frozen=True):
    """One data node of a logical server.

    Attributes:
        host: public name or address told to clients; one only.
        command: its command port.
        plain: no TLS; on loopback only.
        check_host_name: the node's certificate must be for the host of `command`.
        subject: the node's certificate must have this subject; replaces the check of the host name.
    """

    host: str
    command: HostPort
    plain: bool = False
    check_host_name: bool = True
    subject: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\s,\x00-\x20\x7f]{1,255}", self.host):
            raise ValueError("host: one host name or address, without blanks")
        if self.plain and self.command.host not in _LOOPBACK:
            raise ValueError("plain: without TLS the command port may only be on loopback")
        if self.subject:
            try:
                parse_name(self.subject)
            except InvalidName as error:
                raise ValueError(f"subject: {error}") from None


class Node(Section, frozen=True):
    """`[nodes.NAME]`: a logical server, one data node or several equal ones.

    Attributes:
        description: shown to clients.
        instances: the data nodes, used in turn.
        reservations: JSON file of times in which others than some people are slowed; read again when it changes.
    """

    instances: tuple[Instance, ...]
    description: str = "n/a"
    reservations: Path | None = None

    def __post_init__(self) -> None:
        if not self.instances:
            raise ValueError("instances: at least one is needed")


class Sessions(Section, frozen=True):
    """`[sessions]`: what clients may ask for.

    Attributes:
        allow_client_addresses: a client may name the addresses its session is opened for (`client`, option -X);
            needed for copies between servers.
        max_streams: parallel data connections a client may announce.
    """

    allow_client_addresses: bool = True
    max_streams: Count = 256


class Limits(Section, frozen=True):
    """`[limits]`: what one peer, or all, may use.

    Attributes:
        body_bytes: largest request body.
        body_seconds: for the body of a request to come in.
        request_seconds: for one request altogether, node included.
        idle_seconds: an idle connection is closed; also the time to send a request's headers.
        handshake_seconds: for the TLS handshake.
        requests: requests served at once; more are answered 503.
        connections: of clients; beyond that, or a quarter of it from one network, they are closed at once. Fewer if
            the process may not have so many descriptors.
        drain_seconds: how long running requests may go on after SIGTERM.
    """

    body_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024
    body_seconds: Seconds = 15.0
    request_seconds: Seconds = 120.0
    idle_seconds: Seconds = 15.0
    handshake_seconds: Seconds = 15.0
    requests: Count = 256
    connections: Count = 16384
    drain_seconds: Seconds = 10.0


class Log(Section, frozen=True):
    """`[log]`: one line an event, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class AuthConfig(Section, frozen=True):
    """Everything an auth server is told."""

    server: Server
    nodes: dict[str, Node]
    login: Login = Login()
    attributes: AttributeFiles = AttributeFiles()
    command_port: CommandPortClient = CommandPortClient()
    sessions: Sessions = Sessions()
    shares: Shares = Shares()
    transfers: Transfers = Transfers()
    limits: Limits = Limits()
    store: StoreSettings = StoreSettings()
    security_sessions: SecuritySessionSettings = SecuritySessionSettings()
    monitoring: Monitoring = Monitoring()
    log: Log = Log()


def problems(config: AuthConfig) -> list[str]:
    """What is wrong with settings that each are right alone; one line each, empty if all is well."""
    found = login_problems(config.login)
    server = config.server
    if server.plain_http:
        if any(address.host not in _LOOPBACK for address in server.listen):
            found.append("server.plain_http: without TLS the server may only listen on loopback")
    elif server.certificate is None or server.key is None:
        found.append("server.certificate, server.key: required for HTTPS")
    for name, node in config.nodes.items():
        if name in RESERVED_NAMES or not _SERVER_NAME.fullmatch(name):
            found.append(
                f"nodes.{name}: a server name has letters, digits, '_' and '.', "
                f"and is none of {', '.join(sorted(RESERVED_NAMES))}"
            )
        if any(not instance.plain for instance in node.instances):
            found += _tls_problems(config, name)
    for setting in ("servers", "direct"):
        named = getattr(config.shares, setting)
        unknown = [name for name in named if name not in config.nodes] if isinstance(named, tuple) else []
        found += [f"shares.{setting}: there is no server '{name}'" for name in unknown]
    transfers = config.transfers
    for setting, mentioned in (("servers", transfers.servers), ("node_addresses", tuple(transfers.node_addresses))):
        unknown = [name for name in mentioned if name not in config.nodes]
        found += [f"transfers.{setting}: there is no server '{name}'" for name in unknown]
    return found


def _tls_problems(config: AuthConfig, name: str) -> list[str]:
    client = config.command_port
    if client.ca is None:
        return [f"command_port.ca: required for TLS to node '{name}'"]
    if (client.certificate is None) != (client.key is None):
        return ["command_port.certificate, command_port.key: give both or none"]
    if client.certificate is None and config.server.certificate is None:
        return [f"command_port.certificate, command_port.key: required for TLS to node '{name}'"]
    return []


def checked(config: AuthConfig, path: Path | str) -> AuthConfig:
    """`config` itself, if `problems` finds none.

    Raises:
        ConfigError: the first problem.
    """
    for problem in problems(config):
        raise ConfigError(f"{path}: {problem}")
    return config

"""Configuration of a data node (`uftpd data`): one TOML file, every setting with its default.

Values are validated here as far as no other setting or file is needed; `problems` checks what concerns several
settings, and `uftpd check-config` also whether the files named can be read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from uftp.protocol.command_port import Purpose
from uftpd.config.copies import Copies
from uftpd.config.section import Count, Seconds, Section
from uftpd.config.toml import ConfigError, HostPort, PortRange

LEGACY_PORT = 64434
LEGACY_COMMAND_PORT = 64435


class Ftp(Section, frozen=True):
    """`[ftp]`: where clients come in.

    Attributes:
        listen: addresses of the control connections. "[::]:PORT" takes IPv4 too.
        advertise: IPv4 address to name in PASV replies (behind NAT); empty: the one the client came to.
        port_range: ports of data connections; None: any free one.
        port_wait_seconds: how long EPSV waits for a free port of the range.
        text: what follows the version in the greeting.
    """

    listen: tuple[HostPort, ...] = (HostPort("::", LEGACY_PORT),)
    advertise: str = ""
    port_range: PortRange | None = None
    port_wait_seconds: Seconds = 10.0
    text: str = "https://www.unicore.eu"


class CommandPort(Section, frozen=True):
    """`[command_port]`: where auth servers announce sessions.

    Attributes:
        listen: one address.
        plain: no TLS and no check of the peer. Any local user can then open sessions as any other, so it starts on
            loopback only, and is for one-user installations.
        certificate, key, ca: PEM files; peers need a certificate issued by `ca`. No other CA is trusted.
        acl: file with the subject names of admitted peers, one a line; read again when it changes.
        acl_subset: admit a peer whose subject holds all parts of a line and more, as upstream does.
        request_seconds: handshake and request must be in within this time.
        max_connections: requests served at once.
    """

    listen: HostPort = HostPort("127.0.0.1", LEGACY_COMMAND_PORT)
    plain: bool = False
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    acl: Path | None = None
    acl_subset: bool = False
    request_seconds: Seconds = 15.0
    max_connections: Count = 64


class Users(Section, frozen=True):
    """`[users]`: as whom sessions run. Without root every session runs as the user the node was started by.

    Attributes:
        lowest_uid: accounts with a smaller user id are refused; 0 itself always is.
        allow: if not empty, only these accounts.
        deny: never these accounts.
        service_user: whom the front runs as when started by root.
        check_groups: a requested group must be one of the account's.
    """

    lowest_uid: Annotated[int, msgspec.Meta(ge=1)] = 500
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    service_user: str = "nobody"
    check_groups: bool = True


class Limits(Section, frozen=True):
    """`[limits]`: each has its own clear reply.

    Attributes:
        sessions_per_user: sessions and outstanding requests of one account.
        share_sessions_per_user, copy_sessions_per_user: the same for sessions that serve shares and copies.
        sessions: sessions of all users.
        spares: processes kept ready for logins to come, about 3 MB each.
        streams: parallel data connections of one transfer, for clients without MODE U.
        unproven: connections that have not logged in.
        unproven_per_address: the same, of one client address.
        line_bytes: longest command line.
        login_seconds: time to log in.
        idle_seconds: a session without command or running transfer ends.
        data_connect_seconds: time for a client to connect to the port it was told.
        stall_seconds: a transfer whose peer moves no byte ends; time the file system takes does not count.
        drain_seconds: how long running transfers may go on after SIGTERM.
        rate_per_user: bytes a second over all sessions of an account; 0: no limit.
        waiting_ports_per_user: ports of the range one account may hold while waiting for its clients to connect.
    """

    sessions_per_user: Count = 16
    share_sessions_per_user: Count = 64
    copy_sessions_per_user: Count = 32
    sessions: Count = 2000
    spares: Annotated[int, msgspec.Meta(ge=0, le=64)] = 4
    streams: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    unproven: Count = 256
    unproven_per_address: Count = 64
    line_bytes: Annotated[int, msgspec.Meta(ge=512, le=65536)] = 16384
    login_seconds: Seconds = 30.0
    idle_seconds: Seconds = 7200.0
    data_connect_seconds: Seconds = 30.0
    stall_seconds: Seconds = 300.0
    drain_seconds: Seconds = 30.0
    rate_per_user: Annotated[int, msgspec.Meta(ge=0)] = 0
    waiting_ports_per_user: Count = 16

    def per_user(self, purpose: Purpose) -> int:
        """How many sessions of this kind an account may have."""
        match purpose:
            case Purpose.LOGIN:
                return self.sessions_per_user
            case Purpose.SHARE:
                return self.share_sessions_per_user
            case Purpose.COPY:
                return self.copy_sessions_per_user


class Transfers(Section, frozen=True):
    """`[transfers]`: how data may travel.

    Attributes:
        legacy_ciphers: ciphers that may carry data outside MODE U. They do not keep it from being changed; without
            them old clients cannot encrypt at all, and ours use MODE U. Requests with such a key are refused, but for
            one that may be for MODE U: that session takes nothing else.
    """

    legacy_ciphers: tuple[Literal["AES", "BLOWFISH"], ...] = ("AES", "BLOWFISH")


class Files(Section, frozen=True):
    """`[files]`: how sessions treat files.

    Attributes:
        durability: when a whole-file upload is acknowledged: "rename" once it has its name (safe against a crash of
            processes), "fsync" once it is on the disk.
        umask: octal, as text.
        confine_links: links that lead out of a session's base directory are refused in every session, not only in
            restricted ones.
        write_protected: files below the home that no session may change.
        key_files: where accepted SSH keys stand, below the home.
        legacy_times: time zone of MLST, MFMT and MFF for clients that do not ask for UTC.
    """

    durability: Literal["rename", "fsync"] = "rename"
    umask: Annotated[str, msgspec.Meta(pattern="^0?[0-7]{3}$")] = "022"
    confine_links: bool = False
    write_protected: tuple[str, ...] = (".ssh/authorized_keys",)
    key_files: tuple[str, ...] = (".ssh/authorized_keys", ".uftp/authorized_keys")
    legacy_times: Literal["local", "utc"] = "local"


class Objects(Section, frozen=True):
    """`[objects]`: the object server: one file over HTTP, for whoever has the secret of a request with `http=true`
    (EXTENSIONS section 7). Auth servers send downloads of shares here, if they are told to.

    Attributes:
        listen: addresses for plain HTTP, which anybody on the way can read and change. Empty: none.
        listen_tls: addresses for HTTPS.
        certificate, key: PEM files, for HTTPS.
        url: what auth servers send browsers to, `https://host[:port]`, where that is not the address listened on:
            behind a proxy or NAT, or by another name. Empty: this machine's name or the address, and the port.
        relays: processes that do the encryption; 0: one for each processor.
        connections: of one object at a time; aria2c -x has 16 at most.
        relay_connections: of one relay at a time.
        head_seconds: for the head of a request to arrive, and for a TLS handshake.
        idle_seconds: a connection that asks for nothing more ends, and an object nobody asks for is closed.
        stall_seconds: a download whose client takes no byte ends.
        longest_seconds: how long downloads may go on that began before their secret ended.
    """

    listen: tuple[HostPort, ...] = ()
    listen_tls: tuple[HostPort, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    url: str = ""
    relays: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    connections: Count = 64
    relay_connections: Count = 2000
    head_seconds: Seconds = 15.0
    idle_seconds: Seconds = 30.0
    stall_seconds: Seconds = 120.0
    longest_seconds: Seconds = 86400.0

    @property
    def enabled(self) -> bool:
        """Whether there is an object server."""
        return bool(self.listen or self.listen_tls)


class Log(Section, frozen=True):
    """`[log]`: one line an event, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class DataConfig(Section, frozen=True):
    """Everything a data node is told."""

    ftp: Ftp = Ftp()
    command_port: CommandPort = CommandPort()
    users: Users = Users()
    limits: Limits = Limits()
    transfers: Transfers = Transfers()
    copies: Copies = Copies()
    files: Files = Files()
    objects: Objects = Objects()
    log: Log = Log()


_OBJECT_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_TLS_FILES = ("certificate", "key", "ca", "acl")


def problems(config: DataConfig) -> list[str]:
    """What is wrong with settings that each are right alone; one line each, empty if all is well."""
    found = []
    port = config.command_port
    missing = [name for name in _TLS_FILES if getattr(port, name) is None]
    if port.plain:
        if port.listen.host not in ("127.0.0.1", "::1", "localhost"):
            found.append("command_port.plain: without TLS the command port may only listen on loopback")
    elif missing:
        names = ", ".join(f"command_port.{name}" for name in missing)
        found.append(f"{names}: required for TLS (or set command_port.plain on a loopback address)")
    if not config.ftp.listen:
        found.append("ftp.listen: at least one address is needed")
    if any(c < " " or c == "\x7f" for c in config.ftp.text):
        found.append("ftp.text: no control characters")
    return [*found, *_object_problems(config.objects)]


def _object_problems(objects: Objects) -> list[str]:
    found = []
    if objects.listen_tls:
        missing = [name for name in ("certificate", "key") if getattr(objects, name) is None]
        if missing:
            found.append(f"{', '.join(f'objects.{name}' for name in missing)}: required for objects.listen_tls")
    if objects.url and not _OBJECT_URL.fullmatch(objects.url):
        found.append("objects.url: expected http://HOST[:PORT] or https://HOST[:PORT], without a path")
    if objects.url and not objects.enabled:
        found.append("objects.url: there is no object server without objects.listen or objects.listen_tls")
    return found


def checked(config: DataConfig, path: Path | str) -> DataConfig:
    """`config` itself, if `problems` finds none.

    Raises:
        ConfigError: the first problem.
    """
    for problem in problems(config):
        raise ConfigError(f"{path}: {problem}")
    return config

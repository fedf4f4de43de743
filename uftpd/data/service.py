"""Starts a data node: binds what it listens on, and becomes the spawner."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from uftp._version import __version__
from uftpd.config.data import DataConfig, checked
from uftpd.config.toml import ConfigError, HostPort
from uftpd.data.spawner import Spawner
from uftpd.events import EventLog, configure
from uftpd.session import object_messages

_log = EventLog("spawner")

_BACKLOG = 512


def listen(address: HostPort) -> socket.socket:
    """A listening TCP socket; `[::]` takes IPv4 too.

    Raises:
        ConfigError: the address is not this machine's, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(place)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from error
    return listener


def run(
    config: DataConfig,
    *,
    config_path: Path | None = None,
    ftp_listeners: Sequence[socket.socket] | None = None,
    command_listeners: Sequence[socket.socket] | None = None,
    object_listeners: Sequence[socket.socket] | None = None,
    object_tls_listeners: Sequence[socket.socket] | None = None,
    ready: Callable[[], None] | None = None,
) -> int:
    """Run a data node in this process until a signal ends it.

    Args:
        config: its settings.
        config_path: the file they are from, read again on SIGHUP.
        ftp_listeners, command_listeners, object_listeners, object_tls_listeners: listening sockets; None: bound here as
            configured.
        ready: called once it can serve.

    Returns:
        Exit code: 0, or 1 if sessions had to be killed.

    Raises:
        ConfigError: settings that do not fit, or an address that cannot be listened on.
    """
    checked(config, config_path or "configuration")
    check_service_user(config)
    configure(config.log.level, config.log.format)
    ftp = list(ftp_listeners) if ftp_listeners is not None else [listen(a) for a in config.ftp.listen]
    command = list(command_listeners) if command_listeners is not None else [listen(config.command_port.listen)]
    plain = list(object_listeners) if object_listeners is not None else [listen(a) for a in config.objects.listen]
    encrypted = (
        list(object_tls_listeners)
        if object_tls_listeners is not None
        else [listen(a) for a in config.objects.listen_tls]
    )
    if config.command_port.plain:
        _check_loopback(command)
    os.umask(0o077)
    # Fronts and relays come and go, and find each other by this, whose both ends stay open here.
    relayed, to_front = object_messages.channel_pair()
    spawner_pid = os.getpid()

    def run_front(current: DataConfig, spawner: socket.socket, front_ready: Callable[[], None]) -> None:
        # Imported in its own process only: every page the spawner holds makes each fork dearer.
        from uftpd.data import front

        objects = front.ObjectSockets(plain, encrypted, relayed)
        front.run(current, config_path, spawner, ftp, command, objects, front_ready)

    def run_relay(current: DataConfig, relay_ready: int) -> int:
        from uftpd.data import relay

        return relay.be_relay(lambda: relay.run(current, encrypted, to_front, relay_ready, spawner_pid))

    def say_ready() -> None:
        _log(
            "ready",
            version=__version__,
            ftp=_addresses(ftp),
            command=_addresses(command),
            objects=_addresses([*plain, *encrypted]) or None,
            users="all" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name,
        )
        if ready is not None:
            ready()

    return Spawner(
        config,
        config_path,
        run_front,
        [*ftp, *command, *plain, *encrypted],
        say_ready,
        run_relay if encrypted else None,
    ).run()


def _addresses(listeners: Sequence[socket.socket]) -> str:
    names = [listener.getsockname() for listener in listeners]
    return ",".join(str(HostPort(name[0], name[1])) for name in names)


def check_service_user(config: DataConfig) -> None:
    """Whether the account for the part that faces the network exists; without root none is needed.

    Raises:
        ConfigError: it does not.
    """
    name = config.users.service_user
    if os.geteuid() != 0:
        return
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise ConfigError(f"users.service_user: there is no account '{name}' on this machine; create it") from None
    if entry.pw_uid == 0:
        raise ConfigError(f"users.service_user: '{name}' is root, an account without rights is needed")


def _check_loopback(listeners: Sequence[socket.socket]) -> None:
    for listener in listeners:
        host = listener.getsockname()[0]
        if not (host.startswith("127.") or host == "::1"):
            raise ConfigError(f"command_port.plain: without TLS the command port cannot listen on {host}")

"""The listening sockets of a standalone server: all bound before anything starts, so that every port is known."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from uftpd.config.toml import ConfigError, HostPort
from uftpd.standalone.options import StandaloneOptions

BACKLOG = 512
LOOPBACK = "127.0.0.1"

# Further nodes use every second port, since the usual ports for FTP and command port are neighbours.
_STRIDE = 2


class Listeners:
    """Sockets by what they are for.

    Attributes:
        auth: of the auth server.
        nodes: FTP and command port by name of the node. Command ports are on loopback always: only our own auth server
            needs them.
        objects: of the nodes' object servers, by name of the node.
    """

    def __init__(self, options: StandaloneOptions) -> None:
        """Bind everything.

        Raises:
            ConfigError: an address or port cannot be had.
        """
        self.auth = _listen(options.host, options.auth_port, "--auth-port")
        self.nodes: dict[str, tuple[socket.socket, socket.socket]] = {}
        self.objects: dict[str, socket.socket] = {}
        for number, name in enumerate(options.nodes):
            ftp = _listen(options.host, _further(options.ftp_port, number), "--ftp-port")
            command = _listen(LOOPBACK, _further(options.command_port, number), "--command-port")
            self.nodes[name] = (ftp, command)
            self.objects[name] = _listen(options.host, _further(options.objects_port, number), "--objects-port")

    def all(self) -> Iterator[socket.socket]:
        """Every socket."""
        yield self.auth
        for pair in self.nodes.values():
            yield from pair
        yield from self.objects.values()

    def keep_only(self, *kept: socket.socket) -> None:
        """Close all others; for a process that has no use for them."""
        for listener in self.all():
            if listener not in kept:
                listener.close()


def address(listener: socket.socket, host: str | None = None) -> HostPort:
    """Where a socket listens, or how it is reached under another name."""
    bound, port, *_ = listener.getsockname()
    return HostPort(host or bound, port)


def _further(port: int, number: int) -> int:
    return port + _STRIDE * number if port else 0


def _listen(host: str, port: int, option: str) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}: {getattr(error, 'strerror', None) or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = f"; {option} takes another port, 0 a free one" if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"cannot listen on {HostPort(host, port)}: {error.strerror}{hint}") from error
    return listener

"""The process of an auth server: listeners, TLS, readiness, signals (DESIGN section 6).

Everything that needs privileges (keys, ports) is done by `open_server`; the caller may drop them before it serves.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio
from hypercorn.config import Config as HttpConfig
from hypercorn.trio import serve as serve_http

from uftpd.auth.app import build_app, build_services
from uftpd.auth.events import event
from uftpd.auth.info import ServerFacts, gather_facts
from uftpd.auth.nodes.client import CommandPort, load_certificate
from uftpd.config.auth import AuthConfig, Limits
from uftpd.config.toml import ConfigError, HostPort
from uftpd.events import configure

BACKLOG = 512


@dataclass(frozen=True, slots=True)
class OpenServer:
    """What an auth server takes hold of before it drops privileges: ports, keys and certificates."""

    listeners: tuple[socket.socket, ...]
    tls: ssl.SSLContext | None
    command_port: CommandPort
    facts: ServerFacts


def bind(address: HostPort) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"server.listen: {address}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "::"))
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"server.listen: {address}: {error.strerror}") from error
    return listener


def tls_context(config: AuthConfig) -> ssl.SSLContext | None:
    """The context for HTTPS, or None for plain HTTP.

    Raises:
        ConfigError: certificate or key cannot be used.
    """
    server = config.server
    if server.plain_http or server.certificate is None or server.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Only HTTP/1.1: that is what the clients speak, and HTTP/2 is one more parser for strangers to play with.
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, server.certificate, server.key)
    return context


def open_server(config: AuthConfig, listeners: Sequence[socket.socket] | None = None) -> OpenServer:
    """Bind the configured addresses, unless listeners are given, and load all certificates.

    Raises:
        ConfigError: an address, a certificate or a key cannot be used.
    """
    tls = tls_context(config)
    port = CommandPort(config.command_port, config.server.certificate, config.server.key)
    if listeners is None:
        listeners = [bind(address) for address in config.server.listen]
    return OpenServer(tuple(listeners), tls, port, gather_facts(config))


async def serve(
    config: AuthConfig,
    opened: OpenServer,
    *,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set and running requests have ended, or their time is up.

    Reports started once requests can be answered. The listeners are closed at the end.

    Raises:
        ConfigError: a password or map file cannot be used.
    """
    with _closing(opened.listeners):
        async with trio.open_nursery() as background:
            services = build_services(config, opened.command_port, opened.facts, background)
            http = _HttpConfig(config.limits, opened)
            background.start_soon(services.registry.watch)
            async with trio.open_nursery() as nursery:
                application = build_app(services)
                await nursery.start(_serve_http, application, http, shutdown)
                task_status.started()
            background.cancel_scope.cancel()


async def _serve_http(
    application: Callable[..., object],
    http: HttpConfig,
    shutdown: trio.Event,
    *,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    await serve_http(
        application,  # type: ignore[arg-type]  # hypercorn's own types for ASGI messages are dicts of its making
        http,
        shutdown_trigger=shutdown.wait,
        task_status=task_status,
        mode="asgi",
    )


class _HttpConfig(HttpConfig):
    """Hypercorn with our sockets, our TLS context and our limits."""

    def __init__(self, limits: Limits, opened: OpenServer) -> None:
        super().__init__()
        # Hypercorn owns the descriptors it is given this way, hence the copies.
        self.bind = [f"fd://{listener.dup().detach()}" for listener in opened.listeners]
        self._tls = opened.tls
        self.backlog = BACKLOG
        self.include_server_header = False
        self.keep_alive_timeout = limits.idle_seconds
        self.ssl_handshake_timeout = limits.handshake_seconds
        self.graceful_timeout = limits.drain_seconds
        self.shutdown_timeout = limits.drain_seconds
        logger = logging.getLogger("uftpd.http")
        logger.setLevel(logging.WARNING)
        self.errorlog = logger
        self.accesslog = None
        self.loglevel = "WARNING"

    @property
    def ssl_enabled(self) -> bool:
        return self._tls is not None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        return self._tls


@contextmanager
def _closing(listeners: Sequence[socket.socket]) -> Iterator[None]:
    """Close the listeners at the end."""
    try:
        yield
    finally:
        for listener in listeners:
            listener.close()


def run(
    config: AuthConfig,
    *,
    listeners: Sequence[socket.socket] | None = None,
    drop_privileges: Callable[[], None] | None = None,
    ready: Callable[[], None] | None = None,
) -> int:
    """Run an auth server in this process until SIGTERM or SIGINT.

    Args:
        config: validated configuration.
        listeners: listening sockets; None: bind those of the configuration.
        drop_privileges: called when keys are loaded and sockets bound, before any byte of a client is read.
        ready: called when requests can be answered.

    Returns:
        The exit code.

    Raises:
        ConfigError: something in the configuration cannot be used.
    """
    configure(config.log.level, config.log.format)
    opened = open_server(config, listeners)
    if drop_privileges is not None:
        drop_privileges()
    try:
        trio.run(_run, config, opened, ready)
    except BaseExceptionGroup as group:
        mistakes, others = group.split(ConfigError)
        if others is not None or mistakes is None:
            raise
        raise _first(mistakes) from None
    return 0


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(config: AuthConfig, opened: OpenServer, ready: Callable[[], None] | None) -> None:
    shutdown = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_signals, received, config, opened, shutdown)
            async with trio.open_nursery() as serving:

                async def serve_here(*, task_status: trio.TaskStatus[None]) -> None:
                    await serve(config, opened, shutdown=shutdown, task_status=task_status)

                await serving.start(serve_here)
                event("ready", listen=",".join(_address(listener) for listener in opened.listeners))
                if os.geteuid() == 0:
                    event("running as root, which an auth server does not need", level=logging.WARNING)
                if ready is not None:
                    ready()
            nursery.cancel_scope.cancel()
    event("stopped")


async def _watch_signals(
    received: AsyncIterator[int], config: AuthConfig, opened: OpenServer, shutdown: trio.Event
) -> None:
    async for number in received:
        if number != signal.SIGHUP:
            event("stopping", signal=signal.Signals(number).name)
            shutdown.set()
            continue
        try:
            if opened.tls and config.server.certificate and config.server.key:
                load_certificate(opened.tls, config.server.certificate, config.server.key)
            event("certificate read again")
        except ConfigError as error:
            event("certificate not taken over", level=logging.ERROR, reason=str(error))


def _address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return str(HostPort(host, port))

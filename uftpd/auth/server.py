"""The process of an auth server: listeners, TLS, readiness, signals (DESIGN section 6).

Everything that needs privileges (keys, ports) is done by `open_server`; the caller may drop them before it serves.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import trio
from hypercorn.config import Config as HttpConfig
from hypercorn.trio import serve as serve_http

from uftpd.auth import http_connection
from uftpd.auth.connections import Connections, raise_descriptors
from uftpd.auth.edge import HEADERS_OF_ALL
from uftpd.auth.events import event
from uftpd.auth.metrics import Metrics
from uftpd.auth.monitoring import build_monitoring
from uftpd.auth.reload import InForce, load_keys
from uftpd.auth.services import Keys, Lasting
from uftpd.auth.shares.grants import Grants
from uftpd.auth.shares.running import Deliveries
from uftpd.auth.store.engine import Store, open_store
from uftpd.auth.store.housekeeping import Tally, keep_house
from uftpd.auth.tls import ExchangeableContext, tls_context
from uftpd.auth.transfers import runner
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.sealing import Sealer, load_key_file
from uftpd.config.auth import AuthConfig
from uftpd.config.operating import StoreSettings
from uftpd.config.toml import ConfigError, HostPort
from uftpd.events import configure

ANY_ADDRESS = ipaddress.ip_address("0.0.0.0")
BACKLOG = 512


@dataclass(frozen=True, slots=True)
class OpenServer:
    """What an auth server takes hold of before it drops privileges: ports, keys, certificates, the store.

    `sealer` has the key of transfers' credentials; None where there are no transfers.
    """

    listeners: tuple[socket.socket, ...]
    monitoring: tuple[socket.socket, ...]
    tls: ExchangeableContext | None
    keys: Keys
    store: Store
    sealer: Sealer | None = None


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
        raise ConfigError(f"listen: {address}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "::"))
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"listen: {address}: {error.strerror}") from error
    return listener


def open_server(config: AuthConfig, listeners: Sequence[socket.socket] | None = None) -> OpenServer:
    """Bind the configured addresses, unless listeners are given, load all certificates, and open the store.

    Raises:
        ConfigError: an address, a certificate, a key or the store cannot be used.
    """
    context = tls_context(config)
    keys = load_keys(config, time.time())
    key_file = config.transfers.key_file
    sealer = load_key_file(key_file) if config.transfers.enabled and key_file is not None else None
    with ExitStack() as undo:
        if listeners is None:
            listeners = [undo.enter_context(bind(address)) for address in config.server.listen]
        monitoring = [undo.enter_context(bind(address)) for address in config.monitoring.listen]
        store = open_store(config.store)
        undo.pop_all()
    tls = ExchangeableContext(context) if context is not None else None
    return OpenServer(tuple(listeners), tuple(monitoring), tls, keys, store, sealer)


async def serve(
    config: AuthConfig,
    opened: OpenServer,
    *,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[InForce] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set and running requests have ended, or their time is up.

    Reports started once requests can be answered, with the means to change the configuration. Listeners and store are
    closed at the end.

    Raises:
        ConfigError: a password or map file cannot be used.
    """
    with _closing(opened):
        async with trio.open_nursery() as background:
            metrics = Metrics()
            opened.store.observer = metrics.observe_store
            grants = Grants(opened.store)
            deliveries = Deliveries()
            transfers = None
            if opened.sealer is not None:
                transfers = ManagedTransfers(opened.store, opened.sealer, metrics, lambda: running.config.transfers)
            lasting = Lasting(opened.store, Tally(), metrics, background, grants, deliveries, transfers)
            running = InForce(config, opened.keys, lasting, opened.tls)
            metrics.watch(
                lambda: running.services.registry, opened.store, lambda: running.services.facts.certificate_ends
            )
            if config.store == StoreSettings():
                event("no [store]: what is kept is lost at the end", level=logging.WARNING)
            background.start_soon(keep_house, opened.store, lasting.tally)
            background.start_soon(grants.keep_counting)
            background.start_soon(grants.watch_stops, deliveries)
            background.start_soon(running.watch_files)
            if transfers is not None:
                background.start_soon(transfers.keep_house)
            if transfers is not None:
                background.start_soon(runner.run, lambda: running.services)
            async with trio.open_nursery() as nursery:
                http = _HttpConfig(running, opened.listeners, opened.tls)
                await nursery.start(_serve_http, running, http, shutdown)
                if opened.monitoring:
                    application = build_monitoring(lambda: running.services)
                    watched = _HttpConfig(running, opened.monitoring, None)
                    await nursery.start(_serve_http, application, watched, shutdown)
                task_status.started(running)
            background.cancel_scope.cancel()


async def _serve_http(
    application: Callable[..., object],
    http: HttpConfig,
    shutdown: trio.Event,
    *,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    http_connection.install()
    await serve_http(
        application,  # type: ignore[arg-type]  # hypercorn's own types for ASGI messages are dicts of its making
        http,
        shutdown_trigger=shutdown.wait,
        task_status=task_status,
        mode="asgi",
    )


class _HttpConfig(HttpConfig):
    """Hypercorn with our sockets, our TLS context and the limits in force; its connections are `http_connection`'s."""

    def __init__(self, running: InForce, listeners: Sequence[socket.socket], tls: ExchangeableContext | None) -> None:
        super().__init__()
        # Hypercorn owns the descriptors it is given this way, hence the copies.
        self.bind = [f"fd://{listener.dup().detach()}" for listener in listeners]
        self._running = running
        self._tls = tls
        self.connections = Connections(lambda: running.config)
        self.any_address = ANY_ADDRESS
        limits = running.config.limits
        self.backlog = BACKLOG
        self.include_server_header = False
        self.graceful_timeout = limits.drain_seconds
        self.shutdown_timeout = limits.drain_seconds
        logger = logging.getLogger("uftpd.http")
        logger.setLevel(logging.WARNING)
        self.errorlog = logger
        self.accesslog = None
        self.loglevel = "WARNING"

    # Hypercorn looks at these two for each connection, and has fields of those names.

    @property
    def keep_alive_timeout(self) -> float:  # type: ignore[override]
        return self._running.config.limits.idle_seconds

    @property
    def ssl_handshake_timeout(self) -> float:  # type: ignore[override]
        return self._running.config.limits.handshake_seconds

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """Of every reply, those included that hypercorn gives itself to what is no HTTP."""
        return [*super().response_headers(protocol), *HEADERS_OF_ALL]

    @property
    def ssl_enabled(self) -> bool:
        return self._tls is not None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        return self._tls.outer if self._tls is not None else None


@contextmanager
def _closing(opened: OpenServer) -> Iterator[None]:
    """Close everything at the end."""
    try:
        yield
    finally:
        for listener in (*opened.listeners, *opened.monitoring):
            listener.close()
        opened.store.close()


def run(
    config: AuthConfig,
    *,
    listeners: Sequence[socket.socket] | None = None,
    drop_privileges: Callable[[], None] | None = None,
    ready: Callable[[], None] | None = None,
    load: Callable[[], AuthConfig] | None = None,
) -> int:
    """Run an auth server in this process until SIGTERM or SIGINT.

    Args:
        config: validated configuration.
        listeners: listening sockets; None: bind those of the configuration.
        drop_privileges: called when keys are loaded and sockets bound, before any byte of a client is read.
        ready: called when requests can be answered.
        load: reads the configuration again, at SIGHUP; None: only the files it names.

    Returns:
        The exit code.

    Raises:
        ConfigError: something in the configuration cannot be used.
    """
    configure(config.log.level, config.log.format)
    raise_descriptors()
    opened = open_server(config, listeners)
    if drop_privileges is not None:
        drop_privileges()
    try:
        trio.run(_run, config, opened, ready, load)
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


async def _run(
    config: AuthConfig,
    opened: OpenServer,
    ready: Callable[[], None] | None,
    load: Callable[[], AuthConfig] | None,
) -> None:
    shutdown = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as serving:

                async def serve_here(*, task_status: trio.TaskStatus[InForce]) -> None:
                    await serve(config, opened, shutdown=shutdown, task_status=task_status)

                running: InForce = await serving.start(serve_here)
                nursery.start_soon(_watch_signals, received, running, load, shutdown)
                event("ready", listen=",".join(_address(listener) for listener in opened.listeners))
                if opened.monitoring:
                    event("monitoring", listen=",".join(_address(listener) for listener in opened.monitoring))
                if os.geteuid() == 0:
                    event("running as root, which an auth server does not need", level=logging.WARNING)
                if ready is not None:
                    ready()
            nursery.cancel_scope.cancel()
    event("stopped")


async def _watch_signals(
    received: AsyncIterator[int], running: InForce, load: Callable[[], AuthConfig] | None, shutdown: trio.Event
) -> None:
    async for number in received:
        if number != signal.SIGHUP:
            event("stopping", signal=signal.Signals(number).name)
            shutdown.set()
            continue
        running.reload(load if load is not None else lambda: running.config)
        configure(running.config.log.level, running.config.log.format)


def _address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return str(HostPort(host, port))

"""The configuration in force, and how another takes its place without a connection noticing.

SIGHUP reads the configuration file again, and with it everything it names. Certificate and key files are looked at
every few seconds and read again when they have changed, under the configuration in force: a file that somebody is
still editing is never taken over without a word from them. What cannot be used changes nothing, and is logged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import trio
from starlette.types import ASGIApp, Receive, Scope, Send

from uftp.client.vetted_http import trust
from uftpd.auth.app import build_app
from uftpd.auth.events import event
from uftpd.auth.identity.credential import ServerCredential
from uftpd.auth.info import gather_facts
from uftpd.auth.nodes.client import CommandPort
from uftpd.auth.services import Keys, Lasting, Services, build_services
from uftpd.auth.tls import ExchangeableContext, tls_context
from uftpd.config.auth import AuthConfig
from uftpd.config.toml import ConfigError
from uftpd.peers import fetch_authorities

WATCH_SECONDS = 2.0

_Signature = tuple[tuple[int, int, int] | None, ...]


def load_keys(config: AuthConfig, up_since: float) -> Keys:
    """Read all key and certificate files but the ones of HTTPS.

    Args:
        config: names them.
        up_since: Unix seconds, shown to clients.

    Raises:
        ConfigError: one cannot be used.
    """
    certificate, key = config.server.certificate, config.server.key
    transfers = config.transfers
    return Keys(
        command_port=CommandPort(config.command_port, certificate, key),
        credential=ServerCredential(certificate, key) if certificate is not None and key is not None else None,
        facts=gather_facts(config, up_since),
        outside=trust(fetch_authorities(transfers.reach)) if transfers.enabled else None,
    )


class InForce:
    """An application that hands each request to that of the newest configuration."""

    def __init__(self, config: AuthConfig, keys: Keys, lasting: Lasting, tls: ExchangeableContext | None) -> None:
        """Build everything for the first configuration.

        Raises:
            ConfigError: a file it names cannot be used.
        """
        self.config = config
        self._keys = keys
        self._lasting = lasting
        self._tls = tls
        self._watching = trio.CancelScope()
        self._use(config, keys, build_services(config, keys, lasting))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope; a request goes on under the configuration it began with."""
        await self._application(scope, receive, send)

    @property
    def services(self) -> Services:
        """Those of the newest configuration."""
        return self._services

    def _use(self, config: AuthConfig, keys: Keys, services: Services) -> None:
        self._watching.cancel()
        self._watching = trio.CancelScope()
        self.config = config
        self._keys = keys
        self._services = services
        self._application: ASGIApp = build_app(services)
        self._lasting.background.start_soon(_watch_nodes, services, self._watching)

    def change(self, config: AuthConfig) -> None:
        """Put another configuration in force, and read all files it names.

        Raises:
            ConfigError: a file cannot be used; everything stays as it was.
        """
        _say_what_stays(self.config, config)
        context = tls_context(config)
        keys = load_keys(config, self._keys.facts.up_since)
        services = build_services(config, keys, self._lasting, previous=self._services.registry)
        self._use(config, keys, services)
        if self._tls is not None and context is not None:
            self._tls.exchange(context)

    def reload(self, load: Callable[[], AuthConfig] | None = None) -> None:
        """As `change`, with all mistakes logged.

        Args:
            load: reads the configuration file; None: what is in force, for new certificates.
        """
        what = "configuration" if load is not None else "certificates"
        try:
            self.change(load() if load is not None else self.config)
        except ConfigError as error:
            event(f"{what} not taken over, the old stay in force", level=logging.ERROR, reason=str(error))
            self._lasting.metrics.reloads.labels("failed").inc()
        else:
            event(f"{what} read again")
            self._lasting.metrics.reloads.labels("done").inc()

    async def watch_files(self) -> None:
        """Look at certificates and keys for ever."""
        in_use = seen = _signatures(self.config)
        while True:
            await trio.sleep(WATCH_SECONDS)
            before, seen = seen, _signatures(self.config)
            # Two looks must agree: certificate and key are two files, and change one after the other.
            if seen not in (in_use, ()) and seen == before:
                in_use = seen
                self.reload()


async def _watch_nodes(services: Services, scope: trio.CancelScope) -> None:
    with scope:
        await services.registry.watch()


def _say_what_stays(old: AuthConfig, new: AuthConfig) -> None:
    fixed = {
        "server.listen": (old.server.listen, new.server.listen),
        "server.plain_http": (old.server.plain_http, new.server.plain_http),
        "monitoring.listen": (old.monitoring.listen, new.monitoring.listen),
        "store": (old.store, new.store),
        "transfers.enabled": (old.transfers.enabled, old.transfers.enabled or new.transfers.enabled),
        "transfers.key_file": (old.transfers.key_file, new.transfers.key_file),
    }
    for name, (before, after) in fixed.items():
        if before != after:
            event("setting needs a restart", level=logging.WARNING, setting=name)


def _signatures(config: AuthConfig) -> _Signature:
    server, port = config.server, config.command_port
    files: list[Path | None] = [server.certificate, server.key, port.certificate, port.key, port.ca]
    files.append(config.transfers.https_ca)
    return tuple(_signature(path) for path in files if path is not None)


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size

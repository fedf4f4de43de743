"""How many connections clients may have: so many altogether, and a quarter of them from one network.

Each is a descriptor from the moment it is accepted, long before anybody has logged in. Without a bound one peer that
opens connections and says nothing would leave none for the data nodes, which would then count as down.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from uftp.protocol.command_port import IPAddress
from uftpd.auth.addresses import TrustedProxies
from uftpd.auth.identity.throttle import network
from uftpd.config.auth import AuthConfig

RESERVED = 128  # descriptors for data nodes, identity providers, the store, files
_LEAST = 16
_SHARE = 4


class TooManyConnections(Exception):
    """There is no place for another one."""


class Connections:
    """Counts those of clients.

    Args:
        config: gives the configuration in force.
    """

    def __init__(self, config: Callable[[], AuthConfig]) -> None:
        self._config = config
        self._by_network: Counter[str] = Counter()

    @contextmanager
    def place(self, peer: IPAddress) -> Iterator[None]:
        """A place for one connection.

        Raises:
            TooManyConnections: there is none, for this peer or at all.
        """
        config, name = self._config(), network(peer)
        most = max(_LEAST, min(config.limits.connections, descriptors() - RESERVED))
        proxies = TrustedProxies(config.server.trusted_proxies)
        share = most if peer in proxies else max(1, most // _SHARE)
        if self._by_network.total() >= most or self._by_network[name] >= share:
            raise TooManyConnections
        self._by_network[name] += 1
        try:
            yield
        finally:
            self._by_network[name] -= 1
            if not self._by_network[name]:
                del self._by_network[name]


def descriptors() -> int:
    """How many this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def raise_descriptors() -> None:
    """Allow this process as many as it may allow itself; the usual soft limit is few for a server."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

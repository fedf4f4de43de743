"""`[transfers]` of an auth server: copies between data nodes that it looks after for people.

[transfers]
enabled = true
key_file = "/etc/uftp/transfers.key"   # made at the first start; credentials for other sites are sealed with it
active_per_user = 4
allow = ["auth.partner.example.org:9000"]
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import msgspec

from uftpd.config.copies import Copies
from uftpd.config.section import Count, Seconds, Section

Days = Annotated[float, msgspec.Meta(gt=0, le=3650)]


class Transfers(Section, frozen=True):
    """`[transfers]`.

    Attributes:
        enabled: people may submit transfers.
        key_file: the key that stored tokens and passwords are sealed with; outside the store, so that a copy of that
            alone gives nothing away. Made at the first start if it is missing. Several auth servers on one store have
            the same. Required where transfers are enabled.
        servers: the logical servers that transfers go from and to; empty for all.
        waiting_per_user: transfers of one person that have not ended, at a time.
        active: transfers that this auth server runs at a time.
        active_per_user: of one person, at a time, at all auth servers on the store together.
        active_per_pair: from one logical server or site to another, at a time, at all auth servers together.
        attempts: how often a transfer is begun, before it has failed.
        backoff_seconds: before the second attempt; twice as long before each further one.
        longest_backoff_seconds: never longer than this.
        lease_seconds: a transfer whose auth server was not heard of for so long is taken over by another.
        keep_days: ended transfers are shown for so long; ones paused for so long are cancelled.
        allow: hosts, addresses and networks, each with or without a port, that are allowed beside https on public
            addresses: other auth servers, callbacks. As `copies.allow` of a data node.
        https_ca: PEM file with authorities to trust for these beside the system's.
        callbacks: a transfer may name a URL that is told of its end.
        client_address: where the FTP connections of this server itself come from, as the data nodes see it.
        node_addresses: by logical server, where connections of its data nodes come from, where that is not the address
            of their `host`.
    """

    enabled: bool = False
    key_file: Path | None = None
    servers: tuple[str, ...] = ()
    waiting_per_user: Count = 1000
    active: Count = 64
    active_per_user: Count = 4
    active_per_pair: Count = 16
    attempts: Count = 10
    backoff_seconds: Seconds = 5.0
    longest_backoff_seconds: Seconds = 600.0
    lease_seconds: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 30.0
    keep_days: Days = 30.0
    allow: tuple[str, ...] = ()
    https_ca: Path | None = None
    callbacks: bool = True
    client_address: tuple[str, ...] = ("127.0.0.1", "::1")
    node_addresses: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.enabled and self.key_file is None:
            raise ValueError("key_file: required where transfers are enabled")
        _ = self.reach  # raises where an entry of `allow` is none
        named = [("client_address", self.client_address)]
        named += [(f"node_addresses.{server}", addresses) for server, addresses in self.node_addresses.items()]
        for setting, addresses in named:
            if not addresses:
                raise ValueError(f"{setting}: at least one address is needed")
            for address in addresses:
                try:
                    ipaddress.ip_address(address)
                except ValueError:
                    raise ValueError(f"{setting}: '{address}' is no address") from None

    @property
    def reach(self) -> Copies:
        """Which other auth servers and callbacks are connected to, for `uftpd.peers`."""
        return Copies(allow=self.allow, announced=False, https_ca=self.https_ca)

    def covers(self, server: str) -> bool:
        """Whether transfers may go from and to a logical server."""
        return self.enabled and (not self.servers or server in self.servers)

    def backoff(self, attempts: int) -> float:
        """Seconds to wait after so many attempts, without the random part."""
        return min(self.longest_backoff_seconds, self.backoff_seconds * 2.0 ** min(max(0, attempts - 1), 60))

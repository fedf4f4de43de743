"""`[shares]` of an auth server: what people may share, and how others get at it (CONTROL-PLANE 4).

[shares]
servers = []                      # of all servers; without this line nothing can be shared
allow_write = true
max_lifetime_seconds = 2592000
"""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec

from uftpd.config.section import Count, Seconds, Section

Period = Annotated[int, msgspec.Meta(ge=0)]


class Shares(Section, frozen=True):
    """`[shares]`.

    Attributes:
        servers: the logical servers whose files may be shared; empty for all. Without it sharing is off.
        allow_write: shares may be for writing.
        anonymous: shares may be for anybody who knows the link.
        anonymous_by_path: shares for anybody can be used by their path as well, which is easily guessed. Some old
            clients need it.
        max_lifetime_seconds: no share lasts longer; 0 for no limit. A share without a lifetime of its own gets this.
        per_owner: shares of one person at a time.
        client_address: where the FTP connections of this server itself come from, as the data nodes see it.
        direct: downloads are redirected to the data node's own object server: on which servers, or on all or none.
        stop_on_delete: who removes a share also ends what is being fetched by it; otherwise only where asked to.
        sessions: that this server has on data nodes for downloads and uploads at a time, idle ones included. Each is a
            process on the node. Small files share sessions; each large one has its own.
        sessions_per_account: of these, for the shares of one account; less than the data nodes allow an account for
            shares (`limits.share_sessions_per_user`), since others need some, too.
        sessions_per_share: of these, for one share.
        idle_seconds: an idle one is closed.
        wait_seconds: how long a request waits for one; then it is answered 503.
    """

    servers: tuple[str, ...] | None = None
    allow_write: bool = False
    anonymous: bool = True
    anonymous_by_path: bool = False
    max_lifetime_seconds: Period = 0
    per_owner: Count = 10_000
    client_address: tuple[str, ...] = ("127.0.0.1", "::1")
    direct: bool | tuple[str, ...] = False
    stop_on_delete: bool = False
    sessions: Count = 128
    sessions_per_account: Count = 48
    sessions_per_share: Count = 32
    idle_seconds: Seconds = 20.0
    wait_seconds: Seconds = 20.0

    def __post_init__(self) -> None:
        for address in self.client_address:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise ValueError(f"client_address: '{address}' is no address") from None
        if not self.client_address:
            raise ValueError("client_address: at least one address is needed")

    @property
    def enabled(self) -> bool:
        """Whether anything can be shared."""
        return self.servers is not None

    def covers(self, server: str) -> bool:
        """Whether files of a logical server can be shared."""
        return self.servers is not None and (not self.servers or server in self.servers)

    def redirects(self, server: str) -> bool:
        """Whether downloads are redirected to the object servers of a logical server."""
        return self.direct if isinstance(self.direct, bool) else server in self.direct

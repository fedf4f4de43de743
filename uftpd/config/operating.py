"""`[store]`, `[security_sessions]`, `[monitoring]` of an auth server: what it keeps, and who may look at how it does.

[store]                                   # one server: a file; several: PostgreSQL
path = "/var/lib/uftp/auth.sqlite"
# url = "postgresql://uftp@db.example.org/uftp?passfile=/etc/uftp/pgpass"

[security_sessions]
lifetime_seconds = 28800

[monitoring]
listen = ["127.0.0.1:9464"]               # /metrics, /healthz, /readyz; plain HTTP
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec

from uftpd.config.section import Count, Seconds, Section
from uftpd.config.toml import HostPort


class StoreSettings(Section, frozen=True):
    """`[store]`: what must outlive a request, and what several auth servers have to know of each other.

    Without `path` and `url` everything is in memory: security sessions and revoked tokens are forgotten at the end.

    Attributes:
        path: SQLite file, made if it is missing; its directory must be writable. For one auth server.
        url: "postgresql://USER@HOST/DATABASE", with any parameter of libpq behind a `?`. For several auth servers.
        connections: to the store, and threads that use them.
        waiting: requests that wait for a connection; more are answered 503.
        timeout_seconds: for one piece of work on the store, the wait for a connection included.
    """

    path: Path | None = None
    url: str = msgspec.field(default="")
    connections: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    waiting: Count = 256
    timeout_seconds: Seconds = 5.0

    def __post_init__(self) -> None:
        if self.path is not None and self.url:
            raise ValueError("path, url: give one of them")
        # The address is not repeated in the message: there may be a password in it.
        if self.url and not re.fullmatch(r"postgresql://[^\s]+", self.url):
            raise ValueError("url: expected postgresql://USER@HOST/DATABASE")


class SecuritySessionSettings(Section, frozen=True):
    """`[security_sessions]`: clients may show a session id instead of credentials (CONTROL-PLANE 1.1).

    Attributes:
        enabled: False: ids are neither given nor looked at.
        lifetime_seconds: of a session, never longer than its credentials last.
        per_person_and_address: sessions of one person from one address; the oldest gives way.
        per_person: the same from all addresses.
        most: sessions in the store altogether; beyond them none are given, and clients go on with their credentials.
        cache_seconds: a session that was found in the store is believed this long without looking again. So much
            later than at the server where it was ended is it over at the others.
    """

    enabled: bool = True
    lifetime_seconds: Annotated[int, msgspec.Meta(ge=60, le=7 * 86400)] = 28800
    per_person_and_address: Count = 5
    per_person: Count = 100
    most: Count = 100_000
    cache_seconds: Annotated[float, msgspec.Meta(ge=0, le=300)] = 10.0


class Monitoring(Section, frozen=True):
    """`[monitoring]`: metrics and details of readiness, for the site's own eyes.

    Attributes:
        listen: addresses for plain HTTP without login, such as "127.0.0.1:9464"; empty: nowhere. Whoever reaches them
            reads them, so they belong on loopback or into the network of the monitoring.
    """

    listen: tuple[HostPort, ...] = ()

"""`[copies]` of a data node: with which machines users may have it copy, and from which https URLs fetch.

[copies]
allow = ["data.partner.example", "*.cluster.example:64434", "10.3.0.0/16"]
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from uftpd.config.peer_entry import PeerEntry, parse_entry, parse_network
from uftpd.config.section import Section
from uftpd.config.toml import PortRange

HttpsPolicy = Literal["public", "listed", "none"]


class Copies(Section, frozen=True):
    """`[copies]`: with which machines users may have this node copy.

    Attributes:
        enabled: whether there are SEND-FILE, RECEIVE-FILE and RCP-FETCH at all.
        allow: hosts (`HOST`, `*.DOMAIN`), addresses and networks, each with `:PORT` or without; see
            `uftpd.config.peer_entry`, and `uftpd.peers` for what each is good for.
        deny: addresses and networks that are never connected to, whatever else says so: a site's own that are public,
            for instance.
        announced: also the data nodes an auth server names when it opens a session.
        https: which https URLs may be fetched: those on public addresses and on what is listed, on what is listed
            only, or none.
        https_ports: of public addresses. On 9000 are UFTP's auth servers with their shares, on 9443 data nodes that
            deliver these.
        https_ca: PEM file with authorities to trust for them beside the system's.
    """

    enabled: bool = True
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    announced: bool = True
    https: HttpsPolicy = "public"
    https_ports: tuple[PortRange, ...] = (PortRange(443, 443), PortRange(9000, 9000), PortRange(9443, 9443))
    https_ca: Path | None = None

    def __post_init__(self) -> None:
        for name, parse, items in (("allow", parse_entry, self.allow), ("deny", parse_network, self.deny)):
            for item in items:
                try:
                    parse(item)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None


def entries(items: Iterable[str]) -> tuple[PeerEntry, ...]:
    """The entries of a list that has been checked.

    Raises:
        ValueError: one is none.
    """
    return tuple(parse_entry(item) for item in items)

"""`[copies]` of a data node: copies between servers, and from https URLs."""

from __future__ import annotations

from typing import Literal

from uftpd.config.section import Section
from uftpd.config.toml import PortRange


class Copies(Section, frozen=True):
    """`[copies]`: with which machines users may have this node copy.

    Attributes:
        enabled: whether there are SEND-FILE, RECEIVE-FILE and RCP-FETCH at all.
        allow: hosts (`HOST`, `*.DOMAIN`), addresses and networks, each with `:PORT` or without. See
            `uftpd.config.peer_entry`.
        deny: addresses and networks that are never connected to, whatever else says so.
        announced: also the data nodes an auth server names when it opens a session.
        https: which https URLs may be fetched: "public" addresses on `https_ports`, "listed" ones only, or "none".
        https_ports: of public addresses: the usual one, and that of UFTP's auth servers.
    """

    enabled: bool = True
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    announced: bool = True
    https: Literal["public", "listed", "none"] = "public"
    https_ports: tuple[PortRange, ...] = (PortRange(443, 443), PortRange(9000, 9000))

"""Other machines by name, address or network: how a configuration lists them, and how users may name one.

    HOST           a host name, exactly                    HOST:PORT
    *.DOMAIN       every name below a domain, not itself   *.DOMAIN:PORT
    ADDRESS        IPv4, or IPv6 with or without brackets  ADDRESS:PORT, [IPv6]:PORT
    NETWORK        as 192.0.2.0/24 or 2001:db8::/32        192.0.2.0/24:PORT, [2001:db8::/32]:PORT

Only the usual forms count: what some libraries also take for an address (octal, hexadecimal, fewer than four parts, a
dot at the end) is neither a name nor an address here, so that nobody means another machine than was checked.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from uftp.protocol.command_port import IPAddress, plain_address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*", re.ASCII)  # as last part: an address in an odd form
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


def parse_host(text: str) -> IPAddress | str:
    """Read a host as a user names it.

    Args:
        text: a name, an IPv4 address of four decimal numbers, or an IPv6 address without brackets.

    Returns:
        The address, IPv4-mapped IPv6 as IPv4; or the name in lower case.

    Raises:
        ValueError: it is neither, or an address with a zone.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            raise ValueError(f"'{text}': an address with a zone means another machine to everybody")
        return plain_address(address)
    if not _NAME.fullmatch(text) or _NUMBER.fullmatch(text.rpartition(".")[2]):
        raise ValueError(f"'{text}' is no host name or address (one with other letters is written as xn--...)")
    return text.lower()


@dataclass(frozen=True, slots=True)
class PeerEntry:
    """An item of a list.

    Attributes:
        network: the address or network it is; None if it is a name.
        name: in lower case; empty if it is an address or network.
        below: the names below `name` are meant.
        port: None for every port.
    """

    network: Network | None = None
    name: str = ""
    below: bool = False
    port: int | None = None

    def has_port(self, port: int) -> bool:
        """Whether the entry is about this port."""
        return self.port is None or self.port == port

    def has_name(self, name: str) -> bool:
        """Whether the entry is about this name, given in lower case."""
        if not self.name:
            return False
        return name.endswith(f".{self.name}") if self.below else name == self.name

    def has_address(self, address: IPAddress) -> bool:
        """Whether the entry is a network with this address in it."""
        return self.network is not None and address in self.network


def parse_entry(text: str) -> PeerEntry:
    """Read an item of a list.

    Raises:
        ValueError: says what is allowed.
    """
    host, port = _split(text)
    if host.startswith("*."):
        name = parse_host(host[2:])
        if not isinstance(name, str):
            raise ValueError(f"'{text}': a domain stands behind '*.'")
        return PeerEntry(name=name, below=True, port=port)
    if "/" in host:
        return PeerEntry(network=parse_network(host), port=port)
    found = parse_host(host)
    if isinstance(found, str):
        return PeerEntry(name=found, port=port)
    return PeerEntry(network=ipaddress.ip_network(found), port=port)


def parse_network(text: str) -> Network:
    """Read a network or a single address.

    Raises:
        ValueError: it is none, or one of IPv4-mapped addresses.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        if str(error).endswith("has host bits set"):
            right = ipaddress.ip_network(text, strict=False)
            raise ValueError(f"'{text}' is an address in a network; the network is {right}") from None
        raise ValueError(f"'{text}' is no address or network, as in \"192.0.2.0/24\"") from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"'{text}': write it as IPv4, as which such addresses count")
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.scope_id is not None:
        raise ValueError(f"'{text}': an address with a zone cannot be listed")
    return network


def _split(text: str) -> tuple[str, int | None]:
    """Host and port of an entry."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise ValueError(f"'{text}': expected [IPv6] or [IPv6]:PORT")
        return host, _port(text, rest[1:]) if rest else None
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, _port(text, port)
    return text, None  # without a port; of IPv6 without brackets all colons are its own


def _port(text: str, port: str) -> int:
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise ValueError(f"'{text}': a port is a number from 1 to 65535")
    return int(port)

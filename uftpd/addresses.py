"""What kind of machine an IP address leads to (IANA's special-purpose registries, RFC 6890 and its updates).

The tables are written out: those of the standard library differ between versions of Python, and call "global" what
leads elsewhere all the same, by translation or a tunnel.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import Final

from uftp.protocol.command_port import IPAddress, plain_address


class AddressKind(Enum):
    """Where an address leads to.

    Attributes:
        PUBLIC: a machine on the internet.
        PRIVATE: a machine of our own or a neighbouring network.
        LOOPBACK: this machine, behind its firewall.
        SPECIAL: none that a user can mean: link-local, multicast, documentation, tunnels, a cloud's own services.
    """

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    SPECIAL = "special"


def _networks4(*texts: str) -> tuple[ipaddress.IPv4Network, ...]:
    return tuple(ipaddress.IPv4Network(text) for text in texts)


def _networks6(*texts: str) -> tuple[ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.IPv6Network(text) for text in texts)


_LOOPBACK4: Final = ipaddress.IPv4Network("127.0.0.0/8")
_LOOPBACK6: Final = ipaddress.IPv6Address("::1")
_PRIVATE4: Final = _networks4(
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",  # behind a carrier's NAT, and virtual networks
)
_PRIVATE6: Final = _networks6("fc00::/7")
_SPECIAL4: Final = _networks4(
    "0.0.0.0/8",  # this machine, on many systems
    "169.254.0.0/16",  # link-local, and most clouds' metadata
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation, as the two below
    "198.51.100.0/24",
    "203.0.113.0/24",
    "192.88.99.0/24",  # relays of 6to4
    "198.18.0.0/15",  # benchmarks
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
    # Services of clouds to the machine itself, outside of link-local.
    "100.100.100.200/32",
    "168.63.129.16/32",
)
_PUBLIC6: Final = ipaddress.IPv6Network("2000::/3")
_SPECIAL6: Final = _networks6(
    "2001::/23",  # protocol assignments, Teredo among them
    "2001:db8::/32",  # documentation
    "3fff::/20",  # documentation
    "2002::/16",  # 6to4: an IPv4 address stands inside
    # Services of clouds to the machine itself.
    "fd00:ec2::/32",
    "fd20:ce::/32",
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052; an IPv4 address stands at its end
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)  # RFC 5214: an IPv4 address behind these 32 bits


def kind_of(address: IPAddress) -> AddressKind:
    """Where an address leads to; IPv4-mapped IPv6 counts as the IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return AddressKind.SPECIAL
    plain = plain_address(address)
    return _kind4(plain) if isinstance(plain, ipaddress.IPv4Address) else _kind6(plain)


def _kind4(address: ipaddress.IPv4Address) -> AddressKind:
    if address in _LOOPBACK4:
        return AddressKind.LOOPBACK
    if any(address in network for network in _SPECIAL4):
        return AddressKind.SPECIAL
    if any(address in network for network in _PRIVATE4):
        return AddressKind.PRIVATE
    return AddressKind.PUBLIC


def _kind6(address: ipaddress.IPv6Address) -> AddressKind:
    if address == _LOOPBACK6:
        return AddressKind.LOOPBACK
    if address in _NAT64:
        # The translator knows public machines only; for others it would be a way around these tables.
        inner = _kind4(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        return AddressKind.PUBLIC if inner is AddressKind.PUBLIC else AddressKind.SPECIAL
    if any(address in network for network in _SPECIAL6) or (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return AddressKind.SPECIAL
    if any(address in network for network in _PRIVATE6):
        return AddressKind.PRIVATE
    return AddressKind.PUBLIC if address in _PUBLIC6 else AddressKind.SPECIAL

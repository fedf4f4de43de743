"""Which addresses a session is opened for: the client's own, or those the client names (CONTROL-PLANE 2.3)."""

from __future__ import annotations

import encodings.idna  # noqa: F401 -- for host names; once privileges are dropped it may be out of reach
import ipaddress
from collections.abc import Iterable, Sequence

import trio

from uftp.protocol.command_port import IPAddress, is_clean, plain_address
from uftpd.auth.errors import BadRequest

MAX_ITEMS = 32  # a client with more addresses than this is none
RESOLVE_SECONDS = 5.0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(text: str) -> IPAddress | None:
    """An address, IPv6 with or without brackets, IPv4-mapped as IPv4; None if it is no address."""
    try:
        return plain_address(ipaddress.ip_address(text.strip().removeprefix("[").removesuffix("]")))
    except ValueError:
        return None


class TrustedProxies:
    """Peers whose word about the client's address and our own is believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(network) for network in networks)

    def __contains__(self, address: IPAddress) -> bool:
        return any(address in network for network in self._networks)


async def named_addresses(text: str) -> tuple[IPAddress, ...]:
    """The addresses in a `client` field; host names are resolved, those that do not resolve are left out.

    Raises:
        BadRequest: too many items, or none is left.
    """
    items = text.replace(",", " ").split()
    if len(items) > MAX_ITEMS:
        raise BadRequest(f"client: at most {MAX_ITEMS} addresses")
    found: Sequence[IPAddress | None] = []
    with trio.move_on_after(RESOLVE_SECONDS):
        for item in items:
            address = parse_address(item) or await _resolve(item)
            found = [*found, address]
    addresses = tuple(dict.fromkeys(address for address in found if address is not None))
    if not addresses:
        raise BadRequest("client: none of the addresses can be used")
    return addresses


async def _resolve(name: str) -> IPAddress | None:
    if len(name) > 253 or not is_clean(name):
        return None
    try:
        results = await trio.socket.getaddrinfo(name, None, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return parse_address(str(results[0][4][0])) if results else None

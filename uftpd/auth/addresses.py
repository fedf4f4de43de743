"""Which addresses a session is opened for: the client's own, or those the client names (CONTROL-PLANE 2.3)."""

from __future__ import annotations

import encodings.idna  # noqa: F401 -- for host names; once privileges are dropped it may be out of reach
import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import partial

import trio

from uftp.protocol.command_port import IPAddress, plain_address
from uftpd.auth.errors import BadRequest

MAX_ITEMS = 32  # a client with more addresses than this is none
MAX_NAMES = 8  # each is a question to the name service, asked for a stranger
MAX_ADDRESSES_OF_NAME = 4
RESOLVE_SECONDS = 5.0

# Threads that wait for a name service that is slow; they end on their own, whoever has given up waiting for them.
_RESOLVERS = 16
_resolver_places: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("uftpd.resolvers")

_NAME = re.compile(r"(?=.{1,253}\Z)[\w-]{1,63}(\.[\w-]{1,63})*\.?")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(text: str) -> IPAddress | None:
    """An address, IPv6 with or without brackets, IPv4-mapped as IPv4; None if it is no address."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        return plain_address(ipaddress.ip_address(text))
    except ValueError:
        return None


class TrustedProxies:
    """Peers whose word about the client's address and our own is believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(network) for network in networks)

    def __contains__(self, address: IPAddress) -> bool:
        return any(address in network for network in self._networks)


async def client_addresses(peer: IPAddress, forwarded: str | None, named: str | None) -> tuple[IPAddress, ...]:
    """The addresses a session is opened for.

    Args:
        peer: whom the request came from.
        forwarded: what a trusted proxy says of the client instead; None if there is no proxy.
        named: the addresses the client asks for; they replace all others. None if it asks for none.

    Raises:
        BadRequest: too many, or none that can be used.
    """
    if named is not None:
        return await _listed(named, "client")
    if forwarded is not None:
        return await _listed(forwarded, "X-UNICORE-Consignor-IP")
    return (peer,)


async def _listed(text: str, what: str) -> tuple[IPAddress, ...]:
    """The addresses in a list; host names are resolved, those that do not resolve are left out."""
    items = list(dict.fromkeys(text.replace(",", " ").split()))
    if len(items) > MAX_ITEMS:
        raise BadRequest(f"{what}: at most {MAX_ITEMS} addresses")
    found = {item: (address,) for item in items if (address := parse_address(item)) is not None}
    names = [item for item in items if item not in found and _NAME.fullmatch(item)]
    if len(names) > MAX_NAMES:
        raise BadRequest(f"{what}: at most {MAX_NAMES} host names")
    resolved: dict[str, tuple[IPAddress, ...]] = {}
    with trio.move_on_after(RESOLVE_SECONDS):
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(_resolve, name, resolved)
    every = (address for item in items for address in (found | resolved).get(item, ()))
    addresses = tuple(dict.fromkeys(address for address in every if _is_of_a_client(address)))
    if not addresses:
        raise BadRequest(f"{what}: none of the addresses can be used")
    return addresses


def _is_of_a_client(address: IPAddress) -> bool:
    return not (address.is_unspecified or address.is_multicast or address == ipaddress.ip_address("255.255.255.255"))


async def _resolve(name: str, resolved: dict[str, tuple[IPAddress, ...]]) -> None:
    """Put the addresses of a name, IPv4 and IPv6, into `resolved`."""
    try:
        places = _resolver_places.get()
    except LookupError:
        places = trio.CapacityLimiter(_RESOLVERS)
        _resolver_places.set(places)
    look_up = partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
    try:
        # Not trio's own: that shares its threads with all else, and a slow name service would stop it all.
        results = await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=places)
    except (OSError, UnicodeError):
        return
    addresses = (parse_address(str(result[4][0])) for result in results)
    known = dict.fromkeys(address for address in addresses if address is not None)
    resolved[name] = tuple(known)[:MAX_ADDRESSES_OF_NAME]

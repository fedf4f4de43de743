"""A side of a copy between servers: its auth server, a session there, and passwords for the other server."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

import trio

from uftp.client.auth import SessionGrant
from uftp.client.connect import Connector
from uftp.client.session import FTPSession
from uftp.errors import NetworkError
from uftp.transfer.between_places import Copy, Place

_NODES_TRIED: Final = 8


class Wired:
    """One side of a copy: its auth server, and a session that is opened when it is first needed.

    Args:
        place: the side.
        directory: base directory of sessions there.
        writes: whether it is the target.
        key: session key that both sides have; empty for none.
    """

    def __init__(self, place: Place, directory: bytes, *, writes: bool, key: bytes) -> None:
        self.place = place
        self._directory = directory
        self._writes = writes
        self._access = replace(place.access, session=replace(place.access.session, key=key))
        self._stack = AsyncExitStack()
        self._connector: Connector | None = None
        self._session: FTPSession | None = None

    async def aclose(self) -> None:
        """Close the session, and what is kept for further ones."""
        if self._session is not None:
            await self._session.aclose()
        await self._stack.aclose()

    async def session(self) -> FTPSession:
        """A usable session: the one there is, or a new one.

        Raises:
            UFTPError: none can be had.
        """
        if self._session is None or not self._session.usable:
            self._session = await (await self._connected()).open()
        return self._session

    async def again(self, copy: Copy) -> FTPSession:
        """A session on the node that runs a copy.

        Raises:
            UFTPError: none can be had, or only on other nodes of the group.
        """
        if self._session is not None and self._session.usable and copy.runs_on(self._session):
            return self._session
        self._session = await open_on_node(await self._connected(), copy)
        return self._session

    async def secret(self, client: str, *, persistent: bool) -> SessionGrant:
        """A one-time password here for a server at the addresses `client`.

        Raises:
            UFTPError: see `Connector.authenticate`.
        """
        # Users of older clients name the other server's address, too, where they name their own (-X).
        named = self._access.client
        access = replace(self._access, client=f"{client},{named}" if named else client)
        async with access.connector(self.place.url, self._directory, writes=self._writes) as connector:
            return await connector.authenticate(persistent=persistent)

    async def _connected(self) -> Connector:
        if self._connector is None:
            connector = self._access.connector(self.place.url, self._directory, writes=self._writes)
            self._connector = await self._stack.enter_async_context(connector)
        return self._connector


async def open_on_node(connector: Connector, copy: Copy) -> FTPSession:
    """A session on the node that runs a copy, which may be one of several behind the same name.

    Raises:
        NetworkError: the auth server names other ones again and again; the node may be down.
        UFTPError: no session.
    """
    for _ in range(_NODES_TRIED):
        session = await connector.open()
        if copy.runs_on(session):
            return session
        await session.aclose()
    raise NetworkError(f"{copy.server}: the auth server does not name this data node now, which runs copy {copy.id}")


async def addresses_of(session: FTPSession, further: Sequence[str] = ()) -> str:
    """The addresses that the server of a session may come from when it logs in elsewhere.

    That is what it was reached at, and whatever else its name stands for: servers may have several networks.

    Args:
        session: on the server.
        further: more of them, as a person knows them.

    Returns:
        Addresses and names with commas between them, as `client` of a session request takes them.
    """
    control = session.control
    found = dict.fromkeys([*further, _plain(str(control.socket.getpeername()[0]))])
    if control.host and _plain(control.host) not in found:
        with contextlib.suppress(OSError, UnicodeError):
            for *_, address in await trio.socket.getaddrinfo(control.host, None, type=socket.SOCK_STREAM):
                found[_plain(str(address[0]))] = None
        found[control.host] = None  # over there the name may stand for an inner address
    if any(_is_loopback(item) for item in found):
        # Both are on one machine, which answers itself from its first loopback address.
        found |= dict.fromkeys(("127.0.0.1", "::1"))
    return ",".join(found)


def _plain(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False

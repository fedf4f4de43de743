"""The two sides of a transfer: sessions there for this server itself, and one-time passwords for the other node.

A side is a logical server of ours, whose nodes are asked directly (CONTROL-PLANE 2), or one of another auth server,
which is asked as the owner would, with what the owner has left here (CONTROL-PLANE 1.4).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from uftp.client.auth import AuthServer, SessionGrant, SessionRequest
from uftp.client.credentials import Anonymous, Credential
from uftp.client.login import SessionOptions, log_in
from uftp.client.session import FTPSession
from uftp.errors import AuthenticationFailed, NetworkError, UFTPError
from uftp.protocol.command_port import Cipher, IPAddress, Purpose, TransferRequest
from uftpd.auth.addresses import client_addresses, parse_address
from uftpd.auth.errors import NodeFailed, RequestError, Unavailable
from uftpd.auth.nodes.instance import NodeInstance
from uftpd.auth.nodes.registry import LogicalServer
from uftpd.auth.session import open_session
from uftpd.auth.shares.reach import patterns
from uftpd.auth.transfers.endings import Ending, ForGood, NeedsOwner, NotNow, ending_of
from uftpd.auth.transfers.model import Account, Place
from uftpd.peers import PeerRules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

LOGINS: Final = 64
"""Logins of a one-time password for a copy: its sessions, and new ones where some break."""

SECRET_SECONDS: Final = 600.0  # until the first login of a copy, which may have to wait for its turn at the node
_CONTROL_SECONDS: Final = 60.0  # the same for sessions of this server, which logs in at once
_PING_SECONDS: Final = 5.0
_OPTIONS: Final = SessionOptions(mode="stream", connect_timeout=10, reply_timeout=30)

Capable = Callable[[Sequence[str]], bool]
"""Whether a node with these features will do."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What the node that runs a copy logs in with at the other side.

    Attributes:
        host, port: where.
        secret: the one-time password, good for `LOGINS` logins.
        features: extensions of that node; empty for one that names none.
    """

    host: str
    port: int
    secret: str = field(repr=False)
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeSession:
    """A session of this server, as the owner, on a node of ours.

    Attributes:
        session: logged in.
        instance: the node.
    """

    session: FTPSession
    instance: NodeInstance


@dataclass(frozen=True, slots=True)
class Layers:
    """What both sides' requests must have in common (DATA-PLANE 12).

    Attributes:
        key: session key, 48 bytes; empty without encryption.
        compress: gzip where there is no MODE U.
    """

    key: bytes = field(default=b"", repr=False)
    compress: bool = False


_BARE: Final = Layers()


class OwnSide:
    """A logical server of this auth server.

    Args:
        server: which.
        account: of the owner there.
        place: what is copied there; of it only matters whether its path begins at the root.
        client_address: where connections of this server come from.
        node_addresses: where those of the nodes come from; empty for the addresses of their hosts.
        request_id: for the logs of both servers.
    """

    def __init__(
        self,
        server: LogicalServer,
        account: Account,
        place: Place,
        *,
        client_address: Iterable[str],
        node_addresses: Iterable[str] = (),
        request_id: str = "",
    ) -> None:
        self.server = server
        self.name = server.name
        self._account = account
        self._directory = "/" if place.path.startswith(b"/") else ""
        self._own_addresses = tuple(ipaddress.ip_address(text) for text in client_address)
        self._node_addresses = tuple(ipaddress.ip_address(text) for text in node_addresses)
        self._request_id = request_id

    def _request(
        self,
        client_ip: Sequence[IPAddress],
        layers: Layers,
        *,
        logins: int,
        seconds: float,
        peers: tuple[str, ...] = (),
    ) -> Callable[[bool], TransferRequest]:
        """What a node is asked, given whether it knows the extensions."""
        limits = [self._account.rate_limit]
        if self.server.reservations is not None:
            limits.append(self.server.reservations.limit_for(self._account.uid))
        request = TransferRequest(
            user=self._account.uid,
            secret="",
            client_ip=tuple(client_ip),
            persistent=logins > 1,
            file=self._directory,
            compress=layers.compress,
            key=layers.key or None,
            algorithm=Cipher.AES if layers.key else None,
            groups=tuple(item for item in self._account.gid.split(":") if item),
            rate_limit=min((limit for limit in limits if limit > 0), default=0),
            includes=patterns(self._account.includes),
            excludes=patterns(self._account.excludes),
            request_id=self._request_id,
            purpose=Purpose.COPY,
            expires=seconds,
            peers=peers,
        )
        return lambda extensions: replace(request, max_logins=logins if extensions else None)

    async def log_in(
        self,
        *,
        number: int | None = None,
        capable: Capable = lambda _: True,
        layers: Layers = _BARE,
        peers: tuple[str, ...] = (),
    ) -> NodeSession:
        """A session on a node that answers and will do; others stand in for one that does not answer.

        Args:
            number: the node, from 1; None for the next in turn.
            capable: which nodes will do.
            layers: what copies are to have that the session starts.
            peers: data nodes it may copy with, beside those its site allows.

        Raises:
            ForGood: no node will do.
            NotNow: none answers, or has room.
        """
        request = self._request(self._own_addresses, layers, logins=1, seconds=_CONTROL_SECONDS, peers=peers)
        last: Ending | None = None
        answered = False
        for instance in self.server.candidates(number):
            ping = await instance.ping(max_age=_PING_SECONDS)
            if ping is None:
                continue
            answered = True
            if not capable(ping.features):
                continue
            try:
                return await self._log_in(instance, request)
            except (NodeFailed, Unavailable, UFTPError) as error:
                # A node that was started again has forgotten the password it was told a moment ago.
                last = NotNow(str(error)) if isinstance(error, AuthenticationFailed) else ending_of(error)
        if last is not None:
            raise last
        if answered:
            raise ForGood(f"No data node of '{self.name}' can run copies that this server can look after")
        which = f"'{self.name}-{number}'" if number is not None else f"any of the data nodes of '{self.name}'"
        raise NotNow(f"There is no answer from {which}")

    async def _log_in(self, instance: NodeInstance, request: Callable[[bool], TransferRequest]) -> NodeSession:
        granted = await open_session(self.server, instance.number, request, reuse_seconds=_PING_SECONDS)
        host = instance.settings.host.replace(",", " ").split()[0]
        session = await log_in(host, granted.port, user="anonymous", password=granted.secret, options=_OPTIONS)
        return NodeSession(session, instance)

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[FTPSession]:
        """A session to look at files with, for the block.

        Raises:
            Ending: there is none.
        """
        node = await self.log_in()
        try:
            yield node.session
        finally:
            node.session.control.break_off("closed")

    async def secret(self, client: Sequence[IPAddress], layers: Layers) -> Secret:
        """A one-time password for somebody who comes from one of these addresses.

        Raises:
            Ending: there is none to be had.
        """
        request = self._request(client, layers, logins=LOGINS, seconds=SECRET_SECONDS)
        try:
            granted = await open_session(self.server, None, request, reuse_seconds=_PING_SECONDS)
        except RequestError as error:
            raise ending_of(error) from error
        host = granted.instance.settings.host.replace(",", " ").split()[0]
        return Secret(host, granted.port, granted.secret, granted.features)

    async def addresses_of(self, instance: NodeInstance) -> tuple[IPAddress, ...]:
        """Where connections of a node come from, as the other side sees them.

        Raises:
            NotNow: its host cannot be looked up.
        """
        if self._node_addresses:
            return self._node_addresses
        try:
            found = await client_addresses(ipaddress.IPv4Address(0), None, instance.settings.host)
        except RequestError:
            raise NotNow(f"The host of '{self.name}' cannot be looked up: {instance.settings.host}") from None
        if any(address.is_loopback for address in found):
            # Whichever loopback address a node listens at, its own connections come from the usual ones.
            found = tuple(dict.fromkeys((*found, *map(ipaddress.ip_address, ("127.0.0.1", "::1")))))
        return found


class OtherSide:
    """A logical server of another auth server.

    Args:
        place: what is copied there.
        credential: who the owner is there; None for nobody.
        http: a client that connects only where this site allows it.
        rules: where it allows FTP connections.
    """

    def __init__(self, place: Place, credential: Credential | None, http: httpx2.AsyncClient, rules: PeerRules) -> None:
        self.name = place.service
        self._service = place.service
        self._credential = credential
        self._directory = b"/" if place.path.startswith(b"/") else b""
        self._http = http
        self._rules = rules

    async def secret(self, client: Sequence[IPAddress], layers: Layers) -> Secret:
        """As `OwnSide.secret`.

        Raises:
            NeedsOwner: the login is not accepted any more.
            Ending: there is none to be had.
        """
        grant = await self._ask(
            SessionRequest(
                directory=self._directory,
                client=",".join(map(str, client)),
                persistent=True,
                key=layers.key,
                cipher="AES" if layers.key else "",
                compress=layers.compress,
            )
        )
        return Secret(grant.hosts[0], grant.port, grant.secret, grant.features)

    async def _ask(self, request: SessionRequest) -> SessionGrant:
        try:
            async with AuthServer(self._credential or Anonymous(), client=self._http) as auth:
                return await auth.request_session(self._service, request)
        except AuthenticationFailed as error:
            origin = "/".join(self._service.split("/", 3)[:3])
            if self._credential is None:
                raise NeedsOwner(f"A login at {origin} is needed: resume with credentials") from error
            raise NeedsOwner(f"The login at {origin} is no longer valid: resume with new credentials") from error
        except UFTPError as error:
            raise ending_of(error) from error

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[FTPSession]:
        """As `OwnSide.looking`; this site must allow FTP connections to the node.

        Raises:
            Ending: there is none, or it is not allowed.
        """
        grant = await self._ask(SessionRequest(directory=self._directory))
        try:
            addresses = await self._rules.admit(grant.hosts[0], grant.port)
            session = await _log_in_at_any(addresses, grant)
        except UFTPError as error:
            raise ending_of(error) from error
        try:
            yield session
        finally:
            session.control.break_off("closed")


Side = OwnSide | OtherSide


async def _log_in_at_any(addresses: Sequence[str], grant: SessionGrant) -> FTPSession:
    last: NetworkError | None = None
    for address in addresses:
        try:
            return await log_in(address, grant.port, user="anonymous", password=grant.secret, options=_OPTIONS)
        except NetworkError as error:
            last = error
    raise last if last is not None else NetworkError("there is no address to connect to")


def parse_all(addresses: Iterable[str]) -> tuple[IPAddress, ...]:
    """Those of some texts that are addresses."""
    return tuple(found for text in addresses if (found := parse_address(text)) is not None)

"""From a transfer to its two sides: as whom, with what, and whether the owner still may.

Owners are not asked again who they are, so what they were when they submitted must still hold (`check_owner`), as for
the owners of shares. Other machines that an owner has named are connected to by the site's rules only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from uftp.client.vetted_http import open_vetted_client
from uftpd.auth.attributes.base import ACCOUNT, AttributeSource, entitlements
from uftpd.auth.errors import NotFound
from uftpd.auth.services import Services
from uftpd.auth.shares.owners import attributes_of
from uftpd.auth.store.engine import StoreUnavailable
from uftpd.auth.transfers.credentials import StoredCredential
from uftpd.auth.transfers.endings import ForGood, NeedsOwner
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Place, Transfer
from uftpd.auth.transfers.model import Side as SideName
from uftpd.auth.transfers.record import Record
from uftpd.auth.transfers.renewal import StoredLogin
from uftpd.auth.transfers.sealing import CannotOpen
from uftpd.auth.transfers.sides import OtherSide, OwnSide, Side
from uftpd.config.transfers import Transfers
from uftpd.peers import PeerRules

T = TypeVar("T")

_STORE_PAUSE: Final = 1.0


@dataclass(frozen=True, slots=True)
class BothSides:
    """Where a transfer goes from and to.

    Attributes:
        source: None for https URLs.
        target: where to.
        logins: at other auth servers, to be kept fresh.
        peers: our data nodes, that each may copy with.
    """

    source: Side | None
    target: Side
    logins: tuple[StoredLogin, ...]
    peers: tuple[str, ...]


async def at_last(ask: Callable[[], Awaitable[T]]) -> T:
    """What the store answers, as soon as it does."""
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            await trio.sleep(_STORE_PAUSE)


def rules_of(settings: Transfers) -> PeerRules:
    """Where this site connects to for the owners of transfers."""
    return PeerRules(settings.reach)


async def check_owner(transfer: Transfer, sources: Sequence[AttributeSource], settings: Transfers) -> bool:
    """See that the owner still is who may have this transfer, as far as the map file says so without a login.

    Returns:
        Whether the map file knows the owner.

    Raises:
        ForGood: banned, or has another account, or transfers are not for this server any more.
    """
    known = await attributes_of(transfer.person, sources)
    granted = entitlements(known)
    if granted.role == "banned":
        raise ForGood("You may not use this server any more")
    for name, place in ((SideName.SOURCE, transfer.sources[0]), (SideName.TARGET, transfer.target)):
        if place.kind != "server":
            continue
        if not settings.covers(place.server):
            raise ForGood(f"Transfers from and to '{place.server}' are not possible here any more")
        only = granted.override(place.server, ACCOUNT)
        accounts = granted.accounts if only is None else (only,)
        account = transfer.accounts[name].uid
        if accounts and account not in accounts:
            raise ForGood(f"You do not have the account '{account}' on '{place.server}' any more; submit it again")
    return bool(known)


@asynccontextmanager
async def open_sides(services: Services, managed: ManagedTransfers, record: Record) -> AsyncIterator[BothSides]:
    """Both sides, for the block. Nothing is connected to yet.

    Args:
        services: of the configuration in force.
        managed: keeps credentials.
        record: of the transfer.

    Raises:
        Ending: a side is not there any more, or a credential cannot be had.
    """
    transfer, settings = record.transfer, services.config.transfers
    rules = rules_of(settings)
    client = open_vetted_client(rules.admit_url, tls=services.outside)
    logins: list[StoredLogin] = []

    async def open_side(name: SideName, place: Place) -> Side:
        if place.kind == "server":
            try:
                server, _ = services.registry.find(place.server)
            except NotFound as error:
                raise ForGood(str(error)) from None
            return OwnSide(
                server,
                transfer.accounts[name],
                place,
                client_address=settings.client_address,
                node_addresses=settings.node_addresses.get(place.server, ()),
                request_id=f"transfer-{transfer.id}",
            )
        login = await _stored_login(name, place)
        if login is not None:
            logins.append(login)
        return OtherSide(place, login, client, rules)

    async def _stored_login(name: SideName, place: Place) -> StoredLogin | None:
        try:
            stored = await at_last(lambda: managed.credential(transfer, name))
        except CannotOpen:
            raise NeedsOwner(
                f"What you left here to log in at {place.host} cannot be read any more: resume with new credentials"
            ) from None
        if stored is None:
            return None

        async def keep(renewed: StoredCredential) -> None:
            # The one before may be of no use any more: this one must not be lost with a store that is away.
            await at_last(lambda: managed.keep_credential(record.lease, transfer, name, renewed))

        return StoredLogin(stored, place.service, client, keep)

    try:
        first = transfer.sources[0]
        source = await open_side(SideName.SOURCE, first) if first.kind != "web" else None
        target = await open_side(SideName.TARGET, transfer.target)
        wait = services.config.command_port.status_wait_seconds
        peers = await services.registry.peers(services.background, wait_seconds=wait)
        for login in logins:
            await login.freshen()
        yield BothSides(source, target, tuple(logins), peers)
    finally:
        await client.aclose()

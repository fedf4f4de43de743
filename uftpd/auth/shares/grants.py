"""All shares, as resources use them: found, made, changed, removed, and used.

A share that counts its uses is used by a *claim*: taken before the first byte is handed out, settled with what was
delivered in the end. Claims are rows of the store, so that of any number of requests at any number of auth servers no
more get one than there are uses left. A claim has a lease, renewed while bytes flow; that of a server that died lapses.
Other shares only count how often they were used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio
from sqlalchemy import Connection

from uftpd.auth.errors import NotFound, RequestError
from uftpd.auth.shares import claims, rows
from uftpd.auth.shares.claims import LEASE_SECONDS, Wanted
from uftpd.auth.shares.model import NO_SUCH_SHARE, Share
from uftpd.auth.shares.progress import Interval
from uftpd.auth.shares.running import Deliveries
from uftpd.auth.store.engine import Store, StoreUnavailable

COUNT_SECONDS = 1.0  # how long uses are only in memory
STOP_SECONDS = 2.0  # how long a delivery goes on after another server was told to stop it

__all__ = ["LEASE_SECONDS", "Claim", "Grants", "ShareInUse", "Wanted"]


class ShareInUse(RequestError):
    """Somebody is using up what is left of this share; if they fail, it can be used again."""

    default_status = 409

    def __init__(self) -> None:
        super().__init__("This share is being used by another download, try again later", headers={"Retry-After": "30"})


@dataclass(slots=True, eq=False)
class Claim:
    """The right to deliver something of a share, taken by `Grants.claim`.

    Exactly one of `settle` and `release` ends it; `release` behind `settle` does nothing, so that it can stand in a
    `finally`.

    Attributes:
        share: what is used.
        counted: whether uses of the share are limited; if not, the store knows nothing of this claim.
    """

    share: Share
    counted: bool
    _grants: Grants = field(repr=False)
    _id: str = ""
    _ended: bool = False

    async def renew(self) -> bool:
        """Keep the lease; due at least every `LEASE_SECONDS / 3` while bytes flow.

        Returns:
            Whether to go on: not if the share was withdrawn meanwhile. If the store does not answer, yes.
        """
        return await self._grants.renew(self)

    async def settle(self, delivered: Sequence[Interval] | None = None) -> bool:
        """End the claim, successfully.

        Args:
            delivered: the bytes that the peer has taken, as half-open intervals; None: the whole object.

        Returns:
            Whether the share was used up by this, and is gone.
        """
        return await self._grants.settle(self, delivered)

    async def release(self, delivered: Sequence[Interval] = ()) -> None:
        """End the claim after something went wrong; the share can be used again.

        Args:
            delivered: the bytes that were handed out before.
        """
        await self._grants.release(self, delivered)


class Grants:
    """The shares of all logical servers.

    Args:
        store: where they are.
        clock: gives Unix seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._uses: dict[str, tuple[int, int]] = {}  # id: how many, when the last

    # -- looking ----------------------------------------------------------------------------------------------------

    async def get(self, share_id: str, server: str | None = None) -> Share | None:
        """The share with this id, unless it is over or on another server than `server`.

        Raises:
            StoreUnavailable: that cannot be found out now; as for all that follows.
        """
        now = self._clock()
        share = await self._store.read(lambda connection: rows.find(connection, share_id))
        if share is None or share.is_over(now) or (server is not None and share.server != server):
            return None
        return share

    async def by_owner(self, owner: str, server: str) -> list[Share]:
        """What a person, by canonical name, shares on a server; in order of path."""
        return await self._listed(lambda connection: rows.of_owner(connection, owner, server))

    async def by_target(self, target: str, server: str) -> list[Share]:
        """What others share with a person on a server; in order of path."""
        return await self._listed(lambda connection: rows.of_target(connection, target, server))

    async def candidates(self, server: str, paths: Iterable[str]) -> list[Share]:
        """The shares of exactly these paths, those with the longest path first."""
        wanted = list(dict.fromkeys(paths))
        found = await self._listed(lambda connection: rows.of_paths(connection, server, wanted))
        return sorted(found, key=lambda share: (-len(share.path), share.created, share.id))

    async def in_directory(self, server: str, target: str, directory: str) -> list[Share]:
        """Shares of single files that stand in a directory, for one grantee."""
        found = await self._listed(lambda connection: rows.of_target(connection, target, server))
        return [share for share in found if not share.directory and share.parent == directory]

    async def _listed(self, work: Callable[[Connection], list[Share]]) -> list[Share]:
        await self.write_counts()
        now = self._clock()
        return [share for share in await self._store.read(work) if not share.is_over(now)]

    # -- changing ---------------------------------------------------------------------------------------------------

    async def put(self, share: Share, *, per_owner: int, keep_password: bool = False) -> Share:
        """Make a share, or grant anew what the owner shares at that path with the same grantee already.

        In the second case the id, the time it was made and the count of its uses stay (CONTROL-PLANE 4.2).

        Args:
            share: what is wanted.
            per_owner: shares that a person may have.
            keep_password: an existing share keeps its password.

        Returns:
            The share as it is now.

        Raises:
            BadRequest: the owner has too many.
        """
        return await self._store.write(lambda c: rows.put(c, share, per_owner, self._clock(), keep_password))

    async def change(self, share: Share, *, path: str | None = None, expires: int | None = None) -> Share | None:
        """Change path or end of a share.

        Returns:
            The share as it is now; None if it is gone.

        Raises:
            BadRequest: the owner shares that path with that grantee already.
        """
        values: dict[str, object] = {}
        if path is not None:
            values["path"] = path
        if expires is not None:
            values["expires"] = expires
        return await self.overwrite(share, values)

    async def overwrite(self, share: Share, values: dict[str, object]) -> Share | None:
        """As `change`, for any fields of a share but its id."""
        return await self._store.write(lambda connection: rows.change(connection, share.id, values))

    async def delete(self, share_id: str) -> bool:
        """Remove a share; new uses end at once. Returns whether there was one."""
        return await self._store.write(lambda connection: rows.remove(connection, [share_id])) > 0

    async def delete_paths(self, owner: str, server: str, paths: Sequence[str]) -> list[str]:
        """Remove the owner's shares of the first of these paths that has any, for all grantees; returns their ids."""
        return await self._store.write(lambda connection: rows.remove_paths(connection, owner, server, paths))

    async def stop(self, share_id: str) -> None:
        """Have the servers on this store end what they deliver of a share; each within `STOP_SECONDS`."""
        await self._store.write(lambda connection: rows.note_stop(connection, share_id, self._clock()))

    async def watch_stops(self, deliveries: Deliveries) -> None:
        """End what others have stopped, for ever."""
        while True:
            await trio.sleep(STOP_SECONDS)
            if deliveries.count():
                with suppress(StoreUnavailable):  # said by the store; looked at again soon
                    for share_id in await self._stopped_among(deliveries.shares()):
                        deliveries.stop(share_id)

    async def _stopped_among(self, ids: Sequence[str]) -> list[str]:
        return await self._store.read(lambda connection: rows.stopped_among(connection, ids))

    # -- using ------------------------------------------------------------------------------------------------------

    def record_access(self, share: Share) -> None:
        """Count a use, and remember its time. Written within `COUNT_SECONDS`, and before anybody looks at a list."""
        count, _ = self._uses.get(share.id, (0, 0))
        self._uses[share.id] = count + 1, int(self._clock())

    async def write_counts(self) -> None:
        """Write down the uses counted so far."""
        counted, self._uses = self._uses, {}
        if not counted:
            return
        try:
            await self._store.write(lambda connection: rows.count_uses(connection, counted))
        except BaseException:
            for share_id, (count, last) in counted.items():
                more, later = self._uses.get(share_id, (0, 0))
                self._uses[share_id] = count + more, max(last, later)
            raise

    async def keep_counting(self) -> None:
        """Write down uses from time to time, for ever; the last ones when cancelled."""
        try:
            while True:
                await trio.sleep(COUNT_SECONDS)
                await self._write_counts_or_later()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await self._write_counts_or_later()

    async def _write_counts_or_later(self) -> None:
        with suppress(StoreUnavailable):  # said by the store; they are kept
            await self.write_counts()

    async def claim(self, share: Share, holder: str, wanted: Wanted) -> Claim:
        """Take the right to deliver something, if the share counts its uses; else a claim that means nothing.

        Args:
            share: what is used.
            holder: names who asks, such as person and address. Parts of one object may go to one holder at the same
                time; nothing goes to two holders if there is only one use left.
            wanted: what is to be delivered.

        Raises:
            NotFound: the share is over or withdrawn.
            ShareInUse: all uses that are left are under way.
        """
        if not share.uses:
            return Claim(share, False, self)
        outcome = await self._store.write(
            lambda connection: claims.take(connection, share.id, holder, wanted, self._clock())
        )
        if outcome is claims.Refusal.OVER:
            raise NotFound(NO_SUCH_SHARE)
        if outcome is claims.Refusal.IN_USE:
            raise ShareInUse
        assert isinstance(outcome, str)  # noqa: S101 - for the type checker
        return Claim(share, True, self, outcome)

    async def renew(self, claim: Claim) -> bool:
        """See `Claim.renew`."""
        if not claim.counted:
            return True
        try:
            return await self._store.write(lambda connection: claims.renew(connection, claim._id, self._clock()))
        except StoreUnavailable:
            return True

    async def settle(self, claim: Claim, delivered: Sequence[Interval] | None) -> bool:
        """See `Claim.settle`."""
        if claim._ended or not claim.counted:
            claim._ended = True
            return False
        claim._ended = True
        return await self._store.write(lambda c: claims.settle(c, claim._id, delivered, self._clock()))

    async def release(self, claim: Claim, delivered: Sequence[Interval]) -> None:
        """See `Claim.release`."""
        if claim._ended or not claim.counted:
            claim._ended = True
            return
        claim._ended = True
        # Without an answer from the store the lease lapses.
        with suppress(StoreUnavailable), trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await self._store.write(lambda c: claims.release(c, claim._id, delivered, self._clock()))

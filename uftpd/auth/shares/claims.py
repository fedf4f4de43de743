"""Who is using a share that counts its uses, as rows of the store.

Each function is one transaction that locks the row of the share first. So of any number of requests, at any number
of auth servers, no more get a claim than there are uses left.

A use is over when the whole object was delivered. A try that broke off uses nothing up; but the bytes that were handed
out count, in all tries together, and when they would be more than about once again the object for the uses there are,
the share is over. Else everybody could have it many times who leaves out a byte.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, delete, insert, select, update

from uftpd.auth.shares import progress, rows
from uftpd.auth.shares.progress import Interval
from uftpd.auth.store.schema import share_claims, share_progress, shares

LEASE_SECONDS: Final = 60.0
SLACK_BYTES: Final = 1 << 20  # what clients fetch twice for other reasons, such as looking at the beginning
MAX_UNFINISHED: Final = 64  # holders and parts of one share whose progress is remembered
_UNFINISHED_ARCHIVES: Final = 2  # broken tries of something whose size is not known before, for each use


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be delivered.

    Attributes:
        part: the path of a file beneath a shared directory; empty for the shared object itself.
        version: changes when the object does, such as its ETag; parts of two versions are no whole.
        size: bytes of the object; None if that is not known before, as with an archive.
        start: first byte.
        length: bytes from there; None for all.
    """

    part: str = ""
    version: str = ""
    size: int | None = None
    start: int = 0
    length: int | None = None

    @property
    def bytes(self) -> int:
        """How many may be handed out."""
        if self.length is not None:
            return self.length
        return max(0, (self.size or 0) - self.start)

    @property
    def whole(self) -> bool:
        """Whether it is all of the object."""
        return self.size is None or (self.start == 0 and self.bytes >= self.size)


class Refusal(Enum):
    """Why there is no claim."""

    OVER = "over"
    IN_USE = "in use"


def take(connection: Connection, share_id: str, holder: str, wanted: Wanted, now: float) -> str | Refusal:
    """Take a claim; returns its id."""
    row = _locked(connection, share_id)
    if row is None or rows.share_of(row).is_over(now):
        return Refusal.OVER
    share = rows.share_of(row)
    spent = row.spent + (lapsed := _lapse(connection, share_id, now))
    if lapsed:
        connection.execute(update(shares).where(shares.c.id == share_id).values(spent=spent))
    active = connection.execute(select(share_claims).where(share_claims.c.share_id == share_id)).all()
    # Each whole object is a use, and so are all parts together that one holder takes of one.
    wholes = [claim for claim in active if claim.size < 0 or claim.reserved >= claim.size]
    in_parts = {(claim.holder, claim.part) for claim in active if claim not in wholes}
    goes_on = not wanted.whole and any((claim.holder, claim.part) == (holder, wanted.part) for claim in active)
    if not goes_on and share.downloads + len(wholes) + len(in_parts) >= share.uses:
        return Refusal.IN_USE
    if wanted.size is None:
        if row.tries > share.uses * _UNFINISHED_ARCHIVES:
            return Refusal.OVER
    else:
        # Of a small file the slack would be many times all of it; beneath a directory, tries of other files count too.
        slack = SLACK_BYTES if share.directory else min(SLACK_BYTES, wanted.size)
        limit = (share.uses + 1) * wanted.size + slack
        if spent + wanted.bytes > limit:
            return Refusal.OVER
        if spent + wanted.bytes + sum(claim.reserved for claim in active) > limit:
            return Refusal.IN_USE
    claim_id = secrets.token_hex(16)
    connection.execute(
        insert(share_claims).values(
            claim_id=claim_id,
            share_id=share_id,
            holder=holder,
            part=wanted.part,
            version=wanted.version,
            size=-1 if wanted.size is None else wanted.size,
            reserved=wanted.bytes,
            lease_until=now + LEASE_SECONDS,
        )
    )
    return claim_id


def renew(connection: Connection, claim_id: str, now: float) -> bool:
    """Keep a claim; whether it is still there."""
    condition = share_claims.c.claim_id == claim_id
    return (
        connection.execute(update(share_claims).where(condition).values(lease_until=now + LEASE_SECONDS)).rowcount > 0
    )


def settle(
    connection: Connection, claim_id: str, delivered: Sequence[Interval] | None, now: float, *, broken: bool = False
) -> bool:
    """End a claim; returns whether the share is used up and gone.

    Args:
        connection: in a transaction.
        claim_id: what `take` returned.
        delivered: what was handed out; None for the whole object.
        now: Unix seconds.
        broken: the delivery did not come to its end.
    """
    claim = _find(connection, claim_id)
    if claim is None:
        return False
    row = _locked(connection, claim.share_id)
    if row is None:
        return False
    connection.execute(delete(share_claims).where(share_claims.c.claim_id == claim_id))
    place = _place(claim)
    handed_out = [(0, max(0, claim.size))] if delivered is None else list(delivered)
    known: list[Interval] = []
    if delivered is not None and claim.size >= 0:
        found = connection.execute(select(share_progress).where(*place)).one_or_none()
        if found is not None and (found.version, found.size) == (claim.version, claim.size):
            known = progress.load(found.intervals)
        known = progress.merged(known, handed_out)
    connection.execute(delete(share_progress).where(*place))
    complete = delivered is None or (claim.size >= 0 and progress.covers(known, claim.size))
    if broken and claim.size == 0:
        complete = False  # all of nothing
    changes: dict[str, Any] = {"spent": row.spent + progress.length(handed_out)}
    if claim.size < 0 and not complete and handed_out:
        changes["tries"] = row.tries + 1
    if complete:
        share = rows.share_of(row)
        if 0 < share.uses <= share.downloads + 1:
            rows.remove(connection, [share.id])
            return True
        changes["downloads"] = share.downloads + 1
    elif known:
        connection.execute(
            insert(share_progress).values(
                share_id=claim.share_id,
                holder=claim.holder,
                part=claim.part,
                version=claim.version,
                size=claim.size,
                intervals=progress.dump(known),
                changed=now,
            )
        )
        _forget_oldest(connection, claim.share_id)
    connection.execute(update(shares).where(shares.c.id == claim.share_id).values(**changes))
    return False


def release(connection: Connection, claim_id: str, delivered: Sequence[Interval], now: float) -> None:
    """End a claim whose delivery broke off: what was handed out is remembered, nothing else."""
    settle(connection, claim_id, list(delivered), now, broken=True)


def remove_lapsed(connection: Connection, now: float) -> int:
    """End the claims of servers that died, of shares that nobody has asked for since; returns how many."""
    lapsed = select(share_claims.c.share_id).where(share_claims.c.lease_until < now).distinct().limit(1000)
    removed = 0
    for share_id in sorted(connection.execute(lapsed).scalars().all()):
        row = _locked(connection, share_id)
        spent = _lapse(connection, share_id, now)
        if row is not None:
            connection.execute(update(shares).where(shares.c.id == share_id).values(spent=row.spent + spent))
        removed += 1
    return removed


def _lapse(connection: Connection, share_id: str, now: float) -> int:
    """Remove claims whose lease is over; returns what they may have handed out."""
    lapsed = (share_claims.c.share_id == share_id) & (share_claims.c.lease_until < now)
    reserved: int = sum(connection.execute(select(share_claims.c.reserved).where(lapsed)).scalars())
    connection.execute(delete(share_claims).where(lapsed))
    return reserved


def _locked(connection: Connection, share_id: str) -> Row[Any] | None:
    return connection.execute(select(shares).where(shares.c.id == share_id).with_for_update()).one_or_none()


def _find(connection: Connection, claim_id: str) -> Row[Any] | None:
    return connection.execute(select(share_claims).where(share_claims.c.claim_id == claim_id)).one_or_none()


def _place(claim: Row[Any]) -> tuple[ColumnElement[bool], ...]:
    table = share_progress.c
    return table.share_id == claim.share_id, table.holder == claim.holder, table.part == claim.part


def _forget_oldest(connection: Connection, share_id: str) -> None:
    """Of people who began and never went on, only the latest are remembered."""
    condition = share_progress.c.share_id == share_id
    newest_first = select(share_progress.c.holder, share_progress.c.part).where(condition)
    surplus = newest_first.order_by(share_progress.c.changed.desc()).offset(MAX_UNFINISHED).limit(1000)
    for row in connection.execute(surplus).all():
        place = (share_progress.c.holder == row.holder) & (share_progress.c.part == row.part)
        connection.execute(delete(share_progress).where(condition & place))

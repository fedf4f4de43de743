"""Rows of shares: found by id, path, owner or grantee; made, changed, removed with all that hangs on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from uftpd.auth.errors import BadRequest
from uftpd.auth.shares.model import Share, ShareAccess
from uftpd.auth.store.schema import share_claims, share_progress, share_stops, shares

MAX_LISTED: Final = 10_000
_BATCH: Final = 500  # values in one IN list
_STOP_SECONDS: Final = 3600.0

_FIELDS = tuple(field.name for field in fields(Share))


def share_of(row: Row[Any]) -> Share:
    """The share that a row of the table holds."""
    values = {name: getattr(row, name) for name in _FIELDS}
    return Share(**(values | {"access": ShareAccess(row.access)}))


def find(connection: Connection, share_id: str) -> Share | None:
    """The share with this id, over or not."""
    row = connection.execute(select(shares).where(shares.c.id == share_id)).one_or_none()
    return share_of(row) if row is not None else None


def of_owner(connection: Connection, owner: str, server: str) -> list[Share]:
    """What somebody shares on a server."""
    return _listed(connection, (shares.c.owner == owner) & (shares.c.server == server))


def of_target(connection: Connection, target: str, server: str) -> list[Share]:
    """What is shared with somebody on a server."""
    return _listed(connection, (shares.c.target == target) & (shares.c.server == server))


def of_paths(connection: Connection, server: str, paths: Iterable[str]) -> list[Share]:
    """The shares of exactly these paths."""
    hashes = [_path_hash(server, path) for path in paths]
    found: list[Share] = []
    for begin in range(0, len(hashes), _BATCH):
        found += _listed(connection, shares.c.path_hash.in_(hashes[begin : begin + _BATCH]))
    return found


def _listed(connection: Connection, condition: ColumnElement[bool]) -> list[Share]:
    rows = connection.execute(select(shares).where(condition).order_by(shares.c.path, shares.c.id).limit(MAX_LISTED))
    return [share_of(row) for row in rows]


def put(connection: Connection, share: Share, per_owner: int, now: float, keep_password: bool) -> Share:
    """Insert a share, or grant anew one of the same server, owner, path and target.

    Raises:
        BadRequest: the owner has `per_owner` of them already.
    """
    again = _grant_again(connection, share, now, keep_password)
    if again is not None:
        return again
    mine = select(func.count()).select_from(shares).where(shares.c.owner == share.owner)
    if connection.execute(mine).scalar_one() >= per_owner:
        raise BadRequest(f"You have {per_owner} shares already; remove some first")
    try:
        with connection.begin_nested():
            connection.execute(insert(shares).values(**_values(share), spent=0, tries=0))
    except IntegrityError:
        # Another server was quicker with the same.
        again = _grant_again(connection, share, now, keep_password)
        if again is None:
            raise
        return again
    return share


def _grant_again(connection: Connection, share: Share, now: float, keep_password: bool) -> Share | None:
    condition = shares.c.grant_hash == _grant_hash(share)
    row = connection.execute(select(shares).where(condition).with_for_update()).one_or_none()
    if row is None:
        return None
    known = share_of(row)
    if known.is_over(now):
        remove(connection, [known.id])  # whoever has the old link was not meant to have the new one
        return None
    granted = replace(share, id=known.id, created=known.created, access_count=known.access_count)
    granted = replace(granted, last_access=known.last_access)
    if keep_password:
        granted = replace(granted, password_hash=known.password_hash)
    connection.execute(update(shares).where(shares.c.id == known.id).values(**_values(granted), spent=0, tries=0))
    return granted


def change(connection: Connection, share_id: str, values: Mapping[str, object]) -> Share | None:
    """Change fields of a share; None if it is gone.

    Raises:
        BadRequest: there is another share of that path, owner and grantee.
    """
    row = connection.execute(select(shares).where(shares.c.id == share_id).with_for_update()).one_or_none()
    if row is None:
        return None
    changed = replace(share_of(row), **values)  # type: ignore[arg-type]  # fields of a share, by name
    try:
        with connection.begin_nested():
            connection.execute(update(shares).where(shares.c.id == share_id).values(**_values(changed)))
    except IntegrityError:
        raise BadRequest("There is a share of that path for that person already") from None
    if changed.path != row.path:
        connection.execute(delete(share_progress).where(share_progress.c.share_id == share_id))
    return changed


def count_uses(connection: Connection, counted: Mapping[str, tuple[int, int]]) -> None:
    """Add to the counts of shares: id to how many uses, and when the last was."""
    for share_id in sorted(counted):  # in one order everywhere, so that two servers do not wait for each other
        count, last = counted[share_id]
        values = {"access_count": shares.c.access_count + count, "last_access": last}
        connection.execute(update(shares).where(shares.c.id == share_id).values(**values))


def remove(connection: Connection, ids: Sequence[str]) -> int:
    """Remove shares, and what is known of their use; returns how many there were."""
    removed = connection.execute(delete(shares).where(shares.c.id.in_(ids))).rowcount
    connection.execute(delete(share_claims).where(share_claims.c.share_id.in_(ids)))
    connection.execute(delete(share_progress).where(share_progress.c.share_id.in_(ids)))
    return removed


def remove_paths(connection: Connection, owner: str, server: str, paths: Sequence[str]) -> list[str]:
    """Remove all shares of the owner of the first of the paths that has any; returns their ids."""
    for path in paths:
        condition = (shares.c.path_hash == _path_hash(server, path)) & (shares.c.owner == owner)
        ids = list(connection.execute(select(shares.c.id).where(condition)).scalars())
        if ids:
            remove(connection, ids)
            return ids
    return []


def remove_expired(connection: Connection, now: float, most: int) -> int:
    """Remove up to `most` shares that have expired; returns how many."""
    expired = (shares.c.expires > 0) & (shares.c.expires <= now)
    ids = list(connection.execute(select(shares.c.id).where(expired).limit(most)).scalars())
    return remove(connection, ids) if ids else 0


def note_stop(connection: Connection, share_id: str, now: float) -> None:
    """Tell the other servers that what is delivered of a share shall end."""
    connection.execute(delete(share_stops).where(share_stops.c.share_id == share_id))
    connection.execute(insert(share_stops).values(share_id=share_id, stopped=now))


def stopped_among(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Those of the shares whose deliveries shall end."""
    found: list[str] = []
    for begin in range(0, len(ids), _BATCH):
        condition = share_stops.c.share_id.in_(ids[begin : begin + _BATCH])
        found += connection.execute(select(share_stops.c.share_id).where(condition)).scalars()
    return found


def forget_stops(connection: Connection, now: float) -> int:
    """Remove what every server has read long ago; ids never come back. Returns how many."""
    return connection.execute(delete(share_stops).where(share_stops.c.stopped < now - _STOP_SECONDS)).rowcount


def count(connection: Connection) -> int:
    """All rows."""
    return connection.execute(select(func.count()).select_from(shares)).scalar_one()


def _values(share: Share) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(share, name) for name in _FIELDS}
    values["access"] = int(share.access)
    return values | {"path_hash": _path_hash(share.server, share.path), "grant_hash": _grant_hash(share)}


def _path_hash(server: str, path: str) -> bytes:
    return _hash(server, path)


def _grant_hash(share: Share) -> bytes:
    return _hash(share.server, share.owner, share.path, share.target)


def _hash(*parts: str) -> bytes:
    # No part holds a NUL: paths and names with control characters are refused.
    return hashlib.sha256("\0".join(parts).encode()).digest()

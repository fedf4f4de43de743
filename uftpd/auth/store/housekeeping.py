"""Removes expired rows and counts what is left, from time to time. Several servers may do so on one store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import trio
from sqlalchemy import Connection, delete, select

from uftpd.auth.shares import claims, rows
from uftpd.auth.store import revocations, sessions
from uftpd.auth.store.engine import Store, StoreUnavailable
from uftpd.auth.store.schema import security_sessions

EVERY_SECONDS = 60.0
BATCH = 1000  # rows a transaction, so that others get a turn


@dataclass(slots=True)
class Tally:
    """How many rows there were when last counted.

    Attributes:
        security_sessions: rows of that table.
        shares: rows of that table.
    """

    security_sessions: int = 0
    shares: int = 0


async def keep_house(store: Store, tally: Tally, clock: Callable[[], float] = time.time) -> None:
    """Sweep for ever, first at once."""
    while True:
        await sweep(store, tally, clock())
        await trio.sleep(EVERY_SECONDS)


async def sweep(store: Store, tally: Tally, now: float) -> None:
    """Remove what has expired, and count. A store that fails is tried again next time."""
    try:
        while await store.write(lambda connection: _remove_sessions(connection, now)) == BATCH:
            pass
        await store.write(lambda connection: revocations.remove_expired(connection, now))
        while await store.write(lambda connection: rows.remove_expired(connection, now, BATCH)) == BATCH:
            pass
        await store.write(lambda connection: claims.remove_lapsed(connection, now))
        await store.write(lambda connection: rows.forget_stops(connection, now))
        tally.security_sessions = await store.read(sessions.count)
        tally.shares = await store.read(rows.count)
    except StoreUnavailable:
        pass  # said by the store


def _remove_sessions(connection: Connection, now: float) -> int:
    table = security_sessions
    doomed = [
        row.id_hash for row in connection.execute(select(table.c.id_hash).where(table.c.expires < now).limit(BATCH))
    ]
    if doomed:
        connection.execute(delete(table).where(table.c.id_hash.in_(doomed)))
    return len(doomed)

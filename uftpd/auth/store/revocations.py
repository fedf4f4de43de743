"""Tokens of this server that are no longer good (CONTROL-PLANE 5.4), kept until they would have ended anyway."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from sqlalchemy import Connection, delete, func, insert, select

from uftpd.auth.errors import BadRequest
from uftpd.auth.store import sessions
from uftpd.auth.store.engine import Store
from uftpd.auth.store.schema import MAX_TOKEN_ID
from uftpd.auth.store.schema import revoked_tokens as table

MOST = 100_000  # revoked tokens at a time; a site with more has another problem
MAX_REMEMBERED = 10_000

# A token that was good is believed this long without looking again; another server's revocation takes effect so late.
_BELIEVED_SECONDS = 5.0


class StoredRevocations:
    """The list in the store, which all servers on it share."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        """Use `store`; `clock` gives Unix seconds."""
        self._store = store
        self._clock = clock
        self._good_until: OrderedDict[str, float] = OrderedDict()

    async def is_revoked(self, jti: str) -> bool:
        """Whether the token with this id has been revoked.

        Raises:
            StoreUnavailable: that cannot be found out now; then nobody gets in by a token.
        """
        now = self._clock()
        if now < self._good_until.get(jti, 0.0) <= now + _BELIEVED_SECONDS:
            return False
        if await self._store.read(lambda connection: _holds(connection, jti)):
            return True
        self._good_until[jti] = now + _BELIEVED_SECONDS
        self._good_until.move_to_end(jti)
        while len(self._good_until) > MAX_REMEMBERED:
            self._good_until.popitem(last=False)
        return False

    async def revoke(self, jti: str, expires: float) -> int:
        """Refuse a token from now on, and end the security sessions that began with it.

        Args:
            jti: its id.
            expires: Unix seconds at which it ends by itself, and the entry may be forgotten.

        Returns:
            How many security sessions were ended.

        Raises:
            BadRequest: this is no id of a token, or the list is full.
            StoreUnavailable: nothing is known to have been done.
        """
        check_token_id(jti)
        ended = await self._store.write(lambda connection: revoke(connection, jti, expires, self._clock()))
        self._good_until.pop(jti, None)
        return ended


def check_token_id(jti: str) -> None:
    """Whether this may be the id of a token.

    Raises:
        BadRequest: it may not.
    """
    if not (0 < len(jti) <= MAX_TOKEN_ID and jti.isascii() and jti.isprintable() and " " not in jti):
        raise BadRequest("jti: this is no id of a token")


def revoke(connection: Connection, jti: str, expires: float, now: float) -> int:
    """Write a token onto the list, and end its security sessions; returns how many.

    Raises:
        BadRequest: the list is full. It is never cut short, for then a token would be good again.
    """
    if not _holds(connection, jti):
        if connection.execute(select(func.count()).select_from(table)).scalar_one() >= MOST:
            raise BadRequest(f"There are {MOST} revoked tokens already; wait until some have expired")
        connection.execute(insert(table).values(token_id=jti, revoked=now, expires=expires))
    return sessions.end_of_token(connection, jti)


def _holds(connection: Connection, jti: str) -> bool:
    found = connection.execute(select(table.c.token_id).where(table.c.token_id == jti)).one_or_none()
    return found is not None


def remove_expired(connection: Connection, now: float) -> int:
    """Forget tokens that have ended, with some leeway for other servers' clocks; returns how many."""
    return connection.execute(delete(table).where(table.c.expires < now - 3600)).rowcount

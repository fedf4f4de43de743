"""Security sessions: a client shows an id it was given instead of its credentials (CONTROL-PLANE 1.1).

An id is a random number that is stored as a hash, and holds for one address, no longer than the credentials it came
from. A client without an id gets the same one each time, as long as it has some life left: so a client that never
sends it back costs one row, not one a request. What was found in the store is believed for some seconds.

An anonymous session proves nothing that a request without credentials would not; its id says when it ends and is kept
nowhere.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from uftp.protocol.command_port import IPAddress
from uftp.protocol.dn import canonical
from uftpd.auth.edge import UNKNOWN_SESSION
from uftpd.auth.errors import RequestError
from uftpd.auth.events import event
from uftpd.auth.identity.base import ANONYMOUS_DN, Identity
from uftpd.auth.store import sessions
from uftpd.auth.store.engine import Store, StoreUnavailable
from uftpd.auth.store.housekeeping import Tally
from uftpd.config.operating import SecuritySessionSettings

_K = TypeVar("_K")
_V = TypeVar("_V")

HEADER = "X-UNICORE-SecuritySession"
LIFETIME_HEADER = "X-UNICORE-SecuritySession-Lifetime"

MAX_IDENTITY_CHARACTERS = 16 * 1024  # people with more groups than fit log in with each request
MAX_REMEMBERED = 20_000

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ANONYMOUS_ID = re.compile(r"anonymous-([0-9a-f]{1,12})")
_ANONYMOUS = Identity(ANONYMOUS_DN, "")


class UnknownSession(RequestError):
    """There is no such session, or no longer, or not for this address. The reply has no body."""

    default_status = UNKNOWN_SESSION

    def __init__(self) -> None:
        super().__init__("unknown security session")


@dataclass(frozen=True, slots=True)
class SecuritySession:
    """What a client is told to show instead of credentials.

    Attributes:
        id: what it shows. Whoever has it, and the address, is the person.
        expires: Unix seconds.
    """

    id: str
    expires: float

    def headers(self, now: float) -> dict[str, str]:
        """Of the reply."""
        left = max(0, math.floor((self.expires - now) * 1000))
        return {HEADER: self.id, LIFETIME_HEADER: str(left)}


@dataclass(slots=True)
class _Found:
    identity: Identity
    address: str
    expires: float
    looked_up: float


class SecuritySessions:
    """Gives out ids, and knows whose they are."""

    def __init__(
        self,
        settings: SecuritySessionSettings,
        store: Store,
        tally: Tally,
        *,
        methods: Collection[str],
        anonymous: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use what the configuration says.

        Args:
            settings: lifetimes and bounds.
            store: keeps the sessions.
            tally: how many there are.
            methods: ways of logging in that are open now, as in `Identity.method`; sessions of others are over.
            anonymous: whether the anonymous user is served.
            clock: Unix seconds.
        """
        self._settings = settings
        self._store = store
        self._tally = tally
        self._methods = frozenset(methods)
        self._anonymous = anonymous
        self._clock = clock
        self._found: OrderedDict[bytes, _Found] = OrderedDict()
        self._given: OrderedDict[tuple[str, str], SecuritySession] = OrderedDict()

    @property
    def enabled(self) -> bool:
        """Whether the header is looked at."""
        return self._settings.enabled

    async def find(self, shown: str, address: IPAddress) -> tuple[Identity, SecuritySession]:
        """Whose session this is.

        Raises:
            UnknownSession: nobody's, or not any more, or not from this address.
            StoreUnavailable: that cannot be found out now.
        """
        now = self._clock()
        if match := _ANONYMOUS_ID.fullmatch(shown):
            return self._find_anonymous(shown, int(match[1], 16), now)
        if not _ID.fullmatch(shown):
            raise UnknownSession
        found = await self._current(_hash(shown), now)
        if found is None or found.expires <= now or found.address != str(address):
            raise UnknownSession
        if found.identity.method not in self._methods:
            raise UnknownSession
        return found.identity, SecuritySession(shown, found.expires)

    def _find_anonymous(self, shown: str, expires: int, now: float) -> tuple[Identity, SecuritySession]:
        if not self._anonymous or not now < expires <= now + 2 * self._settings.lifetime_seconds:
            raise UnknownSession
        return _ANONYMOUS, SecuritySession(shown, expires)

    async def _current(self, id_hash: bytes, now: float) -> _Found | None:
        found = self._found.get(id_hash)
        if found is not None and 0 <= now - found.looked_up < self._settings.cache_seconds:
            return found
        return await self._look_up(id_hash, now)

    async def _look_up(self, id_hash: bytes, now: float) -> _Found | None:
        row = await self._store.read(lambda connection: sessions.find(connection, id_hash))
        if row is None:
            self._found.pop(id_hash, None)
            return None
        try:
            identity = msgspec.json.decode(row.identity, type=Identity)
        except msgspec.MsgspecError:
            return None  # written by another version of this server
        found = _Found(identity, row.address, row.expires, now)
        _remember(self._found, id_hash, found)
        return found

    async def give(self, identity: Identity, address: IPAddress) -> SecuritySession | None:
        """A session for somebody who has just logged in; None if there is none to be had, which clients put up with."""
        now = self._clock()
        expires = now + self._settings.lifetime_seconds
        if not self.enabled:
            return None
        if not identity.method:
            # Whole steps, so that it does not tell when somebody came; never less than the lifetime announced.
            return SecuritySession(f"anonymous-{math.ceil(expires):x}", math.ceil(expires))
        if identity.expires is not None:
            expires = min(expires, identity.expires)
        text = msgspec.json.encode(identity).decode()
        key = (text, str(address))
        try:
            if (given := await self._given_before(key, now, expires)) is not None:
                return given
        except StoreUnavailable:
            return None
        if expires <= now + 1 or len(text) > MAX_IDENTITY_CHARACTERS:
            return None
        if self._tally.security_sessions >= self._settings.most:
            event("no security session given: there are too many", level=logging.DEBUG)
            return None
        return await self._make(identity, key, now, expires)

    async def _given_before(self, key: tuple[str, str], now: float, expires: float) -> SecuritySession | None:
        """What to give again: it has half of what a new one would have, or all that is left of both."""
        given = self._given.get(key)
        if given is None or given.expires - now <= 1 or (given.expires - now) * 2 <= expires - now:
            return None
        if await self._current(_hash(given.id), now) is None:
            return None  # ended elsewhere
        self._given.move_to_end(key)
        return given

    async def _make(
        self, identity: Identity, key: tuple[str, str], now: float, expires: float
    ) -> SecuritySession | None:
        text, address = key
        # All 128 bits are random; UUIDs of version 4 have 122 of them.
        session = SecuritySession(str(uuid.UUID(bytes=secrets.token_bytes(16))), expires)
        token_id = identity.token.jti if identity.token is not None else ""
        row = sessions.SessionRow(
            id_hash=_hash(session.id),
            person=canonical(identity.dn),
            address=address,
            identity=text,
            token_id=token_id or None,
            created=now,
            expires=expires,
        )
        settings = self._settings
        # Remembered before it is written: of many requests at once with the same credentials one writes.
        _remember(self._given, key, session)
        _remember(self._found, row.id_hash, _Found(identity, address, expires, now))
        try:
            await self._store.write(
                lambda connection: sessions.add(
                    connection,
                    row,
                    per_address=settings.per_person_and_address,
                    per_person=settings.per_person,
                )
            )
        except BaseException as error:
            self._given.pop(key, None)
            self._found.pop(row.id_hash, None)
            if isinstance(error, StoreUnavailable):
                return None
            raise
        self._tally.security_sessions += 1
        return session

    async def end(self, session: SecuritySession) -> None:
        """End one session.

        Raises:
            StoreUnavailable: it cannot be ended now.
        """
        id_hash = _hash(session.id)
        await self._store.write(lambda connection: sessions.end(connection, id_hash))
        self.forget()

    async def end_of_person(self, person: str) -> int:
        """End all sessions of a canonical name; returns how many the store had."""
        ended = await self._store.write(lambda connection: sessions.end_of_person(connection, person))
        self.forget()
        return ended

    def forget(self) -> None:
        """Look everything up again, since sessions have been ended."""
        self._found.clear()
        self._given.clear()


def _remember(memory: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)


def _hash(shown: str) -> bytes:
    return hashlib.sha256(shown.encode("ascii")).digest()

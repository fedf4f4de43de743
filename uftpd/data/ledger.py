"""The ledger: which secrets are expected, for whom, and how many sessions each account has (DATA-PLANE 1.6).

Secrets are kept as SHA-256 only. The clock is given, and monotonic. A request takes one slot of its account from the
time it is announced; its first session uses that slot, each further one another. A persistent request that has been
used holds none while no session of it runs.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from uftp.protocol.command_port import (
    DEFAULT_SECRET_LIFETIME,
    IPAddress,
    Purpose,
    RequestRefused,
    TransferRequest,
)

_MOST_EXPECTED = 100_000  # about 100 MB; an auth server asks for a few hundred a second at most, each good for minutes
_LONGEST_LIFETIME = 7 * 24 * 3600.0  # seconds; a request cannot ask to be remembered for ever


class LoginError(Exception):
    """A login that is refused, with the reply code; the connection is closed after it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class Expected:
    """An announced request, and what became of it.

    Attributes:
        request: as announced, its secret blanked.
        expires: time on the ledger's clock after which no first login is taken.
        logins: how often it was claimed for a login.
        begun: sessions and object servers it had so far.
        running: ids of those there are.
    """

    request: TransferRequest
    digest: bytes
    expires: float
    logins: int = 0
    begun: int = 0
    running: set[str] = field(default_factory=set)

    @property
    def max_logins(self) -> int | None:
        """None: any number."""
        if self.request.max_logins is not None:
            return self.request.max_logins
        return None if self.request.persistent else 1

    @property
    def is_spent(self) -> bool:
        """Whether no login is left."""
        return self.max_logins is not None and self.logins >= self.max_logins


@dataclass(frozen=True, slots=True)
class ObjectClaim:
    """Who shows the secret of a request for access over HTTP may have the object.

    Attributes:
        digest: names the request.
        request: as announced, its secret blanked.
        seconds: until no access begins any more; less than 0 for one that lives on because of what is under way.
    """

    digest: bytes
    request: TransferRequest
    seconds: float


class Ledger:
    """See the module.

    Args:
        limits: sessions and outstanding requests of one account, by purpose.
        clock: seconds, monotonic.
    """

    def __init__(self, limits: Mapping[Purpose, int], clock: Callable[[], float]) -> None:
        self.limits = dict(limits)
        self._clock = clock
        self._expected: dict[bytes, Expected] = {}
        self._due: list[tuple[float, bytes]] = []  # a heap: when to look at which request again
        self._sessions: dict[str, Expected] = {}
        self._slots: Counter[tuple[str, Purpose]] = Counter()
        self._copies: dict[str, str] = {}
        self._inherited: dict[str, tuple[str, Purpose]] = {}

    def add(self, request: TransferRequest) -> None:
        """Expect logins with the request's secret.

        Raises:
            RequestRefused: the secret is known already, or the account has too many sessions.
        """
        self.sweep()
        digest = _digest(request.secret)
        account = (request.user, request.purpose)
        if digest in self._expected:
            raise RequestRefused("Duplicate secret - this is not allowed.")
        if len(self._expected) >= _MOST_EXPECTED:
            raise RequestRefused(f"Too many outstanding requests - server limit is {_MOST_EXPECTED}")
        if self._slots[account] >= self.limits[request.purpose]:
            limit = self.limits[request.purpose]
            raise RequestRefused(f"Too many active sessions for '{request.user}' - server limit is {limit}")
        lifetime = min(request.expires or DEFAULT_SECRET_LIFETIME, _LONGEST_LIFETIME)
        expires = self._clock() + lifetime
        self._expected[digest] = Expected(replace(request, secret=""), digest, expires)
        heapq.heappush(self._due, (expires, digest))
        self._slots[account] += 1

    def claim(self, secret: str, peer: IPAddress, session_id: str) -> TransferRequest:
        """Use a secret for a login from `peer`. Of two claims of a one-time secret, one gets it.

        Raises:
            LoginError: with reply code and text; a wrong address leaves the request as it was.
        """
        entry = self._find(secret)
        if entry is None:
            raise LoginError(530, "Not logged in: no matching transfer request found")
        request = entry.request
        if not request.client_ip:
            raise LoginError(500, "Error establishing connection: 'client-ip'")
        if peer not in request.client_ip:
            raise LoginError(
                500, f"Error establishing connection: Rejecting connection for '{request.user}' from {peer}"
            )
        if entry.is_spent:
            raise LoginError(500, "Error establishing connection: Session for these credentials is already running")
        self._begin(entry, session_id)
        entry.logins += 1
        return request

    def claim_object(self, secret: str, peer: IPAddress) -> ObjectClaim:
        """What a secret opens over HTTP for `peer`, any number of times until it ends.

        A request that names no address opens its object for any: browsers come from others than the auth server sees,
        and only the auth server can know whether its users' do.

        Raises:
            LoginError: nothing, or not for this address; the texts are for the log.
        """
        entry = self._find(secret)
        if entry is None or not entry.request.http:
            raise LoginError(404, "no matching request for access over HTTP")
        if entry.request.client_ip and peer not in entry.request.client_ip:
            raise LoginError(404, f"not for clients at {peer}")
        return ObjectClaim(entry.digest, entry.request, entry.expires - self._clock())

    def begin_object(self, claim: ObjectClaim, object_id: str) -> None:
        """Count an object server.

        Raises:
            LoginError: the account has too many, or the secret has ended meanwhile.
        """
        entry = self._expected.get(claim.digest)
        if entry is None or self._clock() >= entry.expires:
            raise LoginError(404, "no matching request for access over HTTP")
        self._begin(entry, object_id)

    def begin_copy(self, copy_id: str, user: str) -> None:
        """Count a copy between servers that a session of `user` starts.

        Raises:
            LoginError: the account has too many.
        """
        account = (user, Purpose.COPY)
        limit = self.limits[Purpose.COPY]
        if self._slots[account] >= limit:
            raise LoginError(500, f"Too many copies and sessions for copies of '{user}' - server limit is {limit}")
        self._slots[account] += 1
        self._copies[copy_id] = user

    def _find(self, secret: str) -> Expected | None:
        digest = _digest(secret)
        entry = self._expected.get(digest)
        if entry is None or not hmac.compare_digest(entry.digest, digest) or self._is_over(entry):
            return None
        return entry

    def _begin(self, entry: Expected, session_id: str) -> None:
        self._take_slot(entry)
        entry.begun += 1
        entry.running.add(session_id)
        self._sessions[session_id] = entry

    def _take_slot(self, entry: Expected) -> None:
        if entry.begun == 0:
            return  # its slot is held since it was announced
        account = (entry.request.user, entry.request.purpose)
        limit = self.limits[entry.request.purpose]
        if self._slots[account] >= limit:
            raise LoginError(
                500,
                "Error establishing connection: Too many active transfer requests / sessions for "
                f"'{entry.request.user}' - server limit is {limit}",
            )
        self._slots[account] += 1

    def end(self, session_id: str) -> None:
        """A session or copy is over, or never came to be: free its slot."""
        if (user := self._copies.pop(session_id, None)) is not None:
            self._free_slot((user, Purpose.COPY))
        if account := self._inherited.pop(session_id, None):
            self._free_slot(account)
        entry = self._sessions.pop(session_id, None)
        if entry is None:
            return
        entry.running.discard(session_id)
        self._free_slot((entry.request.user, entry.request.purpose))
        if not entry.running and self._is_over(entry):
            self._expected.pop(entry.digest, None)

    def inherit(self, sessions: Mapping[str, tuple[str, Purpose]]) -> None:
        """Count sessions that began before this ledger did: by id, with user and purpose."""
        for session_id, account in sessions.items():
            self._inherited[session_id] = account
            self._slots[account] += 1

    def sweep(self) -> None:
        """Forget what has expired without a session under way; `end` forgets the rest."""
        while self._due and self._due[0][0] <= self._clock():
            _, digest = heapq.heappop(self._due)
            entry = self._expected.get(digest)
            if entry is None or not self._is_over(entry):
                continue
            del self._expected[digest]
            if entry.begun == 0:
                self._free_slot((entry.request.user, entry.request.purpose))

    def active(self, user: str) -> list[str]:
        """Ids of the user's running sessions and copies."""
        sessions = [session_id for session_id, entry in self._sessions.items() if entry.request.user == user]
        return sessions + [copy_id for copy_id, owner in self._copies.items() if owner == user]

    def _is_over(self, entry: Expected) -> bool:
        # A session under way keeps a persistent secret alive beyond its time; a login does not end access over HTTP.
        is_spent = entry.is_spent and not entry.request.http
        return not entry.running and (is_spent or self._clock() >= entry.expires)

    def _free_slot(self, account: tuple[str, Purpose]) -> None:
        self._slots[account] -= 1
        if self._slots[account] <= 0:
            del self._slots[account]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()

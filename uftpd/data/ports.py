"""Ports of the configured range, shared by all session processes: first come, first served, capped per user.

A session asks for a port when it starts to listen and returns it as soon as it stops, so a range serves many more
sessions than it has ports. No I/O and no clock of its own.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from uftpd.config.toml import PortRange

_MAX_WAITS = 8  # of one session: a client that aborts EPSV and tries again leaves waits behind
_BUSY_SECONDS = 0.5  # a port that another program holds is tried again after this long


@dataclass(frozen=True, slots=True)
class _Waiter:
    session_id: str
    user: str
    deadline: float


class PortPool:
    """See the module.

    Args:
        ports: the range.
        per_user: how many ports one user may hold; never more than half of the range, but at least one.
        wait_seconds: how long a session waits.
        clock: seconds, monotonic.
    """

    def __init__(self, ports: PortRange, per_user: int, wait_seconds: float, clock: Callable[[], float]) -> None:
        free = list(range(ports.low, ports.high + 1))
        start = random.randrange(len(free))
        self._free = deque(free[start:] + free[:start])
        self._per_user = max(1, min(per_user, len(free) // 2))
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._held: dict[int, _Waiter] = {}
        self._by_user: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._busy: dict[int, float] = {}

    def want(self, session_id: str, user: str) -> bool:
        """Queue up; `grants` tells the outcome. False: this session has asked too often already."""
        if sum(waiter.session_id == session_id for waiter in self._waiting) >= _MAX_WAITS:
            return False
        self._waiting.append(_Waiter(session_id, user, self._clock() + self._wait_seconds))
        return True

    def give_back(self, session_id: str, port: int, *, busy: bool) -> None:
        """A session stops listening, or could not, since another program does."""
        waiter = self._held.get(port)
        if waiter is None or waiter.session_id != session_id:
            return
        self._release(port)
        if busy:
            self._busy[port] = self._clock() + _BUSY_SECONDS
        else:
            self._free.append(port)

    def forget(self, session_id: str) -> None:
        """A session is gone, and with it all it held or waited for."""
        self._waiting = deque(waiter for waiter in self._waiting if waiter.session_id != session_id)
        for port in [port for port, waiter in self._held.items() if waiter.session_id == session_id]:
            self._release(port)
            self._free.append(port)

    def _release(self, port: int) -> None:
        user = self._held.pop(port).user
        self._by_user[user] -= 1
        if not self._by_user[user]:
            del self._by_user[user]

    def grants(self) -> list[tuple[str, int]]:
        """Who gets which port now, as pairs of session id and port; port 0: waited too long."""
        now = self._clock()
        for port in [port for port, until in self._busy.items() if until <= now]:
            del self._busy[port]
            self._free.append(port)
        granted: list[tuple[str, int]] = []
        still: deque[_Waiter] = deque()
        for waiter in self._waiting:
            if self._free and self._by_user[waiter.user] < self._per_user:
                port = self._free.popleft()
                self._held[port] = waiter
                self._by_user[waiter.user] += 1
                granted.append((waiter.session_id, port))
            elif waiter.deadline <= now:
                granted.append((waiter.session_id, 0))
            else:
                still.append(waiter)
        self._waiting = still
        return granted

    def next_change(self) -> float | None:
        """When `grants` should be asked again though nothing was returned; None if nobody waits."""
        if not self._waiting:
            return None
        return min([waiter.deadline for waiter in self._waiting] + list(self._busy.values()))

"""Slows guessing: after some failures each further login from that address, or for that user from it, has to wait.

An attempt counts as a failure from its start and is taken back when it succeeds, so that many attempts at once do not
slip by. Nobody is ever locked out, and a user is slowed only together with the guesser's address.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from uftp.protocol.command_port import IPAddress
from uftpd.auth.errors import RequestError
from uftpd.config.login import Login

MAX_KEYS = 50_000  # some 10 MB; beyond that the longest unused are forgotten
MAX_WAITING = 16  # logins of one address held back at once; they occupy request slots

_FIRST_DELAY_SECONDS = 0.25


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = 0.0


class Throttle:
    """Failed logins of the last minutes, by address and by user and address."""

    def __init__(self, settings: Login, clock: Callable[[], float] = trio.current_time) -> None:
        self._settings = settings
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()
        self._waiting: dict[str, int] = {}

    def attempt(self, address: IPAddress, user: str) -> float:
        """Count an attempt as failed until `succeeded` is called.

        Returns:
            Seconds to wait before the credentials are looked at.
        """
        place, user = network(address), _short(user)
        mine = self._count((place, user), 1) - self._settings.free_failures
        all_users = self._count((place, ""), 1) - self._settings.free_failures_per_address
        excess = max(mine, all_users)
        if excess <= 0:
            return 0.0
        return float(min(self._settings.longest_delay_seconds, _FIRST_DELAY_SECONDS * 2.0 ** min(excess - 1, 16)))

    def succeeded(self, address: IPAddress, user: str) -> None:
        """Take the attempt back, and forget what the user failed at before."""
        place, user = network(address), _short(user)
        self._failures.pop((place, user), None)
        self._count((place, ""), -1)

    def uncounted(self, address: IPAddress, user: str) -> None:
        """Take back an attempt that is no guess (CONTROL-PLANE T6)."""
        place, user = network(address), _short(user)
        self._count((place, user), -1)
        self._count((place, ""), -1)

    async def failed(self, address: IPAddress, user: str) -> None:
        """Count a failure that took no time to find out, and hold its answer back.

        Raises:
            RequestError: too many logins of that address are being held back.
        """
        await self.wait(address, self.attempt(address, user))

    async def wait(self, address: IPAddress, seconds: float) -> None:
        """Hold a login back.

        Raises:
            RequestError: too many logins of that address are being held back.
        """
        if seconds > 0:
            with self._place_to_wait(network(address)):
                await trio.sleep(seconds)

    @contextmanager
    def _place_to_wait(self, place: str) -> Iterator[None]:
        waiting = self._waiting.get(place, 0)
        if waiting >= MAX_WAITING:
            raise RequestError("Too many failed logins from your address, try again later", status=429)
        self._waiting[place] = waiting + 1
        try:
            yield
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._waiting[place]

    def _count(self, key: tuple[str, str], change: int) -> int:
        now = self._clock()
        failures = self._failures.setdefault(key, _Failures())
        if now - failures.last > self._settings.forget_failures_seconds:
            failures.count = 0
        failures.count = max(0, failures.count + change)
        failures.last = now if change > 0 else failures.last
        self._failures.move_to_end(key)
        while len(self._failures) > MAX_KEYS:
            self._failures.popitem(last=False)
        return failures.count


def network(address: IPAddress) -> str:
    """What is taken for one peer: an address, or the /64 that one IPv6 host has to itself."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


def _short(user: str) -> str:
    # The name is whatever the peer sent; 50,000 long ones would fill the memory.
    return user if len(user) <= 64 else hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()

"""How often something may be done for strangers: so many times a minute for one network, and for all together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import trio

from uftp.protocol.command_port import IPAddress
from uftpd.auth.identity.throttle import network

MAX_NETWORKS = 50_000
_MINUTE = 60.0


@dataclass(slots=True)
class _Bucket:
    left: float
    filled: float


class Budget:
    """Tokens that come back evenly over a minute; a minute's worth may be used at once."""

    def __init__(self, per_address: int, overall: int, clock: Callable[[], float] = trio.current_time) -> None:
        self._per_address = per_address
        self._overall = overall
        self._clock = clock
        self._all = _Bucket(overall, 0.0)
        self._networks: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, address: IPAddress) -> bool:
        """Use one token for this address; False if there is none, of its own or at all."""
        now = self._clock()
        key = network(address)
        own = self._networks.pop(key, None) or _Bucket(self._per_address, now)
        self._networks[key] = own
        while len(self._networks) > MAX_NETWORKS:
            self._networks.popitem(last=False)
        _fill(own, self._per_address, now)
        _fill(self._all, self._overall, now)
        if own.left < 1 or self._all.left < 1:
            return False
        own.left -= 1
        self._all.left -= 1
        return True


def _fill(bucket: _Bucket, size: int, now: float) -> None:
    bucket.left = min(float(size), bucket.left + (now - bucket.filled) * size / _MINUTE)
    bucket.filled = now

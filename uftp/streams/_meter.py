"""What a running pump shows and obeys."""

from __future__ import annotations

import time
from collections.abc import Callable


class Meter:
    """Counter and stop switch of one transfer, shared between a pump's thread and those who watch it.

    Attributes:
        moved: bytes moved so far; written by the pump alone, read by anyone.
        cancelled: set to stop the pump at the next block. Whoever needs it sooner shuts the socket down as well.
    """

    __slots__ = ("cancelled", "moved")

    def __init__(self) -> None:
        self.moved = 0
        self.cancelled = False


class RateLimit:
    """Bytes a second for all transfers of a session together; the rate may change while they run.

    Receiving pumps take from a token bucket that holds an eighth of a second. Sending ones have the kernel pace
    the socket at `rate`.

    Attributes:
        rate: bytes a second; 0 for none.
    """

    __slots__ = ("_allowance_at", "_clock", "_sleep", "rate")

    def __init__(
        self,
        rate: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate = rate
        self._clock = clock
        self._sleep = sleep
        self._allowance_at = clock()

    def block_size(self, largest: int) -> int:
        """How many bytes to move at once, so that the rate holds within a fraction of a second."""
        return min(largest, max(1024, self.rate // 16)) if self.rate else largest

    def spend(self, count: int, meter: Meter) -> None:
        """Account for `count` bytes moved, and sleep until they fit the rate or `meter` is cancelled."""
        if not self.rate:
            return
        now = self._clock()
        self._allowance_at = max(self._allowance_at, now - 0.125) + count / self.rate
        while not meter.cancelled and (wait := self._allowance_at - now) > 0:
            self._sleep(min(wait, 0.25))
            now = self._clock()

"""One rate for all sessions of a copy together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from uftp.streams import RateLimit


class RateShares:
    """Divides a rate among the transfers that are under way: those that end leave their share to the others.

    Args:
        rate: bytes a second; 0 for no limit.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._shares: list[RateLimit] = []

    @contextlib.contextmanager
    def share(self) -> Iterator[RateLimit | None]:
        """The share of one transfer, whose rate changes as others begin and end; None if there is no limit."""
        if not self._rate:
            yield None
            return
        limit = RateLimit()
        self._shares.append(limit)
        self._divide()
        try:
            yield limit
        finally:
            self._shares.remove(limit)
            self._divide()

    def change(self, rate: int) -> None:
        """Let another rate hold, for running transfers as well. Only where there was one from the start."""
        if self._rate and rate > 0:
            self._rate = rate
            self._divide()

    def _divide(self) -> None:
        for limit in self._shares:
            limit.rate = max(1, self._rate // len(self._shares))

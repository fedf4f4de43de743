"""Which changed files of a sync are better sent as changes, and which as a whole."""

from __future__ import annotations

import time
from typing import Final

import trio

from uftp.client.listings import Entry
from uftp.client.url import RemoteUrl
from uftp.errors import UFTPError
from uftp.streams import Incoming, Meter
from uftp.transfer.options import MIB
from uftp.transfer.plan import join
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState

# Both ends read the whole file, and one searches it. That goes at some 100 MiB a second; a line that carries the file
# faster than a good part of this is better used for all of it.
_FROM: Final = 8 * MIB  # bytes; below a further session costs more than it saves
_SLOW_LINE: Final = 40 * MIB  # bytes per second
_PROBE_BYTES: Final = 4 * MIB
_ENOUGH_SEEN: Final = 32 * MIB  # bytes moved after which the rate of the copy says enough
_SIZES_APART: Final = 2  # times: files so unlike have little in common


class Deltas:
    """Decides, and remembers the files for which it pays.

    Args:
        pool: sessions, for a look at how fast the line is.
        url: top of the tree on the server.
        state: of the copy, for its rate.
        always: whatever the line is like.

    Attributes:
        waiting: places and facts of the files, in order.
    """

    def __init__(self, pool: SessionPool, url: RemoteUrl, state: CopyState, *, always: bool) -> None:
        self._pool = pool
        self._url = url
        self._state = state
        self._always = always
        self._rate: float | None = None
        self.waiting: list[tuple[bytes, Entry]] = []

    async def takes(self, relative: bytes, source: Entry, target: Entry) -> bool:
        """Whether the file shall be sent as changes; it is remembered then.

        Args:
            relative: place in both trees.
            source, target: facts of the file and of its older version.
        """
        smaller, larger = sorted((source.size, target.size))
        if smaller == 0 or (not self._always and (larger < _FROM or larger > _SIZES_APART * smaller)):
            return False
        if not self._always and await self._line_rate(relative) > _SLOW_LINE:
            return False
        self.waiting.append((relative, source))
        return True

    async def _line_rate(self, relative: bytes) -> float:
        """Bytes per second: what the copy has reached so far, or what the head of this file needs to come here."""
        if self._rate is None:
            self._rate = await self._probe(relative)
        elapsed = time.monotonic() - self._state.started
        return max(self._rate, self._state.moved / elapsed if self._state.moved >= _ENOUGH_SEEN else 0.0)

    async def _probe(self, relative: bytes) -> float:
        def drop(incoming: Incoming, length: int | None, meter: Meter, /) -> int:
            return incoming.to_nowhere(length, meter)

        try:
            async with self._pool.session() as session:
                began = trio.current_time()
                path = join(self._url.path, relative)
                moved = await session.retrieve(path, drop, offset=0, length=_PROBE_BYTES, expected=_PROBE_BYTES)
                return moved / max(trio.current_time() - began, 1e-6)
        except UFTPError:
            return float("inf")  # a copy will find out what is wrong

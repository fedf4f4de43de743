"""Whether a further session helps, by what throughput shows.

Only decisions: no clock, no sessions, no queue. The scheduler tells about once a second how fast things go, and each
addition has to have raised the rate before there is another one. Nothing is taken back: an idle session costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_HELPED: Final = 1.1  # times the rate before; less is the noise of a line that others use, too
_BUSY: Final = 0.4  # of the processors here: with a peer that is as busy, there is nothing left for another session


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an interval has shown.

    Attributes:
        rate: of all sessions together, in any unit, a second; the same unit each time.
        workers: there are.
        sessions: that are open.
        waiting: pieces and batches nobody has taken.
        most: workers there may be.
        capped: whether the rate is limited by the user's wish, or the server refuses further sessions.
        busy: part of the processors of this machine that this process has used, 0 to 1.
    """

    rate: float
    workers: int
    sessions: int
    waiting: int
    most: int
    capped: bool = False
    busy: float = 0.0


@dataclass(frozen=True, slots=True)
class Growth:
    """What is known so far; begin with `Growth()`.

    Attributes:
        before: the rate when the last session was added; None before the first one.
        whole: whether all sessions were at work throughout the last interval.
        settled: whether the last one did not help: there will be no more.
    """

    before: float | None = None
    whole: bool = False
    settled: bool = False

    def after(self, seen: Seen) -> tuple[Growth, bool]:
        """What is known after one more interval, and whether to add a worker now."""
        if self.settled:
            return self, False
        if seen.sessions < seen.workers or not seen.waiting or seen.rate <= 0:
            # Somebody has still to log in, or had nothing to do: such a rate tells nothing of a further session.
            return Growth(self.before), False
        if not self.whole:
            return Growth(self.before, whole=True), False
        if self.before is not None and seen.rate < self.before * _HELPED:
            return Growth(self.before, settled=True), False
        if seen.capped or seen.workers >= seen.most or seen.busy >= _BUSY:
            return self, False
        return Growth(seen.rate), True

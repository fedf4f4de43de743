"""Which bytes of an object somebody has been given: half-open intervals, in order, never touching."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

Interval = tuple[int, int]
"""Begin and end of a run of bytes, the end not in it."""

MAX_INTERVALS: Final = 64  # a client of 16 connections leaves 16 gaps; the smallest runs are forgotten beyond that


def merged(known: Iterable[Interval], new: Iterable[Interval]) -> list[Interval]:
    """All bytes of both. At most `MAX_INTERVALS` are kept, the longest ones."""
    found: list[Interval] = []
    for begin, end in sorted((*known, *new)):
        if begin >= end:
            continue
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    if len(found) > MAX_INTERVALS:
        longest = sorted(found, key=lambda run: run[0] - run[1])[:MAX_INTERVALS]
        found = sorted(longest)
    return found


def covers(intervals: Iterable[Interval], size: int) -> bool:
    """Whether merged intervals are all of an object of `size` bytes."""
    return size == 0 or any(begin == 0 and end >= size for begin, end in intervals)


def length(intervals: Iterable[Interval]) -> int:
    """Bytes in the intervals; those that are in two count twice."""
    return sum(end - begin for begin, end in intervals)


def dump(intervals: Iterable[Interval]) -> str:
    """As text, for the store."""
    return json.dumps([list(interval) for interval in intervals], separators=(",", ":"))


def load(text: str) -> list[Interval]:
    """What `dump` wrote."""
    return [(begin, end) for begin, end in json.loads(text)] if text else []

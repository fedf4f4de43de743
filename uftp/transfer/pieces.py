"""Cutting files into ranges, and how many sessions help."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from uftp.transfer.options import MIB, CopyOptions

SMALLEST_PIECE: Final = 16 * MIB  # a data connection takes a few round trips and megabytes to reach its speed
LARGEST_PIECE: Final = 1024 * MIB  # what a broken connection can cost
_PIECES_A_WORKER: Final = 4  # a slow session then only does less
# More sessions than processors only wait for each other on a fast line; on a slow one two fill it better than one.
_AUTOMATIC_WORKERS: Final = max(2, min(4, os.cpu_count() or 2))
_FAR_WORKERS: Final = 8  # that are begun because of the round trip, or added as throughput shows that they help
# While one waits for replies, or for its line to get up to speed, others move.
_ROUND_TRIP_A_WORKER: Final = 0.025  # seconds
_SMALLEST_FAR_PIECE: Final = 32 * MIB
# A further session costs a request to the auth server and a login, some ten round trips, so it has to be worth that.
# Guesses with that in mind: what the best figures are depends on the line.
_BYTES_A_WORKER: Final = 128 * MIB
_FILES_A_WORKER: Final = 100
_AUTOMATIC_THRESHOLD: Final = 256 * MIB
_KEPT_FROM: Final = 64 * MIB  # a second on a good line; on a bad one it is what hurts to send again
_KEPT_PIECES: Final = 32  # of a file
_LARGEST_KEPT_PIECE: Final = 256 * MIB
_EXPLICIT_THRESHOLD: Final = 2 * SMALLEST_PIECE


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of the bytes to move, counted from the first of them.

    Attributes:
        offset, length: in bytes; length None for all there is.
    """

    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class Splitting:
    """When and how files are split, and how many workers there are.

    Attributes:
        most_workers: sessions at once.
        threshold: bytes from which a file is split.
        automatic: whether workers are added only as work shows that is worth it.
        automatic_threshold: whether nobody has asked for a threshold.
        most_sessions: how many workers have a session at all; None for any number.
    """

    most_workers: int
    threshold: int
    automatic: bool
    automatic_threshold: bool = True
    most_sessions: int | None = None

    @classmethod
    def of(cls, options: CopyOptions) -> Splitting:
        """What the user's options come to."""
        automatic = options.threads is None
        threshold = options.split_threshold
        if threshold is None:
            threshold = _AUTOMATIC_THRESHOLD if automatic else _EXPLICIT_THRESHOLD
        wanted = _AUTOMATIC_WORKERS if options.threads is None else max(1, options.threads)
        most = options.most_sessions
        return cls(
            wanted if most is None else max(1, min(wanted, most)),
            threshold,
            automatic,
            options.split_threshold is None,
            most,
        )

    def piece_size(self, length: int) -> int:
        """Bytes in each piece of a file of `length` bytes; the last one may be shorter."""
        if self.most_workers == 1 or length < max(self.threshold, 2 * SMALLEST_PIECE):
            return max(1, length)
        wanted = -(-length // (self.most_workers * _PIECES_A_WORKER))
        whole = -(-wanted // MIB) * MIB
        return min(LARGEST_PIECE, max(SMALLEST_PIECE, whole))

    def is_worth_keeping(self, length: int) -> bool:
        """Whether a file of `length` bytes is copied in ranges, so that an interrupted copy can go on with it."""
        return length >= max(_KEPT_FROM, 0 if self.automatic_threshold else self.threshold)

    def kept_piece_size(self, length: int, round_trip: float | None = None) -> int:
        """Bytes in each range of such a file: small enough that losing some of them costs little.

        Over a line with a round trip of so many seconds they are larger, as each costs some.
        """
        whole = -(-length // _KEPT_PIECES // MIB) * MIB
        least = SMALLEST_PIECE if (round_trip or 0.0) < _ROUND_TRIP_A_WORKER else _SMALLEST_FAR_PIECE
        return min(_LARGEST_KEPT_PIECE, max(least, whole))

    def workers(self, *, pieces: int, files: int, size: int, round_trip: float | None = None) -> int:
        """How many workers so much work is worth, over a line with this round trip in seconds."""
        if not self.automatic:
            return max(1, min(self.most_workers, pieces))
        worth = 1 + size // _BYTES_A_WORKER + files // _FILES_A_WORKER
        far = 2 + int(min(1.0, round_trip or 0.0) / _ROUND_TRIP_A_WORKER)
        most = max(self.most_workers, min(_FAR_WORKERS, far))
        return max(1, min(self._granted(most), pieces, worth))

    @property
    def most_grown(self) -> int:
        """How many workers there may be where throughput shows that they help."""
        return self._granted(max(self.most_workers, _FAR_WORKERS)) if self.automatic else self.most_workers

    def _granted(self, wanted: int) -> int:
        return wanted if self.most_sessions is None else min(wanted, self.most_sessions)


def split(length: int, piece_size: int) -> Iterator[Piece]:
    """The pieces of `length` bytes, in order; one empty piece for nothing."""
    if length <= piece_size:
        yield Piece(0, length)
        return
    for offset in range(0, length, piece_size):
        yield Piece(offset, min(piece_size, length - offset))


def split_rest(length: int, piece_size: int, there: Iterable[tuple[int, int]]) -> Iterator[Piece]:
    """The pieces of what is missing, where `there` has offset and length of what is not."""
    position = 0
    for offset, size in (*sorted(there), (length, 0)):
        while position < offset:
            step = min(piece_size, offset - position)
            yield Piece(position, step)
            position += step
        position = max(position, offset + size)

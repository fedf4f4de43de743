"""Which bytes of a file several connections fetch by ranges of HTTP, and what is remembered of it.

Each connection has a run of bytes of its own; one that is done takes over the second half of the longest run left. What
has come is noted in a small file in `$XDG_STATE_HOME/uftp/shares`, so that the same command goes on with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LEAST_BYTES: Final = 4 * 1024 * 1024  # a run shorter than twice this is not divided: a request costs more


@dataclass(slots=True, eq=False)
class Run:
    """Bytes from `position` to `end`, of which one connection fetches what is left.

    Attributes:
        begin: where it began.
        position: the next byte to come.
        end: the first byte that is not in it; may be drawn nearer by others while bytes come.
    """

    begin: int
    position: int
    end: int

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return self.end - self.position


class Pieces:
    """A file of `size` bytes, of which some are there.

    Args:
        size: bytes.
        done: half-open intervals that are there already.
    """

    def __init__(self, size: int, done: Iterable[tuple[int, int]] = ()) -> None:
        self.size = size
        self._done = list(done)
        self._waiting = [Run(begin, begin, end) for begin, end in _gaps(self._done, size)]
        self._running: list[Run] = []

    def take(self) -> Run | None:
        """A run for a connection; None if nothing is left that is worth one."""
        if self._waiting:
            run = self._waiting.pop(0)
        else:
            longest = max(self._running, key=lambda run: run.left, default=None)
            if longest is None or longest.left < 2 * LEAST_BYTES:
                return None
            middle = longest.position + longest.left // 2
            run = Run(middle, middle, longest.end)
            longest.end = middle
        self._running.append(run)
        return run

    def give_back(self, run: Run) -> None:
        """A connection has ended; what is left of its run waits for another."""
        self._running.remove(run)
        if run.position > run.begin:
            self._done.append((run.begin, run.position))
        if run.left > 0:
            self._waiting.insert(0, Run(run.position, run.position, run.end))

    def done(self) -> list[tuple[int, int]]:
        """What is there, in order."""
        every = [*self._done, *((run.begin, run.position) for run in self._running if run.position > run.begin)]
        merged: list[tuple[int, int]] = []
        for begin, end in sorted(every):
            if merged and begin <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((begin, end))
        return merged

    @property
    def moved(self) -> int:
        """Bytes that are there."""
        return sum(end - begin for begin, end in self.done())

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are there."""
        return self.size == 0 or self.done() == [(0, self.size)]


def _gaps(done: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    found, position = [], 0
    for begin, end in sorted(done):
        if begin > position:
            found.append((position, begin))
        position = max(position, end)
    if position < size:
        found.append((position, size))
    return found


@dataclass(frozen=True, slots=True)
class Remembered:
    """A download that did not end.

    Attributes:
        etag: of the version it is of.
        size: bytes.
        done: half-open intervals that are there.
    """

    etag: str
    size: int
    done: tuple[tuple[int, int], ...]


class Memory:
    """The note about one download.

    Args:
        key: hexadecimal digits that stand for what is fetched, and whereto.
    """

    def __init__(self, key: str) -> None:
        state = os.environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(state):
            state = os.path.join(os.path.expanduser("~"), ".local/state")
        self._directory = os.path.join(state, "uftp/shares")
        self._path = os.path.join(self._directory, f"{key}.json")

    def load(self) -> Remembered | None:
        """What is noted; None if there is nothing, or nothing that makes sense."""
        try:
            with open(self._path, encoding="utf-8") as file:
                document = json.loads(file.read(1 << 20))
            etag, size = document["etag"], document["size"]
            done = tuple((begin, end) for begin, end in document["done"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        numbers = [size, *(number for interval in done for number in interval)]
        sensible = isinstance(etag, str) and all(type(number) is int and 0 <= number <= size for number in numbers)
        return Remembered(etag, size, done) if sensible and all(begin < end for begin, end in done) else None

    def save(self, remembered: Remembered) -> None:
        """Note it. A failure is no error: then the next try begins anew."""
        part = f"{self._path}.{secrets.token_hex(4)}"
        document = {"etag": remembered.etag, "size": remembered.size, "done": remembered.done}
        with contextlib.suppress(OSError):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            try:
                with open(part, "x", encoding="utf-8", opener=_private) as file:
                    json.dump(document, file)
                os.replace(part, self._path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(part)

    def forget(self) -> None:
        """Remove the note."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)

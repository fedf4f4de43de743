"""Command lines that have been read and not yet served, shared between the loop that reads and a thread that serves."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from uftp.protocol.lines import split_command

_FREQUENT = {b"RETR ": "RETR", b"STOR ": "STOR"}
_LINE_COST = 4  # bytes a line counts beside its text, so that very short ones cannot pile up


class Line:
    """One command line.

    Attributes:
        text: as sent, without its end.
        verb, argument: its parts; blanks before the verb are dropped.
        aborted: whether an ABOR has come since.
        too_long: it was above the limit, and only that is left of it.
    """

    __slots__ = ("aborted", "argument", "text", "too_long", "verb")

    def __init__(self, text: bytes, *, too_long: bool = False) -> None:
        self.text = text
        if (verb := _FREQUENT.get(text[:5])) is not None:
            self.verb, self.argument = verb, text[5:]
        else:
            self.verb, self.argument = split_command(text.lstrip())
        self.aborted = False
        self.too_long = too_long


class LineQueue:
    """See the module. All methods may be called from any thread, and but for `take_if` none waits."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._running: Sequence[Line] = ()

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def waiting_bytes(self) -> int:
        """What the lines count together."""
        return self._bytes

    def put_many(self, lines: Sequence[Line]) -> None:
        """Add lines, in order."""
        with self._changed:
            self._lines.extend(lines)
            self._bytes += sum(len(line.text) for line in lines) + _LINE_COST * len(lines)
            self._changed.notify()

    def first(self) -> Line | None:
        """The next line, left in place."""
        return self._lines[0] if self._lines else None

    def take(self) -> Line:
        """The next line; there must be one."""
        with self._changed:
            return self._take()

    def _take(self) -> Line:
        line = self._lines.popleft()
        self._bytes -= len(line.text) + _LINE_COST
        self._running = (line,)
        return line

    def take_run(self, verbs: tuple[str, ...], most: int) -> list[Line]:
        """The next lines of one and the same verb, as many as are here; none if the next one is of another.

        Args:
            verbs: those that are wanted.
            most: lines.
        """
        with self._changed:
            lines = self._lines
            if not lines or lines[0].verb not in verbs:
                return []
            verb = lines[0].verb
            run: list[Line] = []
            while lines and len(run) < most and lines[0].verb == verb and not lines[0].aborted:
                run.append(lines.popleft())
            self._bytes -= sum(len(line.text) for line in run) + _LINE_COST * len(run)
            self._running = run
            return run

    def give_back(self, lines: Sequence[Line]) -> None:
        """Put lines that have been taken, and not been served, where they were."""
        with self._changed:
            self._lines.extendleft(reversed(lines))
            self._bytes += sum(len(line.text) for line in lines) + _LINE_COST * len(lines)

    def take_if(
        self, wanted: Callable[[Line], bool], seconds: float, before_waiting: Callable[[], None]
    ) -> Line | None:
        """The next line if it is wanted; waits for it. For threads.

        Args:
            wanted: whether to take a line, or leave it and return None.
            seconds: how long to wait for a line.
            before_waiting: called first if there is none.
        """
        if not self._lines:
            before_waiting()
        with self._changed:
            if not self._lines:
                self._changed.wait(seconds)
            return self._take() if self._lines and wanted(self._lines[0]) else None

    def wake(self) -> None:
        """End a wait in `take_if`."""
        with self._changed:
            self._changed.notify()

    def abort(self) -> None:
        """Mark all lines, and those taken last, as aborted."""
        with self._changed:
            for line in self._lines:
                line.aborted = True
            for line in self._running:
                line.aborted = True

    def clear(self) -> None:
        """Forget the lines."""
        with self._changed:
            self._lines.clear()
            self._bytes = 0

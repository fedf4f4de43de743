"""What came of a copy: a record a file, running totals, and the summary."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from uftp.errors import SomeFailed, UFTPError
from uftp.streams import Meter

_KEPT_FAILURES: Final = 10_000  # failures remembered for the summary; all are reported as they happen


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """One file, or a directory that could not be read or made.

    Attributes:
        source, target: as the user would write them.
        bytes: moved.
        seconds: from the first byte asked for to the final name.
        error: why it failed, None if it is done.
    """

    source: str
    target: str
    bytes: int = 0
    seconds: float = 0.0
    error: UFTPError | None = None

    @property
    def problem(self) -> str:
        """Why it failed, and which one it is: what ends a session does not say whose it was."""
        name = re.split("[/:]", self.source)[-1]
        return str(self.error) if name and name in str(self.error) else f"{self.source}: {self.error}"

    def to_json(self) -> dict[str, object]:
        """The members of a line of `--json` output."""
        record: dict[str, object] = {
            "type": "file",
            "source": self.source,
            "target": self.target,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 6),
            "ok": self.error is None,
        }
        if self.error is not None:
            record["error"] = str(self.error)
            record["exit_code"] = self.error.exit_code
        return record


@dataclass(slots=True)
class CopyState:
    """Running totals, read by the progress display while the copy goes on.

    Attributes:
        on_result: told of each file as it is done or failed.
        on_note: told what a person may want to know and is no failure.
        on_session: told of each session that is opened, and what protects and packs its data.
        files_found, bytes_found: by the planner so far.
        planned: whether the planner has seen everything.
        files_done, files_failed, bytes_done: so far; `moved` has the running transfers, too.
        sessions: opened so far.
        failures: the first of them.
    """

    on_result: Callable[[FileResult], None] = lambda result: None
    on_note: Callable[[str], None] = lambda text: None
    on_session: Callable[[str], None] = lambda text: None
    files_found: int = 0
    bytes_found: int = 0
    planned: bool = False
    files_done: int = 0
    files_failed: int = 0
    bytes_done: int = 0
    sessions: int = 0
    failures: list[FileResult] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    _running: set[Meter] = field(default_factory=set)

    @property
    def moved(self) -> int:
        """Bytes moved, those of running transfers included."""
        return self.bytes_done + sum(meter.moved for meter in tuple(self._running))

    def start(self, meter: Meter) -> None:
        """Count a transfer that begins."""
        self._running.add(meter)

    def stop(self, meter: Meter) -> None:
        """Count a transfer that has ended."""
        self._running.discard(meter)
        self.bytes_done += meter.moved

    def record(self, result: FileResult) -> None:
        """Count a file that is done or failed, and pass it on."""
        if result.error is None:
            self.files_done += 1
        else:
            self.files_failed += 1
            if len(self.failures) < _KEPT_FAILURES:
                self.failures.append(result)
        self.on_result(result)

    def summary(self) -> CopySummary:
        """The outcome so far."""
        return CopySummary(
            files=self.files_done,
            failed=self.files_failed,
            bytes=self.bytes_done,
            seconds=time.monotonic() - self.started,
            failures=tuple(self.failures),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySummary:
    """What a copy came to.

    Attributes:
        files: done.
        failed: not done.
        bytes: moved.
        seconds: in all.
        failures: the failed ones (the first ten thousand).
    """

    files: int
    failed: int
    bytes: int
    seconds: float
    failures: tuple[FileResult, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The members of the last line of `--json` output."""
        return {
            "type": "summary",
            "files": self.files,
            "failed": self.failed,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 6),
        }

    def raise_for_failures(self) -> None:
        """Nothing if all is done.

        Raises:
            UFTPError: the error itself if there was only one file.
            SomeFailed: several were asked for.
        """
        if not self.failed:
            return
        if self.failed == 1 and self.files == 0 and self.failures and self.failures[0].error is not None:
            raise self.failures[0].error
        raise SomeFailed(f"{self.failed} of {self.files + self.failed} files failed; the others are done")

"""What came of a copy: a record a file, running totals, and the summary."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from uftp.errors import SomeFailed, UFTPError
from uftp.streams import Meter
from uftp.transfer.rate import RateShares

Action = Literal["copy", "delete", "mkdir", "link"]

_KEPT_FAILURES: Final = 10_000  # failures remembered for the summary; all are reported as they happen


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """One file, or a directory that could not be read or made.

    Attributes:
        source, target: as the user would write them; of what is deleted the source is empty.
        action: what was done, or would be in a dry run.
        bytes: moved.
        seconds: from the first byte asked for to the final name.
        error: why it failed, None if it is done.
    """

    source: str
    target: str
    action: Action = "copy"
    bytes: int = 0
    seconds: float = 0.0
    error: UFTPError | None = None

    @property
    def problem(self) -> str:
        """Why it failed, and which one it is: what ends a session does not say whose it was."""
        place = self.source or self.target
        name = re.split("[/:]", place)[-1]
        return str(self.error) if name and name in str(self.error) else f"{place}: {self.error}"

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
        if self.action != "copy":
            record["type"] = self.action
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
        files_unchanged: found to be there already, so far.
        deleted: files and directories removed, so far.
        sessions: opened so far.
        retries: pieces, steps and small files that were tried again, so far.
        taken_over: bytes that an interrupted copy had brought already.
        unverified: files that could not be compared with their source, as the server computes no checksums.
        ended_early: whether the copy was ended after too many failures.
        completed: whether all was tried, and nothing is to be done any more but to take leave of the server.
        each_file: whether `on_result` is told of files that are done, too; small ones cost less if not.
        failures: the first of them.
        limit: the rate of all sessions together, once the copy has begun to move data; it can be changed.
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
    files_unchanged: int = 0
    deleted: int = 0
    sessions: int = 0
    retries: int = 0
    taken_over: int = 0
    unverified: int = 0
    ended_early: bool = False
    completed: bool = False
    each_file: bool = True
    failures: list[FileResult] = field(default_factory=list)
    limit: RateShares | None = None
    started: float = field(default_factory=time.monotonic)
    _running: dict[Meter, str] = field(default_factory=dict)

    @property
    def moved(self) -> int:
        """Bytes moved, those of running transfers included."""
        return self.bytes_done + sum(meter.moved for meter in tuple(self._running))

    def running(self) -> list[tuple[str, int]]:
        """The transfers going on that have a name, each with the bytes it has moved."""
        return [(name, meter.moved) for meter, name in tuple(self._running.items()) if name]

    def start(self, meter: Meter, name: str = "") -> None:
        """Count a transfer that begins, of the file `name`."""
        self._running[meter] = name

    def stop(self, meter: Meter) -> None:
        """Count a transfer that has ended."""
        self._running.pop(meter, None)
        self.bytes_done += meter.moved

    def record(self, result: FileResult) -> None:
        """Count a file that is done or failed, and pass it on."""
        if result.error is None and result.action == "delete":
            self.deleted += 1
        elif result.error is None and result.action == "mkdir":
            pass  # a step on the way to the files in it
        elif result.error is None:
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
            unchanged=self.files_unchanged,
            deleted=self.deleted,
            not_tried=max(0, self.files_found - self.files_done - self.files_failed) if self.ended_early else 0,
            retries=self.retries,
            taken_over=self.taken_over,
            unverified=self.unverified,
            ended_early=self.ended_early,
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
        unchanged: files that were there already, and were left.
        deleted: files and directories removed.
        not_tried: files found that were neither done nor failed when too many failures ended the copy.
        retries, taken_over, unverified, ended_early: as in `CopyState`.
    """

    files: int
    failed: int
    bytes: int
    seconds: float
    failures: tuple[FileResult, ...] = ()
    unchanged: int = 0
    deleted: int = 0
    not_tried: int = 0
    retries: int = 0
    taken_over: int = 0
    unverified: int = 0
    ended_early: bool = False

    def to_json(self) -> dict[str, object]:
        """The members of the last line of `--json` output."""
        return {
            "type": "summary",
            "files": self.files,
            "failed": self.failed,
            "unchanged": self.unchanged,
            "deleted": self.deleted,
            "not_tried": self.not_tried,
            "unverified": self.unverified,
            "retries": self.retries,
            "taken_over": self.taken_over,
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
        if self.ended_early:
            raise SomeFailed(
                f"ended after {self.failed} failed files; {self.files} are done, and the rest was not tried"
            )
        if self.failed == 1 and self.files == 0 and self.failures and self.failures[0].error is not None:
            raise self.failures[0].error
        raise SomeFailed(f"{self.failed} of {self.files + self.failed} files failed; the others are done")

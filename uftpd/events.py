"""The log of all servers: one line an event, on standard error, as text or JSON.

Facts go beside the text, never into it, so that nothing a peer sends can forge a line. Secrets are never facts.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Literal

Fact = str | int | float | bool | None

_ROOT = logging.getLogger("uftpd")
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII but for blank, quote, = and backslash


class EventLog:
    """The log of one part of a server.

    Args:
        part: stands in every line, such as "front".
    """

    def __init__(self, part: str) -> None:
        self._logger = logging.getLogger(f"uftpd.{part}")

    def __call__(self, text: str, *, level: int | str = logging.INFO, **facts: Fact) -> None:
        """Log an event; facts that are None are left out."""
        number = level if isinstance(level, int) else logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
        if self._logger.isEnabledFor(number):
            shown = {key: value for key, value in facts.items() if value is not None}
            self._logger.log(number, text, extra={"facts": shown})

    def transfers(
        self, before: Mapping[str, Fact], rows: Sequence[tuple[str, int, float]], behind: Mapping[str, Fact]
    ) -> None:
        """Log the event `transfer` for each of many files, a line each, in one go.

        Args:
            before: facts of all of them, that stand first.
            rows: of each its path, its bytes, and the seconds it took.
            behind: facts of all of them, that stand last.
        """
        if self._logger.isEnabledFor(logging.INFO):
            self._logger.info("transfer", extra={"transfers": (before, rows, behind)})


class EventFormatter(logging.Formatter):
    """`TIME LEVEL part: text key=value …`, or the same as one JSON object."""

    def __init__(self, form: Literal["text", "json"]) -> None:
        super().__init__()
        self._form = form
        self._second, self._stamp = -1, ("", "")  # thousands of lines may share a second

    def format(self, record: logging.LogRecord) -> str:
        """One line for `record`, or one for each of its transfers; a traceback becomes a fact of that line."""
        if (transfers := getattr(record, "transfers", None)) is not None:
            return self._format_transfers(record, *transfers)
        facts: dict[str, Fact] = dict(getattr(record, "facts", {}))
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        stamp = self._stamp_of(record)
        text = record.getMessage()
        level = record.levelname.lower()
        part = record.name.removeprefix("uftpd.")
        if self._form == "json":
            return json.dumps({"time": stamp, "level": level, "part": part, "event": text, **facts})
        return f"{stamp} {level} {part}: {text if text.isprintable() else json.dumps(text)}{_show_all(facts)}"

    def _stamp_of(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            here = time.localtime(second)
            self._second, self._stamp = second, (time.strftime("%Y-%m-%dT%H:%M:%S", here), time.strftime("%z", here))
        return f"{self._stamp[0]}.{int(record.msecs):03d}{self._stamp[1]}"

    def _format_transfers(
        self,
        record: logging.LogRecord,
        before: Mapping[str, Fact],
        rows: Sequence[tuple[str, int, float]],
        behind: Mapping[str, Fact],
    ) -> str:
        # What is the same in all lines is put into words once: they come by the ten thousand a second.
        stamp, level, part = self._stamp_of(record), record.levelname.lower(), record.name.removeprefix("uftpd.")
        if self._form == "json":
            head = json.dumps({"time": stamp, "level": level, "part": part, "event": "transfer", **before})[:-1]
            tail = json.dumps(behind)[1:]
            lines = [
                f'{head}, "path": {json.dumps(path)}, "bytes": {size}, "seconds": {seconds:.6f}, '
                f'"rate": {round(size / seconds) if seconds else 0}, {tail}'
                for path, size, seconds in rows
            ]
        else:
            head = f"{stamp} {level} {part}: transfer{_show_all(before)} path="
            tail = _show_all(behind)
            lines = [
                f"{head}{path if _PLAIN.fullmatch(path) else json.dumps(path)} bytes={size} seconds={seconds:.3f} "
                f"rate={round(size / seconds) if seconds else 0}{tail}"
                for path, size, seconds in rows
            ]
        return "\n".join(lines)


def _show_all(facts: Mapping[str, Fact]) -> str:
    return "".join(f" {key}={_show(value)}" for key, value in facts.items())


def _show(value: Fact) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Send the log of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(form))
    _ROOT.handlers = [handler]
    _ROOT.setLevel(level.upper())
    _ROOT.propagate = False

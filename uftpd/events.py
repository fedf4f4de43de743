"""The log of all servers: one line an event, on standard error, as text or JSON.

Facts go beside the text, never into it, so that nothing a peer sends can forge a line. Secrets are never facts.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

Fact = str | int | float | bool | None

_ROOT = logging.getLogger("uftpd")


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


class EventFormatter(logging.Formatter):
    """`TIME LEVEL part: text key=value …`, or the same as one JSON object."""

    def __init__(self, form: Literal["text", "json"]) -> None:
        super().__init__()
        self._form = form
        self._second, self._stamp = -1, ("", "")  # thousands of lines may share a second

    def format(self, record: logging.LogRecord) -> str:
        """One line for `record`; a traceback becomes a fact of that line."""
        facts: dict[str, Fact] = dict(getattr(record, "facts", {}))
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        second = int(record.created)
        if second != self._second:
            here = time.localtime(second)
            self._second, self._stamp = second, (time.strftime("%Y-%m-%dT%H:%M:%S", here), time.strftime("%z", here))
        stamp = f"{self._stamp[0]}.{int(record.msecs):03d}{self._stamp[1]}"
        text = record.getMessage()
        level = record.levelname.lower()
        part = record.name.removeprefix("uftpd.")
        if self._form == "json":
            return json.dumps({"time": stamp, "level": level, "part": part, "event": text, **facts})
        shown = "".join(f" {key}={_show(value)}" for key, value in facts.items())
        return f"{stamp} {level} {part}: {text if text.isprintable() else json.dumps(text)}{shown}"


def _show(value: Fact) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    plain = text.isprintable() and text.isascii() and not any(c in text for c in ' "=\\')
    return text if plain and text else json.dumps(text)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Send the log of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(form))
    _ROOT.handlers = [handler]
    _ROOT.setLevel(level.upper())
    _ROOT.propagate = False

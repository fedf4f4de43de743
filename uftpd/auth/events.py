"""The log of the auth server: one line an event, on standard error, as text or JSON.

Facts go beside the text, never into it, so that nothing a client sends can forge a line. Secrets are never facts.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Literal

Fact = str | int | float | bool | None

logger = logging.getLogger("uftpd.auth")


def event(text: str, *, level: int = logging.INFO, **facts: Fact) -> None:
    """Log an event; facts that are None are left out."""
    emit(text, level, facts)


def emit(text: str, level: int, facts: Mapping[str, Fact]) -> None:
    """`event`, for facts that come as a mapping."""
    if logger.isEnabledFor(level):
        logger.log(level, text, extra={"facts": {k: v for k, v in facts.items() if v is not None}})


class EventFormatter(logging.Formatter):
    """`TIME LEVEL text key=value …`, or the same as one JSON object."""

    def __init__(self, form: Literal["text", "json"]) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """One line for `record`; a traceback becomes a fact of that line."""
        facts: dict[str, Fact] = dict(getattr(record, "facts", {}))
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        stamp = f"{when}.{int(record.msecs):03d}{time.strftime('%z', time.localtime(record.created))}"
        text = record.getMessage()
        level = record.levelname.lower()
        if self._form == "json":
            return json.dumps({"time": stamp, "level": level, "part": "auth", "event": text, **facts})
        shown = "".join(f" {key}={_show(value)}" for key, value in facts.items())
        return f"{stamp} {level} auth: {text if text.isprintable() else json.dumps(text)}{shown}"


def _show(value: Fact) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    plain = text.isprintable() and text.isascii() and not any(c in text for c in ' "=\\')
    return text if plain and text else json.dumps(text)


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Send this log, and that of the HTTP server beneath, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(form))
    for target in (logger, logging.getLogger("uftpd.http")):
        target.handlers = [handler]
        target.setLevel(level.upper())
        target.propagate = False

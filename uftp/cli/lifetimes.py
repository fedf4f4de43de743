"""Lifetimes as people write them: 3600, 90m, 12h, 7d, 2w."""

from __future__ import annotations

import re
from typing import Final

from uftp.errors import UsageError

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_lifetime(text: str) -> int:
    """Seconds.

    Raises:
        UsageError: not a lifetime, or none at all.
    """
    match = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", text.strip().lower(), re.ASCII)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if seconds <= 0:
        raise UsageError(f"{text!r}: not a lifetime; they look like 3600, 90m, 12h or 7d")
    return seconds


def show_lifetime(seconds: int) -> str:
    """Roughly, in the largest unit that gives a number above 1."""
    for unit in ("w", "d", "h", "m"):
        if seconds >= 2 * _UNITS[unit] and unit != "w":
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"

"""Rates as people write them in map files: `200M`, `100 gig/sec`, `1048576` (CONTROL-PLANE 2.5)."""

from __future__ import annotations

import re

from uftp.protocol.command_port import MAX_RATE

_WITH_UNIT = re.compile(r"\s*(\d{1,18})\s*([kKmMgG])", re.ASCII)
_PLAIN = re.compile(r"\d{1,18}", re.ASCII)
_FACTORS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parse_rate(text: str) -> int:
    """Bytes a second. Units are powers of 1024, and text behind a unit is ignored.

    Raises:
        ValueError: neither a plain integer nor an integer with one of k, m, g; or more than any network has.
    """
    if match := _WITH_UNIT.match(text):
        rate = int(match[1]) * _FACTORS[match[2].lower()]
    elif _PLAIN.fullmatch(text):
        rate = int(text)
    else:
        raise ValueError(f"'{text[:64]}' is not a rate such as 200M or 1048576")
    if rate > MAX_RATE:
        raise ValueError(f"'{text[:64]}' is more than {MAX_RATE} bytes a second")
    return rate

"""Results on standard output: text for people, or one JSON object a line."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Final

import click

from uftp.protocol.facts import NANOSECONDS, FileInfo

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_HALF_YEAR: Final = 15_811_200  # seconds; older dates are shown with their year


def print_json(record: dict[str, object]) -> None:
    """One object, one line. Bytes of names that are not UTF-8 are lone surrogates, as in Python."""
    click.echo(json.dumps(record))


def print_name(text: str) -> None:
    """A line with file names: as they are into pipes and files, without control characters on a terminal."""
    raw = os.fsencode(text)
    if sys.stdout.isatty():
        raw = _CONTROL.sub(b"?", raw)
    click.echo(raw)


def describe(info: FileInfo, path: bytes) -> dict[str, object]:
    """The members of a file's line of `--json` output."""
    return {
        "type": "directory" if info.is_dir else "file",
        "path": os.fsdecode(path),
        "name": os.fsdecode(info.name),
        "size": info.size,
        "mtime": iso_time(info.mtime_ns),
        "mode": None if info.permissions is None else f"{info.permissions:04o}",
        "readable": info.readable,
        "writable": info.writable,
        "executable": info.executable,
    }


def iso_time(mtime_ns: int) -> str:
    """A time in UTC, as 2026-11-22T18:38:04Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(mtime_ns // NANOSECONDS))


def long_line(info: FileInfo, width: int) -> str:
    """A line of `ls`: rights of the user, size, local time, name."""
    flags = zip("rwx", (info.readable, info.writable, info.executable), strict=True)
    rights = "".join(letter if flag else "-" for letter, flag in flags)
    seconds = info.mtime_ns // NANOSECONDS
    form = "%b %d  %Y" if abs(time.time() - seconds) > _HALF_YEAR else "%b %d %H:%M"
    date = time.strftime(form, time.localtime(seconds))
    kind = "d" if info.is_dir else "-"
    return f"{kind}{rights} {info.size:{width}} {date} {os.fsdecode(info.name)}"


def human_size(count: float) -> str:
    """Bytes in units of 1000, as 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

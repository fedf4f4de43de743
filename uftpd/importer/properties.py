"""Java properties files, with the line each property stands in (java.util.Properties, "load").

Lines of `key=value`, `key: value` or `key value`; `#` and `!` begin comments; a backslash at the end continues a line,
and elsewhere escapes the next character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from uftpd.importer.notes import Notes, Place

_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_LINE_ENDS = re.compile("\r\n|\r|\n")
_BLANK = " \t\f"


@dataclass(frozen=True, slots=True)
class Property:
    """One property; the value without blanks at its ends, as upstream uses it."""

    key: str
    value: str
    line: int


def parse_properties(text: str) -> list[Property]:
    """All properties in order, repeated ones too. There is no text that is not one."""
    found = []
    for number, line in _logical_lines(text):
        key, rest = _split_key(line)
        rest = rest.lstrip(_BLANK)
        if rest[:1] in ("=", ":"):
            rest = rest[1:].lstrip(_BLANK)
        found.append(Property(_unescape(key), _unescape(rest).strip(), number))
    return found


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their continuations, and the number of the first."""
    collected, start = "", 0
    for number, raw in enumerate(_LINE_ENDS.split(text), start=1):
        line = raw.lstrip(_BLANK)
        if not start:
            if not line or line[0] in "#!":
                continue
            start = number
        if (len(line) - len(line.rstrip("\\"))) % 2:
            collected += line[:-1]
            continue
        yield start, collected + line
        collected, start = "", 0
    if start:
        yield start, collected


def _split_key(line: str) -> tuple[str, str]:
    escaped = False
    for place, character in enumerate(line):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "=:" or character in _BLANK:
            return line[:place], line[place:]
    return line, ""


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    result: list[str] = []
    place = 0
    while place < len(text):
        character = text[place]
        place += 1
        if character != "\\" or place == len(text):
            result.append(character if character != "\\" else "")
            continue
        character = text[place]
        place += 1
        if character == "u" and re.fullmatch("[0-9A-Fa-f]{4}", text[place : place + 4]):
            result.append(chr(int(text[place : place + 4], 16)))
            place += 4
        else:
            result.append(_ESCAPES.get(character, character))
    # Characters beyond the first plane are written as two escapes.
    return "".join(result).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Properties:
    """The properties of a file by key, of a repeated one the last; knows which were asked for."""

    def __init__(self, file: Path, text: str, notes: Notes) -> None:
        self.file = file
        self._notes = notes
        self._by_key: dict[str, Property] = {}
        self._taken: set[str] = set()
        for found in parse_properties(text):
            if (former := self._by_key.get(found.key)) is not None:
                notes.changed(self._place(former), found.key, f"is set again in line {found.line}, and that counts")
            self._by_key[found.key] = found

    def _place(self, found: Property) -> Place:
        return Place(self.file, found.line)

    def place(self, key: str) -> Place:
        """Where a property stands; the file if it does not."""
        found = self._by_key.get(key)
        return self._place(found) if found is not None else Place(self.file)

    def get(self, key: str) -> str | None:
        """The value, None if it is missing or empty. It counts as dealt with."""
        found = self._by_key.get(key)
        if found is None:
            return None
        self._taken.add(key)
        return found.value or None

    def flag(self, key: str, default: bool) -> bool:
        """A switch; anything but true, yes and 1 is off, as upstream reads it."""
        value = self.get(key)
        return default if value is None else value.lower() in ("true", "yes", "1")

    def number(self, key: str) -> int | None:
        """A whole number; None, and a note, if it is something else."""
        value = self.get(key)
        if value is None:
            return None
        if value.isascii() and value.isdigit() and len(value) < 10:
            return int(value)
        self._notes.lost(self.place(key), key, "is no whole number; set it by hand")
        return None

    def beneath(self, prefix: str) -> list[str]:
        """The keys that begin so, in order."""
        return [key for key in self._by_key if key.startswith(prefix)]

    def rest(self) -> list[Property]:
        """Those nobody has asked for."""
        return [found for key, found in self._by_key.items() if key not in self._taken]

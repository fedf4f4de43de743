"""Shell files that only set variables, as upstream's uftpd.conf: `export KEY="value"`, with earlier ones in it.

Nothing is run. What is more than an assignment, or needs a shell to know its value, is reported with its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


class NeedsShell(ValueError):
    """Only a shell knows what this means."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable and the line that sets it."""

    name: str
    value: str
    line: int


@dataclass(slots=True)
class ShellFile:
    """What a file sets.

    Attributes:
        variables: by name, as the last assignment has it.
        used: names that values of others are made of.
        not_understood: lines that are more than assignments, or whose values only a shell knows: number, and what it
            is about.
    """

    variables: dict[str, Variable] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    not_understood: list[tuple[int, str]] = field(default_factory=list)


def parse_shell(text: str) -> ShellFile:
    """Read a file. Raises nothing: what is not understood is reported in the result."""
    result = ShellFile()
    known: dict[str, str] = {}
    collected, start = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        start = start or number
        if line.endswith("\\") and not line.endswith("\\\\"):
            collected += line[:-1]
            continue
        _read_line(collected + line, start, known, result)
        collected, start = "", 0
    if start:
        _read_line(collected, start, known, result)
    return result


def _read_line(line: str, number: int, known: dict[str, str], result: ShellFile) -> None:
    try:
        words = _words(line, known, result.used)
        exports = words[:1] == ["export"]
        for word in words[1:] if exports else words:
            name, equals, value = word.partition("=")
            if not _NAME.fullmatch(name) or not (equals or exports):
                raise NeedsShell
            if equals:
                known[name] = value
                result.variables[name] = Variable(name, value, number)
    except NeedsShell:
        found = re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=", line)
        if found:
            # Whatever it was before, it is not that.
            known.pop(found[1], None)
            result.variables.pop(found[1], None)
        result.not_understood.append((number, found[1] if found else "a command"))


def _words(line: str, known: dict[str, str], used: set[str]) -> list[str]:
    """The words of a line, quotes taken off and variables put in; a comment ends it."""
    words: list[str] = []
    word: list[str] | None = None
    place = 0
    while place < len(line):
        character = line[place]
        if character in " \t":
            if word is not None:
                words.append("".join(word))
            word = None
        elif character == "#" and word is None:
            break
        else:
            word = [] if word is None else word
            if character == "'":
                end = line.find("'", place + 1)
                if end < 0:
                    raise NeedsShell
                word.append(line[place + 1 : end])
                place = end
            elif character == '"':
                place = _quoted(line, place + 1, word, known, used)
            elif character == "\\":
                place += 1
                word.append(line[place : place + 1])
            elif character == "$":
                place = _variable(line, place, word, known, used)
            elif character in "`;|&<>(){" or (character == "~" and line[place - 1 : place] in ("", " ", "=", ":")):
                raise NeedsShell
            else:
                word.append(character)
        place += 1
    if word is not None:
        words.append("".join(word))
    return words


def _quoted(line: str, place: int, word: list[str], known: dict[str, str], used: set[str]) -> int:
    """The inside of double quotes from `place` on; where the closing one is."""
    while place < len(line):
        character = line[place]
        if character == '"':
            return place
        if character == "`":
            raise NeedsShell
        if character == "\\" and line[place + 1 : place + 2] in ('"', "\\", "$", "`"):
            place += 1
            word.append(line[place])
        elif character == "$":
            place = _variable(line, place, word, known, used)
        else:
            word.append(character)
        place += 1
    raise NeedsShell


def _variable(line: str, place: int, word: list[str], known: dict[str, str], used: set[str]) -> int:
    """A variable at `place`; where it ends."""
    found = _VARIABLE.match(line, place)
    name = (found[1] or found[2]) if found else ""
    if found is None or name not in known:
        raise NeedsShell
    word.append(known[name])
    used.add(name)
    return found.end() - 1


class Settings:
    """The variables of a file; knows which were asked for."""

    def __init__(self, file: Path, parsed: ShellFile) -> None:
        self.file = file
        self._variables = parsed.variables
        self._taken = set(parsed.used)

    def get(self, name: str) -> str | None:
        """The value, None if it is missing or empty. It counts as dealt with."""
        found = self._variables.get(name)
        if found is None:
            return None
        self._taken.add(name)
        return found.value.strip() or None

    def line(self, name: str) -> int:
        """Where it is set; 0 if it is not."""
        found = self._variables.get(name)
        return found.line if found is not None else 0

    def rest(self) -> list[Variable]:
        """Those nobody has asked for."""
        return [found for name, found in self._variables.items() if name not in self._taken]

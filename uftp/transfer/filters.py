"""Which files of a tree are copied: patterns in order, a list of names, age and size.

Patterns are those of rsync, with two conveniences of gitignore:

- The first pattern that matches decides; what none matches is copied. A directory that is left out is not entered, so
  nothing below it is asked for.
- Paths are those below the source directory, without its own name. `/x` matches only at the top of it; any other
  pattern matches the last components of a path, as many as it has itself.
- `*` and `?` do not match a slash, `**` does; `[a-z]` and `[!a-z]` match one character; a backslash takes the next
  character as it is. `**/` and `/**/` may stand for no directory at all (gitignore).
- A slash at the end means directories only. `x/***` is the directory x and everything in it.

Characters count, not bytes: a name that is not UTF-8 has one character for each byte that does not fit.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from uftp.client.wording import printable
from uftp.errors import UsageError

_SECOND: Final = 10**9
_EVERYTHING_BELOW: Final = "/***"


@dataclass(frozen=True, slots=True)
class Rule:
    """One --include or --exclude.

    Attributes:
        include: whether what matches is copied.
        pattern: see the module.

    Raises:
        UsageError: an empty pattern, or a bracket that is not closed.
    """

    include: bool
    pattern: str
    _only_directories: bool = field(init=False, repr=False, compare=False)
    _with_slash: bool = field(init=False, repr=False, compare=False)
    _by_name: bool = field(init=False, repr=False, compare=False)
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        body = self.pattern
        below = body.endswith(_EVERYTHING_BELOW)
        only_directories = not below and body.endswith("/")
        body = body.removesuffix(_EVERYTHING_BELOW) if below else body.rstrip("/")
        anchored = body.startswith("/")
        body = body.lstrip("/")
        if not body and not below:
            raise UsageError(f"{self.pattern!r}: a pattern that can match nothing")
        by_name = not (anchored or below or "/" in body or "**" in body)
        start = "" if anchored or by_name else "(?:.*/)?"
        end = ".*" if below and not body else "/.*" if below else ""
        # A frozen dataclass sets what it works out in this way.
        object.__setattr__(self, "_only_directories", only_directories)
        object.__setattr__(self, "_with_slash", below)
        object.__setattr__(self, "_by_name", by_name)
        object.__setattr__(self, "_regex", re.compile(start + _translate(body, self.pattern) + end, re.DOTALL))

    def matches(self, relative: str, *, is_dir: bool) -> bool:
        """Whether a path below the source directory matches; `relative` has no slash at either end."""
        if self._only_directories and not is_dir:
            return False
        if self._by_name:
            relative = relative[relative.rfind("/") + 1 :]
        elif self._with_slash and is_dir:
            relative += "/"
        return self._regex.fullmatch(relative) is not None


def _translate(body: str, pattern: str) -> str:
    parts: list[str] = []
    place = 0
    while place < len(body):
        character = body[place]
        place += 1
        if character == "*":
            if body.startswith("*/", place) and (place == 1 or body[place - 2] == "/"):
                parts.append("(?:.*/)?")
                place += 2
            elif body.startswith("*", place):
                while body.startswith("*", place):
                    place += 1
                parts.append(".*")
            else:
                parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "[":
            end = _end_of_bracket(body, place, pattern)
            parts.append(_bracket(body[place:end]))
            place = end + 1
        elif character == "\\" and place < len(body):
            parts.append(re.escape(body[place]))
            place += 1
        else:
            parts.append(re.escape(character))
    return "".join(parts)


def _end_of_bracket(body: str, start: int, pattern: str) -> int:
    place = start + 1 if body[start : start + 1] in ("!", "^") else start
    end = body.find("]", place + 1)  # a bracket right at the start stands for itself
    if end < 0:
        raise UsageError(f"{pattern!r}: the bracket is not closed; write \\[ for the character itself")
    return end


def _bracket(inside: str) -> str:
    negated = inside[0] in "!^"
    members = inside[1:] if negated else inside
    ranges: list[str] = []
    place = 0
    while place < len(members):
        first = members[place]
        if place + 2 < len(members) and members[place + 1] == "-":
            last = members[place + 2]
            if first <= last:  # one that runs backwards has no members
                ranges.append(f"{re.escape(first)}-{re.escape(last)}")
            place += 3
        else:
            ranges.append(re.escape(first))
            place += 1
    if negated:
        return f"[^/{''.join(ranges)}]"
    return f"(?!/)[{''.join(ranges)}]" if ranges else "(?!)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which files of a tree are copied; nothing set takes all. See the module.

    Attributes:
        rules: patterns, in the order they were given.
        files_from: names below the source directory, of which only these are copied; a directory stands for all that
            is in it. None for all. See `parse_names`.
        newer_ns: only files changed after this, in nanoseconds since 1970; a file without a known time is copied.
        min_size, max_size: bytes, both inclusive.
    """

    rules: tuple[Rule, ...] = ()
    files_from: frozenset[bytes] | None = None
    newer_ns: int | None = None
    min_size: int | None = None
    max_size: int | None = None
    _ways: frozenset[bytes] = field(init=False, repr=False, compare=False)
    takes_all: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ways: set[bytes] = set()
        for name in self.files_from or ():
            while (name := name.rpartition(b"/")[0]) and name not in ways:
                ways.add(name)
        object.__setattr__(self, "_ways", frozenset(ways))
        bounds = (self.files_from, self.newer_ns, self.min_size, self.max_size)
        object.__setattr__(self, "takes_all", not self.rules and all(bound is None for bound in bounds))

    def takes_file(self, relative: bytes, size: int, mtime_ns: int | None) -> bool:
        """Whether a regular file is copied.

        Args:
            relative: its path below the source directory; of a file that was named itself, its base name.
            size: bytes.
            mtime_ns: nanoseconds since 1970, None if unknown.
        """
        if self.takes_all:
            return True
        if self.min_size is not None and size < self.min_size:
            return False
        if self.max_size is not None and size > self.max_size:
            return False
        return self.takes_link(relative, mtime_ns)

    def takes_link(self, relative: bytes, mtime_ns: int | None) -> bool:
        """Whether a link that is kept as one is copied; it has no size."""
        if self.newer_ns is not None and mtime_ns is not None and mtime_ns <= self.newer_ns:
            return False
        if self.files_from is not None and not self._is_listed(relative):
            return False
        return self._passes(relative, is_dir=False)

    def enters(self, relative: bytes) -> bool:
        """Whether a directory is copied and looked into."""
        if not relative or self.takes_all:
            return True
        if self.files_from is not None and relative not in self._ways and not self._is_listed(relative):
            return False
        return self._passes(relative, is_dir=True)

    def _is_listed(self, relative: bytes) -> bool:
        listed = self.files_from or frozenset()
        while relative:
            if relative in listed:
                return True
            relative = relative.rpartition(b"/")[0]
        return False

    def _passes(self, relative: bytes, *, is_dir: bool) -> bool:
        if not self.rules:
            return True
        text = os.fsdecode(relative)
        for rule in self.rules:
            if rule.matches(text, is_dir=is_dir):
                return rule.include
        return True


def make_rules(patterns: Iterable[tuple[bool, str]]) -> tuple[Rule, ...]:
    """Rules of (include, pattern), in order.

    Raises:
        UsageError: see `Rule`.
    """
    return tuple(Rule(include, pattern) for include, pattern in patterns)


def parse_names(data: bytes) -> frozenset[bytes]:
    """Names of a list, one a line, or each ended by NUL if there is one in it (as `find -print0` writes them).

    Empty ones are left out, as are `./` and `/` at the start and `/` at the end.

    Raises:
        UsageError: a name with `..`, which could lead out of the tree.
    """
    names: set[bytes] = set()
    for line in data.split(b"\0") if b"\0" in data else data.splitlines() if b"\r\n" in data else data.split(b"\n"):
        components = [component for component in line.split(b"/") if component not in (b"", b".")]
        if b".." in components:
            raise UsageError(f"{printable(line)}: a name in the list must not lead upwards")
        if components:
            names.add(b"/".join(components))
    return frozenset(names)


def read_names(path: str) -> frozenset[bytes]:
    """The list of names in a file, or in standard input if it is called `-`; blocks.

    Raises:
        UsageError: it cannot be read, or see `parse_names`.
    """
    try:
        if path == "-":
            return parse_names(sys.stdin.buffer.read())
        with open(path, "rb") as file:
            return parse_names(file.read())
    except OSError as error:
        raise UsageError(f"{path}: cannot read the list of names: {error.strerror}") from error


def parse_moment(text: str) -> int:
    """A moment as --newer takes it: the time of a file that is there, or a date.

    Dates are `2026-01-31`, `2026-01-31T12:00`, with a blank instead of the T, with seconds and their fractions, with
    `Z` or `+01:00` behind (local time without), or `@SECONDS` since 1970.

    Returns:
        Nanoseconds since 1970.

    Raises:
        UsageError: neither a file nor a date.
    """
    try:
        return os.stat(text).st_mtime_ns
    except (OSError, ValueError):
        pass  # no such file: then it is a date
    if match := re.fullmatch(r"@([0-9]{1,12})(?:\.([0-9]{1,9}))?", text):
        return int(match[1]) * _SECOND + int((match[2] or "").ljust(9, "0"))
    # `fromisoformat` keeps six digits of a second; files have nine.
    whole, _, behind = text.strip().partition(".")
    fraction = re.match(r"[0-9]{1,9}", behind)
    zone = behind[fraction.end() :] if fraction else behind
    from datetime import datetime  # late: few starts need it

    try:
        if (behind == "") != ("." not in text) or (behind and not fraction):
            raise ValueError(text)
        moment = datetime.fromisoformat(whole + zone)
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"{text!r}: neither a file nor a date; dates look like 2026-01-31, 2026-01-31T12:00:00Z or @1769860800"
        ) from error
    return seconds * _SECOND + int((fraction[0] if fraction else "").ljust(9, "0"))

"""The map file: JSON, from names to attributes, read again when it changes (CONTROL-PLANE 5.6).

{ "CN=Demo User,O=UNICORE,C=EU": { "role": "user", "xlogin": ["user1", "user2"], "uftpd.TEST.group": "hpc1" } }
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from uftp.protocol.command_port import is_clean
from uftp.protocol.dn import InvalidName, canonical
from uftpd.auth.attributes.base import Attributes
from uftpd.auth.attributes.rates import parse_rate
from uftpd.auth.events import event
from uftpd.config.patterns import Pattern, compile_pattern
from uftpd.watched import WatchedFile

_KNOWN = {name.lower(): name for name in ("xlogin", "role", "group", "supplementaryGroups", "addOsGroups", "queue")}
_OVERRIDES = frozenset({"xlogin", "group", "rateLimit", "includes", "excludes"})
_ROLES = frozenset({"user", "admin", "banned", "anonymous"})

Match = Literal["strict", "regexp"]


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something strange in a map file that does not make it unusable.

    Attributes:
        entry: the key.
        attribute: its attribute; empty if it is about the entry.
        reason: for a person.
        skipped: the entry counts for nothing.
    """

    entry: str
    attribute: str
    reason: str
    skipped: bool = False

    def __str__(self) -> str:
        where = f"'{self.entry}', '{self.attribute}'" if self.attribute else f"'{self.entry}'"
        return f"{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class MapTable:
    """A whole file: the attributes of a canonical name, and what is strange."""

    find: Callable[[str], Attributes]
    doubts: tuple[Doubt, ...]


class MapFile:
    """An attribute source backed by a map file.

    With `strict` matching a key is a name, compared in canonical form; with `regexp` it is a regular expression of
    RE2's kind that must match the whole canonical name, in any case, and the first match in file order wins.
    """

    def __init__(self, path: Path, match: Match, servers: Collection[str] | None = None) -> None:
        """Read the file. What is strange in it goes to the log, each time it is read.

        Args:
            path: the file.
            match: how keys are compared.
            servers: the logical servers there are; settings for others are warned of. None: not checked.

        Raises:
            ConfigError: it cannot be read or is not a valid map file.
        """
        self._file = WatchedFile(path, partial(_parse_and_report, str(path), match, servers))

    async def attributes(self, canonical_dn: str) -> Attributes:
        """The attributes of the entry for this name; empty if there is none."""
        return self._file.current().find(canonical_dn)

    def doubts(self) -> tuple[Doubt, ...]:
        """What is strange in the file."""
        return self._file.current().doubts


def _parse_and_report(path: str, match: Match, servers: Collection[str] | None, text: str) -> MapTable:
    table = parse_map(text, match, servers)
    for doubt in table.doubts:
        event(
            "map entry skipped" if doubt.skipped else "map entry",
            level=logging.ERROR if doubt.skipped else logging.WARNING,
            file=path,
            entry=doubt.entry,
            attribute=doubt.attribute or None,
            reason=doubt.reason,
        )
    return table


def parse_map(text: str, match: Match, servers: Collection[str] | None = None) -> MapTable:
    """Read the text of a map file; the arguments are those of `MapFile`.

    Raises:
        ValueError: the text is not a JSON object of objects, a value is neither text nor a list of texts, or with
            `regexp` a key is no regular expression.
    """
    doubts: list[Doubt] = []
    entries = _entries(text, servers, doubts)
    find = _strict(entries, doubts) if match == "strict" else _regexp(entries)
    return MapTable(find, tuple(doubts))


def _strict(entries: list[tuple[str, Attributes]], doubts: list[Doubt]) -> Callable[[str], Attributes]:
    found: dict[str, Attributes] = {}
    for key, attributes in entries:
        try:
            name = canonical(key)
        except InvalidName as error:
            doubts.append(Doubt(key, "", f"no valid name, the entry is skipped: {error}", skipped=True))
            continue
        if name in found:
            doubts.append(Doubt(key, "", "the name occurs twice, this one counts"))
        found[name] = attributes
    return lambda name: found.get(name, {})


def _regexp(entries: list[tuple[str, Attributes]]) -> Callable[[str], Attributes]:
    # One that cannot be compiled spoils the file: later entries would count in its place, and may allow more.
    found: list[tuple[Pattern, Attributes]] = [
        (compile_pattern(key, ignore_case=True), attributes) for key, attributes in entries
    ]
    return lambda name: next((attributes for pattern, attributes in found if pattern.fullmatch(name)), {})


def _entries(text: str, servers: Collection[str] | None, doubts: list[Doubt]) -> list[tuple[str, Attributes]]:
    """All entries in file order."""
    if text.lstrip().startswith("<"):
        raise ValueError("the XML form of map files is not supported; write it as JSON")

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            times = Counter(name for name, _ in pairs)
            doubts.extend(Doubt(name, "", "occurs twice, the last one counts") for name in times if times[name] > 1)
        return found

    try:
        table = json.loads(text, object_pairs_hook=collect)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise ValueError("expected an object of objects, name to attributes")
    found: list[tuple[str, Attributes]] = []
    for key, entry in table.items():
        attributes: Attributes = {_KNOWN.get(name.lower(), name): _values(key, name, entry[name]) for name in entry}
        for name, values in attributes.items():
            if reason := _strangeness(servers, name, values):
                doubts.append(Doubt(key, name, reason))
        found.append((key, attributes))
    return found


def _values(key: str, name: str, value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    for item in values:
        if not isinstance(item, str) or not is_clean(item):
            raise ValueError(f"'{key}', '{name}': expected a text without control characters, or a list of such")
    return tuple(values)


def _strangeness(servers: Collection[str] | None, name: str, values: tuple[str, ...]) -> str:
    """What is strange about an attribute; empty if nothing is."""
    if name == "role" and not _ROLES.issuperset(values):
        return f"unknown role, known are {', '.join(sorted(_ROLES))}"
    if not name.startswith("uftpd."):
        return "" if name in _KNOWN.values() else f"unknown attribute, known are {', '.join(sorted(_KNOWN.values()))}"
    server, _, kind = name.removeprefix("uftpd.").rpartition(".")
    if kind not in _OVERRIDES:
        return f"unknown setting, known are {', '.join(sorted(_OVERRIDES))}"
    if servers is not None and server not in servers:
        return f"no server of that name, there are {', '.join(sorted(servers))}"
    if kind == "rateLimit" and values:
        try:
            parse_rate(values[-1])
        except ValueError as error:
            return str(error)
    return ""

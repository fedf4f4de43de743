"""The map file: JSON, from names to attributes, read again when it changes (CONTROL-PLANE 5.6).

{ "CN=Demo User,O=UNICORE,C=EU": { "role": "user", "xlogin": ["user1", "user2"], "uftpd.TEST.group": "hpc1" } }
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection
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

_Lookup = Callable[[str], Attributes]


class MapFile:
    """An attribute source backed by a map file.

    With `strict` matching a key is a name, compared in canonical form; with `regexp` it is a regular expression of
    RE2's kind that must match the whole canonical name, in any case, and the first match in file order wins.
    """

    def __init__(self, path: Path, match: Literal["strict", "regexp"], servers: Collection[str] | None = None) -> None:
        """Read the file.

        Args:
            path: the file.
            match: how keys are compared.
            servers: the logical servers there are; settings for others are warned of. None: not checked.

        Raises:
            ConfigError: it cannot be read or is not a valid map file.
        """
        parse = _strict if match == "strict" else _regexp
        self._file = WatchedFile(path, partial(parse, str(path), frozenset(servers) if servers is not None else None))

    async def attributes(self, canonical_dn: str) -> Attributes:
        """The attributes of the entry for this name; empty if there is none."""
        return self._file.current()(canonical_dn)


def _strict(path: str, servers: frozenset[str] | None, text: str) -> _Lookup:
    entries: dict[str, Attributes] = {}
    for key, attributes in _entries(path, servers, text):
        try:
            name = canonical(key)
        except InvalidName as error:
            event("map entry skipped", level=logging.ERROR, file=path, entry=key, reason=str(error))
            continue
        if name in entries:
            event(
                "map entry",
                level=logging.WARNING,
                file=path,
                entry=key,
                reason="the name occurs twice, this one counts",
            )
        entries[name] = attributes
    return lambda name: entries.get(name, {})


def _regexp(path: str, servers: frozenset[str] | None, text: str) -> _Lookup:
    entries: list[tuple[Pattern, Attributes]] = []
    for key, attributes in _entries(path, servers, text):
        try:
            entries.append((compile_pattern(key, ignore_case=True), attributes))
        except ValueError as error:
            # Later entries would take over from one that is left out, and they may allow more.
            raise ValueError(str(error)) from None
    return lambda name: next((found for pattern, found in entries if pattern.fullmatch(name)), {})


def _entries(path: str, servers: frozenset[str] | None, text: str) -> list[tuple[str, Attributes]]:
    """All entries in file order.

    Raises:
        ValueError: the text is not a JSON object of objects, or a value is neither text nor a list of texts.
    """
    if text.lstrip().startswith("<"):
        raise ValueError("the XML form of map files is not supported; write it as JSON")
    try:
        table = json.loads(text, object_pairs_hook=partial(_object, path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise ValueError("expected an object of objects, name to attributes")
    found: list[tuple[str, Attributes]] = []
    for key, entry in table.items():
        attributes: Attributes = {_KNOWN.get(name.lower(), name): _values(key, name, entry[name]) for name in entry}
        _warn(path, servers, key, attributes)
        found.append((key, attributes))
    return found


def _values(key: str, name: str, value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    for item in values:
        if not isinstance(item, str) or not is_clean(item):
            raise ValueError(f"'{key}', '{name}': expected a text without control characters, or a list of such")
    return tuple(values)


def _object(path: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        for name in sorted(name for name, times in Counter(name for name, _ in pairs).items() if times > 1):
            event("map entry", level=logging.WARNING, file=path, entry=name, reason="occurs twice, the last one counts")
    return found


def _warn(path: str, servers: frozenset[str] | None, key: str, attributes: Attributes) -> None:
    for name, values in attributes.items():
        if reason := _doubt(servers, name, values):
            event("map entry", level=logging.WARNING, file=path, entry=key, attribute=name, reason=reason)


def _doubt(servers: frozenset[str] | None, name: str, values: tuple[str, ...]) -> str:
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

"""The map file: JSON, from names to attributes, read again when it changes (CONTROL-PLANE 5.6).

{ "CN=Demo User,O=UNICORE,C=EU": { "role": "user", "xlogin": ["user1", "user2"], "uftpd.TEST.group": "hpc1" } }
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from uftp.protocol.command_port import is_clean
from uftp.protocol.dn import InvalidName, canonical
from uftpd.auth.attributes.base import Attributes
from uftpd.auth.attributes.rates import parse_rate
from uftpd.auth.events import event
from uftpd.watched import WatchedFile

_KNOWN = {name.lower(): name for name in ("xlogin", "role", "group", "supplementaryGroups", "addOsGroups", "queue")}
_OVERRIDES = frozenset({"xlogin", "group", "rateLimit", "includes", "excludes"})

_Lookup = Callable[[str], Attributes]


class MapFile:
    """An attribute source backed by a map file.

    With `strict` matching a key is a name, compared in canonical form; with `regexp` it is a regular expression that
    must match the whole canonical name, in any case, and the first match in file order wins.
    """

    def __init__(self, path: Path, match: Literal["strict", "regexp"]) -> None:
        """Read the file.

        Raises:
            ConfigError: it cannot be read or is not a valid map file.
        """
        parse = _strict if match == "strict" else _regexp
        self._file = WatchedFile(path, partial(parse, str(path)))

    async def attributes(self, canonical_dn: str) -> Attributes:
        """The attributes of the entry for this name; empty if there is none."""
        return self._file.current()(canonical_dn)


def _strict(path: str, text: str) -> _Lookup:
    entries: dict[str, Attributes] = {}
    for key, attributes in _entries(path, text):
        try:
            entries[canonical(key)] = attributes
        except InvalidName as error:
            event("map entry skipped", level=logging.ERROR, file=path, entry=key, reason=str(error))
    return lambda name: entries.get(name, {})


def _regexp(path: str, text: str) -> _Lookup:
    entries: list[tuple[re.Pattern[str], Attributes]] = []
    for key, attributes in _entries(path, text):
        try:
            entries.append((re.compile(key, re.IGNORECASE), attributes))
        except re.error as error:
            event("map entry skipped", level=logging.ERROR, file=path, entry=key, reason=str(error))
    return lambda name: next((found for pattern, found in entries if pattern.fullmatch(name)), {})


def _entries(path: str, text: str) -> list[tuple[str, Attributes]]:
    """All entries in file order.

    Raises:
        ValueError: the text is not a JSON object of objects, or a value is neither text nor a list of texts.
    """
    if text.lstrip().startswith("<"):
        raise ValueError("the XML form of map files is not supported; write it as JSON")
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise ValueError("expected an object of objects, name to attributes")
    found: list[tuple[str, Attributes]] = []
    for key, entry in table.items():
        attributes: Attributes = {_KNOWN.get(name.lower(), name): _values(key, name, entry[name]) for name in entry}
        _warn(path, key, attributes)
        found.append((key, attributes))
    return found


def _values(key: str, name: str, value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    for item in values:
        if not isinstance(item, str) or not is_clean(item):
            raise ValueError(f"'{key}', '{name}': expected a text without control characters, or a list of such")
    return tuple(values)


def _warn(path: str, key: str, attributes: Attributes) -> None:
    for name, values in attributes.items():
        if not name.startswith("uftpd."):
            continue
        kind = name.rpartition(".")[2]
        reason = "" if kind in _OVERRIDES else f"unknown setting, known are {', '.join(sorted(_OVERRIDES))}"
        if kind == "rateLimit" and values:
            try:
                parse_rate(values[-1])
            except ValueError as error:
                reason = str(error)
        if reason:
            event("map entry", level=logging.WARNING, file=path, entry=key, attribute=name, reason=reason)

"""Files about people: password file, SSH keys, map file (JSON, or the older XML)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal
from xml.parsers import expat

from uftp.protocol.dn import InvalidName, canonical
from uftpd.auth.identity.password_file import parse_password_file
from uftpd.auth.identity.ssh_keys import parse_key_file
from uftpd.config.patterns import compile_pattern
from uftpd.importer.notes import Notes, Place

Match = Literal["strict", "regexp"]
MapTable = dict[str, dict[str, list[str]]]

_MISTAKE = re.compile(r"line (\d+): (.*)", re.DOTALL)


def convert_passwords(file: Path, text: str, notes: Notes) -> bytes:
    """The password file: the format is the same. Lines that are none become comments; old hashes are named."""
    table = parse_password_file(text)
    weak = sorted(account.name for account in table.accounts.values() if account.salt is not None)
    if weak:
        notes.changed(
            Place(file),
            ", ".join(weak[:20]) + (" …" if len(weak) > 20 else ""),
            "kept with a salted MD5, from which a password is quickly guessed once the file gets out; have new lines "
            "made with: uftpd auth hash-password NAME DN",
        )
    return _without_mistakes(file, text, table.mistakes, "a person", notes)


def convert_ssh_keys(file: Path, text: str, notes: Notes) -> bytes:
    """The file of SSH keys: the format is the same. Lines that are none become comments."""
    return _without_mistakes(file, text, parse_key_file(text).mistakes, "a key", notes)


def _without_mistakes(file: Path, text: str, mistakes: Iterable[str], what: str, notes: Notes) -> bytes:
    lines = text.split("\n")
    for mistake in mistakes:
        found = _MISTAKE.fullmatch(mistake)
        number, reason = (int(found[1]), found[2]) if found else (0, mistake)
        notes.lost(Place(file, number), what, f"is left out: {reason}")
        if number:
            lines[number - 1] = f"# not understood: {lines[number - 1]}"
    return _ends_with_newline("\n".join(lines))


def _ends_with_newline(text: str) -> bytes:
    return (text if text.endswith("\n") or not text else f"{text}\n").encode("utf-8", "replace")


def convert_map(file: Path, text: str, match: Match, notes: Notes) -> bytes:
    """The map file as JSON. A JSON file is kept as it is, as far as it can be read."""
    if text.lstrip().startswith("<"):
        try:
            table = parse_map_xml(text)
        except ValueError as error:
            notes.lost(Place(file), "the map file", f"is no map file in XML: {error}; write it as JSON by hand")
            return b"{}\n"
        result = json.dumps(table, indent=2, ensure_ascii=False)
    else:
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as error:
            line = getattr(error, "lineno", 0)
            notes.lost(
                Place(file, line), "the map file", f"is not valid JSON, which upstream's reader forgives: {error}"
            )
            return _ends_with_newline(text)
        result = text
    if isinstance(table, dict):
        _check_keys(file, text, table, match, notes)
    return _ends_with_newline(result)


def _check_keys(file: Path, text: str, table: Mapping[str, object], match: Match, notes: Notes) -> None:
    for key in table:
        place = Place(file, _line_of(text, key))
        try:
            if match == "strict":
                canonical(key)
            else:
                compile_pattern(key, ignore_case=True)
        except InvalidName as error:
            notes.lost(place, "an entry", f"would be skipped, its key is no valid name: {error}")
        except ValueError as error:
            notes.lost(place, "an entry", f"its key is not understood: {error}")


def _line_of(text: str, key: str) -> int:
    at = text.find(json.dumps(key, ensure_ascii=False))
    return text.count("\n", 0, at) + 1 if at >= 0 else 0


def parse_map_xml(text: str) -> MapTable:
    """Read `<fileAttributeSource><entry key="DN"><attribute name="…"><value>…`.

    Of several entries with one key the last counts, of several attributes with one name likewise.

    Raises:
        ValueError: not such a file, with the line.
    """
    reader = _MapReader()
    try:
        reader.parser.Parse(text.encode("utf-8", "surrogatepass"), True)
    except expat.ExpatError as error:
        raise ValueError(f"line {error.lineno}: {expat.errors.messages[error.code]}") from None
    return reader.table


class _MapReader:
    """The nesting is fixed, so the depth tells what an element must be."""

    _ELEMENTS = ("fileAttributeSource", "entry", "attribute", "value")

    def __init__(self) -> None:
        self.table: MapTable = {}
        self._entry: dict[str, list[str]] = {}
        self._values: list[str] = []
        self._depth = 0
        self._text: list[str] = []
        self.parser = expat.ParserCreate("UTF-8")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    def _fail(self, reason: str) -> ValueError:
        return ValueError(f"line {self.parser.CurrentLineNumber}: {reason}")

    def _doctype(self, *_: object) -> None:
        raise self._fail("a document type, which a map file does not have")  # entities could grow without end

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._depth >= len(self._ELEMENTS) or name != self._ELEMENTS[self._depth]:
            raise self._fail(f"an element '{name[:40]}' does not belong here")
        self._depth += 1
        self._text = []
        if self._depth == 2:
            self._entry = self.table[self._required(attributes, "key")] = {}
        elif self._depth == 3:
            self._values = self._entry[self._required(attributes, "name")] = []

    def _required(self, attributes: dict[str, str], name: str) -> str:
        if not attributes.get(name, "").strip():
            raise self._fail(f"'{name}' is missing")
        return attributes[name].strip()

    def _end(self, _: str) -> None:
        if self._depth == 4:
            self._values.append("".join(self._text).strip())
        self._depth -= 1
        self._text = []

    def _characters(self, data: str) -> None:
        if self._depth < 4 and data.strip():
            raise self._fail("text does not belong here")
        self._text.append(data)

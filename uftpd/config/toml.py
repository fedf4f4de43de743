"""Reads a server's TOML file into a typed model: every mistake becomes one line that names file, place and remedy.

A model is a frozen `msgspec.Struct` with `forbid_unknown_fields=True, kw_only=True`; a mistyped key is an error, never
a setting that silently does nothing. Fields of the types below may be used beside msgspec's own:

    Path         a relative one is meant relative to the directory of the file; `~` is the home of the caller
    HostPort     "HOST:PORT", "[IPv6]:PORT"
    PortRange    "LOW:HIGH" or "PORT"

Whether the files a configuration names can be read is not checked here: `uftpd check-config` and the servers do that.
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")

MAX_CONFIG_BYTES = 1024 * 1024  # a configuration of thousands of nodes is far smaller; a device file is not

_PLACE = re.compile(r"^(?P<text>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)
_NOT_ALLOWED = re.compile(r"^Invalid enum value (?P<value>.*)$", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\.\.\.|\d+)\]")


class ConfigError(Exception):
    """A configuration that cannot be used. The message is one line for a person."""


class HostPort:
    """A host name or address with a port; IPv6 addresses stand in brackets in text."""

    __slots__ = ("host", "port")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Read `HOST:PORT` or `[IPv6]:PORT`.

        Raises:
            ValueError: says what is allowed.
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"'{text}': an IPv6 address needs brackets, as in \"[::1]:64434\"")
        if not colon or not host or not _is_port(port):
            raise ValueError(f"'{text}' is not HOST:PORT, as in \"127.0.0.1:64434\" (port 0 to 65535)")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"HostPort({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostPort) and (self.host, self.port) == (other.host, other.port)

    def __hash__(self) -> int:
        return hash((self.host, self.port))


class PortRange:
    """Ports from `low` to `high`, both included."""

    __slots__ = ("high", "low")

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high

    @classmethod
    def parse(cls, text: str) -> PortRange:
        """Read `LOW:HIGH` or `PORT`.

        Raises:
            ValueError: says what is allowed.
        """
        low, colon, high = text.partition(":")
        high = high if colon else low
        if not (_is_port(low) and _is_port(high) and 0 < int(low) <= int(high)):
            raise ValueError(f"'{text}' is not LOW:HIGH, as in \"7000:7010\" (ports 1 to 65535)")
        return cls(int(low), int(high))

    def __str__(self) -> str:
        return f"{self.low}:{self.high}"

    def __repr__(self) -> str:
        return f"PortRange({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PortRange) and (self.low, self.high) == (other.low, other.high)

    def __hash__(self) -> int:
        return hash((self.low, self.high))

    def __len__(self) -> int:
        return self.high - self.low + 1


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535


def read_table(path: Path) -> dict[str, Any]:
    """Parse a TOML file without checking it against a model.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, surely not a configuration file")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {_one_line(str(error) or 'nested too deeply')}") from None


def load(path: Path, model: type[T]) -> T:
    """Read the file at `path` as a `model`.

    Raises:
        ConfigError: one line: file, place such as `command_port.acl`, what is wrong, what is allowed.
    """
    return convert(read_table(path), model, path)


def convert(table: dict[str, Any], model: type[T], path: Path) -> T:
    """Check an already parsed table against a model; `path` names it in errors and anchors relative paths.

    Raises:
        ConfigError: as `load`.
    """
    base = path.absolute().parent

    def decode(wanted: type[Any], value: object) -> object:
        if wanted is Path and isinstance(value, str):
            if not value:
                raise ValueError("the path is empty")
            return base / Path(value).expanduser()
        if wanted in (HostPort, PortRange) and isinstance(value, str):
            return wanted.parse(value)
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")

    try:
        return msgspec.convert(table, model, dec_hook=decode)
    except (msgspec.ValidationError, RuntimeError) as error:
        match = _PLACE.match(str(error))
        text, place = (match["text"], match["path"] or "$") if match else (str(error), "$")

        def is_wrong(value: object, kind: Any) -> bool:
            try:
                msgspec.convert(value, kind, dec_hook=decode)
            except (msgspec.ValidationError, RuntimeError):
                return True
            return False

        shown = _with_names(place, table, model, is_wrong)
        raise ConfigError(f"{path}: {_explain(text, place, shown, model)}") from None


def _with_names(place: str, table: dict[str, Any], model: type[Any], is_wrong: Callable[[object, Any], bool]) -> str:
    """`place` with the names of tables where msgspec writes `[...]`: the first table that is wrong is meant."""
    shown, value, kind = "$", cast("Any", table), cast("Any", model)
    for step in _STEP.finditer(place):
        kind = _step(kind, step["name"])
        if step["index"] != "...":
            key = step["name"] or int(step["index"])
        elif isinstance(value, dict):
            key = next((key for key, item in value.items() if is_wrong(item, kind)), None)
        else:
            key = next((n for n, item in enumerate(value) if is_wrong(item, kind)), None)
        try:
            value = value[key]
        except (LookupError, TypeError):
            return place
        shown += f"[{key}]" if isinstance(key, int) else f".{key}"
    return shown


def _explain(text: str, place: str, shown: str, model: type[Any]) -> str:
    if found := _UNKNOWN.match(text):
        allowed = _settings(model, place)
        hint = f"; allowed here: {', '.join(allowed)}" if allowed else ""
        return _one_line(f"{_join(shown, found['name'])}: unknown setting{hint}")
    if found := _MISSING.match(text):
        return _one_line(f"{_join(shown, found['name'])}: required, but missing")
    if found := _NOT_ALLOWED.match(text):
        allowed = _values(model, place)
        hint = f", allowed are {', '.join(map(repr, allowed))}" if allowed else ""
        return _one_line(f"{_join(shown)}: {found['value']} is not allowed{hint}")
    text = text.replace("`", "").replace("Expected ", "expected ", 1)
    where = _join(shown)
    return _one_line(f"{where}: {text}" if where else text)


def _join(place: str, name: str = "") -> str:
    steps = [place.removeprefix("$").lstrip("."), name]
    return ".".join(step for step in steps if step)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _settings(model: type[Any], place: str) -> list[str]:
    """The settings of the part of `model` at msgspec's `place`, such as `$.nodes[...].host`; empty if unclear."""
    kind = _kind(model, place)
    return sorted(kind.__struct_encode_fields__) if hasattr(kind, "__struct_encode_fields__") else []


def _values(model: type[Any], place: str) -> list[Any]:
    """The values a setting with a fixed choice may have; empty if unclear."""
    kind = _kind(model, place)
    return list(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else []


def _kind(model: type[Any], place: str) -> Any:
    """The type of what is at msgspec's `place`, None if unclear."""
    kind: Any = model
    for step in _STEP.finditer(place):
        kind = _step(kind, step["name"])
        if kind is None:
            return None
    return kind


def _step(kind: Any, name: str | None) -> Any:
    if hasattr(kind, "__struct_fields__"):
        if name is None:
            return None
        return _plain(typing.get_type_hints(kind).get(name.replace("-", "_")))
    arguments = typing.get_args(kind)
    return (
        _plain(arguments[-1] if len(arguments) == 2 and arguments[-1] is not ... else arguments[0])
        if arguments
        else None
    )


def _plain(kind: Any) -> Any:
    """The struct or container inside `X | None`."""
    if typing.get_origin(kind) in (typing.Union, UnionType):
        others = [item for item in typing.get_args(kind) if item is not type(None)]
        return others[0] if len(others) == 1 else None
    return kind

"""The reader of configuration files: one line for every mistake, naming file, place and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftpd.config.toml import ConfigError, HostPort, PortRange, load


class _Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    command: HostPort
    ports: PortRange | None = None


class _Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    streams: Annotated[int, msgspec.Meta(ge=1)] = 1
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.streams == 13:
            raise ValueError("13 streams bring bad luck")


class _Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = "x"
    limits: _Limits = _Limits()
    nodes: dict[str, list[_Node]] = {}


def _load(directory: Path, text: str) -> _Model:
    path = directory / "test.toml"
    path.write_text(text)
    return load(path, _Model)


def test_values_are_typed(tmp_path: Path) -> None:
    model = _load(
        tmp_path,
        'name = "y"\n[limits]\nkey = "keys/a.pem"\n[[nodes.TEST]]\ncommand = "[::1]:64435"\nports = "7000:7010"\n',
    )
    assert model.limits.key == tmp_path / "keys/a.pem"
    assert model.nodes["TEST"] == [_Node(command=HostPort("::1", 64435), ports=PortRange(7000, 7010))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nmae = 1", "nmae: unknown setting; allowed here: limits, name, nodes"),
        ("[limits]\nstream = 1", "limits.stream: unknown setting; allowed here: key, streams"),
        ("[limits]\nstreams = 0", "limits.streams: expected int >= 1"),
        ("[limits]\nstreams = '4'", "limits.streams: expected int, got str"),
        ("[limits]\nstreams = 13", "limits: 13 streams bring bad luck"),
        ("[limits]\nkey = 5", "limits.key: expected str, got int"),
        ("[limits]\nkey = ''", "limits.key: the path is empty"),
        ("[[nodes.TEST]]", "nodes.TEST[0].command: required, but missing"),
        ("[[nodes.TEST]]\ncommand = 'a:1'\nx = 1", "nodes.TEST[0].x: unknown setting; allowed here: command, ports"),
        ("[[nodes.TEST]]\ncommand = 'a'", "nodes.TEST[0].command: 'a' is not HOST:PORT"),
        ("limits = 3", "limits: expected object, got int"),
        ("name = ", "not valid TOML: Invalid value"),
    ],
)
def test_mistakes_are_one_line_with_the_place(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/test.toml: {expected}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "none.toml", _Model)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load(tmp_path / "test.toml", _Model)


@given(st.text())
def test_host_port_raises_only_value_errors(text: str) -> None:
    for kind in (HostPort, PortRange):
        try:
            value = kind.parse(text)
        except ValueError:
            continue
        assert kind.parse(str(value)) == value


@pytest.mark.parametrize("text", ["", "x", ":1", "a:", "a:65536", "::1:5", "a:-1", "a:٣", "a:1_0"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets"):
        HostPort.parse(text)


@pytest.mark.parametrize("text", ["", "0", "5:4", "1:70000", "a:b", "1:2:3"])
def test_bad_port_ranges(text: str) -> None:
    with pytest.raises(ValueError, match="LOW:HIGH"):
        PortRange.parse(text)

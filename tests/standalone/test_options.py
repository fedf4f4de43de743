"""What `uftpd standalone` accepts, and what it says about the rest."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from uftpd.config.toml import ConfigError
from uftpd.standalone import options
from uftpd.standalone.options import Login, parse_mapping, parse_nodes, parse_peers, parse_user, read_password


class _Entry(NamedTuple):
    pw_name: str
    pw_uid: int


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretend to be a user of a machine with root, daemon and alice."""
    accounts = [_Entry("root", 0), _Entry("daemon", 1), _Entry("alice", 1001)]

    def pretend(uid: int) -> None:
        def by_name(name: str) -> _Entry:
            return {entry.pw_name: entry for entry in accounts}[name]

        def by_uid(number: int) -> _Entry:
            return {entry.pw_uid: entry for entry in accounts}[number]

        monkeypatch.setattr(os, "geteuid", lambda: uid)
        monkeypatch.setattr(pwd, "getpwnam", by_name)
        monkeypatch.setattr(pwd, "getpwuid", by_uid)

    return pretend


def test_users() -> None:
    assert parse_user("joe:a:b") == Login("joe", "a:b")
    for wrong in ("joe", "joe:", ":x", " joe:x", "#joe:x", "j\noe:x"):
        with pytest.raises(ConfigError, match="--user: "):
            parse_user(wrong)


def test_a_password_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("a b:c\r\nsecond line")
    assert read_password(parse_user(f"joe:@{path}")) == "a b:c"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="first line is empty"):
        read_password(parse_user(f"joe:@{path}"))
    with pytest.raises(ConfigError, match="No such file"):
        read_password(parse_user(f"joe:@{path}.none"))


def test_nodes() -> None:
    assert parse_nodes([]) == ("TEST",)
    assert parse_nodes(["A", "B.c"]) == ("A", "B.c")
    for wrong in (["A-B"], ["client"], ["A", "A"], [""], ["a/b"], [f"N{n}" for n in range(17)]):
        with pytest.raises(ConfigError, match="--node: "):
            parse_nodes(wrong)


def test_peers() -> None:
    assert parse_peers([]) == ()
    assert parse_peers(["b.example.org:2811", "[::1]:21", "10.3.0.0/16", "[::1]:21"]) == (
        "b.example.org:2811",
        "[::1]:21",
        "10.3.0.0/16",
    )
    for wrong in ("", ":21", "b.example.org:0", "b.example.org:ftp", "127.1:21", "10.3.0.1/16", "a b", "https://x"):
        with pytest.raises(ConfigError, match=r"--allow-peer: "):
            parse_peers([wrong])


def test_without_root_everybody_is_the_current_user(as_user: Callable[[int], None]) -> None:
    as_user(1001)
    assert parse_mapping([], []) == {"alice": "alice"}
    assert parse_mapping([], [Login("x", "p"), Login("y", "p")]) == {"x": "alice", "y": "alice"}
    assert parse_mapping(["x:alice"], []) == {"x": "alice"}
    with pytest.raises(ConfigError, match="without root everybody is 'alice'"):
        parse_mapping(["x:daemon"], [])


def test_as_root_it_must_be_said(as_user: Callable[[int], None]) -> None:
    as_user(0)
    assert parse_mapping(["x:alice"], [Login("x", "p")]) == {"x": "alice"}
    with pytest.raises(ConfigError, match="refusing to run as root without --map"):
        parse_mapping([], [])
    with pytest.raises(ConfigError, match="sessions never run as root"):
        parse_mapping(["x:root"], [])
    with pytest.raises(ConfigError, match="there is no local account 'bob'"):
        parse_mapping(["x:bob"], [])
    with pytest.raises(ConfigError, match="--user y: add --map y:UNIXUSER"):
        parse_mapping(["x:alice"], [Login("y", "p")])
    for wrong in ("x", "x:", ":alice"):
        with pytest.raises(ConfigError, match="--map: expected"):
            parse_mapping([wrong], [])


def test_the_default_state_directory(as_user: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert options.default_state() == Path("/x/uftpd")
    monkeypatch.delenv("XDG_STATE_HOME")
    as_user(0)
    assert options.default_state() == Path("/var/lib/uftpd")
    as_user(1001)
    monkeypatch.setenv("HOME", "/home/alice")
    assert options.default_state() == Path("/home/alice/.local/state/uftpd")

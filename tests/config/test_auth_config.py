"""The settings of an auth server: defaults, and mistakes named with their place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from uftpd.config.auth import AuthConfig, checked
from uftpd.config.shares import Shares
from uftpd.config.toml import ConfigError, HostPort, load

_GOOD = """
[server]
listen = ["127.0.0.1:9000"]
certificate = "auth.pem"
key = "auth.key"
[command_port]
ca = "ca.pem"
[nodes.TEST]
instances = [{host = "ftp.example.org", command = "ftp.example.org:64435"}]
"""


def _load(directory: Path, text: str) -> AuthConfig:
    path = directory / "auth.toml"
    path.write_text(text)
    return checked(load(path, AuthConfig), path)


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    config = _load(tmp_path, _GOOD)
    assert config.server.certificate == tmp_path / "auth.pem"
    assert config.nodes["TEST"].instances[0].command == HostPort("ftp.example.org", 64435)
    assert config.nodes["TEST"].description == "n/a"
    assert config.login.anonymous


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[nodes.TEST]", "[nodes.MY-TEST]", r"nodes\.MY-TEST: a server name"),
        ("[nodes.TEST]", "[nodes.client]", r"nodes\.client: a server name"),
        ('key = "auth.key"', "", r"server\.certificate, server\.key: required for HTTPS"),
        ('ca = "ca.pem"', "", r"command_port\.ca: required for TLS to node 'TEST'"),
        ('"127.0.0.1:9000"', "", "server: listen: at least one"),
        ('"ftp.example.org", ', '"a b", ', "host: one host name"),
        ("64435", '64435", plain=true, subject="', "only be on loopback"),
        ("64435", '64435", subject="joe', "subject: A name is a list"),
        ('key = "auth.key"', 'key = "k"\nexternal_url = "auth"', "server: external_url"),
        ('key = "auth.key"', 'key = "k"\ntrusted_proxies = ["x"]', "'x' is no address or network"),
        ('certificate = "auth.pem"', "plain_http = true\nlistne = 1", r"server\.listne: unknown setting"),
        ('listen = ["127.0.0.1:9000"]', "plain_http = true", "server.plain_http: without TLS"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in _GOOD
    with pytest.raises(ConfigError, match=expected):
        _load(tmp_path, _GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('servers = ["TEST", "GONE"]', "shares.servers: there is no server 'GONE'"),
        ('servers = []\ndirect = ["GONE"]', "shares.direct: there is no server 'GONE'"),
        ('client_address = ["myself"]', "'myself' is no address"),
        ("client_address = []", "at least one address"),
        ("max_lifetime_seconds = -1", "max_lifetime_seconds"),
        ("per_owner = 0", "per_owner"),
        ("anyone = true", "anyone"),
    ],
)
def test_what_is_wrong_with_shares_is_said(tmp_path: Path, lines: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        _shares(tmp_path, lines)


def test_what_can_be_shared(tmp_path: Path) -> None:
    off, every, one = _shares(tmp_path, ""), _shares(tmp_path, "servers = []"), _shares(tmp_path, 'servers = ["TEST"]')
    assert [found.covers("TEST") for found in (off, every, one)] == [False, True, True]
    assert [found.covers("OTHER") for found in (off, every, one)] == [False, True, False]
    assert (every.allow_write, every.anonymous, every.anonymous_by_path) == (False, True, False)
    assert [_shares(tmp_path, f"direct = {value}").redirects("TEST") for value in ("true", "false", '["TEST"]')] == [
        True,
        False,
        True,
    ]


def _shares(tmp_path: Path, lines: str) -> Shares:
    return _load(tmp_path, f"{_GOOD}[shares]\n{lines}").shares

"""Names for servers: the file they stand in, every mistake in it, and what is a name and what a local file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.client.endpoints import Endpoint, config_path, find_endpoint, load_endpoints, split_place
from uftp.client.url import is_url, parse_url
from uftp.errors import AuthenticationFailed, LocalFileError, NotFound, UsageError

FULL = """
[endpoints.juelich]
url = "https://uftp.example.org:9000/SITE/rest/auth/JUDAC"
user = "alice"
identity = "~/.ssh/id_ed25519"
audience = "CN=AUTH"
ca = "~/ca.pem"
group = "hpc1"
client = "192.0.2.1"
options = { SOME = "THING" }

[endpoints.juelich.oidc]
issuer = "https://idp.example.org/realms/campus"
client_id = "uftp-cli"
client_secret_file = "~/secret"
scopes = ["openid", "email"]
ca = "/idp.pem"

[endpoints.archive]
url = "ftp://joe@ftp.example.org:2121"

[endpoints.site]
url = "https://auth.example.org:9000/rest/auth"
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return str(path)


def test_a_whole_file(tmp_path: Path) -> None:
    known = load_endpoints(written(tmp_path, FULL))
    assert list(known) == ["juelich", "archive", "site"]
    juelich = known["juelich"]
    assert juelich.oidc is not None
    assert (juelich.oidc.scopes, juelich.options) == (("openid", "email"), {"SOME": "THING"})
    assert juelich.url_of("data/x *.nc") == "https://uftp.example.org:9000/SITE/rest/auth/JUDAC:data/x *.nc"
    assert juelich.url_of("") == "https://uftp.example.org:9000/SITE/rest/auth/JUDAC:"
    assert parse_url(known["archive"].url_of("data/x")).path == b"data/x"
    assert parse_url(known["archive"].url_of("/data/x")).path == b"/data/x"
    assert parse_url(known["archive"].url_of("")).path == b""
    assert parse_url(known["archive"].url_of("")).user == "joe"
    with pytest.raises(UsageError, match=r"names no server; `uftp info` lists them"):
        known["site"].url_of("data")
    assert known["site"].place.service == "https://auth.example.org:9000/rest/auth"


def test_no_file_is_no_endpoints(tmp_path: Path) -> None:
    assert load_endpoints(str(tmp_path / "none")) == {}
    with pytest.raises(LocalFileError, match="cannot read the configuration"):
        load_endpoints(str(tmp_path))


URL = 'url = "https://a.example.org/rest/auth/X"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\ny = = 1", "at line 2"),
        ("[endpoint.a]\n" + URL, "endpoint: only tables"),
        ("endpoints = 7", "only tables"),
        ("[endpoints.a]\nuser = 'x'", "endpoints.a: .*required field `url`"),
        ("[endpoints.a]\n" + URL + "uzer = 'x'", "endpoints.a: no such setting: uzer; did you mean user"),
        ("[endpoints.a]\n" + URL + "zzz = 'x'", "no such setting: zzz$"),
        ("[endpoints.a]\n" + URL + "user = 7", "endpoints.a.user: Expected `str"),
        ("[endpoints.a]\n" + URL + "user = ''", "endpoints.a.user"),
        ("[endpoints.a]\n" + URL + "options = { A = 1 }", "endpoints.a.options"),
        ("[endpoints.a]\n" + URL + "[endpoints.a.oidc]\nissuer='x'\nclientid='y'", "clientid; did you mean client_id"),
        ("[endpoints.a]\n" + URL + "identity = 'x'\noidc_agent = 'y'", "identity and oidc_agent are two ways"),
        ("[endpoints.a]\nurl = 'a.example.org'", "no URL"),
        ("[endpoints.a]\nurl = 'https://a.example.org/x'", "not the URL of an auth server"),
        ("[endpoints.a]\nurl = 'https://a.example.org/rest/auth/X:/data'", "has a path"),
        ("[endpoints.a]\nurl = 'ftp://a.example.org/data'", "has a path"),
        ("[endpoints.a]\nurl = 'ftp://me:secret@a.example.org'", "use password_file"),
        ("[endpoints.https]\n" + URL, "cannot be the name"),
        ("[endpoints.'a b']\n" + URL, "cannot be the name"),
        ("[endpoints.'']\n" + URL, "cannot be the name"),
        ("endpoints.a = 7", "Expected `object`"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=says) as caught:
        load_endpoints(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "secret" not in str(caught.value)
    Path(path).write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_endpoints(path)


def test_unknown_names(tmp_path: Path) -> None:
    path = written(tmp_path, FULL)
    assert isinstance(find_endpoint("site", path), Endpoint)
    with pytest.raises(NotFound, match=r"julich: no such endpoint; did you mean juelich.*; a local file .* \./julich:"):
        find_endpoint("julich", path)
    with pytest.raises(NotFound, match="has archive, juelich, site"):
        find_endpoint("zzz", path)
    with pytest.raises(NotFound, match="has none"):
        find_endpoint("zzz", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("juelich:data/", ("juelich", "data/")),
        ("juelich:", ("juelich", "")),
        ("a:b:c", ("a", "b:c")),
        ("a-1.x_y:/z", ("a-1.x_y", "/z")),
        ("a:x//y", ("a", "x//y")),
        ("a:x\n", ("a", "x\n")),
        ("./a:b", None),
        ("dir/a:b", None),
        ("/a:b", None),
        ("-a:b", None),
        (".a:b", None),
        (":b", None),
        ("-", None),
        ("a b:c", None),
        ("ä:b", None),
        ("plain", None),
        ("https://host/rest/auth/X:/p", None),
        ("ftp://host/p", None),
        ("a" * 65 + ":b", None),
    ],
)
def test_what_is_a_name(text: str, expected: tuple[str, str] | None) -> None:
    assert split_place(text) == expected


@given(st.text())
def test_no_text_is_both_a_url_and_a_name(text: str) -> None:
    found = split_place(text)
    assert found is None or not is_url(text)
    assert split_place(f"./{text}") is None
    if found is not None:
        assert f"{found[0]}:{found[1]}" == text


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert config_path({}) == "/home/me/.config/uftp/config.toml"
    assert config_path({"XDG_CONFIG_HOME": "/x"}) == "/x/uftp/config.toml"
    assert config_path({"XDG_CONFIG_HOME": "relative"}) == "/home/me/.config/uftp/config.toml"
    assert config_path({"XDG_CONFIG_HOME": "/x", "UFTP_CONFIG": "mine.toml"}) == "mine.toml"


async def test_the_library_logs_in_at_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import uftp

    for name in ("UFTP_USER", "UFTP_PASSWORD", "UFTP_TOKEN", "SSH_AUTH_SOCK", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pw").write_text("secret\n")
    path = written(tmp_path, "[endpoints.a]\n" + URL + 'user = "me"\npassword_file = "~/pw"\n[endpoints.b]\n' + URL)
    monkeypatch.setenv("UFTP_CONFIG", path)
    place = uftp.find_endpoint("a")
    assert uftp.endpoint_credential(place) == uftp.UsernamePassword("me", "secret")
    assert place.url_of("data/") == "https://a.example.org/rest/auth/X:data/"
    with pytest.raises(AuthenticationFailed, match="nothing to log in with"):
        uftp.endpoint_credential(uftp.find_endpoint("b"))

"""URLs as people type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.client.url import is_url, parse_url, session_directory
from uftp.errors import UsageError

SERVICE = "https://auth.example.org:9000/rest/auth/TEST"
paths = st.binary(max_size=40).filter(lambda path: b"\0" not in path)


@pytest.mark.parametrize(
    ("text", "service", "server", "path"),
    [
        (f"{SERVICE}:/work/data/x.nc", SERVICE, "TEST", b"/work/data/x.nc"),
        (f"{SERVICE}:work", SERVICE, "TEST", b"work"),
        (f"{SERVICE}:", SERVICE, "TEST", b""),
        (SERVICE, SERVICE, "TEST", b""),
        (f"{SERVICE}/:/a:b", SERVICE, "TEST", b"/a:b"),
        ("https://gw:8080/SITE/rest/auth/T:/x", "https://gw:8080/SITE/rest/auth/T", "T", b"/x"),
        (f"{SERVICE}:/a b?c#d", SERVICE, "TEST", b"/a b?c#d"),
        (f"{SERVICE}:/a%20b%ZZ%", SERVICE, "TEST", b"/a b%ZZ%"),
        (f"{SERVICE}:/\udcff", SERVICE, "TEST", b"/\xff"),
    ],
)
def test_https(text: str, service: str, server: str, path: bytes) -> None:
    url = parse_url(text)
    assert (url.kind, url.service, url.server, url.path) == ("auth", service, server, path)


def test_shares_and_the_information_address() -> None:
    url = parse_url("https://host/site/rest/access/TEST:/work/x")
    assert (url.kind, url.info_url) == ("access", "https://host/site/rest/auth")
    assert session_directory([url]) == b"/work/x"
    assert parse_url("https://host/rest/auth", need_server=False).info_url == "https://host/rest/auth"


@pytest.mark.parametrize(
    ("text", "user", "password", "host", "port", "path"),
    [
        ("ftp://host/a", None, None, "host", 21, b"/a"),
        ("ftp://me:p%40ss@host:2121/~/a", "me", "p@ss", "host", 2121, b"a"),
        ("ftp://me@[::1]:2121", "me", None, "::1", 2121, b""),
    ],
)
def test_ftp(text: str, user: str | None, password: str | None, host: str, port: int, path: bytes) -> None:
    url = parse_url(text)
    assert (url.user, url.password, url.host, url.port, url.path) == (user, password, host, port, path)
    if password:
        assert password not in repr(url)
        assert password not in url.display()


@pytest.mark.parametrize(
    "text",
    [
        "", "/local", "http", "https://", "https://host", "https://host/rest/auth", "https://host/rest/share/X:/a",
        "https://u:p@host/rest/auth/X:/a", "ftp://host:0/x", "ftp://host:99999/x", "ftp:///x", "gopher://host/x",
    ],
)  # fmt: skip
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_url(text)
    assert "\n" not in str(caught.value)
    assert "u:p" not in str(caught.value)


def test_wildcards_stand_for_themselves_when_encoded() -> None:
    assert parse_url(f"{SERVICE}:/a/*.nc").pattern == b"/a/*.nc"
    assert parse_url(f"{SERVICE}:/a/%2A.nc").pattern is None
    assert parse_url(f"{SERVICE}:/%5Ba%2A/?").pattern == b"/[[]a[*]/?"


@pytest.mark.parametrize(
    ("texts", "directory"),
    [
        (["/work/data/x"], b"/work/data/"),
        (["/work/data/"], b"/work/data/"),
        (["/work/data/x", "/work/data/y"], b"/work/data/"),
        (["/work/dat/x", "/work/data/y"], b"/work/"),
        (["/work/*/x"], b"/work/"),
        (["/work/x*"], b"/work/"),
        (["/a/*", "/a/b/c"], b"/a/"),
        (["x"], b""),
        (["a/b/x"], b""),
        (["a/b/*"], b""),
        (["a/b/"], b""),
        (["a/x", "/b/x"], b""),
        ([""], b""),
        (["/"], b"/"),
    ],
)
def test_the_directory_a_session_is_asked_for(texts: list[str], directory: bytes) -> None:
    assert session_directory([parse_url(f"{SERVICE}:{text}") for text in texts]) == directory


@given(paths)
def test_what_is_shown_can_be_typed_again(path: bytes) -> None:
    for text in (SERVICE + ":", "ftp://host/"):
        url = parse_url(text).with_path(path)
        again = parse_url(url.display())
        assert (again.path, again.pattern) == (path, None)
        url.display().encode()  # no surrogates
        assert url.display().isprintable()


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_usage_error(text: str) -> None:
    try:
        parse_url(text)
    except UsageError:
        pass
    else:
        assert is_url(text)


@given(st.lists(paths.filter(bool), min_size=1, max_size=4))
def test_a_session_directory_holds_all_it_is_for(found: list[bytes]) -> None:
    urls = [parse_url(SERVICE).with_path(path) for path in found]
    directory = session_directory(urls)
    assert all(path.startswith(directory) for path in found)
    assert directory == b"" or directory.endswith(b"/")

"""Places of transfers, and bodies of requests: what is read, and what is refused in which words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.errors import NotFound
from uftp.protocol.facts import FileInfo
from uftpd.auth.errors import BadRequest
from uftpd.auth.transfers.endings import ForGood
from uftpd.auth.transfers.model import Side, TransferOptions
from uftpd.auth.transfers.placement import place
from uftpd.auth.transfers.places import parse_place
from uftpd.auth.transfers.requests import Submission, parse_steering, parse_submission

OWN = {"https://auth.example:9000", "https://Gate.example:443/site/"}
SECRET = "s3cr3t-w0rd"


@pytest.mark.parametrize(
    ("text", "kind", "end", "path", "pattern"),
    [
        ("A:/x", "server", "A", b"/x", None),
        ("A.b_1:x/y", "server", "A.b_1", b"x/y", None),
        ("A:", "server", "A", b"", None),
        ("A:/ü%FF?%2A", "server", "A", b"/\xc3\xbc\xff?*", b"/\xc3\xbc\xff?[*]"),
        ("https://b.example/rest/auth/B:/in/", "auth", "https://b.example/rest/auth/B", b"/in/", None),
        ("https://B.Example:443/rest/auth/B:/in/", "auth", "https://b.example/rest/auth/B", b"/in/", None),
        ("https://b.example:9000/s/rest/auth/B:*", "auth", "https://b.example:9000/s/rest/auth/B", b"*", b"*"),
        ("https://AUTH.example:9000/rest/auth/A:/x:y", "server", "A", b"/x:y", None),
        ("https://gate.example/site/rest/auth/A:x", "server", "A", b"x", None),
        ("https://gate.example/rest/auth/A:x", "auth", "https://gate.example/rest/auth/A", b"x", None),
        ("https://b.example/rest/access/B/Abc", "web", "https://b.example", b"", None),
        ("https://auth.example:9000/rest/access/A/Abc", "web", "https://auth.example:9000", b"", None),
        ("https://[2001:DB8::1]:8443/x?y#z", "web", "https://[2001:db8::1]:8443", b"", None),
        ("HTTPS://x.example/data.tar", "web", "https://x.example", b"", None),
    ],
)
def test_places(text: str, kind: str, end: str, path: bytes, pattern: bytes | None) -> None:
    found = parse_place(text, "source", OWN)
    assert (found.kind, found.end, found.path, found.pattern) == (kind, end, path, pattern)
    assert found.text == (text if kind != "server" or not text.startswith("https") else f"A:{path.decode()}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected NAME:/path"),
        ("/data/x", "expected NAME:/path"),
        ("A/B:/x", "expected NAME:/path"),
        ("A-1:/x", "expected NAME:/path"),
        ("http://x.example/y", "only https"),
        ("ftp://x.example/y", "only https"),
        ("file:///etc/passwd", "only https"),
        ("https://", "expected an https URL"),
        ("https://x.example:99999/", "not a URL"),
        ("https://[::1/x", "not a URL"),
        (f"https://me:{SECRET}@x.example/y", "user and password"),
        (f"https://me:{SECRET}@x.example/rest/auth/A:/y", "user and password"),
        ("https://x.example/a b", "no blanks"),
        ("https://b.example/rest/auth/B", "no path"),
        ("A:" + "x" * 9000, "at most 8192"),
    ],
)
def test_what_is_no_place(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=f"source: .*{says}") as caught:
        parse_place(text, "source", OWN)
    assert SECRET not in str(caught.value)


@given(st.text(max_size=80) | st.text(alphabet="https://[]@:%.*?#aB1", max_size=40).map("https://".__add__))
def test_any_text_is_a_place_or_refused(text: str) -> None:
    try:
        found = parse_place(text, "source", OWN)
    except BadRequest:
        return
    assert found.kind in ("server", "auth", "web")
    assert bool(found.host) == (found.kind != "server")


def parsed(**fields: Any) -> Submission:
    body = {"sources": ["A:/x"], "target": "B:/y"} | fields
    return parse_submission(json.dumps({key: value for key, value in body.items() if value != "-"}).encode(), OWN)


def test_a_submission() -> None:
    found = parsed(
        sources=["A:/x", "A:y*"],
        target="https://b.example/rest/auth/B:/in/",
        options={
            "recursive": True,
            "verify": "false",
            "limitRate": "2k",
            "sessions": 4,
            "retries": 0,
            "preserve": None,
        },
        credentials={"target": {"token": SECRET}, "source": None},
        name="nightly",
        callback="https://x.example/hook?id=1",
    )
    assert [source.path for source in found.sources] == [b"/x", b"y*"]
    assert found.options == TransferOptions(recursive=True, verify=False, rate_limit=2048, sessions=4, attempts=1)
    assert found.credentials[Side.TARGET].token == SECRET
    assert list(found.credentials) == [Side.TARGET]
    assert (found.name, found.callback) == ("nightly", "https://x.example/hook?id=1")
    assert SECRET not in repr(found)
    assert parsed().options == TransferOptions()


def test_credentials_are_not_in_the_digest() -> None:
    """Whoever has the store must not be able to try passwords with it."""
    target = "https://b.example/rest/auth/B:/in/"
    one, two = (parsed(target=target, credentials={"target": {"token": token}}) for token in ("a", "b"))
    assert one.digest == two.digest != parsed(target=target, name="x").digest


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"sources": "-"}, "sources: required"),
        ({"sources": []}, "sources: required"),
        ({"sources": "A:/x"}, "sources: required"),
        ({"sources": ["A:/x", 7]}, "sources: required"),
        ({"sources": ["A:/x"] * 501}, "sources: at most 500"),
        ({"sources": ["A:/x\n"]}, "sources: control characters"),
        ({"sources": ["A:/x", "B:/x"]}, "sources: all on one server"),
        ({"sources": ["A:/x", "https://x.example/y"]}, "sources: .*do not go together"),
        ({"target": "-"}, "target: required"),
        ({"target": ["B:/x"]}, "target: required"),
        ({"target": "https://x.example/y"}, "target: a URL cannot be written"),
        ({"target": "https://x.example/rest/access/A/Abc"}, "target: a share link"),
        (
            {"sources": ["https://b.example/rest/auth/B:/x"], "target": "https://c.example/rest/auth/C:/x"},
            "one side must be",
        ),
        ({"sources": ["https://x.example/y"], "target": "https://c.example/rest/auth/C:/x"}, "URLs are fetched by"),
        ({"source": ["A:/x"]}, "source: no such field"),
        ({"options": []}, "options: expected an object"),
        ({"options": {"recursiv": True}}, r"options\.recursiv: no such field"),
        ({"options": {"recursive": 1}}, "recursive: expected true or false"),
        ({"options": {"limitRate": "fast"}}, r"options\.limitRate"),
        ({"options": {"sessions": 65}}, r"options\.sessions"),
        ({"options": {"retries": -1}}, r"options\.retries"),
        ({"credentials": [SECRET]}, "credentials: expected an object"),
        ({"credentials": {"middle": {"token": SECRET}}}, r"credentials\.middle: no such field"),
        ({"credentials": {"target": {"tokens": SECRET}}}, r"credentials\.target"),
        ({"credentials": {"target": SECRET}}, r"credentials\.target: expected an object"),
        ({"name": "x" * 201}, "name: at most 200"),
        ({"callback": "http://x.example/"}, "callback: expected an https URL"),
        ({"callback": f"https://me:{SECRET}@x.example/"}, "callback: user and password"),
        ({"callback": "https://x.example/" + "x" * 2048}, "callback: at most 2048"),
    ],
)
def test_what_is_wrong_about_a_submission(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        parsed(**fields)
    assert SECRET not in str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), st.lists, max_leaves=4), st.data())
def test_any_field_may_hold_anything(value: object, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(["sources", "target", "options", "credentials", "name", "callback"]))
    inner = data.draw(st.sampled_from(["", "source", "retries", "token", "sessions"]))
    with suppress(BadRequest):
        parsed(**{field: {inner: value} if inner else value})


def test_steering() -> None:
    assert parse_steering(b"") == {}
    assert parse_steering(b"{}") == {}
    found = parse_steering(json.dumps({"credentials": {"source": {"token": SECRET}}}).encode())
    assert found[Side.SOURCE].token == SECRET
    for body in (b"[]", b'{"state": "queued"}', b'{"credentials": {"source": {}}}'):
        with pytest.raises(BadRequest):
            parse_steering(body)


LINK = "https://b.example/rest/access/B/Abc"


@pytest.mark.parametrize(
    "sources",
    [
        ["A:/x/f", "A:/y/f"],
        ["A:/x/f", "A:y/%66"],
        ["A:/x/f", "A:/z", "A:/x/f"],
        ["A:/x/", "A:/y/"],
        ["A:/x/f", "A:/y/"],
        ["A:", "A:/y"],
        ["A:/x/.", "A:/y"],
        ["https://x.example/1/data.zip?a", "https://x.example/2/data.zip?b"],
    ],
)
def test_sources_that_would_be_written_over_each_other(sources: list[str]) -> None:
    with pytest.raises(BadRequest, match=r"sources: .*submit a transfer for each"):
        parsed(sources=sources, target="B:/in/")


@pytest.mark.parametrize(
    "sources",
    [["A:/x/f", "A:/y/g"], ["A:/x/*", "A:/y/*"], ["A:/x/f*", "A:/y/f"], [LINK, "https://x.example/2/data.zip"]],
)
def test_sources_that_may_have_names_of_their_own(sources: list[str]) -> None:
    assert len(parsed(sources=sources, target="B:/in/").sources) == len(sources)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("/x", "/x/y/"),
        ("/x/", "/x/y"),
        ("/x", "/x"),
        ("/x/.//z/", "/x/z//y"),
        ("x", "x/y"),
        ("", "y"),
        ("/", "/y"),
        ("/x/*", "/x/y/z"),
        ("/x?/b", "/xy/b/c"),
        ("https", "/x/y"),
    ],
)
def test_nothing_is_copied_into_itself(source: str, target: str) -> None:
    named = "https://auth.example:9000/rest/auth/A:/x" if source == "https" else f"A:{source}"
    body: dict[str, Any] = {"sources": ["A:/other", named], "target": f"A:{target}"}
    if source in ("", "/", "/x/", "/x/.//z/"):
        body["sources"] = [named]
    with pytest.raises(BadRequest, match=r"target: .*inside of it"):
        parsed(**body, options={"recursive": True})
    parsed(**body)  # without directories it ends


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("A:/x", "A:/xy"),
        ("A:/x/y", "A:/x"),
        ("A:/x", "A:x/y"),
        ("A:/x", "B:/x/y"),
        ("A:/x/*", "A:/x/.y/z"),
        ("A:/x/*", "A:/x"),
        ("A:/x/y*", "A:/x/z/"),
        ("https://x.example/a", "A:/a"),
    ],
)
def test_beside_itself_is_another_place(source: str, target: str) -> None:
    assert parsed(sources=[source], target=target, options={"recursive": True}).options.recursive


class _Listed:
    """A side whose directories hold files of these names."""

    def __init__(self, **directories: list[str]) -> None:
        self._directories = directories

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[_Listed]:
        yield self

    async def listdir(self, path: bytes) -> list[FileInfo]:
        if path.decode().strip("/") not in self._directories:
            raise NotFound("no such directory")
        names = self._directories[path.decode().strip("/")]
        return [FileInfo(name=name.encode(), size=1, mtime_ns=0) for name in names]

    async def stat_or_none(self, path: bytes) -> FileInfo | None:
        return None


@pytest.mark.parametrize(
    ("sources", "twice"),
    [
        (["A:/x/*", "A:/y/*"], "b"),
        (["A:/x/b*", "A:/z/b"], "b"),
        (["A:/x/a*", "A:/y/c*"], ""),
        (["A:/x/a", "A:/y/*"], ""),
        (["A:/x/*", "A:/none/*"], ""),
    ],
)
async def test_names_that_wildcards_match_are_looked_at(sources: list[str], twice: str) -> None:
    side: Any = _Listed(x=["a", "b"], y=["b", "c"])
    made = parsed(sources=sources, target="B:/in/")
    transfer: Any = SimpleNamespace(sources=made.sources, target=made.target, options=made.options)
    if not twice:
        assert (await place(transfer, side, side)).target == b"/in/"
        return
    with pytest.raises(ForGood, match=f"called '{twice}'"):
        await place(transfer, side, side)

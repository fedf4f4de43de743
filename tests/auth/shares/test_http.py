"""GET, HEAD and PUT of shares, case by case, as curl sees them."""

from __future__ import annotations

import email.utils
import os
import re
import urllib.parse
from pathlib import Path

import pytest
from delivering import Delivering, Reply
from uftp_site import Site

CONTENT = bytes(range(256)) * 40  # 10,240 bytes: small
LARGE = os.urandom(300_000) + b"end"


def _share_a_file(kind: str, delivering: Delivering) -> tuple[str, bytes]:
    content = CONTENT if kind == "small" else LARGE
    path = delivering.file(delivering.directory() / "data.bin", content)
    os.utime(path, ns=(1_700_000_000_123_456_789,) * 2)
    return delivering.share(path), content


@pytest.fixture(scope="module", params=["small", "large"])
def shared(
    request: pytest.FixtureRequest, sharing_site: Site, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, bytes]:
    """A file of either kind: one that is fetched in one go, and one that comes in blocks."""
    return _share_a_file(request.param, Delivering(sharing_site, tmp_path_factory.mktemp("shared")))


@pytest.fixture(params=["small", "large"])
def fresh(request: pytest.FixtureRequest, delivering: Delivering) -> tuple[str, bytes]:
    """The same, not used yet."""
    return _share_a_file(request.param, delivering)


def test_a_file_is_its_bytes_and_what_is_known_of_them(delivering: Delivering, shared: tuple[str, bytes]) -> None:
    url, content = shared
    reply = delivering.curl(url)
    assert (reply.status, reply.body) == (200, content)
    assert reply.headers["content-length"] == str(len(content))
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"] == 'attachment; filename="data.bin"'
    assert reply.headers["last-modified"] == email.utils.formatdate(1_700_000_000, usegmt=True)
    assert reply.headers["accept-ranges"] == "bytes"
    assert re.fullmatch(r'"[0-9a-f]{24}"', reply.headers["etag"])
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"].startswith("sandbox;")
    assert reply.headers["cache-control"] == "private, no-cache"


def test_head_is_get_without_the_bytes(delivering: Delivering, shared: tuple[str, bytes]) -> None:
    url, _ = shared
    head, get = delivering.curl("-I", url), delivering.curl(url)
    varying = ("date", "x-request-id")
    assert head.status == 200
    assert {k: v for k, v in head.headers.items() if k not in varying} == {
        k: v for k, v in get.headers.items() if k not in varying
    }


RANGES = [
    ("0-0", 0, 1),
    ("0-99", 0, 100),
    ("5000-", 5000, None),
    ("-1", -1, None),
    ("-500", -500, None),
    ("9999-99999999", 9999, None),
    ("-99999999", 0, None),
]


@pytest.mark.parametrize(("wanted", "first", "end"), RANGES)
def test_a_part(delivering: Delivering, shared: tuple[str, bytes], wanted: str, first: int, end: int | None) -> None:
    url, content = shared
    reply = delivering.curl("-H", f"Range: bytes={wanted}", url)
    assert (reply.status, reply.body) == (206, content[first:end])
    start = first % len(content)
    assert reply.headers["content-range"] == f"bytes {start}-{start + len(reply.body) - 1}/{len(content)}"
    assert reply.headers["content-length"] == str(len(reply.body))


@pytest.mark.parametrize("wanted", ["bytes=a-b", "bytes=", "bytes=5-2", "lines=1-2", "bytes=-", "bytes", "bytes=1-2;3"])
def test_a_range_that_is_none_is_passed_over(delivering: Delivering, shared: tuple[str, bytes], wanted: str) -> None:
    url, content = shared
    reply = delivering.curl("-H", f"Range: {wanted}", url)
    assert (reply.status, reply.body) == (200, content)


def test_a_part_that_does_not_exist(delivering: Delivering, shared: tuple[str, bytes]) -> None:
    url, content = shared
    reply = delivering.curl("-H", "Range: bytes=99999999-", url)
    assert reply.status == 416
    assert reply.headers["content-range"] == f"bytes */{len(content)}"


def test_several_parts(delivering: Delivering, shared: tuple[str, bytes]) -> None:
    url, content = shared
    reply = delivering.curl("-H", "Range: bytes=0-9,1000-1999,-7", url)
    assert reply.status == 206
    assert reply.headers["content-length"] == str(len(reply.body))
    kind, _, boundary = reply.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = reply.body.split(f"\r\n--{boundary}".encode())
    assert (parts[0], parts[-1]) == (b"", b"--\r\n")
    size = len(content)
    expected = [(0, 10), (1000, 2000), (size - 7, size)]
    for part, (first, end) in zip(parts[1:-1], expected, strict=True):
        head, _, body = part.partition(b"\r\n\r\n")
        assert f"Content-Range: bytes {first}-{end - 1}/{size}".encode() in head
        assert body == content[first:end]


def test_more_bytes_than_there_are_cannot_be_had_with_many_ranges(
    delivering: Delivering, shared: tuple[str, bytes]
) -> None:
    url, content = shared
    reply = delivering.curl("-H", "Range: bytes=" + ",".join(["0-9000"] * 40), url)
    assert len(reply.body) <= len(content) + 200
    assert reply.status in (200, 206)


def _condition(reply: Reply, name: str, kind: str) -> str:
    value = {"same": reply.headers["etag"], "other": '"other"', "star": "*"}.get(kind, "")
    if name.endswith("Since"):
        offset = {"then": 0, "before": -60, "after": 60}[kind]
        value = email.utils.formatdate(1_700_000_000 + offset, usegmt=True)
    return f"{name}: {value}"


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("If-None-Match", "same", 304),
        ("If-None-Match", "other", 200),
        ("If-None-Match", "star", 304),
        ("If-Match", "same", 200),
        ("If-Match", "other", 412),
        ("If-Match", "star", 200),
        ("If-Modified-Since", "then", 304),
        ("If-Modified-Since", "after", 304),
        ("If-Modified-Since", "before", 200),
        ("If-Unmodified-Since", "then", 200),
        ("If-Unmodified-Since", "before", 412),
    ],
)
def test_conditions(delivering: Delivering, shared: tuple[str, bytes], name: str, kind: str, status: int) -> None:
    url, content = shared
    first = delivering.curl("-I", url)
    reply = delivering.curl("-H", _condition(first, name, kind), url)
    assert reply.status == status
    if status == 200:
        assert reply.body == content
    if status == 304:
        assert (reply.body, reply.headers["etag"]) == (b"", first.headers["etag"])


@pytest.mark.parametrize(("kind", "status"), [("same", 206), ("other", 200), ("date", 206), ("old date", 200)])
def test_a_part_of_the_version_that_the_client_has(
    delivering: Delivering, shared: tuple[str, bytes], kind: str, status: int
) -> None:
    url, content = shared
    first = delivering.curl("-I", url)
    value = {
        "same": first.headers["etag"],
        "other": '"other"',
        "date": first.headers["last-modified"],
        "old date": email.utils.formatdate(1_600_000_000, usegmt=True),
    }[kind]
    reply = delivering.curl("-H", f"If-Range: {value}", "-H", "Range: bytes=10-19", url)
    assert (reply.status, reply.body) == ((206, content[10:20]) if status == 206 else (200, content))


def test_another_content_has_another_tag(delivering: Delivering) -> None:
    path = delivering.file(delivering.directory() / "f", b"one")
    url = delivering.share(path)
    os.utime(path, ns=(1_700_000_000_000_000_001,) * 2)
    first = delivering.curl(url)
    path.write_bytes(b"two")
    os.utime(path, ns=(1_700_000_000_000_000_002,) * 2)
    second = delivering.curl("-H", f"If-None-Match: {first.headers['etag']}", url)
    assert (second.status, second.body) == (200, b"two")
    assert second.headers["etag"] != first.headers["etag"]


def test_every_size(delivering: Delivering) -> None:
    top = delivering.directory()
    url = delivering.share(top)
    for size in (0, 1, 131071, 131072, 131073, 1024 * 1024, 5_000_001):
        content = os.urandom(size)
        delivering.file(top / f"f{size}", content)
        for _ in range(2):  # what was learnt of it the first time changes nothing
            reply = delivering.curl(f"{url}/f{size}")
            assert (reply.status, reply.headers["content-length"]) == (200, str(size))
            assert reply.body == content


# -- names --------------------------------------------------------------------------------------------------------

NAMES = [
    b"plain.txt",
    b"with blank and 'quotes\".txt",
    b"back\\slash",
    b"percent%41%2F.txt",
    "umlaut äöü.txt".encode(),
    "emoji \N{PARTY POPPER}.txt".encode(),
    b"latin-1 \xe4\xf6.txt",
    b"line\r\nX-Injected: yes",
    b"tab\tand;semi=colon",
    b"<script>alert(1)<b>.txt",
    b"..hidden",
    b"-dash",
    b"#?&+ ",
    "\N{RIGHT-TO-LEFT OVERRIDE}exe.txt".encode(),
    b"x" * 255,
]


def test_any_name(delivering: Delivering) -> None:
    top = delivering.directory()
    for name in NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(top), name))).write_bytes(b"content of " + name)
    url = delivering.share(top)
    listed = delivering.curl(f"{url}/?format=json").json()["entries"]
    found = {entry["href"].rpartition("/")[2]: entry for entry in listed}
    assert sorted(found) == sorted(urllib.parse.quote_from_bytes(name, safe="") for name in NAMES)
    for name in NAMES:
        reply = delivering.curl(delivering.root + found[urllib.parse.quote_from_bytes(name, safe="")]["href"])
        assert (reply.status, reply.body) == (200, b"content of " + name), name
        assert "x-injected" not in reply.headers
        shown = reply.headers["content-disposition"]
        assert all(" " <= c <= "~" for c in shown)
        if not name.isascii() and _is_utf8(name):
            assert urllib.parse.unquote(shown.partition("filename*=UTF-8''")[2]) == _printable(name)
    page = delivering.curl("-H", "Accept: text/html", f"{url}/")
    assert page.status == 200
    assert b"<script>alert" not in page.body


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _printable(name: bytes) -> str:
    return "".join(c if c.isprintable() or c == " " else "_" for c in name.decode())


# -- what is not there, or not to be had ---------------------------------------------------------------------------

OUTSIDE = [
    "/../secret",
    "/%2e%2e/secret",
    "/%2e%2e%2fsecret",
    "/..%2fsecret",
    "/sub/../../secret",
    "/sub/%2e%2e/%2e%2e/secret",
    "/..%5csecret",
    "/%252e%252e/secret",
    "/..%00/secret",
    "/sub%00/../../secret",
    "//../secret",
    "/./../secret",
    "/%c0%ae%c0%ae/secret",
    "/..;/secret",
    "/sub/..%2f..%2fsecret",
    "/link/secret",
    "/filelink",
    "/sub/deep",
]


def test_no_way_leads_out(delivering: Delivering) -> None:
    above = delivering.directory()
    delivering.file(above / "secret", b"the secret")
    top = delivering.file(above / "top" / "sub" / "inside", b"inside").parent.parent
    (top / "link").symlink_to("..")
    (top / "filelink").symlink_to("../secret")
    (top / "sub" / "deep").symlink_to(above / "secret")
    url = delivering.share(top)
    assert delivering.curl(f"{url}/sub/inside").body == b"inside"
    for way in OUTSIDE:
        for arguments in ([], ["-I"]):
            reply = delivering.curl(*arguments, url + way)
            assert reply.status in (400, 404), way
            assert b"the secret" not in reply.body, way


def test_links_beneath_are_followed_and_others_not_shown(delivering: Delivering) -> None:
    top = delivering.directory()
    delivering.file(top / "real", b"content")
    (top / "inside").symlink_to("real")
    (top / "outside").symlink_to("/etc/hostname")
    url = delivering.share(top)
    assert delivering.curl(f"{url}/inside").body == b"content"
    names = {entry["name"] for entry in delivering.curl(f"{url}?format=json").json()["entries"]}
    assert names == {"real", "inside"}


def test_a_file_share_is_that_file_alone(delivering: Delivering) -> None:
    top = delivering.directory()
    url = delivering.share(delivering.file(top / "mine", b"mine"))
    delivering.file(top / "other", b"other")
    for way in ("/other", "/../other", "/mine", "/mine/other", "/%2e%2e/other"):
        reply = delivering.curl(url + way)
        assert reply.status == 404, way
        assert reply.body != b"other"
    assert delivering.curl(url + "/").status == 200
    (top / "mine").unlink()
    assert delivering.curl(url).status == 404
    (top / "mine").symlink_to("other")
    assert delivering.curl(url).status in (403, 404)


def test_a_share_is_of_the_kind_it_was_made_for(delivering: Delivering) -> None:
    top = delivering.directory()
    path = delivering.file(top / "thing", b"file")
    url = delivering.share(path)
    path.unlink()
    delivering.file(top / "thing" / "inside", b"not shared")
    assert delivering.curl(url).status == 404
    assert delivering.curl(f"{url}/inside").status == 404
    assert delivering.curl(f"{url}?format=zip").status == 404


def test_what_is_no_file_is_not_delivered(delivering: Delivering) -> None:
    top = delivering.directory()
    os.mkfifo(top / "pipe")
    url = delivering.share(top)
    assert delivering.curl(f"{url}/pipe").status in (403, 404)
    assert delivering.curl(f"{url}/missing").status == 404


def test_ids_that_are_none(delivering: Delivering) -> None:
    url = delivering.share(delivering.file(delivering.directory() / "f", b"f"))
    root, _, share_id = url.rpartition("/")
    for guess in (share_id[:-1], share_id + "x", share_id.swapcase(), "x", "%00", "..", "a" * 200):
        assert delivering.curl(f"{root}/{guess}").status == 404
    assert delivering.curl(url.replace("/TEST/", "/OTHER/")).status == 404


def test_slashes_of_legacy_listings(delivering: Delivering) -> None:
    top = delivering.directory()
    delivering.file(top / "a" / "b", b"content")
    url = delivering.share(top)
    for way in ("//a//b", "///a/b", "/a//./b", "/a/x/../b"):
        assert delivering.curl(url + way).body == b"content", way


# -- pages, JSON, checksums ----------------------------------------------------------------------------------------

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def test_a_browser_gets_a_page_and_then_the_bytes(delivering: Delivering, fresh: tuple[str, bytes]) -> None:
    url, content = fresh
    page = delivering.curl("-H", BROWSER, url)
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert b"?download=1" in page.body
    assert delivering.count(url) == 0
    for address in (f"{url}?download=1", url):
        parts = ("-H", BROWSER, "-H", "Range: bytes=1-2")
        assert delivering.curl(*parts, address).body == content[1:3]
    assert delivering.curl("-H", BROWSER, f"{url}?download=1").body == content
    assert delivering.count(url) == 3


def test_what_would_run_in_a_browser_is_only_saved(delivering: Delivering) -> None:
    top = delivering.directory()
    url = delivering.share(top)
    for name, kind in (
        ("x.html", "text/html; charset=utf-8"),
        ("x.svg", "image/svg+xml"),
        ("x.pdf", "application/pdf"),
    ):
        delivering.file(top / name, b"<script>alert(1)</script>")
        reply = delivering.curl("-H", BROWSER, f"{url}/{name}?view=1")
        assert reply.headers["content-type"] == kind
        assert reply.headers["content-disposition"].startswith("attachment")
        assert "sandbox" in reply.headers["content-security-policy"]
    delivering.file(top / "x.png", b"x")
    assert delivering.curl(f"{url}/x.png?view=1").headers["content-disposition"].startswith("inline")
    assert delivering.curl(f"{url}/x.png").headers["content-disposition"].startswith("attachment")


def test_a_directory_for_people_and_for_programs(delivering: Delivering) -> None:
    top = delivering.directory()
    delivering.file(top / "sub" / "inner", b"12345")
    delivering.file(top / "README.md", b"# Hello from the README\n")
    url = delivering.share(top)
    page = delivering.curl("-H", BROWSER, url)
    assert page.headers["content-type"].startswith("text/html")
    assert b"Hello from the README" in page.body
    for arguments in (["-H", "Accept: application/json", url], [f"{url}?format=json"]):
        listed = delivering.curl(*arguments).json()
        assert listed["complete"] is True
        entries = {entry["name"]: entry for entry in listed["entries"]}
        assert entries["sub"]["directory"] is True
        assert entries["README.md"]["size"] == 24
    inner = delivering.curl(delivering.root + entries["sub"]["href"] + "?format=json").json()
    assert inner["path"] == "sub/"
    assert delivering.curl(delivering.root + inner["entries"][0]["href"]).body == b"12345"
    assert delivering.curl(f"{url}?format=rar").status == 400
    assert delivering.count(url) == 1


def test_checksums(delivering: Delivering, shared: tuple[str, bytes]) -> None:
    import hashlib

    url, content = shared
    expected = hashlib.sha256(content).hexdigest()
    assert delivering.curl(f"{url}?checksum=sha256").body == f"{expected}  data.bin\n".encode()
    found = delivering.curl("-H", "Accept: application/json", f"{url}?checksum=SHA256").json()
    assert found["checksum"] == expected
    assert expected.encode() in delivering.curl("-H", BROWSER, f"{url}?checksum=sha256").body
    assert delivering.curl(f"{url}?checksum=crc7").status == 400


# -- people and passwords ------------------------------------------------------------------------------------------


def test_a_share_for_one_person(delivering: Delivering) -> None:
    names = list(delivering.site.people)
    path = delivering.file(delivering.directory() / "f", b"f")
    me = f"{names[0]}:{delivering.site.password(names[0])}"
    dn = delivering.curl("-u", me, f"{delivering.root}/rest/auth").json()["client"]["dn"]
    url = delivering.share(path, user=dn)
    assert delivering.curl(url).status == 401
    assert delivering.curl("-u", me, url).body == b"f"
    assert delivering.curl("-u", f"{names[0]}:wrong", url).status == 403
    asked = delivering.curl("-H", BROWSER, url)
    assert asked.status == 401
    assert asked.headers["www-authenticate"].startswith("Basic")
    if len(names) > 1:
        assert delivering.curl("-u", f"{names[1]}:{delivering.site.password(names[1])}", url).status == 401


def test_a_share_with_a_password(delivering: Delivering) -> None:
    top = delivering.directory()
    delivering.file(top / "sub" / "f", b"f")
    url = delivering.share(top, password="open sésame")
    assert delivering.curl(f"{url}/sub/f").status == 401
    assert delivering.curl(f"{url}/sub/f").headers["www-authenticate"].startswith("Basic")
    assert delivering.curl("-u", ":open sésame", f"{url}/sub/f").body == b"f"
    assert delivering.curl("-u", "anybody:open sésame", f"{url}/sub/f").body == b"f"
    assert delivering.curl("-u", ":wrong", f"{url}/sub/f").status == 401
    page = delivering.curl("-H", BROWSER, f"{url}/sub/f")
    assert page.status == 401
    assert "www-authenticate" not in page.headers
    jar = str(delivering.work / "jar")
    to = urllib.parse.urlsplit(url).path + "/sub/f"
    form = ("--data-urlencode", "password=open sésame", "--data-urlencode", f"to={to}")
    action = re.search(rb'action="([^"]+)"', page.body)
    assert action is not None
    given = delivering.curl("-c", jar, *form, delivering.root + action[1].decode())
    assert (given.status, given.headers["location"]) == (303, to)
    cookie = given.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=lax", "secure", "max-age="))
    assert delivering.curl("-b", jar, f"{url}/sub/f").body == b"f"
    wrong = delivering.curl("--data-urlencode", "password=wrong", "-H", BROWSER, delivering.root + action[1].decode())
    assert wrong.status == 401
    away = ("--data-urlencode", "password=open sésame", "--data-urlencode", "to=//evil.example/")
    assert delivering.curl(*away, f"{url}/x").headers["location"] == urllib.parse.urlsplit(url).path + "/"
    other = delivering.share(delivering.file(top / "g", b"g"), password="open sésame")
    assert delivering.curl("-b", jar, other).status == 401


# -- methods -------------------------------------------------------------------------------------------------------


def test_methods_that_there_are_not(delivering: Delivering, shared: tuple[str, bytes]) -> None:
    url, _ = shared
    for method in ("DELETE", "PATCH", "PROPFIND"):
        assert delivering.curl("-X", method, url).status == 405


def test_uses_are_counted_and_looks_are_not(delivering: Delivering, fresh: tuple[str, bytes]) -> None:
    url, _ = fresh
    delivering.curl("-I", url)
    delivering.curl("-H", BROWSER, url)
    delivering.curl(f"{url}?checksum=md5")
    assert delivering.count(url) == 0
    for expected in (1, 2, 3):
        delivering.curl(url)
        assert delivering.count(url) == expected

"""Heads of requests to the object server, and what its answers are made of."""

from __future__ import annotations

import os

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uftp.protocol.http_ranges import Representation
from uftpd.session.object_answer import Answer, ServedFile, answer, content_disposition, media_type, representation
from uftpd.session.object_request import MAX_HEAD_BYTES, BadRequest, HeadReader, ObjectRequest, parse_head

HOST = b"Host: h\r\n"


def parsed(target: str = "/o/secret", *lines: str, method: str = "GET", version: str = "1.1") -> ObjectRequest:
    head = "\r\n".join([f"{method} {target} HTTP/{version}", "Host: h", *lines, "", ""])
    return parse_head(head.encode("latin-1"))


def refusal(head: bytes) -> int:
    """The status a head is refused with, by whichever part; 0 if it is taken."""
    reader = HeadReader(head)
    try:
        whole = reader.next_head()
        assert whole is not None, "waits for more"
        parse_head(whole)
    except BadRequest as error:
        return error.status
    return 0


@pytest.mark.parametrize(
    ("target", "secret", "below"),
    [
        ("/o/abc", "abc", ()),
        ("/o/abc/", "abc", ()),
        ("/o/abc/name.txt", "abc", (b"name.txt",)),
        ("/o/abc/a%20b/%ff", "abc", (b"a b", b"\xff")),
        ("/o/a%62c/x?download=1#y", "abc", (b"x",)),
        ("http://other.example.org:80/o/abc/x", "abc", (b"x",)),
        ("HTTPS://h/o/abc", "abc", ()),
        ("/o/abc/../x", "abc", None),
        ("/o/abc/%2e%2e/x", "abc", None),
        ("/o/abc/%2E%2e%2Fx", "abc", None),
        ("/o/abc/a%2fb", "abc", None),
        ("/o/abc/./x", "abc", None),
        ("/o/abc//x", "abc", None),
        ("/o/abc/x%00", "abc", None),
        ("/o/../o/abc", "..", (b"o", b"abc")),
        ("//o/abc", "", None),
        ("/O/abc", "", None),
        ("/", "", None),
        ("*", "", None),
        ("o/abc", "", None),
        ("/o", "", None),
        ("file:///o/abc", "", None),
    ],
)
def test_targets(target: str, secret: str, below: tuple[bytes, ...] | None) -> None:
    request = parsed(target)
    assert (request.secret, request.below) == (secret, below)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"\r\n", 0),
        (b"HEAD /o/a HTTP/1.1\r\n" + HOST + b"\r\n", 0),
        (b"\r\nGET /o/a HTTP/1.1\r\n" + HOST + b"\r\n", 0),
        (b"GET /o/a HTTP/1.0\r\n\r\n", 0),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", 0),
        (b"GET /o/a HTTP/1.1\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET /o/a HTTP/1.1\n" + HOST + b"\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"X: a\nY: b\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"X: a\rY: b\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b" folded\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b": a\r\n\r\n", 400),
        (b"GET  /o/a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /o/a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /o/\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"get /o/a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /o/a\r\n" + HOST + b"\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /o/a HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"GET /o/a HTTP/0.9\r\n" + HOST + b"\r\n", 505),
        (b"POST /o/a HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"CONNECT h:80 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"Content-Length: +0\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n", 400),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 100 + b"\r\n", 431),
        (b"GET /o/a HTTP/1.1\r\n" + HOST + b"X: " + b"y" * MAX_HEAD_BYTES, 431),
        (b"GET /" + b"y" * MAX_HEAD_BYTES, 431),
    ],
)
def test_heads(head: bytes, status: int) -> None:
    assert refusal(head) == status


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        ("1.1", None, True),
        ("1.1", "close", False),
        ("1.1", "Keep-Alive, Close", False),
        ("1.0", None, False),
        ("1.0", "keep-alive", True),
    ],
)
def test_whether_the_connection_goes_on(version: str, connection: str | None, keeps: bool) -> None:
    lines = [f"Connection: {connection}"] if connection else []
    assert parsed("/o/a", *lines, version=version).keep_alive is keeps


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_heads_are_found_however_they_are_cut(cuts: list[int]) -> None:
    heads = [b"GET /o/a%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(3)]
    data = b"".join(heads) + b"GET"
    reader = HeadReader()
    found, place = [], 0
    for cut in (*cuts, len(data)):
        reader.receive_data(data[place : place + cut])
        place += cut
        while (head := reader.next_head()) is not None:
            found.append(head)
    assert found == heads
    assert reader.rest == b"GET"


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([b"GET ", b"/o/a", b" HTTP/1.1", b"\r\n", b"\n", b"\r", b"A: b", b":"])).map(b"".join)
)
@example(b"\r\n\r\n\r\n\r\n")
def test_junk_is_refused_and_nothing_else_happens(junk: bytes) -> None:
    try:
        head = HeadReader(junk).next_head()
        if head is not None:
            parse_head(head)
    except BadRequest as error:
        status = error.status
    else:
        status = 400
    assert 400 <= status < 506


TOKEN = st.text(alphabet="abcXYZ019-_.!~", min_size=1, max_size=12)
VALUE = st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=30)


@given(TOKEN, st.dictionaries(TOKEN.map(lambda name: "x-" + name), VALUE.map(str.strip), max_size=5))
def test_what_is_taken_another_parser_understands_the_same_way(secret: str, headers: dict[str, str]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"GET /o/{secret} HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode("latin-1")
    ours = parse_head(head)
    other = h11.Connection(h11.SERVER)
    other.receive_data(head)
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert event.target == f"/o/{ours.secret}".encode()
    theirs: dict[str, str] = {}
    for name, value in event.headers:
        key = name.decode().lower()
        theirs[key] = f"{theirs[key]}, {value.decode('latin-1')}" if key in theirs else value.decode("latin-1")
    assert ours.headers == theirs
    assert isinstance(other.next_event(), h11.EndOfMessage)


# -- answers ------------------------------------------------------------------------------------------------------

THERE = Representation(size=100, mtime=1_700_000_000, etag='"tag"')
FILE = ServedFile.at(b"/x/data.csv")
CONTENT = bytes(range(100))


def body(reply: Answer) -> bytes:
    """What goes out, head included."""
    return (
        b"".join(piece.before + CONTENT[piece.offset : piece.offset + piece.length] for piece in reply.pieces)
        + reply.after
    )


def understood(reply: Answer, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """The answer as another program reads it, which must find it whole."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(body(reply))
    response = client.next_event()
    assert isinstance(response, h11.Response)
    data = b""
    while isinstance(event := client.next_event(), h11.Data):
        data += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data == (b"", False), "more was sent than announced"
    return response.status_code, {n.decode(): v.decode("latin-1") for n, v in response.headers}, data


def test_a_whole_file() -> None:
    reply = answer(parsed(), FILE, THERE, 1_700_000_100, keep_alive=True)
    status, headers, data = understood(reply)
    assert (status, data, reply.length) == (200, CONTENT, 100)
    assert headers["content-type"] == "text/csv"
    assert headers["etag"] == '"tag"'
    assert headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert headers["accept-ranges"] == "bytes"
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert headers["cache-control"] == "private"
    assert headers["content-disposition"].startswith("attachment;")


def test_a_head_tells_the_same_without_the_content() -> None:
    get = answer(parsed(), FILE, THERE, 1_700_000_100, keep_alive=True)
    head = answer(parsed(method="HEAD"), FILE, THERE, 1_700_000_100, keep_alive=True)
    assert understood(head, "HEAD") == (*understood(get)[:2], b"")
    assert head.length == 0


def test_one_range() -> None:
    status, headers, data = understood(answer(parsed("/o/a", "Range: bytes=-10"), FILE, THERE, 0, keep_alive=False))
    assert (status, data, headers["content-range"]) == (206, CONTENT[90:], "bytes 90-99/100")
    assert headers["connection"] == "close"


def test_several_ranges() -> None:
    reply = answer(parsed("/o/a", "Range: bytes=0-1,50-51,-1"), FILE, THERE, 0, keep_alive=True)
    status, headers, data = understood(reply)
    assert status == 206
    kind, _, boundary = headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = data.split(b"\r\n--" + boundary.encode())
    assert parts[0] == b""
    assert parts[-1] == b"--\r\n"
    shown = [part.partition(b"\r\n\r\n") for part in parts[1:-1]]
    assert [content for _, _, content in shown] == [CONTENT[:2], CONTENT[50:52], CONTENT[99:]]
    assert b"Content-Range: bytes 50-51/100" in shown[1][0]


@pytest.mark.parametrize(("line", "status"), [('If-None-Match: "tag"', 304), ('If-Match: "x"', 412)])
def test_conditions_send_nothing_of_the_file(line: str, status: int) -> None:
    got, headers, data = understood(answer(parsed("/o/a", line), FILE, THERE, 0, keep_alive=True))
    assert (got, data) == (status, b"")
    assert headers["etag"] == '"tag"'


def test_a_range_that_is_not_there() -> None:
    status, headers, data = understood(answer(parsed("/o/a", "Range: bytes=100-"), FILE, THERE, 0, keep_alive=True))
    assert (status, headers["content-range"], data) == (416, "bytes */100", b"")


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name and b"/" not in name))
@example(b'a"; filename="b')
@example(b"a\r\nSet-Cookie: x=y")
@example("größe ☃.txt".encode())
@example(b"\xff\xfe.bin")
@example(b"100%.txt")
def test_any_file_name_is_one_line_of_the_head(name: bytes) -> None:
    reply = answer(parsed(), ServedFile.at(b"/" + name), THERE, 0, keep_alive=True)
    _, headers, _ = understood(reply)
    assert set(headers) == set(understood(answer(parsed(), FILE, THERE, 0, keep_alive=True))[1])
    shown = headers["content-disposition"]
    assert shown.isascii()
    assert shown.count('"') == 2, "the quoted form ends where it should"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a b.txt", "attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b.txt"),
        ("grün.txt".encode(), "attachment; filename=\"gr_n.txt\"; filename*=UTF-8''gr%C3%BCn.txt"),
    ],
)
def test_what_a_file_is_stored_as(name: bytes, shown: str) -> None:
    assert content_disposition(name) == shown


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"a.txt", "text/plain"),
        (b"a.html", "text/html"),
        (b"a.tar.gz", "application/gzip"),
        (b"a", "application/octet-stream"),
        (b"\xff.unknown", "application/octet-stream"),
    ],
)
def test_types_by_name(name: bytes, kind: str) -> None:
    assert media_type(name) == kind


def test_a_tag_is_of_one_content_of_one_file(tmp_path: os.PathLike[str]) -> None:
    one, two = os.path.join(tmp_path, "one"), os.path.join(tmp_path, "two")
    tags = set()
    for path, text, time in ((one, "a", 1), (one, "b", 2), (one, "bc", 2), (two, "bc", 2)):
        with open(path, "w") as file:
            file.write(text)
        os.utime(path, ns=(time, time))
        tags.add(representation(os.stat(path)).etag)
    assert len(tags) == 4
    assert representation(os.stat(two)).etag in tags

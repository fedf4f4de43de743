"""What a server fetches from https URLs and links of shares: by ranges, verified, kept, and from nowhere else."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
import trustme

from uftp.errors import NetworkError, NotFound, PeerBrokeProtocol, Refused, TransferFailed, UFTPError, UsageError
from uftp.transfer.options import ByteRange, CopyOptions
from uftp.transfer.results import CopyState, CopySummary, FileResult
from uftp.transfer.server_copy import run_fetch

MIB = 1024 * 1024
SECONDS = 120
LARGE = os.urandom(MIB) * 33  # above what is fetched by several connections
DIGEST = base64.b64encode(hashlib.sha256(LARGE).digest()).decode()


@dataclass
class Web:
    """An HTTPS server that does what a test tells it.

    Attributes:
        files: by path.
        ranges, etag, chunked: how it serves them.
        headers: that every file comes with.
        cut: so many answers break off in the middle.
        busy: so many requests are answered 503.
        redirects: where a path leads.
        asked: path and Range header of each request.
        gate: set when answers may go beyond their first MiB.
        stopped: set when one of them waits there.
    """

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: str = '"v1"'
    chunked: bool = False
    no_end: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    busy: int = 0
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    lock: threading.Lock = field(default_factory=threading.Lock)
    largest: int = 0

    def url(self, path: str, host: str = "web.invalid") -> str:
        return f"https://{host}:{self.port}{path}"

    async def admit(self, url: str) -> tuple[str, ...]:
        host = urlsplit(url).hostname
        if host != "web.invalid":
            raise Refused(f"{host}: not allowed here")
        return ("127.0.0.1",)

    def take(self, name: str) -> bool:
        """Use up one of what is counted."""
        with self.lock:
            left = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return bool(left > 0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        web, path = self.web, urlsplit(self.path).path
        wanted = self.headers.get("Range", "")
        with web.lock:
            web.asked.append((self.path, wanted))
        if web.take("busy"):
            self.say(503, {}, b"")
        elif path in web.redirects:
            self.say(302, {"Location": web.redirects[path]}, b"")
        elif path not in web.files:
            self.say(404, {}, b"")
        else:
            self.file(web.files[path], wanted)

    def file(self, content: bytes, wanted: str) -> None:
        web = self.web
        headers = dict(web.headers)
        if web.etag:
            headers["ETag"] = web.etag
        if self.headers.get("If-Match", web.etag) != web.etag:
            self.say(412, {}, b"")
            return
        match = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", wanted)
        status, size = 200, len(content)
        if web.ranges and match:
            begin, end = int(match[1]), min(int(match[2] or size - 1), size - 1)
            if begin >= size:
                self.say(416, {"Content-Range": f"bytes */{size}"}, b"")
                return
            if web.largest:
                end = min(end, begin + web.largest - 1)
            headers["Content-Range"] = f"bytes {begin}-{end}/{size}"
            content, status = content[begin : end + 1], 206
        self.say(status, headers, content, cut=bool(content) and web.take("cut"))

    def say(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.web.chunked and content:
            self.send_header("Transfer-Encoding", "chunked")
        elif self.web.no_end and content:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.body(content[: len(content) // 2] if cut else content, cut=cut)
        if cut or self.web.no_end:
            self.close_connection = True

    def body(self, content: bytes, *, cut: bool) -> None:
        for place in range(0, len(content), MIB):
            if place and not self.web.gate.is_set():
                self.web.stopped.set()
                self.web.gate.wait(SECONDS)
            block = content[place : place + MIB]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if self.web.chunked else block)
        if self.web.chunked and not cut:
            self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients go away in the middle


@pytest.fixture
def web() -> Iterator[Web]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("web.invalid").configure_cert(context)
    served = Web()
    served.gate.set()
    authority.configure_trust(served.tls)
    handler = type("Handler", (Handler,), {"web": served})
    with Server(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        served.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield served
        finally:
            served.gate.set()
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


def run(
    web: Web,
    path: str,
    local: Path | str | bytes,
    *,
    exact: bool = True,
    options: CopyOptions | None = None,
    state: CopyState | None = None,
    **more: Any,
) -> CopySummary:
    url = path if "://" in path else web.url(path)
    options = options or CopyOptions(retries=2)

    async def main() -> CopySummary:
        with trio.fail_after(SECONDS):
            return await run_fetch(
                url, os.fsencode(local), exact, options, state or CopyState(), web.admit, tls=web.tls, **more
            )

    return trio.run(main)


def fails(kind: type[UFTPError], match: str, web: Web, path: str, local: Path | str, **more: Any) -> None:
    """Raised, or the failure of the one file."""
    with pytest.raises(kind, match=match):
        run(web, path, local, **more).raise_for_failures()


def named(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -- one file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"ranges": False},
        {"etag": ""},
        {"etag": 'W/"weak"'},
        {"ranges": False, "chunked": True},
        {"largest": 1000, "etag": ""},
    ],
    ids=str,
)
def test_a_file(web: Web, here: Path, content: bytes, how: dict[str, Any]) -> None:
    web.files["/f"] = content
    for name, value in how.items():
        setattr(web, name, value)
    summary = run(web, "/f", here / "target")
    summary.raise_for_failures()
    assert (summary.files, summary.failed, summary.bytes, summary.unverified) == (1, 0, len(content), 1)
    assert (here / "target").read_bytes() == content
    assert named(here) == ["target"]
    if not how and content is LARGE:
        assert len({wanted for _, wanted in web.asked}) > 1, "one connection only"


@pytest.mark.parametrize(
    ("headers", "ranges"),
    [({"Repr-Digest": f"sha-256=:{DIGEST}:"}, True), ({"Digest": f"SHA-256={DIGEST}"}, False)],
    ids=["ranges", "whole"],
)
def test_the_digest_that_the_server_names_is_compared(
    web: Web, here: Path, headers: dict[str, str], ranges: bool
) -> None:
    web.files["/f"], web.headers, web.ranges = LARGE, headers, ranges
    summary = run(web, "/f", here / "target")
    summary.raise_for_failures()
    assert summary.unverified == 0
    web.files["/f"] = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    web.etag = '"v2"'
    (here / "target").write_bytes(b"old")
    web.asked.clear()
    fails(TransferFailed, "does not agree", web, "/f", here / "target")
    assert (here / "target").read_bytes() == b"old"
    assert named(here) == ["target"]
    assert sum(wanted in ("", "bytes=0-") for _, wanted in web.asked) == 3, "not tried again"
    summary = run(web, "/f", here / "target", options=CopyOptions(verify=False))
    summary.raise_for_failures()
    assert (here / "target").read_bytes() == web.files["/f"]


def test_what_is_replaced_keeps_its_mode_and_the_time_is_kept_if_wanted(web: Web, here: Path) -> None:
    web.files["/f"] = b"new"
    web.headers = {"Last-Modified": "Wed, 03 Feb 2021 04:05:06 GMT"}
    (here / "target").write_bytes(b"old")
    (here / "target").chmod(0o640)
    for ranges in (True, False):
        web.ranges = ranges
        run(web, "/f", here / "target", options=CopyOptions(preserve=True)).raise_for_failures()
        assert (here / "target").stat().st_mode & 0o777 == 0o640
        assert (here / "target").stat().st_mtime == 1612325106
    run(web, "/f", here / "new").raise_for_failures()
    assert (here / "new").stat().st_mtime != 1612325106


@pytest.mark.parametrize("ranges", [True, False])
def test_what_breaks_is_tried_again(web: Web, here: Path, ranges: bool) -> None:
    web.files["/f"], web.cut, web.busy, web.ranges = LARGE, 2, 1, ranges
    summary = run(web, "/f", here / "target")
    summary.raise_for_failures()
    assert (here / "target").read_bytes() == LARGE
    assert summary.bytes == len(LARGE)


def test_what_breaks_again_and_again_fails_and_leaves_nothing(web: Web, here: Path) -> None:
    web.files["/f"], web.cut, web.ranges = b"12345678", 99, False
    fails(NetworkError, "ended before", web, "/f", here / "target")
    web.chunked = True
    fails(NetworkError, "ended before", web, "/f", here / "target")
    web.chunked, web.cut, web.busy = False, 0, 99
    fails(NetworkError, "503", web, "/f", here / "target")
    web.busy, web.no_end = 0, True
    fails(TransferFailed, "where the file ends", web, "/f", here / "target")
    fails(NotFound, "404|No such|no reason", web, "/missing", here / "target")
    assert named(here) == []


def test_an_end_that_is_not_said_is_believed_with_a_digest(web: Web, here: Path) -> None:
    web.files["/f"], web.ranges, web.no_end = LARGE, False, True
    web.headers = {"Repr-Digest": f"sha-256=:{DIGEST}:"}
    run(web, "/f", here / "target").raise_for_failures()
    assert (here / "target").read_bytes() == LARGE


# -- going on, and leaving nothing ----------------------------------------------------------------------------------


def cancelled(web: Web, path: str, local: Path, **more: Any) -> CopyState:
    """Fetch until the server waits in the middle, and something is there; then cancel."""
    web.gate.clear()
    web.stopped.clear()
    state = CopyState()

    async def main() -> None:
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:

                async def work() -> None:
                    options = CopyOptions(threads=1)
                    await run_fetch(
                        web.url(path), os.fsencode(local), True, options, state, web.admit, tls=web.tls, **more
                    )
                    raise AssertionError("it ended")

                nursery.start_soon(work)
                while not (web.stopped.is_set() and state.moved):  # noqa: ASYNC110 -- totals tell nobody
                    await trio.sleep(0.02)
                nursery.cancel_scope.cancel()

    trio.run(main)
    web.gate.set()
    return state


@pytest.mark.parametrize("resume", [True, False], ids=["resume", "no-resume"])
@pytest.mark.parametrize("keep", [True, False], ids=["keep", "drop"])
def test_an_interrupted_fetch_leaves_what_it_is_told_to(
    web: Web, here: Path, tmp_path: Path, resume: bool, keep: bool
) -> None:
    web.files["/f"] = LARGE
    cancelled(web, "/f?secret=1", here / "target", resume=resume, keep=lambda: keep)
    assert len(named(here)) == (1 if resume and keep else 0)
    assert not (here / "target").exists()
    notes = list((tmp_path / "state").rglob("*.json"))
    assert len(notes) == (1 if resume and keep else 0)
    assert all("secret" not in f"{note} {note.read_text()}" for note in notes)
    web.asked.clear()
    summary = run(web, "/f?secret=1", here / "target", resume=resume)
    summary.raise_for_failures()
    assert (here / "target").read_bytes() == LARGE
    assert named(here) == ["target"]
    assert (summary.taken_over > 0) == (resume and keep)
    assert (web.asked[0][1] != "bytes=0-") == (resume and keep)
    assert not list((tmp_path / "state").rglob("*.json"))


def test_another_version_is_begun_anew(web: Web, here: Path) -> None:
    web.files["/f"] = LARGE
    cancelled(web, "/f", here / "target", resume=True)
    web.files["/f"], web.etag = LARGE[::-1], '"v2"'
    run(web, "/f", here / "target", resume=True).raise_for_failures()
    assert (here / "target").read_bytes() == LARGE[::-1]
    assert named(here) == ["target"]


def test_two_that_fetch_the_same_do_not_disturb_each_other(web: Web, here: Path) -> None:
    web.files["/f"] = LARGE
    web.gate.clear()

    async def main() -> None:
        async def one() -> None:
            summary = await run_fetch(
                web.url("/f"),
                os.fsencode(here / "target"),
                True,
                CopyOptions(threads=1),
                CopyState(),
                web.admit,
                tls=web.tls,
                resume=True,
            )
            summary.raise_for_failures()
            assert (here / "target").read_bytes() == LARGE

        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one)
                while not web.stopped.is_set():  # noqa: ASYNC110 -- set by a thread
                    await trio.sleep(0.02)
                nursery.start_soon(one)
                while len(named(here)) < 2:  # noqa: ASYNC110 -- each has a file of its own
                    await trio.sleep(0.02)
                web.gate.set()

    trio.run(main)
    assert named(here) == ["target"]


# -- where to -------------------------------------------------------------------------------------------------------


def test_into_a_directory_by_the_name_that_it_has(web: Web, here: Path) -> None:
    web.files = {"/a/data%20x.nc": b"1", "/get": b"2", "/": b"3"}
    run(web, "/a/data%20x.nc?sig=secret", here, exact=False).raise_for_failures()
    run(web, "/a/data%20x.nc", f"{here}/new/", exact=False).raise_for_failures()
    web.headers = {"Content-Disposition": 'attachment; filename="../../evil.sh"'}
    run(web, "/get", here, exact=False).raise_for_failures()
    web.headers = {}
    run(web, "/get", here / "other", exact=False).raise_for_failures()
    fails(UsageError, "names the file", web, "/", here, exact=False)
    assert named(here) == ["data x.nc", "evil.sh", "new", "other"]
    assert named(here / "new") == ["data x.nc"]
    fails(UFTPError, "regular file", web, "/get", here)
    fails(UFTPError, "cannot write there", web, "/get", here / "missing" / "x")


def test_a_name_in_an_open_directory(web: Web, here: Path, tmp_path: Path) -> None:
    web.files["/f"] = LARGE
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (here / "link").symlink_to(outside)
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    results: list[FileResult] = []
    try:
        for name in (b"new", b"link"):
            state = CopyState(on_result=results.append)
            local = b"/proc/self/fd/%d/%b" % (fd, name)
            run(web, "/f", local, local_name=b"/data/" + name, state=state).raise_for_failures()
    finally:
        os.close(fd)
    assert (here / "new").read_bytes() == (here / "link").read_bytes() == LARGE
    assert outside.read_bytes() == b"precious"
    assert [result.target for result in results] == ["/data/new", "/data/link"]


# -- from where -----------------------------------------------------------------------------------------------------


def test_redirects_are_vetted_one_by_one(web: Web, here: Path) -> None:
    web.files["/f"] = b"x"
    web.redirects = {
        "/good": "/f",
        "/elsewhere": web.url("/f", "10.0.0.1"),
        "/plain": f"http://web.invalid:{web.port}/f",
        "/circle": "/circle",
        "/login": web.url("/f").replace("//", "//user:pass@"),
    }
    run(web, "/good", here / "good").raise_for_failures()
    fails(Refused, "not allowed", web, "/elsewhere", here / "x")
    fails(UsageError, "https", web, "/plain", here / "x")
    fails(NetworkError, "again and again", web, "/circle", here / "x")
    fails(UsageError, "password", web, "/login", here / "x")
    fails(Refused, "not allowed", web, web.url("/f", "localhost"), here / "x")
    fails(UsageError, "not an https URL", web, f"http://web.invalid:{web.port}/f", here / "x")
    fails(UsageError, "password", web, web.url("/f").replace("//", "//user:pass@"), here / "x")
    assert named(here) == ["good"]


def test_what_makes_no_sense(web: Web, here: Path) -> None:
    web.files["/f"] = b"x"
    options = CopyOptions(byte_range=ByteRange(0, 1, in_place=True))
    fails(UsageError, "not a part", web, "/f", here / "x", options=options)
    assert web.asked == []


def test_secrets_of_a_url_are_not_told(web: Web, here: Path) -> None:
    web.files["/f"] = b"x"
    results: list[FileResult] = []
    notes: list[str] = []
    state = CopyState(on_result=results.append, on_note=notes.append)
    run(web, "/f?token=SECRET", here / "x", state=state)
    web.cut = 99
    run(web, "/f?token=SECRET", here / "x", state=state)
    run(web, "/missing?token=SECRET", here / "x", state=state)
    assert state.files_failed == 2
    assert "SECRET" not in f"{results} {notes}"
    assert "/f" in results[0].source


@pytest.mark.parametrize("wrong", ["start", "total", "etag"])
def test_ranges_that_are_not_what_was_asked_for(web: Web, here: Path, wrong: str) -> None:
    """Of the second connection, too: nothing of another place or version gets into the file."""
    web.files["/f"] = LARGE

    def lie(handler: Handler, content: bytes, wanted: str, truth: Callable[..., None] = Handler.file) -> None:
        match = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", wanted)
        if not match or not int(match[1]):
            truth(handler, content, wanted)
            return
        begin, end = int(match[1]), int(match[2])
        shift, total, etag = (
            (1, 0, '"v1"') if wrong == "start" else (0, 1, '"v1"') if wrong == "total" else (0, 0, '"x"')
        )
        headers = {"ETag": etag, "Content-Range": f"bytes {begin + shift}-{end + shift}/{len(content) + total}"}
        handler.say(206, headers, content[begin + shift : end + shift + 1])

    original = Handler.file
    Handler.file = lie  # type: ignore[method-assign]
    try:
        fails(TransferFailed, "changes all the time", web, "/f", here / "target")
    finally:
        Handler.file = original  # type: ignore[method-assign]
    assert named(here) == []


def test_a_first_range_from_elsewhere(web: Web, here: Path) -> None:
    web.files["/f"] = LARGE
    web.headers = {}

    def lie(handler: Handler, content: bytes, wanted: str) -> None:
        headers = {"ETag": '"v1"', "Content-Range": f"bytes 5-{len(content) - 1}/{len(content)}"}
        handler.say(206, headers, content[5:])

    original = Handler.file
    Handler.file = lie  # type: ignore[method-assign]
    try:
        fails(PeerBrokeProtocol, "another range", web, "/f", here / "target")
    finally:
        Handler.file = original  # type: ignore[method-assign]
    assert named(here) == []


@pytest.mark.parametrize(
    "document",
    [
        r'{"directory": true, "name": "\ud800", "entries": []}',
        r'{"directory": true, "name": "d", "entries": [{"href": "HERE/\ud800", "directory": false, "size": 1}]}',
        '{"directory": false, "name": "f", "size": Infinity}',
        '{"directory": false, "name": "f", "size": NaN}',
        '{"directory": false, "name": "f", "size": -1}',
        '{"directory": true, "name": "d", "entries": [{"href": "HERE/f", "directory": false, "size": -1}]}',
        '{"directory": true, "name": "d", "entries": [{"href": "HERE/../f", "directory": false, "size": 1}]}',
        '{"directory": true, "name": "d", "entries": [{"href": "HERE/%2e%2e", "directory": true}]}',
        '{"directory": true, "name": "d", "entries": [{"href": "HERE/a%2Fb", "directory": false, "size": 1}]}',
        '{"directory": true, "name": "d", "entries": [{"href": "/etc/passwd", "directory": false, "size": 1}]}',
        '{"directory": true, "name": "d", "entries": [5]}',
        '{"directory": true, "entries": {"a": "b"}}',
        '{"directory": []}',
        "[" * 100_000,
    ],
    ids=lambda document: document[:70],
)  # fmt: skip
def test_what_a_link_leads_to_is_nonsense(web: Web, here: Path, document: str) -> None:
    link = "/rest/access/TEST/G9H5R3UE6MT"
    web.files[link] = document.replace("HERE", link).encode()
    web.headers = {"Content-Type": "application/json"}
    options = CopyOptions(recursive=True, retries=0)
    (here / "d").mkdir()
    with pytest.raises(UFTPError):
        run(web, link, here / "d", exact=False, options=options).raise_for_failures()
    assert named(here) == ["d"]
    assert named(here / "d") == []

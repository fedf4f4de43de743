"""What auth servers answer, good and bad, and what a person is told."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from uftp.client.auth import AuthServer, HttpOptions, SessionRequest
from uftp.client.credentials import Anonymous, UsernamePassword
from uftp.errors import (
    AuthenticationFailed,
    NetworkError,
    NotFound,
    PeerBrokeProtocol,
    Refused,
    UFTPError,
    UsageError,
)

GRANT = {"success": True, "reason": "", "serverHost": "ftp1", "serverPort": 64434, "secret": "abc"}
INFO: dict[str, dict[str, object]] = {"TEST": {}, "OTHER": {}, "client": {}, "server": {}}


@dataclass
class FakeServer:
    """Answers every POST with `status` and `body`, every GET with the information document."""

    port: int = 0
    status: int = 200
    body: bytes = b""
    names_requests: bool = False
    headers: list[dict[str, str]] = field(default_factory=list)
    requests: list[object] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/rest/auth/TEST"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, status: int, body: bytes) -> None:
            fake.headers.append(dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if fake.names_requests:
                self.send_header("X-Request-Id", self.headers["X-Request-Id"])
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(200, json.dumps(INFO).encode())

        def do_POST(self) -> None:
            fake.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(fake.status, fake.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as in the base class
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        fake.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        running.shutdown()
        thread.join()


async def ask(server: FakeServer, request: SessionRequest | None = None) -> object:
    options = HttpOptions(insecure=True)
    async with AuthServer(UsernamePassword("me", "t0psecret"), options) as client:
        return await client.request_session(server.url, request or SessionRequest())


async def test_a_grant(server: FakeServer) -> None:
    server.body = json.dumps({**GRANT, "serverHost": "ftp1, ftp2", "serverPort": "7", "features": ["UTC"]}).encode()
    grant = await ask(server, SessionRequest(directory=b"/d\xff/x/", client="192.0.2.1", group="g", send=False))
    assert getattr(grant, "hosts", None) == ("ftp1", "ftp2")
    assert getattr(grant, "port", None) == 7
    assert getattr(grant, "features", None) == ("UTC",)
    assert "abc" not in repr(grant)
    # JSON cannot say that directory, so the session is asked for the one above.
    assert server.requests == [
        {"serverPath": "/", "persistent": False, "client": "192.0.2.1", "group": "g", "send": False}
    ]
    assert server.headers[0]["User-Agent"].startswith("uftp/")


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (200, {"success": False, "reason": "Too many sessions", "secret": "x"}, Refused, "Too many sessions"),
        (200, {"success": "false", "reason": ""}, Refused, "no reason"),
        (200, {**GRANT, "serverHost": None}, PeerBrokeProtocol, "host"),
        (200, {**GRANT, "serverPort": 0}, PeerBrokeProtocol, "port"),
        (200, {**GRANT, "serverPort": "²"}, PeerBrokeProtocol, "port"),
        (200, {**GRANT, "secret": "a\r\nDELE x"}, PeerBrokeProtocol, "secret"),
        (200, {**GRANT, "features": "UTC"}, PeerBrokeProtocol, "features"),
        (200, [], PeerBrokeProtocol, "JSON"),
        (200, None, PeerBrokeProtocol, "JSON"),
        (400, {"errorMessage": "Requested group is not available"}, Refused, "group"),
        (401, None, AuthenticationFailed, "password"),
        (403, None, AuthenticationFailed, "password"),
        (403, {"errorMessage": "role"}, AuthenticationFailed, "role"),
        (401, {"errorMessage": "Not allowed to write"}, Refused, "Not allowed to write"),
        (404, {"errorMessage": "No such server"}, NotFound, "it has OTHER, TEST"),
        (405, None, Refused, "check the URL"),
        (302, None, Refused, "redirects"),
        (500, {"errorMessage": "UFTPD server 'TEST': <ERROR::\n\x1b[31m>"}, Refused, "ERROR"),
        (503, {"errorMessage": "DOWN [0 of 2]"}, NetworkError, "DOWN"),
    ],
)
async def test_refusals(server: FakeServer, status: int, body: object, error: type[UFTPError], says: str) -> None:
    server.status = status
    server.body = b"<html>" if body is None else json.dumps(body).encode()
    with pytest.raises(error) as caught:
        await ask(server)
    text = str(caught.value)
    assert says in text
    assert "t0psecret" not in text
    assert text.isprintable()


@pytest.mark.parametrize(("status", "quoted"), [(500, True), (503, True), (413, True), (403, False), (405, False)])
async def test_errors_for_the_administrator_name_the_request(server: FakeServer, status: int, quoted: bool) -> None:
    server.status, server.body, server.names_requests = status, b'{"errorMessage": "x"}', True
    with pytest.raises(UFTPError) as caught:
        await ask(server)
    sent = server.headers[0]["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{16}", sent)
    assert (f"(request {sent})" in str(caught.value)) is quoted
    server.names_requests = False
    with pytest.raises(UFTPError) as caught:
        await ask(server)
    assert "(request" not in str(caught.value), "an upstream server's log knows nothing of it"


async def test_credentials_do_not_go_over_http_unasked(server: FakeServer) -> None:
    async with AuthServer(UsernamePassword("me", "t0psecret")) as client:
        with pytest.raises(UsageError, match="https"):
            await client.info(server.url)
    assert server.headers == []


async def test_anonymous_sends_no_header(server: FakeServer) -> None:
    async with AuthServer(Anonymous(), HttpOptions(insecure=True)) as client:
        assert await client.info(server.url) == INFO
    assert "Authorization" not in server.headers[0]


# The HTTP library leaves its own generators to the garbage collector when a reply is not read to its end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_reply_without_end_is_cut_off(server: FakeServer) -> None:
    server.body = b" " * 5_000_000
    with pytest.raises(PeerBrokeProtocol, match="longer"):
        await ask(server)


async def test_not_http_at_all(server: FakeServer) -> None:
    url = f"https://127.0.0.1:{server.port}/rest/auth/TEST"
    async with AuthServer(Anonymous()) as client:
        with pytest.raises(NetworkError, match="TLS"):
            await client.info(url)

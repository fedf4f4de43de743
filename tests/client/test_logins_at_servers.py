"""What an auth server gets to see of a person: security sessions, renewed credentials, tokens; and what is said."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import pytest
from running_auth import Pki, Running, StartAuth, make_password_lines, make_pki, starter

from uftp.client.auth import AuthServer, HttpOptions, SessionRequest
from uftp.client.choosing import Wishes, choose_credential
from uftp.client.credentials import Anonymous, BearerToken, Credential, UsernamePassword
from uftp.errors import AuthenticationFailed, PeerBrokeProtocol, Refused

GRANT = {"success": True, "serverHost": "ftp1", "serverPort": 64434, "secret": "abc"}
INSECURE = HttpOptions(insecure=True)


@dataclass
class Server:
    """Lets in whoever shows a header in `good`, or the id of the session it gave.

    Attributes:
        good: Authorization headers that are accepted.
        session: id it gives out; None for none.
        lifetime: of it, milliseconds, as text.
        forgets: answer 432 to the id.
        refuses: status for those it knows.
        ahead: by how many seconds its clock is ahead.
        seen: Authorization and session header of each request.
    """

    port: int = 0
    good: set[str | None] = field(default_factory=set)
    session: str | None = None
    lifetime: str = "28800000"
    forgets: bool = False
    refuses: int = 0
    ahead: float = 0
    token: bytes = b"a.b.c\n"
    seen: list[tuple[str | None, str | None]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/rest/auth"

    def status(self, authorization: str | None, session: str | None) -> int:
        self.seen.append((authorization, session))
        if session is not None:
            if self.forgets or session != self.session:
                return 432
        elif authorization not in self.good:
            return 403
        return self.refuses or 200


@pytest.fixture
def server() -> Iterator[Server]:
    fake = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, body: bytes) -> None:
            fake.paths.append(self.path)
            status = fake.status(self.headers["Authorization"], self.headers["X-UNICORE-SecuritySession"])
            body = body if status == 200 else b""
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + fake.ahead, usegmt=True))
            if status != 403 and fake.session is not None:
                self.send_header("X-UNICORE-SecuritySession", fake.session)
                self.send_header("X-UNICORE-SecuritySession-Lifetime", fake.lifetime)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(fake.token if "token" in self.path else json.dumps({"client": {}, "server": {}}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(json.dumps(GRANT).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as in the base class
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        fake.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        running.shutdown()
        thread.join()


BASIC = "Basic bWU6cHc="


def me() -> Credential:
    return UsernamePassword("me", "pw")


async def test_a_session_stands_for_the_credentials(server: Server) -> None:
    server.good, server.session = {BASIC}, "id-1"
    async with AuthServer(me(), INSECURE) as client:
        for _ in range(3):
            await client.request_session(f"{server.url}/TEST", SessionRequest())
        assert server.seen == [(BASIC, None), (None, "id-1"), (None, "id-1")]
        server.seen.clear()
        server.forgets = True
        await client.info(server.url)
        assert server.seen == [(None, "id-1"), (BASIC, None)]
        # The one it gave along with 432 is not believed; the one given after the login is.
        server.seen.clear()
        server.forgets, server.refuses = False, 401
        with pytest.raises(AuthenticationFailed, match="401"):
            await client.info(server.url)
        assert server.seen == [(None, "id-1"), (BASIC, None)]


@pytest.mark.parametrize("session", ["", "a b", "x" * 257, "ü"])
async def test_sessions_that_are_none(server: Server, session: str) -> None:
    server.good, server.session = {BASIC}, session
    async with AuthServer(me(), INSECURE) as client:
        for _ in range(2):
            await client.info(server.url)
    assert server.seen == [(BASIC, None)] * 2


@pytest.mark.parametrize("lifetime", ["4000", "0", "-1", "soon", "", "9" * 40])
async def test_sessions_that_have_ended(server: Server, lifetime: str) -> None:
    server.good, server.session, server.lifetime = {BASIC}, "id-1", lifetime
    async with AuthServer(me(), INSECURE) as client:
        for _ in range(2):
            await client.info(server.url)
    assert server.seen == [(BASIC, None)] * 2


async def test_an_id_goes_to_its_own_server_only(server: Server) -> None:
    server.good, server.session = {BASIC}, "id-1"
    async with AuthServer(me(), INSECURE) as client:
        await client.info(server.url)
        await client.info(server.url.replace("127.0.0.1", "localhost"))
    assert server.seen == [(BASIC, None)] * 2


async def test_anonymous_needs_no_session(server: Server) -> None:
    server.good, server.session = {None}, "id-1"
    async with AuthServer(Anonymous(), INSECURE) as client:
        for _ in range(2):
            await client.info(server.url)
    assert server.seen == [(None, None)] * 2


@dataclass
class Renewing:
    """Numbered tokens; `left` new ones can be had."""

    left: int
    number: int = 1
    method = "TEST"

    async def authorization(self) -> str:
        return f"Bearer {self.number}"

    async def renew(self, refused: str) -> bool:
        assert refused == f"Bearer {self.number}"
        if not self.left:
            return False
        self.left -= 1
        self.number += 1
        return True


async def test_a_refused_credential_is_renewed(server: Server) -> None:
    server.good = {"Bearer 3"}
    async with AuthServer(Renewing(5), INSECURE) as client:
        await client.request_session(f"{server.url}/TEST", SessionRequest())
    assert [header for header, _ in server.seen] == ["Bearer 1", "Bearer 2", "Bearer 3"]
    server.seen.clear()
    async with AuthServer(Renewing(1), INSECURE) as client:
        with pytest.raises(AuthenticationFailed, match=r"the credential \(TEST\); check"):
            await client.info(server.url)
    assert len(server.seen) == 2
    server.seen.clear()
    async with AuthServer(Renewing(1000), INSECURE) as client:
        server.good = set()
        with pytest.raises(AuthenticationFailed):
            await client.info(server.url)
    assert len(server.seen) == 12, "somebody who always has another one is not followed for ever"


async def test_a_refusal_that_is_about_something_else_is_not_retried(server: Server) -> None:
    server.good, server.refuses = {"Bearer 1"}, 500
    async with AuthServer(Renewing(5), INSECURE) as client:
        with pytest.raises(Refused):
            await client.info(server.url)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("ahead", "says"), [(600, r"clock is \d+ s behind the server's"), (-600, "s ahead of"), (30, "let you in")]
)
async def test_clocks_that_differ_are_named(server: Server, ahead: float, says: str) -> None:
    server.ahead = ahead
    async with AuthServer(BearerToken("x"), INSECURE) as client:
        with pytest.raises(AuthenticationFailed, match=says) as caught:
            await client.info(server.url)
    assert ("clock" in str(caught.value)) == (abs(ahead) > 120)


async def test_what_was_tried_is_said_and_nothing_secret(server: Server) -> None:
    for credential, words in ((me(), "the password of 'me'"), (BearerToken("t0ken"), "the token given")):
        async with AuthServer(credential, INSECURE) as client:
            with pytest.raises(AuthenticationFailed) as caught:
                await client.info(server.url)
        assert f"does not let you in (403) with {words}; check" in str(caught.value)
        assert "pw" not in str(caught.value)
        assert "t0ken" not in str(caught.value)
    async with AuthServer(Anonymous(), INSECURE) as client:
        with pytest.raises(AuthenticationFailed, match="lets nobody in without a login"):
            await client.info(server.url)


async def test_tokens(server: Server) -> None:
    server.good = {BASIC}
    async with AuthServer(me(), INSECURE) as client:
        assert await client.issue_token(server.url) == "a.b.c"
        await client.issue_token(server.url, lifetime=60, renewable=True, limited=True)
        assert server.paths == [
            "/rest/auth/token",
            "/rest/auth/token?lifetime=60&renewable=true&limited=true",
        ]
        for token in (b"", b"<html>\n<body>", b"\xff"):
            server.token = token
            with pytest.raises(PeerBrokeProtocol, match="no token"):
                await client.issue_token(server.url)


# -- with our own auth server ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def start_auth(tmp_path: Path, pki: Pki) -> StartAuth:
    return starter(tmp_path, pki, make_password_lines())


def client_of(auth: Running, credential: Credential) -> AuthServer:
    return AuthServer(credential, HttpOptions(ca=str(auth.pki.ca_path)))


async def test_our_servers_sessions(start_auth: StartAuth, caplog: pytest.LogCaptureFixture) -> None:
    """Sessions of a copy are asked for with one login; the server is told who it is by the id."""
    async with start_auth() as auth:
        async with client_of(auth, UsernamePassword("demouser", "test123")) as client:
            for _ in range(3):
                await client.request_session(f"{auth.url}/rest/auth/TEST", SessionRequest(directory=b"/work/"))
            (session,) = client._sessions.values()
            assert session.id not in repr(session)
        assert [request.user for request in auth.node.transfers] == ["user1"] * 3
        # Of another place it is no id, and the login is done again.
        async with client_of(auth, UsernamePassword("demouser", "test123")) as client:
            client._sessions[auth.url] = type(session)("0" * 36, time.monotonic() + 1000)
            assert (await client.info(f"{auth.url}/rest/auth"))["client"]["authenticationMethod"] == "PASSWORD_FILE"


async def test_our_servers_tokens(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        url = f"{auth.url}/rest/auth"
        async with client_of(auth, UsernamePassword("demouser", "test123")) as client:
            plain = await client.issue_token(url)
            renewable = await client.issue_token(url, lifetime=1000, renewable=True, limited=True)
        for token in (plain, renewable):
            async with client_of(auth, choose_credential(Wishes(token=token))) as client:
                assert (await client.info(url))["client"]["authenticationMethod"] == "ETD"
        async with client_of(auth, BearerToken(renewable)) as client:
            assert await client.issue_token(url, renewable=True) != renewable
        async with client_of(auth, BearerToken(plain)) as client:
            with pytest.raises(AuthenticationFailed, match="renew"):
                await client.issue_token(url)

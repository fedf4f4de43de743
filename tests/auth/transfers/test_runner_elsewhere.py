"""Transfers with a side at another auth server: what was left for it is used, renewed, and asked for anew."""

from __future__ import annotations

import base64
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from copying_node import DONE, FEATURES, RUNNING, CopyNode, Script
from managing import Managing, managing, until_true
from running_auth import Pki, Running, StartAuth, starter
from small_https import SmallHttps, small_https

from uftp.client.auth import AuthServer
from uftp.client.vetted_http import open_vetted_client, trust
from uftp.errors import AuthenticationFailed, NetworkError
from uftp.protocol.command_replies import PingReply
from uftpd.auth.transfers.credentials import StoredCredential
from uftpd.auth.transfers.model import Side
from uftpd.auth.transfers.renewal import StoredLogin, TokenTimes

pytestmark = pytest.mark.slow

PASSWORD = {"username": "demouser", "password": "test123"}


@dataclass
class Partners:
    """Our auth server, and another one that lets the same person in."""

    ours: Managing
    theirs: Running
    node: CopyNode

    def place(self, path: str) -> str:
        """A path on the other one's data node."""
        return f"{self.theirs.url}/rest/auth/TEST:{path}"


@pytest.fixture
def start_partner(tmp_path: Path, pki: Pki, password_lines: str) -> StartAuth:
    directory = tmp_path / "partner"
    directory.mkdir()
    return starter(directory, pki, password_lines)


def reach(pki: Pki) -> str:
    """Settings: whatever is on this machine may be connected to."""
    return f'allow = ["127.0.0.1"]\nhttps_ca = "{pki.ca_path}"\n'


@asynccontextmanager
async def partners(
    start_auth: StartAuth,
    start_partner: StartAuth,
    tmp_path: Path,
    pki: Pki,
    *scripts: Script,
    features: tuple[str, ...] = FEATURES,
) -> AsyncIterator[Partners]:
    """Both, for the block; the copies run at our node. The other one's node has these features."""
    other = CopyNode(ping=PingReply(version="1.0.0", max_sessions=16, features=features))
    mine = CopyNode(scripts=deque(scripts))
    async with trio.open_nursery() as nursery:
        await nursery.start(other.serve_ftp)
        async with (
            start_partner(other) as theirs,
            managing(start_auth, tmp_path, mine, more=reach(pki)) as ours,
        ):
            yield Partners(ours, theirs, other)
        nursery.cancel_scope.cancel()


async def test_a_source_elsewhere(start_auth: StartAuth, start_partner: StartAuth, tmp_path: Path, pki: Pki) -> None:
    script = Script()
    async with partners(start_auth, start_partner, tmp_path, pki, script) as both:
        transfer = await both.ours.submit(both.place("/out/a"), credentials={"source": PASSWORD})
        found = await both.ours.wait(transfer, "succeeded", "failed", "paused")
        assert (found["state"], found["reason"]) == ("succeeded", "")
        target, source, place, secret = script.words
        assert (script.verb, target, source) == ("RECEIVE-FILE", b"/in/", b"/out/a")
        assert place == b"127.0.0.1:%d" % both.node.ftp_port
        (asked,) = [request for request in both.node.transfers if request.secret == secret.decode()]
        assert (asked.user, asked.persistent) == ("user1", True)
        assert "127.0.0.1" in {str(address) for address in asked.client_ip}
        # What was left is gone with the end.
        assert await both.ours.credential(transfer, Side.SOURCE) is None


async def test_a_target_elsewhere(start_auth: StartAuth, start_partner: StartAuth, tmp_path: Path, pki: Pki) -> None:
    script = Script()
    async with partners(start_auth, start_partner, tmp_path, pki, script) as both:
        both.node.files = {b"/in": "dir"}
        token = await _issued(both.theirs, lifetime=3600)
        transfer = await both.ours.submit("TEST:/out/a", both.place("/in"), credentials={"target": {"token": token}})
        assert (await both.ours.wait(transfer, "succeeded", "failed", "paused"))["state"] == "succeeded"
        # That it is a directory was seen by a session there.
        assert (script.verb, script.words[:2]) == ("SEND-FILE", (b"/out/a", b"/in/"))


async def test_a_login_that_is_over_pauses_it(
    start_auth: StartAuth, start_partner: StartAuth, tmp_path: Path, pki: Pki
) -> None:
    script = Script()
    async with partners(start_auth, start_partner, tmp_path, pki, script) as both:
        wrong = {"username": "demouser", "password": "changed meanwhile"}
        transfer = await both.ours.submit(both.place("/out/a"), credentials={"source": wrong})
        found = await both.ours.wait(transfer, "succeeded", "failed", "paused")
        assert found["state"] == "paused"
        assert found["reason"] == f"The login at {both.theirs.url} is no longer valid: resume with new credentials"
        assert "changed meanwhile" not in json.dumps(found)
        assert not both.ours.node.copies
        assert await both.ours.act(transfer, "resume", {"credentials": {"source": PASSWORD}}) == 200
        assert (await both.ours.wait(transfer, "succeeded", "failed"))["state"] == "succeeded"


async def test_an_auth_server_that_is_down_is_no_end(
    start_auth: StartAuth, start_partner: StartAuth, tmp_path: Path, pki: Pki
) -> None:
    script = Script()
    async with partners(start_auth, start_partner, tmp_path, pki, script) as both:
        both.node.refusal = "Too many active sessions for 'user1' - server limit is 1"
        transfer = await both.ours.submit(both.place("/out/a"), credentials={"source": PASSWORD})
        await until_true(lambda: bool(both.node.transfers), "the other server to be asked")
        both.node.refusal = None
        assert (await both.ours.wait(transfer, "succeeded", "failed"))["state"] == "succeeded"


async def test_encryption_needs_a_node_that_can(
    start_auth: StartAuth, start_partner: StartAuth, tmp_path: Path, pki: Pki
) -> None:
    features = tuple(name for name in FEATURES if "CRYPT" not in name)
    async with partners(start_auth, start_partner, tmp_path, pki, features=features) as both:
        body: dict[str, Any] = {"options": {"encrypt": True}, "credentials": {"source": PASSWORD}}
        found = await both.ours.wait(await both.ours.submit(both.place("/out/a"), **body), "succeeded", "failed")
        assert found["state"] == "failed"
        assert "cannot encrypt" in found["reason"]


async def test_a_token_is_kept_fresh_while_it_runs(
    start_auth: StartAuth, start_partner: StartAuth, tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(says=[RUNNING])
    async with partners(start_auth, start_partner, tmp_path, pki, script) as both:
        token = await _issued(both.theirs, lifetime=3600)
        # It looks an hour older than it is to whom looks at it before it is used.
        monkeypatch.setattr(TokenTimes, "of", _aged(TokenTimes.of))
        transfer = await both.ours.submit(both.place("/out/a"), credentials={"source": {"token": token}})
        await until_true(lambda: bool(both.ours.node.copies), "the copy to start")
        kept = await both.ours.credential(transfer, Side.SOURCE)
        assert kept is not None
        assert kept.token != token
        script.says[:] = [DONE]
        await both.ours.wait(transfer, "succeeded")


def _aged(of: Any) -> Any:
    def aged(token: str) -> TokenTimes:
        found = of(token)
        assert isinstance(found, TokenTimes)
        return TokenTimes(found.issued - 3000, found.ends - 3000, found.renewable, found.limited)

    return aged


async def _issued(auth: Running, *, lifetime: int, renewable: bool = True) -> str:
    query = {"lifetime": str(lifetime), "renewable": "true" if renewable else "false"}
    reply = await auth.client.get(f"{auth.url}/rest/auth/token", params=query, auth=("demouser", "test123"))
    assert reply.status_code == 200
    return reply.text


# -- renewal alone ----------------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """Keeps what it is told to."""

    stored: list[StoredCredential]

    async def __call__(self, renewed: StoredCredential) -> None:
        self.stored.append(renewed)


def jwt(**claims: object) -> str:
    """A token with these claims, signed by nobody."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({}, claims)]
    return ".".join((*parts, "c2ln"))


async def anywhere(url: str) -> tuple[str, ...]:
    return ("127.0.0.1",)


@asynccontextmanager
async def login(server: SmallHttps, pki: Pki, stored: StoredCredential, kept: Kept) -> AsyncIterator[StoredLogin]:
    """A login that talks to a test's own server."""
    async with open_vetted_client(anywhere, tls=trust(pki.ca_path.read_text())) as client:
        yield StoredLogin(stored, f"{server.url}/rest/auth/TEST", client, kept)


def test_what_a_token_says_of_itself() -> None:
    assert TokenTimes.of(jwt(etd="true", iat=5, exp=9.5, renewable="true", aud="x")) == TokenTimes(5, 9.5, True, True)
    assert TokenTimes.of(jwt(iat=5, exp=9, renewable="true")).renewable is False
    for junk in ("", "a", "a.b", "a.!.c", jwt(exp="soon"), jwt(exp=[1]), "x." + "W10" + ".y"):
        assert TokenTimes.of(junk) == TokenTimes()


async def test_a_refresh_token_gets_tokens_and_is_kept_when_it_changes(pki: Pki) -> None:
    async with small_https(pki) as provider:
        stored = StoredCredential(
            refresh_token="r1", token_endpoint=f"{provider.url}/token", client_id="us", client_secret="s:p"
        )
        kept = Kept([])
        async with login(provider, pki, stored, kept) as found:
            provider.answers.append((200, b'{"access_token": "t1", "token_type": "Bearer", "refresh_token": "r2"}', ""))
            assert await found.authorization() == "Bearer t1"
            assert await found.authorization() == "Bearer t1"
            assert [(one.token, one.refresh_token) for one in kept.stored] == [("t1", "r2")]
            assert b"refresh_token=r1" in provider.asked[0].body
            assert base64.b64decode(provider.asked[0].headers["authorization"].split()[1]) == b"us:s%3Ap"
            # One that was refused is replaced, once, however many ask.
            provider.answers.append((200, b'{"access_token": "t2", "token_type": "Bearer"}', ""))
            assert await found.renew("Bearer t1")
            assert await found.renew("Bearer t1")
            assert await found.authorization() == "Bearer t2"
            assert [(one.token, one.refresh_token) for one in kept.stored[1:]] == [("t2", "r2")]
            provider.answers.append((503, b"", ""))
            with pytest.raises(NetworkError):
                await found.renew("Bearer t2")
            provider.answers.append((400, b'{"error": "invalid_grant"}', ""))
            with pytest.raises(AuthenticationFailed, match="has ended"):
                await found.renew("Bearer t2")
            assert len(kept.stored) == 2


async def test_a_token_that_cannot_be_kept_is_not_used(pki: Pki) -> None:
    async def full(renewed: StoredCredential) -> None:
        raise OSError("disk full")

    async with small_https(pki) as provider, open_vetted_client(anywhere, tls=trust(pki.ca_path.read_text())) as client:
        stored = StoredCredential(refresh_token="r1", token_endpoint=provider.url, client_id="us")
        found = StoredLogin(stored, f"{provider.url}/rest/auth/TEST", client, full)
        provider.answers.append((200, b'{"access_token": "t1"}', ""))
        with pytest.raises(OSError, match="disk full"):
            await found.authorization()


async def test_a_renewable_token_is_exchanged_when_half_its_time_is_over(pki: Pki) -> None:
    now = time.time()
    async with small_https(pki) as server:
        for issued, ends, renewable, asked in (
            (now - 10, now + 90, "true", 0),
            (now - 60, now + 40, "false", 0),
            (now - 100, now - 1, "true", 0),
            (now - 60, now + 40, "true", 1),
        ):
            token = jwt(etd="true", iat=issued, exp=ends, renewable=renewable, aud="x")
            kept = Kept([])
            before = len(server.asked)
            async with login(server, pki, StoredCredential(token=token), kept) as found:
                server.answers.extend([(200, b"a.new.token", "")] * asked)
                await found.freshen()
                assert len(server.asked) == before + asked
                assert [one.token for one in kept.stored] == ["a.new.token"] * asked
                assert await found.authorization() == f"Bearer {'a.new.token' if asked else token}"
        assert server.asked[0].line == "GET /rest/auth/token?lifetime=100&renewable=true&limited=true HTTP/1.1"


async def test_a_server_that_renews_nothing_leaves_the_old_token(pki: Pki) -> None:
    now = time.time()
    token = jwt(etd="true", iat=now - 60, exp=now + 40, renewable="true")
    async with small_https(pki) as server, login(server, pki, StoredCredential(token=token), Kept([])) as found:
        server.answers.extend([(403, b"{}", ""), (200, b"not a\x01token", ""), (302, b"", "https://127.0.0.1:1/")])
        for _ in range(3):
            await found.freshen()
            assert await found.authorization() == f"Bearer {token}"


async def test_the_other_server_is_reached_over_the_given_client(pki: Pki) -> None:
    async with small_https(pki) as server, login(server, pki, StoredCredential(token="t"), Kept([])) as found:
        async with open_vetted_client(anywhere, tls=trust(pki.ca_path.read_text())) as client:
            async with AuthServer(found, client=client) as auth:
                server.answers.append((403, b'{"errorMessage": "no"}', ""))
                with pytest.raises(AuthenticationFailed):
                    await auth.info(f"{server.url}/rest/auth")
            assert not client.is_closed
        assert server.asked[0].headers["authorization"] == "Bearer t"

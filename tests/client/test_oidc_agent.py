"""Tokens from an oidc-agent: a peer on a real Unix socket that answers well, badly, slowly, in pieces, or not."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from device_provider import DeviceProvider, serving

from uftp.client.oidc_agent import OidcAgentCredential
from uftp.errors import AuthenticationFailed


@dataclass
class FakeAgent:
    """Answers each request with the next of `answers`, or the last; in pieces, and leaves the connection open."""

    answers: list[bytes]
    environment: dict[str, str]
    pieces: int = 1
    closes: bool = False
    silent: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            self.requests.append(json.loads(await stream.receive_some(65536)))
            if self.silent:
                await trio.sleep_forever()
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            size = max(1, -(-len(answer) // self.pieces))
            for start in range(0, len(answer), size):
                await stream.send_all(answer[start : start + size])
                await trio.testing.wait_all_tasks_blocked()
            if not self.closes:
                await stream.receive_some(1)


def token(value: str, expires: object) -> bytes:
    return json.dumps(
        {"status": "success", "access_token": value, "issuer": "https://idp.example.org/", "expires_at": expires}
    ).encode()


@asynccontextmanager
async def agent(tmp_path: Path, *answers: bytes, **more: Any) -> AsyncIterator[FakeAgent]:
    path = str(tmp_path / "oidc")
    fake = FakeAgent(list(answers), {"OIDC_SOCK": path}, **more)
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(path)
    listener.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, fake.serve, [trio.SocketListener(listener)])
        yield fake
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pieces", [1, 3, 1000])
@pytest.mark.parametrize("closes", [False, True])
async def test_a_token_is_asked_for_again_before_it_ends(tmp_path: Path, pieces: int, closes: bool) -> None:
    now = 1000.0
    async with agent(tmp_path, token("one", 1300), token("two", 1600), pieces=pieces, closes=closes) as fake:
        credential = OidcAgentCredential("campus", environment=fake.environment, clock=lambda: now)
        assert await credential.authorization() == "Bearer one"
        now = 1239.0
        assert await credential.authorization() == "Bearer one"
        now = 1241.0
        assert await credential.authorization() == "Bearer two"
        assert fake.requests == 2 * [
            {
                "request": "access_token",
                "account": "campus",
                "min_valid_period": 60,
                "application_hint": "uftp",
            }
        ]
        assert "two" not in repr(credential)


async def test_a_refused_token_is_replaced_once(tmp_path: Path) -> None:
    async with agent(tmp_path, token("one", 1300), token("two", 1600), token("two", 1600)) as fake:
        credential = OidcAgentCredential("https://idp.example.org/", environment=fake.environment, clock=lambda: 1000.0)
        assert await credential.authorization() == "Bearer one"
        assert await credential.renew("Bearer one")
        assert await credential.authorization() == "Bearer two"
        assert await credential.renew("Bearer one")
        assert not await credential.renew("Bearer two")
        assert [request["min_valid_period"] for request in fake.requests] == [60, 360, 660]
        assert all(request["issuer"] == "https://idp.example.org/" for request in fake.requests)


async def test_without_an_end_it_asks_each_time(tmp_path: Path) -> None:
    async with agent(tmp_path, token("one", None), token("two", "soon")) as fake:
        credential = OidcAgentCredential("campus", environment=fake.environment)
        assert [await credential.authorization() for _ in range(2)] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b'{"status": "failure", "error": "Account not loaded", "info": "use oidc-add"}', "Account not loaded use oi"),
        (b'{"status": "failure", "error": "\\u001b[31mno\\n"}', "no"),
        (b'{"status": "success"}', "no token, and no reason"),
        (b'{"status": "success", "access_token": 7}', "no token"),
        (b'{"status": "success", "access_token": "a\\r\\nX: y"}', "characters no token can have"),
        (b"{}", "no token, and no reason"),
        (b"[]", "no JSON object"),
        (b"7", "no JSON object"),
        (b"nonsense", "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b"{" * 300_000, "no JSON object"),
        (b"", "no JSON object"),
    ],
)
async def test_answers_without_a_token(tmp_path: Path, answer: bytes, says: str) -> None:
    async with agent(tmp_path, answer, closes=True) as fake:
        with pytest.raises(AuthenticationFailed, match=says) as caught:
            await OidcAgentCredential("campus", environment=fake.environment).authorization()
        assert str(caught.value).isprintable()


async def test_no_agent(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationFailed, match="OIDC_SOCK is not set"):
        await OidcAgentCredential("campus", environment={}).authorization()
    with pytest.raises(AuthenticationFailed, match="is it running"):
        await OidcAgentCredential("campus", environment={"OIDC_SOCK": str(tmp_path / "none")}).authorization()


async def test_an_agent_that_says_nothing(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with agent(tmp_path, b"", silent=True) as fake:
        with pytest.raises(AuthenticationFailed, match="no answer within 120 s"):
            await OidcAgentCredential("campus", environment=fake.environment).authorization()


@pytest.mark.slow
@pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("oidc-agent", "oidc-gen")), reason="needs oidc-agent (oidc-agent-cli)"
)
async def test_a_real_agent(tmp_path: Path) -> None:
    """An account made by a device login; the agent's tokens, and a new one in place of one that was refused."""
    provider = DeviceProvider()
    provider.replace["device"] = {"interval": 1}
    provider.replace["configuration"] = {
        "authorization_endpoint": "http://127.0.0.1/auth",
        "scopes_supported": ["openid", "offline_access"],
        "grant_types_supported": ["refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
        "response_types_supported": ["code"],
    }
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}

    async def run(*command: str) -> str:
        done = await trio.run_process(command, env=environment, capture_stdout=True, capture_stderr=True)
        return done.stdout.decode()

    with serving(provider):
        said = json.loads(await run("oidc-agent", "--json", f"--socket-path={tmp_path / 'agent'}"))
        try:
            environment["OIDC_SOCK"] = said["socket"]
            await run(
                *("oidc-gen", "campus", f"--iss={provider.issuer}", "--client-id=x", "--client-secret=y", "-m"),
                *("--scope=openid offline_access", "--flow=device", "--redirect-url=http://localhost:8080"),
                *("--no-url-call", "--pw-cmd=echo pw", "--confirm-yes", "--prompt=none"),
            )
            credential = OidcAgentCredential("campus", environment=environment)
            first = await credential.authorization()
            assert first == f"Bearer {provider.issued[-1]}"
            assert await credential.authorization() == first
            assert await credential.renew(first)
            assert await credential.authorization() == f"Bearer {provider.issued[-1]}" != first
            with pytest.raises(AuthenticationFailed, match="account nobody: No account configured"):
                await OidcAgentCredential("nobody", environment=environment).authorization()
        finally:
            os.kill(int(said["dpid"]), signal.SIGTERM)

"""The existing Python clients, as programs, against the auth server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from fake_node import FakeNode
from running_auth import Running, StartAuth

_PYUFTP = Path(sys.executable).parent / "pyuftp"

_PYUNICORE = """
import json, sys
from pyunicore.credentials import Anonymous, UsernamePassword
from pyunicore.uftp.uftp import UFTP, AuthServer
url = sys.argv[1]
credential = UsernamePassword("demouser", "test123")
auth = AuthServer(credential, url)
preferred = UFTP().authenticate(credential, url, "/data", preferences="uid:user2")
print(json.dumps([auth.authenticate("/work"), auth.is_sharing_supported(), preferred]))
"""


async def _run(*command: str | Path, password: str | None = "test123") -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("UFTP_", "PYTHON"))}
    environment["PYTHONWARNINGS"] = "ignore"
    if password is not None:
        environment["UFTP_PASSWORD"] = password
    return await trio.run_process(
        [str(word) for word in command], capture_stdout=True, capture_stderr=True, check=False, env=environment
    )


async def _pyuftp(auth: Running, command: str, *options: str, path: str = "") -> str:
    done = await _run(_PYUFTP, command, "-u", "demouser", "-P", *options, f"{auth.url}/rest/auth/TEST{path}")
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.slow
async def test_pyuftp_info(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        await auth.post()
        text = await _pyuftp(auth, "info")
        assert "CN=Demo User, O=UNICORE, C=EU" in text
        assert "Server: TEST" in text
        assert "uid=user1;gid=users" in text
        assert "Session limit:    16" in text
        raw = json.loads(await _pyuftp(auth, "info", "-R"))
        assert raw["TEST"]["dataSharing"] == {"enabled": False}


@pytest.mark.slow
async def test_pyuftp_authenticate(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        text = await _pyuftp(auth, "authenticate", path=":/work/data/")
        request = auth.node.transfers[-1]
        assert request.secret in text
        assert (request.file, request.persistent, request.user) == ("/work/data/", True, "user1")


@pytest.mark.slow
async def test_pyuftp_shows_a_refusal_of_the_node(start_auth: StartAuth) -> None:
    async with start_auth(FakeNode(refusal="Too many active sessions for 'user1'")) as auth:
        command: list[str | Path] = [
            _PYUFTP,
            "authenticate",
            "-u",
            "demouser",
            "-P",
            f"{auth.url}/rest/auth/TEST:/work/",
        ]
        done = await _run(*command)
        output = (done.stdout + done.stderr).decode()
        assert "500 Server Error: UFTPD server 'TEST': ERROR::Too many active sessions" in output
        done = await _run(*command, password="wrong")
        assert "403 Server Error: Authentication failed" in (done.stdout + done.stderr).decode()


@pytest.mark.slow
async def test_pyunicore(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        done = await _run(sys.executable, "-c", _PYUNICORE, f"{auth.url}/rest/auth/TEST")
        assert done.returncode == 0, done.stderr.decode()
        session, sharing, preferred = json.loads(done.stdout)
        # The script asks with its preference first.
        other, first = auth.node.transfers
        assert session == ["127.0.0.1", 64434, first.secret]
        assert preferred == ["127.0.0.1", 64434, other.secret]
        assert sharing is False
        assert (first.user, first.file, first.persistent) == ("user1", "/work/", True)
        assert (other.user, other.file) == ("user2", "/data/")

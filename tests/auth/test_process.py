"""The auth server as a process: `uftpd auth` with a configuration file, its signals, its log, its limits."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
import trio
from running_auth import Pki, Running, StartAuth

UFTPD = Path(sys.executable).parent / "uftpd"


def _config(directory: Path, pki: Pki, passwords: str, *, extra: str = "") -> Path:
    (directory / "passwords").write_text(passwords)
    (directory / "map.json").write_text("{}")
    path = directory / "auth.toml"
    path.write_text(f"""
[server]
listen = ["127.0.0.1:0"]
certificate = "{pki.directory}/auth.pem"
key = "{pki.directory}/auth.key"
[login]
password_file = "passwords"
[attributes]
map_file = "map.json"
[command_port]
ca = "{pki.ca_path}"
[nodes.TEST]
instances = [{{host = "127.0.0.1", command = "127.0.0.1:9"}}]
{extra}
""")
    return path


@contextmanager
def _running(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and where it listens."""
    process = subprocess.Popen([str(UFTPD), "auth", "--config", str(path)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if " ready " in line:
                yield process, line.rpartition("listen=")[2].strip()
                return
        raise AssertionError(f"ended with {process.wait()}")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(tmp_path: Path, pki: Pki, password_lines: str, number: int) -> None:
    config = _config(tmp_path, pki, password_lines, extra="[limits]\ndrain_seconds = 0.2")
    with _running(config) as (process, address):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port))):  # a connection that says nothing
            process.send_signal(number)
            assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert "stopped" in process.stderr.read()


@pytest.mark.slow
def test_sighup_reads_the_certificate_again(tmp_path: Path, pki: Pki, password_lines: str) -> None:
    config = _config(tmp_path, pki, password_lines)
    for name in ("auth.pem", "auth.key"):
        (tmp_path / name).write_bytes((pki.directory / name).read_bytes())
    config.write_text(config.read_text().replace(f"{pki.directory}/auth.", "auth."))
    with _running(config) as (process, address):
        before = _serial(address, pki)
        other = pki.ca.issue_cert("127.0.0.1")
        other.cert_chain_pems[0].write_to_path(str(tmp_path / "auth.pem"))
        other.private_key_pem.write_to_path(str(tmp_path / "auth.key"))
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        for line in process.stderr:
            if "configuration read again" in line:
                break
        assert _serial(address, pki) != before


def _serial(address: str, pki: Pki) -> object:
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=pki.ca_path)
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as stream,
    ):
        certificate = stream.getpeercert()
        assert certificate is not None
        return certificate["serialNumber"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda path: (path.parent / "map.json").write_text("["), "map.json: not valid JSON"),
        (lambda path: (path.parent / "passwords").unlink(), "passwords: cannot be read: No such file"),
        (lambda path: path.write_text("[server]\nx = 1"), "server.x: unknown setting"),
        (lambda path: path.unlink(), "auth.toml: cannot be read"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(
    tmp_path: Path, pki: Pki, password_lines: str, break_it: object, expected: str
) -> None:
    path = _config(tmp_path, pki, password_lines)
    assert callable(break_it)
    break_it(path)
    done = subprocess.run([str(UFTPD), "auth", "--config", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("uftpd: ")] == lines[-1:]
    assert expected in lines[-1]
    assert not any("Traceback" in line for line in lines)


async def test_secrets_and_passwords_are_not_logged(start_auth: StartAuth, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with start_auth() as auth:
        reply = await auth.post(body={"serverPath": "/x", "encryptionKey": "c2VjcmV0a2V5"})
        await auth.post(auth=("demouser", "wrong-password"))
        await auth.post(body={"serverPath": "/x\n2026 info auth: forged"})
        secret = reply.json()["secret"]
    written = "\n".join(f"{record.getMessage()} {getattr(record, 'facts', '')}" for record in caplog.records)
    assert "session granted" in written
    assert reply.headers["x-request-id"] in written
    for word in (secret, "test123", "wrong-password", "c2VjcmV0a2V5", "forged"):
        assert word not in written


_UNFINISHED = (
    b"POST /rest/auth/TEST HTTP/1.1\r\nHost: x\r\nAuthorization: Basic ZGVtb3VzZXI6dGVzdDEyMw==\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
)


@asynccontextmanager
async def _connection(auth: Running) -> AsyncIterator[trio.abc.Stream]:
    context = ssl.create_default_context(cafile=auth.pki.ca_path)
    port = int(auth.url.rpartition(":")[2])
    stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context, https_compatible=True)
    try:
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


async def test_a_slow_body_costs_bounded_time(start_auth: StartAuth) -> None:
    async with start_auth(extra="[limits]\nbody_seconds = 0.1") as auth, _connection(auth) as stream:
        await stream.send_all(_UNFINISHED)
        with trio.fail_after(5):
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 408")


async def test_slow_headers_cost_bounded_time(start_auth: StartAuth) -> None:
    async with start_auth(extra="[limits]\nidle_seconds = 0.1") as auth, _connection(auth) as stream:
        await stream.send_all(_UNFINISHED[:40])
        with trio.fail_after(5):
            assert await stream.receive_some(4096) == b""


async def test_a_busy_server_says_so(start_auth: StartAuth) -> None:
    async with start_auth(extra="[limits]\nrequests = 1\nbody_seconds = 5") as auth, _connection(auth) as stream:
        await stream.send_all(_UNFINISHED)
        statuses = set()
        with trio.fail_after(5):
            while 503 not in statuses:  # the first request takes its place when its headers have arrived
                statuses.add((await auth.info(auth=None)).status_code)


_TWO_LENGTHS = (
    b"POST /rest/auth/TEST HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
)


@pytest.mark.parametrize("behind", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])
async def test_a_body_with_two_lengths_ends_the_connection(start_auth: StartAuth, behind: bytes) -> None:
    async with start_auth() as auth, _connection(auth) as stream:
        await stream.send_all(_TWO_LENGTHS + behind)
        replies = b""
        with trio.fail_after(10):
            while data := await stream.receive_some(4096):
                replies += data
        assert b" 200 " not in replies
        if not behind:  # else the connection may end without a word
            assert replies.startswith(b"HTTP/1.1 400 ")
            assert b"exclude each other" in replies


async def test_a_peer_that_does_not_read_is_left(start_auth: StartAuth) -> None:
    async with start_auth(extra="[limits]\nidle_seconds = 0.1\nrequests = 1") as auth, _connection(auth) as stream:

        async def ask_for_ever() -> None:
            while True:  # replies fill all buffers; then the server stops reading, and these too
                await stream.send_all(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)

        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            await ask_for_ever()
        with trio.fail_after(10):
            while (await auth.info(auth=None)).status_code == 503:  # until its place is free again
                pass


async def test_silent_connections_leave_room_for_others(start_auth: StartAuth) -> None:
    async with start_auth(extra="[limits]\nconnections = 16") as auth:
        address = ("127.0.0.1", int(auth.url.rpartition(":")[2]))
        async with AsyncExitStack() as opened:
            streams = [await opened.enter_async_context(await trio.open_tcp_stream(*address)) for _ in range(5)]
            with trio.fail_after(10), suppress(trio.BrokenResourceError):
                assert await streams[4].receive_some(1) == b"", "a quarter is for one address"
            other = httpx2.AsyncHTTPTransport(
                verify=ssl.create_default_context(cafile=auth.pki.ca_path), local_address="127.0.0.2"
            )
            async with httpx2.AsyncClient(transport=other, timeout=10) as client:
                assert (await client.get(f"{auth.url}/healthz")).status_code == 200
        with trio.fail_after(10):
            while True:  # until the server has noticed that they are gone
                with suppress(httpx2.TransportError):
                    assert (await auth.info()).status_code == 200
                    break


async def test_junk_instead_of_tls_or_http(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        port = int(auth.url.rpartition(":")[2])
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n" + os.urandom(64))
            with trio.fail_after(5):
                try:
                    while await stream.receive_some(4096):
                        pass
                except trio.BrokenResourceError:
                    pass
        assert (await auth.info()).status_code == 200


@pytest.mark.slow
async def test_the_request_as_a_whole_is_bounded(start_auth: StartAuth) -> None:
    async with start_auth(extra="[limits]\nrequest_seconds = 2") as auth:
        assert (await auth.post()).status_code == 200
        auth.node.silent = True
        with trio.fail_after(30):
            reply = await auth.post()
        assert reply.status_code == 503
        assert "too long" in reply.json()["errorMessage"]

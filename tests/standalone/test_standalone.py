"""`uftpd standalone` end to end: real processes, real TLS, real sessions."""

from __future__ import annotations

import ftplib
import io
import json
import os
import pwd
import signal
import socket
import ssl
import stat
import time
import urllib.error
import urllib.request
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from running_standalone import (
    PASSWORD,
    Standalone,
    account,
    alive,
    descendants,
    standalone,
    wait_until_gone,
)

from uftp.protocol.command_port import PingRequest, encode_request
from uftpd.config.data import DataConfig
from uftpd.config.toml import load
from uftpd.peers import fetch_authorities

pytestmark = pytest.mark.slow


def _call(server: Standalone, path: str = "", body: object = None, password: str = PASSWORD) -> Any:
    request = urllib.request.Request(server.auth + path, None if body is None else json.dumps(body).encode())
    request.add_header("Authorization", "Basic " + b64encode(f"joe:{password}".encode()).decode())
    if body is not None:
        request.add_header("Content-Type", "application/json")
    context = ssl.create_default_context(cafile=server.ca)
    with urllib.request.urlopen(request, context=context, timeout=60) as reply:
        return json.load(reply)


def _login(server: Standalone, name: str = "TEST", path: str = "/") -> ftplib.FTP:
    session = _call(server, f"/{name}", {"serverPath": path})
    ftp = ftplib.FTP()
    ftp.connect(session["serverHost"], session["serverPort"], timeout=60)
    ftp.login("anonymous", session["secret"])
    return ftp


def test_it_serves_and_ctrl_c_ends_all_of_it(tmp_path: Path) -> None:
    with standalone(tmp_path / "state") as server:
        assert set(server.ready) == {"auth", "nodes", "command", "ca", "pid"}
        assert server.ready["pid"] == server.pid
        info = _call(server)
        assert info["TEST"]["status"] == "OK"
        assert info["TEST"]["uid"] == account()
        assert info["client"]["dn"] == "CN=joe,O=UFTP standalone"
        with closing(_login(server)) as ftp:
            assert ftp.pwd() == "/"
            below = descendants(server.pid)
            assert len(below) >= 4
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(timeout=60) == 0
        assert wait_until_gone(below) == []
        assert "Traceback" not in server.log()


def test_sessions_run_as_the_mapped_user(tmp_path: Path, open_directory: Path) -> None:
    state = tmp_path / "state"
    with standalone(state) as server, closing(_login(server, path=f"{open_directory}/")) as ftp:
        ftp.storbinary("STOR new", io.BytesIO(b"hello"))
        assert (open_directory / "new").read_bytes() == b"hello"
        assert (open_directory / "new").stat().st_uid == pwd.getpwnam(account()).pw_uid
        received = io.BytesIO()
        ftp.retrbinary("RETR new", received.write)
        assert received.getvalue() == b"hello"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it_too(tmp_path: Path, number: int) -> None:
    with standalone(tmp_path / "state") as server:
        server.process.send_signal(number)
        assert server.process.wait(timeout=60) == 0


def test_kill_of_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    with standalone(tmp_path / "state") as server, closing(_login(server)):
        below = descendants(server.pid)
        server.process.kill()
        server.process.wait()
        assert wait_until_gone(below) == []


def test_the_end_of_one_server_ends_all(tmp_path: Path) -> None:
    with standalone(tmp_path / "state", "--node", "A", "--node", "B") as server:
        below = descendants(server.pid)
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        assert server.process.wait(timeout=30) == 1
        assert server.process.stderr is not None
        message = server.process.stderr.read()
        assert message.startswith("uftpd: data node A ended unexpectedly")
        assert len(message.splitlines()) == 1
        assert wait_until_gone(below) == []


def test_a_terminals_interrupt_reaches_only_the_supervisor(tmp_path: Path) -> None:
    with standalone(tmp_path / "state") as server:
        groups = {os.getpgid(int(child)) for child in _children(server.pid)}
        assert os.getpgid(server.pid) not in groups
        assert len(groups) == 2


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_several_nodes_and_a_port_range(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        low = min(probe.getsockname()[1], 65000)
    options = ["--node", "A", "--node", "B", "--port-range", f"{low}:{low + 50}", "--allow-peer", "192.0.2.7:21"]
    with standalone(tmp_path / "state", *options) as server:
        assert set(server.ready["nodes"]) == set(server.ready["command"]) == {"A", "B"}
        addresses = [*server.ready["nodes"].values(), *server.ready["command"].values()]
        assert len(set(addresses)) == 4
        assert set(_call(server)) == {"A", "B", "client", "server"}
        for name in ("A", "B"):
            with closing(_login(server, name)) as ftp:
                host, port = ftp.makepasv()
                assert host == "127.0.0.1"
                assert low <= port <= low + 50
            config = tmp_path / f"state/nodes/{name}/data.toml"
            copies = load(config, DataConfig).copies
            others = [*server.ready["nodes"].values(), urlsplit(server.auth).netloc, "192.0.2.7:21"]
            assert set(copies.allow) >= set(others), "nodes copy with each other, and fetch what is shared here"
            assert not [entry for entry in copies.allow if ":" not in entry], "each at its port only"
            assert fetch_authorities(copies) == Path(server.ca).read_text()


def test_everything_is_kept_and_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    kept = ("ca.pem", "private/ca.key", "auth/auth.pem", "auth/transfers.key", "nodes/TEST/node.pem")
    with standalone(state) as server:
        first = [(state / name).read_bytes() for name in kept]
        expected = 0o700 if os.geteuid() else 0o711
        assert stat.S_IMODE(state.stat().st_mode) == expected
        for path in state.rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            if path.is_dir():
                assert mode & 0o007 == 0, path
            elif path.suffix == ".key" or path.parent.name == "accounts" or path.name in ("lock", "uftpd.log"):
                assert mode == 0o600, path
        assert PASSWORD not in server.log()
    with standalone(state) as server:
        assert [(state / name).read_bytes() for name in kept] == first
        _call(server)


def test_wrong_passwords_are_refused(tmp_path: Path) -> None:
    with standalone(tmp_path / "state") as server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            _call(server, password="wrong")
        with caught.value as reply:
            assert reply.code == 403


def test_the_command_port_takes_only_our_auth_server(tmp_path: Path) -> None:
    with standalone(tmp_path / "state") as server:
        host, _, port = server.ready["command"]["TEST"].rpartition(":")
        asked = encode_request(PingRequest())
        anybody = ssl.create_default_context(cafile=server.ca)
        assert _ask(anybody, host, int(port), asked) == b""
        node = server.state / "nodes/TEST"
        if os.access(node / "node.key", os.R_OK):
            # Issued by the right authority, but not on the list.
            anybody.load_cert_chain(node / "node.pem", node / "node.key")
            assert _ask(anybody, host, int(port), asked) == b""
            anybody.load_cert_chain(server.state / "auth/auth.pem", server.state / "auth/auth.key")
            assert _ask(anybody, host, int(port), asked).startswith(b"Version: ")


def _ask(context: ssl.SSLContext, host: str, port: int, request: bytes) -> bytes:
    try:
        with (
            socket.create_connection((host, port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=host) as stream,
        ):
            stream.sendall(request)
            reply = b""
            while data := stream.recv(4096):
                reply += data
            return reply
    except (ssl.SSLError, ConnectionError):
        return b""


def test_the_auth_server_has_no_rights(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has rights to drop")
    with standalone(tmp_path / "state") as server:
        auth = int(_children(server.pid)[-1])
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{auth}/status").read_text().splitlines() if ":\t" in line
        )
        nobody = str(pwd.getpwnam("nobody").pw_uid)
        assert status["Uid"].split() == [nobody] * 4
        assert "0" not in status["Gid"].split() + status["Groups"].split()
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        # The files it reads again are in reach, whatever the directories above are like.
        (server.state / "auth/map.json").write_text("{}")
        with pytest.raises(urllib.error.HTTPError) as caught:
            _call(server, "/TEST", {"serverPath": ""})
        with caught.value as reply:
            assert reply.code == 403


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    with standalone(tmp_path / "state") as server:
        below = descendants(server.pid)
        nodes = _children(server.pid)
        os.kill(int(nodes[0]), signal.SIGSTOP)  # a data node that cannot react
        server.process.send_signal(signal.SIGINT)
        while alive(int(nodes[-1])):  # the auth server has ended: the first signal has been taken
            time.sleep(0.01)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 1
        assert wait_until_gone(below) == []

"""`uftpd standalone` end to end: real processes, real TLS, real sessions."""

from __future__ import annotations

import ftplib
import io
import json
import os
import pwd
import re
import shlex
import signal
import socket
import ssl
import stat
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from running_standalone import (
    PASSWORD,
    UFTPD,
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
    with urllib.request.urlopen(request, context=context, timeout=20) as reply:
        return json.load(reply)


def _login(server: Standalone, name: str = "TEST", path: str = "/") -> ftplib.FTP:
    session = _call(server, f"/{name}", {"serverPath": path})
    ftp = ftplib.FTP()
    ftp.connect(session["serverHost"], session["serverPort"], timeout=20)
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
            assert server.process.wait(timeout=20) == 0
        assert wait_until_gone(below) == []
        assert "Traceback" not in server.log()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory in reach of every account; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


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
        assert server.process.wait(timeout=20) == 0


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
            socket.create_connection((host, port), timeout=20) as plain,
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


# -- what people see --------------------------------------------------------------------------------------------------


def _refused(*options: str) -> str:
    done = subprocess.run([str(UFTPD), "standalone", *options], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("uftpd: ")
    return done.stderr


def _mapped(name: str = "joe") -> list[str]:
    return ["--map", f"{name}:{account()}"] if os.geteuid() == 0 else []


def test_a_newcomer_is_told_what_to_do(tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = [str(UFTPD), "standalone", "--state", str(state), *_mapped()]
    command += ["--auth-port", "0", "--ftp-port", "0", "--command-port", "0"]
    passwords = []
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        passwords.append([line for line in lines if " password " in line and "shown once" in line])
        text = "".join(lines)
        assert f"--ca {state}/ca.pem -u" in text
        assert "uftp ls" in text
        assert "/rest/auth/TEST:" in text
        assert rest == ""
    # Shown once, and kept.
    assert len(passwords[0]) == 1
    assert passwords[1] == []
    [path] = (state / "accounts").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"password {path.read_text().strip()} " in passwords[0][0]


def test_the_commands_it_shows_work(tmp_path: Path, open_directory: Path) -> None:
    command = [str(UFTPD), "standalone", "--state", str(tmp_path / "state"), *_mapped()]
    command += ["--auth-port", "0", "--ftp-port", "0", "--command-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        shown = []
        while "Ctrl-C" not in (line := process.stdout.readline()):
            shown.append(line)
        commands = [shlex.split(line) for line in shown if line.startswith("  uftp ")]
        (tmp_path / "FILE").write_text("hello")
        home = pwd.getpwnam(account()).pw_dir + "/"
        for words in commands:
            # The account's home may not exist on a test machine.
            replaced = [word.replace(f":{home}", f":{open_directory}/") for word in words]
            replaced[0] = str(UFTPD.with_name("uftp"))
            done = subprocess.run(
                replaced,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
                stdin=subprocess.DEVNULL,
            )
            assert done.returncode == 0, done.stderr
        assert [words[1] for words in commands] == ["info", "ls", "cp"]
        assert (open_directory / "FILE").read_text() == "hello"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_one_id_from_the_clients_log_to_the_sessions(tmp_path: Path, open_directory: Path) -> None:
    with standalone(tmp_path / "state") as server:
        command = [str(UFTPD.with_name("uftp")), "ls", "--debug", "--ca", server.ca, "-u", f"joe:{PASSWORD}"]
        command.append(f"{server.auth}/TEST:{open_directory}/")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        [name] = set(re.findall(r"> POST \S+ \(request ([0-9a-f]{16})\)", done.stderr))
        deadline = time.monotonic() + 20
        while f"request={name}" not in server.log() and time.monotonic() < deadline:
            time.sleep(0.05)
        log = server.log().splitlines()
        assert any("session granted" in line and f"id={name}" in line for line in log)
        assert any("session=" in line and f"request={name}" in line for line in log)


def test_security_sessions_outlive_a_restart(tmp_path: Path) -> None:
    """As root the auth server has given up the right to open its own store; it must have it open."""
    header = "X-UNICORE-SecuritySession"
    with standalone(tmp_path / "state") as server:
        given = _with_header(server, "Authorization", "Basic " + b64encode(f"joe:{PASSWORD}".encode()).decode())
        shown = given.headers[header]
        assert json.load(_with_header(server, header, shown))["client"]["dn"].startswith("CN=joe")
    with standalone(tmp_path / "state") as server:
        assert json.load(_with_header(server, header, shown))["client"]["dn"].startswith("CN=joe")
        assert "store cannot be used" not in server.log()


def _with_header(server: Standalone, name: str, value: str) -> Any:
    request = urllib.request.Request(server.auth, headers={name: value})
    return urllib.request.urlopen(request, context=ssl.create_default_context(cafile=server.ca), timeout=20)


def test_two_cannot_use_one_directory(tmp_path: Path) -> None:
    with standalone(tmp_path / "state") as server:
        message = _refused("--state", str(tmp_path / "state"), *_mapped(), "--auth-port", "0", "--ftp-port", "0")
        assert f"in use by process {server.pid}" in message


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with standalone(tmp_path / "state") as server:
        port = server.auth.split(":")[2].partition("/")[0]
        message = _refused("--state", str(tmp_path / "other"), *_mapped(), "--auth-port", port, "--ftp-port", "0")
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use; --auth-port takes another" in message


@pytest.mark.parametrize("name", ["uftpd.log", "private/ca.key", "auth/map.json", "nodes/TEST/acl", "lock", "ca.pem"])
def test_what_is_in_the_way_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "state" / name
    path.mkdir(parents=True)
    free = ["--auth-port", "0", "--ftp-port", "0", "--command-port", "0"]
    assert f"{path}: Is a directory" in _refused("--state", str(tmp_path / "state"), *_mapped(), *free)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the service user matters only to root")
    free = ["--auth-port", "0", "--ftp-port", "0", "--command-port", "0", "--service-user", "none-such"]
    message = _refused("--state", str(tmp_path / "state"), *_mapped(), *free)
    assert "--service-user: there is no local account 'none-such'" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--user", "joe"], "--user: expected NAME:PASSWORD"),
        (["--user", "joe:a", "--user", "joe:b"], "--user: names must differ"),
        (["--node", "A-B"], "--node: 'A-B' cannot be a name"),
        (["--allow-peer", "127.1:21"], "--allow-peer: '127.1' is no host name or address"),
        (["--peer-ca", "/nowhere/ca.pem"], "--peer-ca: /nowhere/ca.pem: No such file or directory"),
        (["--peer-ca", "/dev/null"], "--peer-ca: /dev/null: no certificate of an authority in PEM form"),
        (["--port-range", "9:5"], "--port-range: '9:5' is not LOW:HIGH"),
        (["--auth-port", "70000"], "--auth-port"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--frob"], "No such option"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, options: list[str], expected: str) -> None:
    free = ["--auth-port", "0", "--ftp-port", "0", "--command-port", "0"]
    assert expected in _refused("--state", str(tmp_path / "state"), *_mapped(), *free, *options)


def test_root_must_say_who_is_who(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("for root")
    message = _refused("--state", str(tmp_path / "state"))
    assert "refusing to run as root without --map" in message
    assert not (tmp_path / "state").exists()


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    with standalone(tmp_path / "state") as server:
        below = descendants(server.pid)
        nodes = _children(server.pid)
        os.kill(int(nodes[0]), signal.SIGSTOP)  # a data node that cannot react
        server.process.send_signal(signal.SIGINT)
        while alive(int(nodes[-1])):  # the auth server has ended: the first signal has been taken
            time.sleep(0.01)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=20) == 1
        assert wait_until_gone(below) == []

"""What `uftpd standalone` tells people: commands that work, one line for a mistake, a log that can be followed."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import signal
import ssl
import stat
import subprocess
import time
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from running_standalone import PASSWORD, UFTPD, Standalone, account, standalone

pytestmark = pytest.mark.slow


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
        rest, _ = process.communicate(timeout=60)
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
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_one_id_from_the_clients_log_to_the_sessions(tmp_path: Path, open_directory: Path) -> None:
    with standalone(tmp_path / "state") as server:
        command = [str(UFTPD.with_name("uftp")), "ls", "--debug", "--ca", server.ca, "-u", f"joe:{PASSWORD}"]
        command.append(f"{server.auth}/TEST:{open_directory}/")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        [name] = set(re.findall(r"> POST \S+ \(request ([0-9a-f]{16})\)", done.stderr))
        deadline = time.monotonic() + 60
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
    return urllib.request.urlopen(request, context=ssl.create_default_context(cafile=server.ca), timeout=60)


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

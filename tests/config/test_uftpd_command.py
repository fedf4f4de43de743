"""The command `uftpd`: checks of configuration files, lines for password files, errors and exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from uftpd.auth.identity.password_file import parse_password_file, verify_password

UFTPD = Path(sys.executable).parent / "uftpd"

pytestmark = pytest.mark.slow


def _uftpd(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(UFTPD), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Configuration files of an auth server and a data node, and all they name."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    pair = ca.issue_cert("localhost")
    pair.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    pair.private_key_pem.write_to_path(str(tmp_path / "server.key"))
    (tmp_path / "passwords").write_text("")
    (tmp_path / "map.json").write_text("{}")
    (tmp_path / "acl").write_text("CN=auth\n")
    (tmp_path / "auth.toml").write_text("""
[server]
certificate = "server.pem"
key = "server.key"
[login]
password_file = "passwords"
[attributes]
map_file = "map.json"
[command_port]
ca = "ca.pem"
[nodes.TEST]
instances = [{host = "localhost", command = "localhost:64435"}]
""")
    (tmp_path / "data.toml").write_text("""
[command_port]
certificate = "server.pem"
key = "server.key"
ca = "ca.pem"
acl = "acl"
""")
    return tmp_path


def test_good_files(files: Path) -> None:
    done = _uftpd("check-config", files / "auth.toml", files / "data.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{files}/auth.toml: ok", f"{files}/data.toml: ok"]


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("auth.toml", "[login]", "[logni]", "logni: unknown setting; allowed here: attributes"),
        ("auth.toml", 'ca = "ca.pem"', "", "command_port.ca: required"),
        ("auth.toml", "[login]", "[store]\npath = 'none/x'\n[login]", "store.path: {0}/none/x: no file in a directory"),
        (
            "auth.toml",
            "[login]",
            "[store]\nurl = 'mysql://x'\n[login]",
            "url: expected postgresql://USER@HOST/DATABASE",
        ),
        ("auth.toml", "[login]", "[store]\nurl = 'postgresql://h:x'\n[login]", "store.url: expected postgresql://"),
        ("auth.toml", "[login]", "[monitoring]\nlisten = ['9464']\n[login]", "monitoring.listen"),
        ("auth.toml", '"server.key"', '"none.key"', "none.key: cannot be read"),
        ("auth.toml", '"ca.pem"', '"passwords"', "passwords: no usable CA certificates"),
        ("auth.toml", '"map.json"', '"acl"', "acl: not valid JSON"),
        ("passwords", "", "joe:x\n", "passwords: line 1: expected name:hash:salt:DN"),
        ("data.toml", 'acl = "acl"', "", "command_port.acl: required"),
        ("data.toml", 'acl = "acl"', 'acl = "none"', "none: cannot be read: No such file"),
        ("data.toml", '"server.key"', '"ca.pem"', "server.pem, {0}/ca.pem: no certificate with its unencrypted key"),
        ("data.toml", 'ca = "ca.pem"', 'ca = "acl"', "acl: no usable CA certificates"),
        ("data.toml", "[command_port]", "[files]\ndurability = 'always'\n[command_port]", "allowed are 'rename', 'fs"),
        ("acl", "", "CN=auth\nsomebody\n", "acl: line 2: A name is"),
        ("acl", "", "# nobody yet\n", "acl: names nobody"),
        ("data.toml", "[command_port]", "[ftp]\nport = 1\n[command_port]", "ftp.port: unknown setting"),
        ("data.toml", "[command_port]", "[", "not valid TOML"),
    ],
)
def test_mistakes(files: Path, file: str, old: str, new: str, expected: str) -> None:
    path = files / file
    path.write_text(path.read_text().replace(old, new) if old else new)
    done = _uftpd("check-config", files / "auth.toml", files / "data.toml")
    assert done.returncode == 2
    assert expected.format(files) in done.stderr
    assert all(line.startswith("uftpd: ") for line in done.stderr.splitlines())
    assert len(done.stdout.splitlines()) == 1
    assert len(set(done.stderr.splitlines())) == len(done.stderr.splitlines())


@pytest.mark.skipif(os.geteuid() != 0, reason="without root no other account is needed")
@pytest.mark.parametrize(("account", "expected"), [("nobody-here", "create it"), ("root", "without rights is needed")])
def test_the_service_user_must_exist(files: Path, account: str, expected: str) -> None:
    path = files / "data.toml"
    path.write_text(f'{path.read_text()}[users]\nservice_user = "{account}"\n')
    for command in (["check-config", path], ["data", "--config", path]):
        done = _uftpd(*command)
        assert done.returncode == 2
        assert done.stderr.startswith("uftpd: users.service_user: ")
        assert expected in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_alone_it_shows_its_help() -> None:
    done = _uftpd()
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) > 5


def test_a_line_for_the_password_file() -> None:
    done = _uftpd("auth", "hash-password", "joe", "CN=Joe,O=x", stdin="pass word\n")
    assert (done.returncode, done.stderr) == (0, "")
    table = parse_password_file(done.stdout)
    assert verify_password(table.accounts["joe"], b"pass word", table.decoy)
    assert table.accounts["joe"].dn == "CN=Joe,O=x"


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        (["auth", "hash-password", "a:b", "CN=x"], "p\n", "a login name must not"),
        (["auth", "hash-password", "joe", "Joe"], "p\n", "no valid DN"),
        (["auth", "hash-password", "joe", "CN=x"], "\n", "the password is empty"),
        (["auth"], "", "--config FILE is needed"),
        (["data"], "", "--config"),
        (["data", "--config", "/nonexistent/x.toml"], "", "/nonexistent/x.toml: cannot be read"),
        (["nonsense"], "", "No such command 'nonsense'"),
        (["check-config"], "", "Missing argument"),
    ],
)
def test_errors_are_one_line(arguments: list[str], stdin: str, expected: str) -> None:
    done = _uftpd(*arguments, stdin=stdin)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr


def test_help_and_version_are_quick_to_load() -> None:
    assert _uftpd("--version").stdout.startswith("uftpd ")
    for arguments in (["--help"], ["standalone", "--help"], ["auth", "--help"], ["data", "--help"]):
        done = _uftpd(*arguments)
        assert done.returncode == 0
        assert "Usage: uftpd" in done.stdout
    code = (
        "import sys, uftpd.cli; heavy = {'trio', 'starlette', 'hypercorn', 'cryptography', 'argon2'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (loaded.returncode, loaded.stderr) == (0, "")

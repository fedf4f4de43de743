"""What `uftpd check-config` warns of, and what more it finds wrong."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from uftpd.check import EXPIRY_DAYS, check_file

UFTPD = Path(sys.executable).parent / "uftpd"
DAY = dt.timedelta(days=1)

AUTH = """
[server]
certificate = "server.pem"
key = "server.key"
[command_port]
ca = "ca.pem"
[login.ssh]
key_file = "keys"
[nodes.TEST]
reservations = "reservations.json"
instances = [{host = "localhost", command = "localhost:64435"}]
"""
DATA = """
[command_port]
certificate = "server.pem"
key = "server.key"
ca = "ca.pem"
acl = "acl"
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files of both servers; their certificate holds for 100 days."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    pair = ca.issue_cert("localhost", not_before=dt.datetime.now(dt.UTC) - DAY, not_after=_end())
    pair.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    pair.private_key_pem.write_to_path(str(tmp_path / "server.key"))
    for name, text in (("auth.toml", AUTH), ("data.toml", DATA), ("acl", "CN=auth\n"), ("keys", "")):
        (tmp_path / name).write_text(text)
    return tmp_path


def _end() -> dt.datetime:
    return (dt.datetime.now(dt.UTC) + 100 * DAY).replace(microsecond=0)


@pytest.mark.parametrize("name", ["auth.toml", "data.toml"])
def test_certificates_that_do_not_hold(files: Path, name: str) -> None:
    end = x509.load_pem_x509_certificate((files / "server.pem").read_bytes()).not_valid_after_utc

    def warnings(now: dt.datetime) -> list[str]:
        checked = check_file(files / name, now)
        assert checked.problems == []
        assert all(warning.startswith(f"{files}/server.pem: the certificate of 'OU=") for warning in checked.warnings)
        return [warning.partition("' ")[2] for warning in checked.warnings]

    assert warnings(end - (EXPIRY_DAYS + 1) * DAY) == []
    assert warnings(end - DAY) == [f"expires on {end:%Y-%m-%d}"]
    assert warnings(end + DAY) == [f"expired on {end:%Y-%m-%d}; peers will refuse it"]
    assert warnings(end - 200 * DAY)[0].startswith("holds from ")


@pytest.mark.slow
def test_a_warning_is_no_failure(files: Path) -> None:
    ca = trustme.CA()
    past = dt.datetime.now(dt.UTC) - DAY
    pair = ca.issue_cert("localhost", not_before=past - DAY, not_after=past)
    pair.cert_chain_pems[0].write_to_path(str(files / "server.pem"))
    pair.private_key_pem.write_to_path(str(files / "server.key"))
    done = subprocess.run(
        [UFTPD, "check-config", files / "auth.toml"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"{files}/auth.toml: ok\n")
    assert done.stderr.startswith(f"uftpd: warning: {files}/server.pem: the certificate of '")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("keys", "joe:x\n", "keys: line 1: expected name:key:DN"),
        ("keys", None, "keys: cannot be read: No such file"),
        ("reservations.json", "{", "reservations.json: not valid JSON"),
        ("reservations.json", '{"reservations": [{}]}', "reservations.json: entry 1: from: required"),
    ],
)
def test_files_that_are_named(files: Path, file: str, text: str | None, expected: str) -> None:
    if text is None:
        (files / file).unlink()
    else:
        (files / file).write_text(text)
    problems = check_file(files / "auth.toml").problems
    assert len(problems) == 1
    assert expected in problems[0]


def test_reservations_may_come_later(files: Path) -> None:
    assert check_file(files / "auth.toml").problems == []


OBJECTS = """
[objects]
listen_tls = ["[::]:9443"]
certificate = "server.pem"
key = "server.key"
"""


@pytest.mark.parametrize(
    ("objects", "problem"),
    [
        (OBJECTS, ""),
        (OBJECTS + 'url = "https://data1.example.org"', ""),
        (OBJECTS + 'url = "https://[2001:db8::1]:9443"', ""),
        (OBJECTS + 'url = "https://data1.example.org/files"', "objects.url: expected"),
        (OBJECTS + 'url = "ftp://data1.example.org"', "objects.url: expected"),
        (OBJECTS.replace("server.key", "other.key"), "other.key: cannot be read"),
        (OBJECTS.replace("server.key", "ca.pem"), "no certificate with its unencrypted key"),
        (OBJECTS.replace('key = "server.key"', ""), "objects.key: required for objects.listen_tls"),
        ('[objects]\nurl = "https://h"', "objects.url: there is no object server"),
    ],
)
def test_the_object_server_of_a_data_node(files: Path, objects: str, problem: str) -> None:
    config = files / "data.toml"
    config.write_text(DATA + '[users]\nservice_user = "nobody"\n' + objects)
    checked = check_file(config)
    assert len(checked.problems) == bool(problem), checked.problems
    assert problem in "".join(checked.problems)
    assert not checked.warnings


@pytest.mark.parametrize(
    ("listen", "warned"), [("127.0.0.1:80", False), ("[::1]:80", False), ("[::]:80", True), ("192.0.2.7:80", True)]
)
def test_files_that_go_over_plain_http(files: Path, listen: str, warned: bool) -> None:
    config = files / "data.toml"
    config.write_text(DATA + f'[users]\nservice_user = "nobody"\n[objects]\nlisten = ["{listen}"]\n')
    warnings = check_file(config).warnings
    assert [("without TLS anybody" in line) for line in warnings] == [True] * warned
    config.write_text(config.read_text() + 'url = "https://files.example.org"\n')
    assert not check_file(config).warnings, "a proxy encrypts"


# -- copies between servers -----------------------------------------------------------------------------------------

PLAIN = "[command_port]\nplain = true\n[copies]\n"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('allow = ["0x7f.1"]', "copies: allow: '0x7f.1' is no host name or address"),
        ('allow = ["a.example.org."]', "copies: allow: 'a.example.org.' is no host name or address"),
        ('allow = ["a.example.org", "10.0.0.1/8"]', "copies: allow: '10.0.0.1/8' is an address in a network; "),
        ('allow = ["a.example.org:0"]', "copies: allow: 'a.example.org:0': a port is a number from 1 to 65535"),
        ('allow = ["[fe80::1%eth0]"]', "copies: allow: 'fe80::1%eth0': an address with a zone"),
        ('allow = ["::ffff:10.0.0.0/104"]', "copies: allow: '::ffff:10.0.0.0/104': write it as IPv4"),
        ('deny = ["a.example.org"]', "copies: deny: 'a.example.org' is no address or network"),
        ('https = "all"', "copies.https: 'all' is not allowed, allowed are 'public', 'listed', 'none'"),
        ('https_ports = ["x"]', "copies.https_ports[0]: 'x' is not LOW:HIGH"),
        ('alow = ["a.example.org"]', "copies.alow: unknown setting; allowed here: allow, announced, deny, "),
    ],
)
def test_lists_of_other_servers(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "data.toml"
    path.write_text(PLAIN + line)
    checked = check_file(path)
    assert len(checked.problems) == 1
    assert checked.problems[0].startswith(f"{path}: {problem}")


def test_authorities_for_urls_are_read(tmp_path: Path) -> None:
    path = tmp_path / "data.toml"
    path.write_text(PLAIN + 'https_ca = "ca.pem"')
    assert check_file(path).problems == [f"{tmp_path}/ca.pem: cannot be read: No such file or directory"]
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    assert check_file(path).problems == []


def test_networks_that_hold_this_machine_are_doubted(tmp_path: Path) -> None:
    path = tmp_path / "data.toml"
    path.write_text(PLAIN + 'allow = ["10.0.0.0/8", "127.0.0.0/8", "127.0.0.1", "a.example.org", "0.0.0.0/0", "::/0"]')
    checked = check_file(path)
    assert checked.problems == []
    assert checked.warnings == [
        (
            f"{path}: copies.allow: '0.0.0.0/0' holds 127.0.0.0/8 and 169.254.0.0/16: "
            "users then reach services that listen there"
        ),
        f"{path}: copies.allow: '::/0' holds ::1/128 and fe80::/10: users then reach services that listen there",
    ]

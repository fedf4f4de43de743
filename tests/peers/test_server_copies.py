"""Copies between servers as the clients of the field start them: `pyuftp rcp`, and a secret that pyunicore was given.

`pyuftp rcp` asks for a login on either side, has the receiving server fetch, and ends: what becomes of the copy it
never learns. So the copy must go on without the session that started it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_node import Person
from ftp_account import BINARY, tree
from peer_programs import Outcome, beside_python, run
from raw_ftp import eventually
from uftp_site import Site, running_site

pytestmark = pytest.mark.slow

_SECONDS = 30.0
CONTENT = BINARY * 4
CIPHERS = ("BLOWFISH", "AES")


@pytest.fixture(scope="module")
def nodes(peer_people: tuple[Person, Person]) -> Iterator[Site]:
    """A site with two data nodes, which may copy between each other, as all nodes of a site do."""
    options = ["--node", "TEST", "--node", "OTHER"]
    with running_site(peer_people[:1], as_root=os.geteuid() == 0, options=options) as site:
        yield site


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """The client's directory."""
    path = tmp_path / "local"
    path.mkdir()
    return path


def other(site: Site, path: Path) -> str:
    """URL at the second node."""
    return f"{site.auth}/OTHER:{path}"


def rcp(site: Site, local: Path, *arguments: str, code: int = 0, cipher: str = "") -> Outcome:
    login = ("-u", f"{site.first}:{site.password(site.first)}")
    variables = {"PYTHONWARNINGS": "ignore"} | ({"UFTP_ENCRYPTION_ALGORITHM": cipher} if cipher else {})
    command = (beside_python("pyuftp"), "rcp", *arguments, *login)
    return run(*command, cwd=local, code=code, stdin=None, **variables)


def arrives(path: Path, content: bytes) -> None:
    eventually(lambda: path.exists() and path.read_bytes() == content, _SECONDS, f"{path} as it should be")


@pytest.mark.parametrize(
    ("options", "cipher"),
    [
        ((), ""),
        (("-n", "2"), ""),
        (("-C",), ""),
        (("-C", "-n", "3"), ""),
        *((("-E",), cipher) for cipher in CIPHERS),
        *((("-E", "-C"), cipher) for cipher in CIPHERS),
        *((("-E", "-n", "2"), cipher) for cipher in CIPHERS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_pyuftp_rcp(nodes: Site, local: Path, options: tuple[str, ...], cipher: str) -> None:
    source, target = nodes.directory(), nodes.directory()
    nodes.file(source / "file", CONTENT)
    rcp(nodes, local, *options, nodes.url(source / "file"), other(nodes, target / "copy"), cipher=cipher)
    arrives(target / "copy", CONTENT)
    assert list(tree(target)) == ["copy"]


def test_pyuftp_rcp_says_which_process_it_has_started(nodes: Site, local: Path) -> None:
    source, target = nodes.directory(), nodes.directory()
    nodes.file(source / "file", CONTENT)
    said = rcp(nodes, local, "-v", other(nodes, source / "file"), nodes.url(target / "copy")).text
    assert "299 OK transfer-process-ID=" in said
    arrives(target / "copy", CONTENT)


def test_pyuftp_rcp_of_several_files(nodes: Site, local: Path) -> None:
    """All go to the one name it was told: the last one wins, wholly."""
    source, target = nodes.directory(), nodes.directory()
    contents = [CONTENT[number:] for number in range(3)]
    for number, content in enumerate(contents):
        nodes.file(source / f"file{number}", content)
    sources = [nodes.url(source / f"file{number}") for number in range(3)]
    rcp(nodes, local, *sources, other(nodes, target / "copy"))
    eventually(lambda: (target / "copy").exists(), _SECONDS, "the copy")
    assert (target / "copy").read_bytes() in contents


def test_pyuftp_rcp_of_a_range(nodes: Site, local: Path) -> None:
    source, target = nodes.directory(), nodes.directory()
    nodes.file(source / "file", CONTENT)
    there = nodes.file(target / "there", bytes(5000))
    rcp(nodes, local, "-B", "1000-1999-p", nodes.url(source / "file"), other(nodes, there))
    arrives(there, bytes(1000) + CONTENT[1000:2000] + bytes(3000))


def test_pyuftp_rcp_from_a_server_whose_password_one_was_given(nodes: Site, local: Path) -> None:
    source, target = nodes.directory(), nodes.directory()
    nodes.file(source / "file", CONTENT)
    login = ("-u", f"{nodes.first}:{nodes.password(nodes.first)}")
    said = run(beside_python("pyuftp"), "authenticate", nodes.url(f"{source}/"), *login, cwd=local).text
    # "Connect to HOST:PORT password: SECRET"
    words = said.split()
    arguments = ("--server", words[2], "--one-time-password", words[4])
    rcp(nodes, local, *arguments, "file", other(nodes, target / "copy"))
    arrives(target / "copy", CONTENT)


def test_pyuftp_rcp_hears_what_cannot_be_started(nodes: Site, local: Path) -> None:
    source = nodes.directory()
    nodes.file(source / "file", CONTENT)
    said = rcp(nodes, local, nodes.url(source / "file"), other(nodes, source / "nosuch" / "copy"), code=1)
    assert "5" in said.text + said.err
    arguments = ("--server", "127.0.0.9:64434", "--one-time-password", "secret")
    said = rcp(nodes, local, *arguments, "file", other(nodes, source / "copy"), code=1)
    assert not (source / "copy").exists()


# It does not verify certificates, and says so with each request.
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_password_pyunicore_was_given_opens_the_other_side(nodes: Site) -> None:
    credentials = pytest.importorskip("pyunicore.credentials")
    client = pytest.importorskip("pyunicore.uftp.uftp")
    source, target = nodes.directory(), nodes.directory()
    nodes.file(source / "file", CONTENT)
    credential = credentials.UsernamePassword(nodes.first, nodes.password(nodes.first))
    host, port, secret = client.UFTP().authenticate(credential, f"{nodes.auth}/TEST", f"{source}/")
    receiving = client.UFTP()
    receiving.connect(credential, f"{nodes.auth}/OTHER", f"{target}/")
    reply = receiving.ftp.sendcmd(f"RECEIVE-FILE 'copy' 'file' '{host}:{port}' '{secret}'")
    assert reply.startswith("299 OK transfer-process-ID=")
    receiving.close()
    arrives(target / "copy", CONTENT)

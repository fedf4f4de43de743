"""Servers for the clients of the field: a data node for FTP clients, and a standalone server for UFTP clients.

Both run once as root for several accounts, and once as an ordinary user.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS / "data")]  # one harness for data nodes, wherever it is used

from data_node import Node, Person, made_accounts, running_node  # noqa: E402
from ftp_account import FtpAccount  # noqa: E402
from uftp_site import Site, running_site  # noqa: E402

MODES = ("all-users", "one-user")


@pytest.fixture(scope="session")
def peer_people() -> Iterator[tuple[Person, Person]]:
    """Two accounts; without root there is only one's own."""
    if os.geteuid() != 0:
        own = Person.find(pwd.getpwuid(os.geteuid()).pw_name)
        yield own, own
        return
    with made_accounts("cd") as pair:
        yield pair


def _as_root(mode: str) -> bool:
    if mode == "all-users" and os.geteuid() != 0:
        pytest.skip("changing user needs root")
    return mode == "all-users"


@pytest.fixture(scope="session", params=MODES)
def peer_node(request: pytest.FixtureRequest, peer_people: tuple[Person, Person]) -> Iterator[Node]:
    """A data node with usual settings."""
    with running_node(peer_people[0], as_root=_as_root(request.param)) as node:
        yield node


@pytest.fixture(scope="session")
def peer_node_v6(peer_people: tuple[Person, Person]) -> Iterator[Node]:
    """A data node on IPv6."""
    with running_node(peer_people[0], as_root=os.geteuid() == 0, ftp_host="::1") as node:
        yield node


@pytest.fixture
def account(peer_node: Node, tmp_path: Path) -> FtpAccount:
    """A password that may be used many times, and directories of one's own on both ends."""
    return FtpAccount.open(peer_node, tmp_path / "local")


@pytest.fixture
def account_v6(peer_node_v6: Node, tmp_path: Path) -> FtpAccount:
    """The same on IPv6."""
    return FtpAccount.open(peer_node_v6, tmp_path / "local")


@pytest.fixture(scope="session", params=MODES)
def site(request: pytest.FixtureRequest, peer_people: tuple[Person, Person]) -> Iterator[Site]:
    """An auth server and a data node."""
    with running_site(peer_people, as_root=_as_root(request.param)) as running:
        yield running

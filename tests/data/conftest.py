"""Data nodes for tests: shared ones with usual settings, and such with settings of their own."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data_node import Node, Person, StartNode, made_accounts, running_node

NEEDS_ROOT = "changing user needs root"


@pytest.fixture(scope="session")
def people() -> Iterator[tuple[Person, Person]]:
    """Two accounts; without root there is only one's own, and tests that need a second are skipped."""
    if os.geteuid() != 0:
        own = Person.find(pwd.getpwuid(os.geteuid()).pw_name)
        yield own, own
        return
    with made_accounts("ab") as pair:
        yield pair


@pytest.fixture(scope="session")
def two_people(people: tuple[Person, Person]) -> tuple[Person, Person]:
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)
    return people


@pytest.fixture(scope="session")
def spare_home(people: tuple[Person, Person]) -> Path:
    """The home of an account that was made for the tests."""
    if os.geteuid() != 0:
        pytest.skip("would change your own home")
    return people[0].home


@pytest.fixture(scope="session", params=["all-users", "one-user"])
def shared_node(request: pytest.FixtureRequest, people: tuple[Person, Person]) -> Iterator[Node]:
    """A node with usual settings, started by root and by an ordinary user. Leave it as it was."""
    as_root = request.param == "all-users"
    if as_root and os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)
    with running_node(people[0], as_root=as_root, limits={"sessions_per_user": 100}) as node:
        yield node


@pytest.fixture
def start_node(people: tuple[Person, Person]) -> Iterator[StartNode]:
    """A node with settings of the test's own; serves all users where the tests run as root."""
    with contextlib.ExitStack() as stack:

        def start(**arguments: Any) -> Node:
            arguments.setdefault("as_root", os.geteuid() == 0)
            return stack.enter_context(running_node(people[0], **arguments))

        yield start

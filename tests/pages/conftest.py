"""One browser and one site for all tests of a process; a test finds the browser as new, and fails if it complains."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from chromium import Browser, running_browser

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS / "data")]  # one harness for data nodes, wherever it is used

from data_node import Person, made_accounts  # noqa: E402
from uftp_site import Site, running_site  # noqa: E402


@pytest.fixture(scope="session")
def started_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The process."""
    with running_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(started_browser: Browser) -> Iterator[Browser]:
    """A browser without history."""
    started_browser.start_anew()
    yield started_browser
    assert started_browser.complaints() == []


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """An auth server and a data node; as root for two accounts."""
    as_root = os.geteuid() == 0
    with ExitStack() as undo:
        own = Person.find(pwd.getpwuid(os.geteuid()).pw_name)
        people = undo.enter_context(made_accounts("gh")) if as_root else (own, own)
        yield undo.enter_context(running_site(people, as_root=as_root))

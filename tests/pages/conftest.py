"""One browser for all tests of a process; each test finds it as new, and fails if its console complains."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import Browser, running_browser


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

"""An auth server on a free loopback port, with real TLS towards clients and nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Postgres, postgres
from running_auth import Pki, StartAuth, make_password_lines, make_pki, starter


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def password_lines() -> str:
    return make_password_lines()


@pytest.fixture
def start_auth(tmp_path: Path, pki: Pki, password_lines: str) -> StartAuth:
    return starter(tmp_path, pki, password_lines)


@pytest.fixture(scope="session")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server

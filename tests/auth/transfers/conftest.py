"""A queue of transfers on each kind of store, without anything that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Postgres
from queueing import Clock, Queueing
from sqlalchemy import text

from uftpd.auth.metrics import Metrics
from uftpd.auth.store.engine import Store, make_engine, open_store
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.sealing import Sealer
from uftpd.config.operating import StoreSettings


@pytest.fixture
def postgresql(database: Postgres) -> StoreSettings:
    """An empty database, with room for several workers."""
    found = StoreSettings(url=database.url, timeout_seconds=30, connections=4)
    engine = make_engine(found)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSettings:
    if request.param == "sqlite":
        return StoreSettings(path=tmp_path / "store.sqlite", timeout_seconds=30)
    found: StoreSettings = request.getfixturevalue("postgresql")
    return found


@pytest.fixture
def store(store_settings: StoreSettings) -> Iterator[Store]:
    opened = open_store(store_settings)
    yield opened
    opened.close()


@pytest.fixture
def queueing(store: Store) -> Queueing:
    """Transfers on that store, with a clock that the test sets."""
    clock, metrics = Clock(), Metrics()
    sealer = Sealer([bytes(range(32))])
    found = Queueing(store, clock, metrics, sealer)
    found.managed = ManagedTransfers(store, sealer, metrics, lambda: found.settings, clock)
    return found

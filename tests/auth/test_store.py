"""The store, on SQLite and PostgreSQL alike: migration, failures, time limits, bounded tables."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import trio
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from postgres import Postgres, start, stop
from sqlalchemy import Connection, event, text

from uftpd.auth.errors import BadRequest
from uftpd.auth.store import revocations, sessions
from uftpd.auth.store.engine import Store, StoreUnavailable, make_engine, open_store
from uftpd.auth.store.housekeeping import Tally, sweep
from uftpd.auth.store.migration import migrate
from uftpd.auth.store.revocations import StoredRevocations
from uftpd.auth.store.schema import metadata, revoked_tokens
from uftpd.auth.store.sessions import SessionRow
from uftpd.config.operating import StoreSettings
from uftpd.config.toml import ConfigError


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSettings:
    if request.param == "memory":
        return StoreSettings()
    if request.param == "sqlite":
        return StoreSettings(path=tmp_path / "store.sqlite")
    database: Postgres = request.getfixturevalue("database")
    found = StoreSettings(url=database.url)
    engine = make_engine(found)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return found


@pytest.fixture
def store(settings: StoreSettings) -> Iterator[Store]:
    opened = open_store(settings)
    yield opened
    opened.close()


def row(number: int, person: str = "cn=a", address: str = "192.0.2.1", *, expires: float = 2000.0) -> SessionRow:
    return SessionRow(
        id_hash=number.to_bytes(32, "big"),
        person=person,
        address=address,
        identity="{}",
        token_id=f"t{number}" if number % 2 else None,
        created=1000.0 + number,
        expires=expires,
    )


def adding(new: SessionRow, per_address: int, per_person: int) -> Callable[[Connection], None]:
    def add(connection: Connection) -> None:
        sessions.add(connection, new, per_address=per_address, per_person=per_person)

    return add


def test_the_steps_lead_to_the_tables(store: Store) -> None:
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_second_start_has_nothing_to_do(store: Store) -> None:
    assert not migrate(store.engine)


def test_a_store_of_a_newer_version_is_left_alone(store: Store, settings: StoreSettings) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="newer version"):
        migrate(store.engine)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
def test_many_may_start_at_once(settings: StoreSettings) -> None:
    began = threading.Barrier(6)
    applied: list[bool] = []
    failures: list[BaseException] = []

    def begin() -> None:
        engine = make_engine(settings)
        try:
            began.wait()
            applied.append(migrate(engine))
        except BaseException as error:
            failures.append(error)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(applied) == [False] * 5 + [True]


async def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    def fail(connection: object) -> None:
        sessions.add(connection, row(1), per_address=5, per_person=5)  # type: ignore[arg-type]
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        await store.write(fail)
    assert await store.read(sessions.count) == 0
    await store.check()


async def test_sessions_are_found_and_bounded(store: Store) -> None:
    for number in range(1, 8):
        await store.write(adding(row(number), 3, 4))
    assert await store.read(sessions.count) == 3
    assert await store.read(lambda c: sessions.find(c, row(7).id_hash)) == row(7)
    assert await store.read(lambda c: sessions.find(c, row(1).id_hash)) is None
    for number in range(8, 12):
        await store.write(adding(row(number, address=f"192.0.2.{number}"), 3, 4))
    assert await store.read(sessions.count) == 4
    await store.write(lambda c: sessions.add(c, row(50, "cn=b"), per_address=3, per_person=4))
    assert await store.write(lambda c: sessions.end_of_person(c, "cn=a")) == 4
    assert await store.read(sessions.count) == 1


async def test_revoked_tokens(store: Store) -> None:
    now = 5000.0
    list_ = StoredRevocations(store, lambda: now)
    await store.write(lambda c: sessions.add(c, row(1), per_address=5, per_person=5))
    assert not await list_.is_revoked("t1")
    assert await list_.revoke("t1", now + 10) == 1
    assert await list_.revoke("t1", now + 10) == 0
    assert await list_.is_revoked("t1")
    assert await StoredRevocations(store, lambda: now).is_revoked("t1")
    for wrong in ("", "a b", "a\n", "ä", "x" * 129):
        with pytest.raises(BadRequest):
            await list_.revoke(wrong, now)


async def test_the_list_of_revoked_tokens_is_never_cut_short(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MOST", 2)
    list_ = StoredRevocations(store)
    await list_.revoke("a", 1)
    await list_.revoke("b", 1)
    with pytest.raises(BadRequest, match="2 revoked tokens"):
        await list_.revoke("c", 1)
    assert await list_.revoke("b", 1) == 0


async def test_housekeeping_removes_what_has_expired(store: Store) -> None:
    for number in range(1, 4):
        await store.write(adding(row(number, expires=1000.0 * number**4), 9, 9))
    await store.write(lambda c: revocations.revoke(c, "old", 1000.0, 0))
    await store.write(lambda c: revocations.revoke(c, "new", 9000.0, 0))
    tally = Tally()
    await sweep(store, tally, 6000.0)
    assert tally.security_sessions == 2
    left = await store.read(lambda c: {found.token_id for found in c.execute(revoked_tokens.select())})
    assert left == {"new"}


async def test_failures_are_one_error_and_the_store_rests(store: Store) -> None:
    clock = 100.0
    store._clock = lambda: clock
    seen: list[tuple[str, bool]] = []
    store.observer = lambda kind, seconds, fine: seen.append((kind, fine))
    with pytest.raises(StoreUnavailable) as raised:
        await store.read(lambda c: c.execute(text("SELECT nonsense FROM nowhere")))
    assert raised.value.status == 503
    assert "nonsense" not in str(raised.value)
    with pytest.raises(StoreUnavailable):
        await store.check()
    assert seen == [("read", False)], "in its rest nobody goes there"
    clock += 2
    await store.check()
    assert seen[-1] == ("read", True)


async def test_work_that_takes_too_long_is_given_up(settings: StoreSettings) -> None:
    store = open_store(msgspec.structs.replace(settings, timeout_seconds=0.2))
    release = threading.Event()
    try:
        with trio.fail_after(10), pytest.raises(StoreUnavailable):
            await store.read(lambda c: release.wait(20))
    finally:
        release.set()
        while store.statistics()[0]:  # the thread ends by itself, and takes its time
            await trio.lowlevel.checkpoint()
        store.close()


async def test_a_connection_whose_work_outlasts_the_store_is_closed_as_well(settings: StoreSettings) -> None:
    store = open_store(settings)
    began, release = threading.Event(), threading.Event()
    used: list[object] = []
    closed: list[object] = []
    event.listen(store.engine.pool, "close", lambda connection, record: closed.append(connection))

    def work(connection: Connection) -> None:
        used.append(connection.connection.dbapi_connection)
        began.set()
        release.wait(20)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.read, work)
            await trio.to_thread.run_sync(began.wait, 20)
            nursery.cancel_scope.cancel()  # the server ends, and waits for no thread
        store.close()
        assert not set(used) & set(closed)
    finally:
        release.set()
    with trio.fail_after(30):
        while store.statistics()[0]:
            await trio.lowlevel.checkpoint()
    assert used
    assert set(used) <= set(closed)


async def test_those_who_wait_are_bounded() -> None:
    store = open_store(StoreSettings(waiting=2))
    release = threading.Event()
    refused = 0

    async def ask() -> None:
        nonlocal refused
        try:
            await store.read(lambda c: release.wait(20))
        except StoreUnavailable:
            refused += 1

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        release.set()
    store.close()
    assert refused == 3  # one at work, two wait


async def test_postgresql_may_be_restarted(database: Postgres) -> None:
    store = open_store(StoreSettings(url=database.url))
    store._clock = iter(range(0, 10**6, 10)).__next__  # never at rest
    await store.check()
    stop(database.process)
    with pytest.raises(StoreUnavailable):
        await store.check()
    database.process = start(database.directory, database.account)
    await store.check()
    store.close()


def test_the_file_is_private_and_stays_open_to_those_who_had_it(tmp_path: Path) -> None:
    directory = tmp_path / "kept"
    directory.mkdir()
    store = open_store(StoreSettings(path=directory / "store.sqlite"))
    assert {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()} == dict.fromkeys(
        ("store.sqlite", "store.sqlite-wal", "store.sqlite-shm"), 0o600
    )
    # As for a process that has given up its rights: the path leads nowhere any more.
    directory.rename(tmp_path / "elsewhere")

    async def use() -> int:
        for number in range(1, 30):
            await store.write(adding(row(number), 50, 50))
        return await store.read(sessions.count)

    assert trio.run(use) == 29
    store.close()
    with sqlite3.connect(tmp_path / "elsewhere/store.sqlite") as other:
        assert other.execute("SELECT count(*) FROM security_sessions").fetchone() == (29,)
    other.close()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (StoreSettings(path=Path("/nonexistent/x.sqlite")), "/nonexistent/x.sqlite: cannot be written: No such file"),
        (StoreSettings(path=Path(__file__)), "file is not a database"),
        (StoreSettings(url="postgresql://u:hidden@/x?host=/nonexistent"), "store: postgresql"),
    ],
    indirect=False,
)
def test_a_store_that_cannot_be_used_says_why(settings: StoreSettings, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_store(settings)
    assert expected in str(raised.value)
    assert "hidden" not in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_full_disk_is_an_outage_and_loses_nothing(tmp_path: Path) -> None:
    store = open_store(StoreSettings(path=tmp_path / "store.sqlite"))
    store._clock = iter(range(0, 10**6, 10)).__next__
    await store.write(lambda c: sessions.add(c, row(1), per_address=5, per_person=5))
    # SQLite's own limit stands for the disk's.
    held = [store.engine.connect() for _ in range(4)]
    for connection in held:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        connection.rollback()
        connection.close()

    def fill(connection: object) -> None:
        for number in range(2, 3000):
            sessions.add(connection, row(number), per_address=9999, per_person=9999)  # type: ignore[arg-type]

    with pytest.raises(StoreUnavailable):
        await store.write(fill)
    assert await store.read(sessions.count) == 1
    store.close()


@pytest.mark.slow
def test_a_killed_writer_leaves_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    open_store(StoreSettings(path=path)).close()
    code = """
import sys
from pathlib import Path
from uftpd.auth.store.engine import open_store
from uftpd.auth.store.revocations import revoke
from uftpd.config.operating import StoreSettings
store = open_store(StoreSettings(path=Path(sys.argv[1])))
for number in range(10**6):
    with store.engine.begin() as connection:
        revoke(connection, str(number), 9e9, 0)
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(50):
        last = int(process.stdout.readline())
    process.kill()
    rest = process.communicate()[0].split("\n")
    last = max([last, *(int(line) for line in rest[:-1] if line)])
    store = open_store(StoreSettings(path=path))
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        count = connection.execute(text("SELECT count(*) FROM revoked_tokens")).scalar_one()
    assert count in (last + 1, last + 2), "what was acknowledged is there"
    store.close()

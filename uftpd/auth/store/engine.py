"""Connections to the store, and the one way to use them: a function in a thread, in one transaction, within a time.

A failure of the store is `StoreUnavailable`, answered 503, whatever the database calls it; after one the store is left
alone for a moment, so that requests do not queue up in front of something that does not answer.
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import sqlalchemy.dialects.sqlite  # noqa: F401 -- else loaded with the first engine; by then it may be out of reach
import trio
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from uftpd.auth.errors import Unavailable
from uftpd.auth.events import event as log
from uftpd.auth.events import logger
from uftpd.config.operating import StoreSettings
from uftpd.config.toml import ConfigError

T = TypeVar("T")

REST_SECONDS = 1.0  # after a failure

Observer = Callable[[str, float, bool], None]
"""Told of each piece of work: its kind (`read`, `write`), its seconds, whether it went well."""


class StoreUnavailable(Unavailable):
    """The store does not answer, or not in time."""

    def __init__(self) -> None:
        super().__init__("This server cannot look up what it needs right now, try again later")


class Store:
    """An open store with its tables in place.

    Attributes:
        engine: for work that is not done for a request, such as migration.
        observer: told of each piece of work, for metrics.
    """

    def __init__(
        self, settings: StoreSettings, engine: Engine, connections: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Use `open_store`."""
        self.engine = engine
        self.observer: Observer | None = None
        self._settings = settings
        self._clock = clock
        self._threads = trio.CapacityLimiter(connections)
        self._down_until = -math.inf
        self._complained = False
        self._closed = False

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a thread, with a connection, and return what it does.

        Raises:
            StoreUnavailable: the store failed or took too long.
        """
        return await self._run("read", lambda: self._in_transaction(work))

    async def write(self, work: Callable[[Connection], T]) -> T:
        """As `read`; what was done is kept if `work` returns. Of work cut off by time or cancellation it is not known
        whether it is kept.

        Raises:
            StoreUnavailable: as for `read`.
        """
        return await self._run("write", lambda: self._in_transaction(work, write=True))

    async def check(self) -> None:
        """Whether the store can be used now.

        Raises:
            StoreUnavailable: it cannot.
        """
        await self.read(lambda connection: connection.execute(text("SELECT 1")).scalar())

    def statistics(self) -> tuple[int, int]:
        """Connections in use, and requests waiting for one."""
        threads = self._threads.statistics()
        return threads.borrowed_tokens, threads.tasks_waiting

    def close(self) -> None:
        """Close all connections; those of work that was given up, but still goes on in its thread, as that ends."""
        self._closed = True
        with suppress(SQLAlchemyError):
            self.engine.dispose()

    def _in_transaction(self, work: Callable[[Connection], T], *, write: bool = False) -> T:
        pool = self.engine.pool
        try:
            with self.engine.connect() as connection:
                connection = connection.execution_options(store_write=write)
                with connection.begin():
                    return work(connection)
        finally:
            # After the connection was given back: either `close` has found it there, or this does. The engine may have
            # got a new pool since, out of which it came.
            if self._closed:
                pool.dispose()
                self.engine.dispose()

    async def _run(self, kind: str, work: Callable[[], T]) -> T:
        if self._clock() < self._down_until or self._threads.statistics().tasks_waiting >= self._settings.waiting:
            raise StoreUnavailable
        start = self._clock()
        fine = False
        try:
            with trio.fail_after(self._settings.timeout_seconds):
                result = await trio.to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)
            fine = True
        except trio.TooSlowError:
            self._failed(f"no answer within {self._settings.timeout_seconds:g} s")
            raise StoreUnavailable from None
        except SQLAlchemyError as error:
            if not isinstance(error, OperationalError | InterfaceError):
                logger.exception("work on the store failed")
            self._failed(reason(error))
            raise StoreUnavailable from error
        finally:
            if self.observer is not None:
                self.observer(kind, self._clock() - start, fine)
        if self._complained:
            self._complained = False
            log("store is back")
        return result

    def _failed(self, why: str) -> None:
        self._down_until = self._clock() + REST_SECONDS
        if not self._complained:  # once an outage, not once a request
            self._complained = True
            log("store cannot be used", level=logging.ERROR, reason=why)


def open_store(settings: StoreSettings) -> Store:
    """Connect, and bring the tables to this version.

    All connections to a file are opened now, and stay: afterwards the process may lose its right to open them.

    Raises:
        ConfigError: the store cannot be reached or used.
    """
    from uftpd.auth.store.migration import migrate

    engine = make_engine(settings)
    try:
        migrate(engine)
        connections = settings.connections if settings.path is not None or settings.url else 1
        if settings.path is not None:
            _touch_all(engine, connections)
    except SQLAlchemyError as error:
        engine.dispose()
        raise ConfigError(f"store: {_place(settings)}: {reason(error)}") from error
    except OSError as error:
        engine.dispose()
        raise ConfigError(f"store: {_place(settings)}: {error.strerror}") from error
    return Store(settings, engine, connections)


def check_settings(settings: StoreSettings) -> None:
    """Whether the store could be opened, without opening it.

    Raises:
        ConfigError: it could not.
    """
    path = settings.path
    if settings.url:
        _url(settings)
    elif path is not None and (not path.parent.is_dir() or (path.exists() and not path.is_file())):
        raise ConfigError(f"store.path: {path}: no file in a directory that exists")


def _url(settings: StoreSettings) -> URL:
    try:
        return make_url(settings.url).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        raise ConfigError("store.url: expected postgresql://USER@HOST/DATABASE") from None


def _place(settings: StoreSettings) -> str:
    if settings.path is not None:
        return str(settings.path)
    if not settings.url:
        return "in memory"
    return make_url(settings.url).render_as_string(hide_password=True)


def reason(error: SQLAlchemyError) -> str:
    """One line for the log: what the database said, without the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(cause).split()) or type(cause).__name__


# -- engines ----------------------------------------------------------------------------------------------------------


def make_engine(settings: StoreSettings) -> Engine:
    """Connections as the settings say; none is opened yet.

    Raises:
        ConfigError: the address cannot be understood, or the file not be made.
    """
    if settings.url:
        return _postgresql(settings)
    return _sqlite(settings)


def _postgresql(settings: StoreSettings) -> Engine:
    url = _url(settings)
    milliseconds = round(settings.timeout_seconds * 1000)
    engine = create_engine(
        url,
        pool_size=settings.connections,
        max_overflow=0,
        pool_timeout=settings.timeout_seconds,
        pool_pre_ping=True,  # the database may have been restarted meanwhile
        connect_args={
            "connect_timeout": max(2, math.ceil(settings.timeout_seconds)),
            "tcp_user_timeout": milliseconds,
            "application_name": "uftpd auth",
            "prepare_threshold": None,  # poolers such as PgBouncer hand on connections without prepared statements
        },
    )

    @event.listens_for(engine, "connect")
    def limit(connection: object, _: ConnectionPoolEntry) -> None:
        with connection.cursor() as cursor:  # type: ignore[attr-defined]  # a psycopg connection
            cursor.execute(f"SET statement_timeout = {milliseconds}")
            cursor.execute(f"SET idle_in_transaction_session_timeout = {2 * milliseconds}")
        connection.commit()  # type: ignore[attr-defined]

    return engine


def _sqlite(settings: StoreSettings) -> Engine:
    path = settings.path
    if path is not None:
        _make_private(path)

    def connect() -> sqlite3.Connection:
        # isolation_level None: the module leaves transactions to us. The path is taken as it is: what is above it need
        # not be readable later.
        return sqlite3.connect(
            ":memory:" if path is None else path,
            timeout=settings.timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
        )

    size = settings.connections if path is not None else 1
    engine = create_engine(
        "sqlite://", creator=connect, poolclass=QueuePool, pool_size=size, max_overflow=0, pool_recycle=-1
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # NORMAL with WAL: a power cut may lose the last transactions, never the file. Read before the journal mode is
        # set, which several processes cannot do at once.
        connection.execute("PRAGMA temp_store = MEMORY")
        if path is not None and connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            _set_wal(connection, settings.timeout_seconds)
        connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes then could find another's write in between, and fail.
        write = connection.get_execution_options().get("store_write", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _set_wal(connection: sqlite3.Connection, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait here for another process that does the same.
            if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _make_private(path: Path) -> None:
    """Make the file, for its owner only; SQLite gives its side files the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(f"store.path: {path}: cannot be written: {error.strerror}") from error


def _touch_all(engine: Engine, count: int) -> None:
    """Open all connections and the side files of each."""
    opened = [engine.connect() for _ in range(count)]
    try:
        for connection in opened:
            with connection.begin():
                connection.execute(text("SELECT count(*) FROM revoked_tokens")).scalar()
    finally:
        for connection in opened:
            connection.close()

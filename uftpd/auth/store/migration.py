"""Brings a store to the tables of this version. Several servers may start at once: one migrates, the others wait."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, text

from uftpd.auth.events import event
from uftpd.config.toml import ConfigError

_SCRIPTS = Path(__file__).with_name("migrations")
# A PostgreSQL advisory lock is a number that means what its users say it does: "uftpauth" in ASCII.
_LOCK = int.from_bytes(b"uftpauth", "big", signed=True)


def migrate(engine: Engine) -> bool:
    """Apply all steps the store does not have yet, in one transaction that nobody else can be in.

    Returns:
        Whether there was anything to do.

    Raises:
        ConfigError: the store is of a newer version.
        SQLAlchemyError: it cannot be changed; nothing has been.
    """
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    steps = ScriptDirectory.from_config(config)
    newest = steps.get_current_head()
    with engine.connect() as connection:
        connection = connection.execution_options(store_write=True)
        with connection.begin():  # SQLite: IMMEDIATE, which keeps others out
            if connection.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL statement_timeout = '60s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            found = current_version(connection)
            if found == newest:
                return False
            try:
                if found is not None:
                    steps.get_revision(found)
            except CommandError:
                raise ConfigError(
                    f"store: it is of a newer version ({found}) than this server; install that version again"
                ) from None
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    if found is not None:
        event("store brought to this version", before=found, now=newest)
    return True


def current_version(connection: Connection) -> str | None:
    """The last step that was applied; None for an empty store."""
    return MigrationContext.configure(connection).get_current_revision()

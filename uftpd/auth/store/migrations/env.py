"""Run by alembic: applies steps on the connection, and in the transaction, that `uftpd.auth.store.migration` opened.

For developers: `alembic revision` is not set up; a new step is written by hand after the one before it.
"""

from __future__ import annotations

from alembic import context

from uftpd.auth.store.schema import metadata


def _apply() -> None:
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    context.run_migrations()


if hasattr(context, "config"):  # else somebody only imports this module
    _apply()

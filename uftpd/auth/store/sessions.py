"""Rows of security sessions: found by the hash of their id, bounded per person and address."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from uftpd.auth.store.schema import security_sessions as table


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One security session.

    Attributes:
        id_hash: SHA-256 of its id.
        person: canonical name.
        address: the client's, as text.
        identity: what the login found out, as JSON.
        token_id: of the token the person logged in with, if one of this server's.
        created, expires: Unix seconds.
    """

    id_hash: bytes
    person: str
    address: str
    identity: str
    token_id: str | None
    created: float
    expires: float


def find(connection: Connection, id_hash: bytes) -> SessionRow | None:
    """The row with this hash, expired or not."""
    row = connection.execute(select(table).where(table.c.id_hash == id_hash)).one_or_none()
    return SessionRow(**row._mapping) if row is not None else None


def add(connection: Connection, row: SessionRow, *, per_address: int, per_person: int) -> None:
    """Insert a row; the person's oldest give way to it.

    Args:
        connection: in a transaction.
        row: the new session.
        per_address: rows of this person and address afterwards, at most.
        per_person: rows of this person afterwards, at most.
    """
    mine = table.c.person == row.person
    for condition, most in (((mine & (table.c.address == row.address)), per_address), (mine, per_person)):
        surplus = select(table.c.id_hash).where(condition).order_by(table.c.created.desc()).offset(most - 1)
        # SQLite takes OFFSET only behind a LIMIT; the rows are few.
        doomed = [found.id_hash for found in connection.execute(surplus.limit(10_000))]
        if doomed:
            connection.execute(delete(table).where(table.c.id_hash.in_(doomed)))
    connection.execute(insert(table).values(**{name: getattr(row, name) for name in row.__slots__}))


def end(connection: Connection, id_hash: bytes) -> None:
    """Remove one session."""
    connection.execute(delete(table).where(table.c.id_hash == id_hash))


def end_of_person(connection: Connection, person: str) -> int:
    """Remove all sessions of a canonical name; returns how many."""
    return connection.execute(delete(table).where(table.c.person == person)).rowcount


def end_of_token(connection: Connection, token_id: str) -> int:
    """Remove all sessions that began with a token; returns how many."""
    return connection.execute(delete(table).where(table.c.token_id == token_id)).rowcount


def count(connection: Connection) -> int:
    """All rows."""
    return connection.execute(select(func.count()).select_from(table)).scalar_one()

"""The queue: whose transfer is next, who works on it, and what came of it.

Workers, which are auth servers on one store, *claim* transfers and hold them by leases that they renew; a lease that
lapsed, since its worker died, is taken by another, which goes on. What is done under a lease that was lost has no
effect.

Turns go round the people: whose last transfer was begun the longest ago is next, however many wait of anybody's. The
limits per person and per pair of ends hold for all workers together. On PostgreSQL a worker that counts a person's or a
pair's active transfers keeps others from doing so meanwhile, who pass on to the next instead of waiting (advisory
locks, SKIP LOCKED); so one that hangs or dies in the middle stops nobody.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, select, text, update

from uftpd.auth.store.schema import transfer_errors, transfer_sources, transfer_turns, transfers
from uftpd.auth.transfers import rows, transitions
from uftpd.auth.transfers.model import (
    FINAL_STATES,
    MAX_DRIVE_CHARACTERS,
    MAX_ERRORS,
    Claimed,
    FileError,
    Lease,
    Outcome,
    Progress,
    Side,
    SourceProgress,
    Transfer,
    TransferState,
    Wanted,
)

_MAX_LANES_TRIED: Final = 64
_MAX_PATH: Final = 4096
_MAX_ERROR: Final = 1000
_MAX_WORKER: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may run at a time, on all workers together, and for how long a lease is.

    Attributes:
        per_person: active transfers of one person.
        per_pair: active transfers from one end to another.
        lease_seconds: a lease lapses if it was not renewed for so long.
    """

    per_person: int
    per_pair: int
    lease_seconds: float


class Contended(Exception):
    """Other workers were just looking at all that could be claimed: try again at once."""


@dataclass(frozen=True, slots=True)
class _Lane:
    """The waiting transfers of one person on one pair."""

    person: bytes
    pair: bytes
    due: float


# -- claiming ---------------------------------------------------------------------------------------------------------


def claim_next(connection: Connection, worker: str, now: float, limits: Limits) -> Claimed | None:
    """Take a transfer whose lease has lapsed, else the one whose turn it is.

    Args:
        connection: in a transaction.
        worker: names the auth server.
        now: Unix seconds.
        limits: what may run at a time.

    Returns:
        The transfer, in state "active"; None if there is nothing to do now.

    Raises:
        Contended: there may be something, but others are looking at it.
    """
    lapsed = connection.execute(
        select(transfers)
        .where((transfers.c.state == TransferState.ACTIVE) & (transfers.c.lease_until < now))
        .order_by(transfers.c.lease_until)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if lapsed is not None:
        return _take(connection, lapsed, worker, now, limits, again=True)
    row = _next_in_turn(connection, now, limits)
    if row is None:
        return None
    _note_turn(connection, row.person_hash, now)
    return _take(connection, row, worker, now, limits, again=False)


def _next_in_turn(connection: Connection, now: float, limits: Limits) -> Row[Any] | None:
    lanes = _lanes(connection, now)
    if not lanes:
        return None
    table = transfers.c
    active = select(table.person_hash, table.pair_hash).where(table.state == TransferState.ACTIVE)
    running = connection.execute(active).all()
    of_person, of_pair = Counter(row.person_hash for row in running), Counter(row.pair_hash for row in running)
    tried = contended = 0
    for lane in lanes:
        if of_person[lane.person] >= limits.per_person or of_pair[lane.pair] >= limits.per_pair:
            continue
        if tried == _MAX_LANES_TRIED:
            break
        tried += 1
        if not (_try_lock(connection, b"person", lane.person) and _try_lock(connection, b"pair", lane.pair)):
            contended += 1
            continue
        # What was counted above may be old news. Nobody else counts these two now.
        if _active(connection, table.person_hash == lane.person) >= limits.per_person:
            continue
        if _active(connection, table.pair_hash == lane.pair) >= limits.per_pair:
            continue
        row = _first_of(connection, lane, now)
        if row is not None:
            return row
        contended += 1  # another changes it just now: cancels it, perhaps
    if contended:
        raise Contended
    return None


def _lanes(connection: Connection, now: float) -> list[_Lane]:
    """Everybody's waiting transfers, by pair; in the order of turns."""
    table = transfers.c
    due = (table.state == TransferState.QUEUED) & (table.next_try <= now)
    earliest = func.min(table.next_try)
    groups = (
        select(table.person_hash, table.pair_hash, earliest).where(due).group_by(table.person_hash, table.pair_hash)
    )
    lanes = [_Lane(*row) for row in connection.execute(groups)]
    people = list({lane.person for lane in lanes})
    turns: dict[bytes, float] = {}
    for begin in range(0, len(people), 500):
        some = transfer_turns.c.person_hash.in_(people[begin : begin + 500])
        turns |= {row.person_hash: row.last_started for row in connection.execute(select(transfer_turns).where(some))}
    return sorted(lanes, key=lambda lane: (turns.get(lane.person, 0.0), lane.due, lane.person, lane.pair))


def _first_of(connection: Connection, lane: _Lane, now: float) -> Row[Any] | None:
    table = transfers.c
    condition = (
        (table.state == TransferState.QUEUED)
        & (table.person_hash == lane.person)
        & (table.pair_hash == lane.pair)
        & (table.next_try <= now)
    )
    first = select(transfers).where(condition).order_by(table.next_try, table.id).limit(1)
    return connection.execute(first.with_for_update(skip_locked=True)).one_or_none()


def _active(connection: Connection, condition: Any) -> int:
    counted = select(func.count()).select_from(transfers)
    return connection.execute(counted.where((transfers.c.state == TransferState.ACTIVE) & condition)).scalar_one()


def _try_lock(connection: Connection, kind: bytes, name: bytes) -> bool:
    """Whether nobody else counts the same now; held until the end of the transaction. SQLite has one writer anyway."""
    if connection.dialect.name != "postgresql":
        return True
    key = int.from_bytes(hashlib.sha256(b"uftpd claim\0" + kind + name).digest()[:8], "big", signed=True)
    return bool(connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}).scalar_one())


def _note_turn(connection: Connection, person: bytes, now: float) -> None:
    condition = transfer_turns.c.person_hash == person
    if not connection.execute(update(transfer_turns).where(condition).values(last_started=now)).rowcount:
        connection.execute(insert(transfer_turns).values(person_hash=person, last_started=now))


def _take(connection: Connection, row: Row[Any], worker: str, now: float, limits: Limits, *, again: bool) -> Claimed:
    lease = Lease(row.id, f"{worker[:_MAX_WORKER]}:{secrets.token_hex(8)}")
    values: dict[str, Any] = {"lease_holder": lease.holder, "lease_until": now + limits.lease_seconds}
    if not again:
        values |= {
            "state": TransferState.ACTIVE,
            "wanted": Wanted.NOTHING,
            "reason": "",
            "changed": now,
            "attempts": row.attempts + 1,
            "started": row.started or now,
        }
    connection.execute(update(transfers).where(transfers.c.id == row.id).values(**values))
    transfer = rows.find(connection, row.id)
    assert transfer is not None  # noqa: S101 -- its row is locked
    return Claimed(transfer, lease, rows.sources_of(connection, row.id), again)


# -- under a lease ----------------------------------------------------------------------------------------------------


def _held(connection: Connection, lease: Lease) -> Row[Any] | None:
    """The row, locked, if the lease is still the one."""
    row = rows.locked(connection, lease.transfer_id)
    if row is None or row.state != TransferState.ACTIVE or row.lease_holder != lease.holder:
        return None
    return row


def renew(connection: Connection, lease: Lease, now: float, lease_seconds: float) -> Wanted | None:
    """Keep a lease, even one that has lapsed if nobody took it. What the owner wants; None if it is lost."""
    row = _held(connection, lease)
    if row is None:
        return None
    _set(connection, lease, {"lease_until": now + lease_seconds})
    return Wanted(row.wanted)


def note(
    connection: Connection,
    lease: Lease,
    *,
    progress: Progress | None = None,
    sources: Sequence[SourceProgress] = (),
    node: str | None = None,
    drive: str | None = None,
    attempt: bool = False,
) -> Wanted | None:
    """Write down how it goes; what is None stays. What the owner wants; None if the lease is lost.

    Raises:
        ValueError: `drive` is too long.
    """
    row = _held(connection, lease)
    if row is None:
        return None
    values: dict[str, Any] = rows.progress_values(progress) if progress is not None else {}
    if node is not None:
        values["node"] = rows.storable(node)
    if drive is not None:
        if len(drive) > MAX_DRIVE_CHARACTERS:
            raise ValueError("drive: too long")
        values["drive"] = drive
    if attempt:
        values["attempts"] = row.attempts + 1
    if values:
        _set(connection, lease, values)
    for source in sources:
        _set_source(connection, lease, source)
    return Wanted(row.wanted)


def _set_source(connection: Connection, lease: Lease, source: SourceProgress) -> None:
    table = transfer_sources
    condition = (table.c.transfer_id == lease.transfer_id) & (table.c.number == source.number)
    values: Mapping[str, Any] = rows.progress_values(source.progress) | {
        "state": source.state,
        "copy": source.copy,
        "error": rows.storable(source.error),
    }
    connection.execute(update(table).where(condition).values(**values))


def add_errors(connection: Connection, lease: Lease, source: int, errors: Sequence[FileError]) -> bool:
    """Remember failed files of a source; beyond `MAX_ERRORS` of a transfer they are dropped.

    Returns:
        Whether the lease holds.
    """
    if _held(connection, lease) is None:
        return False
    table = transfer_errors
    mine = table.c.transfer_id == lease.transfer_id
    known, last = connection.execute(select(func.count(), func.max(table.c.number)).where(mine)).one()
    number = (last or 0) + 1
    new = [
        {
            "transfer_id": lease.transfer_id,
            "number": number + place,
            "source_number": source,
            "source": rows.storable(error.source, _MAX_PATH),
            "target": rows.storable(error.target, _MAX_PATH),
            "error": rows.storable(error.error, _MAX_ERROR),
        }
        for place, error in enumerate(errors[: max(0, MAX_ERRORS - known)])
    ]
    if new:
        connection.execute(insert(table), new)
    return True


def clear_errors(connection: Connection, lease: Lease, source: int) -> bool:
    """Forget the failed files of a source, which is copied again. Whether the lease holds."""
    if _held(connection, lease) is None:
        return False
    table = transfer_errors
    mine = (table.c.transfer_id == lease.transfer_id) & (table.c.source_number == source)
    connection.execute(delete(table).where(mine))
    return True


def keep_credential(connection: Connection, lease: Lease, side: Side, sealed: bytes) -> bool:
    """Keep a renewed credential instead of the one that was there. Whether the lease holds."""
    if _held(connection, lease) is None:
        return False
    rows.keep_credential(connection, lease.transfer_id, side, sealed)
    return True


def settle(
    connection: Connection, lease: Lease, outcome: Outcome, now: float, *, reason: str = "", next_try: float = 0.0
) -> Transfer | None:
    """End the work on a transfer; returns it as it is then, None if the lease was lost and nothing has changed."""
    row = _held(connection, lease)
    if row is None:
        return None
    state = transitions.settle(Wanted(row.wanted), outcome)
    values: dict[str, Any] = {
        "state": state,
        "wanted": Wanted.NOTHING,
        "reason": _shown_reason(state, outcome, reason),
        "changed": now,
        "rate": 0,
        "lease_holder": "",
        "lease_until": 0.0,
    }
    if state in FINAL_STATES:
        values |= rows.ending(connection, row, now)
    elif state is TransferState.QUEUED:
        values["next_try"] = max(now, next_try) if outcome is Outcome.LATER else now
    _set(connection, lease, values)
    return rows.find(connection, lease.transfer_id)


def _shown_reason(state: TransferState, outcome: Outcome, reason: str) -> str:
    """A reason stands where it tells why; not behind what the owner asked for."""
    tells = {
        TransferState.FAILED: True,
        TransferState.QUEUED: outcome is Outcome.LATER,
        TransferState.PAUSED: outcome is Outcome.NEEDY,
    }
    return rows.storable(reason) if tells.get(state, False) else ""


def hand_back(connection: Connection, lease: Lease) -> None:
    """Give up a lease, so that another can be had at once; the transfer stays active."""
    if _held(connection, lease) is not None:
        _set(connection, lease, {"lease_until": 0.0, "lease_holder": ""})


def _set(connection: Connection, lease: Lease, values: Mapping[str, Any]) -> None:
    connection.execute(update(transfers).where(transfers.c.id == lease.transfer_id).values(**values))


# -- callbacks --------------------------------------------------------------------------------------------------------


def due_callback(connection: Connection, now: float, seconds: float) -> tuple[Transfer, int] | None:
    """An ended transfer whose callback is due, and which try it is; the next one is due in `seconds`."""
    due = (transfers.c.callback_at > 0) & (transfers.c.callback_at <= now)
    first = select(transfers).where(due).order_by(transfers.c.callback_at).limit(1)
    row = connection.execute(first.with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return None
    tries = row.callback_tries + 1
    values = {"callback_at": now + seconds, "callback_tries": tries}
    connection.execute(update(transfers).where(transfers.c.id == row.id).values(**values))
    return rows.transfer_of(row), tries


def set_callback(connection: Connection, transfer_id: str, tries: int, when: float) -> None:
    """When try number `tries` shall be followed by the next; 0 for never. Not if it was begun anew meanwhile."""
    condition = (transfers.c.id == transfer_id) & (transfers.c.callback_at > 0) & (transfers.c.callback_tries == tries)
    connection.execute(update(transfers).where(condition).values(callback_at=when))

"""Rows of managed transfers: submitted, found, listed, changed for their owners, removed when they are old.

Plain functions of a connection in a transaction. What becomes of a transfer is decided by `transitions`, while its row
is locked; so of any number who ask at once, at any number of auth servers, each meets the state the others left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, or_, select, text, update

from uftpd.auth.errors import BadRequest, RequestError
from uftpd.auth.store.schema import (
    transfer_credentials,
    transfer_errors,
    transfer_sources,
    transfer_turns,
    transfers,
)
from uftpd.auth.transfers import transitions
from uftpd.auth.transfers.model import (
    FINAL_STATES,
    MAX_REASON_CHARACTERS,
    Account,
    Action,
    FileError,
    NewTransfer,
    Place,
    Progress,
    Side,
    SourceProgress,
    SourceState,
    Transfer,
    TransferOptions,
    TransferState,
    Wanted,
)

MAX_LISTED: Final = 1000
_OPEN_STATES: Final = [state for state in TransferState if state not in FINAL_STATES]
_PAUSED_TOO_LONG: Final = "It was paused for too long"

Sealed = Mapping[Side, bytes]
"""Credentials, sealed, by the side they are for."""


class Details(msgspec.Struct, frozen=True):
    """What of a transfer is kept as JSON: nobody looks for it."""

    options: TransferOptions
    accounts: dict[Side, Account]


def person_hash(person: str) -> bytes:
    """What stands for a person, by canonical name, in indexes."""
    return hashlib.sha256(person.encode()).digest()


def transfer_of(row: Row[Any]) -> Transfer:
    """The transfer that a row of the table holds."""
    details = msgspec.json.decode(row.details, type=Details)
    return Transfer(
        id=row.id,
        person=row.person,
        name=row.name,
        state=TransferState(row.state),
        wanted=Wanted(row.wanted),
        reason=row.reason,
        sources=msgspec.json.decode(row.sources, type=tuple[Place, ...]),
        target=msgspec.json.decode(row.target, type=Place),
        options=details.options,
        accounts=details.accounts,
        callback=row.callback,
        progress=progress_of(row),
        attempts=row.attempts,
        created=row.created,
        started=row.started,
        ended=row.ended,
        next_try=row.next_try if row.state == TransferState.QUEUED else 0.0,
        node=row.node,
        drive=row.drive,
    )


def progress_of(row: Row[Any]) -> Progress:
    """The columns of progress, which transfers and their sources have alike."""
    return Progress(
        bytes=row.bytes, total=row.total, files=row.files, failed=row.failed, found=row.found, rate=row.rate
    )


def progress_values(progress: Progress) -> dict[str, int]:
    """The same, as columns."""
    names = ("bytes", "total", "files", "failed", "found", "rate")
    return {name: getattr(progress, name) for name in names}


def storable(words: str, most: int = MAX_REASON_CHARACTERS) -> str:
    """A text as every database takes it: bytes that are no UTF-8, and NULs, shown as what they are not."""
    plain = words[:most].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return plain.replace("\0", "\ufffd")


# -- submitting -------------------------------------------------------------------------------------------------------


def submit(
    connection: Connection, new: NewTransfer, transfer_id: str, sealed: Sealed, waiting: int, now: float
) -> tuple[Transfer, bool]:
    """Insert a transfer; or find what the same person submitted with the same key before.

    Args:
        connection: in a transaction.
        new: the transfer.
        transfer_id: its id, if it is new.
        sealed: credentials.
        waiting: transfers of one person that have not ended, at most.
        now: Unix seconds.

    Returns:
        The transfer, and whether it is new.

    Raises:
        BadRequest: the person has as many already.
        RequestError: 409, the key was used for something else.
    """
    person = person_hash(new.person)
    _one_at_a_time(connection, person)  # else two who count at once would both find room
    submission = hashlib.sha256(person + new.key.encode()).digest() if new.key else None
    if submission is not None:
        known = connection.execute(select(transfers).where(transfers.c.submission == submission)).one_or_none()
        if known is not None:
            if known.digest != new.digest:
                raise RequestError("Idempotency-Key: it was used for another transfer", status=409)
            return transfer_of(known), False
    _require_room(connection, person, waiting)
    connection.execute(insert(transfers).values(**_new_row(new, transfer_id, now), submission=submission))
    numbers = [
        {"transfer_id": transfer_id, "number": number, "state": SourceState.WAITING, "copy": "", "error": ""}
        | progress_values(Progress())
        for number in range(len(new.sources))
    ]
    connection.execute(insert(transfer_sources), numbers)
    _keep_credentials(connection, transfer_id, sealed)
    found = find(connection, transfer_id)
    assert found is not None  # noqa: S101 -- it was inserted above
    return found, True


def _new_row(new: NewTransfer, transfer_id: str, now: float) -> dict[str, Any]:
    return progress_values(Progress()) | {
        "id": transfer_id,
        "person": new.person,
        "person_hash": person_hash(new.person),
        "pair_hash": hashlib.sha256(new.pair.encode()).digest(),
        "digest": new.digest,
        "name": new.name,
        "state": TransferState.QUEUED,
        "wanted": Wanted.NOTHING,
        "reason": "",
        "sources": msgspec.json.encode(new.sources).decode(),
        "target": msgspec.json.encode(new.target).decode(),
        "details": msgspec.json.encode(Details(new.options, new.accounts)).decode(),
        "attempts": 0,
        "created": now,
        "started": 0.0,
        "ended": 0.0,
        "changed": now,
        "next_try": now,
        "node": "",
        "drive": "",
        "lease_holder": "",
        "lease_until": 0.0,
        "callback": new.callback,
        "callback_tries": 0,
        "callback_at": 0.0,
    }


def _require_room(connection: Connection, person: bytes, waiting: int) -> None:
    _one_at_a_time(connection, person)
    mine = (transfers.c.person_hash == person) & transfers.c.state.in_(_OPEN_STATES)
    if connection.execute(select(func.count()).select_from(transfers).where(mine)).scalar_one() >= waiting:
        raise BadRequest(f"You have {waiting} transfers that have not ended; wait for some, or cancel them")


def _one_at_a_time(connection: Connection, person: bytes) -> None:
    """Count and insert for one person in one transaction at a time; SQLite has only one writer anyway."""
    if connection.dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(b"uftpd submission\0" + person).digest()[:8], "big", signed=True)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _keep_credentials(connection: Connection, transfer_id: str, sealed: Sealed) -> None:
    for side, value in sealed.items():
        keep_credential(connection, transfer_id, side, value)


def keep_credential(connection: Connection, transfer_id: str, side: Side, sealed: bytes) -> None:
    """Keep a credential instead of the one that was there."""
    table = transfer_credentials
    connection.execute(delete(table).where((table.c.transfer_id == transfer_id) & (table.c.side == side)))
    connection.execute(insert(table).values(transfer_id=transfer_id, side=side, sealed=sealed))


def credential(connection: Connection, transfer_id: str, side: Side) -> bytes | None:
    """What is kept for a side, sealed; None if nothing is."""
    table = transfer_credentials
    condition = (table.c.transfer_id == transfer_id) & (table.c.side == side)
    return connection.execute(select(table.c.sealed).where(condition)).scalar_one_or_none()


# -- looking ----------------------------------------------------------------------------------------------------------


def find(connection: Connection, transfer_id: str) -> Transfer | None:
    """The transfer with this id."""
    row = connection.execute(select(transfers).where(transfers.c.id == transfer_id)).one_or_none()
    return transfer_of(row) if row is not None else None


def listed(
    connection: Connection,
    person: str | None,
    states: Collection[TransferState],
    after: tuple[float, str] | None,
    most: int,
) -> list[Transfer]:
    """Transfers, the newest first.

    Args:
        connection: in a transaction.
        person: whose; None for everybody's.
        states: only those in one of these; empty for all.
        after: `created` and id of one; only older ones.
        most: how many, up to `MAX_LISTED`.
    """
    wanted: list[ColumnElement[bool]] = []
    table = transfers.c
    if person is not None:
        wanted.append(table.person_hash == person_hash(person))
    if states:
        wanted.append(table.state.in_(sorted(states)))
    if after is not None:
        created, transfer_id = after
        wanted.append(or_(table.created < created, and_(table.created == created, table.id < transfer_id)))
    order = (table.created.desc(), table.id.desc())
    rows = connection.execute(select(transfers).where(*wanted).order_by(*order).limit(min(most, MAX_LISTED)))
    return [transfer_of(row) for row in rows]


def sources_of(connection: Connection, transfer_id: str) -> tuple[SourceProgress, ...]:
    """How far each source is, in order."""
    table = transfer_sources
    rows = connection.execute(select(table).where(table.c.transfer_id == transfer_id).order_by(table.c.number))
    return tuple(
        SourceProgress(
            number=row.number,
            state=SourceState(row.state),
            copy=row.copy,
            progress=progress_of(row),
            error=row.error,
        )
        for row in rows
    )


def errors_of(connection: Connection, transfer_id: str, first: int, most: int) -> list[tuple[int, FileError]]:
    """Failed files with their numbers, from number `first` on."""
    table = transfer_errors
    condition = (table.c.transfer_id == transfer_id) & (table.c.number >= first)
    rows = connection.execute(select(table).where(condition).order_by(table.c.number).limit(most))
    return [(row.number, FileError(source=row.source, target=row.target, error=row.error)) for row in rows]


# -- what owners ask for ----------------------------------------------------------------------------------------------


def locked(connection: Connection, transfer_id: str) -> Row[Any] | None:
    """The row of a transfer, which nobody else changes until the end of the transaction."""
    return connection.execute(select(transfers).where(transfers.c.id == transfer_id).with_for_update()).one_or_none()


def act(
    connection: Connection, transfer_id: str, action: Action, sealed: Sealed, waiting: int, now: float
) -> tuple[Transfer, TransferState] | None:
    """Cancel, pause, resume or retry.

    Args:
        connection: in a transaction.
        transfer_id: which.
        action: what is asked for.
        sealed: new credentials; those of a side that has some are replaced.
        waiting: transfers of one person that have not ended, at most.
        now: Unix seconds.

    Returns:
        The transfer as it is then, and the state it was in; None if there is no such transfer.

    Raises:
        RequestError: 409, that cannot be done in its state.
        BadRequest: credentials are missing or not wanted, or the person has as many transfers already.
    """
    row = locked(connection, transfer_id)
    if row is None:
        return None
    before = transfer_of(row)
    _check_sides(before, sealed)
    decision = transitions.decide(before.state, before.wanted, action)
    if isinstance(decision, transitions.Refusal):
        raise RequestError(decision.text, status=409)
    after = decision.state if decision is not None else before.state
    if after not in FINAL_STATES:
        _keep_credentials(connection, transfer_id, sealed)
    if decision is None:
        return before, before.state
    values: dict[str, Any] = {"state": decision.state, "wanted": decision.wanted, "changed": now}
    if decision.state in FINAL_STATES:
        values |= ending(connection, row, now)
    elif decision.state is TransferState.PAUSED:
        values["reason"] = ""
    if decision.now:
        values |= {"next_try": now, "reason": ""}
    if decision.afresh:
        _require_credentials(connection, before)
        if before.state in FINAL_STATES:
            _require_room(connection, row.person_hash, waiting)
        values |= {"attempts": 0, "ended": 0.0, "callback_at": 0.0, "callback_tries": 0}
        values |= _begin_again(connection, before)
    connection.execute(update(transfers).where(transfers.c.id == transfer_id).values(**values))
    now_it_is = find(connection, transfer_id)
    assert now_it_is is not None  # noqa: S101 -- its row is locked
    return now_it_is, before.state


def ending(connection: Connection, row: Row[Any], now: float) -> dict[str, Any]:
    """What belongs to every final state: credentials go, the callback is due. Returns the columns to set."""
    connection.execute(delete(transfer_credentials).where(transfer_credentials.c.transfer_id == row.id))
    return {
        "wanted": Wanted.NOTHING,
        "ended": now,
        "rate": 0,
        "callback_at": now if row.callback else 0.0,
        "callback_tries": 0,
        "lease_holder": "",
        "lease_until": 0.0,
    }


def _begin_again(connection: Connection, transfer: Transfer) -> dict[str, Any]:
    """Sources that were not copied have another chance; those of a paused transfer are as they were left."""
    if transfer.state is TransferState.PAUSED:
        return {}
    undone = (transfer_sources.c.transfer_id == transfer.id) & (transfer_sources.c.state != SourceState.DONE)
    numbers = list(connection.execute(select(transfer_sources.c.number).where(undone)).scalars())
    fresh = {"state": SourceState.WAITING, "copy": "", "error": "", "failed": 0, "rate": 0}
    connection.execute(update(transfer_sources).where(undone).values(**fresh))
    errors = transfer_errors.c
    for number in numbers:
        connection.execute(
            delete(transfer_errors).where((errors.transfer_id == transfer.id) & (errors.source_number == number))
        )
    return {"failed": 0, "rate": 0}


def sides_elsewhere(transfer: Transfer | NewTransfer) -> list[Side]:
    """The sides that need credentials: those at other auth servers."""
    places = {Side.SOURCE: transfer.sources[0], Side.TARGET: transfer.target}
    return [side for side, place in places.items() if place.kind == "auth"]


def _check_sides(transfer: Transfer, sealed: Sealed) -> None:
    for side in sealed:
        if side not in sides_elsewhere(transfer):
            raise BadRequest(f"credentials.{side}: not needed, and not kept")


def _require_credentials(connection: Connection, transfer: Transfer) -> None:
    for side in sides_elsewhere(transfer):
        if credential(connection, transfer.id, side) is None:
            raise BadRequest(f"credentials.{side}: required; what you left here was deleted when the transfer ended")


# -- keeping house ----------------------------------------------------------------------------------------------------


def remove_old(connection: Connection, before: float, most: int) -> int:
    """Remove up to `most` transfers that ended before a time; returns how many."""
    old = (transfers.c.ended > 0) & (transfers.c.ended < before) & transfers.c.state.in_(sorted(FINAL_STATES))
    chosen = select(transfers.c.id).where(old).order_by(transfers.c.ended).limit(most)
    doomed = list(connection.execute(chosen.with_for_update(skip_locked=True)).scalars())
    if doomed:
        _remove(connection, doomed)
    return len(doomed)


def _remove(connection: Connection, doomed: Sequence[str]) -> None:
    for table in (transfer_sources, transfer_errors, transfer_credentials):
        connection.execute(delete(table).where(table.c.transfer_id.in_(doomed)))
    connection.execute(delete(transfers).where(transfers.c.id.in_(doomed)))


def cancel_forgotten(connection: Connection, before: float, now: float, most: int) -> list[Transfer]:
    """Cancel up to `most` transfers that were paused before a time, so that no credentials stay for ever."""
    old = (transfers.c.state == TransferState.PAUSED) & (transfers.c.changed < before)
    chosen = list(connection.execute(select(transfers).where(old).limit(most).with_for_update(skip_locked=True)))
    for row in chosen:
        values = ending(connection, row, now) | {
            "state": TransferState.CANCELLED,
            "changed": now,
            "reason": _PAUSED_TOO_LONG,
        }
        connection.execute(update(transfers).where(transfers.c.id == row.id).values(**values))
    return [transfer for row in chosen if (transfer := find(connection, row.id)) is not None]


def forget_turns(connection: Connection, before: float) -> int:
    """Forget whose turn it was a long time ago; returns how many people were forgotten."""
    return connection.execute(delete(transfer_turns).where(transfer_turns.c.last_started < before)).rowcount


def counts(connection: Connection) -> dict[TransferState, int]:
    """How many there are in each state that is not final."""
    condition = transfers.c.state.in_(_OPEN_STATES)
    rows = connection.execute(select(transfers.c.state, func.count()).where(condition).group_by(transfers.c.state))
    found = {TransferState(state): number for state, number in rows}
    return {state: found.get(state, 0) for state in _OPEN_STATES}

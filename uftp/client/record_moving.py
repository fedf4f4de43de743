"""Transfers of a session in MODE U: what `uftp.client.moving` does outside of it, and many at once.

A transfer has succeeded only if all announced bytes have moved, its END record was there and its digest right, *and*
the final reply is 2xx.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from uftp.client.data import Receive, Send
from uftp.client.record_pipeline import Pipeline, Supply
from uftp.client.record_transfers import Retrieval, Storage, Transfer
from uftp.client.wording import printable
from uftp.errors import PeerBrokeProtocol, UsageError
from uftp.protocol import ProtocolError
from uftp.protocol.facts import FileInfo, format_time, parse_facts
from uftp.protocol.ranges import rang_command
from uftp.streams import Meter, StreamError

if TYPE_CHECKING:
    from uftp.client.record_mode import RecordMode
    from uftp.client.session import FTPSession

# From this length on the server is told before how much will come, so that it can say early that it has no room.
_TOLD_FROM: Final = 1024 * 1024


def retrieval(
    session: FTPSession,
    path: bytes,
    receive: Receive,
    *,
    offset: int = 0,
    length: int | None = None,
    meter: Meter | None = None,
    settle: Callable[[], None] | None = None,
) -> Retrieval:
    """RETR of `length` bytes from `offset` on, None for all there are; see `Retrieval`."""
    prelude: tuple[bytes, ...] = ()
    if length is not None:
        prelude = (rang_command(offset, length).encode(),)
    elif offset:
        prelude = (b"REST %d" % offset,)
    return Retrieval(
        line=b"RETR " + session.wire(path),
        path=path,
        action="read it",
        prelude=prelude,
        offset=offset,
        length=length,
        receive=receive,
        due=length,
        meter=meter or Meter(),
        settle=settle,
    )


def storage(
    session: FTPSession,
    path: bytes,
    send: Send,
    *,
    total: int | None,
    offset: int | None = None,
    append: bool = False,
    meter: Meter | None = None,
    keep: Callable[[], bytes] = bytes,
) -> Storage:
    """STOR or APPE; see `Storage`. With `offset` it writes from there into a file, without it replaces the file."""
    prelude: tuple[bytes, ...] = ()
    told: int | None = None
    if offset is not None:
        prelude = (rang_command(offset, total).encode(),)
        told = 2**63 - 1 if total is None else total  # what RANG sets for an open end
    elif total is not None and total >= _TOLD_FROM:
        prelude = (b"ALLO %d" % total,)
        told = total
    return Storage(
        line=(b"APPE " if append else b"STOR ") + session.wire(path),
        path=path,
        action="write it",
        prelude=prelude,
        ranged=offset is not None,
        offset=offset or 0,
        length=told,
        send=send,
        total=total,
        meter=meter or Meter(),
        keep=keep,
        repeatable=not append,
    )


async def run(session: FTPSession, transfer: Transfer) -> int:
    """Run one transfer.

    Returns:
        Bytes moved.

    Raises:
        UFTPError: it failed; as in `uftp.client.moving`, but the session goes on after more of them.
    """
    waiting = [transfer]

    def supply() -> list[Transfer]:
        return [waiting.pop()] if waiting else []

    while waiting:
        waiting += await run_many(session, supply, lambda done: None)
    if transfer.error is not None:
        raise transfer.error
    return transfer.meter.moved


async def run_many(session: FTPSession, supply: Supply, done: Callable[[Transfer], None]) -> list[Transfer]:
    """Run transfers as `supply` gives them, commands ahead of their replies; see `Pipeline`.

    Returns:
        Those that were not begun, or were lost with a connection that another one broke.

    Raises:
        Refused, NetworkError, PeerBrokeProtocol: there is no data connection to be had; nothing was taken.
    """
    mode = _mode(session)
    async with session.control.dialogue():
        connection = await mode.connection(session)
    return await Pipeline(session, mode, connection, supply, done).run()


async def fetch_listing(session: FTPSession, line: bytes, path: bytes, *, limit: int) -> bytes:
    """The text of a listing command, of `limit` bytes at most.

    Raises:
        UFTPError: as `run`.
    """
    listing = bytearray()

    def keep(block: memoryview) -> None:
        if len(listing) + len(block) > limit:
            raise StreamError(f"the listing has more than {limit} bytes")
        listing.extend(block)

    await run(
        session,
        Retrieval(
            line=line,
            path=path,
            action="list it",
            listing=True,
            receive=lambda incoming, length, meter: incoming.to_chunks(keep, length, meter),
        ),
    )
    return bytes(listing)


def kept_facts(mtime_ns: int | None, permissions: int | None) -> bytes:
    """The facts a STOR carries: what the file shall have on the server."""
    facts = "" if mtime_ns is None else f"modify={format_time(mtime_ns, utc=True, fraction=True)};"
    return (facts if permissions is None else f"{facts}UNIX.mode={permissions:o};").encode()


def read_facts(session: FTPSession, transfer: Retrieval) -> FileInfo | None:
    """The facts that came with a file's end; None if none did.

    Raises:
        PeerBrokeProtocol: they cannot be read.
    """
    if not transfer.facts:
        return None
    try:
        return parse_facts(transfer.facts + b" x", utc=True)
    except ProtocolError as error:
        raise PeerBrokeProtocol(f"{session.name}: the server sent {printable(str(error))}") from error


def _mode(session: FTPSession) -> RecordMode:
    if session.records is None:
        raise UsageError(f"{session.name}: not in MODE U")
    return session.records

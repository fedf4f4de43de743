"""SYNC-TO-CLIENT and SYNC-TO-SERVER: delta sync of one file (DATA-PLANE section 11).

The reply is 200 and then comes the exchange on the data connection, which stays open; there is no final reply unless
something went wrong. What needs NumPy is imported at the first use; the spawner has loaded it (see
`uftpd.session.preloaded`), as this process may have no right to read it any more.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from uftp.protocol.ranges import WHOLE_FILE
from uftp.streams import Meter
from uftpd.session.replies import OK, CommandError
from uftpd.session.state import Session
from uftpd.session.store import Target, open_store
from uftpd.session.transfers import Client, in_thread, pumped, require_connection, transfer

if TYPE_CHECKING:
    from uftp.streams.delta import DeltaResult

_NOT_PLAIN = "Delta sync needs one plain data connection: no encryption, compression, streams or MODE U"


async def sync_to_client(session: Session, argument: bytes, client: Client) -> None:
    """SYNC-TO-CLIENT: we have the new file, and lead."""
    path = session.path(argument)
    _require_plain(session)
    source, info = await in_thread(lambda: _open_regular(session, path))
    try:

        def pump(connection: socket.socket, meter: Meter) -> DeltaResult:
            from uftp.streams.delta import lead

            return lead(connection, source, info.st_size, meter, session.rate)

        await _exchange(session, "SYNC-TO-CLIENT", path, info.st_size, client, pump)
    finally:
        os.close(source)


async def sync_to_server(session: Session, argument: bytes, client: Client) -> None:
    """SYNC-TO-SERVER: we have the old file, and follow. It is replaced when the new one is whole."""
    path = session.path(argument)
    _require_plain(session)
    old, info = await in_thread(lambda: _open_regular(session, path))
    target: Target | None = None
    try:
        target = new = await in_thread(lambda: _open_target(session, path))
        # Only our own clients ask for these; what they do with smaller blocks is known.
        finer = session.utc and session.pct

        def pump(connection: socket.socket, meter: Meter) -> DeltaResult:
            from uftp.streams.delta import follow

            return follow(connection, old, info.st_size, new.fd, meter, session.rate, finer=finer)

        async def commit(result: DeltaResult) -> None:
            with trio.CancelScope(shield=True):
                await in_thread(lambda: new.commit(result.size))

        await _exchange(session, "SYNC-TO-SERVER", path, None, client, pump, commit)
    finally:
        os.close(old)
        if target is not None:
            with trio.CancelScope(shield=True):
                await in_thread(target.close)


async def _exchange(
    session: Session,
    verb: str,
    path: bytes,
    size: int | None,
    client: Client,
    pump: Callable[[socket.socket, Meter], DeltaResult],
    commit: Callable[[DeltaResult], Awaitable[None]] | None = None,
) -> None:
    require_connection(session)
    async with transfer(session, verb, path, size) as (job, usage):
        usage.how = "delta"
        link = await session.data.link(session.limits.stall_seconds)
        if not link.plain:
            raise CommandError(504, _NOT_PLAIN)
        await client.send(OK)
        usage.start()
        result = await pumped(session, job, lambda: pump(link.connections[0], job.meter))
        if commit is not None:
            await commit(result)


def _require_plain(session: Session) -> None:
    if session.record_mode is not None or not session.layers.plain:
        raise CommandError(504, _NOT_PLAIN)


def _open_regular(session: Session, path: bytes) -> tuple[int, os.stat_result]:
    fd, info = session.tree.open_read(path)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise CommandError(550, "Not a regular file")
    return fd, info


def _open_target(session: Session, path: bytes) -> Target:
    target = open_store(session.tree, path, WHOLE_FILE, session.durability, session.swept)
    if target.how != "part":
        target.close()
        raise CommandError(
            550, "The file cannot be replaced by another one, only written in place: store it as a whole"
        )
    return target

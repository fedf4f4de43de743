"""SYNC-TO-CLIENT and SYNC-TO-SERVER in an FTP session (DATA-PLANE section 11): the exchange, and what upstream breaks.

The protocol has no final reply. A SYST behind the exchange makes sure that the server is through, and brings its
complaint to light if it had one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from uftp.client.data import run_pump
from uftp.client.session import FTPSession
from uftp.client.wording import printable, refusal, server_said
from uftp.errors import LocalFileError, NetworkError, PeerBrokeProtocol, TransferFailed, UFTPError
from uftp.protocol.replies import Reply
from uftp.protocol.rsync import block_size
from uftp.streams import NO_LAYERS, Meter, StreamError

if TYPE_CHECKING:
    from uftp.streams.delta import DeltaResult, Leader

T = TypeVar("T")

_SYSTEM: Final = 215
_EXPLANATION_SECONDS: Final = 20.0
# The Python server takes longer literals apart wrongly, unless they are whole numbers of its pieces.
_UPSTREAM_PIECE: Final = 65536


class Unsuitable(Exception):
    """The exchange would make a wrong file of this, or show it; nothing has changed there. The message says why."""


async def fetch_changes(
    session: FTPSession, path: bytes, old: int, old_size: int, target: int, *, new_size: int, meter: Meter
) -> DeltaResult:
    """Make the server's file from an older one here; the server leads.

    Args:
        session: in stream mode, without encryption or compression.
        path: on the server.
        old: descriptor of the older file.
        old_size: its bytes.
        target: descriptor of an empty file.
        new_size: bytes in the server's file, as far as known.
        meter: counts what moves on the connection, and stops.

    Returns:
        What it came to. That the file is right is for the caller to check.

    Raises:
        Unsuitable: an upstream server cannot lead this file, or the session is not as said.
        Refused, NotFound: the server says no.
        TransferFailed: the exchange broke.
        LocalFileError: a file here failed.
        UFTPError: see there.
    """
    finer = session.dialect.kind == "ours"
    if not finer and new_size < block_size(old_size):
        raise Unsuitable("the server cannot sync a file shorter than a block")

    def pump(connection: socket.socket) -> DeltaResult:
        from uftp.streams.delta import follow

        return follow(connection, old, old_size, target, meter, finer=finer)

    return await _exchange(session, b"SYNC-TO-CLIENT ", path, pump, meter, sending=False)


async def send_changes(session: FTPSession, path: bytes, source: int, size: int, *, meter: Meter) -> DeltaResult:
    """Make the server's file into a newer one from here; we lead.

    Args:
        session: in stream mode, without encryption or compression.
        path: on the server, where it must exist.
        source: descriptor of the newer file.
        size: its bytes.
        meter: counts what moves on the connection, and stops.

    Raises:
        Unsuitable: an upstream server would make a wrong file, and has been given its old one again; or the session
            is not as said.
        UFTPError: as `fetch_changes`.
    """
    careful = session.dialect.kind != "ours"

    def pump(connection: socket.socket) -> DeltaResult:
        from uftp.streams.delta import Leader

        leader = Leader(connection, source, size, meter)
        leader.read_sums()
        return _send_carefully(leader, size) if careful else leader.send(leader.matches())

    return await _exchange(session, b"SYNC-TO-SERVER ", path, pump, meter, sending=True)


def _send_carefully(leader: Leader, size: int) -> DeltaResult:
    """Send records only if none has a literal that upstream takes apart wrongly."""
    found = list(leader.matches())
    place = 0
    for start, length in [*((match.place, match.length) for match in found), (size, 0)]:
        literal = start - place
        if literal > _UPSTREAM_PIECE and literal % _UPSTREAM_PIECE:
            leader.send_old()
            raise Unsuitable("the server cannot take so long a change")
        place = start + length
    return leader.send(iter(found))


async def _exchange(
    session: FTPSession,
    verb: bytes,
    path: bytes,
    pump: Callable[[socket.socket], T],
    meter: Meter,
    *,
    sending: bool,
) -> T:
    if session.records is not None or session.layers != NO_LAYERS or session.streams > 1:
        raise Unsuitable("a sync needs one data connection without encryption and compression")
    control = session.control
    async with control.dialogue():
        link = await session.open_data()
        failure: Exception | None = None
        try:
            reply = await control.command(verb + session.wire(path))
            if not reply.is_success:
                raise refusal(reply, path, "sync it")
            try:
                result = await run_pump(link, meter, lambda: pump(link.connections[0]), sending=sending)
            except (StreamError, OSError) as error:
                failure = error
                link.reset()
            except Unsuitable as error:
                failure = error  # the server still puts its old file in place, which must not come after a copy
        finally:
            link.close()
        complaint = await _settle(session)
        if isinstance(failure, Unsuitable):
            raise failure
        if failure is not None:
            raise _explained(path, failure, complaint) from failure
        if complaint is not None:
            raise TransferFailed(f"{printable(path)}: the sync failed: {server_said(complaint)}")
        return result


async def _settle(session: FTPSession) -> Reply | None:
    """Wait until the server is through with the exchange; its complaint, if there is one."""
    control = session.control
    try:
        reply = await control.command(b"SYST", silence=session.final_timeout)
        if reply.code == _SYSTEM:
            return None
        if (await control.receive(_EXPLANATION_SECONDS)).code != _SYSTEM:
            control.break_off("replies out of turn")
        return reply
    except (NetworkError, PeerBrokeProtocol) as error:
        # Whether the exchange was complete shows when the files are compared.
        control.break_off(str(error))
        return None


def _explained(path: bytes, failure: Exception, complaint: Reply | None) -> UFTPError:
    if isinstance(failure, OSError):
        return LocalFileError(f"{printable(path)}: the local side failed: {failure.strerror or failure}")
    said = f"; {server_said(complaint)}" if complaint is not None else ""
    return TransferFailed(f"{printable(path)}: the sync broke off: {printable(str(failure))}{said}")

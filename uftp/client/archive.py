"""Uploads that the server unpacks (DATA-PLANE section 9)."""

from __future__ import annotations

from uftp.client.data import Send
from uftp.client.session import FTPSession
from uftp.client.wording import printable, refusal
from uftp.errors import Refused
from uftp.streams import Meter


async def store_archive(session: FTPSession, directory: bytes, send: Send, *, length: int | None, meter: Meter) -> int:
    """Send an archive to be unpacked into a directory that exists.

    Args:
        session: a usable session; archive mode is on only while this runs.
        directory: on the server.
        send: sends the archive, in a thread.
        length: how many bytes it will send; None if that is not known.
        meter: counts, and stops.

    Returns:
        Bytes sent.

    Raises:
        Refused: the server unpacks no archives, or not into this directory.
        TransferFailed: not all members were unpacked; the message says which. The others are there.
        UFTPError: as `FTPSession.store`.
    """
    if "ARCHIVE" not in session.dialect.features:
        raise Refused(f"{printable(directory or b'.')}: the server unpacks no archives")
    await _switch(session, b"TYPE ARCHIVE")
    try:
        return await session.store(directory, send, length=length, meter=meter)
    finally:
        if session.usable:
            await _switch(session, b"TYPE NORMAL")


async def _switch(session: FTPSession, line: bytes) -> None:
    async with session.control.dialogue():
        reply = await session.control.command(line)
        if not reply.is_success:
            raise refusal(reply, None, "switch archive mode")

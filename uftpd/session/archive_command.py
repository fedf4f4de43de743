"""STOR in archive mode: the argument is a directory, and the data is unpacked into it (DATA-PLANE section 9)."""

from __future__ import annotations

import errno
import os

import trio

from uftp.protocol.replies import reply
from uftpd.session.archive import ArchiveTarget, Report
from uftpd.session.replies import CommandError, Incomplete
from uftpd.session.state import Session
from uftpd.session.transfers import DONE, Client, in_thread, pumped, require_connection, store, transfer


async def store_or_unpack(session: Session, argument: bytes, client: Client) -> None:
    """STOR, in whichever mode TYPE has set."""
    if session.archive:
        await _unpack(session, argument, client)
    else:
        await store(session, argument, client)


async def _unpack(session: Session, argument: bytes, client: Client) -> None:
    # An offset means nothing here. A length says where the data ends on connections that stay open.
    wanted = session.take_range()
    expected = wanted.expected_length
    path = session.path(argument)
    require_connection(session)
    target = await in_thread(lambda: _open(session, path))
    try:
        async with transfer(session, "STOR", path, expected) as (job, usage):
            usage.how = "archive"
            link = await session.data.link(session.limits.stall_seconds)
            await client.send(reply(150, "OK"))
            usage.start()
            report = await pumped(session, job, lambda: target.unpack(link.incoming(), expected, job.meter))
            if expected is not None and job.meter.moved < expected:
                raise Incomplete(f"the data ended after {job.meter.moved} of {expected} bytes")
            if expected is None or not session.keep_alive:
                session.data.finish(drain=expected is not None)
            _log(session, path, report)
            report.raise_for_failures()
    finally:
        with trio.CancelScope(shield=True):
            await in_thread(target.close)
    await client.send(DONE)


def _open(session: Session, path: bytes) -> ArchiveTarget:
    try:
        return ArchiveTarget(session, path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise CommandError(550, "An archive is unpacked into a directory, and there is none of this name") from None
        raise


def _log(session: Session, path: bytes, report: Report) -> None:
    session.log(
        "archive",
        path=os.fsdecode(path),
        files=report.files,
        directories=report.directories,
        failed=report.failed,
        ended=report.fatal,
    )

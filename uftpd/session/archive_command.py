"""STOR in archive mode: the argument is a directory, and the data is unpacked into it (DATA-PLANE section 9)."""

from __future__ import annotations

import contextlib
import errno
import os

import trio

from uftp.protocol.replies import reply
from uftpd.session import record_transfers
from uftpd.session.archive import ArchiveTarget, Report
from uftpd.session.record_transfers import Exchange
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

            def pump() -> Report:
                incoming = link.incoming()
                report = target.unpack(incoming, expected, job.meter)
                if incoming.marked:
                    incoming.finish()
                return report

            report = await pumped(session, job, pump)
            if expected is not None and job.meter.moved < expected:
                raise Incomplete(f"the data ended after {job.meter.moved} of {expected} bytes")
            if expected is None or not session.keep_alive or not link.plain:
                session.data.finish(drain=expected is not None)
            _log(session, path, report)
            report.raise_for_failures()
    finally:
        with trio.CancelScope(shield=True):
            await in_thread(target.close)
    await client.send(DONE)


def store_or_unpack_records(exchange: Exchange, argument: bytes) -> None:
    """STOR in MODE U. Members get their names as they come; what END says of the whole is told in the reply."""
    session = exchange.session
    if not session.archive:
        record_transfers.store(exchange, argument)
        return
    exchange.path = path = session.path(argument)
    expected = exchange.wanted.expected_length
    with contextlib.closing(_open(session, path)) as target:
        exchange.how = "archive"
        exchange.start(reply(150, "OK"), expected)
        incoming = exchange.receive()
        meter = exchange.job.meter
        before = meter.moved
        report = target.unpack(incoming, expected, meter)
        complete = incoming.finish()
        if expected is not None and (not complete or meter.moved - before < expected):
            raise Incomplete(f"the data is not the {expected} bytes announced")
    _log(session, path, report)
    report.raise_for_failures()


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

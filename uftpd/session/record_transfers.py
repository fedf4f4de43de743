"""RETR, STOR, APPE and the listings in MODE U (EXTENSIONS section 1).

They run in the thread of a `Pipeline`, one after the other. Each raises what is wrong; the pipeline answers, and
sees to it that the sequences of records on the data connection stay in step with the commands.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import Final

from uftp.protocol.facts import format_kept, parse_kept
from uftp.protocol.ranges import TransferRange
from uftp.protocol.replies import Reply, reply
from uftp.streams.records import RecordIncoming, RecordOutgoing
from uftpd.session.paths import is_zero
from uftpd.session.record_mode import RecordConnection
from uftpd.session.replies import CommandError, Incomplete
from uftpd.session.state import Job, Session
from uftpd.session.store import Target, open_append, open_store
from uftpd.session.transfers import device_length, listing_line, listing_options, send_listing, without_options

_OK: Final = reply(150, "OK")


class Exchange:
    """One transfer command, and its place on the data connection.

    Args:
        session: whose it is.
        connection: the records go over it.
        number: of the transfer.
        bound: ties its first record to the command line.
        wanted: RANG, REST and ALLO as set.
        job: counts, and stops.
        say: sends a reply, later.

    Attributes:
        path, how, started: for the usage line.
        incoming, outgoing: what has begun on the data connection.
    """

    def __init__(
        self,
        session: Session,
        connection: RecordConnection,
        number: int,
        bound: bytes,
        wanted: TransferRange,
        job: Job,
        say: Callable[[Reply], None],
    ) -> None:
        self.session = session
        self.wanted = wanted
        self.job = job
        self.path = b""
        self.how = ""
        self.started = 0.0
        self.incoming: RecordIncoming | None = None
        self.outgoing: RecordOutgoing | None = None
        self._connection = connection
        self._number = number
        self._bound = bound
        self._say = say

    def start(self, answer: Reply, total: int | None) -> None:
        """Answer 150: the transfer proper begins."""
        self.started = time.monotonic()
        self.job.total = total
        self._say(answer)

    def receive(self) -> RecordIncoming:
        """The client's sequence of records. Every STOR and APPE has one, refused or not."""
        if self.incoming is None:
            self.incoming = self._connection.reader.begin(self._number, self._bound)
        return self.incoming

    def send(self, *, facts: bool) -> RecordOutgoing:
        """The sequence of records to the client. Once begun, it must be ended or aborted."""
        self.outgoing = self._connection.writer.begin(self._number, self._bound, facts=facts)
        return self.outgoing


def retrieve(exchange: Exchange, argument: bytes) -> None:
    """RETR."""
    session, wanted = exchange.session, exchange.wanted
    exchange.path = path = session.path(argument)
    fd, info = session.tree.open_read(path)
    try:
        zero = is_zero(info)
        length = device_length(wanted) if zero else wanted.readable(info.st_size)
        exchange.start(reply(150, f"OK {length} bytes available for reading."), length)
        outgoing = exchange.send(facts=True)
        outgoing.from_file(fd, 0 if zero else wanted.offset, length, exchange.job.meter, session.rate)
        outgoing.end(_facts(info))
    finally:
        os.close(fd)


def _facts(info: os.stat_result) -> bytes:
    if not stat.S_ISREG(info.st_mode):
        return b""
    return format_kept(info.st_mtime_ns, stat.S_IMODE(info.st_mode))


def store(exchange: Exchange, argument: bytes) -> None:
    """STOR."""
    session, wanted = exchange.session, exchange.wanted
    exchange.path = path = session.path(argument)
    target = open_store(
        session.tree, path, wanted, session.durability, session.swept, follow=not session.replaces_links
    )
    _upload(exchange, target, wanted.expected_length)


def append(exchange: Exchange, argument: bytes) -> None:
    """APPE: at the end, whatever range is set; ALLO limits it."""
    session, wanted = exchange.session, exchange.wanted
    exchange.path = path = session.path(argument)
    expected = None if wanted.ranged else wanted.expected_length
    _upload(exchange, open_append(session.tree, path, session.durability), expected)


def _upload(exchange: Exchange, target: Target, expected: int | None) -> None:
    incoming: RecordIncoming | None = None
    try:
        exchange.how = target.how
        exchange.start(_OK, expected)
        target.begin()
        incoming = exchange.receive()
        received = _take(exchange, incoming, target, expected)
        if not incoming.finish():
            raise Incomplete(f"more than the {expected} bytes announced came")
        if expected is not None and received < expected:
            raise Incomplete(f"the data ended after {received} of {expected} bytes")
        if incoming.facts:
            target.set_facts(*parse_kept(incoming.facts))
        target.commit(received)
    except BaseException:
        target.undo(0 if incoming is None else incoming.written)
        raise
    finally:
        target.close()


def _take(exchange: Exchange, incoming: RecordIncoming, target: Target, expected: int | None) -> int:
    session, meter = exchange.session, exchange.job.meter
    if target.how == "discard" and not session.rate.rate:
        return incoming.to_nowhere(expected, meter)
    return incoming.to_file(target.fd, target.offset, expected, meter, session.rate)


def _listing(exchange: Exchange, verb: str, argument: bytes) -> None:
    session = exchange.session
    exchange.path = path = session.path(argument)
    try:
        with session.tree.scan(path, **listing_options(session, verb)) as entries:
            exchange.start(_OK, None)
            send_listing(session, entries, listing_line(session, verb), exchange.send(facts=False), exchange.job.meter)
    except NotADirectoryError:
        raise CommandError(550, "Directory does not exist.") from None


def list_directory(exchange: Exchange, argument: bytes) -> None:
    """LIST."""
    _listing(exchange, "LIST", without_options(argument))


def list_names(exchange: Exchange, argument: bytes) -> None:
    """NLST."""
    _listing(exchange, "NLST", without_options(argument))


def list_machine(exchange: Exchange, argument: bytes) -> None:
    """MLSD."""
    _listing(exchange, "MLSD", argument)

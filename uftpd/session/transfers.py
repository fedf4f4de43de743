"""Commands that use the data connection: RETR, STOR, APPE and the listings; PASV and EPSV, which make it.

A transfer opens its file first, so that what cannot be is refused before 150 and the data connection survives for
the next command; then it waits for the connection, answers 150, and hands both to a pump in a thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from uftp.protocol.facts import FileInfo, format_list
from uftp.protocol.names import is_sayable
from uftp.protocol.passive import extended_passive, passive
from uftp.protocol.ranges import OPEN_LENGTH, TransferRange
from uftp.protocol.replies import Reply, reply
from uftp.streams import (
    Cancelled,
    ConnectionBroken,
    Meter,
    Outgoing,
)
from uftpd.session.file_commands import facts_line, named
from uftpd.session.paths import is_zero
from uftpd.session.replies import OK, CommandError, Incomplete, error_reply
from uftpd.session.state import Job, Session
from uftpd.session.store import Target, open_append, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

T = TypeVar("T")

DONE: Final = reply(226, "File transfer successful")
_LAST_WORD_SECONDS: Final = 0.01
_LISTING_BLOCK: Final = 64 * 1024
_NO_CONNECTION: Final = "no data connection: EPSV or PASV must come first, and the client must connect"


@dataclass(frozen=True, slots=True)
class Client:
    """The control connection, as far as a transfer needs it.

    Attributes:
        send: sends a reply.
        end_is_meant: whether the end of data whose length was not announced is the end of the file, as far as the
            control connection tells; asked of the kernel now.
    """

    send: Callable[[Reply], Awaitable[None]]
    end_is_meant: Callable[[], bool]


async def in_thread(call: Callable[[], T]) -> T:
    """Run what blocks in a worker thread. Cancelling does not interrupt it: whoever cancels stops the pump first."""
    return await trio.to_thread.run_sync(call)


@asynccontextmanager
async def running(session: Session, verb: str, total: int | None = None) -> AsyncIterator[Job]:
    """Let ABOR and STAT reach what runs inside, as `session.job`.

    An abort ends waiting at once, and pumps by way of their socket; what was stopped raises `Cancelled`.
    """
    with trio.CancelScope() as scope:
        job = Job(verb, Meter(), scope.cancel, total)
        session.job = job
        session.on_job()
        try:
            yield job
        finally:
            session.job = None
    if scope.cancelled_caught:
        raise Cancelled


async def pumped(session: Session, job: Job, call: Callable[[], T], *, uses_data: bool = True) -> T:
    """Run a pump to its end in a thread, shielded: a stop reaches it through its meter and its socket.

    Args:
        session: whose data connection a stop breaks off.
        job: the command.
        call: the pump.
        uses_data: whether it moves data at all; hashing does not.
    """
    stop = job.stop

    def stop_pump() -> None:
        job.meter.cancelled = True
        if uses_data:
            session.data.break_off()

    job.stop = stop_pump
    try:
        # A stop that came before was a cancellation, which the shield would keep from the pump.
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            result = await in_thread(call)
        return result  # noqa: RET504 - mypy takes the scope for one that may swallow the return
    finally:
        job.stop = stop


# -- passive ports ------------------------------------------------------------------------------------------------


async def extended_passive_mode(session: Session, argument: bytes, client: Client) -> None:
    """EPSV (RFC 2428)."""
    word = argument.strip().upper()
    if word == b"ALL":
        session.passive_only = True
        await client.send(OK)
        return
    if word not in (b"", b"1", b"2"):
        raise CommandError(522, "Network protocol not supported, use (1,2)")
    async with running(session, "EPSV"):
        port = await session.data.listen()
    await client.send(extended_passive(port))


async def passive_mode(session: Session, argument: bytes, client: Client) -> None:
    """PASV (RFC 959): IPv4 only."""
    if session.passive_only:
        raise CommandError(503, "After EPSV ALL only EPSV is allowed")
    host = session.data.passive_address
    if host is None:
        raise CommandError(522, "PASV is for IPv4, use EPSV")
    async with running(session, "PASV"):
        port = await session.data.listen()
    await client.send(passive(host, port))


# -- download -----------------------------------------------------------------------------------------------------


async def retrieve(session: Session, argument: bytes, client: Client) -> None:
    """RETR."""
    wanted = session.take_range()
    path = session.path(argument)
    require_connection(session)
    fd, info = await in_thread(lambda: session.tree.open_read(path))
    try:
        length = device_length(wanted) if is_zero(info) else wanted.readable(info.st_size)
        # Where RANG set a length, clients are told that one, though the file may hold less (DATA-PLANE 5.3).
        announced = wanted.length if wanted.ranged and wanted.length is not None else length
        offset = 0 if is_zero(info) else wanted.offset
        async with transfer(session, "RETR", path, length) as (job, usage):
            link = await session.data.link(session.limits.stall_seconds)
            await client.send(reply(150, f"OK {announced} bytes available for reading."))
            usage.start()
            stays_open = session.keep_alive and link.plain and announced == length

            def pump() -> None:
                outgoing = link.outgoing()
                outgoing.from_file(fd, offset, length, job.meter, session.rate)
                if not stays_open:
                    outgoing.end()

            await pumped(session, job, pump)
            if not stays_open:
                session.data.finish(drain=False)
    finally:
        os.close(fd)
    await client.send(DONE)


def device_length(wanted: TransferRange) -> int:
    """Bytes a RETR of /dev/zero sends."""
    if not wanted.ranged or wanted.length is None:
        return 0
    return min(wanted.length, OPEN_LENGTH)


# -- upload -------------------------------------------------------------------------------------------------------


async def store(session: Session, argument: bytes, client: Client) -> None:
    """STOR."""
    wanted = session.take_range()
    path = session.path(argument)

    def opened() -> Target:
        return open_store(
            session.tree, path, wanted, session.durability, session.swept, follow=not session.replaces_links
        )

    await _upload(session, "STOR", path, wanted, opened, client)


async def append(session: Session, argument: bytes, client: Client) -> None:
    """APPE: at the end, whatever range is set; ALLO limits it."""
    wanted = session.take_range()
    path = session.path(argument)
    wanted = TransferRange(0, None if wanted.ranged else wanted.length)
    await _upload(session, "APPE", path, wanted, lambda: open_append(session.tree, path, session.durability), client)


async def _upload(
    session: Session,
    verb: str,
    path: bytes,
    wanted: TransferRange,
    opened: Callable[[], Target],
    client: Client,
) -> None:
    require_connection(session)
    expected = wanted.expected_length
    target = await in_thread(opened)
    try:
        async with transfer(session, verb, path, expected) as (job, usage):
            usage.how = target.how
            usage.end = "length" if expected is not None else "unverified"
            link = await session.data.link(session.limits.stall_seconds)
            await client.send(reply(150, "OK"))
            usage.start()

            def pump() -> int:
                target.begin()
                incoming = link.incoming()
                if target.how == "discard" and not session.rate.rate:
                    received = incoming.to_nowhere(expected, job.meter)
                else:
                    received = incoming.to_file(target.fd, target.offset, expected, job.meter, session.rate)
                if incoming.marked and (expected is None or received == expected):
                    # More than was announced is dropped, as it is without layers.
                    incoming.finish()
                    if job.meter.cancelled:
                        raise Cancelled
                    usage.end = "marked"
                return received

            received = await pumped(session, job, pump)
            if expected is not None and received < expected:
                raise Incomplete(f"the data ended after {received} of {expected} bytes")
            if expected is None and target.how == "part":
                # Without a length the end of the data is the only mark, and a killed client looks just so: its
                # kernel closes the data connection first. The end of the control connection then stops us here.
                await trio.sleep(_LAST_WORD_SECONDS)
            if expected is None and not client.end_is_meant():
                raise ConnectionBroken("the client went away")
            with trio.CancelScope(shield=True):
                await in_thread(lambda: target.commit(received))
            if expected is None or not session.keep_alive or not link.plain:
                session.data.finish(drain=expected is not None)
    finally:
        with trio.CancelScope(shield=True):
            await in_thread(target.close)
    await client.send(DONE)


# -- listings -----------------------------------------------------------------------------------------------------


async def list_directory(session: Session, argument: bytes, client: Client) -> None:
    """LIST."""
    await _listing(session, "LIST", argument, client)


async def list_names(session: Session, argument: bytes, client: Client) -> None:
    """NLST."""
    await _listing(session, "NLST", argument, client)


async def list_machine(session: Session, argument: bytes, client: Client) -> None:
    """MLSD."""
    await _listing(session, "MLSD", argument, client)


def listing_options(session: Session, verb: str) -> dict[str, bool]:
    """How `FileTree.scan` describes entries: only MLSD can say that one is a link, or which directory it is."""
    machine = verb == "MLSD"
    return {"links": machine and session.links, "unique": machine and session.utc}


def listing_line(session: Session, verb: str) -> Callable[[FileInfo], bytes]:
    """What makes the lines of a listing."""
    if verb == "LIST":
        now = time.time()
        return lambda info: format_list(named(session, info), now=now)
    if verb == "NLST":
        return lambda info: session.say(info.name)
    # Times are UTC always, since no legacy client reads them here (DATA-PLANE 4.3).
    return lambda info: facts_line(session, info, utc=True, type_first=True)


async def _listing(session: Session, verb: str, argument: bytes, client: Client) -> None:
    session.take_range()
    line = listing_line(session, verb)
    path = session.path(without_options(argument) if verb != "MLSD" else argument)
    require_connection(session)
    try:
        with ExitStack() as directory:
            options = listing_options(session, verb)
            entries = await in_thread(lambda: directory.enter_context(session.tree.scan(path, **options)))
            async with running(session, verb) as job:
                link = await session.data.link(session.limits.stall_seconds)
                await client.send(reply(150, "OK"))
                await pumped(session, job, lambda: send_listing(session, entries, line, link.outgoing(), job.meter))
    except NotADirectoryError:
        raise CommandError(550, "Directory does not exist.") from None
    finally:
        # As upstream: a listing ends its data connection, a failed one too.
        session.data.finish(drain=False)
    await client.send(DONE)


def send_listing(
    session: Session,
    entries: Iterator[FileInfo],
    line: Callable[[FileInfo], bytes],
    outgoing: Outgoing,
    meter: Meter,
) -> None:
    """Send a listing, to its end."""
    block = bytearray()
    hidden = 0
    for info in entries:
        if not session.pct and not is_sayable(info.name):
            hidden += 1
            continue
        block += line(info)
        block += b"\r\n"
        if len(block) >= _LISTING_BLOCK:
            outgoing.from_bytes(bytes(block), meter)
            block.clear()
    outgoing.from_bytes(bytes(block), meter)
    outgoing.end()
    if hidden:
        session.log("names-hidden", level="warning", count=hidden)


def without_options(argument: bytes) -> bytes:
    """The path of `LIST -la path`."""
    rest = argument.lstrip()
    while rest.startswith(b"-"):
        rest = rest.partition(b" ")[2].lstrip()
    return rest if rest != argument.lstrip() else argument


# -- what all of them share ---------------------------------------------------------------------------------------


def require_connection(session: Session) -> None:
    """Refuse a transfer for which no data connection was asked, or whose cipher the site does not allow."""
    if session.layers.cipher and not session.cipher_allowed:
        raise CommandError(504, f"{session.layers.cipher} is not allowed on this server: MODE U is needed")
    if not session.data.is_open:
        raise CommandError(550, _NO_CONNECTION)


@dataclass(slots=True)
class Usage:
    """What the usage line of a transfer says.

    Attributes:
        how: see `uftpd.session.store`.
        end: how the end of an upload was known: by its length, by a mark in its layers, or not at all.
    """

    how: str = ""
    end: str = ""
    started: float = 0.0

    def start(self) -> None:
        """The transfer proper begins."""
        self.started = time.monotonic()


@asynccontextmanager
async def transfer(session: Session, verb: str, path: bytes, total: int | None) -> AsyncIterator[tuple[Job, Usage]]:
    """Run a transfer: stoppable, and with a usage line whatever comes of it. A failed one ends its connection."""
    usage = Usage()
    result = "ok"
    job: Job | None = None
    try:
        async with running(session, verb, total) as job:
            yield job, usage
    except BaseException as error:
        result = _result(error)
        if usage.started or isinstance(error, Cancelled):
            session.data.finish(drain=False)
        raise
    finally:
        if job is not None and (usage.started or result != "ok"):
            seconds = time.monotonic() - usage.started if usage.started else 0.0
            session.log(
                "transfer",
                verb=verb,
                path=os.fsdecode(path),
                bytes=job.meter.moved,
                seconds=round(seconds, 3),
                rate=round(job.meter.moved / seconds) if seconds else 0,
                result=result,
                how=usage.how,
                **({"end": usage.end} if usage.end else {}),
            )


def _result(error: BaseException) -> str:
    if isinstance(error, Cancelled):
        return "aborted"
    if isinstance(error, Exception) and (answer := error_reply("", error)) is not None:
        return str(answer.code)
    return "error" if isinstance(error, Exception) else "ended"

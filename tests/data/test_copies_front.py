"""What the front believes of what sessions and copies say, and what it tells them."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address

import msgspec
import pytest
import trio
import trio.testing

from uftp.protocol.command_port import Access, Purpose, TransferRequest
from uftpd.config.copies import Copies as CopiesSection
from uftpd.config.data import DataConfig, Limits
from uftpd.data import spawn_messages
from uftpd.data.ledger import Ledger
from uftpd.data.sessions import Arrival, Sessions
from uftpd.data.spawn_messages import Exited, Kill, Spawn
from uftpd.session import messages
from uftpd.session.copy_messages import (
    AbortCopy,
    Addresses,
    AskCopy,
    AskCopyErrors,
    CopyAnswer,
    CopyEnded,
    CopyFacts,
    CopyFailure,
    CopyFailures,
    CopyOrder,
    CopyProgress,
    EndCopy,
    StartCopy,
    WantAddresses,
)
from uftpd.session.messages import CopySettings, Failed, FromSession, Rate, Ready, SessionSettings, ToSession

HERE = ip_address("127.0.0.1")
ARRIVAL = Arrival(HERE, HERE, b"", wants_utc=False)
REQUEST = TransferRequest(
    user="alice", secret="", client_ip=(HERE,), file="/data/", includes=("a*",), access=Access.WRITE, rate_limit=5
)
CONFIG = DataConfig(copies=CopiesSection(allow=("192.0.2.7",)), limits=Limits(rate_per_user=1000))
ORDER = CopyOrder(form="send", local=b"/data/a", remote=b"b", host="192.0.2.7", port=21, secret="one-time-word")


class Child:
    """A child's end of its report socket."""

    def __init__(self, spawn: Spawn, end: socket.socket) -> None:
        self.spawn = spawn
        self.end = end

    async def heard(self) -> ToSession:
        await trio.lowlevel.wait_readable(self.end)
        return messages.decode_to_session(self.end.recv(messages.MAX_MESSAGE))

    async def answer(self) -> CopyAnswer:
        """The next answer; what a session is told of its rate is passed over."""
        while not isinstance(heard := await self.heard(), CopyAnswer):
            assert isinstance(heard, Rate | SessionSettings)
        return heard

    def say(self, message: FromSession) -> None:
        self.end.send(messages.encode(message))


class Front:
    """A front whose spawner is the test."""

    def __init__(self, sessions: Sessions, ledger: Ledger, spawner: socket.socket) -> None:
        self.sessions = sessions
        self.ledger = ledger
        self.spawner = spawner

    async def asked(self) -> Kill | Child:
        """What the front wants of the spawner."""
        await trio.lowlevel.wait_readable(self.spawner)
        data, fds, _, _ = socket.recv_fds(self.spawner, spawn_messages.MAX_MESSAGE, 2)
        message = spawn_messages.decode_from_front(data)
        if isinstance(message, Kill):
            return message
        assert b"one-time-word" not in data
        for fd in fds[:-1]:
            os.close(fd)
        return Child(message, socket.socket(fileno=fds[-1]))

    def exited(self, child: Child) -> None:
        child.end.close()
        self.spawner.send(spawn_messages.encode(Exited(id=child.spawn.id)))

    async def child(self) -> Child:
        asked = await self.asked()
        assert isinstance(asked, Child)
        return asked

    async def session(self, nursery: trio.Nursery, request: TransferRequest = REQUEST) -> Child:
        """A running session."""
        client, server = socket.socketpair()

        async def start() -> None:
            with client, server:
                await self.sessions.start("s1", request, trio.socket.from_stdlib_socket(server), ARRIVAL)

        nursery.start_soon(start)
        child = await self.child()
        assert isinstance(await child.heard(), SessionSettings)
        child.say(Ready())
        return child

    async def copy(self, session: Child) -> tuple[Child, int]:
        """A running copy, and its id."""
        session.say(StartCopy(number=1, order=ORDER))
        child = await self.child()
        assert child.spawn.kind == "copy"
        assert isinstance(await child.heard(), CopySettings)
        child.say(Ready())
        answer = await session.answer()
        assert (answer.number, answer.code) == (1, 0)
        return child, answer.copy


@asynccontextmanager
async def running_front(config: DataConfig = CONFIG) -> AsyncIterator[tuple[Front, trio.Nursery]]:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ledger = Ledger(dict.fromkeys(Purpose, 2), trio.current_time)
    sessions = Sessions(config, ledger, mine)
    with theirs, mine, trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await sessions.run(on_drain=lambda: None, on_reload=lambda: None)

            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            yield Front(sessions, ledger, theirs), nursery
            nursery.cancel_scope.cancel()


async def test_a_copy_is_what_the_sessions_own_request_allows() -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery)
        session.say(StartCopy(number=7, order=ORDER))
        child = await front.child()
        assert (child.spawn.kind, child.spawn.user, child.spawn.purpose) == ("copy", "alice", Purpose.COPY)
        settings = await child.heard()
        assert isinstance(settings, CopySettings)
        own = settings.session
        assert (own.user, own.file, own.includes, own.access, own.rate) == ("alice", "/data/", ("a*",), Access.WRITE, 5)
        assert settings.addresses == ("192.0.2.7",)
        assert settings.order == ORDER
        assert settings.user_rate == 1000, "the session is not of the ledger, so the copy has all of it"
        child.say(Ready())
        answer = await session.answer()
        assert (answer.number, answer.code, answer.word) == (7, 0, "RUNNING")
        front.exited(child)
        front.exited(session)


FETCH = msgspec.structs.replace(ORDER, form="fetch", host="", port=0)


@pytest.mark.parametrize(
    ("request_", "order", "code"),
    [
        (replace(REQUEST, access=Access.INFO), ORDER, 534),
        (replace(REQUEST, access=Access.READ), msgspec.structs.replace(ORDER, form="receive"), 534),
        (REQUEST, msgspec.structs.replace(ORDER, encrypt=True), 504),
        (REQUEST, msgspec.structs.replace(ORDER, host="192.0.2.8"), 534),
        (REQUEST, msgspec.structs.replace(ORDER, port=0), 501),
        (REQUEST, msgspec.structs.replace(FETCH, remote=b"https://10.0.0.1/"), 534),
        (REQUEST, msgspec.structs.replace(FETCH, remote=b"\xff"), 534),
    ],
)
async def test_a_session_is_not_believed_to_have_checked(
    request_: TransferRequest, order: CopyOrder, code: int
) -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery, request_)
        session.say(StartCopy(number=1, order=order))
        assert (await session.answer()).code == code
        assert not front.ledger._slots
        assert not front.sessions.copies._books._books
        front.exited(session)


async def test_what_a_copy_says_is_what_its_user_hears() -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery)
        child, copy = await front.copy(session)
        child.say(CopyProgress(facts=CopyFacts(bytes=5, total=9)))
        child.say(CopyFailures(failures=(CopyFailure(b"a", b"b", "no"),)))
        await trio.testing.wait_all_tasks_blocked()
        session.say(AskCopy(number=2, copy=copy))
        answer = await session.answer()
        assert (answer.number, answer.word, answer.facts.bytes, answer.facts.total) == (2, "RUNNING", 5, 9)
        session.say(AskCopyErrors(number=3, copy=copy, first=0))
        assert (await session.answer()).failures == (CopyFailure(b"a", b"b", "no"),)
        session.say(AbortCopy(number=4, copy=copy, keep=True))
        heard = await child.heard()
        while isinstance(heard, Rate):
            heard = await child.heard()
        assert heard == EndCopy(keep=True)
        child.say(CopyEnded(word="FINISHED", facts=CopyFacts(bytes=9, total=9)))
        child.say(CopyProgress(facts=CopyFacts()))
        front.exited(child)
        answer = await session.answer()
        assert (answer.number, answer.word) == (4, "FINISHED"), "it was quicker"
        session.say(AskCopy(number=5, copy=copy))
        assert (await session.answer()).facts.bytes == 9
        front.exited(session)
    assert not front.ledger._slots


async def test_a_copy_that_does_not_begin_leaves_no_trace() -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery)
        session.say(StartCopy(number=1, order=ORDER))
        child = await front.child()
        child.say(Failed(reason="no such file", code=550))
        front.exited(child)
        answer = await session.answer()
        assert (answer.code, answer.reason) == (550, "no such file")
        await trio.testing.wait_all_tasks_blocked()
        assert not front.ledger._slots
        assert not front.sessions.copies._books._books
        front.exited(session)


async def test_a_copy_that_never_says_a_word() -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery)
        session.say(StartCopy(number=1, order=ORDER))
        child = await front.child()
        front.exited(child)
        assert (await session.answer()).code == 500
        await trio.testing.wait_all_tasks_blocked()
        assert not front.ledger._slots
        front.exited(session)


@pytest.mark.parametrize(
    "message",
    [
        CopyProgress(facts=CopyFacts()),
        CopyEnded(word="FINISHED", facts=CopyFacts()),
        CopyFailures(failures=()),
        WantAddresses(number=1, url="https://example.org/"),
    ],
)
async def test_a_session_that_speaks_for_a_copy_is_ended(message: FromSession) -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery)
        session.say(message)
        assert await front.asked() == Kill(id="s1")
        front.exited(session)


async def test_a_session_that_asks_without_waiting_is_ended() -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery)
        child, copy = await front.copy(session)
        for number in range(9):
            session.say(AbortCopy(number=number, copy=copy, keep=False))
        assert await front.asked() == Kill(id="s1")
        front.exited(child)
        front.exited(session)


async def test_a_copy_that_speaks_for_a_session_is_ended() -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery)
        child, copy = await front.copy(session)
        child.say(StartCopy(number=1, order=ORDER))
        assert await front.asked() == Kill(id=child.spawn.id)
        front.exited(child)
        await trio.testing.wait_all_tasks_blocked()
        session.say(AskCopy(number=2, copy=copy))
        assert (await session.answer()).word == "FAILED"
        front.exited(session)


async def test_a_copy_asks_where_it_may_connect() -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery)
        child, _ = await front.copy(session)
        replies: dict[int, Addresses] = {}
        for number, url in enumerate(("https://192.0.2.7/x", "https://127.0.0.1/", "http://192.0.2.7/", "\0")):
            child.say(WantAddresses(number=number, url=url))
        while len(replies) < 4:
            if isinstance(heard := await child.heard(), Addresses):
                replies[heard.number] = heard
        assert replies[0].addresses == ("192.0.2.7",)
        for number in (1, 2, 3):
            assert replies[number].addresses == ()
            assert replies[number].refused
        front.exited(child)
        front.exited(session)


async def test_copies_share_their_users_rate() -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery)
        first, _ = await front.copy(session)
        assert await first.heard() == Rate(rate=1000)
        second, _ = await front.copy(session)
        assert await first.heard() == Rate(rate=500)
        assert await second.heard() == Rate(rate=500)
        front.exited(second)
        assert await first.heard() == Rate(rate=1000)
        front.exited(first)
        front.exited(session)


async def test_a_user_has_so_many_slots_for_copies() -> None:
    async with running_front() as (front, nursery):
        session = await front.session(nursery)
        copies = [await front.copy(session) for _ in range(2)]
        session.say(StartCopy(number=9, order=ORDER))
        answer = await session.answer()
        assert (answer.code, answer.passing) == (500, True)
        front.exited(copies[0][0])
        await trio.testing.wait_all_tasks_blocked()
        child, _ = await front.copy(session)
        for one in (child, copies[1][0], session):
            front.exited(one)

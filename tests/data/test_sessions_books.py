"""What the front knows of its children does not depend on the order in which two sockets are read."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest
import trio
import trio.testing

from uftp.protocol.command_port import Purpose, TransferRequest
from uftpd.config.data import DataConfig
from uftpd.data import spawn_messages
from uftpd.data.children import SessionRefused
from uftpd.data.ledger import Ledger
from uftpd.data.sessions import Arrival, Sessions
from uftpd.data.spawn_messages import DrainAll, Exited, Kill, Spawn
from uftpd.events import EventLog
from uftpd.session import messages
from uftpd.session.messages import Failed, Ready

HERE = ip_address("127.0.0.1")
ARRIVAL = Arrival(HERE, HERE, b"", wants_utc=False)
REQUEST = TransferRequest(user="alice", secret="", client_ip=(HERE,))


class FakeSpawner:
    """The spawner's end: takes requests to spawn, and says what became of the child."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def take(self) -> tuple[Spawn | Kill, list[socket.socket]]:
        data, fds, _, _ = socket.recv_fds(self.end, spawn_messages.MAX_MESSAGE, 2)
        return spawn_messages.decode_from_front(data), [socket.socket(fileno=fd) for fd in fds]

    async def wait_for_request(self) -> None:
        await trio.lowlevel.wait_readable(self.end)

    def tell(self, message: spawn_messages.FromSpawner) -> None:
        self.end.send(spawn_messages.encode(message))


@asynccontextmanager
async def running_sessions() -> AsyncIterator[tuple[Sessions, FakeSpawner, Ledger, trio.Event]]:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ledger = Ledger(dict.fromkeys(Purpose, 5), trio.current_time)
    sessions = Sessions(DataConfig(), ledger, mine)
    over = trio.Event()

    async def run() -> None:
        await sessions.run(on_drain=lambda: None, on_reload=lambda: None)
        over.set()

    with theirs, mine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            yield sessions, FakeSpawner(theirs), ledger, over
            nursery.cancel_scope.cancel()


Ending = Callable[[FakeSpawner, str, socket.socket], None]


async def start(sessions: Sessions, spawner: FakeSpawner, ending: Ending) -> str:
    """Start a session whose child ends as told, at once; `ready` or the reason it did not come to be."""
    outcome: list[str] = []
    client, server = socket.socketpair()

    async def starting() -> None:
        try:
            await sessions.start("s1", REQUEST, trio.socket.from_stdlib_socket(server), ARRIVAL)
            outcome.append("ready")
        except SessionRefused as error:
            outcome.append(str(error))

    with client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(starting)
            await spawner.wait_for_request()
            spawn, (control, report) = spawner.take()
            assert isinstance(spawn, Spawn)
            control.close()
            ending(spawner, spawn.id, report)
            report.close()
    server.close()
    return outcome[0]


def ready_then_gone(spawner: FakeSpawner, child_id: str, report: socket.socket) -> None:
    report.send(messages.encode(Ready()))
    spawner.tell(Exited(id=child_id))


kept: list[socket.socket] = []


def ready_and_running(spawner: FakeSpawner, child_id: str, report: socket.socket) -> None:
    report.send(messages.encode(Ready()))
    kept.append(report.dup())


def gone_then_ready(spawner: FakeSpawner, child_id: str, report: socket.socket) -> None:
    spawner.tell(Exited(id=child_id))
    report.send(messages.encode(Ready()))


def failed_and_gone(spawner: FakeSpawner, child_id: str, report: socket.socket) -> None:
    spawner.tell(Exited(id=child_id))
    report.send(messages.encode(Failed(reason="unknown user")))


def crashed(spawner: FakeSpawner, child_id: str, report: socket.socket) -> None:
    spawner.tell(Exited(id=child_id, status=9))


def refused(spawner: FakeSpawner, child_id: str, report: socket.socket) -> None:
    spawner.tell(Exited(id=child_id, refused="too many"))


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (ready_then_gone, "ready"),
        (gone_then_ready, "ready"),
        (failed_and_gone, "unknown user"),
        (crashed, "the session process ended"),
        (refused, "too many"),
    ],
)
async def test_outcome_of_a_short_session(ending: Ending, outcome: str) -> None:
    async with running_sessions() as (sessions, spawner, ledger, _):
        for _ in range(30):  # the event loop takes ready sockets in any order
            ledger.inherit({"s1": ("alice", Purpose.LOGIN)})
            assert await start(sessions, spawner, ending) == outcome
            await trio.testing.wait_all_tasks_blocked()
            assert not ledger._slots
            assert not sessions._children


async def test_a_session_without_an_answer_is_killed(autojump_clock: trio.testing.MockClock) -> None:
    async with running_sessions() as (sessions, spawner, _, _), trio.open_nursery() as nursery:
        client, server = socket.socketpair()
        with client, server, trio.move_on_after(3):  # the client's time is up before the process answers
            nursery.start_soon(answer_kill, spawner)
            with pytest.raises(SessionRefused, match="too long"):
                await sessions.start("s1", REQUEST, trio.socket.from_stdlib_socket(server), ARRIVAL)
        await trio.testing.wait_all_tasks_blocked()
        assert not sessions._children


async def test_a_front_without_descriptors_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> tuple[socket.socket, socket.socket]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("uftpd.data.children.report_pair", none_left)
    async with running_sessions() as (sessions, _, ledger, _):
        ledger.inherit({"s1": ("alice", Purpose.LOGIN)})
        client, server = socket.socketpair()
        with client, server, pytest.raises(SessionRefused, match="Cannot start a process: Too many open files"):
            await sessions.start("s1", REQUEST, trio.socket.from_stdlib_socket(server), ARRIVAL)
        assert not ledger._slots
        assert not sessions._children


async def answer_kill(spawner: FakeSpawner) -> None:
    await spawner.wait_for_request()
    spawn, fds = spawner.take()
    await spawner.wait_for_request()
    kill, _ = spawner.take()
    assert isinstance(spawn, Spawn)
    assert isinstance(kill, Kill)
    assert kill.id == spawn.id
    for end in fds:
        end.close()
    spawner.tell(Exited(id=kill.id, status=9))


async def test_the_last_words_are_heard_before_a_drain_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr("uftpd.data.sessions._log", lambda text, **facts: heard.append(text))
    for _ in range(20):
        async with running_sessions() as (sessions, spawner, _, over):
            assert await start(sessions, spawner, ready_and_running) == "ready"
            (report,) = kept
            spawner.tell(DrainAll())
            await trio.testing.wait_all_tasks_blocked()
            report.send(messages.encode(messages.Record(level="warning", event="last words")))
            spawner.tell(Exited(id="s1"))
            report.close()
            kept.clear()
            await over.wait()
        assert "last words" in heard
        heard.clear()


async def test_a_session_cannot_pose_as_the_front_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, object]] = []
    monkeypatch.setattr(EventLog, "__call__", lambda self, text, **facts: logged.append({"event": text, **facts}))
    async with running_sessions() as (sessions, spawner, _, _):
        assert await start(sessions, spawner, ready_and_running) == "ready"
        (report,) = kept
        forged: dict[str, str | int | float | bool] = dict.fromkeys(
            ("self", "time", "part", "event", "user", "session", "request"), "x"
        )
        report.send(messages.encode(messages.Record(level="nonsense", event="hello", fields={**forged, "path": "y"})))
        spawner.tell(Exited(id="s1"))
        report.close()
        kept.clear()
        await trio.testing.wait_all_tasks_blocked()
    ours = {"session": "s1", "user": "alice"}
    assert {"event": "hello", "level": "nonsense", **ours, "path": "y"} in logged


async def test_a_spawner_that_is_gone_ends_the_front() -> None:
    async with running_sessions() as (_, spawner, _, over):
        spawner.end.close()
        with trio.fail_after(5):
            await over.wait()

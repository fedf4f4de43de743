"""What is tried again, how often, and on what session."""

from __future__ import annotations

import contextlib
from typing import cast

import pytest
import trio
import trio.testing

from uftp.client.session import FTPSession
from uftp.errors import (
    AuthenticationFailed,
    LocalFileError,
    NetworkError,
    NotFound,
    PeerBrokeProtocol,
    Refused,
    TimedOut,
    TransferFailed,
    UFTPError,
)
from uftp.streams import Meter
from uftp.transfer.batch import Queue
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState
from uftp.transfer.retrying import may_pass, wait_before
from uftp.transfer.task import FileTask
from uftp.transfer.workers import Scheduler

PASSING = [
    NetworkError("broke"),
    TimedOut("slow"),
    TransferFailed("the data connection broke"),
    TransferFailed("stopped", code=426),
    TransferFailed("of an old server", code=500),
    *(Refused("busy", code=code) for code in (421, 425, 426, 450, 451)),
]
LASTING = [
    NotFound("gone", code=550),
    Refused("no right", code=553),
    Refused("permission denied", code=450),
    Refused("not here", code=None),
    LocalFileError("disk full"),
    AuthenticationFailed("who?"),
    PeerBrokeProtocol("junk"),
    TransferFailed("changed", lasting=True),
    TransferFailed("No space left on device", code=500),
    *(TransferFailed("no", code=code) for code in (452, 550, 552, 553)),
]


@pytest.mark.parametrize("error", [*PASSING, *LASTING], ids=repr)
def test_what_may_pass(error: UFTPError) -> None:
    assert may_pass(error) == (error in PASSING)


def test_waits_double_up_to_a_bound_and_are_scattered() -> None:
    assert [wait_before(attempt, lambda: 1.0) for attempt in range(1, 9)] == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    assert wait_before(1, lambda: 0.0) == 0.125
    assert wait_before(10_000, lambda: 0.5) == 7.5


class Session:
    round_trip = None

    def __init__(self) -> None:
        self.usable = True

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.usable = False


class Server:
    """Opens sessions, or fails as it is told."""

    def __init__(self, *failures: UFTPError | None) -> None:
        self.failures = list(failures)
        self.opened: list[Session] = []

    async def open(self) -> FTPSession:
        await trio.lowlevel.checkpoint()
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.opened.append(Session())
        return cast("FTPSession", self.opened[-1])


class Task(FileTask):
    """Moves its pieces, but fails as it is told before."""

    source = target = "x"
    splittable = False

    def __init__(self, *failures: UFTPError, ending: UFTPError | None = None) -> None:
        super().__init__()
        self.length = 3
        self.failures = list(failures)
        self.ending = ending
        self.sessions: list[FTPSession] = []
        self.discarded = False

    async def prepare(self, session: FTPSession) -> None:
        await trio.lowlevel.checkpoint()

    async def move(self, session: FTPSession, piece: Piece, meter: Meter) -> bytes:
        await trio.lowlevel.checkpoint()
        self.sessions.append(session)
        meter.moved += 2
        if self.failures:
            raise self.failures.pop(0)
        meter.moved += 1
        return b"digest"

    async def finish(self, session: FTPSession) -> None:
        await trio.lowlevel.checkpoint()
        ending, self.ending = self.ending, None
        if ending is not None:
            raise ending

    def discard(self) -> None:
        self.discarded = True

    async def clean(self, session: FTPSession) -> None:
        await trio.lowlevel.checkpoint()


async def copy(
    server: Server, *tasks: FileTask, retries: int = 2, max_errors: int | None = None, threads: int = 1
) -> CopyState:
    state = CopyState()
    options = CopyOptions(retries=retries, max_errors=max_errors, threads=threads)

    async def plan(queue: Queue) -> None:
        for task in tasks:
            await queue.offer(task)

    async with SessionPool(server.open, retries=retries) as pool:
        await Scheduler(pool, state, options).run(plan)
    return state


async def test_a_piece_is_tried_again_on_a_fresh_session(autojump_clock: trio.testing.MockClock) -> None:
    task = Task(NetworkError("broke"), TransferFailed("wrong digest"))
    state = await copy(Server(), task)
    assert (state.files_done, state.files_failed, state.retries) == (1, 0, 2)
    assert len(set(map(id, task.sessions))) == 3
    assert state.bytes_done == 3  # what was lost on the way does not count


async def test_a_last_step_is_tried_again_alone(autojump_clock: trio.testing.MockClock) -> None:
    task = Task(ending=NetworkError("broke"))
    state = await copy(Server(), task)
    assert (state.files_done, state.retries, len(task.sessions)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("errors", "retries"), [([NetworkError("broke")] * 3, 2), ([NotFound("gone")], 0), ([LocalFileError("full")], 0)]
)
async def test_one_bad_file_fails_alone(
    errors: list[UFTPError], retries: int, autojump_clock: trio.testing.MockClock
) -> None:
    bad, good = Task(*errors), Task()
    state = await copy(Server(), bad, good)
    assert (state.files_done, state.files_failed, state.retries) == (1, 1, retries)
    assert state.failures[0].error in errors
    assert bad.discarded


async def test_enough_errors_end_the_copy(autojump_clock: trio.testing.MockClock) -> None:
    tasks = [Task(NotFound("gone")) for _ in range(5)]
    state = await copy(Server(), *tasks, max_errors=2)
    assert state.ended_early
    summary = state.summary()
    assert (summary.files, summary.failed, summary.not_tried) == (0, 2, 3)
    with pytest.raises(UFTPError, match="ended after 2 failed"):
        summary.raise_for_failures()


async def test_a_server_that_was_there_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    away: list[UFTPError] = [NetworkError("connection refused")] * 6
    server = Server(None, *away)
    task = Task(NetworkError("broke"))
    state = await copy(server, task, threads=3)
    assert (state.files_done, state.files_failed) == (1, 0)
    assert not server.failures


async def test_a_server_that_never_was_there_fails_at_once(autojump_clock: trio.testing.MockClock) -> None:
    server = Server(NetworkError("no such host"), None)
    state = await copy(server, Task(), Task())
    assert state.files_failed == 2
    assert trio.current_time() < 1


@pytest.mark.parametrize("error", [NetworkError("refused"), Refused("limit", code=530)])
async def test_a_server_that_grants_fewer_sessions(error: UFTPError, autojump_clock: trio.testing.MockClock) -> None:
    server = Server(None, error, error)
    tasks = [Task() for _ in range(20)]
    state = await copy(server, *tasks, threads=3)
    assert (state.files_done, len(server.opened)) == (20, 1)


async def test_a_call_of_the_pool_is_begun_again(autojump_clock: trio.testing.MockClock) -> None:
    tries = 0

    async def step(session: FTPSession) -> int:
        nonlocal tries
        tries += 1
        await trio.lowlevel.checkpoint()
        if tries < 3:
            cast("Session", session).usable = False
            raise NetworkError("broke")
        return tries

    async with SessionPool(Server().open, retries=2) as pool:
        assert await pool.call(step) == 3
        tries = -5
        with contextlib.suppress(NetworkError):
            await pool.call(step)
        assert tries == -2


async def test_a_session_is_opened_ahead_of_the_work_it_is_for() -> None:
    server = Server()
    async with SessionPool(server.open) as pool:
        await pool.open_ahead()
        assert pool.live == 0  # the first one is for who needs it
        async with pool.session():
            pool.allow(2)
            await pool.open_ahead()
            await pool.open_ahead()
            assert pool.live == 2
            async with pool.session():
                assert pool.live == 2


async def test_no_work_waits_for_a_session_that_is_being_opened() -> None:
    class Slow(Server):
        async def open(self) -> FTPSession:
            if self.opened:
                await trio.sleep_forever()
            return await super().open()

    state = CopyState()
    server = Slow()
    with trio.fail_after(30):
        async with SessionPool(server.open) as pool:
            async with pool.session():
                pass
            options = CopyOptions(threads=3)
            tasks = [Task() for _ in range(5)]

            async def plan(queue: Queue) -> None:
                for task in tasks:
                    await queue.offer(task)

            await Scheduler(pool, state, options).run(plan)
    assert state.files_done == 5
    assert len(server.opened) == 1

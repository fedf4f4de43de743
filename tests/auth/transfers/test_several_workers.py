"""Several auth servers work on one queue in PostgreSQL; one that hangs or dies costs nothing."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import transfer_worker
import trio
from postgres import Postgres
from queueing import OTHER, OWNER, Queueing

from uftpd.auth.errors import RequestError
from uftpd.auth.store.engine import Store, open_store
from uftpd.auth.transfers import queue
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Action, Claimed, Outcome, Transfer, TransferState, Wanted
from uftpd.config.operating import StoreSettings

PEOPLE = [f"cn=p{number},o=x" for number in range(7)]


@pytest.fixture
def store_settings(postgresql: StoreSettings) -> StoreSettings:
    """Only this kind is for several servers."""
    return postgresql


@contextmanager
def _worker(database: Postgres, name: str, *, hold: bool = False) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, transfer_worker.__file__, database.url, name, "hold" if hold else "go"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(transfer_worker.__file__).parent)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _lines(process: subprocess.Popen[str]) -> Iterator[list[object]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


@pytest.mark.slow
async def test_every_transfer_is_done_once_whoever_dies(queueing: Queueing, database: Postgres) -> None:
    """Limits hold over all servers; what those had that were killed is taken over by the others."""
    queueing.clock.now = 0.0  # all of it long ago for the workers, which go by the real time
    made = {(await queueing.submit(random.choice(PEOPLE), source=source)).id for source in "ACD" * 40}
    heard: list[list[list[object]]] = [[], []]
    with ExitStack() as stack:
        doomed = [stack.enter_context(_worker(database, f"doomed{number}", hold=True)) for number in range(2)]
        taken = []
        for process in doomed:
            said = _lines(process)
            assert await trio.to_thread.run_sync(next, said) == ["ready"]
            taken.append((await trio.to_thread.run_sync(next, said))[1])
        workers = [stack.enter_context(_worker(database, f"w{number}")) for number in range(2)]
        for process in doomed:
            process.kill()
        async with trio.open_nursery() as nursery:

            async def listen(number: int) -> None:
                heard[number] = await trio.to_thread.run_sync(lambda: list(_lines(workers[number])))

            nursery.start_soon(listen, 0)
            nursery.start_soon(listen, 1)
        assert [process.wait(30) for process in workers] == [0, 0]
    said_by_all = [line for lines in heard for line in lines]
    assert {str(line[0]) for line in said_by_all} == {"ready", "claimed", "settled", "done"}, said_by_all
    settled = Counter(line[1] for line in said_by_all if line[0] == "settled")
    assert settled == Counter(made)
    again = [line[1] for line in said_by_all if line[0] == "claimed" and line[3]]
    assert set(taken) <= set(again)
    states = Counter(transfer.state for transfer in await queueing.managed.listed(None, (), None, 1000))
    assert states == {TransferState.SUCCEEDED: len(made)}


async def test_others_pass_by_whoever_hangs_in_the_middle_of_a_claim(queueing: Queueing) -> None:
    queueing.change(active_per_user=5)
    first = await queueing.submit(OWNER)
    await queueing.submit(OWNER)
    theirs = await queueing.submit(OTHER, source="C")
    limits = queue.Limits(per_person=5, per_pair=5, lease_seconds=30)
    with queueing.store.engine.connect() as hanging, hanging.begin():
        claimed = queue.claim_next(hanging, "hangs", queueing.clock.now + 1, limits)
        assert claimed is not None
        assert claimed.transfer.id == first.id
        assert (await queueing.claimed("w2")).transfer.id == theirs.id
        # The other one of the same person is left alone until it is known how many there are.
        assert await queueing.claim("w2") is None
    assert (await queueing.claimed("w2")).transfer.person == OWNER


async def test_a_claim_that_was_not_finished_never_was(queueing: Queueing) -> None:
    made = await queueing.submit()
    limits = queue.Limits(per_person=5, per_pair=5, lease_seconds=30)
    with queueing.store.engine.connect() as dying:
        transaction = dying.begin()
        assert queue.claim_next(dying, "dies", queueing.clock.now + 1, limits) is not None
        transaction.rollback()
    assert (await queueing.now(made)).state is TransferState.QUEUED
    found = await queueing.claimed("w2")
    assert (found.transfer.id, found.transfer.attempts, found.again) == (made.id, 1, False)


@pytest.fixture
def second(store_settings: StoreSettings, store: Store) -> Iterator[Store]:
    """The store as another server has it."""
    opened = open_store(store_settings)
    yield opened
    opened.close()


async def test_owners_and_workers_race(queueing: Queueing, second: Store) -> None:
    """Who asks at one server while another one ends the work gets a true answer, and one of two ends comes of it."""
    queueing.change(active_per_user=1000, active_per_pair=1000)
    other = ManagedTransfers(second, queueing.sealer, queueing.metrics, lambda: queueing.settings, queueing.clock)
    actions = [Action.CANCEL, Action.PAUSE] * 12
    outcomes = [Outcome.SUCCEEDED, Outcome.LATER, Outcome.FAILED] * 8
    async with trio.open_nursery() as nursery:
        for action, outcome in zip(actions, outcomes, strict=True):
            await queueing.submit()
            claimed = await queueing.claimed()

            async def race(action: Action = action, outcome: Outcome = outcome, claimed: Claimed = claimed) -> None:
                results: dict[str, object] = {}

                async def ask() -> None:
                    try:
                        results["asked"] = await other.act(claimed.transfer.id, action)
                    except RequestError as error:
                        results["asked"] = error

                async def end() -> None:
                    results["ended"] = await queueing.managed.settle(claimed.lease, outcome)

                async with trio.open_nursery() as both:
                    both.start_soon(ask)
                    both.start_soon(end)
                _check_race(action, outcome, results, (await queueing.now(claimed.transfer)).state)

            nursery.start_soon(race)


def _check_race(action: Action, outcome: Outcome, results: dict[str, object], now: TransferState) -> None:
    asked, ended = results["asked"], results["ended"]
    wish = {Action.CANCEL: Wanted.CANCEL, Action.PAUSE: Wanted.PAUSE}[action]
    done = {Action.CANCEL: TransferState.CANCELLED, Action.PAUSE: TransferState.PAUSED}[action]
    if isinstance(asked, RequestError):
        assert asked.status == 409
        assert ended is now
        assert now.is_final
        return
    assert isinstance(asked, Transfer)
    state, wanted = asked.state, asked.wanted
    if (state, wanted) == (TransferState.ACTIVE, wish):  # the wish was first
        assert ended is now
        assert now is {Outcome.SUCCEEDED: TransferState.SUCCEEDED}.get(outcome, now)
        assert now in (TransferState.SUCCEEDED, TransferState.FAILED, done)
    else:  # the work had ended, and the transfer waited for its next try
        assert outcome is Outcome.LATER
        assert ended is TransferState.QUEUED
        assert state is done
        assert now is done

"""The queue, on SQLite and PostgreSQL alike: turns, limits, leases, wishes, and what goes when a transfer has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import pytest
from queueing import ELSEWHERE, OTHER, OWNER, TOKEN, Queueing, a_transfer, on
from sqlalchemy import select, update

from uftpd.auth.errors import BadRequest, RequestError
from uftpd.auth.store.engine import Store
from uftpd.auth.store.schema import transfer_credentials, transfer_errors, transfer_sources, transfer_turns, transfers
from uftpd.auth.transfers import transitions
from uftpd.auth.transfers.credentials import StoredCredential
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import (
    MAX_ERRORS,
    Account,
    Action,
    Claimed,
    FileError,
    Outcome,
    Place,
    Progress,
    Side,
    SourceProgress,
    SourceState,
    Transfer,
    TransferOptions,
    TransferState,
    Wanted,
)
from uftpd.auth.transfers.sealing import CannotOpen, Sealer

Q, A, P = TransferState.QUEUED, TransferState.ACTIVE, TransferState.PAUSED


# -- submitting -------------------------------------------------------------------------------------------------------


async def test_all_of_a_transfer_comes_back(queueing: Queueing) -> None:
    accounts = {Side.SOURCE: Account(uid="u", gid="g:h", includes="/a*", excludes="/a/b", rate_limit=7)}
    pattern = Place(kind="server", text="A:/ü/%FF*", server="A", path=b"/\xc3\xbc/\xff*", pattern=b"/\xc3\xbc/\xff*")
    options = TransferOptions(recursive=True, verify=False, rate_limit=9, sessions=3, attempts=2)
    more: dict[str, Any] = {
        "accounts": accounts,
        "options": options,
        "name": "nightly ü",
        "callback": "https://x.example/done",
    }
    sources = (pattern, on("A", b"/data/y"))
    made = await queueing.submit(sources=sources, target=ELSEWHERE, credentials={Side.TARGET: TOKEN}, **more)
    assert (made.sources, made.target, made.accounts, made.options) == (sources, ELSEWHERE, accounts, options)
    assert (made.state, made.wanted, made.person, made.name) == (Q, Wanted.NOTHING, OWNER, "nightly ü")
    assert (made.created, made.started, made.ended) == (queueing.clock.now, 0, 0)
    assert await queueing.now(made) == made
    found = await queueing.managed.sources(made.id)
    assert found == (SourceProgress(number=0), SourceProgress(number=1))
    assert await queueing.managed.get("another") is None


async def test_the_same_submission_is_made_once(queueing: Queueing) -> None:
    new = a_transfer(key="nightly-1", digest=bytes(32))
    first, made = await queueing.managed.submit(new, {})
    assert made
    assert await queueing.managed.submit(new, {}) == (first, False)
    with pytest.raises(RequestError, match="Idempotency-Key") as caught:
        await queueing.managed.submit(a_transfer(key="nightly-1", digest=bytes([1] * 32)), {})
    assert caught.value.status == 409
    _, of_another = await queueing.managed.submit(a_transfer(OTHER, key="nightly-1", digest=bytes([1] * 32)), {})
    assert of_another
    assert len(await queueing.managed.listed(None)) == 2


async def test_nobody_has_more_than_are_allowed(queueing: Queueing) -> None:
    queueing.change(waiting_per_user=3)
    first = await queueing.submit()
    await queueing.submit()
    third = await queueing.submit()
    with pytest.raises(BadRequest, match="3 transfers"):
        await queueing.submit()
    await queueing.submit(OTHER)
    await queueing.managed.act(third.id, Action.PAUSE)
    await queueing.claimed()
    with pytest.raises(BadRequest, match="3 transfers"):
        await queueing.submit()
    await queueing.managed.act(third.id, Action.CANCEL)
    await queueing.submit()
    with pytest.raises(BadRequest, match="3 transfers"):
        await queueing.managed.act(third.id, Action.RETRY)
    assert (await queueing.now(first)).state is A


# -- looking ----------------------------------------------------------------------------------------------------------


async def test_lists_go_on_where_they_ended(queueing: Queueing) -> None:
    made = [await queueing.submit() for _ in range(5)]
    queueing.clock.now -= 0.5  # the next has the moment of the one before
    made.append(await queueing.submit())
    theirs = await queueing.submit(OTHER)
    whole = await queueing.managed.listed(OWNER)
    assert whole == sorted(made, key=lambda transfer: (transfer.created, transfer.id), reverse=True)
    pages: list[Transfer] = []
    after = None
    while page := await queueing.managed.listed(OWNER, (), after, 2):
        pages += page
        after = (page[-1].created, page[-1].id)
    assert pages == whole
    assert await queueing.managed.listed(None, (), None, 1) == [theirs]
    await queueing.managed.act(made[2].id, Action.PAUSE)
    assert [found.id for found in await queueing.managed.listed(OWNER, [P])] == [made[2].id]
    assert len(await queueing.managed.listed(OWNER, [P, Q])) == 6
    assert await queueing.managed.listed(OWNER, [A]) == []


# -- turns and limits -------------------------------------------------------------------------------------------------


async def test_each_person_has_a_turn(queueing: Queueing) -> None:
    """However many somebody has waiting, the others are not behind all of them."""
    queueing.change(active_per_user=1000, active_per_pair=1000)
    for _ in range(30):
        await queueing.submit(OWNER)
    others = [f"cn=p{number},o=x" for number in range(4)]
    for person in others:
        await queueing.submit(person)
        await queueing.submit(person)
    begun = [(await queueing.claimed()).transfer.person for _ in range(12)]
    assert Counter(begun[:5]) == Counter([OWNER, *others])
    assert Counter(begun[5:10]) == Counter([OWNER, *others])
    assert begun[10:] == [OWNER, OWNER]


async def test_the_first_submitted_of_a_person_is_the_first_begun(queueing: Queueing) -> None:
    made = [(await queueing.submit()).id for _ in range(4)]
    assert [(await queueing.claimed()).transfer.id for _ in range(4)] == made


async def test_limits_per_person_and_per_pair(queueing: Queueing) -> None:
    queueing.change(active_per_user=2, active_per_pair=3)
    for _ in range(5):
        await queueing.submit(OWNER)
        await queueing.submit(OTHER)
        await queueing.submit("cn=third,o=x", source="C")
    begun = []
    while claimed := await queueing.claim():
        begun.append(claimed)
    people = Counter(claimed.transfer.person for claimed in begun)
    assert people["cn=third,o=x"] == 2
    assert people[OWNER] + people[OTHER] == 3
    assert max(people.values()) == 2
    for claimed in begun:
        await queueing.managed.settle(claimed.lease, Outcome.SUCCEEDED)
    assert await queueing.claim() is not None


async def test_a_full_pair_does_not_keep_a_person_from_others(queueing: Queueing) -> None:
    queueing.change(active_per_user=5, active_per_pair=1)
    for _ in range(3):
        await queueing.submit()
    free = await queueing.submit(target="C")
    assert {(await queueing.claimed()).transfer.target.server for _ in range(2)} == {"B", "C"}
    assert (await queueing.now(free)).state is A
    assert await queueing.claim() is None


async def test_what_waits_for_its_next_try_is_passed_over(queueing: Queueing) -> None:
    first = await queueing.claimed() if await queueing.submit() else None
    assert first is not None
    when = queueing.clock.now + 60
    assert await queueing.managed.settle(first.lease, Outcome.LATER, reason="node is down", next_try=when) is Q
    waiting = await queueing.now(first.transfer)
    assert (waiting.state, waiting.reason, waiting.next_try, waiting.attempts) == (Q, "node is down", when, 1)
    assert await queueing.claim() is None
    queueing.clock.now = when
    again = await queueing.claimed()
    assert (again.transfer.id, again.transfer.attempts, again.transfer.reason, again.again) == (
        waiting.id,
        2,
        "",
        False,
    )
    assert again.transfer.started == first.transfer.started


# -- leases -----------------------------------------------------------------------------------------------------------


async def test_a_lease_that_lapsed_is_taken_over(queueing: Queueing) -> None:
    await queueing.submit()
    first = await queueing.claimed("w1")
    assert (first.again, first.transfer.attempts) == (False, 1)
    queueing.clock.now += 20
    assert await queueing.managed.renew(first.lease, queueing.settings) is Wanted.NOTHING
    queueing.clock.now += 20
    assert await queueing.claim("w2") is None
    await queueing.managed.note(first.lease, drive='{"copy": 7}', node="TEST-1")
    queueing.clock.now += 31
    second = await queueing.claimed("w2")
    assert (second.again, second.transfer.attempts, second.transfer.drive) == (True, 1, '{"copy": 7}')
    assert second.transfer.state is A
    await _nothing_works(queueing, first)
    assert await queueing.managed.renew(second.lease, queueing.settings) is Wanted.NOTHING


async def _nothing_works(queueing: Queueing, lost: Claimed) -> None:
    """What is done under a lease that was lost has no effect."""
    before = await queueing.now(lost.transfer)
    managed, lease = queueing.managed, lost.lease
    assert await managed.renew(lease, queueing.settings) is None
    assert await managed.note(lease, progress=Progress(bytes=1), node="x", drive="x", attempt=True) is None
    assert not await managed.add_errors(lease, 0, [FileError(source="a", target="b", error="c")])
    assert not await managed.clear_errors(lease, 0)
    assert not await managed.keep_credential(lease, lost.transfer, Side.TARGET, TOKEN)
    for outcome in Outcome:
        assert await managed.settle(lease, outcome) is None
    await managed.hand_back(lease)
    assert await queueing.now(lost.transfer) == before


async def test_a_late_renewal_counts_if_nobody_was_quicker(queueing: Queueing) -> None:
    await queueing.submit()
    claimed = await queueing.claimed()
    queueing.clock.now += 1000
    assert await queueing.managed.renew(claimed.lease, queueing.settings) is Wanted.NOTHING
    assert await queueing.claim("w2") is None


async def test_what_is_handed_back_is_had_at_once(queueing: Queueing) -> None:
    await queueing.submit()
    first = await queueing.claimed()
    await queueing.managed.hand_back(first.lease)
    assert (await queueing.now(first.transfer)).state is A
    second = await queueing.claimed("w2")
    assert second.again
    await _nothing_works(queueing, first)


async def test_what_is_taken_over_counts_once(queueing: Queueing) -> None:
    queueing.change(active_per_user=1)
    first, second = await queueing.submit(), await queueing.submit()
    await queueing.claimed()
    queueing.clock.now += 100
    assert (await queueing.claimed("w2")).transfer.id == first.id
    assert await queueing.claim("w2") is None
    assert (await queueing.now(second)).state is Q


# -- what owners ask for, and whoever races ---------------------------------------------------------------------------


async def _in_state(queueing: Queueing, state: TransferState, wish: Wanted) -> tuple[Transfer, Claimed | None]:
    made = await queueing.submit()
    if state in (Q, P, TransferState.CANCELLED):
        if state is not Q:
            await queueing.managed.act(made.id, Action.PAUSE if state is P else Action.CANCEL)
        return await queueing.now(made), None
    claimed = await queueing.claimed()
    assert claimed.transfer.id == made.id
    if state is not A:
        await queueing.managed.settle(claimed.lease, Outcome(state.value), reason="why")
    elif wish is not Wanted.NOTHING:
        await queueing.managed.act(made.id, Action(wish.value))
    return await queueing.now(made), claimed


ALL_STATES = [(state, Wanted.NOTHING) for state in TransferState] + [(A, Wanted.PAUSE), (A, Wanted.CANCEL)]


async def test_the_store_does_what_the_table_says(queueing: Queueing) -> None:
    for before, action in product(ALL_STATES, Action):
        made, claimed = await _in_state(queueing, *before)
        assert (made.state, made.wanted) == before
        decision = transitions.decide(*before, action)
        queueing.clock.now += 5
        if isinstance(decision, transitions.Refusal):
            with pytest.raises(RequestError) as caught:
                await queueing.managed.act(made.id, action)
            assert (caught.value.status, str(caught.value)) == (409, decision.text)
            assert await queueing.now(made) == made
        else:
            found = await queueing.managed.act(made.id, action)
            assert found is not None
            assert found == await queueing.now(made)
            expected = before if decision is None else (decision.state, decision.wanted)
            assert (found.state, found.wanted) == expected
            assert (found.ended > 0) == found.state.is_final
            if decision is None:
                assert found == made
        await _bring_to_an_end(queueing, made, claimed)


async def _bring_to_an_end(queueing: Queueing, made: Transfer, claimed: Claimed | None) -> None:
    """Whoever works on it does what is wished, and what waits can be begun: nothing is stuck."""
    now = await queueing.now(made)
    if now.state is A:
        assert claimed is not None
        assert await queueing.managed.renew(claimed.lease, queueing.settings) is now.wanted
        state = await queueing.managed.settle(claimed.lease, Outcome.STOPPED)
        assert state is transitions.settle(now.wanted, Outcome.STOPPED)
        now = await queueing.now(made)
    if now.state is P:
        await queueing.managed.act(made.id, Action.RESUME)
        now = await queueing.now(made)
    if now.state is Q:
        begun = await queueing.claimed()
        assert begun.transfer.id == made.id
        assert await queueing.managed.settle(begun.lease, Outcome.SUCCEEDED) is TransferState.SUCCEEDED
    assert (await queueing.now(made)).state.is_final
    assert await queueing.claim() is None


async def test_whatever_comes_of_it_and_is_wished_meanwhile(queueing: Queueing) -> None:
    for wish, outcome in product(Wanted, Outcome):
        made, claimed = await _in_state(queueing, A, wish)
        assert claimed is not None
        expected = transitions.settle(wish, outcome)
        assert await queueing.managed.settle(claimed.lease, outcome, reason="the reason") is expected
        found = await queueing.now(made)
        assert (found.state, found.wanted) == (expected, Wanted.NOTHING)
        assert (found.ended > 0) == expected.is_final
        tells = {(Outcome.FAILED, "failed"), (Outcome.LATER, "queued"), (Outcome.NEEDY, "paused")}
        assert found.reason == ("the reason" if (outcome, expected.value) in tells else "")
        await _nothing_works(queueing, claimed)
        await _bring_to_an_end(queueing, made, None)


async def test_a_retry_copies_what_is_missing(queueing: Queueing) -> None:
    made = await queueing.submit(sources=(on("A"), on("A", b"/data/y")))
    claimed = await queueing.claimed()
    done = SourceProgress(number=0, state=SourceState.DONE, copy="7", progress=Progress(bytes=5, files=1))
    bad = SourceProgress(number=1, state=SourceState.FAILED, copy="8", progress=Progress(failed=2), error="no")
    progress = Progress(bytes=5, total=9, files=1, failed=2, found=3, rate=4)
    await queueing.managed.note(claimed.lease, progress=progress, sources=[done, bad])
    failures = [FileError(source=f"/{n}", target=f"/t{n}", error="denied") for n in range(2)]
    assert await queueing.managed.add_errors(claimed.lease, 1, failures)
    assert await queueing.managed.add_errors(claimed.lease, 0, failures[:1])
    await queueing.managed.settle(claimed.lease, Outcome.FAILED, reason="2 files failed")
    failed = await queueing.now(made)
    assert (failed.progress, failed.reason) == (
        Progress(bytes=5, total=9, files=1, failed=2, found=3),
        "2 files failed",
    )
    again = await queueing.managed.act(made.id, Action.RETRY)
    assert again is not None
    assert (again.state, again.reason, again.ended, again.attempts, again.progress.failed) == (Q, "", 0, 0, 0)
    sources = await queueing.managed.sources(made.id)
    assert sources[0] == done
    assert (sources[1].state, sources[1].copy, sources[1].error) == (SourceState.WAITING, "", "")
    assert [number for number, _ in await queueing.managed.errors(made.id, 0, 10)] == [3]


async def test_resuming_leaves_sources_as_they_are(queueing: Queueing) -> None:
    made = await queueing.submit()
    claimed = await queueing.claimed()
    started = SourceProgress(number=0, state=SourceState.STARTED, copy="7", progress=Progress(bytes=5))
    await queueing.managed.note(claimed.lease, sources=[started])
    await queueing.managed.settle(claimed.lease, Outcome.NEEDY, reason="log in")
    found = await queueing.managed.act(made.id, Action.RESUME)
    assert found is not None
    assert (found.state, found.reason) == (Q, "")
    assert await queueing.managed.sources(made.id) == (started,)


# -- failed files -----------------------------------------------------------------------------------------------------


async def test_failed_files_are_listed_in_order_and_bounded(queueing: Queueing) -> None:
    made = await queueing.submit()
    claimed = await queueing.claimed()
    hostile = FileError(source="/\x00\udcff\x1b[2J" + "x" * 9000, target="", error="y" * 9000)
    await queueing.managed.add_errors(claimed.lease, 0, [hostile])
    plain = [FileError(source=f"/{number}", target="", error="denied") for number in range(MAX_ERRORS)]
    for begin in range(0, MAX_ERRORS, 5000):
        assert await queueing.managed.add_errors(claimed.lease, 0, plain[begin : begin + 5000])
    found = await queueing.managed.errors(made.id, 0, MAX_ERRORS * 2)
    assert len(found) == MAX_ERRORS
    first = found[0][1]
    assert first.source.startswith("/\ufffd\ufffd\x1b[2J")
    assert (len(first.source), len(first.error)) == (4096, 1000)
    assert [error.source for _, error in found[1:]] == [f"/{number}" for number in range(MAX_ERRORS - 1)]
    assert [number for number, _ in await queueing.managed.errors(made.id, 9999, 10)] == [9999, 10000]
    assert await queueing.managed.clear_errors(claimed.lease, 0)
    await queueing.managed.add_errors(claimed.lease, 0, plain[:1])
    assert len(await queueing.managed.errors(made.id, 0, 10)) == 1


# -- credentials ------------------------------------------------------------------------------------------------------


def _in_store(store: Store) -> str:
    """All the store says of credentials, in any form."""
    with store.engine.connect() as connection:
        return repr(connection.execute(select(transfer_credentials)).all())


async def test_credentials_are_sealed_and_replaced(queueing: Queueing) -> None:
    made = await queueing.submit(target=ELSEWHERE, credentials={Side.TARGET: TOKEN})
    assert await queueing.managed.credential(made, Side.TARGET) == TOKEN
    assert await queueing.managed.credential(made, Side.SOURCE) is None
    assert TOKEN.token not in _in_store(queueing.store)
    claimed = await queueing.claimed()
    renewed = StoredCredential(token="another")
    assert await queueing.managed.keep_credential(claimed.lease, made, Side.TARGET, renewed)
    assert await queueing.managed.credential(made, Side.TARGET) == renewed
    other_key = ManagedTransfers(queueing.store, Sealer([bytes(32)]), queueing.metrics)
    with pytest.raises(CannotOpen):
        await other_key.credential(made, Side.TARGET)


async def test_whoever_changes_the_store_has_no_credential_sent_elsewhere(queueing: Queueing) -> None:
    made = await queueing.submit(target=ELSEWHERE, credentials={Side.TARGET: TOKEN})
    with queueing.store.engine.begin() as connection:
        row = connection.execute(select(transfers.c.target).where(transfers.c.id == made.id)).scalar_one()
        changed = row.replace(ELSEWHERE.service, "https://thief.example/rest/auth/B")
        assert changed != row
        connection.execute(update(transfers).where(transfers.c.id == made.id).values(target=changed))
    claimed = await queueing.claimed()
    assert claimed.transfer.target.service == "https://thief.example/rest/auth/B"
    with pytest.raises(CannotOpen):
        await queueing.managed.credential(claimed.transfer, Side.TARGET)
    # Whoever had it open before goes on with what it was for.
    assert await queueing.managed.keep_credential(claimed.lease, made, Side.TARGET, TOKEN)
    with pytest.raises(CannotOpen):
        await queueing.managed.credential(claimed.transfer, Side.TARGET)
    assert await queueing.managed.credential(made, Side.TARGET) == TOKEN


Ending = Callable[[Queueing, Transfer], Awaitable[object]]


async def _settled(queueing: Queueing, outcome: Outcome) -> None:
    await queueing.managed.settle((await queueing.claimed()).lease, outcome)


async def _forgotten(queueing: Queueing, made: Transfer) -> None:
    await queueing.managed.act(made.id, Action.PAUSE)
    queueing.clock.now += 40 * 86400
    await queueing.managed.sweep()
    assert (await queueing.now(made)).state is TransferState.CANCELLED


ENDINGS: dict[str, Ending] = {
    "cancelled": lambda queueing, made: queueing.managed.act(made.id, Action.CANCEL),
    "succeeded": lambda queueing, made: _settled(queueing, Outcome.SUCCEEDED),
    "failed": lambda queueing, made: _settled(queueing, Outcome.FAILED),
    "forgotten": _forgotten,
}


@pytest.mark.parametrize("ending", list(ENDINGS))
async def test_they_are_gone_when_it_has_ended(queueing: Queueing, ending: str) -> None:
    made = await queueing.submit(target=ELSEWHERE, credentials={Side.TARGET: TOKEN})
    await ENDINGS[ending](queueing, made)
    assert (await queueing.now(made)).state.is_final
    assert _in_store(queueing.store) == "[]"
    if ending == "succeeded":
        return
    with pytest.raises(BadRequest, match=r"credentials\.target: required"):
        await queueing.managed.act(made.id, Action.RETRY)
    with pytest.raises(BadRequest, match=r"credentials\.source: not needed"):
        await queueing.managed.act(made.id, Action.RETRY, {Side.SOURCE: TOKEN})
    assert (await queueing.now(made)).state.is_final
    assert _in_store(queueing.store) == "[]"
    again = await queueing.managed.act(made.id, Action.RETRY, {Side.TARGET: TOKEN})
    assert again is not None
    assert again.state is Q
    assert await queueing.managed.credential(made, Side.TARGET) == TOKEN


async def test_new_ones_may_come_while_it_is_active(queueing: Queueing) -> None:
    made = await queueing.submit(target=ELSEWHERE, credentials={Side.TARGET: TOKEN})
    await queueing.claimed()
    fresh = StoredCredential(username="me", password="pw")
    await queueing.managed.act(made.id, Action.RESUME, {Side.TARGET: fresh})
    assert await queueing.managed.credential(made, Side.TARGET) == fresh


async def test_a_refused_wish_keeps_nothing(queueing: Queueing) -> None:
    made = await queueing.submit(target=ELSEWHERE, credentials={Side.TARGET: TOKEN})
    await queueing.managed.act(made.id, Action.CANCEL)
    with pytest.raises(RequestError):
        await queueing.managed.act(made.id, Action.RESUME, {Side.TARGET: TOKEN})
    assert _in_store(queueing.store) == "[]"


# -- callbacks --------------------------------------------------------------------------------------------------------


async def test_a_callback_is_due_once_it_has_ended(queueing: Queueing) -> None:
    made = await queueing.submit(callback="https://x.example/done")
    assert await queueing.managed.due_callback(30) is None
    await queueing.managed.act(made.id, Action.CANCEL)
    due = await queueing.managed.due_callback(30)
    assert due == (await queueing.now(made), 1)
    assert await queueing.managed.due_callback(30) is None
    await queueing.managed.callback_later(made.id, queueing.clock.now + 100)
    queueing.clock.now += 99
    assert await queueing.managed.due_callback(30) is None
    queueing.clock.now += 1
    assert (await queueing.managed.due_callback(30) or due)[1] == 2
    await queueing.managed.callback_done(made.id)
    queueing.clock.now += 10**6
    assert await queueing.managed.due_callback(30) is None


async def test_a_callback_of_a_server_that_died_is_tried_by_another(queueing: Queueing) -> None:
    made = await queueing.submit(callback="https://x.example/done")
    await queueing.managed.act(made.id, Action.CANCEL)
    assert await queueing.managed.due_callback(30) is not None
    queueing.clock.now += 31
    other = ManagedTransfers(queueing.store, queueing.sealer, queueing.metrics, clock=queueing.clock)
    found = await other.due_callback(30)
    assert found is not None
    assert (found[0].id, found[1]) == (made.id, 2)


async def test_a_transfer_that_was_begun_anew_has_a_callback_of_its_own(queueing: Queueing) -> None:
    made = await queueing.submit(callback="https://x.example/done")
    await queueing.managed.act(made.id, Action.CANCEL)
    assert await queueing.managed.due_callback(30) is not None
    await queueing.managed.act(made.id, Action.RETRY)
    await queueing.managed.callback_later(made.id, queueing.clock.now)
    assert await queueing.managed.due_callback(30) is None
    claimed = await queueing.claimed()
    await queueing.managed.settle(claimed.lease, Outcome.SUCCEEDED)
    due = await queueing.managed.due_callback(30)
    assert due is not None
    assert (due[0].state, due[1]) == (TransferState.SUCCEEDED, 1)


# -- keeping house ----------------------------------------------------------------------------------------------------


async def test_old_ones_go_with_all_that_hangs_on_them(queueing: Queueing) -> None:
    queueing.change(keep_days=2)
    old = await queueing.submit()
    claimed = await queueing.claimed()
    await queueing.managed.add_errors(claimed.lease, 0, [FileError(source="a", target="b", error="c")])
    await queueing.managed.settle(claimed.lease, Outcome.FAILED)
    open_one = await queueing.submit()
    queueing.clock.now += 1.5 * 86400
    recent = await queueing.submit(OTHER)
    await queueing.managed.act(recent.id, Action.CANCEL)
    queueing.clock.now += 0.6 * 86400
    await queueing.managed.sweep()
    assert await queueing.managed.get(old.id) is None
    assert {found.id for found in await queueing.managed.listed(None)} == {open_one.id, recent.id}
    with queueing.store.engine.connect() as connection:
        assert connection.execute(select(transfer_errors)).all() == []
        assert {row.transfer_id for row in connection.execute(select(transfer_sources))} == {open_one.id, recent.id}
        assert connection.execute(select(transfer_turns)).all() == []


async def test_numbers_for_the_site(queueing: Queueing) -> None:
    queueing.change(active_per_user=2)
    for _ in range(4):
        await queueing.submit()
    first = await queueing.claimed()
    await queueing.claimed()
    await queueing.managed.settle(first.lease, Outcome.SUCCEEDED)
    await queueing.managed.sweep()
    text = queueing.metrics.text().decode()
    assert 'uftpd_auth_transfers{state="queued"} 2.0' in text
    assert 'uftpd_auth_transfers{state="active"} 1.0' in text
    assert 'uftpd_auth_transfers{state="paused"} 0.0' in text
    assert 'uftpd_auth_transfers_ended_total{state="succeeded"} 1.0' in text


async def test_an_end_is_counted_once(queueing: Queueing) -> None:
    made = await queueing.submit()
    for _ in range(3):
        await queueing.managed.act(made.id, Action.CANCEL)
    assert 'uftpd_auth_transfers_ended_total{state="cancelled"} 1.0' in queueing.metrics.text().decode()


async def test_names_may_be_long(queueing: Queueing) -> None:
    person = "cn=" + "".join(chr(0x4E00 + number % 20000) for number in range(9000))
    made = await queueing.submit(person, target="B" * 64, name="n" * 200)
    assert [found.id for found in await queueing.managed.listed(person)] == [made.id]
    assert (await queueing.claimed()).transfer.person == person

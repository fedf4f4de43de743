"""The table of what becomes of a transfer, looked at as a whole."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from uftpd.auth.transfers.model import FINAL_STATES, Action, Outcome, TransferState, Wanted
from uftpd.auth.transfers.transitions import Change, Refusal, decide, settle

Q, A, P = TransferState.QUEUED, TransferState.ACTIVE, TransferState.PAUSED
S, F, C = TransferState.SUCCEEDED, TransferState.FAILED, TransferState.CANCELLED
NO, PAUSE, CANCEL = Wanted.NOTHING, Wanted.PAUSE, Wanted.CANCEL

# (state, wish) before: state and wish after cancel, pause, resume, retry; "!" is refused, "=" stays as it is.
EXPECTED: dict[tuple[TransferState, Wanted], list[Any]] = {
    (Q, NO): [(C, NO), (P, NO), (Q, NO), (Q, NO)],
    (A, NO): [(A, CANCEL), (A, PAUSE), "=", "="],
    (A, PAUSE): [(A, CANCEL), "=", (A, NO), (A, NO)],
    (A, CANCEL): ["=", "!", "!", "!"],
    (P, NO): [(C, NO), "=", (Q, NO), (Q, NO)],
    (S, NO): ["!", "!", "!", "!"],
    (F, NO): ["!", "!", "!", (Q, NO)],
    (C, NO): ["=", "!", "!", (Q, NO)],
}
OUTCOMES = {
    Outcome.SUCCEEDED: {NO: S, PAUSE: S, CANCEL: S},
    Outcome.FAILED: {NO: F, PAUSE: F, CANCEL: C},
    Outcome.LATER: {NO: Q, PAUSE: P, CANCEL: C},
    Outcome.NEEDY: {NO: P, PAUSE: P, CANCEL: C},
    Outcome.STOPPED: {NO: Q, PAUSE: P, CANCEL: C},
}


@pytest.mark.parametrize(("before", "action"), list(product(EXPECTED, Action)))
def test_what_owners_ask_for(before: tuple[TransferState, Wanted], action: Action) -> None:
    found = decide(*before, action)
    expected = EXPECTED[before][list(Action).index(action)]
    if expected == "!":
        assert isinstance(found, Refusal)
        assert found.text
    elif expected == "=":
        assert found is None
    else:
        assert isinstance(found, Change)
        assert (found.state, found.wanted) == expected


def test_every_state_is_in_the_table() -> None:
    assert {state for state, _ in EXPECTED} == set(TransferState)
    assert {wish for state, wish in EXPECTED if state is A} == set(Wanted)
    assert set(OUTCOMES) == set(Outcome)


@pytest.mark.parametrize(("outcome", "wanted"), list(product(Outcome, Wanted)))
def test_what_came_of_the_work(outcome: Outcome, wanted: Wanted) -> None:
    assert settle(wanted, outcome) is OUTCOMES[outcome][wanted]


def test_nobody_makes_a_transfer_active_but_a_worker() -> None:
    for (state, wish), action in product(EXPECTED, Action):
        found = decide(state, wish, action)
        if isinstance(found, Change) and found.state is A:
            assert state is A


def test_only_a_retry_leaves_a_final_state_and_begins_afresh() -> None:
    for state, action in product(sorted(FINAL_STATES), Action):
        found = decide(state, NO, action)
        if isinstance(found, Change):
            assert action is Action.RETRY
            assert found.afresh
            assert found.now


@pytest.mark.parametrize("wish", [PAUSE, CANCEL])
def test_a_wish_to_cancel_wins_whenever_it_comes(wish: Wanted) -> None:
    found = decide(A, wish, Action.CANCEL)
    assert found is None if wish is CANCEL else found == Change(A, CANCEL)
    assert all(settle(CANCEL, outcome) is C for outcome in Outcome if outcome is not Outcome.SUCCEEDED)

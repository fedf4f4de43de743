"""What becomes of a transfer, as a table: plain values, no store, no clock.

An owner asks for something in whatever state the transfer is; whoever works on it says what came of it. An active one
is not taken from under its worker: the wish is written down, and the worker does it, or finds out too late.

              cancel      pause       resume      retry
    queued    cancelled   paused      (now)       (now)        a wait for the next try is over
    active    wish        wish        wish gone   wish gone    but a wish to cancel stays: it may have been done already
    paused    cancelled   -           queued      queued
    succeeded refused     refused     refused     refused
    failed    refused     refused     refused     queued
    cancelled -           refused     refused     queued
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from uftpd.auth.transfers.model import Action, Outcome, TransferState, Wanted

_QUEUED, _ACTIVE, _PAUSED = TransferState.QUEUED, TransferState.ACTIVE, TransferState.PAUSED
_SUCCEEDED, _FAILED, _CANCELLED = TransferState.SUCCEEDED, TransferState.FAILED, TransferState.CANCELLED


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of it.

    Attributes:
        state: from now on.
        wanted: what whoever works on it shall do.
        now: it need not wait for its next try.
        afresh: attempts count from the beginning.
    """

    state: TransferState
    wanted: Wanted = Wanted.NOTHING
    now: bool = False
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """It cannot be done; the text is for the owner."""

    text: str


Decision = Change | Refusal | None
"""None: it is so already, or will be."""

_AFRESH: Final = Change(_QUEUED, now=True, afresh=True)

_ACTIONS: Final[Mapping[TransferState, Mapping[Action, Decision]]] = {
    _QUEUED: {
        Action.CANCEL: Change(_CANCELLED),
        Action.PAUSE: Change(_PAUSED),
        Action.RESUME: Change(_QUEUED, now=True),
        Action.RETRY: Change(_QUEUED, now=True),
    },
    _ACTIVE: {
        Action.CANCEL: Change(_ACTIVE, Wanted.CANCEL),
        Action.PAUSE: Change(_ACTIVE, Wanted.PAUSE),
        Action.RESUME: None,
        Action.RETRY: None,
    },
    _PAUSED: {
        Action.CANCEL: Change(_CANCELLED),
        Action.PAUSE: None,
        Action.RESUME: _AFRESH,
        Action.RETRY: _AFRESH,
    },
    _SUCCEEDED: {
        Action.CANCEL: Refusal("It has succeeded already"),
        Action.PAUSE: Refusal("It has succeeded already"),
        Action.RESUME: Refusal("It has succeeded already"),
        Action.RETRY: Refusal("It has succeeded already; submit another one to copy again"),
    },
    _FAILED: {
        Action.CANCEL: Refusal("It has failed already"),
        Action.PAUSE: Refusal("It has failed already"),
        Action.RESUME: Refusal("It has failed; retry it instead"),
        Action.RETRY: _AFRESH,
    },
    _CANCELLED: {
        Action.CANCEL: None,
        Action.PAUSE: Refusal("It was cancelled already"),
        Action.RESUME: Refusal("It was cancelled; retry it instead"),
        Action.RETRY: _AFRESH,
    },
}

_WISHES: Final[Mapping[Wanted, Mapping[Action, Decision]]] = {
    Wanted.PAUSE: {
        Action.CANCEL: Change(_ACTIVE, Wanted.CANCEL),
        Action.PAUSE: None,
        Action.RESUME: Change(_ACTIVE, Wanted.NOTHING),
        Action.RETRY: Change(_ACTIVE, Wanted.NOTHING),
    },
    Wanted.CANCEL: {
        Action.CANCEL: None,
        Action.PAUSE: Refusal("It is being cancelled"),
        Action.RESUME: Refusal("It is being cancelled; retry it when that is done"),
        Action.RETRY: Refusal("It is being cancelled; retry it when that is done"),
    },
}

_OUTCOMES: Final[Mapping[Outcome, Mapping[Wanted, TransferState]]] = {
    # What was copied was copied, whatever came too late.
    Outcome.SUCCEEDED: {Wanted.NOTHING: _SUCCEEDED, Wanted.PAUSE: _SUCCEEDED, Wanted.CANCEL: _SUCCEEDED},
    Outcome.FAILED: {Wanted.NOTHING: _FAILED, Wanted.PAUSE: _FAILED, Wanted.CANCEL: _CANCELLED},
    Outcome.LATER: {Wanted.NOTHING: _QUEUED, Wanted.PAUSE: _PAUSED, Wanted.CANCEL: _CANCELLED},
    Outcome.NEEDY: {Wanted.NOTHING: _PAUSED, Wanted.PAUSE: _PAUSED, Wanted.CANCEL: _CANCELLED},
    # It was stopped for a wish that was taken back meanwhile: then it goes on.
    Outcome.STOPPED: {Wanted.NOTHING: _QUEUED, Wanted.PAUSE: _PAUSED, Wanted.CANCEL: _CANCELLED},
}


def decide(state: TransferState, wanted: Wanted, action: Action) -> Decision:
    """What becomes of a transfer in this state, with this wish, when its owner asks for `action`."""
    if state is TransferState.ACTIVE and wanted is not Wanted.NOTHING:
        return _WISHES[wanted][action]
    return _ACTIONS[state][action]


def settle(wanted: Wanted, outcome: Outcome) -> TransferState:
    """The state of an active transfer with this wish, when the work on it has ended."""
    return _OUTCOMES[outcome][wanted]

"""What the pages of managed transfers show, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from uftpd.auth.transfers.model import Action, FileError, Transfer, TransferOptions, TransferState, Wanted
from uftpd.auth.transfers.transitions import Change, decide

# What somebody may press, in this order.
_BUTTONS: Final = (
    (Action.PAUSE, "Pause"),
    (Action.RESUME, "Resume"),
    (Action.RETRY, "Try again"),
    (Action.CANCEL, "Cancel"),
)
_WORDS: Final = {
    TransferState.QUEUED: "waiting",
    TransferState.ACTIVE: "running",
    TransferState.PAUSED: "paused",
    TransferState.SUCCEEDED: "done",
    TransferState.FAILED: "failed",
    TransferState.CANCELLED: "cancelled",
}
_ASKED: Final = {Wanted.PAUSE: "about to pause", Wanted.CANCEL: "about to be cancelled"}
_WAITED_FOR: Final = frozenset({Action.RESUME, Action.RETRY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Button:
    """What can be asked for now.

    Attributes:
        action: part of the address its form is sent to.
        label: on it.
    """

    action: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferView:
    """A transfer, as its owner sees it.

    Attributes:
        id: of the transfer.
        name: what its owner calls it; may be empty.
        state: `queued` and so on, for styles.
        words: the same for people.
        moving: it changes by itself.
        reason: empty for nothing to say.
        sources, target: as submitted.
        bytes, total, files, failed, found, rate: as in `uftpd.auth.transfers.model.Progress`.
        left: seconds until its end at this rate; 0 if that cannot be said.
        attempts: how often it was begun.
        created, started, ended, next_try: Unix seconds; 0 for not yet.
        node: that runs it; may be empty.
        options: how it is done, in words.
        buttons: what can be asked for.
        needs_login: a new login elsewhere might be needed to go on; a page does not ask for that.
    """

    id: str
    name: str
    state: str
    words: str
    moving: bool
    reason: str
    sources: Sequence[str]
    target: str
    bytes: int
    total: int
    files: int
    failed: int
    found: int
    rate: int
    left: float
    attempts: int
    created: float
    started: float
    ended: float
    next_try: float
    node: str
    options: Sequence[str]
    buttons: Sequence[Button]
    needs_login: bool

    @property
    def percent(self) -> int:
        """Of the bytes that are known of."""
        return min(100, 100 * self.bytes // self.total) if self.total else 0

    @classmethod
    def of(cls, transfer: Transfer, now: float) -> TransferView:
        """What is shown of it at a time in Unix seconds."""
        progress = transfer.progress
        ours = transfer.state is TransferState.ACTIVE
        missing = max(0, progress.total - progress.bytes)
        words = _ASKED.get(transfer.wanted, _WORDS[transfer.state]) if ours else _WORDS[transfer.state]
        waits = transfer.state is TransferState.QUEUED and transfer.next_try > now
        is_foreign = any(place.kind == "auth" for place in (*transfer.sources, transfer.target))
        return cls(
            id=transfer.id,
            name=transfer.name,
            state=transfer.state.value,
            words="waiting to be tried again" if waits else words,
            moving=transfer.state in (TransferState.QUEUED, TransferState.ACTIVE),
            reason=transfer.reason,
            sources=[place.text for place in transfer.sources],
            target=transfer.target.text,
            bytes=progress.bytes,
            total=progress.total,
            files=progress.files,
            failed=progress.failed,
            found=max(progress.found, progress.files),
            rate=progress.rate if ours else 0,
            left=missing / progress.rate if ours and progress.rate else 0.0,
            attempts=transfer.attempts,
            created=transfer.created,
            started=transfer.started,
            ended=transfer.ended,
            next_try=transfer.next_try if waits else 0.0,
            node=transfer.node,
            options=_options(transfer.options),
            buttons=_buttons(transfer, waits=waits, lacks_login=is_foreign and transfer.state in _ENDED_BADLY),
            needs_login=is_foreign and _needs_login(transfer),
        )


_ENDED_BADLY: Final = (TransferState.FAILED, TransferState.CANCELLED)


def _needs_login(transfer: Transfer) -> bool:
    # One that its owner has paused has no reason; one that has ended has no login any more.
    return transfer.state in _ENDED_BADLY or (transfer.state is TransferState.PAUSED and bool(transfer.reason))


def _buttons(transfer: Transfer, *, waits: bool, lacks_login: bool) -> list[Button]:
    found: list[Button] = []
    for action, label in _BUTTONS:
        if not isinstance(decide(transfer.state, transfer.wanted, action), Change):
            continue
        if action is Action.RETRY and lacks_login:
            continue
        # There is no use in asking for what is so already, nor in two buttons for one thing.
        if action in _WAITED_FOR and transfer.state is TransferState.QUEUED and not waits:
            continue
        if action is Action.RETRY and any(button.action == Action.RESUME for button in found):
            continue
        found.append(Button(action=action.value, label="Try now" if action is Action.RESUME and waits else label))
    return found


def _options(options: TransferOptions) -> list[str]:
    words = [
        ("with all in the folders", options.recursive),
        ("keeps times and permissions", options.preserve),
        ("encrypted", options.encrypt),
        ("compressed", options.compress),
        ("without checksums", not options.verify),
        ("begins anew at each try", not options.resume),
    ]
    return [word for word, holds in words if holds]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransfersView:
    """Somebody's transfers.

    Attributes:
        person: their name.
        token: of the forms.
        transfers: those shown, the newest first.
        after: what the rest comes after; empty if these are all.
        first: whether these are the newest.
        shares: whether they can share something here, too.
        problem: what could not be done; empty for nothing.
        done: what has just been done; empty for nothing.
        base: as in `DirectoryView`.
    """

    person: str
    token: str
    transfers: Sequence[TransferView]
    after: str = ""
    first: bool = True
    shares: bool = False
    problem: str = ""
    done: str = ""
    base: str = ""

    @property
    def moving(self) -> bool:
        """Whether any of them changes by itself."""
        return any(transfer.moving for transfer in self.transfers)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTransferView:
    """One transfer, with the files that could not be copied.

    Attributes:
        person, token, shares, problem, base: as in `TransfersView`.
        transfer: the one.
        errors: some of them.
        first: number of the first of them, from 0.
        following: number of the first one after them; 0 if there is none.
        reference: URL that names it on the command line.
    """

    person: str
    token: str
    transfer: TransferView
    errors: Sequence[FileError]
    reference: str
    first: int = 0
    following: int = 0
    shares: bool = False
    problem: str = ""
    base: str = ""

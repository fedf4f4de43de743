"""What a managed transfer is: its sides, its state, what is known of its progress, and who is working on it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

MAX_SOURCES: Final = 500
MAX_ERRORS: Final = 10_000
"""Failed files of one transfer that are remembered; more are only counted."""
MAX_REASON_CHARACTERS: Final = 2000
MAX_DRIVE_CHARACTERS: Final = 64 * 1024

_ID_CHARACTERS: Final = 16
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that looks like something else; ids are typed
_MAX_ID: Final = 64


class TransferState(StrEnum):
    """Where a transfer stands. It is in exactly one of these, and ends in one of the last three."""

    QUEUED = "queued"  # waits for its turn, or for its next try
    ACTIVE = "active"  # some auth server is working on it
    PAUSED = "paused"  # waits for its owner
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self in FINAL_STATES


FINAL_STATES: Final = frozenset({TransferState.SUCCEEDED, TransferState.FAILED, TransferState.CANCELLED})


class Wanted(StrEnum):
    """What the owner has asked of an active transfer; whoever works on it does it."""

    NOTHING = ""
    PAUSE = "pause"
    CANCEL = "cancel"


class Action(StrEnum):
    """What the owner can ask for."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"


class Outcome(StrEnum):
    """What whoever works on a transfer can say of it in the end."""

    SUCCEEDED = "succeeded"  # every source was copied, no file failed
    FAILED = "failed"  # for good
    LATER = "later"  # it did not work this time
    NEEDY = "needy"  # its owner has to do something first; the reason says what
    STOPPED = "stopped"  # nothing runs any more, because its owner asked for that


class Side(StrEnum):
    """One end of a transfer; credentials are for one."""

    SOURCE = "source"
    TARGET = "target"


PlaceKind = Literal["server", "auth", "web"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something is copied from or to.

    Attributes:
        kind: "server" is on a logical server of this auth server, "auth" on one of another auth server, "web" an https
            URL or a share link.
        text: as shown to the owner; `NAME:path` for "server", else the URL as submitted.
        server: NAME; empty for "web".
        service: for "auth" the URL a session is asked for, `https://HOST/rest/auth/NAME`; for "web" the URL.
        path: decoded; relative to the home without a slash in front; empty for "web".
        pattern: the path as a pattern, where it has wildcards (as `uftp.client.url.RemoteUrl`).
        host: of "auth" and "web": host and port, in lower case, as `host` or `host:port`.
    """

    kind: PlaceKind
    text: str
    server: str = ""
    service: str = ""
    path: bytes = b""
    pattern: bytes | None = None
    host: str = ""

    @property
    def end(self) -> str:
        """What limits count this as: transfers between the same two ends are a pair."""
        return {"server": self.server, "auth": self.service, "web": f"https://{self.host}"}[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the owner was on a logical server of this auth server when the transfer was submitted.

    Attributes:
        uid: account.
        gid: `:`-separated groups; empty for the account's own.
        includes, excludes: `:`-separated patterns; empty for nothing (CONTROL-PLANE 5.7).
        rate_limit: bytes a second; 0 for none.
    """

    uid: str
    gid: str = ""
    includes: str = ""
    excludes: str = ""
    rate_limit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """How it is done.

    Attributes:
        recursive: directories with all they hold.
        preserve: times and modes are kept.
        encrypt: between the nodes with AES-256-GCM, or not at all.
        compress: between the nodes.
        verify: digests are compared.
        resume: an attempt copies only what those before have not.
        rate_limit: bytes a second; 0 for no limit of its own.
        sessions: parallel sessions between the nodes; 0 for what helps.
        attempts: how often it is begun before it has failed; 0 for what the site allows.
    """

    recursive: bool = False
    preserve: bool = False
    encrypt: bool = False
    compress: bool = False
    verify: bool = True
    resume: bool = True
    rate_limit: int = 0
    sessions: int = 0
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTransfer:
    """What is submitted.

    Attributes:
        person: canonical name of the owner.
        sources: all "web", or all on one and the same server.
        target: "server" or "auth".
        options: how.
        accounts: of the owner, for sides of kind "server".
        name: for people.
        callback: https URL that is told of the end; empty for none.
        key: what the client calls this submission, so that repeating it makes no other; empty for none.
        digest: SHA-256 of what was submitted, so that a `key` is not used for another.
    """

    person: str
    sources: tuple[Place, ...]
    target: Place
    options: TransferOptions = field(default_factory=TransferOptions)
    accounts: dict[Side, Account] = field(default_factory=dict)
    name: str = ""
    callback: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    digest: bytes = b""

    @property
    def pair(self) -> str:
        """From which end to which."""
        return f"{self.sources[0].end} > {self.target.end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it has come, in all.

    Attributes:
        bytes, total: moved, and to be moved as far as is known.
        files, failed, found: done, failed, and found so far.
        rate: bytes a second of late.
    """

    bytes: int = 0
    total: int = 0
    files: int = 0
    failed: int = 0
    found: int = 0
    rate: int = 0


class SourceState(StrEnum):
    """Where one source stands."""

    WAITING = "waiting"
    STARTED = "started"  # a node has been told, or is about to be; `copy` says which copy
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceProgress:
    """How far one source has come.

    Attributes:
        number: its place among the sources, from 0.
        state: where it stands.
        copy: names the copy at the node, as whoever drives it wrote it down; empty for none.
        progress: of this source.
        error: why it failed as a whole.
    """

    number: int
    state: SourceState = SourceState.WAITING
    copy: str = ""
    progress: Progress = field(default_factory=Progress)
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileError:
    """A file that could not be copied.

    Attributes:
        source, target: as the node says it; empty if it does not.
        error: why.
    """

    source: str
    target: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """All that is known of a transfer, but for credentials.

    Attributes:
        id: random; names it.
        person: canonical name of the owner.
        name: for people.
        state: where it stands.
        wanted: what the owner has asked for while it is active.
        reason: why it is paused, has failed, or waits for another try.
        sources, target, options, accounts, callback: as in `NewTransfer`.
        progress: of all sources together.
        attempts: how often it was begun, since it was submitted, resumed or retried.
        created: Unix seconds, as the following; 0 for not (yet).
        started: begun for the first time.
        ended: came to a final state.
        next_try: queued, and not before this.
        node: what runs it, or ran it last, for people.
        drive: what whoever drives it wants to know when it goes on; nobody else reads it.
    """

    id: str
    person: str
    name: str
    state: TransferState
    wanted: Wanted
    reason: str
    sources: tuple[Place, ...]
    target: Place
    options: TransferOptions
    accounts: dict[Side, Account]
    callback: str = field(default="", repr=False)
    progress: Progress
    attempts: int
    created: float
    started: float
    ended: float
    next_try: float
    node: str
    drive: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a transfer, until it lapses. What is done under a lease that was lost has no effect.

    Attributes:
        transfer_id: of which.
        holder: who; another one each time.
    """

    transfer_id: str
    holder: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A transfer that was taken from the queue.

    Attributes:
        transfer: as it is now, in state "active".
        lease: to be renewed.
        sources: how far each source is, in order.
        again: another auth server, or an earlier run of this one, was at it: a copy may be running on a node.
    """

    transfer: Transfer
    lease: Lease
    sources: tuple[SourceProgress, ...]
    again: bool


def new_transfer_id() -> str:
    """An id that nobody can guess, and that can be read out and typed."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARACTERS))


def is_transfer_id(text: str) -> bool:
    """Whether `text` could be the id of a transfer."""
    return 0 < len(text) <= _MAX_ID and text.isascii() and text.isalnum()

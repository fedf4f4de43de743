"""What sessions, the processes of copies between servers, and the front say to each other about these copies.

A session asks the front, never the copy: `StartCopy` and the other questions, each answered by one `CopyAnswer`. The
front gives a copy its `CopySettings` as the first message, and hears how it goes on. All of it travels as described in
`uftpd.session.messages`, whose tables these messages are part of.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

CopyForm = Literal["send", "receive", "fetch"]
FinalWord = Literal["FINISHED", "FAILED", "ABORTED"]

MAX_FAILURES: Final = 200  # in one message
MAX_PATH: Final = 4096  # bytes, as the system has it
MAX_TEXT: Final = 500  # characters of an error


class _Message(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    pass


class CopyOrder(_Message, frozen=True):
    """What is to be copied, and how.

    Attributes:
        form: to the other server, from it, or from a URL.
        local: path on this node, as the session sees it, absolute and normalised.
        remote: path on the other server, or the URL.
        host, port, secret: the other server; empty for a URL.
        trees and the following: see `uftp.protocol.server_copies.CopyWords`.
        offset, length, ranged: part of the file; see `uftp.protocol.ranges.TransferRange`.
        streams: data connections of a transfer without MODE U.
        rate: bytes a second the session was held to; 0 for none.
    """

    form: CopyForm
    local: bytes
    remote: bytes
    host: str = ""
    port: int = 0
    secret: str = ""
    trees: bool = False
    recursive: bool = False
    preserve: bool = False
    encrypt: bool = False
    compress: bool = False
    verify: bool = True
    resume: bool = False
    logins: int = 1
    sessions: int = 0
    offset: int = 0
    length: int | None = None
    ranged: bool = False
    streams: int = 1
    rate: int = 0
    named: str = ""

    def __repr__(self) -> str:
        return f"CopyOrder({self.form!r})"  # a secret must not get into a traceback


# -- a session, and the front's answer ----------------------------------------------------------------------------


class StartCopy(_Message, frozen=True):
    """Have a copy started. `number` names the question, here and in the following."""

    number: int
    order: CopyOrder


class AskCopy(_Message, frozen=True):
    """How a copy stands."""

    number: int
    copy: int


class AbortCopy(_Message, frozen=True):
    """End a copy, and say so when it has ended; `keep` what a later one can go on with."""

    number: int
    copy: int
    keep: bool


class AskCopyErrors(_Message, frozen=True):
    """Which files of a copy failed, from the failure `first` on."""

    number: int
    copy: int
    first: int


class CopyFailure(msgspec.Struct, frozen=True):
    """A file that failed."""

    source: bytes
    target: bytes
    error: str


class CopyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a copy stands, in numbers; see `uftp.protocol.server_copies.CopyStatus`."""

    bytes: int = 0
    total: int = 0
    files: int = 0
    rate: int = 0
    failed: int = 0
    found: int = 0
    planned: bool = False
    seconds: float = 0.0


class CopyAnswer(_Message, frozen=True):
    """The front's answer to a session.

    Attributes:
        number: of the question.
        code: reply code of a refusal, 0 for none.
        reason: of the refusal, without anything a client must not read.
        passing: whether trying again later may help.
        copy: id of the copy that was started.
        word: how the copy stands.
        facts, error: what is known of it.
        failures, following: files that failed, and the number of the first one after them; 0: there are no more.
    """

    number: int
    code: int = 0
    reason: str = ""
    passing: bool = False
    copy: int = 0
    word: Literal["RUNNING", FinalWord, "UNKNOWN"] = "UNKNOWN"
    facts: CopyFacts = CopyFacts()
    error: str = ""
    failures: tuple[CopyFailure, ...] = ()
    following: int = 0


# -- the process of a copy ----------------------------------------------------------------------------------------


class CopyProgress(_Message, frozen=True):
    """How far the copy has got."""

    facts: CopyFacts


class CopyFailures(_Message, frozen=True):
    """Files that failed since the last such message, at most `MAX_FAILURES`."""

    failures: tuple[CopyFailure, ...]


class CopyEnded(_Message, frozen=True):
    """The copy has ended, and this is the last word about it."""

    word: FinalWord
    facts: CopyFacts
    error: str = ""


class WantAddresses(_Message, frozen=True):
    """Which addresses may be connected to for an https URL. Answered by `Addresses`."""

    number: int
    url: str


class Addresses(_Message, frozen=True):
    """IP literals to connect to; none, and why, if that is not allowed."""

    number: int
    addresses: tuple[str, ...] = ()
    refused: str = ""


class EndCopy(_Message, frozen=True):
    """The user wants the copy to end; `keep` what a later one can go on with."""

    keep: bool


FromSession = StartCopy | AskCopy | AbortCopy | AskCopyErrors
FromCopy = CopyProgress | CopyFailures | CopyEnded | WantAddresses

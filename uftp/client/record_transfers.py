"""One transfer of MODE U, as a pipeline runs it: what is asked for, what moves, and what came of it.

`Retrieval` brings bytes (RETR, and listings), `Storage` sends them (STOR, APPE). Their `carry` runs in a thread and
moves the one sequence of records that belongs to the command (EXTENSIONS 1, which sequences flow).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from uftp.client.data import Receive, Send
from uftp.client.wording import printable, refusal, server_said
from uftp.errors import LocalFileError, PeerBrokeProtocol, TransferFailed, UFTPError
from uftp.protocol.replies import Reply
from uftp.streams import Cancelled, Meter, SourceEnded

if TYPE_CHECKING:
    from uftp.streams.records import RecordIncoming, RecordOutgoing

_ANNOUNCED: Final = re.compile(r"OK ([0-9]{1,19}) bytes")
# Times that a transfer is begun again after a run in which none came to an end, not even a bad one.
_TRIES: Final = 3


@dataclass(slots=True, eq=False, kw_only=True)
class Transfer:
    """See the module. What a caller sets:

    Attributes:
        line: the command, without line end.
        path: the file, for messages.
        action: for messages, as "read it".
        prelude: commands that set the range for it.
        offset, length: the range they set, for the binding of the records; length None if they set none.
        meter: counts its bytes, and stops it.
        repeatable: whether it may be begun again after a connection broke before it was answered.

    What came of it:

    Attributes:
        error: why it failed; None if it is done, or was not run.
        facts: MLST facts the server sent with the end of a file; empty if none.
        digest: BLAKE3 of what moved, which both ends have compared if it succeeded; empty without DIGEST.
    """

    line: bytes
    path: bytes
    action: str
    prelude: tuple[bytes, ...] = ()
    offset: int = 0
    length: int | None = None
    meter: Meter = field(default_factory=Meter)
    repeatable: bool = True
    error: UFTPError | None = None
    facts: bytes = b""
    digest: bytes = b""
    # The pipeline's own notes.
    number: int = 0
    cost: int = 0
    attempts: int = 0
    placed: bool = False
    begun: bool = False
    whole: bool = False
    carried: bool = False
    final: Reply | None = None
    trouble: str = ""

    def note(self, error: Exception) -> None:
        """Keep the first reason for which it fails; runs in the thread that found it."""
        if self.error is not None or self.trouble:
            return
        if isinstance(error, UFTPError):
            self.error = error
        elif isinstance(error, SourceEnded):
            self.trouble = f"the local file became shorter meanwhile: {error}"
        elif isinstance(error, OSError):
            shown = printable(self.path)
            self.error = LocalFileError(f"{shown}: the local side failed: {error.strerror or error}")
            self.error.__cause__ = error
        elif isinstance(error, Cancelled):
            self.trouble = "it was given up"
        else:
            self.trouble = printable(str(error))

    @property
    def succeeded(self) -> bool:
        """Whether the bytes are where they belong, and both ends say so."""
        said_so = self.final is not None and self.final.is_success
        return said_so and self.whole and not self.trouble and self.error is None

    def conclude(self) -> None:
        """Nothing more comes: what is no success becomes `error`."""
        if self.succeeded or self.error is not None:
            return
        final = self.final
        if final is not None and not final.is_success and not self.begun and not self.trouble:
            self.error = refusal(final, self.path, self.action)
            return
        refused = final is not None and not final.is_success
        why = self.trouble or ("" if self.whole or refused else "the data connection broke")
        said = "" if final is None or (final.is_success and why) else server_said(final)
        self.error = TransferFailed(
            f"{printable(self.path)}: the transfer failed after {self.meter.moved} bytes: "
            + "; ".join(part for part in (why, said) if part),
            code=None if final is None or final.is_success else final.code,
        )

    def may_repeat(self) -> bool:
        """Whether it may be begun again, through no fault of its own."""
        return self.repeatable and not self.trouble and self.error is None and self.attempts < _TRIES

    def renew(self) -> None:
        """Forget how far it came, for another try."""
        self.meter.moved = 0
        self.meter.cancelled = False
        self.begun = self.whole = self.carried = False
        self.final = None


@dataclass(slots=True, eq=False, kw_only=True)
class Retrieval(Transfer):
    """RETR or a listing.

    Attributes:
        receive: takes the bytes, in a thread.
        due: bytes that must come; None for as many as the server announces.
        listing: whether it has no announced length, and no facts.
        settle: called in a thread when every byte has come and the server has said that it was all: gives the
            file its name. None for nothing.
    """

    receive: Receive
    due: int | None = None
    listing: bool = False
    settle: Callable[[], None] | None = None

    def carry(self, incoming: RecordIncoming, announcement: Reply) -> None:
        """Take the sequence to its end.

        Raises:
            UFTPError, StreamError, OSError: it failed; whether the sequence has ended is for the reader to know.
        """
        announced = None
        if not self.listing:
            match = _ANNOUNCED.search(announcement.text)
            if match is None:
                raise PeerBrokeProtocol(f"{printable(self.path)}: no length announced: {printable(announcement.text)}")
            announced = int(match[1])
            if self.due is not None and announced != self.due:
                raise TransferFailed(
                    f"{printable(self.path)}: {self.due} bytes were due, the server has {announced}; "
                    "did the file change?"
                )
        start = self.meter.moved
        self.receive(incoming, announced, self.meter)
        moved = self.meter.moved - start
        if announced is not None and moved != announced:
            raise TransferFailed(f"{printable(self.path)}: the data ended after {moved} of {announced} bytes")
        if not incoming.finish():
            raise TransferFailed(f"{printable(self.path)}: the server sent more than it had announced")
        self.facts = incoming.facts
        self.digest = incoming.digest
        self.whole = True


@dataclass(slots=True, eq=False, kw_only=True)
class Storage(Transfer):
    """STOR or APPE.

    Attributes:
        send: sends the bytes, in a thread.
        total: how many it sends; None if that is not known.
        ranged: whether it writes into a file: its range must be set before the command goes out.
        keep: the facts the file shall have on the server, asked for when its bytes are sent; empty for none.
    """

    send: Send
    total: int | None = None
    ranged: bool = False
    keep: Callable[[], bytes] = bytes

    def carry(self, outgoing: RecordOutgoing) -> None:
        """Send the sequence.

        Raises:
            UFTPError, StreamError, OSError: it failed, and has to be ended by ABORT.
        """
        start = self.meter.moved
        self.send(outgoing, self.meter)
        moved = self.meter.moved - start
        if self.total is not None and moved != self.total:
            raise SourceEnded(f"{moved} of {self.total} bytes could be read")
        facts = self.keep()
        self.whole = True  # before the END goes out: its reply may be faster than this thread
        outgoing.end(facts)
        self.digest = outgoing.digest

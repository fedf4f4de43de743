"""How the work on a transfer ends before everything is copied, and which errors mean what.

An error is one of three: nothing will change it (`ForGood`), it may pass (`NotNow`), or the owner has to do something
(`NeedsOwner`). Nodes say why a file failed in words alone, so the words decide; what they do not settle may pass, since
another try costs little, and giving up too early a transfer.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from uftp.client.wording import is_about_a_missing_file, is_about_rights, printable
from uftp.errors import NetworkError, NotFound, Refused, UFTPError, UsageError
from uftpd.auth.errors import BadRequest, NotAllowed, RequestError
from uftpd.auth.errors import NotFound as NoSuchServer
from uftpd.auth.errors import Refused as NotLoggedIn
from uftpd.auth.transfers.model import MAX_REASON_CHARACTERS, Outcome
from uftpd.peers import PeerRefused

_BUSY: Final = re.compile(r"too many|server limit|session limit|try again|busy|just now", re.IGNORECASE)
_LASTING: Final = re.compile(
    r"is a directory|cannot be copied onto|needs? a directory|same name|encrypt|does not copy|are not copied"
    r"|file name too long|too deep|not a link|no wildcards|unknown word|digits? (?:of|in)",
    re.IGNORECASE,
)
# What may pass by RFC 959 section 4.2.1; and 500, which UFTP servers say of whatever fails, HTTP servers of themselves.
_FAILING: Final = frozenset({421, 425, 426, 450, 451, 452, 500})


class Ending(Exception):
    """Ends the work on a transfer, or on one source of it. The message is for the owner."""

    outcome: ClassVar[Outcome]


class ForGood(Ending):
    """Another try would end the same way."""

    outcome = Outcome.FAILED


class NotNow(Ending):
    """Another try may go better.

    Attributes:
        busy: there is no room at the moment; nothing has gone wrong.
    """

    outcome = Outcome.LATER

    def __init__(self, text: str, *, busy: bool = False) -> None:
        super().__init__(text)
        self.busy = busy


class NeedsOwner(Ending):
    """Only the owner can make it go on; the message says how."""

    outcome = Outcome.NEEDY


def ending_of(error: RequestError | UFTPError) -> Ending:
    """What an error of asking for a session, or of starting a copy, means for the transfer."""
    text = one_line(str(error))
    if isinstance(error, RequestError):
        if isinstance(error, BadRequest | NotAllowed | NoSuchServer | NotLoggedIn):
            return ForGood(text)
        return NotNow(text, busy=_BUSY.search(text) is not None)
    if isinstance(error, PeerRefused | UsageError):
        return ForGood(text)
    busy = _BUSY.search(text) is not None
    if isinstance(error, NotFound | Refused) and not busy:
        # A node or server that fails, ends just now, or cannot start a process says 500, and so it may go on to say.
        return NotNow(text) if error.code in _FAILING and not is_lasting(text) else ForGood(text)
    return NotNow(text, busy=busy and isinstance(error, NotFound | Refused | NetworkError))


def is_lasting(text: str) -> bool:
    """Whether what a node says of a file, or of a whole copy, will be the same the next time."""
    if _BUSY.search(text):
        return False
    return is_about_a_missing_file(text) or is_about_rights(text) or _LASTING.search(text) is not None


def one_line(text: str) -> str:
    """A text of another machine as a reason: printable, and not longer than is kept."""
    return printable(" ".join(text.split()))[:MAX_REASON_CHARACTERS]

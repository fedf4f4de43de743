"""What is worth another try, and how long to wait before it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final

from uftp.errors import (
    AuthenticationFailed,
    LocalFileError,
    NetworkError,
    Refused,
    TransferFailed,
    UFTPError,
    UsageError,
)

_FIRST_WAIT: Final = 0.25  # seconds; a connection that broke by chance is there again at once
_LONGEST_WAIT: Final = 10.0
# Replies that pass (RFC 959 and EXTENSIONS 1): no data connection, it broke, the file is busy, a local error.
_PASSING: Final = (421, 425, 426, 450, 451)
# Of a transfer that has begun: no such file or right, no space, too large, no such name. 452 is "no space just now",
# which no few seconds change.
_LASTING: Final = (452, 550, 552, 553)
_NO_USE: Final = re.compile(r"no space|disk full|quota|too large|permission|denied|read-only", re.IGNORECASE)


def may_pass(error: UFTPError) -> bool:
    """Whether the same step could succeed a little later, on another session.

    What does not pass: no such file, no right, no space, a source that changed, an error of this side's files, a peer
    that does not speak the protocol.
    """
    match error:
        case NetworkError():
            return True
        case TransferFailed():
            return not (error.lasting or error.code in _LASTING or _NO_USE.search(str(error)))
        case Refused():
            return error.code in _PASSING and not _NO_USE.search(str(error))
    return False


def is_worth_another_session(error: UFTPError) -> bool:
    """Whether opening a session, which has worked before, could work again a little later."""
    return not isinstance(error, UsageError | LocalFileError | AuthenticationFailed)


def wait_before(attempt: int, chance: Callable[[], float] = random.random) -> float:
    """Seconds to wait before a further try: doubled each time, and scattered, so that many do not come at once.

    Args:
        attempt: 1 for the first one after a failure.
        chance: gives a number from 0 up to 1.
    """
    longest: float = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(attempt - 1, 16))
    return longest * (0.5 + chance() / 2)

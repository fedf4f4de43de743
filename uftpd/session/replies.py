"""From what went wrong to what the client is told (DATA-PLANE 3.3).

Every failure is 5xx: the Java client takes anything below 500 for success. The exceptions are 426 and 226 after the
client's own ABOR, 426 where it ended a download by closing the data connection itself (PyFilesystem does so with a file
that is not read to its end, and bears with 4xx only), and 421 before the server closes. Texts hold no path outside the
session's base, and no traceback.
"""

from __future__ import annotations

import errno
from typing import Final

from uftp.protocol import ProtocolError
from uftp.protocol.replies import Reply, reply
from uftp.streams import Cancelled, ConnectionBroken, SourceEnded, Stalled, StreamError
from uftp.streams.records import Aborted, NotAuthentic
from uftpd.session.data_connection import NoDataConnection, NoFreePort
from uftpd.session.filters import Forbidden

OK: Final = reply(200, "OK")
NOT_THERE: Final = "Directory/file does not exist or cannot be accessed!"
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_TAKEN: Final = (
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EXDEV,
    errno.ENAMETOOLONG,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.ENXIO,
    errno.ETXTBSY,
)
# Where upstream answers a missing file with 500 instead of 550, and clients may have got used to it.
# For MKD, RMD and DELE this would not do: to lftp 500 is a server that lacks the command, and a mirror onto a directory
# that exists waits for ever.
_PLAIN_ERROR_VERBS: Final = ("STAT",)


class CommandError(Exception):
    """A command that fails with this reply code and text; `passing`: it may not fail if it is tried again."""

    def __init__(self, code: int, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.passing = passing


class Incomplete(Exception):
    """An upload ended before the announced number of bytes."""


def error_reply(verb: str, error: Exception, *, record_mode: bool = False) -> Reply | None:
    """The reply for a command that raised `error`; None if it is none of the foreseen kinds.

    Args:
        verb: the command.
        error: what it raised.
        record_mode: in MODE U 4xx says that trying again may help, as RFC 959 has it.
    """
    found = (_record_mode(error) if record_mode else None) or code_and_text(verb, error)
    if found is None:
        return None
    code, text = found
    return reply(code, f"Error processing command '{verb}': {text}")


def code_and_text(verb: str, error: Exception) -> tuple[int, str] | None:
    """The reply code for a command that raised `error`, and its text; None if it is none of the foreseen kinds."""
    match error:
        case CommandError():
            return error.code, str(error)
        case ProtocolError():
            return 501, str(error)
        case Forbidden():
            return 534, f"Forbidden: {error}"
        case NoFreePort():
            return 522, str(error)
        case NoDataConnection():
            return 550, str(error)
        case ConnectionBroken() if verb == "RETR":
            return 426, str(error)
        case Incomplete() | SourceEnded() | Stalled() | ConnectionBroken():
            return 551, str(error)
        case Cancelled():
            return 551, "transfer was stopped"
        case StreamError():
            return 551, str(error)
        case FileNotFoundError():
            return (500 if verb in _PLAIN_ERROR_VERBS else 550), NOT_THERE
        case OSError():
            return _os_error(verb, error)
    return None


def _record_mode(error: Exception) -> tuple[int, str] | None:
    """What differs in MODE U (EXTENSIONS section 1, reply codes)."""
    match error:
        case CommandError(passing=True):
            return 450, str(error)
        case NoDataConnection():
            return 425, str(error)
        case NotAuthentic():
            return 421, str(error)
        case Aborted():
            return 426, f"the client gave the transfer up: {error}"
        case Cancelled():
            return 426, "transfer was stopped"
        case ConnectionBroken() | Stalled():
            return 426, str(error)
        case Incomplete():
            return 552, str(error)
        case SourceEnded() | StreamError():
            return 451, str(error)
        case OSError():
            return _record_mode_os_error(error)
    return None


def _record_mode_os_error(error: OSError) -> tuple[int, str] | None:
    text = error.strerror or "operating system error"
    if error.errno == errno.ENOSPC:
        return 452, text
    if error.errno in (errno.EBUSY, errno.ETXTBSY, errno.EAGAIN):
        return 450, text
    if error.errno in _NO_SPACE or error.errno in _NOT_TAKEN or isinstance(error, FileNotFoundError):
        return None
    return 451, text


def _os_error(verb: str, error: OSError) -> tuple[int, str]:
    text = error.strerror or "operating system error"
    if error.errno in _NO_SPACE:
        return 552, text
    if error.errno in _NOT_TAKEN and verb not in _PLAIN_ERROR_VERBS:
        return 550, text
    return 500, text

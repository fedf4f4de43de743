"""What goes wrong on a data node, as the grantee of a share is told.

They see no paths but those below the share, and nothing of the node but that something is wrong with it.
"""

from __future__ import annotations

from uftp.errors import NetworkError, NotFound, Refused, TimedOut, TransferFailed, UFTPError
from uftpd.auth import errors
from uftpd.auth.errors import RequestError


def as_request_error(error: UFTPError) -> RequestError:
    """The error reply for what a node said, or did not say; the log has its words as the cause."""
    match error:
        case NotFound():
            return errors.NotFound("No such file or directory in this share")
        case Refused():
            return RequestError(
                "The data node does not allow that with the rights of the person who shared it", status=403
            )
        case TransferFailed() if error.code is not None and error.code // 10 == 45:
            text = "There is no room left for it" if error.code == 452 else "The file system failed, try again later"
            return RequestError(text, status=507 if error.code == 452 else 500)
        case TransferFailed():
            return errors.NodeFailed("The file could not be moved as a whole, try again")
        case NetworkError() | TimedOut():
            return errors.Unavailable("The data node does not answer, try again later")
        case _:
            return errors.NodeFailed("The data node gave an answer that makes no sense")


def shown(error: Exception) -> str:
    """The text of an error, for a person, at most 500 characters on one line."""
    return "".join(c if c.isprintable() else " " for c in str(error))[:500]

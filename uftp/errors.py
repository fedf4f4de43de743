"""What can go wrong, by what a caller can do about it. Every error of the client side is one of these.

    UFTPError                     exit code  1
      UsageError                             2   the call makes no sense: a bad URL, two sources for one target
      AuthenticationFailed                   3   the auth server or the data node does not let this person in
      NotFound                               4   no such file, directory or server
      Refused                                5   the server says no: rights, limits, a command it does not know
      NetworkError                           6   no connection, or it broke, or it stalled
        TimedOut                             6   nothing came within the time
      LocalFileError                         7   a file on this side: rights, full disk, not there
      PeerBrokeProtocol                      8   the other end sent what the protocol does not allow
      TransferFailed                         9   a transfer that is not whole or does not verify
      SomeFailed                            10   several files asked for, some of them failed

Exit code 0 is success, 130 an interrupt (Ctrl-C).
"""

from __future__ import annotations

from typing import ClassVar


class UFTPError(Exception):
    """Base of all errors here. The message is one line for a person."""

    exit_code: ClassVar[int] = 1


class UsageError(UFTPError):
    """The call makes no sense as given."""

    exit_code = 2


class AuthenticationFailed(UFTPError):
    """Credentials were refused, or a role is missing."""

    exit_code = 3


class _ServerSaidNo(UFTPError):
    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        """The FTP reply code or HTTP status behind this, where there was one."""


class NotFound(_ServerSaidNo):
    """No such file, directory or server."""

    exit_code = 4


class Refused(_ServerSaidNo):
    """The server does not do this: rights, limits, or a command it does not know."""

    exit_code = 5


class NetworkError(UFTPError):
    """No connection to the server, or it broke."""

    exit_code = 6


class TimedOut(NetworkError):
    """Nothing came from the server within the time allowed."""


class LocalFileError(UFTPError):
    """A file or directory on this side cannot be read or written."""

    exit_code = 7


class PeerBrokeProtocol(UFTPError):
    """The other end sent something the protocol does not allow."""

    exit_code = 8


class TransferFailed(_ServerSaidNo):
    """A transfer that is not whole, or whose content does not verify.

    In MODE U a `code` below 500 says that it may be tried again, one from 500 on that it is of no use; outside of it
    servers answer every failure with 5xx.

    Attributes:
        lasting: another try would end the same way: the source is not what it was, for instance.
    """

    exit_code = 9

    def __init__(self, message: str, *, code: int | None = None, lasting: bool = False) -> None:
        super().__init__(message, code=code)
        self.lasting = lasting


class SomeFailed(UFTPError):
    """Of several files some failed; the others are done."""

    exit_code = 10


EXIT_INTERRUPTED = 130

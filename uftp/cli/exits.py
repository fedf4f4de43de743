"""The exit codes, as one table for code, help and documentation."""

from __future__ import annotations

from typing import Final

from uftp import errors
from uftp.errors import UFTPError

MEANINGS: Final[tuple[tuple[int, str], ...]] = (
    (0, "done"),
    (errors.UFTPError.exit_code, "an error none of the others describes"),
    (errors.UsageError.exit_code, "the command makes no sense as given"),
    (errors.AuthenticationFailed.exit_code, "not let in: wrong password, token or role"),
    (errors.NotFound.exit_code, "no such file, directory or server"),
    (errors.Refused.exit_code, "the server says no: rights, limits, an unknown command"),
    (errors.NetworkError.exit_code, "no connection, or it broke or stalled"),
    (errors.LocalFileError.exit_code, "a file on this side cannot be read or written"),
    (errors.PeerBrokeProtocol.exit_code, "the server sent what the protocol does not allow"),
    (errors.TransferFailed.exit_code, "a file that is not whole; nothing of it was kept"),
    (errors.SomeFailed.exit_code, "some of several files failed; the others are done"),
    (errors.EXIT_INTERRUPTED, "interrupted by Ctrl-C; nothing unfinished has its final name"),
)

EXIT_TABLE: Final = "\n".join(f"  {code:3}  {meaning}" for code, meaning in MEANINGS)


def exit_code(error: BaseException) -> int:
    """The exit code for an error."""
    return error.exit_code if isinstance(error, UFTPError) else UFTPError.exit_code

"""Usage lines of transfers in MODE U, on their way to the log: many in one message (uftpd.session.messages).

A line a transfer, as everywhere; but a message each, or a table of facts each, would cost more than a small file.
"""

from __future__ import annotations

import os
from typing import Final

from uftp.protocol.record_mode import RecordOptions
from uftpd.session.state import Session

_COST: Final = 40  # bytes a transfer takes in a message, but for its path
_MOST: Final = 48 * 1024  # bytes of them in one message, which may hold 192 KiB: a byte that is not UTF-8 takes four


class Usage:
    """See the module. For one thread.

    Args:
        session: whose log gets them.
        options: of its MODE U.
    """

    def __init__(self, session: Session, options: RecordOptions) -> None:
        self._session = session
        self._options = options
        self._kind: tuple[str, str, str, bool] = ("", "", "", False)
        self._rows: list[tuple[str, int, float]] = []
        self._size = 0

    def add(self, verb: str, path: bytes, moved: int, seconds: float, result: str, how: str, verified: bool) -> None:
        """Note a transfer.

        Args:
            verb, path: of its command.
            moved: bytes.
            seconds: it took.
            result: "ok", "aborted", "ended", or the code of the reply.
            how: an upload reached its name; empty for downloads.
            verified: whether a digest was compared.
        """
        kind = (verb, result, how, verified)
        if kind != self._kind:
            self.write()
            self._kind = kind
        self._rows.append((os.fsdecode(path), moved, seconds))
        self._size += _COST + len(path)
        if self._size >= _MOST:
            self.write()

    def write(self) -> None:
        """Hand on what has been noted."""
        if not self._rows:
            return
        rows, self._rows, self._size = self._rows, [], 0
        verb, result, how, verified = self._kind
        self._session.log_transfers(
            {"verb": verb},
            rows,
            {
                "result": result,
                "how": how,
                "mode": "U",
                "crypt": self._options.crypt,
                "compress": self._options.compress,
                "verified": verified,
            },
        )

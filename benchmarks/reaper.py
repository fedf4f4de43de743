"""Runs a server and waits for every process of its tree, orphans included, so that no processor time is lost.

    python -m benchmarks.reaper COMMAND...

Some servers leave their session processes to init; here they come to this process instead (PR_SET_CHILD_SUBREAPER).
A SIGTERM ends the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run until the server has ended.

    Returns:
        Its exit code.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot adopt orphans")
    signal.signal(signal.SIGTERM, lambda *_: _end(server))
    server = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, setsigdef=[signal.SIGTERM])
    while True:
        pid, status = os.wait()
        if pid == server:
            return os.waitstatus_to_exitcode(status)


def _end(server: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

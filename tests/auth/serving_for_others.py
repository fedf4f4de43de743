"""Runs an auth server with a fake node until standard input ends: for tests that cannot share its event loop.

    python serving_for_others.py DIRECTORY

Prints one line of JSON, `url` and `ca`. The log goes to standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio
from running_auth import make_password_lines, make_pki, starter

from uftpd.events import configure


async def _main(directory: Path) -> None:
    pki = make_pki(directory)
    # Junk logs in with wrong passwords all the time, and is not to be slowed.
    settings = '[shares]\nservers = []\nallow_write = true\n[transfers]\nenabled = true\nkey_file = "transfers.key"'
    async with starter(directory, pki, make_password_lines())(
        login="longest_delay_seconds = 0", extra=settings
    ) as auth:
        print(json.dumps({"url": auth.url, "ca": str(pki.ca_path)}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    configure("info", "text")
    trio.run(_main, Path(sys.argv[1]))

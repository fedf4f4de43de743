"""A process that takes transfers from a queue and says that they succeeded, until none is left: `URL NAME HOLD`.

It tells on standard output what it does, a JSON list a line. With HOLD it stops at its first claim, as one that hangs.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import trio

from uftpd.auth.metrics import Metrics
from uftpd.auth.store.engine import Store, open_store
from uftpd.auth.transfers import rows
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Outcome, TransferState
from uftpd.auth.transfers.sealing import Sealer
from uftpd.config.operating import StoreSettings
from uftpd.config.transfers import Transfers

SETTINGS = Transfers(
    enabled=True, key_file=Path("none"), active_per_user=2, active_per_pair=3, lease_seconds=2, waiting_per_user=10_000
)


def say(*what: object) -> None:
    """A line to whoever started this."""
    print(json.dumps(what), flush=True)


async def check_limits(managed: ManagedTransfers) -> None:
    """At no moment there are more active ones than are allowed."""
    active = await managed.listed(None, [TransferState.ACTIVE], None, 1000)
    people = Counter(transfer.person for transfer in active)
    pairs = Counter((transfer.sources[0].end, transfer.target.end) for transfer in active)
    if max(people.values(), default=0) > SETTINGS.active_per_user:
        say("too many of a person", people)
    if max(pairs.values(), default=0) > SETTINGS.active_per_pair:
        say("too many of a pair", str(pairs))


async def work(store: Store, name: str, hold: bool) -> None:
    """Until no transfer is open."""
    managed = ManagedTransfers(store, Sealer([bytes(32)]), Metrics())
    say("ready")
    while True:
        claimed = await managed.claim(name, SETTINGS)
        if claimed is None:
            if not any((await store.read(rows.counts)).values()):
                say("done")
                return
            await managed.wait(0.02)
            continue
        say("claimed", claimed.transfer.id, claimed.transfer.person, claimed.again)
        if hold:
            await trio.sleep_forever()
        await check_limits(managed)
        await trio.sleep(random.uniform(0, 0.01))
        if await managed.settle(claimed.lease, Outcome.SUCCEEDED) is not None:
            say("settled", claimed.transfer.id)


def main() -> None:
    """Run."""
    url, name, hold = sys.argv[1:]
    store = open_store(StoreSettings(url=url, connections=2, timeout_seconds=60))
    trio.run(work, store, name, hold == "hold")
    store.close()


if __name__ == "__main__":
    main()

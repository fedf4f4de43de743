"""The task of an auth server that runs managed transfers: it takes them from the queue and drives each to its end.

What a transfer has come to is in its row at any time, and each start is written there before the node is told, so
another server, or this one after a restart, can go on: it watches the same copy on the same node, or begins the copy
again if the node does not know it any more, which copies only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable

from uftpd.auth.services import Services


async def run(services: Callable[[], Services], *, worker: str = "") -> None:
    """Run transfers, for ever. Cancelled, it gives up its leases: others take over at once.

    Args:
        services: those of the newest configuration.
        worker: name of this server in leases; default: a fresh random one.
    """
    raise NotImplementedError

"""The tasks of an auth server that run managed transfers: each is taken from the queue and driven to its end.

What a transfer has come to is in its row at any time, and each start is written there as soon as the node has said
yes, so another server, or this one after a restart, can go on: it watches the same copy on the same node, or begins the
copy again if the node does not know it any more, which copies only what is missing.
"""

from __future__ import annotations

import heapq
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import httpx2
import trio

from uftp.client.vetted_http import open_vetted_client
from uftpd.auth.events import logger
from uftpd.auth.services import Services
from uftpd.auth.store.engine import StoreUnavailable
from uftpd.auth.transfers.callback import run_callbacks
from uftpd.auth.transfers.drive import Drive
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Claimed
from uftpd.auth.transfers.opening import rules_of

POLL_SECONDS: Final = 1.0  # other servers fill the queue, too, and transfers become due by time alone
_STORE_PAUSE: Final = 2.0


async def run(services: Callable[[], Services], *, worker: str = "") -> None:
    """Run transfers, for ever. Cancelled, it gives up its leases: others take over at once.

    Args:
        services: those of the newest configuration.
        worker: name of this server in leases; a fresh random one by default.
    """
    worker = worker or secrets.token_hex(8)

    async def admit(url: str) -> tuple[str, ...]:
        return await rules_of(services().config.transfers).admit_url(url)

    def open_client() -> httpx2.AsyncClient:
        return open_vetted_client(admit, tls=services().outside)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_callbacks, lambda: services().transfers, open_client)
        await _Runner(services, worker, nursery).run()


class _Runner:
    """Takes transfers as long as there is room.

    Args:
        services: those of the newest configuration.
        worker: name of this server in leases.
        nursery: where transfers are worked on.
    """

    def __init__(self, services: Callable[[], Services], worker: str, nursery: trio.Nursery) -> None:
        self._services = services
        self._worker = worker
        self._nursery = nursery
        self._running = 0
        self._ended = trio.Event()
        self._due: list[float] = []

    async def run(self) -> None:
        """Take one after the other, for ever."""
        while True:
            managed = self._services().transfers
            settings = self._services().config.transfers
            if managed is None:
                await trio.sleep(POLL_SECONDS)
                continue
            if self._running >= settings.active:
                self._ended = trio.Event()
                with trio.move_on_after(POLL_SECONDS):
                    await self._ended.wait()
                continue
            try:
                claimed = await managed.claim(self._worker, settings)
            except StoreUnavailable:
                await trio.sleep(_STORE_PAUSE)
                continue
            except Exception:
                logger.exception("no transfer can be taken")  # whatever it is, the server is there for more than that
                await trio.sleep(_STORE_PAUSE)
                continue
            if claimed is None:
                await managed.wait(self._pause())
                continue
            self._running += 1
            self._nursery.start_soon(self._drive, managed, claimed)

    def _pause(self) -> float:
        """Until there may be something to do: what this server has put back is due at times that it knows."""
        now = time.time()
        while self._due and self._due[0] <= now:
            heapq.heappop(self._due)
        return min(POLL_SECONDS, self._due[0] - now) if self._due else POLL_SECONDS

    async def _drive(self, managed: ManagedTransfers, claimed: Claimed) -> None:
        try:
            await Drive(self._services, managed, claimed, partial(heapq.heappush, self._due)).run()
        except Exception:
            # Its lease lapses, and somebody takes it again; the others go on.
            logger.exception("work on a transfer failed", extra={"facts": {"id": claimed.transfer.id}})
        finally:
            self._running -= 1
            self._ended.set()

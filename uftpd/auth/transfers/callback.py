"""Telling the URL that an owner has named that a transfer has ended.

A POST with a JSON object, sent only where this site allows connections for its users, to the addresses that were
vetted; redirects are not followed. A receiver that answers 2xx has been told; others are tried again a few times. A
receiver cannot be sure who calls: it has the id, and can ask for the transfer itself.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import trio

from uftp._version import __version__
from uftp.client.vetted_http import exchange
from uftp.errors import UFTPError
from uftpd.auth.events import event, logger
from uftpd.auth.store.engine import StoreUnavailable
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Transfer
from uftpd.peers import PeerRefused

TRIES: Final = 6
FIRST_WAIT_SECONDS: Final = 10.0  # three times as long before each further try: 20 minutes in all
AT_ONCE: Final = 8
_SECONDS: Final = 15.0
_HELD_SECONDS: Final = 60.0  # nobody else tries meanwhile
_IDLE_SECONDS: Final = 1.0
_FOR_GOOD: Final = frozenset(range(400, 500)) - {408, 425, 429}


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a try.

    Attributes:
        done: the receiver has it.
        again: another try may help.
        why: for the log, if not done.
    """

    done: bool
    again: bool = False
    why: str = ""


def callback_body(transfer: Transfer) -> bytes:
    """What is posted: as in the transfer's own document, no paths and nothing secret."""
    document: dict[str, Any] = {
        "id": transfer.id,
        "name": transfer.name,
        "state": transfer.state.value,
        "bytes": transfer.progress.bytes,
        "files": transfer.progress.files,
        "filesFailed": transfer.progress.failed,
        "created": transfer.created,
        "ended": transfer.ended,
    }
    return json.dumps(document).encode()


async def tell(client: httpx2.AsyncClient, transfer: Transfer) -> Told:
    """Post once.

    Args:
        client: connects only where this site allows it.
        transfer: has ended, and names a URL.
    """
    headers = {"Content-Type": "application/json", "User-Agent": f"uftpd/{__version__}"}
    try:
        answer = await exchange(
            client, "POST", transfer.callback, headers=headers, content=callback_body(transfer), seconds=_SECONDS
        )
    except PeerRefused as error:
        return Told(False, why=str(error))
    except UFTPError as error:
        return Told(False, again=True, why=str(error))
    if 200 <= answer.status < 300:
        return Told(True)
    # A redirect may be mended at the other end, as whatever is behind 5xx.
    return Told(False, again=answer.status not in _FOR_GOOD, why=f"it answered {answer.status}")


async def run_callbacks(
    managed: Callable[[], ManagedTransfers | None],
    client: Callable[[], httpx2.AsyncClient],
    clock: Callable[[], float] = time.time,
) -> None:
    """Tell whoever is due, for ever.

    Args:
        managed: the transfers; None while there are none.
        client: opens a client that connects only where this site allows it now.
        clock: Unix seconds.
    """
    places = trio.Semaphore(AT_ONCE)
    async with trio.open_nursery() as nursery:
        while True:
            # A receiver that is slow shall not keep others waiting, so long as there are few such.
            await places.acquire()
            transfers = managed()
            try:
                due = await transfers.due_callback(_HELD_SECONDS) if transfers is not None else None
            except StoreUnavailable:
                due = None
            except Exception:
                logger.exception("no callback can be taken")
                due = None
            if due is None or transfers is None:
                places.release()
                await trio.sleep(_IDLE_SECONDS)
                continue
            nursery.start_soon(_tell_and_release, transfers, client, due, places, clock)


async def _tell_and_release(
    managed: ManagedTransfers,
    client: Callable[[], httpx2.AsyncClient],
    due: tuple[Transfer, int],
    places: trio.Semaphore,
    clock: Callable[[], float],
) -> None:
    try:
        async with client() as opened:
            await _tell_and_note(managed, opened, due, clock)
    except Exception:
        logger.exception("callback failed", extra={"facts": {"id": due[0].id}})
    finally:
        places.release()


async def _tell_and_note(
    managed: ManagedTransfers, client: httpx2.AsyncClient, due: tuple[Transfer, int], clock: Callable[[], float]
) -> None:
    transfer, number = due
    told = await tell(client, transfer)
    try:
        if told.done or not told.again or number >= TRIES:
            event("callback", id=transfer.id, done=told.done, tries=number, reason=told.why or None)
            await managed.callback_done(transfer.id)
        else:
            wait = FIRST_WAIT_SECONDS * math.pow(3.0, number - 1)
            await managed.callback_later(transfer.id, clock() + wait)
    except StoreUnavailable:
        return  # it is due again when its time is up; told twice is better than never

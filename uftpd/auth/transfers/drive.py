"""One transfer, from the moment it is taken out of the queue until it is put back or has ended.

An attempt copies (`attempt`). Beside it a task keeps the lease, stores progress, and hears what the owner wants; a wish
cuts the attempt off, and ends the copy on its node before the row says so. What an attempt came to decides what
becomes of the transfer. When this server ends, the copy goes on: whoever takes the transfer over watches it.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable
from typing import Final

import trio

from uftp.errors import UFTPError
from uftpd.auth.errors import RequestError
from uftpd.auth.events import event, logger
from uftpd.auth.services import Services
from uftpd.auth.store.engine import StoreUnavailable
from uftpd.auth.transfers.attempt import Attempt, left_over
from uftpd.auth.transfers.endings import Ending, NotNow, ending_of, one_line
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Claimed, Outcome, SourceProgress, SourceState, TransferState, Wanted
from uftpd.auth.transfers.node_copy import NodeCopy
from uftpd.auth.transfers.opening import open_sides
from uftpd.auth.transfers.record import Record

HEARTBEAT_SECONDS: Final = 1.0
STOP_SECONDS: Final = 90.0  # for a node to end a copy, which waits until what it has begun is undone
_STORE_PAUSE: Final = 1.0
_HAND_BACK_SECONDS: Final = 3.0
_SCATTER: Final = 0.25  # of a wait, so that not all come back at once


class Drive:
    """See the module.

    Args:
        services: of the configuration in force.
        managed: the transfers.
        claimed: what to work on.
        on_later: told when it is due again, in Unix seconds, before it is put back into the queue.
        clock: Unix seconds.
    """

    def __init__(
        self,
        services: Callable[[], Services],
        managed: ManagedTransfers,
        claimed: Claimed,
        on_later: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._services = services
        self._managed = managed
        self._clock = clock
        self._settings = services().config.transfers
        self._working = trio.CancelScope()
        self._record = Record(managed, claimed, self._settings, self._working.cancel)
        self._on_later = on_later
        self._settled = False

    async def run(self) -> None:
        """Work until the transfer is somebody else's, or nobody's, to work on."""
        event("transfer begins", id=self._record.transfer.id, attempt=self._record.transfer.attempts)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_lease)
                outcome, reason = await self._work()
                if outcome is None and not self._record.lost:
                    outcome, reason = await self._stop()
                if outcome is not None:
                    await self._settle(outcome, reason)
                nursery.cancel_scope.cancel()
        finally:
            if self._record.copy is not None:
                self._record.copy.close()
            # After an error of this program the lease lapses by itself: the next one might meet it at once, for ever.
            is_over = trio.current_effective_deadline() == -math.inf
            if is_over and not self._settled and not self._record.lost:
                await self._hand_back()

    async def _hand_back(self) -> None:
        deadline = trio.current_time() + _HAND_BACK_SECONDS
        with trio.CancelScope(shield=True, deadline=deadline), contextlib.suppress(StoreUnavailable):
            await self._managed.hand_back(self._record.lease)

    async def _keep_lease(self) -> None:
        while not self._record.lost:
            with contextlib.suppress(StoreUnavailable):  # nobody else can take it either, while that is so
                await self._record.beat()
            await trio.sleep(HEARTBEAT_SECONDS)

    async def _work(self) -> tuple[Outcome | None, str]:
        """An attempt, and what came of it; None if it was cut off."""
        with self._working:
            try:
                services = self._services()
                async with open_sides(services, self._managed, self._record) as sides:
                    await Attempt(sides, self._record, self._settings, services.sources).run()
            except Ending as ending:
                return self._outcome_of(ending)
            except (RequestError, UFTPError) as error:
                return self._outcome_of(ending_of(error))
            except Exception:
                logger.exception("transfer failed", extra={"facts": {"id": self._record.transfer.id}})
                return self._outcome_of(NotNow("This server failed while it worked on it"))
            return Outcome.SUCCEEDED, ""
        return None, ""

    def _outcome_of(self, ending: Ending) -> tuple[Outcome, str]:
        """What becomes of the transfer: what may pass has failed for good after too many attempts."""
        reason = one_line(str(ending))
        if ending.outcome is Outcome.LATER:
            wanted, allowed = self._record.transfer.options.attempts, self._settings.attempts
            most = min(wanted, allowed) if wanted else allowed
            if self._record.transfer.attempts >= most:
                return Outcome.FAILED, f"{reason} (attempt {self._record.transfer.attempts} of {most})"
        return ending.outcome, reason

    async def _stop(self) -> tuple[Outcome, str]:
        """End the copy that runs, since its owner wants that."""
        record = self._record
        running = [source for source in record.sources if source.state is SourceState.STARTED]
        for source in running:
            copy = record.copy or await self._left_over(source)
            if copy is None:
                record.ended(source.number, SourceState.WAITING)
                continue
            word = ""
            with trio.move_on_after(STOP_SECONDS):
                try:
                    word = await copy.abort(keep=record.wanted is not Wanted.CANCEL)
                except Ending as ending:
                    event("a copy could not be stopped", id=record.transfer.id, copy=copy.name, reason=str(ending))
            copy.close()
            if word in ("ABORTED", "UNKNOWN"):
                record.ended(source.number, SourceState.WAITING)
            # Else it is looked for when the transfer goes on: it may have come to its end, or run still.
        return Outcome.STOPPED, ""

    async def _left_over(self, source: SourceProgress) -> NodeCopy | None:
        """A copy that another server has started, before this one was at it."""
        try:
            async with open_sides(self._services(), self._managed, self._record) as sides:
                return left_over(sides, source)
        except (Ending, RequestError, UFTPError) as error:
            event("a copy cannot be found", id=self._record.transfer.id, copy=source.copy, reason=str(error))
            return None

    async def _settle(self, outcome: Outcome, reason: str) -> None:
        """Write down how it ended, as soon as the store takes it."""
        attempts = self._record.transfer.attempts
        wait = self._settings.backoff(attempts) * random.uniform(1 - _SCATTER, 1 + _SCATTER)
        while not self._record.lost:
            try:
                await self._record.write()
                next_try = self._clock() + wait
                self._on_later(next_try)
                state = await self._managed.settle(self._record.lease, outcome, reason=reason, next_try=next_try)
            except StoreUnavailable:
                await trio.sleep(_STORE_PAUSE)
                continue
            self._settled = True
            if state is None:
                event("transfer was taken over", id=self._record.transfer.id)
            elif not state.is_final:
                again = f"{wait:.1f}" if state is TransferState.QUEUED else None
                event(
                    "transfer stops", id=self._record.transfer.id, state=state.value, again=again, reason=reason or None
                )
            return

"""All managed transfers of a store, for the resources and for the runner: one transaction a call.

Whatever is asked for in whatever state, and whoever races: `transitions` says what becomes of it, under a lock of the
transfer's row.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import trio

from uftpd.auth.events import event
from uftpd.auth.metrics import Metrics
from uftpd.auth.store.engine import Store, StoreUnavailable
from uftpd.auth.transfers import queue, rows
from uftpd.auth.transfers.credentials import StoredCredential
from uftpd.auth.transfers.model import (
    Action,
    Claimed,
    FileError,
    Lease,
    NewTransfer,
    Outcome,
    Progress,
    Side,
    SourceProgress,
    Transfer,
    TransferState,
    Wanted,
    new_transfer_id,
)
from uftpd.auth.transfers.sealing import CannotOpen, Sealer
from uftpd.config.transfers import Transfers

_SWEEP_SECONDS: Final = 15.0
_BATCH: Final = 500  # transfers in one transaction, so that others get a turn
_CLAIMS_TRIED: Final = 5
_CONTENDED_SECONDS: Final = 0.02
_MAX_CALLBACKS: Final = 1000

Credentials = Mapping[Side, StoredCredential]


class ManagedTransfers:
    """The transfers. Every method that asks the store raises `StoreUnavailable` if it does not answer."""

    def __init__(
        self,
        store: Store,
        sealer: Sealer,
        metrics: Metrics,
        settings: Callable[[], Transfers] = Transfers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use a store.

        Args:
            store: where they are.
            sealer: of credentials.
            metrics: count those that end.
            settings: of the newest configuration.
            clock: gives Unix seconds.
        """
        self._store = store
        self._sealer = sealer
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._work = trio.Event()
        self._callback_tries: dict[str, int] = {}

    # -- for people ---------------------------------------------------------------------------------------------------

    async def submit(self, new: NewTransfer, credentials: Credentials) -> tuple[Transfer, bool]:
        """Put a transfer into the queue, or find the one that was submitted with the same key before.

        Returns:
            The transfer, and whether it is new.

        Raises:
            BadRequest: the person has as many as are allowed.
            RequestError: 409, the key was used for something else.
        """
        transfer_id = new_transfer_id()
        sealed = self._seal(transfer_id, credentials, new)
        waiting, now = self._settings().waiting_per_user, self._clock()
        found, made = await self._store.write(
            lambda connection: rows.submit(connection, new, transfer_id, sealed, waiting, now)
        )
        if made:
            self._wake()
        return found, made

    async def get(self, transfer_id: str) -> Transfer | None:
        """The transfer with this id."""
        return await self._store.read(lambda connection: rows.find(connection, transfer_id))

    async def listed(
        self,
        person: str | None,
        states: Collection[TransferState] = (),
        after: tuple[float, str] | None = None,
        most: int = 100,
    ) -> list[Transfer]:
        """Transfers of a person, or of everybody, the newest first; see `rows.listed`."""
        return await self._store.read(lambda connection: rows.listed(connection, person, states, after, most))

    async def sources(self, transfer_id: str) -> tuple[SourceProgress, ...]:
        """How far each source is, in order."""
        return await self._store.read(lambda connection: rows.sources_of(connection, transfer_id))

    async def errors(self, transfer_id: str, first: int, most: int) -> Sequence[tuple[int, FileError]]:
        """Failed files with their numbers, from number `first` on."""
        return await self._store.read(lambda connection: rows.errors_of(connection, transfer_id, first, most))

    async def act(self, transfer_id: str, action: Action, credentials: Credentials | None = None) -> Transfer | None:
        """Cancel, pause, resume or retry; what is so already, or will be, is no error. None if it is gone.

        Raises:
            RequestError: 409, that cannot be done in its state.
            BadRequest: credentials are missing or not wanted, or the person has as many transfers as are allowed.
        """
        known = await self.get(transfer_id) if credentials else None
        sealed = self._seal(transfer_id, credentials, known) if credentials and known is not None else {}
        waiting, now = self._settings().waiting_per_user, self._clock()
        result = await self._store.write(
            lambda connection: rows.act(connection, transfer_id, action, sealed, waiting, now)
        )
        if result is None:
            return None
        found, before = result
        if found.state.is_final and not before.is_final:
            self._ended(found)
        self._wake()
        return found

    # -- for the runner -----------------------------------------------------------------------------------------------

    async def claim(self, worker: str, settings: Transfers) -> Claimed | None:
        """Take a transfer: one whose lease has lapsed, or the next whose turn it is; None if there is nothing to do.

        The state is "active" then; `attempts` was counted up unless `Claimed.again`.
        """
        limits = queue.Limits(
            per_person=settings.active_per_user,
            per_pair=settings.active_per_pair,
            lease_seconds=settings.lease_seconds,
        )
        for _ in range(_CLAIMS_TRIED):
            now = self._clock()
            try:
                return await self._store.write(
                    lambda connection, now=now: queue.claim_next(connection, worker, now, limits)  # type: ignore[misc]
                )
            except queue.Contended:
                await trio.sleep(_CONTENDED_SECONDS)
        return None

    async def wait(self, seconds: float) -> None:
        """Until something may have come into the queue of this process, or so long."""
        with trio.move_on_after(seconds):
            await self._work.wait()

    def _wake(self) -> None:
        self._work.set()
        self._work = trio.Event()

    async def renew(self, lease: Lease, settings: Transfers) -> Wanted | None:
        """Keep a lease; due every `lease_seconds / 3` at least, and as often as wishes of the owner are to be seen.

        Returns:
            What the owner wants; None if the lease is lost: somebody else works on it, or nobody shall.
        """
        now = self._clock()
        return await self._store.write(lambda connection: queue.renew(connection, lease, now, settings.lease_seconds))

    async def note(
        self,
        lease: Lease,
        *,
        progress: Progress | None = None,
        sources: Sequence[SourceProgress] = (),
        node: str | None = None,
        drive: str | None = None,
        attempt: bool = False,
    ) -> Wanted | None:
        """Write down how it goes; what is None stays. `attempt` counts one more. Returns as `renew`."""
        return await self._store.write(
            lambda connection: queue.note(
                connection, lease, progress=progress, sources=sources, node=node, drive=drive, attempt=attempt
            )
        )

    async def add_errors(self, lease: Lease, source: int, errors: Sequence[FileError]) -> bool:
        """Remember failed files of a source; beyond `MAX_ERRORS` they are dropped. Whether the lease holds."""
        return await self._store.write(lambda connection: queue.add_errors(connection, lease, source, errors))

    async def clear_errors(self, lease: Lease, source: int) -> bool:
        """Forget the failed files of a source, which is copied again. Whether the lease holds."""
        return await self._store.write(lambda connection: queue.clear_errors(connection, lease, source))

    async def settle(
        self, lease: Lease, outcome: Outcome, *, reason: str = "", next_try: float = 0.0
    ) -> TransferState | None:
        """End the work on a transfer. No copy of it runs on any node any more.

        The owner may have wished for something meanwhile, and that counts as far as it still can: see `transitions`.
        In a final state its credentials are gone, and its callback is due.

        Args:
            lease: of it.
            outcome: what came of it.
            reason: for the owner, with FAILED, LATER and NEEDY.
            next_try: Unix seconds, with LATER.

        Returns:
            The new state; None if the lease was lost, and nothing has changed.
        """
        now = self._clock()
        found = await self._store.write(
            lambda connection: queue.settle(connection, lease, outcome, now, reason=reason, next_try=next_try)
        )
        if found is None:
            return None
        if found.state.is_final:
            self._ended(found)
        self._wake()  # there is a place for another
        return found.state

    async def hand_back(self, lease: Lease) -> None:
        """Give up a lease while the copy goes on at its node: whoever claims next watches it from then on."""
        await self._store.write(lambda connection: queue.hand_back(connection, lease))

    async def credential(self, transfer: Transfer, side: Side) -> StoredCredential | None:
        """What was left for a side; None if nothing was.

        Raises:
            CannotOpen: it is sealed with another key, or was left for another server than the transfer names.
        """
        sealed = await self._store.read(lambda connection: rows.credential(connection, transfer.id, side))
        if sealed is None:
            return None
        try:
            return StoredCredential.decoded(self._sealer.open(sealed, _context(transfer.id, side, transfer)))
        except ValueError:
            raise CannotOpen("not a credential") from None

    async def keep_credential(self, lease: Lease, transfer: Transfer, side: Side, credential: StoredCredential) -> bool:
        """Keep a renewed one instead, of the transfer as it was when it was claimed. Whether the lease holds."""
        sealed = self._seal(transfer.id, {side: credential}, transfer)
        return await self._store.write(lambda connection: queue.keep_credential(connection, lease, side, sealed[side]))

    def _seal(self, transfer_id: str, credentials: Credentials, of: NewTransfer | Transfer) -> rows.Sealed:
        return {
            side: self._sealer.seal(credential.encoded(), _context(transfer_id, side, of))
            for side, credential in credentials.items()
        }

    def _ended(self, transfer: Transfer) -> None:
        self._metrics.transfers.labels(transfer.state).inc()
        event(
            "transfer ended",
            transfer=transfer.id,
            dn=transfer.person,
            state=transfer.state,
            bytes=transfer.progress.bytes,
            files=transfer.progress.files,
            failed=transfer.progress.failed,
            seconds=transfer.ended - transfer.created,
        )

    # -- keeping house ------------------------------------------------------------------------------------------------

    async def keep_house(self) -> None:
        """Remove what is old and count what is left, from time to time, for ever."""
        while True:
            with contextlib.suppress(StoreUnavailable):  # said by the store; there is a next time
                await self.sweep()
            await trio.sleep(_SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Remove transfers that ended long ago, cancel those paused for as long, and count."""
        now = self._clock()
        before = now - self._settings().keep_days * 86400
        while await self._store.write(lambda connection: rows.remove_old(connection, before, _BATCH)) == _BATCH:
            pass
        while forgotten := await self._store.write(
            lambda connection: rows.cancel_forgotten(connection, before, now, _BATCH)
        ):
            for transfer in forgotten:
                self._ended(transfer)
        await self._store.write(lambda connection: rows.forget_turns(connection, before))
        for state, number in (await self._store.read(rows.counts)).items():
            self._metrics.open_transfers.labels(state).set(number)

    # -- callbacks ----------------------------------------------------------------------------------------------------

    async def due_callback(self, seconds: float) -> tuple[Transfer, int] | None:
        """An ended transfer whose callback is due, and which try this is, from 1; nobody else gets it for `seconds`."""
        now = self._clock()
        found = await self._store.write(lambda connection: queue.due_callback(connection, now, seconds))
        if found is not None:
            while len(self._callback_tries) >= _MAX_CALLBACKS:
                del self._callback_tries[next(iter(self._callback_tries))]
            self._callback_tries[found[0].id] = found[1]
        return found

    async def callback_done(self, transfer_id: str) -> None:
        """It was told, or is given up."""
        await self._set_callback(transfer_id, 0.0)

    async def callback_later(self, transfer_id: str, when: float) -> None:
        """Try again at a time, in Unix seconds."""
        await self._set_callback(transfer_id, when)

    async def _set_callback(self, transfer_id: str, when: float) -> None:
        tries = self._callback_tries.pop(transfer_id, 0)
        await self._store.write(lambda connection: queue.set_callback(connection, transfer_id, tries, when))


def _context(transfer_id: str, side: Side, of: NewTransfer | Transfer) -> bytes:
    """What a credential is for. With the server: whoever can change the store must not have it sent elsewhere."""
    place = of.sources[0] if side is Side.SOURCE else of.target
    return f"{transfer_id} {side} {place.service}".encode()

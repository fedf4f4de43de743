"""All managed transfers of a store, for the resources and for the runner: one transaction a call.

Whatever is asked for in whatever state, and whoever races: `transitions` says what becomes of it, under a lock of the
transfer's row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

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
)

if TYPE_CHECKING:
    from uftpd.auth.metrics import Metrics
    from uftpd.auth.store.engine import Store
    from uftpd.auth.transfers.credentials import StoredCredential
    from uftpd.auth.transfers.sealing import Sealer
    from uftpd.config.transfers import Transfers


class ManagedTransfers:
    """The transfers. Every method raises `StoreUnavailable` if the store does not answer."""

    def __init__(self, store: Store, sealer: Sealer, metrics: Metrics, clock: Callable[[], float] = time.time) -> None:
        """Use a store; `clock` gives Unix seconds."""

    # -- for people ---------------------------------------------------------------------------------------------------

    async def submit(
        self, new: NewTransfer, credentials: Mapping[Side, StoredCredential], settings: Transfers
    ) -> tuple[Transfer, bool]:
        """Put a transfer into the queue, or find the one that was submitted with the same key before.

        Returns:
            The transfer, and whether it is new.

        Raises:
            BadRequest: the person has as many as are allowed, or used the key for something else (409).
        """
        raise NotImplementedError

    async def get(self, transfer_id: str) -> Transfer | None:
        """The transfer with this id."""
        raise NotImplementedError

    async def act(
        self, transfer_id: str, action: Action, credentials: Mapping[Side, StoredCredential] | None = None
    ) -> Transfer | None:
        """Cancel, pause, resume or retry; what there is already, or is under way, is no error. None if it is gone.

        Raises:
            RequestError: 409, that cannot be done in its state; 400, credentials are missing.
        """
        raise NotImplementedError

    # -- for the runner -----------------------------------------------------------------------------------------------

    async def claim(self, worker: str, settings: Transfers) -> Claimed | None:
        """Take a transfer: one whose lease has lapsed, or the next whose turn it is; None if there is nothing to do.

        The state is "active" then; `attempts` was counted up unless `Claimed.again`.
        """
        raise NotImplementedError

    async def wait(self, seconds: float) -> None:
        """Until something may have come into the queue of this process, or so long."""
        raise NotImplementedError

    async def renew(self, lease: Lease, settings: Transfers) -> Wanted | None:
        """Keep a lease; due every `lease_seconds / 3` at least, and as often as wishes of the owner are to be seen.

        Returns:
            What the owner wants; None if the lease is lost: somebody else works on it, or nobody shall.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    async def add_errors(self, lease: Lease, source: int, errors: Sequence[FileError]) -> bool:
        """Remember failed files of a source; beyond `MAX_ERRORS` they are dropped. Whether the lease holds."""
        raise NotImplementedError

    async def clear_errors(self, lease: Lease, source: int) -> bool:
        """Forget the failed files of a source, which is copied again. Whether the lease holds."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def hand_back(self, lease: Lease) -> None:
        """Give up a lease while the copy goes on at its node: whoever claims next watches it from then on."""
        raise NotImplementedError

    async def credential(self, transfer_id: str, side: Side) -> StoredCredential | None:
        """What was left for a side; None if nothing was.

        Raises:
            CannotOpen: it is sealed with another key.
        """
        raise NotImplementedError

    async def keep_credential(self, lease: Lease, side: Side, credential: StoredCredential) -> bool:
        """Keep a renewed one instead. Whether the lease holds."""
        raise NotImplementedError

    # -- callbacks ----------------------------------------------------------------------------------------------------

    async def due_callback(self, seconds: float) -> tuple[Transfer, int] | None:
        """An ended transfer whose callback is due, and which try this is, from 1; nobody else gets it for `seconds`."""
        raise NotImplementedError

    async def callback_done(self, transfer_id: str) -> None:
        """It was told, or is given up."""
        raise NotImplementedError

    async def callback_later(self, transfer_id: str, when: float) -> None:
        """Try again at a time, in Unix seconds."""
        raise NotImplementedError

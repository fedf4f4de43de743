"""What is known of a transfer under work, in memory, and how it gets into the row: under the lease, in order, at last.

A store that is down for a while loses nothing: what has to be written is written when it is back, and the copy goes on
meanwhile. A lease that is lost ends the work: somebody else does it now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import trio

from uftp.protocol.server_copies import CopyStatus
from uftpd.auth.store.engine import StoreUnavailable
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import (
    Claimed,
    FileError,
    Lease,
    Progress,
    SourceProgress,
    SourceState,
    Transfer,
    Wanted,
)
from uftpd.auth.transfers.node_copy import NodeCopy
from uftpd.config.transfers import Transfers

_STORE_PAUSE: Final = 1.0
_ERRORS_AT_ONCE: Final = 500
_LARGEST: Final = 2**63 - 1  # of a column; a node may say anything


class Record:
    """See the module.

    Args:
        managed: the transfers.
        claimed: the one under work.
        settings: of `[transfers]`.
        on_wish: called when the owner wants it to stop, or the lease is lost.

    Attributes:
        transfer: as it was when it was taken; `drive` is kept current.
        copy: the one that runs on a node now, as far as is known.
        wanted: what the owner has asked for.
        lost: the lease is gone.
    """

    def __init__(
        self, managed: ManagedTransfers, claimed: Claimed, settings: Transfers, on_wish: Callable[[], None]
    ) -> None:
        self.transfer: Transfer = claimed.transfer
        self.copy: NodeCopy | None = None
        self.wanted = claimed.transfer.wanted
        self.lost = False
        self._managed = managed
        self._lease = claimed.lease
        self._settings = settings
        self._on_wish = on_wish
        self._sources = list(claimed.sources)
        self._node = claimed.transfer.node
        self._unwritten: set[int] = set()
        self._rates: dict[int, int] = {}
        self._writing = trio.Lock()  # what is older must not come later

    @property
    def lease(self) -> Lease:
        """The right to write."""
        return self._lease

    @property
    def sources(self) -> Sequence[SourceProgress]:
        """How far each source is."""
        return self._sources

    def progress(self) -> Progress:
        """Of all sources together."""
        each = [source.progress for source in self._sources]
        return Progress(
            bytes=min(_LARGEST, sum(one.bytes for one in each)),
            total=min(_LARGEST, sum(one.total for one in each)),
            files=min(_LARGEST, sum(one.files for one in each)),
            failed=min(_LARGEST, sum(one.failed for one in each)),
            found=min(_LARGEST, sum(one.found for one in each)),
            rate=min(_LARGEST, sum(self._rates.values())),
        )

    # -- what happens -------------------------------------------------------------------------------------------------

    def started(self, number: int, copy: NodeCopy) -> None:
        """A copy of a source runs."""
        self.copy = copy
        self._node = copy.node
        self._set(number, replace(self._sources[number], state=SourceState.STARTED, copy=copy.name, error=""))

    def saw(self, number: int, status: CopyStatus) -> None:
        """What its node says of it."""
        if status.word == "UNKNOWN":
            return
        numbers = (status.bytes, status.total, status.files, status.failed, status.found)
        moved, total, files, failed, found = (min(_LARGEST, value) for value in numbers)
        self._rates = {} if status.is_final else {number: min(_LARGEST, status.rate)}
        progress = Progress(bytes=moved, total=max(total, moved), files=files, failed=failed, found=found)
        if progress != self._sources[number].progress:
            self._set(number, replace(self._sources[number], progress=progress))

    def ended(self, number: int, state: SourceState, error: str = "") -> None:
        """No copy of it runs any more."""
        self.copy = None
        self._rates = {}
        self._set(number, replace(self._sources[number], state=state, copy="", error=error))

    def _set(self, number: int, source: SourceProgress) -> None:
        self._sources[number] = source
        self._unwritten.add(number)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Keep the lease, and write what is new.

        Raises:
            StoreUnavailable: not now.
        """
        async with self._writing:
            if not self._unwritten and not self._rates:
                self._heard(await self._managed.renew(self._lease, self._settings))
                return
            numbers = sorted(self._unwritten)
            self._unwritten.clear()
            try:
                wanted = await self._managed.note(
                    self._lease,
                    progress=self.progress(),
                    sources=[self._sources[number] for number in numbers],
                    node=self._node,
                )
            except BaseException:
                self._unwritten.update(numbers)
                raise
            self._heard(wanted)
            if not self.lost:
                self._heard(await self._managed.renew(self._lease, self._settings))

    async def write(self) -> None:
        """As `beat`, as often as it takes."""
        while not self.lost:
            try:
                await self.beat()
            except StoreUnavailable:
                await trio.sleep(_STORE_PAUSE)
            else:
                return

    async def hold(self) -> None:
        """Make sure of the lease, before anything is begun that whoever has it instead would begin, too.

        Returns as soon as it is held, or lost.
        """
        while not self.lost:
            try:
                async with self._writing:
                    self._heard(await self._managed.renew(self._lease, self._settings))
            except StoreUnavailable:
                await trio.sleep(_STORE_PAUSE)
            else:
                return

    async def write_started(self, number: int) -> bool:
        """Write down which copy of a source runs. Whether the row has it: if not, nobody will look after that copy."""
        while not self.lost:
            try:
                async with self._writing:
                    wanted = await self._managed.note(self._lease, sources=[self._sources[number]], node=self._node)
                    self._heard(wanted)
            except StoreUnavailable:
                await trio.sleep(_STORE_PAUSE)
            else:
                return wanted is not None
        return False

    async def keep(self, drive: str) -> None:
        """Write down what whoever goes on has to know."""
        self.transfer = replace(self.transfer, drive=drive)
        while not self.lost:
            try:
                async with self._writing:
                    self._heard(await self._managed.note(self._lease, drive=drive))
            except StoreUnavailable:
                await trio.sleep(_STORE_PAUSE)
            else:
                return

    async def write_errors(self, number: int, errors: Sequence[FileError]) -> None:
        """Which files of a source failed, in place of those of an earlier attempt."""
        pages = [errors[begin : begin + _ERRORS_AT_ONCE] for begin in range(0, len(errors), _ERRORS_AT_ONCE)]
        while not self.lost:
            try:
                held = await self._managed.clear_errors(self._lease, number)
                for page in pages:
                    held = held and await self._managed.add_errors(self._lease, number, page)
            except StoreUnavailable:
                await trio.sleep(_STORE_PAUSE)
                continue
            self._heard(self.wanted if held else None)
            return

    def _heard(self, wanted: Wanted | None) -> None:
        if wanted is None:
            self.lost = True
            self._on_wish()
            return
        self.wanted = wanted
        if wanted is not Wanted.NOTHING:
            self._on_wish()

"""One attempt at a transfer: each source that is not done is copied by a copy on a node, started, watched, believed.

A source that a node was told of before is looked for there first; only if it is not known there any more is it started
again, which copies what is missing.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from uftp.client import server_copies
from uftp.errors import UFTPError
from uftp.protocol.server_copies import CopyStatus, CopyWords
from uftpd.auth.attributes.base import AttributeSource
from uftpd.auth.events import event
from uftpd.auth.transfers.endings import Ending, ForGood, NotNow, ending_of, is_lasting, one_line
from uftpd.auth.transfers.model import FileError, SourceProgress, SourceState, TransferOptions
from uftpd.auth.transfers.node_copy import NodeCopy
from uftpd.auth.transfers.opening import BothSides, check_owner
from uftpd.auth.transfers.placement import (
    Placement,
    decode_placement,
    dump,
    encode_placement,
    load,
    place,
)
from uftpd.auth.transfers.record import Record
from uftpd.auth.transfers.sides import LOGINS, Layers, NodeSession, OwnSide, Side
from uftpd.config.transfers import Transfers

BUSY_SECONDS: Final = 600.0
"""How long a transfer waits for room at a node before another one gets its turn."""

START_SECONDS: Final = 90.0
ROUNDS: Final = 4  # starts of one source in one attempt, where nodes forget its copies
_FIRST_POLL: Final = 0.1
_SLOWEST_POLL: Final = 1.0
_SLOWER: Final = 1.3
_FRESHEN_SECONDS: Final = 60.0
_LONGEST_BUSY_PAUSE: Final = 15.0
_KEY_BYTES: Final = 48  # what MODE U takes; with it go AES and any node's own check of it
_ENCRYPTION: Final = "MODE U CRYPT AES-256-GCM"


class CopyFailed(NotNow):
    """A copy that ended without having copied everything; the other sources may do better."""


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to have a source copied.

    Attributes:
        runs: the side whose node runs the copy.
        other: the side it copies with; None for an https URL.
        capable: which nodes can.
        sends: from there to the other side.
    """

    runs: OwnSide
    other: Side | None
    capable: Callable[[Sequence[str]], bool]
    sends: bool = False


def can_run_copies(features: Sequence[str]) -> bool:
    """Whether a node with these features runs copies that this server can look after."""
    return "RCP-PROGRESS" in features and "RCP-TREES" in features


def can_fetch(features: Sequence[str]) -> bool:
    """The same for https URLs."""
    return can_run_copies(features) and "RCP-FETCH" in features


def ways_of(sides: BothSides) -> list[_Way]:
    """How it could be done, best first: the node that gets the files knows best what is there already."""
    found: list[_Way] = []
    if isinstance(sides.target, OwnSide):
        if sides.source is None:
            return [_Way(sides.target, None, can_fetch)]
        found.append(_Way(sides.target, sides.source, can_run_copies))
    if isinstance(sides.source, OwnSide):
        found.append(_Way(sides.source, sides.target, can_run_copies, sends=True))
    return found


def words_of(options: TransferOptions, other: str = "") -> CopyWords:
    """How a node is to copy (OPTS RCP) with the server that is called `other`, whichever of its nodes that will be."""
    return CopyWords(
        trees=True,
        recursive=options.recursive,
        preserve=options.preserve,
        encrypt=options.encrypt,
        compress=options.compress,
        verify=options.verify,
        resume=options.resume,
        logins=LOGINS,
        sessions=options.sessions,
        rate=options.rate_limit,
        named=other,
    )


def left_over(sides: BothSides, source: SourceProgress) -> NodeCopy | None:
    """The copy of a source that is under way already, as far as its row tells."""
    if source.state is not SourceState.STARTED or not source.copy:
        return None
    for side in (sides.target, sides.source):
        if isinstance(side, OwnSide) and (copy := NodeCopy.found(side, source.copy)) is not None:
            return copy
    return None


class Attempt:
    """See the module.

    Args:
        sides: opened.
        record: of the transfer.
        settings: of `[transfers]`.
        sources: of attributes of people.
    """

    def __init__(
        self, sides: BothSides, record: Record, settings: Transfers, sources: Sequence[AttributeSource]
    ) -> None:
        self._sides = sides
        self._record = record
        self._settings = settings
        self._attributes = sources
        self._options = record.transfer.options
        self._layers = Layers(
            key=secrets.token_bytes(_KEY_BYTES) if self._options.encrypt else b"", compress=self._options.compress
        )
        self._placement = Placement((), b"")
        self._freshened = trio.current_time()

    async def run(self) -> None:
        """Copy all that is not copied yet.

        Raises:
            Ending: not everything was copied.
        """
        self._placement = await self._settled_placement()
        endings: list[Ending] = []
        for source in self._record.sources:
            if source.state is SourceState.DONE:
                continue
            if source.state is SourceState.FAILED:
                endings.append(ForGood(source.error))
                continue
            try:
                await self._copy(source.number)
            except ForGood as error:
                self._record.ended(source.number, SourceState.FAILED, str(error))
                endings.append(error)
            except CopyFailed as error:
                self._record.ended(source.number, SourceState.WAITING, str(error))
                endings.append(error)
            await self._record.write()
        self._raise_worst(endings)

    def _raise_worst(self, endings: Sequence[Ending]) -> None:
        if not endings:
            return
        passing = [error for error in endings if isinstance(error, NotNow)]
        worst = (passing or endings)[0]
        if len(self._record.sources) == 1:
            raise worst
        kind = NotNow if passing else ForGood
        raise kind(f"{len(endings)} of {len(self._record.sources)} sources were not copied: {worst}") from worst

    async def _settled_placement(self) -> Placement:
        """Who goes where, as it was decided at first; the owner is looked at, too."""
        transfer = self._record.transfer
        known = load(transfer.drive)
        mapped = await check_owner(transfer, self._attributes, self._settings)
        if known.get("mapped") and not mapped:
            raise ForGood("You may not use this server any more")
        placement = decode_placement(transfer, known.get("placed"))
        if placement is None:
            placement = await place(transfer, self._sides.source, self._sides.target)
            await self._record.keep(dump(placed=encode_placement(placement), mapped=mapped))
        return placement

    # -- one source ---------------------------------------------------------------------------------------------------

    async def _copy(self, number: int) -> None:
        copy = left_over(self._sides, self._record.sources[number])
        if copy is not None:
            self._record.started(number, copy)
        try:
            for _ in range(ROUNDS):
                if copy is None:
                    copy = await self._start_at_last(number)
                status = await self._watch(number, copy)
                if status.word != "UNKNOWN":
                    await self._believe(number, copy, status)
                    self._record.ended(number, SourceState.DONE)
                    return
                # Its node was started again, or has forgotten it.
                event("a copy is gone", id=self._record.transfer.id, copy=copy.name)
                copy.close()
                self._record.copy = copy = None
            raise CopyFailed("The data nodes lost it again and again")
        finally:
            if copy is not None:
                copy.close()

    async def _start_at_last(self, number: int) -> NodeCopy:
        """Start a copy; wait while there is no room for one."""
        deadline = trio.current_time() + BUSY_SECONDS
        pause = 0.5
        while True:
            try:
                return await self._start(number)
            except NotNow as error:
                if not error.busy or trio.current_time() + pause > deadline:
                    raise
            await trio.sleep(pause)
            pause = min(_LONGEST_BUSY_PAUSE, pause * 2)

    async def _start(self, number: int) -> NodeCopy:
        ways = ways_of(self._sides)
        if not ways:
            raise ForGood("One of the sides must be a server of this auth server")
        first: ForGood | None = None
        for way in ways:
            try:
                return await self._start_so(way, number)
            except ForGood as error:
                first = first or error  # what one node does not do the other may
        assert first is not None  # noqa: S101 -- there is at least one way
        raise first

    async def _start_so(self, way: _Way, number: int) -> NodeCopy:
        node = await way.runs.log_in(capable=way.capable, layers=self._layers, peers=self._sides.peers)
        session = node.session
        try:
            start = await self._prepared(way, number, node)
            await self._record.hold()  # this may be a process that was stopped for a while, or a store that was away
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True):
                # Not cut off in the middle: a copy that has begun must be known.
                with trio.fail_after(START_SECONDS):
                    copy = NodeCopy.started(way.runs, node, await start())
                self._record.started(number, copy)
                await self._make_known(number, copy)
        except UFTPError as error:
            session.control.break_off("not used")
            raise ending_of(error) from error
        except trio.TooSlowError:
            session.control.break_off("not used")
            raise NotNow(f"{node.instance.server}-{node.instance.number} does not start the copy") from None
        except BaseException:
            session.control.break_off("not used")
            raise
        event("transfer runs", id=self._record.transfer.id, source=number, copy=copy.name)
        return copy

    async def _make_known(self, number: int, copy: NodeCopy) -> None:
        """Write down that a copy has begun; end it if it is not for this server to begin it."""
        known = True
        with trio.move_on_after(START_SECONDS):
            known = await self._record.write_started(number)
        if known:
            return
        event("a copy too many is ended", id=self._record.transfer.id, copy=copy.name)
        with trio.move_on_after(START_SECONDS), contextlib.suppress(Ending):
            await copy.abort(keep=True)

    async def _prepared(self, way: _Way, number: int, node: NodeSession) -> Callable[[], Awaitable[int]]:
        """Everything but the command that starts it."""
        session = node.session
        source, target = self._placement.sources[number], self._placement.target
        other = way.other.name if way.other is not None else ""
        await server_copies.set_copy_words(session, words_of(self._options, other))
        if way.other is None:
            return lambda: server_copies.start_fetch(session, target, source.decode())
        secret = await way.other.secret(await way.runs.addresses_of(node.instance), self._layers)
        if self._options.encrypt and _ENCRYPTION not in secret.features:
            raise ForGood(f"The data node of '{way.other.name}' cannot encrypt as this transfer asks for")
        if way.sends:
            return lambda: server_copies.start_send(session, source, target, secret.host, secret.port, secret.secret)
        return lambda: server_copies.start_receive(session, target, source, secret.host, secret.port, secret.secret)

    async def _watch(self, number: int, copy: NodeCopy) -> CopyStatus:
        """Until it has ended, or is not known any more."""
        pause = _FIRST_POLL
        while True:
            status = await copy.status()
            self._record.saw(number, status)
            if status.is_final:
                return status
            await self._freshen()
            await trio.sleep(pause)
            pause = min(_SLOWEST_POLL, pause * _SLOWER)

    async def _freshen(self) -> None:
        """Tokens that last an hour would end during a copy of two, and be missing for the next source."""
        if trio.current_time() < self._freshened + _FRESHEN_SECONDS:
            return
        self._freshened = trio.current_time()
        for login in self._sides.logins:
            await login.freshen()

    async def _believe(self, number: int, copy: NodeCopy, status: CopyStatus) -> None:
        """Make sure that everything was copied.

        Raises:
            CopyFailed, ForGood: it was not; the failed files are in the row.
        """
        if status.word == "ABORTED":
            raise CopyFailed(f"The copy was ended at {copy.node}")
        errors = await copy.errors()
        again = await copy.status()
        self._record.saw(number, again)
        await self._record.write_errors(number, errors)
        if status.word == again.word == "FINISHED" and not errors and not status.failed and not again.failed:
            return
        raise _failure(copy, again, errors)


def _failure(copy: NodeCopy, status: CopyStatus, errors: Sequence[FileError]) -> Ending:
    """What a copy that did not copy everything means for its source."""
    if status.word == "UNKNOWN":
        return CopyFailed(f"{copy.node} has forgotten what became of it")
    count = max(status.failed, len(errors))
    first = one_line(errors[0].error if errors else status.error) or "no reason given"
    text = f"{count} file{'s' if count > 1 else ''} failed: {first}" if count > 0 else first
    lasting = all(is_lasting(error.error) for error in errors) if errors else is_lasting(status.error)
    return ForGood(text) if lasting else CopyFailed(text)

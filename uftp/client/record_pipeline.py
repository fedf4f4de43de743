"""Many transfers over the one data connection of MODE U, commands ahead of their replies (EXTENSIONS 1, pipelining).

Four work side by side. On the event loop one task writes command lines and another reads replies; one thread sends
the sequences of STOR and APPE in the order of their lines, without waiting for 150; another takes those of RETR and
listings, each when its 150 is in. Between them go queues, not awaits: a file costs no hop between threads. Nobody
waits for another while the server could be waiting for him, so neither end can block the other for good.

A transfer that fails on its own (refused, cut short, a full disk here) leaves the two ends in step: its sequence is
sent or read to an ABORT or END, and the next one goes on. A data connection that breaks takes with it what was under
way; all replies are collected, and what was not at fault is handed back to be begun again. A cancelled pipeline says
ABOR, collects, and leaves the session usable if the server is quick; else the session is closed.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import trio

from uftp.client.record_transfers import Retrieval, Storage, Transfer
from uftp.client.wording import printable, refusal
from uftp.errors import NetworkError, PeerBrokeProtocol, TimedOut, UFTPError
from uftp.protocol.records import binding
from uftp.protocol.replies import Reply
from uftp.streams import Cancelled, ConnectionBroken, Meter, Stalled, StreamError
from uftp.streams.records import NotAuthentic

if TYPE_CHECKING:
    from uftp.client.record_mode import RecordConnection, RecordMode
    from uftp.client.session import FTPSession

WINDOW_BYTES: Final = 48 * 1024  # of commands that are not answered (EXTENSIONS 1)
_LEAST_ROOM: Final = WINDOW_BYTES // 4  # lines go out in bunches: a system call each would cost more than they do
_MOST_UNDER_WAY: Final = 2048  # transfers; bounds memory where names are short
_GRACE_SECONDS: Final = 5.0  # for the two ends to get in step again after a cancellation
_EXPLANATION_SECONDS: Final = 20.0  # for the replies that are due when the data connection has broken


Supply = Callable[[], Iterable[Transfer]]


class Pipeline:
    """See the module. For one run.

    Args:
        session: usable, in MODE U, all replies read.
        mode: of the session.
        connection: of the mode.
        supply: called on the event loop when there is room: the transfers to go on with, none for the end. Those it
            gave are all run, or handed back.
        done: told on the event loop of each transfer that is done or has failed.
    """

    def __init__(
        self,
        session: FTPSession,
        mode: RecordMode,
        connection: RecordConnection,
        supply: Supply,
        done: Callable[[Transfer], None],
    ) -> None:
        self._session = session
        self._control = session.control
        self._mode = mode
        self._connection = connection
        self._supply: Supply | None = supply
        self._done = done
        self._ready: deque[Transfer] = deque()
        # Lines whose last reply is not in: the transfer, and whether the line only sets its range. None is ABOR.
        self._due: deque[tuple[Transfer, bool] | None] = deque()
        self._unfinished: dict[Transfer, None] = {}
        self._left: list[Transfer] = []
        self._unanswered = 0
        self._barrier: Transfer | None = None
        self._changed = trio.Event()
        self._asked = trio.Event()
        self._begun_now: list[Transfer] = []
        self._departures: queue.SimpleQueue[Storage | None] = queue.SimpleQueue()
        self._arrivals: queue.SimpleQueue[tuple[Retrieval, Reply] | None] = queue.SimpleQueue()
        self._threads: set[str] = set()
        self._notices: deque[Transfer] = deque()
        self._poked = False
        self._stopping = False
        self._abort = False
        self._ending = False  # the server wants a new data connection
        self._broken: Exception | None = None  # why the data connection is of no use
        self._lost: UFTPError | None = None  # why the session is of no use
        self._bug: BaseException | None = None
        self._failed = False  # as `_broken`, set at once by the thread that finds it
        self._blamed = False
        self._progress = False  # whether any transfer came to an end
        self._shield = trio.CancelScope(shield=True)

    async def run(self) -> list[Transfer]:
        """Run all that `supply` gives.

        Returns:
            What was not begun, or lost with a connection that another transfer broke: to be begun again, on this
            session if it is usable.

        Raises:
            trio.Cancelled: what was under way has been given up.
        """
        self._token = trio.lowlevel.current_trio_token()
        finished = False

        async def watch() -> None:
            try:
                await trio.sleep_forever()
            finally:
                if not finished:
                    self._shield.deadline = trio.current_time() + _GRACE_SECONDS
                    self._stop()

        self._connection.in_use = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await trio.lowlevel.checkpoint()
                with self._shield:
                    await self._work()
                finished = True
                nursery.cancel_scope.cancel()
        finally:
            if self._shield.cancelled_caught:
                self._lose(TimedOut(f"{self._session.name}: the server did not stop in time"))
            self._connection.release(close=self._ending)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._bug is not None:
            raise self._bug
        return self._left

    async def _work(self) -> None:
        try:
            async with trio.open_nursery() as threads:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._read)
                        await self._write(threads)
                        nursery.cancel_scope.cancel()
                finally:
                    if self._unfinished:  # the session is lost, or the time for getting in step is up
                        self._connection.break_off()
                    self._departures.put(None)
                    self._arrivals.put(None)
        finally:
            self._take_notices()
            for transfer in list(self._unfinished):
                self._give_up(transfer)
            self._left += self._ready
            for transfer in self._left:
                transfer.placed = False
                transfer.attempts += not self._progress

    # -- commands ---------------------------------------------------------------------------------------------------

    async def _write(self, threads: trio.Nursery) -> None:
        """Send lines as there is room, until all is done."""
        while self._lost is None:
            changed = self._changed = trio.Event()
            if self._abort:
                self._abort = False
                if self._due:
                    self._due.append(None)
                    await self._send([b"ABOR"])
            elif lines := self._compose():
                storages = [item for item in self._begun_now if isinstance(item, Storage)]
                retrievals = len(storages) < len(self._begun_now)
                await self._send(lines)
                if storages:
                    for storage in storages:
                        self._departures.put(storage)
                    self._start(threads, self._sending)
                if retrievals:
                    self._start(threads, self._receiving)
                continue
            if not (self._unfinished or self._due) and (self._over or not (self._ready or self._supply)):
                return
            await changed.wait()

    @property
    def _over(self) -> bool:
        """Whether nothing more is begun."""
        return self._stopping or self._ending or self._disconnected

    def _compose(self) -> list[bytes]:
        """The lines to send now; what they begin is in `_begun_now`."""
        self._begun_now = []
        if self._over or self._barrier is not None:
            return []
        if self._unanswered and WINDOW_BYTES - self._unanswered < _LEAST_ROOM:
            return []
        lines: list[bytes] = []
        while len(self._unfinished) < _MOST_UNDER_WAY and (transfer := self._next()) is not None:
            cost = sum(len(line) + 2 for line in (*transfer.prelude, transfer.line))
            if self._unanswered and self._unanswered + cost > WINDOW_BYTES:
                break
            if not transfer.placed:
                lines += transfer.prelude
                self._due.extend((transfer, True) for _ in transfer.prelude)
            if transfer.prelude and isinstance(transfer, Storage) and transfer.ranged and not transfer.placed:
                # Were the range refused, the command behind it would replace the file.
                self._barrier = transfer
                break
            self._ready.popleft()
            if transfer.error is not None:  # its range was refused
                self._done(transfer)
                continue
            self._mode.transfers += 1
            transfer.number = self._mode.transfers
            transfer.cost = cost
            self._unanswered += cost
            self._unfinished[transfer] = None
            self._due.append((transfer, False))
            self._begun_now.append(transfer)
            lines.append(transfer.line)
        return lines

    def _next(self) -> Transfer | None:
        if not self._ready and self._supply is not None:
            self._ready += self._supply()
            if not self._ready:
                self._supply = None
        return self._ready[0] if self._ready else None

    async def _send(self, lines: list[bytes]) -> None:
        self._asked.set()
        try:
            await self._control.send(b"\r\n".join(lines))
        except NetworkError as error:
            self._lose(error)

    # -- replies ----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        moved = -1
        try:
            while self._lost is None:
                if not self._due:
                    self._asked = trio.Event()
                    await self._asked.wait()
                try:
                    replies = await self._control.receive_some(self._patience())
                except TimedOut:
                    before, moved = moved, sum(transfer.meter.moved for transfer in self._unfinished)
                    if moved == before or self._broken is not None:
                        raise
                    continue
                for reply in replies:
                    self._handle(reply)
                self._change()
        except (NetworkError, PeerBrokeProtocol) as error:
            self._lose(error)

    def _patience(self) -> float | None:
        """Seconds the server may be silent; while data moves that begins anew."""
        if self._broken is not None:
            return _EXPLANATION_SECONDS
        due = self._due[0]
        return self._session.final_timeout if due is not None and due[0].begun else None

    def _handle(self, reply: Reply) -> None:
        if not self._due:
            raise PeerBrokeProtocol(f"{self._session.name}: a reply to nothing: {reply.code} {printable(reply.text)}")
        due = self._due[0]
        if due is None:
            if not reply.is_preliminary:
                self._due.popleft()
            return
        transfer, only_range = due
        if reply.is_preliminary:
            if only_range or transfer.begun:
                raise self._out_of_turn(transfer, reply)
            transfer.begun = True
            if isinstance(transfer, Retrieval):
                self._arrivals.put((transfer, reply))
            return
        self._due.popleft()
        if only_range:
            if not (reply.is_success or reply.is_intermediate) and transfer.error is None:
                transfer.error = refusal(reply, transfer.path, "set the range")
            if transfer is self._barrier:
                self._barrier = None
                transfer.placed = True
            return
        self._unanswered -= transfer.cost
        transfer.final = reply
        if reply.is_success and not transfer.begun:
            raise self._out_of_turn(transfer, reply)
        if isinstance(transfer, Retrieval) and transfer.begun:
            self._arrivals.put((transfer, reply))
            return
        if isinstance(transfer, Storage) and not transfer.carried:
            if reply.is_success and not transfer.whole:
                raise self._out_of_turn(transfer, reply)
            transfer.meter.cancelled = True  # its sequence ends at the next border, by ABORT
            return
        self._conclude(transfer)

    def _out_of_turn(self, transfer: Transfer, reply: Reply) -> PeerBrokeProtocol:
        error = PeerBrokeProtocol(f"{self._session.name}: {reply.code} {printable(reply.text)} comes out of turn")
        transfer.note(error)
        self._blamed = True
        return error

    # -- outcomes ---------------------------------------------------------------------------------------------------

    def _conclude(self, transfer: Transfer) -> None:
        """Its last reply is in, and its sequence through."""
        self._unfinished.pop(transfer, None)
        if not self._lost_with_others(transfer) or not self._hand_back(transfer):
            self._report(transfer)

    def _lost_with_others(self, transfer: Transfer) -> bool:
        """Whether what went wrong with it was the connection's fault, and another one is blamed for that."""
        final = transfer.final
        if transfer.trouble or transfer.error is not None or final is None:
            return False
        if final.code == 425:
            # The server lost the data connection before this one's turn. What it sent before is still read.
            self._ending = True
            return True
        if not self._disconnected:
            return False
        if final.is_success:
            return not transfer.whole  # stopped here, on its way
        blamed = self._blamed
        if final.code == 426 or transfer.begun:
            self._blamed = True
            return blamed
        return False

    def _report(self, transfer: Transfer) -> None:
        if self._lost is not None and not (transfer.succeeded or transfer.trouble or transfer.error):
            transfer.error = self._lost
        transfer.conclude()
        self._progress = True
        if transfer.error is None or not self._stopping:
            self._done(transfer)

    def _hand_back(self, transfer: Transfer) -> bool:
        """Whether it may be begun again: then it is among what `run` returns."""
        if self._stopping or not transfer.may_repeat():
            return False
        transfer.renew()
        self._left.append(transfer)
        return True

    def _give_up(self, transfer: Transfer) -> None:
        """The session is lost, and it has not come to its end."""
        self._unfinished.pop(transfer, None)
        blamed, self._blamed = self._blamed, True
        if blamed and self._hand_back(transfer):
            return
        self._report(transfer)

    def _take_notices(self) -> None:
        """What the threads are through with."""
        self._poked = False
        while self._notices:
            transfer = self._notices.popleft()
            transfer.carried = True
            if transfer.final is not None:
                self._conclude(transfer)
            self._change()

    def _change(self) -> None:
        self._changed.set()

    def _stop(self) -> None:
        """Begin nothing more, and have the server and the threads give up what is under way."""
        self._stopping = True
        self._abort = True
        for transfer in self._unfinished:
            transfer.meter.cancelled = True
        self._connection.reader.wake()
        self._change()

    def _lose(self, error: UFTPError) -> None:
        """The session is of no further use."""
        if self._lost is None:
            self._lost = error
            self._connection.break_off()
            self._control.break_off(str(error))
            self._change()

    def _break(self, error: Exception) -> None:
        """The data connection is of no further use. The replies due are still collected."""
        if self._broken is None:
            self._broken = error
            self._connection.break_off()
            self._change()

    # -- threads ----------------------------------------------------------------------------------------------------

    def _start(self, threads: trio.Nursery, work: Callable[[], None]) -> None:
        name = work.__name__
        if name not in self._threads:
            self._threads.add(name)
            threads.start_soon(self._run_thread, work)

    async def _run_thread(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._token.run_sync_soon(self._fail, error)

        # A limiter of its own: a session must not wait for the threads of others.
        await trio.to_thread.run_sync(run, limiter=trio.CapacityLimiter(1))

    def _fail(self, error: BaseException) -> None:
        self._bug = self._bug or error
        self._lose(NetworkError(f"{self._session.name}: closed after an internal error"))

    def _tell(self, transfer: Transfer) -> None:
        """Called in a thread: it is through with this one."""
        self._notices.append(transfer)
        if not self._poked:
            self._poked = True
            self._token.run_sync_soon(self._take_notices)

    @property
    def _disconnected(self) -> bool:
        return self._failed or self._broken is not None or self._lost is not None

    def _disconnect(self, transfer: Transfer, error: Exception) -> None:
        """Called in a thread: the data connection failed under this transfer."""
        if isinstance(error, NotAuthentic):
            shown = printable(transfer.path)
            lost = PeerBrokeProtocol(f"{shown}: what came is not what was sent; somebody may be changing the traffic")
            transfer.note(lost)
            self._token.run_sync_soon(self._lose, lost)
        if not self._disconnected:
            self._failed = True
            self._blamed = True
            if isinstance(error, Stalled):
                transfer.note(StreamError(f"no byte moved for {self._session.stall_timeout:.0f} seconds"))
            elif isinstance(error, ConnectionBroken | Cancelled):
                transfer.note(StreamError(f"the data connection broke: {error}".rstrip(": ")))
            else:
                transfer.note(error)
        self._token.run_sync_soon(self._break, error)

    def _sending(self) -> None:
        while (storage := self._next_departure()) is not None:
            try:
                if not self._disconnected:
                    self._send_one(storage)
            except (UFTPError, StreamError, OSError) as error:
                self._disconnect(storage, error)
            self._tell(storage)
        # The ABORT of one that was refused: the server waits for it, and nobody here for an answer.
        self._flush()

    def _next_departure(self) -> Storage | None:
        try:
            return self._departures.get_nowait()
        except queue.Empty:
            pass
        self._flush()
        return self._departures.get()

    def _flush(self) -> None:
        if not self._disconnected:
            try:
                self._connection.writer.flush()
            except StreamError as error:
                self._token.run_sync_soon(self._break, error)

    def _send_one(self, storage: Storage) -> None:
        writer = self._connection.writer
        outgoing = writer.begin(storage.number, binding(storage.line, storage.offset, storage.length))
        try:
            if storage.meter.cancelled:
                raise Cancelled
            storage.carry(outgoing)
        except (UFTPError, StreamError, OSError) as error:
            storage.whole = False
            outgoing.abort("given up by the client")
            if writer.broken:
                raise
            if storage.final is None or not isinstance(error, Cancelled):
                storage.note(error)  # else the server has said why

    def _receiving(self) -> None:
        while (event := self._arrivals.get()) is not None:
            retrieval, reply = event
            try:
                if reply.is_preliminary:
                    if not self._disconnected:
                        self._receive_one(retrieval, reply)
                    continue
                self._settle(retrieval)
            except (UFTPError, StreamError, OSError) as error:
                self._disconnect(retrieval, error)
            if not reply.is_preliminary:
                self._tell(retrieval)

    def _receive_one(self, retrieval: Retrieval, announcement: Reply) -> None:
        reader = self._connection.reader
        tie = binding(retrieval.line, retrieval.offset, retrieval.length)
        incoming = reader.begin(retrieval.number, tie, facts=not retrieval.listing)
        try:
            retrieval.carry(incoming, announcement)
        except (UFTPError, StreamError, OSError) as error:
            if reader.broken:
                raise
            retrieval.note(error)
            if not incoming.ended:
                self._token.run_sync_soon(self._unwanted, retrieval)
                incoming.discard(Meter())

    def _unwanted(self, retrieval: Retrieval) -> None:
        """What comes of it is read and dropped; if nothing else is under way, ABOR saves that."""
        if retrieval.final is None and len(self._unfinished) == 1:
            self._abort = True
            self._change()

    def _settle(self, retrieval: Retrieval) -> None:
        if retrieval.succeeded and retrieval.settle is not None:
            try:
                retrieval.settle()
            except (UFTPError, OSError) as error:
                retrieval.note(error)

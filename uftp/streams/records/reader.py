"""Receives transfers as records (EXTENSIONS section 1).

One receive takes as many records as have arrived. Plain content goes from where it was received to its file; what is
encrypted or compressed is held as a whole record, and nothing of it is handed on before its tag has been checked.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Final

import blake3

from uftp.protocol.record_mode import RecordOptions
from uftp.protocol.records import (
    ABORT,
    DIGEST_BYTES,
    END,
    HEADER_BYTES,
    HOLE,
    MAX_CONTENT,
    MAX_FACTS,
    MAX_FRAME,
    TAG_BYTES,
    ZSTD,
    Header,
    RecordError,
    check_header,
    pack_header,
    parse_reason,
    trailer_limit,
    unpack_header,
    unpack_hole,
    unpack_trailer,
)
from uftp.streams._meter import Meter, RateLimit
from uftp.streams.pump import Cancelled, ConnectionBroken, Garbled, Stalled, StreamError, translate
from uftp.streams.records.compression import Decompressor
from uftp.streams.records.holes import HoleWriter
from uftp.streams.records.sealing import Sealer

_RECEIVE: Final = 1024 * 1024  # bytes one receive asks for
_WINDOW: Final = _RECEIVE + HEADER_BYTES + MAX_FRAME + TAG_BYTES
_WAIT_FOR_ALL: Final = 64 * 1024  # missing bytes of one record from which on the kernel collects them
_FACTS_LENGTH_BYTES: Final = 2
_header: Final = struct.Struct(">II")
_ZEROS: Final = bytes(1024 * 1024)
_NO_METER: Final = Meter()
_NOTHING: Final = memoryview(b"")

_Write = Callable[[memoryview, int], None]  # takes all of a block; where it belongs is the second
_Skip = Callable[[int, int], None]  # takes a run of zeros: its length, and where it belongs


class NotAuthentic(Garbled):
    """A record's tag does not verify: somebody changes the traffic. The session must end."""


class Aborted(StreamError):
    """The peer gave the transfer up, for the reason that is the message. The connection is fit for the next one."""


class RecordReader:
    """The receiving direction of a data connection in MODE U, for as long as it lives. For one thread at a time.

    Args:
        connection: connected, the hello said; see `uftp.streams.pump.prepare`.
        options: as agreed.
        key: of this direction, 32 bytes; used with CRYPT only.
        before_waiting: called before waiting for bytes: to send first what the peer may be waiting for.

    Attributes:
        broken: whether nothing more can be understood on the connection.
    """

    def __init__(
        self,
        connection: socket.socket,
        options: RecordOptions,
        key: bytes = b"",
        *,
        before_waiting: Callable[[], None] | None = None,
    ) -> None:
        self.broken = False
        self._connection = connection
        self._options = options
        self._sealer = Sealer(key) if options.crypt else None
        self._decompressor = Decompressor() if options.compress else None
        self._before_waiting = before_waiting
        self._window = memoryview(bytearray(_WINDOW))
        self._start = self._end = self._before_file = 0
        self._content: memoryview | None = None
        self._current: RecordIncoming | None = None
        seconds, micros = struct.unpack("ll", connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
        self._stall_seconds: float | None = seconds + micros / 1e6 or None
        self._alarm_lock = threading.Lock()
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._alarm, select.POLLIN)

    def next_number(self, meter: Meter = _NO_METER) -> int:
        """The number of the transfer that the next record belongs to; waits for it, and leaves it unread.

        What it says is not authenticated before `begin` has read the record.

        Raises:
            RuntimeError: a transfer is under way.
            Cancelled: the meter was cancelled and `wake` called.
            StreamError: the connection, see `uftp.streams.pump`; ConnectionBroken if it ends here.
        """
        if self._current is not None and not self._current.ended:
            raise RuntimeError("the transfer before has not ended")
        self._fill(HEADER_BYTES, meter, at_border=True)
        return unpack_header(self._window, self._start).number

    def begin(self, number: int, binding: bytes = b"", *, facts: bool = True) -> RecordIncoming:
        """Take the records of the transfer with this number next; see `RecordWriter.begin` for the arguments.

        Raises:
            RuntimeError: the one before has not been read or discarded to its end.
        """
        if self._current is not None and not self._current.ended:
            raise RuntimeError("the transfer before has not ended")
        self._current = RecordIncoming(self, number, binding, facts=facts and self._options.facts)
        return self._current

    def take_file(self, number: int, binding: bytes = b"") -> tuple[memoryview, bytes] | None:
        """A whole transfer that has come as one END record: what `begin` and the steps behind it come to. Never waits.

        Args:
            number, binding: as for `begin`.

        Returns:
            Content and facts; the content is good until the next call of any method. None, with nothing taken, if the
            record is not all here, or is another one, or is wrong: then `begin` is due.
        """
        start, number = self._start, number & 0xFFFF_FFFF
        if self._end - start < HEADER_BYTES or self.broken or self._decompressor is not None:
            return None
        word, found = _header.unpack_from(self._window, start)
        size = word ^ END  # what is left are the length, and no other flag
        if size > MAX_CONTENT or self._end - start - HEADER_BYTES < size or found != number:
            return None
        if self._current is not None and not self._current.ended:
            return None
        self._before_file = start
        payload = self._window[start + HEADER_BYTES : start + HEADER_BYTES + size]
        self._start = start + HEADER_BYTES + size
        if self._sealer is not None:
            opened = self._open_file(payload, pack_header(END, size, number) + binding)
            if opened is None:
                self.give_back_file()
                return None
            payload = opened
        end = size = len(payload)
        if self._options.digest:
            end -= DIGEST_BYTES
        closing = end
        if self._options.facts:
            end -= _FACTS_LENGTH_BYTES
            closing = end
            if end >= 0:
                end -= payload[end] << 8 | payload[end + 1]
        facts = bytes(payload[end:closing]) if 0 <= end <= closing <= end + MAX_FACTS else None
        if facts is None or (
            self._options.digest and blake3.blake3(payload[:end]).digest() != payload[size - DIGEST_BYTES :]
        ):
            self.give_back_file()
            return None
        return payload[:end], facts

    def awaits_file(self, number: int) -> bool:
        """Whether `take_file` may succeed once more bytes are here."""
        held = self._end - self._start
        if held < HEADER_BYTES:
            return not self.broken and self._decompressor is None
        word, found = _header.unpack_from(self._window, self._start)
        size = word ^ END
        return bool(size <= MAX_CONTENT and held - HEADER_BYTES < size and found == number & 0xFFFF_FFFF)

    @property
    def room(self) -> int:
        """Bytes that `top_up` can take."""
        return len(self._window) - (self._end - self._start)

    def _open_file(self, payload: memoryview, additional: bytes) -> memoryview | None:
        assert self._sealer is not None  # noqa: S101 - the caller has looked
        if self._content is None:
            self._content = memoryview(bytearray(MAX_FRAME))
        if len(payload) < TAG_BYTES:
            self._sealer.skip(1)  # as if it had been opened
            return None
        try:
            return self._sealer.open(payload, additional, self._content)
        except RecordError:
            self._sealer.skip(1)
            return None

    def give_back_file(self) -> None:
        """Undo the last `take_file`, right after it: then `begin` takes the transfer."""
        self._start = self._before_file
        if self._sealer is not None:
            self._sealer.skip(-1)

    def top_up(self, wait_milliseconds: int = 0) -> bool:
        """Take what has arrived; whether anything has.

        Args:
            wait_milliseconds: how long to wait for it, at most.

        Raises:
            StreamError: the connection, see `uftp.streams.pump`; ConnectionBroken if it has ended.
        """
        if self.broken:
            raise ConnectionBroken("the data connection has failed before")
        held = self._end - self._start
        if not held:
            self._start = self._end = 0
        elif self._start and len(self._window) - self._end < _RECEIVE:
            self._window[:held] = self._window[self._start : self._end]
            self._start, self._end = 0, held
        room = self._window[self._end : self._end + _RECEIVE]
        if not room:
            return False
        try:
            count = self._connection.recv_into(room, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return bool(wait_milliseconds and self._poll.poll(wait_milliseconds)) and self.top_up()
        except OSError as error:
            self.broken = True
            raise translate(error, _NO_METER) from error
        if count == 0:
            self.broken = True
            raise ConnectionBroken("the peer closed the data connection")
        self._end += count
        return True

    def wake(self) -> None:
        """Have a thread that waits for a record look at its meter. From any thread, and nothing but this is."""
        with self._alarm_lock:  # once closed, its number may be that of any other file
            if self._alarm >= 0:
                os.eventfd_write(self._alarm, 1)

    @property
    def idle(self) -> bool:
        """Whether nothing has been received that has not been taken."""
        return self._start == self._end

    def close(self) -> None:
        """Give back descriptors. The connection is its owner's."""
        with self._alarm_lock:
            alarm, self._alarm = self._alarm, -1
            if alarm >= 0:
                os.close(alarm)

    # -- for RecordIncoming -----------------------------------------------------------------------------------------

    def _fill(self, need: int, meter: Meter, *, at_border: bool = False) -> None:
        """Have at least `need` bytes in the window from `_start` on."""
        while (missing := need - (self._end - self._start)) > 0:
            self._receive(missing, meter, at_border=at_border and self._start == self._end)

    def _receive(self, missing: int, meter: Meter, *, at_border: bool = False) -> None:
        if self.broken:
            raise ConnectionBroken("the data connection has failed before")
        if self._before_waiting is not None:
            self._before_waiting()
        if at_border:
            self._wait(meter)
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start + missing + (self._end - self._start) > len(self._window) or (
            self._end + missing > len(self._window)
        ):
            held = self._end - self._start
            self._window[:held] = self._window[self._start : self._end]
            self._start, self._end = 0, held
        free = len(self._window) - self._end
        try:
            if missing >= _WAIT_FOR_ALL:
                count = self._connection.recv_into(self._window[self._end :], missing, socket.MSG_WAITALL)
            else:
                count = self._connection.recv_into(self._window[self._end :], min(free, _RECEIVE))
        except OSError as error:
            self.broken = True
            raise translate(error, meter) from error
        if count == 0:
            self.broken = True
            if meter.cancelled:
                raise Cancelled
            raise ConnectionBroken("the peer closed the data connection")
        self._end += count

    def _wait(self, meter: Meter) -> None:
        """Between records a cancelled meter ends the wait, and nothing is lost by it."""
        while not meter.cancelled:
            timeout = None if self._stall_seconds is None else self._stall_seconds * 1000
            ready = [fd for fd, _ in self._poll.poll(timeout)]
            if not ready:
                self.broken = True
                raise Stalled("no data moved for too long")
            if self._alarm not in ready:
                return
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._alarm)
        raise Cancelled

    def _take_header(self, due: int, meter: Meter) -> Header:
        self._fill(HEADER_BYTES, meter, at_border=True)
        header = unpack_header(self._window, self._start)
        try:
            check_header(header, self._options, due)
        except RecordError as error:
            self.broken = True
            raise Garbled(str(error)) from error
        self._start += HEADER_BYTES
        return header

    def _take_payload(self, header: Header, bound: bytes, meter: Meter) -> memoryview:
        """A whole payload, decrypted. Good until the next call of any method."""
        size = header.length
        self._fill(size, meter)
        payload = self._window[self._start : self._start + size]
        if self._sealer is None:
            self._start += size
            return payload
        additional = pack_header(*header) + bound
        if self._content is None:
            self._content = memoryview(bytearray(MAX_FRAME))
        try:
            content = self._sealer.open(payload, additional, self._content)
        except RecordError as error:
            self.broken = True
            raise Garbled(str(error)) from error
        if content is None:
            self.broken = True
            raise NotAuthentic("a record's tag does not verify: somebody may be changing the traffic")
        self._start += size
        return content

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        try:
            yield
        except RecordError as error:
            self.broken = True
            raise Garbled(str(error)) from error

    def _drop(self, count: int, meter: Meter) -> int:
        """Have the kernel drop up to `count` bytes of plain content; how many."""
        if self._before_waiting is not None:
            self._before_waiting()
        try:
            got = self._connection.recv_into(self._window, min(count, _RECEIVE), socket.MSG_TRUNC)
        except OSError as error:
            self.broken = True
            raise translate(error, meter) from error
        if got == 0:
            self.broken = True
            if meter.cancelled:
                raise Cancelled
            raise ConnectionBroken("the peer closed the data connection")
        return got


class RecordIncoming:
    """One transfer from the peer; see `uftp.streams.flow.Incoming`.

    `to_...` raise `Aborted` when the peer gives up. After any error but a broken connection, and after a `finish` that
    returned False, `discard` reads on to where the next transfer begins.

    Attributes:
        facts: MLST facts that came with the end; empty before, and without.
        verified: whether a digest came and was right.
        written: bytes, and zeros of holes, that `to_file` has written, whole blocks or not.
    """

    marked = True

    def __init__(self, reader: RecordReader, number: int, binding: bytes, *, facts: bool) -> None:
        self.facts = b""
        self.verified = False
        self.written = 0
        self._reader = reader
        self._options = reader._options
        self._number = number
        self._bound = binding if reader._sealer is not None else b""
        self._carries_facts = facts
        self._digest = blake3.blake3() if self._options.digest else None
        self._expected: bytes | None = None
        self._content = _NOTHING  # of the record at hand, not yet taken
        self._streamed = 0  # bytes of the record at hand that are still to be received and go where they belong at once
        self._closing = 0  # bytes of the record at hand behind those, with the trailer
        self._zeros = 0  # of the hole at hand
        self._last = False  # whether the record at hand is the last one

    @property
    def digest(self) -> bytes:
        """The BLAKE3 digest of the transfer once `finish` has compared it; empty before, and without."""
        return (self._expected or b"") if self.verified else b""

    @property
    def ended(self) -> bool:
        """Whether the last record has been read: END, with all its bytes taken, or ABORT."""
        return self._last and not self._left()

    # -- Incoming ---------------------------------------------------------------------------------------------------

    def to_file(
        self, target: int, offset: int, length: int | None, meter: Meter, limit: RateLimit | None = None
    ) -> int:
        """See `Incoming`. Also raises `Aborted`, `NotAuthentic`. Holes stay holes where the file system can."""
        holes: HoleWriter | None = None

        def write(data: memoryview, position: int) -> None:
            at = offset + position
            while data:
                count = os.pwrite(target, data, at)
                data = data[count:]
                at += count
                self.written += count

        def wrote(count: int) -> None:
            self.written += count
            if meter.cancelled:
                raise Cancelled

        def skip(count: int, position: int) -> None:
            nonlocal holes
            holes = holes or HoleWriter(target)
            holes.write(offset + position, count, wrote)

        return self._consume(write, skip, length, meter, limit)

    def to_chunks(self, write: Callable[[memoryview], None], length: int | None, meter: Meter) -> int:
        """See `Incoming`."""

        def write_zeros(count: int, position: int) -> None:
            while count > 0:
                if meter.cancelled:
                    raise Cancelled
                block = min(count, len(_ZEROS))
                write(memoryview(_ZEROS)[:block])
                count -= block

        return self._consume(lambda data, position: write(data), write_zeros, length, meter, None)

    def to_nowhere(self, length: int | None, meter: Meter) -> int:
        """See `Incoming`."""
        return self._consume(None, None, length, meter, None)

    def finish(self) -> bool:
        """See `Incoming`. Returns False as soon as something shows that was not taken: `discard` the rest then.

        Raises:
            Garbled: the digest is another one.
            Aborted: the peer gave up.
            StreamError: the connection, see `uftp.streams.pump`.
        """
        while not self.ended:
            if self._has_content():
                return False
            self._advance(_NO_METER)
        if self._digest is not None and not self.verified:
            if self._expected is None or not hmac.compare_digest(self._expected, self._digest.digest()):
                raise Garbled("what arrived is not what was sent: the digests differ")
            self.verified = True
        return True

    def discard(self, meter: Meter) -> None:
        """Read on through END or ABORT, keeping nothing.

        Raises:
            NotAuthentic, Garbled: the records are wrong.
            StreamError: the connection, see `uftp.streams.pump`.
        """
        self._digest = None
        while not self.ended:
            self._content = _NOTHING
            self._zeros = 0
            try:
                if self._streamed:
                    self._take_streamed(None, 0, self._streamed, meter)
                elif not self._last or self._closing:
                    self._advance(meter)
            except Aborted:
                return

    # -- records ----------------------------------------------------------------------------------------------------

    def _left(self) -> bool:
        return bool(self._content or self._streamed or self._closing or self._zeros)

    def _has_content(self) -> bool:
        return bool(self._content or self._streamed or self._zeros)

    def _consume(
        self, write: _Write | None, skip: _Skip | None, length: int | None, meter: Meter, limit: RateLimit | None
    ) -> int:
        taken = 0
        while length is None or taken < length:
            if not self._has_content():
                if self.ended:
                    break
                if meter.cancelled:
                    raise Cancelled
                self._advance(meter)
                continue
            wanted = None if length is None else length - taken
            if self._content:
                count = self._take_content(write, taken, wanted)
            elif self._zeros:
                count = self._take_zeros(skip, taken, wanted, meter)
                taken += count
                meter.moved += count
                continue  # they have not moved: a rate is not for them
            else:
                count = self._take_streamed(write, taken, wanted, meter, limit)
            taken += count
            meter.moved += count
            if limit is not None:
                limit.spend(count, meter)
        return taken

    def _take_content(self, write: _Write | None, position: int, wanted: int | None) -> int:
        block = self._content if wanted is None else self._content[:wanted]
        if self._digest is not None:
            self._digest.update(block)
        if write is not None:
            write(block, position)
        self._content = self._content[len(block) :]
        return len(block)

    def _take_zeros(self, skip: _Skip | None, position: int, wanted: int | None, meter: Meter) -> int:
        count = self._zeros if wanted is None else min(wanted, self._zeros)
        if skip is not None:
            skip(count, position)  # first, since a file system that cannot hold so many says so at once
        if self._digest is not None:
            left = count
            while left > 0:
                if meter.cancelled:
                    raise Cancelled
                self._digest.update(memoryview(_ZEROS)[: min(left, len(_ZEROS))])
                left -= len(_ZEROS)
        self._zeros -= count
        return count

    def _take_streamed(
        self,
        write: _Write | None,
        position: int,
        wanted: int | None,
        meter: Meter,
        limit: RateLimit | None = None,
    ) -> int:
        reader = self._reader
        most = self._streamed if wanted is None else min(wanted, self._streamed)
        if reader._start == reader._end:
            if write is None and self._digest is None:
                count = reader._drop(most, meter)
                self._streamed -= count
                return count
            if limit is not None and limit.rate:
                most = min(most, limit.block_size(_RECEIVE))
            reader._receive(1, meter)
        count = min(most, reader._end - reader._start)
        block = reader._window[reader._start : reader._start + count]
        if self._digest is not None:
            self._digest.update(block)
        if write is not None:
            write(block, position)
        reader._start += count
        self._streamed -= count
        return count

    def _advance(self, meter: Meter) -> None:
        """Read the next record, or the closing bytes of the one at hand: content, zeros or the end is there then."""
        if self._closing:
            size, self._closing = self._closing, 0
            self._close(self._reader._take_payload(Header(END, size, self._number), b"", meter))
            return
        header = self._reader._take_header(self._number, meter)
        bound, self._bound = self._bound, b""
        flags, size, _ = header
        if flags & ABORT:
            reason = parse_reason(self._reader._take_payload(header, bound, meter))
            self._last = True
            raise Aborted(reason or "the peer gave the transfer up")
        if self._reader._sealer is None and not flags & (ZSTD | HOLE):
            self._closing = min(size, self._trailer_limit()) if flags & END else 0
            self._streamed = size - self._closing
            self._last = bool(flags & END)
            if self._last and not size:
                self._close(_NOTHING)
            return
        payload = self._reader._take_payload(header, bound, meter)
        if flags & ZSTD:
            payload = self._decompressed(payload)
        self._last = bool(flags & END)
        if self._last:
            self._close(payload)
            payload = self._content
        else:
            self._content = payload
        if flags & HOLE:
            with self._reader._breaking():
                self._zeros = unpack_hole(payload)
            self._content = _NOTHING

    def _trailer_limit(self) -> int:
        return trailer_limit(self._options)

    def _decompressed(self, payload: memoryview) -> memoryview:
        assert self._reader._decompressor is not None  # noqa: S101 - the header was checked
        with self._reader._breaking():
            content = memoryview(self._reader._decompressor.decompress(payload))
            if not content:
                raise RecordError("an empty record")
        return content

    def _close(self, payload: memoryview) -> None:
        """The last bytes of the transfer: content and trailer."""
        try:
            trailer = unpack_trailer(payload, facts=self._carries_facts, digest=self._options.digest)
        except RecordError as error:
            self._reader.broken = True
            raise Garbled(str(error)) from error
        self._content = payload[: len(payload) - trailer.length]
        self.facts = trailer.facts or b""
        self._expected = trailer.digest

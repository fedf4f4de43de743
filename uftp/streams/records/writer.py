"""Sends transfers as records (EXTENSIONS section 1).

Large plain files go by sendfile, in records that need no buffer. All else is gathered: many small files make one
system call, and an END record carries the last bytes of its file. What is gathered goes out when there is enough of
it, or when its owner calls `flush`: before it waits for anything else, and when there is nothing more to do.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

import blake3

from uftp.protocol.record_mode import RecordOptions
from uftp.protocol.records import (
    ABORT,
    END,
    HEADER_BYTES,
    HOLE,
    MAX_CONTENT,
    MAX_FACTS,
    MAX_FRAME,
    MAX_HOLE,
    MAX_RAW,
    TAG_BYTES,
    ZSTD,
    RecordError,
    format_reason,
    pack_header,
    pack_header_into,
    pack_hole,
    pack_trailer,
)
from uftp.streams._meter import Meter, RateLimit
from uftp.streams.pump import Cancelled, ConnectionBroken, SourceEnded, pace, translate
from uftp.streams.records.compression import Compressor
from uftp.streams.records.holes import extents
from uftp.streams.records.sealing import Sealer

_GATHER: Final = 256 * 1024  # bytes gathered before they are sent
_GATHERED_CONTENT: Final = 64 * 1024  # larger contents are sent from where they are, without a copy
_SENDFILE: Final = 64 * 1024  # from this size on sendfile is cheaper than reading and gathering
_PIPELINED: Final = 2 * MAX_CONTENT  # from this size on records are compressed side by side
SMALL_FILE: Final = _SENDFILE  # bytes; below it a file is looked at for no holes, and sent by no sendfile
LARGEST_FILE: Final = MAX_CONTENT - MAX_FACTS - 64  # bytes that `RecordWriter.put_file` takes
_header: Final = struct.Struct(">II")
_facts_length: Final = struct.Struct(">H")
_ZEROS: Final = bytes(64 * 1024)
_ZERO_BLOCK: Final = bytes(1024 * 1024)


class RecordWriter:
    """The sending direction of a data connection in MODE U, for as long as it lives. For one thread at a time.

    Args:
        connection: connected, the hello said; see `uftp.streams.pump.prepare`.
        options: as agreed.
        key: of this direction, 32 bytes; used with CRYPT only.
        before_waiting: called before bytes are sent, which may block until the peer has read: to send on other
            ways first what the peer may be waiting for.

    Attributes:
        broken: whether a record was cut, so that nothing more can be said on the connection.
        sent: bytes handed to the kernel so far.
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
        self.sent = 0
        self._connection = connection
        self._options = options
        self._sealer = Sealer(key) if options.crypt else None
        self._compressor = Compressor(options.level) if options.compress else None
        self._before_waiting = before_waiting
        self._out = memoryview(bytearray(_GATHER + HEADER_BYTES + MAX_FRAME + TAG_BYTES))
        self._filled = 0
        self._gone = 0  # of what is gathered, by `send_some`
        self._meter = Meter()
        self._paced = 0
        self._current: RecordOutgoing | None = None
        self._spare: list[memoryview] = []

    def begin(self, number: int, binding: bytes = b"", *, facts: bool = True) -> RecordOutgoing:
        """Start the transfer with this number.

        Args:
            number: count of the transfer's command since MODE U, from 1.
            binding: of its command (`uftp.protocol.records.binding`); used with CRYPT only.
            facts: whether transfers of this kind carry facts; listings do not.

        Raises:
            RuntimeError: the one before has neither ended nor been aborted.
        """
        if self._current is not None:
            raise RuntimeError("the transfer before has not ended")
        self._current = RecordOutgoing(self, number, binding, facts=facts and self._options.facts)
        return self._current

    @property
    def said(self) -> int:
        """Bytes sent or gathered so far: once `sent` has come here, all that is said by now is with the kernel."""
        return self.sent + self._filled - self._gone

    def put_file(self, number: int, binding: bytes, source: int, size: int, facts: bytes) -> bool:
        """Gather a whole transfer of a small file, in one END record: what `begin` and the steps behind it come to.

        Nothing is sent: `send_if_full` must follow.

        Args:
            number, binding: as for `begin`.
            source: descriptor of the file, read from where it stands.
            size: bytes that it must give: at most `LARGEST_FILE`.
            facts: of the file.

        Returns:
            Whether it is gathered. If not, nothing is: the file did not give so many bytes, or compression has a say.
            Then `begin` is due.

        Raises:
            OSError: the file cannot be read; nothing is gathered.
        """
        if self._compressor is not None or self._current is not None or self._filled >= _GATHER:
            return False
        if self._paced:
            self._pace(None)
        plain, content = self._out, self._filled + HEADER_BYTES
        if self._sealer is not None:
            if not self._spare:
                self._spare.append(memoryview(bytearray(MAX_CONTENT)))
            plain, content = self._spare[-1], 0
        end = content + size
        if size and os.readv(source, [plain[content:end]]) != size:
            return False
        trailer = facts + _facts_length.pack(len(facts)) if self._options.facts else b""
        if self._options.digest:
            trailer += blake3.blake3(plain[content:end]).digest()
        trailer_end = end + len(trailer)
        plain[end:trailer_end] = trailer
        if self._sealer is not None:
            return self._seal(END, plain[:trailer_end], number, binding)
        _header.pack_into(plain, self._filled, END | (trailer_end - content), number & 0xFFFF_FFFF)
        self._filled = trailer_end
        return True

    def send_if_full(self) -> bool:
        """Send what is gathered if it is enough for a system call; whether it was.

        Raises:
            StreamError: the connection, see `uftp.streams.pump`.
        """
        if self._filled < _GATHER:
            return False
        self._send_gathered()
        return True

    @property
    def full(self) -> bool:
        """Whether enough is gathered for a system call."""
        return self._filled >= _GATHER

    def send_some(self) -> bool:
        """Send of what is gathered what the kernel takes, without waiting; whether all of it is sent.

        Until it is, nothing may be put or begun.

        Raises:
            StreamError: the connection, see `uftp.streams.pump`.
        """
        while self._gone < self._filled:
            try:
                count = self._connection.send(self._out[self._gone : self._filled], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError as error:
                self.broken = True
                raise translate(error, self._meter) from error
            self._gone += count
            self.sent += count
        self._gone = self._filled = 0
        return True

    def flush(self) -> None:
        """Send what is gathered.

        Raises:
            StreamError: the connection, see `uftp.streams.pump`.
        """
        if self._filled:
            self._send_gathered()

    def close(self) -> None:
        """Give back threads. The connection is its owner's."""
        if self._compressor is not None:
            self._compressor.close()

    # -- for RecordOutgoing -----------------------------------------------------------------------------------------

    def _ended(self) -> None:
        self._current = None

    def _buffer(self) -> memoryview:
        """One of MAX_CONTENT bytes; give it back to `_spare`."""
        return self._spare.pop() if self._spare else memoryview(bytearray(MAX_CONTENT))

    def _emit(self, flags: int, content: memoryview | bytes, number: int, bound: bytes) -> None:
        """Gather one record, or send it if there is enough."""
        size = len(content)
        if self._sealer is not None:
            self._make_room(HEADER_BYTES + size + TAG_BYTES)
            if not self._seal(flags, content, number, bound):
                self.broken = True
                raise ConnectionBroken("a new data connection is due")
        else:
            self._make_room(HEADER_BYTES + (size if size <= _GATHERED_CONTENT else 0))
            pack_header_into(self._out, self._filled, flags, size, number)
            self._filled += HEADER_BYTES
            if size > _GATHERED_CONTENT:
                self._send_gathered(content)
                return
            self._out[self._filled : self._filled + size] = content
            self._filled += size
        if self._filled >= _GATHER:
            self._send_gathered()

    def _seal(self, flags: int, content: memoryview | bytes, number: int, bound: bytes) -> bool:
        """Gather an encrypted record; False if the keys have served all the records they are good for."""
        assert self._sealer is not None  # noqa: S101 - the caller has looked
        start, length = self._filled, len(content) + TAG_BYTES
        header = pack_header(flags, length, number)
        body = start + HEADER_BYTES
        try:
            self._sealer.seal(content, header + bound, self._out[body : body + length])
        except RecordError:
            return False
        self._out[start:body] = header
        self._filled = body + length
        return True

    def _make_room(self, size: int) -> None:
        if self._filled + size > len(self._out):
            self._send_gathered()

    def _send_gathered(self, behind: memoryview | bytes = b"", *, more: bool = False) -> None:
        if self.broken:
            raise ConnectionBroken("the data connection has failed before")
        if self._before_waiting is not None:
            self._before_waiting()
        views = [self._out[: self._filled], memoryview(behind)]
        flags = socket.MSG_MORE if more else 0
        try:
            while views:
                try:
                    count = self._connection.sendmsg(views, [], flags)
                except OSError as error:
                    raise translate(error, self._meter) from error
                self.sent += count
                while views and count >= len(views[0]):
                    count -= len(views.pop(0))
                if views:
                    views[0] = views[0][count:]
        except BaseException:
            self.broken = True
            self._filled = 0
            raise
        self._filled = 0

    def _pace(self, limit: RateLimit | None) -> None:
        rate = 0 if limit is None else limit.rate
        if rate != self._paced:
            self._paced = rate
            pace(self._connection, rate)

    def _send_from(self, source: int, offset: int, length: int, meter: Meter) -> None:
        """The payload of a record whose header is gathered, by sendfile.

        Raises:
            SourceEnded, OSError: the source's fault; the record has been filled with zeros.
        """
        self._send_gathered(more=True)
        end = offset + length
        while offset < end:
            try:
                count = os.sendfile(self._connection.fileno(), source, offset, end - offset)
            except OSError as error:
                translated = translate(error, self._meter)
                if translated is not error:
                    self.broken = True
                    raise translated from error
                self._copy_from(source, offset, end - offset, meter)
                return
            if count == 0:
                self._fill(end - offset)
                raise SourceEnded(f"the file ended {end - offset} bytes early")
            offset += count
            meter.moved += count

    def _copy_from(self, source: int, offset: int, length: int, meter: Meter) -> None:
        """For files the kernel cannot send from; those that cannot be read either raise here."""
        end = offset + length
        while offset < end:
            try:
                data = os.pread(source, min(MAX_CONTENT, end - offset), offset)
            except OSError:
                self._fill(end - offset)
                raise
            if not data:
                self._fill(end - offset)
                raise SourceEnded(f"the file ended {end - offset} bytes early")
            self._send_gathered(data)
            offset += len(data)
            meter.moved += len(data)

    def _fill(self, length: int) -> None:
        """Zeros up to the end of a record that its source cannot fill; ABORT must follow."""
        while length > 0:
            count = min(length, len(_ZEROS))
            self._send_gathered(memoryview(_ZEROS)[:count])
            length -= count


class RecordOutgoing:
    """One transfer to the peer; see `uftp.streams.flow.Outgoing`.

    After an error of `from_...` call `abort`: the connection then is fit for the next transfer, unless the writer says
    that it is broken.

    Attributes:
        digest: BLAKE3 of the transfer once it has ended; empty before, and without.
    """

    def __init__(self, writer: RecordWriter, number: int, binding: bytes, *, facts: bool) -> None:
        self._writer = writer
        self._options = writer._options
        self._number = number
        self._bound = binding if writer._sealer is not None else b""
        self._carries_facts = facts
        self._digest = blake3.blake3() if self._options.digest else None
        self._held: memoryview | None = None  # a buffer of plain bytes that wait for more, or for the end
        self._held_size = 0
        self._compressing: deque[tuple[Future[bytes | None], memoryview, int]] = deque()
        self._over = False
        self.digest = b""

    # -- Outgoing ---------------------------------------------------------------------------------------------------

    def from_file(self, source: int, offset: int, length: int, meter: Meter, limit: RateLimit | None = None) -> None:
        """See `Outgoing`. A cancelled meter is noticed between records."""
        writer = self._writer
        writer._meter = meter
        writer._pace(limit)
        if not self._options.sparse or length < _SENDFILE:
            self._data(source, offset, length, meter, limit)
            return
        for extent in extents(source, offset, length):
            if extent.kind == "hole":
                self._hole(extent.length, meter)
            else:
                self._data(source, extent.offset, extent.length, meter, limit)

    def from_bytes(self, data: bytes | memoryview, meter: Meter) -> None:
        """See `Outgoing`."""
        self._writer._meter = meter
        view = memoryview(data)
        while view:
            _check(meter)
            held, room = self._room()
            count = min(room, len(view))
            held[self._held_size : self._held_size + count] = view[:count]
            self._took(held, count, meter, side_by_side=False)
            view = view[count:]

    def end(self, facts: bytes = b"") -> None:
        """See `Outgoing`. The END record is gathered with what follows: `RecordWriter.flush` sends it."""
        self._collect(0)
        digest = None if self._digest is None else self._digest.digest()
        self.digest = digest or b""
        trailer = pack_trailer(facts if self._carries_facts else None, digest)
        size = self._held_size
        if self._held is None:
            self._record(END, trailer)
        elif size + len(trailer) <= MAX_CONTENT:
            self._held[size : size + len(trailer)] = trailer
            self._held_size += len(trailer)
            self._emit_held(END)
        else:
            self._emit_held(0)
            self._record(END, trailer)
        self._finish()

    def abort(self, reason: str = "") -> None:
        """See `Outgoing`. Gathered like an end."""
        if self._over:
            return
        for future, _, _ in self._compressing:
            future.cancel()
        while self._compressing:
            future, buffer, _ = self._compressing.popleft()
            with contextlib.suppress(Exception):
                if not future.cancelled():
                    future.result()
            self._writer._spare.append(buffer)
        if not self._writer.broken:
            with contextlib.suppress(Exception):
                self._record(ABORT, format_reason(reason))
        self._finish()

    # -- records ----------------------------------------------------------------------------------------------------

    def _record(self, flags: int, content: memoryview | bytes) -> None:
        bound, self._bound = self._bound, b""
        self._writer._emit(flags, content, self._number, bound)

    def _finish(self) -> None:
        if self._held is not None:
            self._writer._spare.append(self._held)
            self._held = None
        self._over = True
        self._writer._ended()

    def _room(self) -> tuple[memoryview, int]:
        """The buffer being filled, and how much of it is free."""
        if self._held is None:
            self._held = self._writer._buffer()
            self._held_size = 0
        return self._held, MAX_CONTENT - self._held_size

    def _took(self, held: memoryview, count: int, meter: Meter, *, side_by_side: bool) -> None:
        """`count` bytes more are in the buffer."""
        if self._digest is not None:
            self._digest.update(held[self._held_size : self._held_size + count])
        self._held_size += count
        meter.moved += count
        if self._held_size == MAX_CONTENT:
            self._let_go(side_by_side=side_by_side)

    def _let_go(self, *, side_by_side: bool) -> None:
        """Emit what is held, or have it compressed meanwhile."""
        compressor = self._writer._compressor
        if not side_by_side or compressor is None or compressor.pausing:
            self._emit_held(0)
            return
        assert self._held is not None  # noqa: S101 - called with a full buffer
        self._compressing.append((compressor.submit(self._held[: self._held_size]), self._held, self._held_size))
        self._held = None
        self._collect(compressor.threads)

    def _collect(self, leave: int) -> None:
        """Emit the records being compressed, in order, until `leave` of them are left."""
        while len(self._compressing) > leave:
            future, buffer, size = self._compressing[0]
            frame = future.result()
            self._compressing.popleft()
            try:
                self._emit_tried(0, buffer[:size], frame)
            finally:
                self._writer._spare.append(buffer)

    def _emit_tried(self, flags: int, content: memoryview, frame: bytes | None) -> None:
        compressor = self._writer._compressor
        assert compressor is not None  # noqa: S101 - somebody has compressed
        compressor.learn(len(content), frame is not None)
        if frame is None:
            self._record(flags, content)
        else:
            self._record(flags | ZSTD, frame)

    def _emit_held(self, flags: int) -> None:
        self._collect(0)
        held, size = self._held, self._held_size
        if held is None or not (size or flags):
            return
        self._held_size = 0
        compressor = self._writer._compressor
        if compressor is None or size == 0:
            self._record(flags, held[:size])
        elif compressor.pausing:
            compressor.skipped()
            self._record(flags, held[:size])
        else:
            self._emit_tried(flags, held[:size], compressor.compress(held[:size]))
        self._writer._spare.append(held)
        self._held = None

    # -- contents ---------------------------------------------------------------------------------------------------

    def _data(self, source: int, offset: int, length: int, meter: Meter, limit: RateLimit | None) -> None:
        end = offset + length
        side_by_side = length >= _PIPELINED
        while offset < end:
            _check(meter)
            self._writer._pace(limit)
            left = end - offset
            if left >= _SENDFILE and self._can_sendfile():
                offset += self._send_plain(source, offset, left, meter, limit)
                continue
            held, room = self._room()
            wanted = min(room, left) if limit is None else min(room, left, limit.block_size(MAX_CONTENT))
            count = os.preadv(source, [held[self._held_size : self._held_size + wanted]], offset)
            if count == 0:
                raise SourceEnded(f"the file ended {left} bytes early")
            self._took(held, count, meter, side_by_side=side_by_side)
            offset += count
            if limit is not None and limit.rate:
                self._let_go(side_by_side=False)  # a limit is kept in small steps

    def _can_sendfile(self) -> bool:
        """Whether the next bytes need not pass through this process."""
        if self._writer._sealer is not None or self._digest is not None:
            return False
        return self._writer._compressor is None or self._writer._compressor.pausing

    def _send_plain(self, source: int, offset: int, length: int, meter: Meter, limit: RateLimit | None) -> int:
        self._emit_held(0)
        writer = self._writer
        largest = MAX_RAW if limit is None else limit.block_size(MAX_RAW)
        count = min(length, largest)
        if writer._compressor is not None:
            count = min(count, MAX_CONTENT)  # what is not tried is counted in records of the usual size
            writer._compressor.skipped()
        writer._make_room(HEADER_BYTES)
        pack_header_into(writer._out, writer._filled, 0, count, self._number)
        writer._filled += HEADER_BYTES
        writer._send_from(source, offset, count, meter)
        return count

    def _hole(self, length: int, meter: Meter) -> None:
        self._emit_held(0)
        while length > 0:
            _check(meter)
            count = min(length, MAX_HOLE)
            if self._digest is not None:
                _hash_zeros(self._digest, count, meter)
            self._record(HOLE, pack_hole(count))
            meter.moved += count
            length -= count


def _check(meter: Meter) -> None:
    if meter.cancelled:
        raise Cancelled


def _hash_zeros(digest: blake3.blake3, length: int, meter: Meter) -> None:
    while length > 0:
        _check(meter)
        count = min(length, len(_ZERO_BLOCK))
        digest.update(memoryview(_ZERO_BLOCK)[:count])
        length -= count

"""Transfers as records: what one side sends the other gets, however it arrives; what is wrong is an error, always."""

from __future__ import annotations

import itertools
import os
import random
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import blake3
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from uftp.protocol.record_mode import RecordOptions
from uftp.protocol.records import (
    ABORT,
    END,
    HOLE,
    MAX_CONTENT,
    MAX_RAW,
    ZSTD,
    pack_header,
    pack_hole,
    pack_trailer,
    unpack_header,
)
from uftp.streams import (
    Cancelled,
    ConnectionBroken,
    Garbled,
    Meter,
    RateLimit,
    SourceEnded,
    StreamError,
    prepare,
)
from uftp.streams.records import Aborted, NotAuthentic, RecordIncoming, RecordReader, RecordWriter

KEY = bytes(range(32))
PLAIN = RecordOptions()
ALL_OPTIONS = [
    RecordOptions(crypt=crypt, compress=compress, digest=digest, sparse=sparse, facts=facts)
    for crypt, compress, digest, sparse, facts in itertools.product((False, True), repeat=5)
]
CRYPTS = [RecordOptions(crypt=True), RecordOptions(crypt=True, compress=True, digest=True, facts=True)]
DIGESTS = [RecordOptions(digest=True), RecordOptions(compress=True, digest=True, facts=True)]
TIMEOUT = 20.0


def name_of(options: RecordOptions) -> str:
    names = [name for name in ("crypt", "compress", "digest", "sparse", "facts") if getattr(options, name)]
    return "-".join(names) or "plain"


class Dripping(socket.socket):
    """A socket whose receives give no more than the test says, in turn; nothing else about it is different."""

    portions: Iterator[int]

    def recv_into(self, buffer: object, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[override]
        most = next(self.portions, nbytes)
        return super().recv_into(buffer, min(nbytes, most), flags & ~socket.MSG_WAITALL)  # type: ignore[arg-type]


@contextmanager
def pair(portions: Iterator[int] | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    if portions is not None:
        dripping = Dripping(fileno=far.detach())
        dripping.portions = portions
        far = dripping
    for end in (near, far):
        prepare(end, TIMEOUT)
    with near, far:
        yield near, far


@contextmanager
def source_of(content: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.fileno()


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wire(options: RecordOptions, say: Callable[[RecordWriter], object]) -> bytes:
    """What a writer puts on the wire."""
    received = bytearray()
    with pair() as (near, far):
        writer = RecordWriter(near, options, KEY)

        def take() -> None:
            while data := far.recv(1 << 20):
                received.extend(data)

        thread = in_thread(take)
        try:
            say(writer)
            writer.flush()
        finally:
            near.shutdown(socket.SHUT_WR)
            thread.join()
            writer.close()
    return bytes(received)


def bound(number: int) -> bytes:
    return bytes([number % 256]) * 32


def send_one(writer: RecordWriter, number: int, content: bytes, facts: bytes = b"") -> None:
    outgoing = writer.begin(number, bound(number))
    with source_of(content) as source:
        meter = Meter()
        outgoing.from_file(source, 0, len(content), meter)
        assert meter.moved == len(content)
    outgoing.end(facts)


def take_all(incoming: RecordIncoming, length: int | None = None) -> bytes:
    chunks: list[bytes] = []
    meter = Meter()
    received = incoming.to_chunks(lambda data: chunks.append(bytes(data)), length, meter)
    assert received == meter.moved == sum(map(len, chunks))
    return b"".join(chunks)


def parse_wire(data: bytes) -> list[tuple[int, int, bytes]]:
    """Flags, number and payload of each record."""
    found = []
    while data:
        flags, length, number = unpack_header(data)
        found.append((flags, number, data[8 : 8 + length]))
        assert len(data) >= 8 + length
        data = data[8 + length :]
    return found


def read(options: RecordOptions, data: bytes, take: Callable[[RecordReader], object]) -> object:
    """Have a reader read `data`, and the end of the connection behind it."""
    with pair() as (near, far):
        thread = in_thread(lambda: send_and_close(near, data))
        reader = RecordReader(far, options, KEY)
        try:
            return take(reader)
        finally:
            reader.close()
            far.close()
            thread.join()


def send_and_close(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the reader has seen enough


def compressible(size: int) -> bytes:
    return (b"All work and no play makes Jack a dull boy. " * (size // 44 + 1))[:size]


# -- round trips ------------------------------------------------------------------------------------------------------

SIZES = [0, 1, 255, 256, 4096, 65535, 65536, 65537, MAX_CONTENT - 34, MAX_CONTENT - 33, MAX_CONTENT, MAX_CONTENT + 1]
SIZES += [MAX_RAW, MAX_RAW + 1, 2 * MAX_RAW + 3]


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=name_of)
def test_files_of_all_sizes_arrive(options: RecordOptions) -> None:
    contents = [os.urandom(size) if number % 2 else compressible(size) for number, size in enumerate(SIZES)]
    with pair() as (near, far):
        writer, reader = RecordWriter(near, options, KEY), RecordReader(far, options, KEY)

        def send() -> None:
            for number, content in enumerate(contents, 1):
                send_one(writer, number, content, b"modify=%d;" % number)
            writer.flush()

        thread = in_thread(send)
        for number, content in enumerate(contents, 1):
            assert reader.next_number() == number
            incoming = reader.begin(number, bound(number))
            with tempfile.TemporaryFile() as target:
                length = len(content) if number % 3 else None
                assert incoming.to_file(target.fileno(), 5, length, Meter()) == len(content)
                assert incoming.finish()
                assert target.read() == (bytes(5) + content if content else b"")
            assert incoming.facts == (b"modify=%d;" % number if options.facts else b"")
            assert incoming.verified == options.digest
            assert incoming.ended
            assert incoming.written == len(content)
        thread.join()
        writer.close()
        reader.close()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ALL_OPTIONS),
    st.lists(st.tuples(st.integers(0, 3000), st.booleans(), st.booleans()), max_size=6),
    st.lists(st.integers(1, 400), min_size=1, max_size=300),
)
def test_every_split_gives_the_same(
    options: RecordOptions, files: list[tuple[int, bool, bool]], portions: list[int]
) -> None:
    choose = random.Random(1)
    contents = [choose.randbytes(size) if noise else compressible(size) for size, noise, _ in files]
    with pair(iter(portions)) as (near, far):
        writer, reader = RecordWriter(near, options, KEY), RecordReader(far, options, KEY)
        for number, (content, (_, _, aborted)) in enumerate(zip(contents, files, strict=True), 1):
            if aborted:
                outgoing = writer.begin(number, bound(number))
                outgoing.from_bytes(content, Meter())
                outgoing.abort("enough")
            else:
                send_one(writer, number, content, b"modify=1;")
        writer.flush()
        for number, (content, (_, _, aborted)) in enumerate(zip(contents, files, strict=True), 1):
            incoming = reader.begin(number, bound(number))
            if aborted:
                with pytest.raises(Aborted, match="enough"):
                    take_all(incoming)
            else:
                assert take_all(incoming) == content
                assert incoming.finish()
        assert reader.idle
        writer.close()
        reader.close()


def test_byte_by_byte() -> None:
    options = RecordOptions(crypt=True, compress=True, digest=True, sparse=True, facts=True)
    data = wire(options, lambda writer: send_one(writer, 1, compressible(2000), b"modify=1;"))
    with pair(itertools.repeat(1)) as (near, far):
        near.sendall(data)
        incoming = RecordReader(far, options, KEY).begin(1, bound(1))
        assert take_all(incoming) == compressible(2000)
        assert incoming.finish()


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=name_of)
def test_listings_carry_no_facts(options: RecordOptions) -> None:
    def say(writer: RecordWriter) -> None:
        outgoing = writer.begin(1, bound(1), facts=False)
        for line in range(1000):
            outgoing.from_bytes(b"line %d\r\n" % line, Meter())
        outgoing.end(b"not said")

    def take(reader: RecordReader) -> bytes:
        incoming = reader.begin(1, bound(1), facts=False)
        content = take_all(incoming)
        assert incoming.finish()
        assert incoming.facts == b""
        return content

    assert read(options, wire(options, say), take) == b"".join(b"line %d\r\n" % line for line in range(1000))


def test_small_files_share_a_system_call_and_records() -> None:
    sent: list[int] = []

    class Counting(socket.socket):
        def sendmsg(self, *arguments: object) -> int:  # type: ignore[override]
            sent.append(1)
            return super().sendmsg(*arguments)  # type: ignore[arg-type]

    near, far = socket.socketpair()
    counting = Counting(fileno=near.detach())
    with counting, far:
        prepare(counting, TIMEOUT)
        writer = RecordWriter(counting, PLAIN)
        for number in range(1, 11):
            send_one(writer, number, b"x" * 1000)
        assert not sent
        writer.flush()
        assert len(sent) == 1
        records = parse_wire(far.recv(1 << 20))
        assert [(flags, number) for flags, number, _ in records] == [(END, number) for number in range(1, 11)]


def test_what_an_empty_file_looks_like() -> None:
    digest = blake3.blake3(b"").digest()
    data = wire(RecordOptions(digest=True, facts=True), lambda writer: send_one(writer, 1, b"", b"a=1;"))
    assert data == pack_header(END, 38, 1) + b"a=1;" + b"\0\x04" + digest
    assert wire(PLAIN, lambda writer: send_one(writer, 1, b"")) == pack_header(END, 0, 1)


# -- compression ------------------------------------------------------------------------------------------------------


def test_what_shrinks_is_compressed_and_what_does_not_goes_raw() -> None:
    options = RecordOptions(compress=True)
    content = compressible(4 * MAX_CONTENT)
    data = wire(options, lambda writer: send_one(writer, 1, content))
    assert len(data) < len(content) // 50
    assert all(flags & ZSTD for flags, _, payload in parse_wire(data) if payload)
    noise = os.urandom(40 * MAX_CONTENT)
    data = wire(options, lambda writer: send_one(writer, 1, noise))
    assert len(noise) < len(data) < len(noise) + 1000
    assert not any(flags & ZSTD for flags, _, _ in parse_wire(data))


def test_compression_is_tried_again_after_noise() -> None:
    options = RecordOptions(compress=True)
    content = os.urandom(20 * MAX_CONTENT) + compressible(150 * MAX_CONTENT)
    data = wire(options, lambda writer: send_one(writer, 1, content))
    assert len(data) < 100 * MAX_CONTENT
    incoming: list[bytes] = []
    read(options, data, lambda reader: incoming.append(take_all(reader.begin(1))))
    assert incoming[0] == content


def bomb(size: int) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(bytes(size))


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (bomb(MAX_CONTENT + 1), "above the limit"),
        (bomb(1 << 28), "above the limit"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000), "size"),
        (zstandard.ZstdCompressor().compress(b"x" * 1000)[:-1], "decode"),
        (zstandard.ZstdCompressor().compress(b"x" * 1000) + b"more", "decode"),
        (zstandard.ZstdCompressor().compress(b"x" * 1000) * 2, "decode"),
        (zstandard.ZstdCompressor().compress(b""), "empty"),
        (b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd", "zstd|empty"),
        (b"junk, and nothing else but junk", "not a zstd frame"),
    ],
)
def test_bombs_and_garbled_frames_are_refused(frame: bytes, why: str) -> None:
    options = RecordOptions(compress=True)
    data = pack_header(ZSTD, len(frame), 1) + frame + pack_header(END, 0, 1)

    def take(reader: RecordReader) -> None:
        with pytest.raises(Garbled, match=why):
            take_all(reader.begin(1))
        assert reader.broken

    read(options, data, take)


# -- holes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sparse_file() -> Iterator[tuple[int, bytes]]:
    with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        file.truncate(20 * MAX_CONTENT)
        for place in (3 * MAX_CONTENT, 9 * MAX_CONTENT + 1234):
            os.pwrite(file.fileno(), b"data" * 3000, place)
        if os.fstat(file.fileno()).st_blocks * 512 > MAX_CONTENT:
            pytest.skip("this file system has no holes")
        yield file.fileno(), os.pread(file.fileno(), 20 * MAX_CONTENT, 0)


@pytest.mark.parametrize("options", [o for o in ALL_OPTIONS if o.sparse], ids=name_of)
def test_holes_stay_holes(options: RecordOptions, sparse_file: tuple[int, bytes]) -> None:
    source, content = sparse_file

    def say(writer: RecordWriter) -> None:
        outgoing = writer.begin(1, bound(1))
        meter = Meter()
        outgoing.from_file(source, 100, len(content) - 100, meter)
        assert meter.moved == len(content) - 100
        outgoing.end()

    data = wire(options, say)
    assert len(data) < MAX_CONTENT

    def take(reader: RecordReader) -> None:
        with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as target:
            incoming = reader.begin(1, bound(1))
            assert incoming.to_file(target.fileno(), 0, None, Meter()) == len(content) - 100
            assert incoming.finish()
            assert target.read() == content[100:]
            assert os.fstat(target.fileno()).st_blocks * 512 < MAX_CONTENT

    read(options, data, take)


def test_a_hole_wipes_what_was_there_and_nothing_else() -> None:
    options = RecordOptions(sparse=True)
    data = pack_header(0, 3, 1) + b"abc" + pack_header(HOLE, 8, 1) + pack_hole(200_000) + pack_header(END, 1, 1) + b"z"

    def take(reader: RecordReader) -> None:
        with tempfile.TemporaryFile() as target:
            target.write(b"x" * 300_000)
            target.flush()
            assert reader.begin(1).to_file(target.fileno(), 10, None, Meter()) == 200_004
            target.seek(0)
            assert target.read() == b"x" * 10 + b"abc" + bytes(200_000) + b"z" + b"x" * (300_000 - 200_014)

    read(options, data, take)


def test_a_hole_in_an_appended_file_is_written_out() -> None:
    options = RecordOptions(sparse=True)
    data = pack_header(HOLE, 8, 1) + pack_hole(100_000) + pack_header(END, 1, 1) + b"z"

    def take(reader: RecordReader) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"old")
            file.flush()
            target = os.open(file.name, os.O_WRONLY | os.O_APPEND)
            assert reader.begin(1).to_file(target, 3, None, Meter()) == 100_001
            os.close(target)
            file.seek(0)
            assert file.read() == b"old" + bytes(100_000) + b"z"

    read(options, data, take)


def test_writing_out_a_hole_can_be_stopped_and_is_counted() -> None:
    """A few bytes of a peer may stand for zeros without end."""
    data = pack_header(HOLE, 8, 1) + pack_hole(2**60) + pack_header(END, 0, 1)

    class StoppedMeanwhile(Meter):
        @property
        def cancelled(self) -> bool:
            return os.fstat(target).st_size > 3_000_000

        @cancelled.setter
        def cancelled(self, value: bool) -> None: ...

    def take(reader: RecordReader) -> None:
        incoming = reader.begin(1)
        with pytest.raises(Cancelled):
            incoming.to_file(target, 0, None, StoppedMeanwhile())
        assert incoming.written == os.fstat(target).st_size < 2**30

    with tempfile.NamedTemporaryFile() as file:
        target = os.open(file.name, os.O_WRONLY | os.O_APPEND)
        try:
            read(RecordOptions(sparse=True), data, take)
        finally:
            os.close(target)


def test_a_hole_no_file_can_have_is_refused_before_it_is_hashed() -> None:
    """Hashing its zeros would take decades."""
    data = pack_header(HOLE, 8, 1) + pack_hole(2**62) + pack_header(END, 32, 1) + bytes(32)

    def take(reader: RecordReader) -> None:
        with tempfile.TemporaryFile() as target, pytest.raises(OSError, match=r"too large|Invalid"):
            reader.begin(1).to_file(target.fileno(), 2**62, None, Meter())

    read(RecordOptions(sparse=True, digest=True), data, take)


def test_a_rate_is_not_for_holes() -> None:
    slept: list[float] = []
    limit = RateLimit(1_000_000, clock=lambda: sum(slept), sleep=slept.append)
    data = pack_header(HOLE, 8, 1) + pack_hole(2**40) + pack_header(END, 5, 1) + b"bytes"

    def take(reader: RecordReader) -> None:
        with tempfile.TemporaryFile() as target:
            assert reader.begin(1).to_file(target.fileno(), 0, None, Meter(), limit) == 2**40 + 5
        assert sum(slept) < 1

    read(RecordOptions(sparse=True), data, take)


@pytest.mark.parametrize("length", [0, 2**63, 2**64 - 1])
def test_impossible_holes_are_refused(length: int) -> None:
    data = pack_header(HOLE, 8, 1) + length.to_bytes(8, "big") + pack_header(END, 0, 1)

    def take(reader: RecordReader) -> None:
        with pytest.raises(Garbled, match="hole"):
            reader.begin(1).to_nowhere(None, Meter())

    read(RecordOptions(sparse=True), data, take)


def test_a_hole_beyond_what_was_announced_costs_nothing() -> None:
    data = pack_header(HOLE, 8, 1) + pack_hole(2**62) + pack_header(END, 32, 1) + bytes(32)

    def take(reader: RecordReader) -> None:
        incoming = reader.begin(1)
        assert incoming.to_nowhere(10, Meter()) == 10
        assert not incoming.finish()
        incoming.discard(Meter())

    read(RecordOptions(sparse=True, digest=True), data, take)


# -- what goes wrong with the source ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=name_of)
@pytest.mark.parametrize("size", [0, 1000, MAX_CONTENT + 7, MAX_RAW + 7])
def test_a_source_that_shrank_aborts_and_the_next_transfer_is_whole(options: RecordOptions, size: int) -> None:
    def say(writer: RecordWriter) -> None:
        outgoing = writer.begin(1, bound(1))
        with source_of(os.urandom(size)) as source, pytest.raises(SourceEnded):
            outgoing.from_file(source, 0, size + 300_000, Meter())
        outgoing.abort("the file shrank")
        assert not writer.broken
        send_one(writer, 2, b"next")

    def take(reader: RecordReader) -> None:
        with pytest.raises(Aborted, match="shrank"):
            take_all(reader.begin(1, bound(1)))
        incoming = reader.begin(2, bound(2))
        assert take_all(incoming) == b"next"
        assert incoming.finish()

    read(options, wire(options, say), take)


def test_a_source_that_cannot_be_read_aborts() -> None:
    directory = os.open("/", os.O_RDONLY)

    def say(writer: RecordWriter) -> None:
        for number, size in enumerate((100, 200_000), 1):
            outgoing = writer.begin(number, bound(number))
            with pytest.raises(OSError, match="directory"):
                outgoing.from_file(directory, 0, size, Meter())
            outgoing.abort("no file")

    try:
        data = wire(PLAIN, say)
    finally:
        os.close(directory)
    assert [(flags, payload) for flags, _, payload in parse_wire(data) if flags] == [(ABORT, b"no file")] * 2


@pytest.mark.parametrize("options", [PLAIN, RecordOptions(crypt=True), RecordOptions(compress=True)], ids=name_of)
def test_a_cancelled_sender_stops_between_records(options: RecordOptions) -> None:
    content = os.urandom(5 * MAX_RAW)

    def say(writer: RecordWriter) -> None:
        class Impatient(Meter):
            __slots__ = ()

            def __setattr__(self, name: str, value: object) -> None:
                super().__setattr__(name, value)
                if name == "moved" and isinstance(value, int) and value > MAX_RAW:
                    super().__setattr__("cancelled", True)

        outgoing = writer.begin(1, bound(1))
        with source_of(content) as source, pytest.raises(Cancelled):
            outgoing.from_file(source, 0, len(content), Impatient())
        outgoing.abort()
        send_one(writer, 2, b"next")

    def take(reader: RecordReader) -> None:
        incoming = reader.begin(1, bound(1))
        with pytest.raises(Aborted):
            incoming.to_nowhere(None, Meter())
        assert take_all(reader.begin(2, bound(2))) == b"next"

    read(options, wire(options, say), take)


def test_two_transfers_cannot_run_at_once() -> None:
    with pair() as (near, far):
        writer, reader = RecordWriter(near, PLAIN), RecordReader(far, PLAIN)
        writer.begin(1)
        reader.begin(1)
        with pytest.raises(RuntimeError):
            writer.begin(2)
        with pytest.raises(RuntimeError):
            reader.begin(2)
        with pytest.raises(RuntimeError):
            reader.next_number()


# -- reading: lengths, waits, failing targets -------------------------------------------------------------------------


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=name_of)
@pytest.mark.parametrize("size", [100, 3 * MAX_CONTENT])
def test_more_than_announced_shows_and_the_rest_can_be_discarded(options: RecordOptions, size: int) -> None:
    def say(writer: RecordWriter) -> None:
        send_one(writer, 1, compressible(size))
        send_one(writer, 2, b"next")

    def take(reader: RecordReader) -> None:
        incoming = reader.begin(1, bound(1))
        assert take_all(incoming, size - 1) == compressible(size - 1)
        assert not incoming.finish()
        incoming.discard(Meter())
        assert incoming.ended
        assert take_all(reader.begin(2, bound(2))) == b"next"

    read(options, wire(options, say), take)


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=name_of)
def test_a_target_that_fails_leaves_both_ends_in_step(options: RecordOptions) -> None:
    def say(writer: RecordWriter) -> None:
        send_one(writer, 1, compressible(3 * MAX_CONTENT))
        send_one(writer, 2, b"next")

    def take(reader: RecordReader) -> None:
        incoming = reader.begin(1, bound(1))
        full = os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(OSError, match="space"):
            incoming.to_file(full, 0, None, Meter())
        os.close(full)
        incoming.discard(Meter())
        assert take_all(reader.begin(2, bound(2))) == b"next"

    read(options, wire(options, say), take)


def test_a_reader_that_waits_can_be_woken() -> None:
    with pair() as (near, far):
        reader = RecordReader(far, PLAIN)
        meter = Meter()
        outcome: list[BaseException] = []
        waiting = threading.Event()
        reader._before_waiting = waiting.set

        def wait() -> None:
            try:
                reader.begin(1).to_nowhere(None, meter)
            except BaseException as error:
                outcome.append(error)

        thread = in_thread(wait)
        assert waiting.wait(TIMEOUT)
        reader.wake()  # means nothing without the meter
        meter.cancelled = True
        reader.wake()
        thread.join(TIMEOUT)
        assert [type(error) for error in outcome] == [Cancelled]
        assert not reader.broken
        near.sendall(pack_header(ABORT, 0, 1) + pack_header(END, 2, 2) + b"ok")
        assert reader._current is not None
        reader._current.discard(Meter())
        assert take_all(reader.begin(2)) == b"ok"
        reader.close()


def test_a_reader_is_not_closed_while_it_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of what wakes it would be that of another file by then, and written to."""
    with pair() as (near, _):
        reader = RecordReader(near, PLAIN)
        closing = threading.Thread(target=reader.close)

        def write(alarm: int, value: int) -> None:
            closing.start()
            closing.join(0.05)
            os.fstat(alarm)
            assert closing.is_alive()

        monkeypatch.setattr(os, "eventfd_write", write)
        reader.wake()
        closing.join()
        monkeypatch.undo()
        reader.wake()


def test_a_silent_peer_is_given_up() -> None:
    with pair() as (_, far):
        prepare(far, 0.05)
        with pytest.raises(StreamError, match="too long"):
            RecordReader(far, PLAIN).begin(1).to_nowhere(None, Meter())


def test_what_the_peer_may_wait_for_goes_first() -> None:
    with pair() as (near, far):
        order: list[str] = []
        writer = RecordWriter(near, PLAIN, before_waiting=lambda: order.append("before sending"))
        send_one(writer, 1, b"a")
        assert not order
        writer.flush()
        assert order == ["before sending"]
        reader = RecordReader(far, PLAIN, before_waiting=lambda: order.append("before receiving"))
        take_all(reader.begin(1))
        assert order == ["before sending", "before receiving"]


def test_a_rate_is_kept_on_both_sides() -> None:
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    limit = RateLimit(1_000_000, clock=lambda: now[0], sleep=sleep)
    data = wire(PLAIN, lambda writer: send_one(writer, 1, bytes(2_000_000)))

    def take(reader: RecordReader) -> None:
        with tempfile.TemporaryFile() as target:
            reader.begin(1).to_file(target.fileno(), 0, None, Meter(), limit)

    read(PLAIN, data, take)
    assert 1.7 < sum(slept) < 2.1
    with pair() as (near, far):
        thread = in_thread(lambda: far.recv(10_000_000, socket.MSG_WAITALL))
        writer = RecordWriter(near, RecordOptions(crypt=True), KEY)
        outgoing = writer.begin(1)
        with source_of(bytes(300_000)) as source:
            outgoing.from_file(source, 0, 300_000, Meter(), RateLimit(1_600_000))
        outgoing.end()
        writer.flush()
        near.shutdown(socket.SHUT_WR)
        thread.join()


# -- hostile peers: counted -------------------------------------------------------------------------------------------


def expect_failure(
    options: RecordOptions, data: bytes, content: bytes, errors: tuple[type[BaseException], ...]
) -> None:
    """Reading `data` must neither succeed nor hand on a byte that was not sent, up to where it fails."""

    def take(reader: RecordReader) -> None:
        taken = bytearray()
        incoming = reader.begin(1, bound(1))
        with pytest.raises(errors):  # noqa: PT012 - either may be the one that notices
            incoming.to_chunks(taken.extend, None, Meter())
            assert not incoming.finish(), "more came than was sent"
            raise Garbled
        if options.crypt:
            assert content.startswith(taken), "plain bytes of a record that does not verify were handed on"

    read(options, data, take)


@pytest.mark.parametrize("options", [PLAIN, *DIGESTS, *CRYPTS], ids=name_of)
def test_a_cut_anywhere_is_an_error(options: RecordOptions) -> None:
    content = compressible(700)
    data = wire(options, lambda writer: send_in_pieces(writer, content))
    for end in range(len(data)):
        expect_failure(options, data[:end], content, (ConnectionBroken,))


def send_in_pieces(writer: RecordWriter, content: bytes) -> None:
    """As several records."""
    outgoing = writer.begin(1, bound(1))
    for start in range(0, len(content), 300):
        outgoing.from_bytes(content[start : start + 300], Meter())
        outgoing._emit_held(0)
    outgoing.end(b"modify=1;")


@pytest.mark.parametrize("options", CRYPTS, ids=name_of)
def test_a_flipped_bit_anywhere_is_an_error(options: RecordOptions) -> None:
    content = compressible(700)
    data = wire(options, lambda writer: send_in_pieces(writer, content))
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        expect_failure(options, bytes(flipped), content, (Garbled, ConnectionBroken))


@pytest.mark.parametrize("options", DIGESTS, ids=name_of)
def test_a_flipped_bit_of_the_content_shows_in_the_digest(options: RecordOptions) -> None:
    content = compressible(700)
    data = wire(options, lambda writer: send_in_pieces(writer, content))
    place = 0
    for _, _, payload in parse_wire(data):
        place += 8
        for inside in range(len(payload)):
            flipped = bytearray(data)
            flipped[place + inside] ^= 1
            if options.facts and place + len(payload) - 32 - 11 <= place + inside < place + len(payload) - 32:
                continue  # facts are no part of it
            expect_failure(options, bytes(flipped), content, (Garbled, ConnectionBroken))
        place += len(payload)


@pytest.mark.parametrize("options", CRYPTS, ids=name_of)
def test_records_cannot_be_left_out_repeated_or_swapped(options: RecordOptions) -> None:
    content = compressible(900)
    data = wire(options, lambda writer: send_in_pieces(writer, content))
    records = [pack_header(flags, len(payload), number) + payload for flags, number, payload in parse_wire(data)]
    assert len(records) == 4
    for changed in itertools.chain(
        itertools.permutations(records), (records[:place] + records[place + 1 :] for place in range(4))
    ):
        if list(changed) != records:
            expect_failure(options, b"".join(changed), content, (NotAuthentic, ConnectionBroken))


def test_a_changed_command_line_does_not_verify() -> None:
    options = RecordOptions(crypt=True)
    data = wire(options, lambda writer: send_one(writer, 1, b"content"))

    def take(reader: RecordReader) -> None:
        with pytest.raises(NotAuthentic):
            take_all(reader.begin(1, bound(2)))
        assert reader.broken

    read(options, data, take)


def test_another_key_or_number_does_not_verify() -> None:
    options = RecordOptions(crypt=True)
    data = wire(options, lambda writer: send_one(writer, 1, b"content"))
    with pair() as (near, far):
        near.sendall(data)
        with pytest.raises(NotAuthentic):
            take_all(RecordReader(far, options, bytes(32)).begin(1, bound(1)))
    with pair() as (near, far):
        near.sendall(data[:7] + b"\x02" + data[8:])
        with pytest.raises(NotAuthentic):
            take_all(RecordReader(far, options, KEY).begin(2, bound(1)))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(ALL_OPTIONS), st.binary(max_size=300))
def test_junk_is_never_a_transfer_under_encryption(options: RecordOptions, junk: bytes) -> None:
    expect_failure(replace(options, crypt=True), junk, b"", (Garbled, ConnectionBroken))


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([o for o in ALL_OPTIONS if not o.crypt]),
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 3), st.binary(max_size=80), st.integers(-2, 2)), max_size=6),
    st.integers(0, 5),
)
def test_any_records_are_a_transfer_or_an_error(
    options: RecordOptions, records: list[tuple[int, int, bytes, int]], cut: int
) -> None:
    """Well-formed records with anything in them: an answer, our own error, or the end; never a hang or a crash."""
    data = b"".join(
        pack_header(flags << 28, max(0, len(payload) + more), number) + payload
        for flags, number, payload, more in records
    )

    def take(reader: RecordReader) -> None:
        incoming = reader.begin(1, bound(1))
        meter = Meter()
        try:
            incoming.to_nowhere(1 << 20, meter)
            if not incoming.finish():
                incoming.discard(meter)
        except StreamError:
            pass
        assert meter.moved <= 1 << 20

    read(options, data[: len(data) - cut], take)


def test_keys_that_are_used_up_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uftp.streams.records.sealing.MAX_RECORDS", 2)
    options = RecordOptions(crypt=True)
    with pair() as (near, far):
        writer = RecordWriter(near, options, KEY)
        for number in (1, 2):
            send_one(writer, number, b"content")
        with pytest.raises(ConnectionBroken, match="due"):
            send_one(writer, 3, b"content")
        assert writer.broken
        near.sendall(bytes(writer._out[: writer._filled]) + pack_header(END, 16, 3) + bytes(16))
        reader = RecordReader(far, options, KEY)
        for number in (1, 2):
            assert take_all(reader.begin(number, bound(number))) == b"content"
        with pytest.raises(Garbled, match="due"):
            take_all(reader.begin(3, bound(3)))


def test_the_trailer_of_a_record_larger_than_the_window() -> None:
    content = os.urandom(MAX_RAW - 200)
    digest = blake3.blake3(content).digest()
    payload = content + pack_trailer(b"modify=1;", digest)
    data = pack_header(END, len(payload), 1) + payload

    def take(reader: RecordReader) -> None:
        incoming = reader.begin(1)
        assert take_all(incoming) == content
        assert incoming.finish()
        assert incoming.facts == b"modify=1;"

    read(RecordOptions(digest=True, facts=True), data, take)

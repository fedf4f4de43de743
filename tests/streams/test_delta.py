"""Delta sync in memory: leader and follower against each other, the vectors, other programs, and hostile peers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uftp.protocol.rsync import BLOCK_SUM, RECORD, SUMS_HEADER
from uftp.streams import Cancelled, ConnectionBroken, Garbled, Meter, SourceEnded, Stalled, prepare
from uftp.streams.blocksums import PIECE, BlockIndex, RollingSearch, WeakSum, md5, suffixes_with, weak_sums
from uftp.streams.delta import DeltaResult, Leader, Match, follow, lead

VECTOR: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "rsync.json").read_text())
OLD = bytes((7 * i + 3 * (i >> 8)) & 255 for i in range(2500))
NEW = OLD[:600] + b"INSERTED" + OLD[600:]


def memory(content: bytes = b"") -> int:
    """A file in memory."""
    fd = os.memfd_create("delta")
    os.write(fd, content)
    return fd


def content_of(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def plain_weak(data: bytes) -> int:
    """By the definition."""
    a = sum(data)
    b = sum((len(data) - j) * x for j, x in enumerate(data))
    return (b & 0xFFFF) << 16 | a & 0xFFFF


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        for end in (one, other):
            prepare(end, 20)
        yield one, other


def both(
    lead_it: Callable[[socket.socket], object], follow_it: Callable[[socket.socket], object]
) -> tuple[object, object]:
    """Run two ends; each one's result, or its exception. A failed end closes, as its owner would."""
    results: list[object] = [None, None]
    with pair() as ends:

        def run(number: int, what: Callable[[socket.socket], object]) -> None:
            try:
                results[number] = what(ends[number])
            except Exception as error:
                results[number] = error
                ends[number].shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=run, args=(1, follow_it))
        thread.start()
        run(0, lead_it)
        thread.join()
    return results[0], results[1]


def sync(old: bytes, new: bytes, *, finer: bool = False) -> tuple[bytes, DeltaResult]:
    """Make `new` from `old`; what came out, and what it cost."""
    with contextlib.ExitStack() as stack:
        fds = [memory(old), memory(new), memory()]
        for fd in fds:
            stack.callback(os.close, fd)
        led, followed = both(
            lambda end: lead(end, fds[1], len(new), Meter()),
            lambda end: follow(end, fds[0], len(old), fds[2], Meter(), finer=finer),
        )
        assert isinstance(led, DeltaResult), led
        assert led == followed
        return content_of(fds[2]), led


def matches(old: bytes, new: bytes, block: int) -> list[Match]:
    """What a leader finds."""
    sums = b"".join(
        BLOCK_SUM.pack(plain_weak(old[at : at + block]), md5(old[at : at + block])) for at in range(0, len(old), block)
    )
    fd = memory(new)
    try:
        with pair() as (one, other):
            other.sendall(SUMS_HEADER.pack(block, -(-len(old) // block)) + sums)
            leader = Leader(one, fd, len(new), Meter())
            leader.read_sums()
            return list(leader.matches())
    finally:
        os.close(fd)


# -- sums ---------------------------------------------------------------------------------------------------------


def vector_block(text: str) -> bytes:
    known = {
        "'abc'": b"abc",
        "512 bytes (7*i+3)&255": bytes((7 * i + 3) & 255 for i in range(512)),
        "512 zero bytes": bytes(512),
        "700 bytes (251*i+17)&255": bytes((251 * i + 17) & 255 for i in range(700)),
    }
    return known[text] if text in known else bytes.fromhex(text)


@pytest.mark.parametrize("case", VECTOR["weak_checksums"], ids=lambda case: case["block"])
def test_sums_of_the_vectors(case: dict[str, Any]) -> None:
    data = vector_block(case["block"])
    total = WeakSum()
    total.update(data)
    assert total.value == case["weak"] == plain_weak(data)
    assert weak_sums(memoryview(data), len(data)) == [case["weak"]]
    assert BLOCK_SUM.pack(case["weak"], md5(data)).hex() == case["wire_8_bytes"] + case["strong_md5"]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6))
def test_weak_sums_in_pieces(parts: list[bytes]) -> None:
    total = WeakSum()
    for part in parts:
        total.update(part)
    assert total.value == plain_weak(b"".join(parts))


def test_weak_sum_of_large_bytes() -> None:
    """Nothing overflows where every sum is as large as can be."""
    data = b"\xff" * PIECE
    total = WeakSum()
    for _ in range(3):
        total.update(data)
    length = 3 * PIECE
    assert total.value == (255 * (length * (length + 1) // 2) & 0xFFFF) << 16 | 255 * length & 0xFFFF


@pytest.mark.parametrize("length", [600, 70_000, 400_000])
@pytest.mark.parametrize("block", [512, 513, 1000, 65_536 + 17])
def test_the_rolling_search_looks_at_every_place(length: int, block: int) -> None:
    data = random.Random(length + block).randbytes(length)
    count = max(0, length - block + 1)
    wanted = sorted({0, count // 3, count // 2, count - 1}) if count else []
    sums = b"".join(BLOCK_SUM.pack(plain_weak(data[at : at + block]), bytes(16)) for at in wanted)
    if not sums:
        sums = BLOCK_SUM.pack(1, bytes(16))
    fd = memory(data)
    try:
        for start in (0, count // 4):
            search = RollingSearch(fd, length, BlockIndex(block, sums))
            found: list[tuple[int, int]] = []
            behind = start
            for behind, some in search.chunks(start):
                found += some
                assert all(place < behind for place, _ in some)
            assert behind == max(start, count)
            assert [place for place, _ in found] == sorted({place for place, _ in found})
            assert {place for place in wanted if place >= start} <= {place for place, _ in found}
            for place, weak in found:
                assert weak == plain_weak(data[place : place + block])
    finally:
        os.close(fd)


def test_rolling_values_of_the_vector() -> None:
    rolling = VECTOR["rolling"]
    data = bytes.fromhex(rolling["data"])
    window = rolling["window"]
    assert [plain_weak(data[at : at + window]) for at in range(len(rolling["values"]))] == rolling["values"]
    fd = memory(data)
    try:
        for place, weak in enumerate(rolling["values"]):
            index = BlockIndex(window, BLOCK_SUM.pack(weak, bytes(16)))
            found = [hit for _, some in RollingSearch(fd, len(data), index).chunks(0) for hit in some]
            assert (place, weak) in found
    finally:
        os.close(fd)


@given(st.binary(min_size=1, max_size=400), st.integers(0, 399))
def test_ends_of_a_file_by_their_sum(data: bytes, start: int) -> None:
    start %= len(data)
    fd = memory(data)
    try:
        for length in {1, len(data) - start}:
            weak = plain_weak(data[len(data) - length :])
            assert length in list(suffixes_with(fd, start, len(data), weak))
    finally:
        os.close(fd)


def test_equal_blocks_are_found_by_the_first_or_the_preferred() -> None:
    sums = [BLOCK_SUM.pack(5, b"a" * 16), BLOCK_SUM.pack(5, b"b" * 16)] * 3
    index = BlockIndex(512, b"".join(sums))
    assert index.find(5, b"a" * 16) == 0
    assert index.find(5, b"b" * 16) == 1
    assert index.find(5, b"b" * 16, 3) == 3
    assert index.find(5, b"b" * 16, 2) == 1
    assert index.find(5, b"c" * 16) is None
    assert index.find(6, b"a" * 16) is None
    assert index.is_last(5, b"b" * 16)
    assert not index.is_last(5, b"a" * 16)


# -- both ends ----------------------------------------------------------------------------------------------------


def test_the_vector() -> None:
    assert matches(OLD, NEW, 512) == [Match(0, 0, 512), Match(1032, 2, 512), Match(1544, 3, 512), Match(2056, 4, 452)]
    made, result = sync(OLD, NEW)
    assert made == NEW
    assert hashlib.md5(made).hexdigest() == VECTOR["md5_new_file"]
    assert result == DeltaResult(2508, 520)


def test_the_follower_sends_what_the_vector_says_and_takes_either_leader() -> None:
    for leader in ("java_leader_records", "python_leader_records"):
        stream, place = b"", 0
        for record in VECTOR[leader]:
            length = record["literal_length"]
            stream += bytes.fromhex(record["header"]) + NEW[place : place + length]
            place += length + (min(512, 2500 - 512 * record["index"]) if record["index"] >= 0 else 0)
        if leader == "java_leader_records":
            assert stream[:48].hex() == VECTOR["java_leader_to_follower_first_48_bytes"]
        for step in (1, 7, 100, len(stream)):
            sent, made = scripted_leader(OLD, [stream[at : at + step] for at in range(0, len(stream), step)])
            assert sent.hex() == VECTOR["follower_to_leader_hex"]
            assert made == NEW


def scripted_leader(old: bytes, blocks: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Follow a leader that sends these blocks, come what may; what the follower sent, and made.

    Raises:
        Whatever the follower raised.
    """
    fds = [memory(old), memory()]

    def leader(end: socket.socket) -> bytes:
        header = end.recv(8, socket.MSG_WAITALL)
        sums = end.recv(24 * SUMS_HEADER.unpack(header)[1], socket.MSG_WAITALL)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for block in blocks:
                end.sendall(block)
            end.shutdown(socket.SHUT_WR)
        return header + sums

    try:
        sent, followed = both(leader, lambda end: follow(end, fds[0], len(old), fds[1], Meter()))
        if isinstance(followed, Exception):
            raise followed
        assert isinstance(sent, bytes)
        return sent, content_of(fds[1])
    finally:
        for fd in fds:
            os.close(fd)


RANDOM = random.Random(4).randbytes(300_000)


@pytest.mark.parametrize("finer", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "most_literal"),
    [
        (b"", b"", 0),
        (b"", RANDOM, 300_000),
        (RANDOM, b"", 0),
        (RANDOM, RANDOM, 0),
        (RANDOM, RANDOM[:100], 100),
        (RANDOM, RANDOM[-100:], 100),
        (RANDOM[:512], RANDOM[:512], 0),
        (RANDOM[:513], RANDOM[:513], 0),
        (RANDOM[:100], RANDOM[:100], 0),
        (RANDOM, RANDOM[1:], 600),
        (RANDOM, b"x" + RANDOM, 1),
        (RANDOM, RANDOM + b"x", 600),
        (RANDOM, RANDOM[150_000:] + RANDOM[:150_000], 1200),
        (RANDOM, RANDOM[:100_000] + b"changed" + RANDOM[100_007:], 600),
        (RANDOM, RANDOM + RANDOM, 600),
        (RANDOM + RANDOM, RANDOM, 600),
        (bytes(4096), bytes(4096), 0),
        (bytes(4100), bytes(4100), 0),
        (bytes(100_000), bytes(99_999), 511),
        (bytes(4096), bytes(1_000_000), 511),
        (bytes(1_000_000), bytes(4099), 600),
        (b"ab" * 50_000, b"ab" * 70_000 + b"a", 1200),
        (b"a" * 511 + b"b" + bytes(512) * 9, bytes(512) * 9 + b"a" * 511 + b"b", 0),
        (RANDOM, RANDOM[:1000] + bytes(65_537) + RANDOM[1000:], 66_600),
    ],
    ids=range(24),
)
def test_edits(old: bytes, new: bytes, most_literal: int, finer: bool) -> None:
    made, result = sync(old, new, finer=finer)
    assert made == new
    assert result.size == len(new)
    assert result.literal <= most_literal


edits = st.lists(
    st.tuples(st.sampled_from("ids"), st.integers(0, 10**6), st.integers(1, 3000), st.integers(0, 255)), max_size=5
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 20_000), st.sampled_from(["random", "zeros", "repeats"]), edits, st.booleans())
def test_any_edits(size: int, kind: str, changes: list[tuple[str, int, int, int]], finer: bool) -> None:
    old = {"random": RANDOM, "zeros": bytes(20_000), "repeats": RANDOM[:700] * 30}[kind][:size]
    new = bytearray(old)
    for what, place, length, byte in changes:
        place %= len(new) + 1
        if what == "i":
            new[place:place] = bytes([byte]) * length
        elif what == "d":
            del new[place : place + length]
        else:
            new[place : place + length] = bytes([byte]) * min(length, len(new) - place)
    made, result = sync(old, bytes(new), finer=finer)
    assert made == new
    assert result.literal <= len(new)


def test_blocks_larger_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of files of a thousand times that size."""
    monkeypatch.setattr("uftp.streams.delta.block_size", lambda size, *, finer: PIECE + 1000)
    old = np.random.default_rng(1).bytes(5 * PIECE + 77)
    made, result = sync(old, old[:10] + b"new" + old[10:])
    assert made == old[:10] + b"new" + old[10:]
    assert result.literal == PIECE + 1003


def test_the_exchange_however_it_is_cut() -> None:
    """A peer between the two that passes on what it gets in pieces of its own."""
    chance = random.Random(5)
    old = RANDOM[:60_000]
    new = old[:7000] + b"!" * 900 + old[8000:50_000] + old[:3000]
    for _ in range(10):
        fds = [memory(old), memory(new), memory()]
        try:
            with pair() as (leader, left), pair() as (right, follower):

                def relay(source: socket.socket, target: socket.socket) -> None:
                    while data := source.recv(chance.choice((1, 3, 11, 13, 4096))):
                        target.sendall(data)
                    target.shutdown(socket.SHUT_WR)

                def run_leader(end: socket.socket = leader, source: int = fds[1]) -> None:
                    lead(end, source, len(new), Meter())
                    end.shutdown(socket.SHUT_WR)

                threads = [
                    threading.Thread(target=relay, args=(left, right)),
                    threading.Thread(target=relay, args=(right, left)),
                    threading.Thread(target=run_leader),
                ]
                for thread in threads:
                    thread.start()
                follow(follower, fds[0], len(old), fds[2], Meter())
                follower.shutdown(socket.SHUT_WR)
                for thread in threads:
                    thread.join()
            assert content_of(fds[2]) == new
        finally:
            for fd in fds:
                os.close(fd)


# -- other programs' leaders, and hostile peers -------------------------------------------------------------------


def stale_window_leader(old: bytes, new: bytes, block: int) -> bytes:
    """A leader whose window keeps old bytes behind the end of the file, as the Java one: wrong on zeros."""
    known = {md5(old[at : at + block]): at // block for at in range(0, len(old) - block + 1, block)}
    out, place = b"", 0
    while place < len(new):
        window = new[place : place + block]
        if len(window) < block:
            window += new[place - (block - len(window)) : place]
        number = known.get(md5(window))
        if number is None:
            break
        out += RECORD.pack(number, 0)
        place += block
    rest = new[place:] or new[-1:]
    return out + RECORD.pack(-1, len(rest)) + rest


def test_a_leader_with_a_stale_window_makes_a_wrong_file_which_is_for_digests_to_find() -> None:
    for size in (4096, 4100):
        case = bytes(size)
        _, made = scripted_leader(case, [stale_window_leader(case, case, 512)])
        assert len(made) > size
        assert made != case


def test_a_long_literal_does_not_swallow_what_follows() -> None:
    literal = RANDOM[:100_003]
    stream = RECORD.pack(1, len(literal)) + literal + RECORD.pack(-1, 3) + b"end"
    assert scripted_leader(OLD, [stream])[1] == literal + OLD[512:1024] + b"end"


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (b"", ConnectionBroken),
        (RECORD.pack(0, 0), ConnectionBroken),
        (RECORD.pack(0, 0)[:7], ConnectionBroken),
        (RECORD.pack(-1, 100) + b"x" * 99, ConnectionBroken),
        (RECORD.pack(5, 0), Garbled),
        (RECORD.pack(-2, 0), Garbled),
        (RECORD.pack(0, -1), Garbled),
        (RECORD.pack(-1, 0) + b"more", Garbled),
    ],
)
def test_leaders_that_break_off_or_make_no_sense(stream: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        scripted_leader(OLD, [stream])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_junk_from_a_leader_is_an_error_or_a_file(junk: bytes) -> None:
    try:
        scripted_leader(OLD, [junk])
    except (ConnectionBroken, Garbled):
        return
    assert RECORD.pack(-1, 0)[:4] in junk


def scripted_follower(new: bytes, stream: bytes) -> object:
    """Lead a follower that sends this; the leader's result or exception."""
    fd = memory(new)

    def follower(end: socket.socket) -> None:
        end.sendall(stream)
        end.shutdown(socket.SHUT_WR)
        while end.recv(1 << 20):
            pass

    try:
        return both(lambda end: close_after(end, lead(end, fd, len(new), Meter())), follower)[0]
    finally:
        os.close(fd)


def close_after(end: socket.socket, result: DeltaResult) -> DeltaResult:
    end.shutdown(socket.SHUT_WR)
    return result


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (b"", ConnectionBroken),
        (SUMS_HEADER.pack(512, 2) + bytes(30), ConnectionBroken),
        (SUMS_HEADER.pack(512, -1), Garbled),
        (SUMS_HEADER.pack(1, 1) + bytes(24), Garbled),
        (SUMS_HEADER.pack(512, 2**31 - 1), Garbled),
        (SUMS_HEADER.pack(512, 0) + b"more", Garbled),
    ],
)
def test_followers_that_break_off_or_make_no_sense(stream: bytes, error: type[Exception]) -> None:
    assert isinstance(scripted_follower(NEW, stream), error)


def test_sums_that_seem_to_match_everywhere_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros, and a block whose weak sum is theirs and whose strong one is not: every place seems to match."""
    monkeypatch.setattr("uftp.streams.delta._FRUITLESS_LEAST", 1_000_000)
    hashed = 0

    def counted(self: Leader, place: int, length: int) -> bytes:
        nonlocal hashed
        hashed += length
        return bytes(16)

    monkeypatch.setattr(Leader, "_strong", counted)
    stream = SUMS_HEADER.pack(4096, 1) + BLOCK_SUM.pack(0, b"x" * 16)
    result = scripted_follower(bytes(400_000), stream)
    assert result == DeltaResult(400_000, 400_000)
    assert 400_000 < hashed < 8 * 400_000


def test_weak_sums_of_more_than_32_bits_find_nothing() -> None:
    block = RANDOM[:512]
    stream = SUMS_HEADER.pack(512, 1) + struct.pack(">q16s", plain_weak(block) | 1 << 40, bytes(16))
    assert scripted_follower(block, stream) == DeltaResult(512, 512)


def test_files_that_are_cut_meanwhile() -> None:
    fds = [memory(OLD), memory(NEW), memory()]
    try:
        led, followed = both(
            lambda end: lead(end, fds[1], len(NEW) + 5000, Meter()),
            lambda end: follow(end, fds[0], len(OLD), fds[2], Meter()),
        )
        assert isinstance(led, SourceEnded)
        assert isinstance(followed, ConnectionBroken)
        led, followed = both(
            lambda end: lead(end, fds[1], len(NEW), Meter()),
            lambda end: follow(end, fds[0], len(OLD) + 5000, fds[2], Meter()),
        )
        assert isinstance(led, ConnectionBroken)
        assert isinstance(followed, SourceEnded)
    finally:
        for fd in fds:
            os.close(fd)


def test_cancelled_on_either_side() -> None:
    for side in (0, 1):
        meters = [Meter(), Meter()]
        meters[side].cancelled = True
        fds = [memory(OLD), memory(NEW), memory()]
        try:
            results = both(
                lambda end, fds=fds, meters=meters: lead(end, fds[1], len(NEW), meters[0]),  # type: ignore[misc]
                lambda end, fds=fds, meters=meters: follow(end, fds[0], len(OLD), fds[2], meters[1]),  # type: ignore[misc]
            )
            assert isinstance(results[side], Cancelled)
            assert isinstance(results[1 - side], ConnectionBroken)
        finally:
            for fd in fds:
                os.close(fd)


def test_a_peer_that_stops_is_noticed() -> None:
    fd = memory(NEW)
    try:
        with pair() as (one, other):
            prepare(one, 0.05)
            with pytest.raises(Stalled):
                lead(one, fd, len(NEW), Meter())
            assert other.fileno() >= 0
    finally:
        os.close(fd)


def test_loading_it_before_a_fork_starts_no_thread() -> None:
    """The spawner of a data node forks, and must have one thread; other programs import nothing of it."""
    script = (
        "import os, sys; import uftp, uftp.streams, uftp.cli.main; assert 'numpy' not in sys.modules;"
        "from uftpd.session import table; assert 'numpy' not in sys.modules;"
        "from uftpd.data import spawner; assert 'numpy' in sys.modules;"
        "assert 'OPENBLAS_NUM_THREADS' not in os.environ;"
        "print(len(os.listdir('/proc/self/task')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr

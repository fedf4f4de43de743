"""The pumps over real sockets and files: what arrives, what stops them, and what each failure is called."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uftp.streams import (
    BLOCK,
    Cancelled,
    ConnectionBroken,
    Meter,
    RateLimit,
    SourceEnded,
    Stalled,
    StreamError,
    finish_sending,
    prepare,
    receive_bytes,
    receive_chunks,
    receive_file,
    receive_nowhere,
    send_bytes,
    send_file,
)

Pair = tuple[socket.socket, socket.socket]
CONTENT = bytes(range(256)) * 40
PATIENCE = 60.0  # seconds; no test waits that long unless it is about to fail
SO_MAX_PACING_RATE = 47


def _tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


@pytest.fixture(params=[_tcp_pair, socket.socketpair], ids=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two connected sockets, made ready for pumps."""
    near, far = request.param()
    with near, far:
        prepare(near, PATIENCE)
        prepare(far, PATIENCE)
        yield near, far


@pytest.fixture
def tcp_pair() -> Iterator[Pair]:
    near, far = _tcp_pair()
    with near, far:
        prepare(near, PATIENCE)
        prepare(far, PATIENCE)
        yield near, far


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "target", os.O_CREAT | os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def thread() -> Iterator[Callable[..., Future[object]]]:
    """Runs a function beside the test."""
    with ThreadPoolExecutor(2) as pool:
        yield pool.submit


def _all_of(fd: int) -> bytes:
    return os.pread(fd, 1 << 30, 0)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _moved_past(meter: Meter, count: int, running: Future[object]) -> None:
    """Wait, by looking, until a pump has moved more than `count` bytes."""
    while meter.moved <= count and not running.done():
        os.sched_yield()


# -- what arrives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"), [(0, len(CONTENT)), (0, 1), (5, 100), (len(CONTENT) - 1, 1), (100, 0), (len(CONTENT), 0)]
)
def test_a_range_of_a_file_arrives(pair: Pair, source: int, target: int, offset: int, length: int) -> None:
    sent, received = Meter(), Meter()
    send_file(source, offset, length, pair[0], sent)
    finish_sending(pair[0])
    assert receive_file(pair[1], target, 0, None, received) == length
    assert _all_of(target) == CONTENT[offset : offset + length]
    assert sent.moved == received.moved == length


def test_many_blocks_arrive(tcp_pair: Pair, tmp_path: Path, target: int, thread: Callable[..., Future[object]]) -> None:
    content = os.urandom(3 * BLOCK + 17)
    path = tmp_path / "large"
    path.write_bytes(content)
    with path.open("rb") as file:
        sending = thread(send_file, file.fileno(), 0, len(content), tcp_pair[0], Meter())
        assert receive_file(tcp_pair[1], target, 0, len(content), Meter()) == len(content)
        sending.result()
    assert _all_of(target) == content


def test_a_range_is_written_where_it_belongs_and_a_gap_reads_as_zeros(pair: Pair, target: int) -> None:
    os.pwrite(target, b"ABCDEFGHIJ", 0)
    send_bytes(b"xyz", pair[0], Meter())
    assert receive_file(pair[1], target, 4, 3, Meter()) == 3
    assert _all_of(target) == b"ABCDxyzHIJ"
    send_bytes(b"xyz", pair[0], Meter())
    assert receive_file(pair[1], target, 12, 3, Meter()) == 3
    assert _all_of(target) == b"ABCDxyzHIJ\0\0xyz"


def test_chunks_arrive_in_order_and_only_as_many_as_asked_for(pair: Pair) -> None:
    found = bytearray()
    send_bytes(CONTENT, pair[0], Meter())
    assert receive_chunks(pair[1], found.extend, 1000, Meter()) == 1000
    finish_sending(pair[0])
    assert receive_chunks(pair[1], found.extend, None, Meter()) == len(CONTENT) - 1000
    assert found == CONTENT


def test_data_behind_the_length_stays_in_the_connection(pair: Pair, target: int) -> None:
    send_bytes(b"firstsecond!", pair[0], Meter())
    assert receive_file(pair[1], target, 0, 5, Meter()) == 5
    assert receive_nowhere(pair[1], 6, Meter()) == 6
    finish_sending(pair[0])
    assert receive_bytes(pair[1], Meter(), max_bytes=10) == b"!"


def test_a_peer_that_closes_early_gives_fewer_bytes(pair: Pair, target: int) -> None:
    pair[0].sendall(b"short")
    finish_sending(pair[0])
    assert receive_file(pair[1], target, 0, 100, Meter()) == 5
    assert _all_of(target) == b"short"
    assert receive_nowhere(pair[1], 100, Meter()) == 0
    assert receive_bytes(pair[1], Meter(), max_bytes=10) == b""


@pytest.mark.parametrize("length", [0, 1, BLOCK, 2 * BLOCK + 1])
def test_zeros_and_nowhere(tcp_pair: Pair, length: int, thread: Callable[..., Future[object]]) -> None:
    zero, null = os.open("/dev/zero", os.O_RDONLY), os.open("/dev/null", os.O_RDWR)
    try:
        sending = thread(send_file, zero, 0, length, tcp_pair[0], Meter())
        assert receive_file(tcp_pair[1], null, 2**40, length, Meter()) == length
        sending.result()
        sending = thread(send_file, zero, 5, length, tcp_pair[0], Meter())
        assert receive_nowhere(tcp_pair[1], length, Meter()) == length
        sending.result()
    finally:
        os.close(zero)
        os.close(null)


def test_zeros_are_zeros(tcp_pair: Pair, target: int, thread: Callable[..., Future[object]]) -> None:
    with open("/dev/zero", "rb") as zero:
        sending = thread(send_file, zero.fileno(), 0, 70_000, tcp_pair[0], Meter())
        receive_file(tcp_pair[1], target, 0, 70_000, Meter())
        sending.result()
    assert _all_of(target) == bytes(70_000)


def test_a_file_the_kernel_cannot_send_from_is_copied(
    pair: Pair, source: int, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no sendfile here")

    monkeypatch.setattr(os, "sendfile", refuse)
    meter = Meter()
    send_file(source, 10, 5000, pair[0], meter)
    assert meter.moved == 5000
    assert receive_file(pair[1], target, 0, 5000, Meter()) == 5000
    assert _all_of(target) == CONTENT[10:5010]
    with pytest.raises(SourceEnded):
        send_file(source, len(CONTENT) - 5, 10, pair[0], Meter())


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=3000), max_size=8))
def test_listings_arrive_whole(chunks: list[bytes]) -> None:
    near, far = socket.socketpair()
    with near, far:
        for chunk in chunks:
            send_bytes(chunk, near, Meter())
        finish_sending(near)
        assert receive_bytes(far, Meter(), max_bytes=24_000) == b"".join(chunks)


def test_a_listing_above_its_limit_is_refused(pair: Pair) -> None:
    send_bytes(b"x" * 11, pair[0], Meter())
    finish_sending(pair[0])
    with pytest.raises(StreamError, match="more than 10 bytes"):
        receive_bytes(pair[1], Meter(), max_bytes=10)


def test_the_end_of_data_is_no_error_when_the_peer_has_gone(tcp_pair: Pair) -> None:
    _reset(tcp_pair[1])
    with pytest.raises(ConnectionBroken):
        receive_bytes(tcp_pair[0], Meter(), max_bytes=10)
    finish_sending(tcp_pair[0])
    finish_sending(tcp_pair[0])


# -- what stops a pump --------------------------------------------------------------------------------------------


def test_a_source_that_is_too_short(pair: Pair, source: int) -> None:
    meter = Meter()
    with pytest.raises(SourceEnded, match="7 bytes early"):
        send_file(source, 100, len(CONTENT) - 93, pair[0], meter)
    assert meter.moved == len(CONTENT) - 100


def test_a_source_that_shrinks_while_it_is_sent(
    tcp_pair: Pair, tmp_path: Path, thread: Callable[..., Future[object]]
) -> None:
    length = 64 * BLOCK  # more than the sockets hold
    with (tmp_path / "sparse").open("wb+") as file:
        file.truncate(length)
        sending = thread(send_file, file.fileno(), 0, length, tcp_pair[0], Meter())
        assert receive_nowhere(tcp_pair[1], 1, Meter()) == 1
        file.truncate(1)
        sending.add_done_callback(lambda _: finish_sending(tcp_pair[0]))
        assert receive_nowhere(tcp_pair[1], None, Meter()) < length
        with pytest.raises(SourceEnded):
            sending.result()


RECEIVERS = {
    "file": lambda connection, target, meter: receive_file(connection, target, 0, None, meter),
    "chunks": lambda connection, target, meter: receive_chunks(connection, lambda _: None, None, meter),
    "nowhere": lambda connection, target, meter: receive_nowhere(connection, None, meter),
    "bytes": lambda connection, target, meter: receive_bytes(connection, meter, max_bytes=100),
}
Receiver = Callable[[socket.socket, int, Meter], object]
receivers = pytest.mark.parametrize("receive", RECEIVERS.values(), ids=RECEIVERS.keys())


@receivers
def test_a_reset_is_no_end_of_data(tcp_pair: Pair, target: int, receive: Receiver) -> None:
    tcp_pair[0].sendall(b"some")
    _reset(tcp_pair[0])
    with pytest.raises(ConnectionBroken):
        receive(tcp_pair[1], target, Meter())


@receivers
def test_a_silent_peer_stalls_a_receiver(pair: Pair, target: int, receive: Receiver) -> None:
    prepare(pair[1], 0.02)
    pair[0].sendall(b"some")
    meter = Meter()
    with pytest.raises(Stalled):
        receive(pair[1], target, meter)
    assert meter.moved == 4


def test_a_peer_that_does_not_read_stalls_a_sender(pair: Pair, tmp_path: Path) -> None:
    prepare(pair[0], 0.02)
    with (tmp_path / "sparse").open("wb+") as file:
        file.truncate(64 * BLOCK)
        with pytest.raises(Stalled):
            send_file(file.fileno(), 0, 64 * BLOCK, pair[0], Meter())
    with pytest.raises(Stalled):
        send_bytes(bytes(64 * BLOCK), pair[0], Meter())


def test_a_peer_that_closes_breaks_a_sender(tcp_pair: Pair, tmp_path: Path) -> None:
    tcp_pair[1].close()
    with (tmp_path / "sparse").open("wb+") as file:
        file.truncate(64 * BLOCK)
        with pytest.raises(ConnectionBroken):
            send_file(file.fileno(), 0, 64 * BLOCK, tcp_pair[0], Meter())
    with pytest.raises(ConnectionBroken):
        send_bytes(b"x", tcp_pair[0], Meter())


@receivers
def test_a_receiver_is_cancelled_while_it_waits(
    pair: Pair, target: int, receive: Receiver, thread: Callable[..., Future[object]]
) -> None:
    meter = Meter()
    receiving = thread(receive, pair[1], target, meter)
    pair[0].sendall(b"some")
    _moved_past(meter, 3, receiving)
    meter.cancelled = True
    pair[1].shutdown(socket.SHUT_RDWR)
    # A shut-down socket reads as an end of data: it must not pass for one.
    with pytest.raises(Cancelled):
        receiving.result(PATIENCE)


@receivers
def test_a_receiver_is_cancelled_between_blocks(pair: Pair, target: int, receive: Receiver) -> None:
    meter = Meter()
    meter.cancelled = True
    with pytest.raises(Cancelled):
        receive(pair[1], target, meter)


def test_a_sender_is_cancelled_while_it_waits(
    pair: Pair, tmp_path: Path, thread: Callable[..., Future[object]]
) -> None:
    meter = Meter()
    with (tmp_path / "sparse").open("wb+") as file:
        file.truncate(256 * BLOCK)
        sending = thread(send_file, file.fileno(), 0, 256 * BLOCK, pair[0], meter)
        assert receive_nowhere(pair[1], 10, Meter()) == 10
        meter.cancelled = True
        pair[0].shutdown(socket.SHUT_RDWR)
        with pytest.raises(Cancelled):
            sending.result(PATIENCE)
        with pytest.raises(Cancelled):
            send_file(file.fileno(), 0, 1, pair[0], meter)
        with pytest.raises(Cancelled):
            send_bytes(b"x", pair[0], meter)


# -- errors of files ----------------------------------------------------------------------------------------------


def test_a_full_disk_is_the_files_own_error(pair: Pair) -> None:
    pair[0].sendall(b"some")
    with open("/dev/full", "wb") as full, pytest.raises(OSError, match="No space") as raised:
        receive_file(pair[1], full.fileno(), 0, 4, Meter())
    assert raised.value.errno == errno.ENOSPC
    assert not isinstance(raised.value, StreamError)


LIMITED = """
import os, resource, socket, sys
from uftp.streams import Meter, receive_file
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
near, far = socket.socketpair()
near.sendall(bytes(5000))
try:
    receive_file(far, os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY), 0, 5000, Meter())
except OSError as error:
    print(error.errno)
"""


@pytest.mark.slow
def test_a_file_above_the_limit_of_its_process_ends_short_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "target"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout.strip() == str(errno.EFBIG)
    assert path.stat().st_size == 3000


def test_a_directory_cannot_be_sent(pair: Pair, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="directory") as raised:
            send_file(fd, 0, 10, pair[0], Meter())
    finally:
        os.close(fd)
    assert raised.value.errno == errno.EISDIR


# -- sockets and rates --------------------------------------------------------------------------------------------


def test_a_prepared_connection_waits_has_no_delay_and_notices_dead_peers() -> None:
    near, far = _tcp_pair()
    with near, far:
        near.settimeout(0)
        prepare(near, 1.5)
        assert near.getblocking()
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            seconds, microseconds = struct.unpack("ll", near.getsockopt(socket.SOL_SOCKET, option, 16))
            assert (seconds, round(microseconds, -5)) == (1, 500_000)


def _pacing(connection: socket.socket) -> int:
    rate: int = struct.unpack("Q", connection.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8))[0]
    return rate


def test_a_limited_sender_is_paced_and_a_lifted_limit_is_forgotten(tcp_pair: Pair, source: int) -> None:
    near, far = tcp_pair
    limit = RateLimit(10**9)
    send_file(source, 0, 10, near, Meter(), limit)
    assert _pacing(near) == 10**9
    limit.rate = 0
    send_file(source, 0, 10, near, Meter(), limit)
    assert _pacing(near) == 2**64 - 1
    assert receive_nowhere(far, 20, Meter()) == 20


def test_a_limited_receiver_takes_its_time(tcp_pair: Pair, target: int) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    limit = RateLimit(1000, clock=lambda: now[0], sleep=sleep)
    tcp_pair[0].sendall(bytes(20_000))
    assert receive_file(tcp_pair[1], target, 0, 20_000, Meter(), limit) == 20_000
    assert now[0] == pytest.approx(20, abs=0.2)

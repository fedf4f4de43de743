"""Transfers that are one record: `put_file` and `take_file` say and take what the long way does."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uftp.protocol.record_mode import RecordOptions
from uftp.protocol.records import END, binding, pack_header, pack_trailer
from uftp.streams import ConnectionBroken, Meter, RateLimit, prepare
from uftp.streams.records import LARGEST_FILE, RecordReader, RecordWriter

KEY = bytes(range(32))
LINE = binding(b"RETR /a", 0, None)
FACTS = b"modify=20231114221320.123456789;UNIX.mode=0640;"
OPTIONS = [
    RecordOptions(crypt=crypt, digest=digest, facts=facts) for crypt, digest, facts in product((False, True), repeat=3)
]


@contextmanager
def peers(
    options: RecordOptions, *, reading: RecordOptions | None = None
) -> Iterator[tuple[RecordWriter, RecordReader]]:
    left, right = socket.socketpair()
    with left, right:
        for end in (left, right):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            prepare(end, 30.0)
        writer, reader = RecordWriter(left, options, KEY), RecordReader(right, reading or options, KEY)
        try:
            yield writer, reader
        finally:
            writer.close()
            reader.close()


def put(writer: RecordWriter, number: int, path: Path, *, size: int | None = None) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        wanted = os.fstat(fd).st_size if size is None else size
        return writer.put_file(number, LINE, fd, wanted, FACTS)
    finally:
        os.close(fd)


def take_long(reader: RecordReader, number: int, size: int) -> tuple[bytes, bytes]:
    incoming = reader.begin(number, LINE)
    content = bytearray()
    assert incoming.to_chunks(content.extend, size, Meter()) == size
    assert incoming.finish()
    return bytes(content), incoming.facts


def fill(reader: RecordReader) -> None:
    while reader.top_up():  # what was sent on a pair of sockets is there
        pass


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
@pytest.mark.parametrize("size", [0, 1, 4096, 70_000, LARGEST_FILE])
def test_what_is_put_is_understood_on_the_long_way(options: RecordOptions, size: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(os.urandom(size))
    with peers(options) as (writer, reader):
        for number in (1, 2):
            assert put(writer, number, path)
            while not writer.send_some():
                reader.top_up(50)
            assert writer.sent == writer.said
            assert take_long(reader, number, size) == (path.read_bytes(), FACTS if options.facts else b"")


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_what_was_said_at_length_is_taken(options: RecordOptions) -> None:
    contents = [b"", b"1", os.urandom(5000), os.urandom(200_000)]
    with peers(options) as (writer, reader):
        for number, content in enumerate(contents, 1):
            outgoing = writer.begin(number, LINE)
            outgoing.from_bytes(content, Meter())
            outgoing.end(FACTS)
        writer.flush()
        fill(reader)
        for number, content in enumerate(contents, 1):
            for _ in range(2):
                taken = reader.take_file(number, LINE)
                assert taken is not None
                assert bytes(taken[0]) == content
                assert taken[1] == (FACTS if options.facts else b"")
                if number % 2 == 0:
                    break
                reader.give_back_file()
            else:
                assert take_long(reader, number, len(content)) == (content, FACTS if options.facts else b"")
        assert reader.idle


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    options=st.sampled_from(OPTIONS),
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 12_000), max_size=6),
)
def test_however_they_arrive(options: RecordOptions, sizes: list[int], cuts: list[int], tmp_path: Path) -> None:
    path = tmp_path / "a"
    left, right = socket.socketpair()
    with left, right:
        sender, reader = RecordWriter(left, options, KEY), None
        said = bytearray()
        for number, size in enumerate(sizes, 1):
            path.write_bytes(bytes([number]) * size)
            assert put(sender, number, path)
        sender.flush()
        left.shutdown(socket.SHUT_WR)
        while data := right.recv(1 << 20):
            said += data
    with peers(options) as (writer, reader):
        number, start = 1, 0
        for end in [*sorted(cut for cut in cuts if cut < len(said)), len(said)]:
            writer._connection.sendall(said[start:end])
            start = end
            fill(reader)
            while number <= len(sizes) and (taken := reader.take_file(number, LINE)) is not None:
                assert bytes(taken[0]) == bytes([number]) * sizes[number - 1]
                number += 1
            assert number > len(sizes) or reader.awaits_file(number)
        assert number == len(sizes) + 1
        assert reader.idle


def wrong_digest(number: int) -> bytes:
    payload = b"12345" + pack_trailer(FACTS, bytes(32))
    return pack_header(END, len(payload), number) + payload


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (wrong_digest(1), "digests"),
        (wrong_digest(2), "transfer 2 where 1 is due"),
        (pack_header(END, 20, 1) + bytes(20), "digest"),
        (pack_header(END, 34, 1) + b"\xff" * 34, "facts"),
        (pack_header(0, 5, 1) + b"12345" + wrong_digest(1), "digests"),
    ],
)
def test_what_is_wrong_is_left_for_the_long_way_to_say(said: bytes, why: str) -> None:
    with peers(RecordOptions(digest=True, facts=True)) as (writer, reader):
        writer._connection.sendall(said)
        fill(reader)
        assert reader.take_file(1, LINE) is None
        assert not reader.awaits_file(1)
        with pytest.raises(Exception, match=why):
            take_long(reader, 1, 5 + (len(said) > 100) * 5)


def test_a_record_changed_on_the_way_is_not_taken(tmp_path: Path) -> None:
    options = RecordOptions(crypt=True, digest=True, facts=True)
    (tmp_path / "a").write_bytes(b"12345")
    with peers(options) as (writer, reader):
        assert put(writer, 1, tmp_path / "a")
        writer._out[12] ^= 1
        writer.flush()
        fill(reader)
        assert reader.take_file(1, LINE) is None
        assert not reader.broken
        with pytest.raises(Exception, match="tag does not verify"):
            take_long(reader, 1, 5)
    with peers(options) as (writer, reader):
        assert put(writer, 1, tmp_path / "a")
        writer.flush()
        fill(reader)
        assert reader.take_file(1, binding(b"RETR /b", 0, None)) is None


def test_a_file_of_another_size_is_not_put(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with peers(RecordOptions(digest=True)) as (writer, _):
        assert not put(writer, 1, tmp_path / "a", size=6)
        assert writer.said == 0
        assert put(writer, 1, tmp_path / "a", size=4)


def test_compression_has_its_say(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5000))
    with peers(RecordOptions(compress=True)) as (writer, reader):
        assert not put(writer, 1, tmp_path / "a")
        outgoing = writer.begin(1, LINE)
        outgoing.from_bytes(bytes(5000), Meter())
        outgoing.end()
        writer.flush()
        fill(reader)
        assert reader.take_file(1, LINE) is None
        assert take_long(reader, 1, 5000) == (bytes(5000), b"")


def test_a_rate_of_before_holds_no_longer(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    with left, right:
        writer = RecordWriter(left, RecordOptions())
        fd = os.open(tmp_path / "a", os.O_RDONLY)
        outgoing = writer.begin(1)
        outgoing.from_file(fd, 0, 5, Meter(), RateLimit(1_000_000))
        outgoing.end()
        assert writer.put_file(2, b"", fd, 5, b"")
        assert left.getsockopt(socket.SOL_SOCKET, 47) & 0xFFFF_FFFF == 0xFFFF_FFFF  # SO_MAX_PACING_RATE
        os.close(fd)


def test_the_end_of_the_connection_is_seen() -> None:
    with peers(RecordOptions()) as (writer, reader):
        assert not reader.top_up()
        assert not reader.top_up(1)
        writer._connection.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionBroken):
            reader.top_up()
        assert reader.broken

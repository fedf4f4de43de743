"""The journal of a copy: what it says after any kind of end is true, and never more than was on the disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.transfer import journal as journals
from uftp.transfer.journal import DoneRange, Journal, done_key, file_key, latest, sweep
from uftp.transfer.pieces import split_rest

KEY = file_key(b"source", b"target")
DIGEST = bytes(range(32))


def opened(directory: Path, *identity: bytes) -> Journal:
    journal = Journal.open(directory, identity or (b"a",), {"note": "x"})
    assert journal is not None
    return journal


def nothing() -> None:
    pass


def test_what_was_flushed_is_there_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert not first.was_there
    first.begin(KEY, b"10 20", b".part")
    first.note_range(KEY, DoneRange(0, 5, DIGEST), nothing)
    first.note_range(KEY, DoneRange(5, 3, b""), nothing)
    first.note_done(lambda: [done_key(b"f", b"1 2")])
    first.flush()
    first.note_range(KEY, DoneRange(8, 1, DIGEST), nothing)
    first.close(remove=False)  # as after kill -9: what was not flushed is lost
    second = opened(tmp_path)
    assert second.was_there
    assert second.about["note"] == "x"
    assert second.unfinished[KEY].ranges == [DoneRange(0, 5, DIGEST), DoneRange(5, 3, b"")]
    assert (second.unfinished[KEY].fingerprint, second.unfinished[KEY].part) == (b"10 20", b".part")
    assert second.is_done(done_key(b"f", b"1 2"))
    assert not second.is_done(done_key(b"f", b"1 3"))
    second.end(KEY)
    second.flush()
    second.close(remove=False)
    assert opened(tmp_path).unfinished == {}


def test_a_range_is_recorded_behind_its_bytes_only(tmp_path: Path) -> None:
    steps: list[str] = []
    first = opened(tmp_path)
    path = next(tmp_path.iterdir())
    before = path.stat().st_size

    def sync() -> None:
        assert path.stat().st_size == before
        steps.append("synced")

    def broken() -> None:
        raise OSError(5, "input/output error")

    other = file_key(b"other", b"target")
    first.begin(KEY, b"", b"p")
    first.begin(other, b"", b"q")
    first.note_range(KEY, DoneRange(0, 5, b""), sync)
    first.note_range(other, DoneRange(0, 5, b""), broken)
    first.note_done(lambda: [bytes(16)])
    first.flush(broken)
    first.close(remove=False)
    again = opened(tmp_path)
    assert steps == ["synced"]
    assert again.unfinished.keys() == {KEY}
    assert not again.knows_done_files


def test_one_process_at_a_time_and_nothing_left_at_the_end(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert Journal.open(tmp_path, (b"a",), {}) is None
    other = opened(tmp_path, b"b")
    other.close(remove=True)
    first.close(remove=True)
    first.close(remove=True)
    assert list(tmp_path.iterdir()) == []
    opened(tmp_path).close(remove=True)


def records() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        journal = opened(Path(name))
        journal.begin(KEY, b"10 20", b".part")
        for number in range(4):
            journal.note_range(KEY, DoneRange(number * 5, 5, DIGEST), nothing)
            journal.note_done(lambda: [bytes(16), DIGEST[:16]])
            journal.flush()
        journal.close(remove=False)
        return next(Path(name).iterdir()).read_bytes()


RECORDS = records()


@given(cut=st.integers(0, len(RECORDS)), junk=st.binary(max_size=60), flipped=st.integers(0, len(RECORDS) - 1))
def test_a_torn_or_damaged_end_costs_what_was_in_it(cut: int, junk: bytes, flipped: int) -> None:
    for data in (RECORDS[:cut] + junk, RECORDS[:flipped] + bytes([RECORDS[flipped] ^ 4]) + RECORDS[flipped + 1 :]):
        with tempfile.TemporaryDirectory() as name:
            journal = opened(Path(name))
            path = next(Path(name).iterdir())
            journal.close(remove=False)
            path.write_bytes(data)
            again = opened(Path(name))
            ranges = again.unfinished[KEY].ranges if KEY in again.unfinished else []
            assert ranges == [DoneRange(number * 5, 5, DIGEST) for number in range(len(ranges))]
            # What is written behind it can be read.
            again.begin(file_key(b"x", b"y"), b"1", b"z")
            again.note_range(file_key(b"x", b"y"), DoneRange(0, 1, b""), nothing)
            again.flush()
            again.close(remove=False)
            assert len(opened(Path(name)).unfinished[file_key(b"x", b"y")].ranges) == 1


def test_the_last_ranges_are_looked_at() -> None:
    size = 100 * 1024 * 1024
    ranges = [DoneRange(number * size, size, b"") for number in range(5)]
    assert latest(ranges) == [ranges[4], ranges[3]]
    assert latest([DoneRange(0, 1 << 40, b"")]) == [DoneRange(0, 1 << 40, b"")]


@given(
    length=st.integers(1, 1000),
    size=st.integers(1, 300),
    there=st.lists(st.tuples(st.integers(0, 999), st.integers(1, 300)), max_size=8),
)
def test_what_is_missing_is_all_that_is_sent(length: int, size: int, there: list[tuple[int, int]]) -> None:
    there = [(offset, min(count, length - offset)) for offset, count in there if offset < length]
    known = {byte for offset, count in there for byte in range(offset, offset + count)}
    sent = [
        byte
        for piece in split_rest(length, size, there)
        for byte in range(piece.offset, piece.offset + (piece.length or 0))
    ]
    assert sorted(sent) == sorted(set(range(length)) - known)
    assert all(0 < (piece.length or 0) <= size for piece in split_rest(length, size, there))


def test_forgotten_journals_go(tmp_path: Path) -> None:
    opened(tmp_path).close(remove=False)
    opened(tmp_path, b"b").close(remove=False)
    old = next(tmp_path.iterdir())
    os.utime(old, (0, 0))
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert not old.exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_STATE_HOME": "/x"}, Path("/x/uftp/copies")),
        ({"XDG_STATE_HOME": "relative", "HOME": "/"}, Path("/.local/state/uftp/copies")),
        ({"HOME": "/nonexistent"}, None),
        ({}, None),
    ],
)
def test_where_journals_are(variables: dict[str, str], expected: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert journals.journal_directory() == expected

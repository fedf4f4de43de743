"""What goes where, and how it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.errors import UsageError
from uftp.transfer.options import ByteRange, CopyOptions, parse_byte_range, parse_size
from uftp.transfer.pieces import SMALLEST_PIECE, Splitting, split
from uftp.transfer.plan import Root, place


def file(path: bytes) -> Root:
    return Root(path, path.rpartition(b"/")[2], is_dir=False)


def tree(path: bytes) -> Root:
    return Root(path, path.rpartition(b"/")[2], is_dir=True)


@pytest.mark.parametrize(
    ("roots", "target", "is_dir", "exists", "into", "relative"),
    [
        ([file(b"/a/x")], b"/t", True, True, True, [b"x"]),
        ([file(b"/a/x")], b"/t", False, True, False, [b""]),
        ([file(b"/a/x")], b"/t", False, False, False, [b""]),
        ([file(b"/a/x")], b"/t/", False, False, True, [b"x"]),
        ([file(b"/a/x"), file(b"/a/y")], b"/t", True, True, True, [b"x", b"y"]),
        ([tree(b"/a/d")], b"/t", True, True, True, [b"d"]),
        ([tree(b"/a/d")], b"/t", False, False, True, [b""]),
        ([tree(b"/a/d/")], b"/t", True, True, True, [b""]),
        ([file(b"x")], b"", True, True, True, [b"x"]),
    ],
)
def test_the_rules_of_cp(
    roots: list[Root], target: bytes, is_dir: bool, exists: bool, into: bool, relative: list[bytes]
) -> None:
    placement = place(roots, target=target, target_is_dir=is_dir, target_exists=exists)
    assert placement.into_directory == into
    assert [item.relative for item in placement.items] == relative


@pytest.mark.parametrize(
    ("roots", "is_dir", "exists"),
    [
        ([file(b"a/x"), file(b"b/x")], True, True),
        ([file(b"a/x"), tree(b"b/x")], True, True),
        ([file(b"a/x"), file(b"a/x")], True, True),
        ([tree(b"a/"), file(b"x")], True, True),
        ([file(b"x"), tree(b"a/")], True, True),
        ([file(b"a/x"), file(b"b/y")], False, False),
        ([file(b"a/x"), file(b"b/y")], False, True),
        ([tree(b"a/d")], False, True),
    ],
)
def test_what_is_refused(roots: list[Root], is_dir: bool, exists: bool) -> None:
    with pytest.raises(UsageError):
        place(roots, target=b"/t", target_is_dir=is_dir, target_exists=exists)


names = st.binary(min_size=1, max_size=3).filter(lambda name: b"/" not in name)


@given(st.lists(st.tuples(names, st.booleans()), min_size=1, max_size=6))
def test_no_two_sources_ever_get_one_name(found: list[tuple[bytes, bool]]) -> None:
    roots = [Root(b"%d/" % number + name, name, is_dir) for number, (name, is_dir) in enumerate(found)]
    try:
        placement = place(roots, target=b"/t", target_is_dir=True, target_exists=True)
    except UsageError:
        assert len({root.name for root in roots}) < len(roots)
    else:
        assert len({item.relative for item in placement.items}) == len(roots)


@given(st.integers(0, 2**50), st.integers(1, 2**44))
def test_pieces_cover_all_and_nothing_twice(length: int, size: int) -> None:
    size = max(size, length // 1000, 1)
    pieces = list(split(length, size))
    assert len(pieces) == max(1, -(-length // size))
    end = 0
    for piece in pieces:
        assert piece.offset == end
        assert piece.length is not None
        end += piece.length
    assert end == length


@given(
    st.integers(0, 2**50),
    st.one_of(st.none(), st.integers(1, 64)),
    st.one_of(st.none(), st.integers(0, 2**40)),
)
def test_pieces_are_never_small(length: int, threads: int | None, threshold: int | None) -> None:
    size = Splitting.of(CopyOptions(threads=threads, split_threshold=threshold)).piece_size(length)
    assert size >= min(max(1, length), SMALLEST_PIECE)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2**50), st.one_of(st.none(), st.integers(1, 64)))
def test_workers_stay_within_what_was_asked_for(pieces: int, files: int, size: int, threads: int | None) -> None:
    workers = Splitting.of(CopyOptions(threads=threads)).workers(pieces=pieces, files=files, size=size)
    assert 1 <= workers <= max(1, min(pieces, threads or 4))


def test_small_jobs_have_one_session() -> None:
    automatic = Splitting.of(CopyOptions())
    assert automatic.workers(pieces=20, files=20, size=50_000_000) == 1
    assert automatic.piece_size(100_000_000) == 100_000_000
    assert Splitting.of(CopyOptions(threads=1)).piece_size(10**12) == 10**12


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-1023", ByteRange(0, 1023)),
        ("1k-2m", ByteRange(1024, 2 * 1024**2)),
        ("5-", ByteRange(5, None)),
        ("-9", ByteRange(0, 9)),
        ("0-9-p", ByteRange(0, 9, in_place=True)),
        ("3--p", ByteRange(3, None, in_place=True)),
    ],
)
def test_byte_ranges(text: str, expected: ByteRange) -> None:
    assert parse_byte_range(text) == expected


@pytest.mark.parametrize("text", ["", "-", "5", "a-b", "9-3", "0-9-x", "0-1-p-p", "1.5-2", "-1--p-"])
def test_what_is_no_byte_range(text: str) -> None:
    with pytest.raises(UsageError):
        parse_byte_range(text)


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    for parse in (parse_size, parse_byte_range):
        try:
            parse(text)
        except UsageError as error:
            assert "\n" not in str(error)  # noqa: PT017 -- both outcomes are right


def test_ranges_within_a_file() -> None:
    assert ByteRange(10, 19).within(100) == (10, 10)
    assert ByteRange(10, 200).within(100) == (10, 90)
    assert ByteRange(10, None).within(100) == (10, 90)
    assert ByteRange(0, 99).within(None) == (0, 100)
    for one, size in ((ByteRange(101, None), 100), (ByteRange(0, None), None)):
        with pytest.raises(UsageError):
            one.within(size)

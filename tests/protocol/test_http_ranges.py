"""Conditions and ranges of HTTP: tables from RFC 9110, and any junk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol.http_ranges import Decision, Representation, content_range, decide, format_date, parse_date

NOW = 1_700_000_100
THERE = Representation(size=1000, mtime=1_700_000_000, etag='"abc"')
CHANGED = "Tue, 14 Nov 2023 22:13:20 GMT"
BEFORE = "Tue, 14 Nov 2023 22:13:19 GMT"
WHOLE = Decision(200)


def test_dates() -> None:
    assert format_date(THERE.mtime) == CHANGED
    assert parse_date(CHANGED) == THERE.mtime
    assert parse_date("Tuesday, 14-Nov-23 22:13:20 GMT") == THERE.mtime
    assert parse_date("Tue Nov 14 22:13:20 2023") == THERE.mtime
    assert format_date(-5) == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert format_date(10**18).endswith("9999 23:59:59 GMT")


@pytest.mark.parametrize(
    ("header", "decision"),
    [
        ("bytes=0-0", Decision(206, ((0, 1),))),
        ("bytes=0-", Decision(206, ((0, 1000),))),
        ("bytes=500-", Decision(206, ((500, 500),))),
        ("bytes=-1", Decision(206, ((999, 1),))),
        ("bytes=-5000", Decision(206, ((0, 1000),))),
        ("bytes=990-5000", Decision(206, ((990, 10),))),
        ("Bytes = 1-2", Decision(206, ((1, 2),))),
        ("bytes=0-1, ,4-5,", Decision(206, ((0, 2), (4, 2)))),
        ("bytes=4-5,0-1", Decision(206, ((4, 2), (0, 2)))),
        ("bytes=0-1,5000-", Decision(206, ((0, 2),))),
        ("bytes=1000-", Decision(416)),
        ("bytes=-0", Decision(416)),
        ("bytes=5000-6000,7000-", Decision(416)),
        ("bytes=2-1", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=1-2x", WHOLE),
        ("bytes=+1-2", WHOLE),
        ("bytes=1_0-20", WHOLE),
        ("bytes=\u0661-\u0662", WHOLE),
        ("lines=1-2", WHOLE),
        ("bytes=" + "0-," * 3, WHOLE),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(65)), WHOLE),
        ("bytes=" + "1" * 30 + "-", WHOLE),
        ("bytes=" + "0-0," * 5000, WHOLE),
    ],
)
def test_ranges(header: str, decision: Decision) -> None:
    assert decide("GET", {"range": header}, THERE, NOW) == decision
    assert decide("HEAD", {"range": header}, THERE, NOW) == WHOLE


def test_an_empty_object_has_no_range() -> None:
    assert decide("GET", {"range": "bytes=0-"}, Representation(0, 0, '"e"'), NOW) == Decision(416)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-match": '"abc"'}, 200),
        ({"if-match": '"x", "abc"'}, 200),
        ({"if-match": "*"}, 200),
        ({"if-match": 'W/"abc"'}, 412),
        ({"if-match": '"x"'}, 412),
        ({"if-match": "junk"}, 412),
        ({"if-match": '"abc"', "if-unmodified-since": BEFORE}, 200),
        ({"if-unmodified-since": BEFORE}, 412),
        ({"if-unmodified-since": CHANGED}, 200),
        ({"if-unmodified-since": "junk"}, 200),
        ({"if-none-match": '"abc"'}, 304),
        ({"if-none-match": 'W/"abc"'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"x"'}, 200),
        ({"if-none-match": '"x"', "if-modified-since": CHANGED}, 200),
        ({"if-modified-since": CHANGED}, 304),
        ({"if-modified-since": BEFORE}, 200),
        ({"range": "bytes=0-0", "if-none-match": '"abc"'}, 304),
        ({"range": "bytes=0-0", "if-range": '"abc"'}, 206),
        ({"range": "bytes=0-0", "if-range": '"x"'}, 200),
        ({"range": "bytes=0-0", "if-range": 'W/"abc"'}, 200),
        ({"range": "bytes=0-0", "if-range": CHANGED}, 206),
        ({"range": "bytes=0-0", "if-range": BEFORE}, 200),
        ({"range": "bytes=0-0", "if-range": "junk"}, 200),
        ({"range": "bytes=5000-", "if-range": '"x"'}, 200),
    ],
)
def test_conditions(headers: dict[str, str], status: int) -> None:
    assert decide("GET", headers, THERE, NOW).status == status


def test_a_date_of_this_very_second_does_not_vouch_for_a_piece() -> None:
    headers = {"range": "bytes=0-0", "if-range": CHANGED}
    assert decide("GET", headers, THERE, THERE.mtime) == WHOLE


NAMES = ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
TEXT = st.text(alphabet=st.sampled_from('bytes=0123456789-, "W/*abc')) | st.text(max_size=50)


@given(st.dictionaries(st.sampled_from(NAMES), TEXT), st.integers(0, 2000))
def test_any_headers_are_answered_with_what_is_there(headers: dict[str, str], size: int) -> None:
    decision = decide("GET", headers, Representation(size, 5, '"e"'), NOW)
    assert decision.status in (200, 206, 304, 412, 416)
    assert bool(decision.ranges) == (decision.status == 206)
    for first, length in decision.ranges:
        assert 0 <= first < first + length <= size
    assert sum(length for _, length in decision.ranges) <= size


@given(st.text(max_size=70))
def test_any_text_is_a_date_or_none(text: str) -> None:
    assert parse_date(text) is None or isinstance(parse_date(text), int)


def test_the_range_of_a_piece() -> None:
    assert content_range(2, 3, 10) == "bytes 2-4/10"

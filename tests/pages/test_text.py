"""How names, sizes and times look on a page."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftpd.auth.pages.text import exact_size, human_size, is_plain, time_markup, visible, visible_markup

HIDDEN = "\u202e\u2066\u200f\u200b\ufeff\u00ad\x1b\r\n\t\x7f\x85\u2028\ue000\U000e0041\u00a0\u3000"
NAMES = st.text(st.characters(exclude_characters="\0/"), max_size=60) | st.binary(max_size=40).map(
    lambda name: name.decode("utf-8", "surrogateescape")
)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("data.csv", "data.csv"),
        ("überblick → 概要.pdf", "überblick → 概要.pdf"),
        ("evil\u202egpj.exe", "evil[U+202E]gpj.exe"),
        ("two\nlines\tand\r", "two[\\n]lines[\\t]and[\\r]"),
        ("\x1b[31mred", "[\\x1B][31mred"),
        (b"latin-\xfc".decode("utf-8", "surrogateescape"), "latin-[\\xFC]"),
        ("a\u00a0b", "a[U+00A0]b"),
        ("👩\u200d👩", "👩\u200d👩"),
        ("tag\U000e0041", "tag[U+E0041]"),
    ],
)
def test_what_is_hidden_in_a_name_is_shown(name: str, shown: str) -> None:
    assert visible(name) == shown


@given(NAMES)
def test_nothing_hidden_is_left(name: str) -> None:
    shown = visible(name)
    shown.encode()  # no surrogates
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown if c not in "\u200c\u200d")
    assert is_plain(shown)
    assert is_plain(name) == (shown == name)


@given(NAMES | st.text("<>&\"'/=abc" + HIDDEN))
def test_a_name_is_text_and_not_markup(name: str) -> None:
    markup = str(visible_markup(name))
    inner = re.fullmatch(r'<bdi dir="ltr">(.*)</bdi>', markup, re.DOTALL)
    assert inner is not None
    rest = inner[1].replace('<span class="code">', "").replace("</span>", "")
    assert not set(rest) & set("<>\"'")


@pytest.mark.parametrize(
    ("count", "human", "exact"),
    [
        (0, "0 B", "0 bytes"),
        (1, "1 B", "1 byte"),
        (999, "999 B", "999 bytes"),
        (1000, "1.0 kB", "1\u202f000 bytes"),
        (999_949, "999.9 kB", "999\u202f949 bytes"),
        (999_950, "1.0 MB", "999\u202f950 bytes"),
        (73_400_320_123, "73.4 GB", "73\u202f400\u202f320\u202f123 bytes"),
        (10**18, "1.0 EB", "1" + "\u202f000" * 6 + " bytes"),
        (2**64, "18.4 EB", "18\u202f446\u202f744\u202f073\u202f709\u202f551\u202f616 bytes"),
    ],
)
def test_sizes(count: int, human: str, exact: str) -> None:
    assert (human_size(count), exact_size(count)) == (human, exact)


def test_a_time_is_in_utc_until_the_script_has_run() -> None:
    assert str(time_markup(1763856000.9)) == (
        '<time datetime="2025-11-23T00:00:00Z" title="2025-11-23 00:00:00 UTC">2025-11-23 00:00 '
        '<span class="utc">UTC</span></time>'
    )


@pytest.mark.parametrize("seconds", [-1e30, 1e30, float("nan"), float("inf"), -62135596801, 253402300800])
def test_a_time_no_calendar_has_is_left_out(seconds: float) -> None:
    assert str(time_markup(seconds)) == ""


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_time_can_be_shown(seconds: float) -> None:
    assert str(time_markup(seconds)).startswith(("<time ", ""))

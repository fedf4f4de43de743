"""File names: any bytes survive NAMES PCT and quotes; only sayable ones go without."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol.names import is_part_name, is_sayable, part_name, pct_decode, pct_encode, quote, unquote


@given(st.binary())
def test_any_name_survives_percent_encoding(name: bytes) -> None:
    encoded = pct_encode(name)
    assert pct_decode(encoded) == name
    assert all(0x21 <= byte <= 0x7E for byte in encoded), "must stand in a line, blanks at its ends included"


@given(st.binary())
def test_any_path_survives_quotes(path: bytes) -> None:
    assert unquote(quote(path) + b" directory created") == path


@given(st.binary())
def test_any_junk_decodes_to_something(text: bytes) -> None:
    pct_decode(text)
    unquote(text)
    unquote(b'"' + text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"a%20b", b"a b"),
        (b"%c3%B6", "ö".encode()),
        (b"100%", b"100%"),
        (b"%zz%4", b"%zz%4"),
        (b"%2541", b"%41"),
        (b"%0A%00", b"\n\0"),
    ],
)
def test_percent_decoding(text: bytes, name: bytes) -> None:
    assert pct_decode(text) == name


def test_percent_encoding_says_what_it_must_and_no_more() -> None:
    assert pct_encode(b" a%~/\x7f\xff\n") == b"%20a%25~/%7F%FF%0A"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b'"/a"', b"/a"),
        (b'"/a" is the current directory', b"/a"),
        (b'"/a ""b"""', b'/a "b"'),
        (b'""', b""),
        (b'"', b""),
        (b'"/no end', b"/no end"),
        (b"/bare", b"/bare"),
    ],
)
def test_unquoting(text: bytes, path: bytes) -> None:
    assert unquote(text) == path


@pytest.mark.parametrize(
    ("name", "sayable"),
    [(b"a b", True), (b" \xff\xe4", True), (b"a\nb", False), (b"\r", False), (b"\x7f", False), (b"a\0", False)],
)
def test_names_with_control_characters_cannot_be_said(name: bytes, sayable: bool) -> None:
    assert is_sayable(name) is sayable


def test_part_names_are_known_again_and_others_are_not() -> None:
    name = part_name(bytes(range(8)))
    assert name == b".uftp-0001020304050607.part"
    assert is_part_name(name)
    for other in (b"x" + name, name + b"x", name + b"\n", name.upper(), b".uftp-.part", b".uftp-00.part"):
        assert not is_part_name(other)

"""Lines of the control connection: ends, limits, Telnet sequences, and any cut of the bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol import LineTooLong
from uftp.protocol.lines import MAX_LINE_BYTES, LineReader, split_command, strip_telnet

Event = bytes | str


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


def _events(
    pieces: list[bytes], *, max_bytes: int = MAX_LINE_BYTES, telnet: bool = False, many: bool = False
) -> list[Event]:
    reader = LineReader(max_bytes=max_bytes, telnet=telnet)
    events: list[Event] = []
    for piece in pieces:
        reader.receive_data(piece)
        while True:
            try:
                lines = reader.next_lines() if many else [reader.next_line()]
            except LineTooLong:
                events.append("too long")
                continue
            if not lines or lines[0] is None:
                break
            events += [line for line in lines if line is not None]
    return events


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"NOOP\r\n", [b"NOOP"]),
        (b"NOOP\n", [b"NOOP"]),
        (b"\r\n\n", [b"", b""]),
        (b"a\rb\r\n", [b"a\rb"]),
        (b"a\r\r\n", [b"a\r"]),
        (b"RETR  two blanks \r\nQUIT", [b"RETR  two blanks "]),
        (b"STOR \xff\xfe\xc3\xb6\n", [b"STOR \xff\xfe\xc3\xb6"]),
        (b"no end", []),
    ],
)
def test_lines_end_with_crlf_or_lf(data: bytes, lines: list[bytes]) -> None:
    assert _events([data]) == lines
    assert _events([data[i : i + 1] for i in range(len(data))]) == lines


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"").removesuffix(b"\r"))), st.booleans())
def test_what_is_joined_comes_apart(lines: list[bytes], crlf: bool) -> None:
    end = b"\r\n" if crlf else b"\n"
    assert _events([b"".join(line + end for line in lines)]) == lines


@given(
    st.lists(st.sampled_from([b"x" * 9, b"x", b"\n", b"\r\n", b"\r", b"\xff\xf4", b"\xff", b"\xf2"])).map(b"".join),
    st.lists(st.integers(min_value=0)),
    st.booleans(),
)
def test_any_cut_gives_the_same_lines_and_the_same_refusals(data: bytes, cuts: list[int], telnet: bool) -> None:
    whole = _events([data], max_bytes=10, telnet=telnet)
    assert _events(_pieces(data, cuts), max_bytes=10, telnet=telnet) == whole
    assert _events([data], max_bytes=10, telnet=telnet, many=True) == whole
    assert _events(_pieces(data, cuts), max_bytes=10, telnet=telnet, many=True) == whole
    assert all(len(event) <= 10 for event in whole if isinstance(event, bytes))


def test_a_long_line_is_refused_once_and_the_next_one_is_read() -> None:
    reader = LineReader(max_bytes=10)
    for _ in range(1000):
        reader.receive_data(b"x" * 10)
        assert reader.next_line() is None
        assert len(reader) <= 20, "an endless line must not pile up"
    reader.receive_data(b"\nNOOP\n")
    with pytest.raises(LineTooLong, match="10 bytes"):
        reader.next_line()
    assert reader.next_line() == b"NOOP"
    assert reader.next_line() is None


def test_many_single_bytes_and_many_lines_are_read_in_linear_time() -> None:
    # Quadratic work would take minutes on either.
    reader = LineReader(max_bytes=10**7)
    for _ in range(100_000):
        reader.receive_data(b"x")
        assert reader.next_line() is None
    reader.receive_data(b"\n" + b"y\n" * 100_000)
    assert reader.next_line() == b"x" * 100_000
    assert sum(1 for _ in iter(reader.next_line, None)) == 100_000


def test_the_rest_is_handed_over_and_forgotten() -> None:
    reader = LineReader()
    reader.receive_data(b"PASS x\r\nSYST\r\nFE")
    assert reader.next_line() == b"PASS x"
    assert len(reader) == 8
    assert reader.take_rest() == b"SYST\r\nFE"
    assert len(reader) == 0
    assert reader.take_rest() == b""
    reader.receive_data(b"QUIT\n")
    assert reader.next_line() == b"QUIT"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"\xff\xf4\xff\xf2ABOR", b"ABOR"),  # IAC IP, IAC DM
        (b"\xff\xf4\xf2ABOR", b"ABOR"),  # the IAC before the Data Mark went as urgent data
        (b"\xff\xfb\x01\xff\xfe\x18NOOP", b"NOOP"),  # WILL ECHO, DONT TERMINAL-TYPE
        (b"RETR a\xff\xffb", b"RETR a\xffb"),
        (b"RETR a\xffb", b"RETR a\xffb"),  # an unescaped byte of a name
        (b"RETR \xff", b"RETR \xff"),
        (b"RETR \xf2", b"RETR \xf2"),
        (b"\xff\xfb", b""),
        (b"", b""),
    ],
)
def test_telnet_sequences_go_and_names_stay(line: bytes, expected: bytes) -> None:
    assert strip_telnet(line) == expected
    assert _events([line + b"\r\n"], telnet=True) == [expected]


@given(st.binary().map(lambda name: b"RETR " + name))
def test_a_name_with_its_bytes_doubled_as_telnet_asks_survives(line: bytes) -> None:
    assert strip_telnet(line.replace(b"\xff", b"\xff\xff")) == line


@given(st.binary())
def test_stripping_any_junk_never_fails_and_never_grows(line: bytes) -> None:
    assert len(strip_telnet(line)) <= len(line)


@pytest.mark.parametrize(
    ("line", "verb", "argument"),
    [
        (b"NOOP", "NOOP", b""),
        (b"noop ", "NOOP", b""),
        (b"Retr  two blanks ", "RETR", b" two blanks "),
        (b"STOR \xff\n", "STOR", b"\xff\n"),
        (b"", "", b""),
        (b"\xe4 x", "�", b"x"),
    ],
)
def test_a_command_splits_at_its_first_blank(line: bytes, verb: str, argument: bytes) -> None:
    assert split_command(line) == (verb, argument)

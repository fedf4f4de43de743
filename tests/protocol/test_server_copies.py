"""What is said of copies between servers reads as it was written, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol import ProtocolError
from uftp.protocol.replies import ReplyReader, multi_line, reply
from uftp.protocol.server_copies import (
    LEGACY_COPY,
    MAX_ID,
    CopyError,
    CopyStatus,
    CopyWords,
    format_copy_arguments,
    format_copy_error,
    format_copy_started,
    format_copy_status,
    format_copy_words,
    format_errors_end,
    format_host_port,
    parse_abort_answer,
    parse_abort_arguments,
    parse_copy_arguments,
    parse_copy_error,
    parse_copy_id,
    parse_copy_status,
    parse_copy_words,
    parse_errors_arguments,
    parse_errors_end,
    parse_host_port,
    parse_status_arguments,
)

NAMES = st.binary(min_size=1, max_size=40)
COUNTS = st.integers(0, 2**63 - 1)
FOUR = (b"a", b"b", b"h:1", b"s")


# -- arguments


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (b"'a' 'b' 'h:1' 's'", FOUR),
        (b"a b h:1 s", FOUR),
        (b"  a\tb  h:1 s ", FOUR),
        (b'"a" b "h:1" s', FOUR),
        (b"'with blank' 'b' 'h:1' 's'", (b"with blank", *FOUR[1:])),
        (b'"a \\"quote\\" \\x" b h:1 s', (b'a "quote" \\x', *FOUR[1:])),
        (b"a\\ b b h:1 s", (b"a b", *FOUR[1:])),
        (b"'it'\\''s' b h:1 s", (b"it's", *FOUR[1:])),
        # Programs put quotes around whatever it is; the shell would see other words, or none.
        (b"'it's' 'b' 'h:1' 's'", (b"it's", *FOUR[1:])),
        (b"'it's' 'b's' 'h:1' 's'", (b"it's", b"b's", *FOUR[2:])),
        (b"'it's here' 'b' 'h:1' 's'", (b"it's here", *FOUR[1:])),
        # The older server splits at every blank.
        (b"it's b h:1 s", (b"it's", *FOUR[1:])),
        (b"'a b h:1 s", FOUR),
        ("'ä' \xff h:1 s".encode("latin-1"), (b"\xe4", b"\xff", *FOUR[2:])),
    ],
)
def test_forms_of_arguments(argument: bytes, words: tuple[bytes, ...]) -> None:
    assert parse_copy_arguments(argument, pct=False) == words


@pytest.mark.parametrize("argument", [b"", b"a", b"a b", b"a b c", b"a b c d e", b"'a b'", b"'' b h:1 s", b"'", b'"'])
@pytest.mark.parametrize("pct", [False, True])
def test_other_numbers_of_words_are_refused(argument: bytes, pct: bool) -> None:
    with pytest.raises(ProtocolError):
        parse_copy_arguments(argument, pct=pct)


@given(st.lists(NAMES, min_size=4, max_size=4))
def test_any_words_are_read_back_when_names_are_encoded(words: list[bytes]) -> None:
    said = format_copy_arguments(words, pct=True)
    assert parse_copy_arguments(said, pct=True) == tuple(words)
    assert said.isascii()
    assert b"\n" not in said


@given(st.lists(NAMES, min_size=2, max_size=4))
def test_words_are_read_back_as_they_are(words: list[bytes]) -> None:
    if any(set(word) & {0, 10, 13} for word in words):
        with pytest.raises(ProtocolError):
            format_copy_arguments(words, pct=False)
    else:
        said = format_copy_arguments(words, pct=False)
        assert parse_copy_arguments(said, pct=False, count=len(words)) == tuple(words)


@given(st.binary(max_size=60), st.booleans(), st.integers(1, 4))
def test_junk_gives_words_or_our_own_error(argument: bytes, pct: bool, count: int) -> None:
    try:
        words = parse_copy_arguments(argument, pct=pct, count=count)
    except ProtocolError:
        return
    assert len(words) == count
    assert all(words)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"host:21", ("host", 21)),
        (b"192.0.2.1:65535", ("192.0.2.1", 65535)),
        (b"[::1]:21", ("::1", 21)),
        (b"[2001:db8::1]:64434", ("2001:db8::1", 64434)),
    ],
)
def test_hosts_and_ports(text: bytes, place: tuple[str, int]) -> None:
    assert parse_host_port(text) == place
    assert format_host_port(*place) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"host",
        b"host:",
        b":21",
        b"host:0",
        b"host:65536",
        b"host:-1",
        b"host:2 1",
        b"::1:21",
        b"[::1]",
        b"[]:21",
        b"h\xe4st:21",
        b"ho st:21",
        b"ho\x00st:21",
        b"h" * 256 + b":21",
        b"host:0x15",
        b"host:\xb221",
    ],
)
def test_what_is_no_host_and_port(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_host_port(text)


# -- words


@given(
    st.builds(
        CopyWords,
        trees=st.just(True),
        recursive=st.booleans(),
        preserve=st.booleans(),
        encrypt=st.booleans(),
        compress=st.booleans(),
        verify=st.booleans(),
        resume=st.booleans(),
        logins=st.integers(1, 100),
        sessions=st.integers(0, 64),
        rate=st.integers(0, 2**62),
        named=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=256),
    )
)
def test_words_on_how_to_copy_are_read_back(words: CopyWords) -> None:
    assert parse_copy_words(format_copy_words(words)) == words
    assert parse_copy_words(format_copy_words(words).lower()) == replace(words, named=words.named.lower())


@pytest.mark.parametrize("name", ["two words", "\u00fc", "line\nbreak", "x" * 257])
def test_a_name_that_cannot_be_said_is_left_out(name: str) -> None:
    assert format_copy_words(CopyWords(trees=True, named=name)) == b"TREES"


def test_no_words_are_the_legacy_form() -> None:
    assert parse_copy_words(b"") == LEGACY_COPY == CopyWords()
    assert format_copy_words(LEGACY_COPY) == b""


@pytest.mark.parametrize(
    "argument",
    [
        b"FOO",
        b"TREES FOO",
        b"TREES TREES",
        b"LOGINS",
        b"LOGINS=",
        b"LOGINS=0",
        b"LOGINS=101",
        b"LOGINS=-1",
        b"RATE=1k",
        b"TREES=1",
        b"RECURSIVE",
        b"VERIFY",
        b"NO-VERIFY=1",
        b"SESSIONS=65",
        b"RATE=\xb2",
        b"RATE=5 RATE=5",
        b"NAMED",
        b"NAMED=",
        b"NAMED=a NAMED=a",
        b"NAMED=" + b"x" * 257,
        b"NAMED=\x7f",
        b"\xff",
    ],
)
def test_other_words_are_refused(argument: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_copy_words(argument)


# -- ids


@given(st.integers(0, MAX_ID), COUNTS)
def test_ids(copy: int, first: int) -> None:
    assert parse_copy_id(format_copy_started(copy)) == copy
    assert parse_status_arguments(str(copy).encode()) == copy
    assert parse_abort_arguments(str(copy).encode()) == (copy, False)
    assert parse_abort_arguments(f"{copy} keep".encode()) == (copy, True)
    assert parse_errors_arguments(str(copy).encode()) == (copy, 0)
    assert parse_errors_arguments(f"{copy} {first}".encode()) == (copy, first)


@pytest.mark.parametrize(
    "argument", [b"", b"x", b"-1", b"1 x", b"1 KEEP KEEP", str(MAX_ID + 1).encode(), b"\xb2", b"1.5"]
)
def test_what_is_no_id(argument: bytes) -> None:
    for parse in (parse_status_arguments, parse_abort_arguments, parse_errors_arguments):
        with pytest.raises(ProtocolError):
            parse(argument)


@pytest.mark.parametrize(
    "text", ["OK", "OK transfer-process-ID=", "OK transfer-process-ID=x", f"transfer-process-ID={2**63}"]
)
def test_replies_without_an_id(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_copy_id(text)


def test_the_id_is_where_upstream_has_it() -> None:
    assert parse_copy_id("OK transfer-process-ID=4711") == 4711


# -- states


@given(
    st.builds(
        CopyStatus,
        word=st.sampled_from(["RUNNING", "FINISHED", "FAILED", "ABORTED"]),
        bytes=COUNTS,
        total=COUNTS,
        files=COUNTS,
        rate=COUNTS,
        failed=COUNTS,
        found=COUNTS,
        planned=st.booleans(),
        seconds=st.integers(0, 10**9).map(lambda n: n / 1000),
        error=st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
    )
)
def test_states_are_read_back(status: CopyStatus) -> None:
    wire = reply(299, format_copy_status(status)).encode()
    reader = ReplyReader()
    reader.receive_data(wire)
    received = reader.next_reply()
    assert received is not None
    assert parse_copy_status(received.text) == status


def test_states_of_the_document() -> None:
    running = parse_copy_status("RUNNING bytes=1048576;total=73400320;files=1;rate=52428800;")
    assert running == CopyStatus(word="RUNNING", bytes=1048576, total=73400320, files=1, rate=52428800)
    assert parse_copy_status("FINISHED") == CopyStatus(word="FINISHED")
    assert parse_copy_status(b"UNKNOWN") == CopyStatus(word="UNKNOWN")
    assert format_copy_status(CopyStatus(word="UNKNOWN", bytes=5)) == b"UNKNOWN"
    assert parse_copy_status("failed new=1;Bytes=2;error=a%3Bb%20%C3%A4;").error == "a;b ä"
    assert parse_abort_answer("ABORTED") == "ABORTED"


@pytest.mark.parametrize(
    "text", ["", "DONE", "RUNNING bytes=x;", "RUNNING bytes=-1;", "RUNNING seconds=1e5;", "RUNNINGbytes=1;"]
)
def test_what_is_no_state(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_copy_status(text)


@given(st.text(max_size=60))
def test_junk_gives_a_state_or_our_own_error(text: str) -> None:
    try:
        parse_copy_status(text)
    except ProtocolError:
        return


# -- failed files


@given(st.binary(max_size=60), st.binary(max_size=60), st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_failures_are_read_back(source: bytes, target: bytes, error: str) -> None:
    failure = CopyError(source=source, target=target, error=error)
    wire = multi_line(299, "7", [format_copy_error(failure)], format_errors_end(0)).encode()
    reader = ReplyReader()
    reader.receive_data(wire)
    received = reader.next_reply()
    assert received is not None
    assert [parse_copy_error(line) for line in received.inner] == [failure]
    assert parse_errors_end(received.text) == 0


def test_a_failure_fits_into_a_line_whatever_the_names_are() -> None:
    line = format_copy_error(CopyError(source=b"\xff" * 4096, target=b"\xff" * 4096, error="ä" * 1000))
    assert len(line) <= 16 * 1024
    assert parse_copy_error(line).source == b"\xff" * 4096
    assert parse_copy_error(line).error == "ä" * 500


@given(st.binary(max_size=60))
def test_junk_gives_a_failure_or_our_own_error(line: bytes) -> None:
    try:
        parse_copy_error(line)
    except ProtocolError:
        return


@pytest.mark.parametrize("text", ["", "End", "End x", "End -1", "End 1 2"])
def test_what_is_no_end_of_failures(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_errors_end(text)

"""Replies: what is sent is read back, whatever servers send is a reply or a ProtocolError, limits hold."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol import ProtocolError
from uftp.protocol.replies import Reply, ReplyReader, greeting, greeting_version, multi_line, reply

VECTORS = Path(__file__).parent.parent / "vectors"
SESSION: list[dict[str, str]] = json.loads((VECTORS / "session.json").read_text())["steps"]
LOGIN: list[str] = json.loads((VECTORS / "login.json").read_text())["replies"]

codes = st.integers(min_value=100, max_value=599)
line_bytes = st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b""))
replies = st.one_of(
    st.builds(reply, codes, line_bytes),
    st.builds(multi_line, codes, line_bytes, st.lists(line_bytes.map(lambda b: b" " + b), max_size=5), line_bytes),
)


def _read(pieces: list[bytes], *, max_bytes: int = 10**6) -> list[Reply | str]:
    reader = ReplyReader(max_bytes)
    found: list[Reply | str] = []
    for piece in pieces:
        reader.receive_data(piece)
        try:
            found.extend(iter(reader.next_reply, None))
        except ProtocolError:
            return [*found, "error"]
    return found


@given(st.lists(replies, max_size=5), st.lists(st.integers(min_value=0)))
def test_what_is_sent_is_read_back_however_it_is_cut(sent: list[Reply], cuts: list[int]) -> None:
    data = b"".join(each.encode() for each in sent)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    assert _read([data[start:end] for start, end in itertools.pairwise(places)]) == sent
    assert _read([data.replace(b"\r\n", b"\n")]) == sent


@given(st.lists(st.sampled_from([b"226", b"211", b"-", b" ", b"\n", b"\r\n", b"x", b"\xff"])).map(b"".join))
def test_any_junk_is_replies_or_a_protocol_error_however_it_is_cut(data: bytes) -> None:
    assert _read([data[i : i + 1] for i in range(len(data))]) == _read([data])


@given(st.binary())
def test_any_bytes_are_replies_or_a_protocol_error(data: bytes) -> None:
    _read([data + b"\n"])


@pytest.mark.parametrize("step", SESSION, ids=lambda step: step["c"])
def test_every_reply_of_the_reference_server_is_read(step: dict[str, str]) -> None:
    (found,) = _read([step["s"].encode()])
    assert isinstance(found, Reply)
    assert found.code == int(step["s"][:3])
    lines = step["s"].rstrip("\n").split("\n")
    assert found.text == lines[-1][4:]
    assert [line.decode() for line in found.inner] == lines[1:-1]


@pytest.mark.parametrize("text", LOGIN)
def test_every_reply_of_the_reference_servers_login_is_read(text: str) -> None:
    (found,) = _read([text.encode()])
    assert isinstance(found, Reply)
    assert found == reply(int(text[:3]), text[4:].rstrip("\n"))


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"213-\r\n213-\r\n213 MD5 0-9 00 /f\r\n", 213, "MD5 0-9 00 /f"),  # a HASH that takes its time
        (b"250-a\n250 in the middle of nothing\n", 250, "in the middle of nothing"),
        (b"250-a\n 250 b\n251 c\n250\n", 250, ""),
        (b"220\r\n", 220, ""),
        (b"\r\n\r\n220 after empty lines\r\n", 220, "after empty lines"),
        (b"230 \xff\n", 230, "\udcff"),
    ],
)
def test_odd_forms_of_replies(data: bytes, code: int, text: str) -> None:
    (found,) = _read([data])
    assert isinstance(found, Reply)
    assert (found.code, found.text) == (code, text)


@pytest.mark.parametrize("data", [b"hello\n", b"12 x\n", b"1234\n", b"012 x\n", b"250_x\n", b" 250 x\n", b"\x16\x03\n"])
def test_what_is_no_reply_is_said_so(data: bytes) -> None:
    assert _read([data]) == ["error"]


def test_an_endless_reply_is_refused() -> None:
    assert _read([b"211-x\n" + b" 0123456789\n" * 100], max_bytes=500) == ["error"]


def test_an_endless_reply_of_empty_lines_is_refused() -> None:
    assert _read([b"211-x\n" + b"\n" * 1000], max_bytes=500) == ["error"]


def test_an_endless_line_is_refused_without_waiting_for_its_end() -> None:
    reader = ReplyReader()
    reader.receive_data(b"2" * 40_000)
    assert reader.next_reply() is None
    reader.receive_data(b"2" * 40_000)
    with pytest.raises(ProtocolError, match="line longer"):
        reader.next_reply()


def test_a_line_that_is_too_long_is_refused_with_its_end() -> None:
    reader = ReplyReader()
    reader.receive_data(b"2" * 80_000 + b"\n")
    with pytest.raises(ProtocolError, match="line longer"):
        reader.next_reply()


def test_a_line_break_in_a_text_starts_no_other_reply() -> None:
    assert reply(550, "no\r\n226 done").encode() == b"550 no  226 done\r\n"
    inner: list[bytes] = [b" c\n211 d"]
    assert multi_line(211, "a\n211 b", inner, "e\ne").encode() == b"211-a 211 b\r\n c 211 d\r\n211 e e\r\n"


def test_bytes_that_are_not_utf_8_pass_through_text() -> None:
    assert reply(257, b'"/\xff"').text == '"/\udcff"'
    assert reply(257, '"/\udcff"').encode() == b'257 "/\xff"\r\n'


@pytest.mark.parametrize(
    ("code", "kinds"), [(150, (1, 0, 0)), (226, (0, 1, 0)), (350, (0, 0, 1)), (426, (0, 0, 0)), (550, (0, 0, 0))]
)
def test_kinds_of_replies(code: int, kinds: tuple[int, int, int]) -> None:
    found = reply(code, "")
    assert (found.is_preliminary, found.is_success, found.is_intermediate) == tuple(map(bool, kinds))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("UFTPD 3.5.3, https://www.unicore.eu", "3.5.3"),
        ("UFTPD 4, x", "4"),
        ("UFTPD n/a, x", None),
        ("UFTPD 3.5.3", None),
        ("(vsFTPd 3.0.5)", None),
        ("Welcome to UFTPD 3.5.3, x", None),
    ],
)
def test_the_version_in_a_greeting(text: str, version: str | None) -> None:
    assert greeting_version(reply(220, text)) == version


def test_our_own_greeting_is_read_by_old_and_new_clients() -> None:
    ours = greeting("0.1.0", "https://example.org")
    assert ours.encode() == b"220 UFTPD 0.1.0, https://example.org\r\n"
    assert greeting_version(ours) == "0.1.0"

"""PASV and EPSV replies: read back as written, strict about numbers, lenient about words."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol import ProtocolError
from uftp.protocol.passive import extended_passive, parse_extended_passive, parse_passive, passive
from uftp.protocol.replies import reply

ports = st.integers(min_value=1, max_value=65535)


@given(ports)
def test_epsv_is_read_back(port: int) -> None:
    sent = extended_passive(port)
    assert parse_extended_passive(sent) == port
    # The Java client takes the first digits behind the code.
    match = re.search(r"[0-9]+", sent.text)
    assert match is not None
    assert int(match[0]) == port


@given(st.ip_addresses(v=4).map(str), ports)
def test_pasv_is_read_back(host: str, port: int) -> None:
    sent = passive(host, port)
    assert parse_passive(sent) == (host, port)
    # The Java client takes the fifth word and cuts its last character.
    word = sent.encode().decode().split(" ")[4]
    assert word.rstrip("\r\n")[1:-1].count(",") == 5


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("Entering Extended Passive Mode (|||6446|)", 6446),
        ("Entering Extended Passive Mode (!!!21!).", 21),
        ("ok (|||65535|) go", 65535),
    ],
)
def test_epsv_of_other_servers(text: str, port: int) -> None:
    assert parse_extended_passive(reply(229, text)) == port


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (229, "Entering Extended Passive Mode"),
        (229, "(|||0|)"),
        (229, "(|||65536|)"),
        (229, "(|||123456|)"),
        (229, "(|||-1|)"),
        (229, "(||127.0.0.1|21|)"),
        (227, "(|||6446|)"),
        (522, "(|||6446|)"),
    ],
)
def test_what_is_no_epsv_reply(code: int, text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_extended_passive(reply(code, text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Entering Passive Mode (127,0,0,1,4,1)", ("127.0.0.1", 1025)),
        ("Entering Passive Mode (127,0,0,1,4,1).", ("127.0.0.1", 1025)),
        ("=10,0,0,7,0,21", ("10.0.0.7", 21)),
    ],
)
def test_pasv_of_other_servers(text: str, expected: tuple[str, int]) -> None:
    assert parse_passive(reply(227, text)) == expected


@pytest.mark.parametrize(
    ("code", "text"),
    [(227, "(127,0,0,1,4)"), (227, "(256,0,0,1,4,1)"), (227, "(127,0,0,1,0,0)"), (227, "x"), (229, "(1,1,1,1,1,1)")],
)
def test_what_is_no_pasv_reply(code: int, text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_passive(reply(code, text))


@given(st.binary() | st.text("(|,0123456789)", max_size=60).map(str.encode))
def test_any_junk_is_a_port_or_a_protocol_error(text: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert 0 < parse_extended_passive(reply(229, text)) < 65536
    with contextlib.suppress(ProtocolError):
        assert 0 < parse_passive(reply(227, text))[1] < 65536

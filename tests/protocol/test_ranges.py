"""RANG, REST and ALLO: the published table of what each does to the next transfer."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol import ProtocolError
from uftp.protocol.ranges import (
    OPEN_LENGTH,
    RESET_COMMAND,
    WHOLE_FILE,
    TransferRange,
    allo,
    parse_integers,
    rang,
    rang_command,
    rest,
)

ROWS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "ranges.json").read_text())
CODES = {"RANG": 350, "REST": 350, "ALLO": 200}


def _apply(commands: list[str]) -> tuple[TransferRange, list[str | None]]:
    """What a session does with the commands: the range in the end, and a reply each (None: refused)."""
    current = WHOLE_FILE
    replies: list[str | None] = []
    for command in commands:
        verb, _, words = command.partition(" ")
        argument = words.encode()
        try:
            if verb == "RANG":
                current, text = rang(argument)
            elif verb == "REST":
                current, text = rest(argument)
            else:
                current, text = allo(current, argument)
        except ProtocolError:
            replies.append(None)
        else:
            replies.append(f"{CODES[verb]} {text}")
    return current, replies


def _ids(row: dict[str, Any]) -> str:
    return ", ".join(row["before"]) or "nothing"


@pytest.mark.parametrize("row", ROWS["retr"], ids=_ids)
def test_retr(row: dict[str, Any]) -> None:
    current, replies = _apply(row["before"])
    assert replies == row["replies"]
    if row["data"] is not None:
        content = b"0123456789"
        sent = content[current.offset :][: current.readable(len(content))]
        assert sent == row["data"].encode()


@pytest.mark.parametrize("row", ROWS["stor"], ids=_ids)
def test_stor(row: dict[str, Any]) -> None:
    current, replies = _apply(row["before"])
    assert replies == row["replies"]
    old, new = b"ABCDEFGHIJ", b"xyz"[: current.expected_length]
    head = old[: current.offset].ljust(current.offset, b"\0")
    tail = old[current.offset + len(new) :] if current.ranged else b""
    assert (b"" if current.is_whole_file else head) + new + tail == row["file_after"].encode()


@pytest.mark.parametrize("row", ROWS["appe"], ids=_ids)
def test_appe_takes_the_length_alone(row: dict[str, Any]) -> None:
    current, replies = _apply(row["before"])
    assert replies == row["replies"]
    assert b"ABCDEFGHIJ" + b"xyz"[: current.expected_length] == row["file_after"].encode()


@pytest.mark.parametrize(
    "command",
    ["RANG 3", "RANG", "RANG a b", "RANG 1.0 2", "RANG 5 2", "RANG -1 5", f"RANG {OPEN_LENGTH} {OPEN_LENGTH + 1}",
     "RANG \u0661 \u0662", "RANG 1_0 2_0", "RANG +1 2", "RANG " + "9" * 5000 + " 1", "REST", "REST x", "REST -1",
     f"REST {OPEN_LENGTH}", "ALLO", "ALLO x", "ALLO -2", "ALLO 1e3"],
)  # fmt: skip
def test_refused(command: str) -> None:
    assert _apply([command])[1] == [None]


def test_forms_of_other_clients() -> None:
    assert rang(b"0 -1")[0] == TransferRange(0, None, ranged=True)
    assert rang(b" 2  5 and more words")[0] == TransferRange(2, 3, ranged=True)
    assert allo(WHOLE_FILE, b"100 R 80")[0].length == 100
    assert allo(TransferRange(4, 3, ranged=True), b"-1")[0] == TransferRange(4, None, ranged=True)
    assert rang(RESET_COMMAND.encode().removeprefix(b"RANG "))[0] == WHOLE_FILE
    open_end = rang(b"%d %d" % (5, 5 + 2**63 - 1))[0]
    assert open_end.expected_length is None
    assert open_end.readable(9) == 4


sizes = st.integers(min_value=0, max_value=OPEN_LENGTH - 1)


@given(sizes, st.none() | sizes)
def test_what_a_client_says_a_server_understands(offset: int, length: int | None) -> None:
    understood, _ = rang(rang_command(offset, length).encode().removeprefix(b"RANG "))
    assert understood.ranged
    assert understood.offset == offset
    assert understood.expected_length == length


@given(sizes, st.none() | st.integers(min_value=0, max_value=2**70), st.booleans(), sizes)
def test_no_range_reads_beyond_the_file(offset: int, length: int | None, ranged: bool, size: int) -> None:
    count = TransferRange(offset, length, ranged).readable(size)
    assert 0 <= count <= max(0, size - offset)


@given(st.binary() | st.text("0123456789- \t", max_size=50).map(str.encode))
def test_any_junk_is_a_range_or_a_protocol_error(argument: bytes) -> None:
    for command in (rang, rest):
        with contextlib.suppress(ProtocolError):
            changed, text = command(argument)
            assert 0 <= changed.offset < OPEN_LENGTH
            assert text.isprintable()
    with contextlib.suppress(ProtocolError):
        changed, _ = allo(WHOLE_FILE, argument)
        assert changed.length is None or changed.length >= 0
    with contextlib.suppress(ProtocolError):
        assert len(parse_integers(argument, 3)) == 3

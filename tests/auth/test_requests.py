"""Session requests: the tolerance clients need, and its limits."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol.command_port import Cipher, TransferRequest, encode_request
from uftpd.auth.errors import BadRequest
from uftpd.auth.requests import SESSION_TAG, parse_session_request, session_directory


def _parse(**fields: Any) -> Any:
    fields.setdefault("serverPath", "")
    return parse_session_request(json.dumps(fields).encode(), max_streams=64)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (False, False),
        ("true", True),
        ("TRUE", True),
        ("1", False),
        ("yes", False),
        ("", False),
        (None, False),
    ],
)
def test_booleans(value: object, expected: bool) -> None:
    assert _parse(persistent=value).persistent is expected


@pytest.mark.parametrize(("value", "expected"), [(3, 3), ("3", 3), (3.0, 3), (" 3 ", 3), (None, 1)])
def test_integers(value: object, expected: int) -> None:
    assert _parse(streamCount=value).streams == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"persistent": 1},
        {"persistent": []},
        {"streamCount": ""},
        {"streamCount": "x"},
        {"streamCount": 1.5},
        {"streamCount": True},
        {"streamCount": {}},
        {"streamCount": "1_0"},
        {"streamCount": "٣"},
        {"streamCount": -1},
        {"streamCount": 65},
        {"streamCount": 10**400},
        {"serverPath": {}},
        {"serverPath": "\x00"},
        {"serverPath": "\u2028"},
        {"serverPath": "\ud800"},
        {"serverPath": "x" * 20000},
        {"sessionMode": 1},
        {"send": []},
        {"encryptionAlgorithm": "none"},
        {"encryptionKey": "AA", "encryptionAlgorithm": "AES"},
    ],
)
def test_errors(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=next(iter(fields))):
        _parse(**fields)


def test_texts_may_be_written_as_numbers() -> None:
    assert _parse(serverPath=5).path == "5/"
    assert _parse(group=True).group == "true"


def test_of_repeated_keys_the_last_counts_and_names_have_their_case() -> None:
    body = b'{"serverPath": "/a", "serverPath": "/b", "SERVERPATH": "/c", "streamcount": 7}'
    request = parse_session_request(body, max_streams=64)
    assert (request.path, request.streams) == ("/b/", 1)


def test_keys_in_both_alphabets() -> None:
    key = bytes(range(200, 256))
    for text in ("yMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7f4OHi4+Tl5ufo6err7O3u7/Dx8vP09fb3+Pn6+/z9/v8=",
                 "yMnKy8zNzs_Q0dLT1NXW19jZ2tvc3d7f4OHi4-Tl5ufo6err7O3u7_Dx8vP09fb3-Pn6-_z9_v8"):  # fmt: skip
        request = _parse(encryptionKey=text)
        assert (request.key, request.cipher) == (key, Cipher.BLOWFISH)
    assert _parse(encryptionKey="").key is None


@pytest.mark.parametrize(
    ("path", "directory"),
    [
        ("", ""),
        ("/", "/"),
        ("/work/data", "/work/data/"),
        ("work/", "work/"),
        (SESSION_TAG, ""),
        (f"/work/{SESSION_TAG}", "/work/"),
        (f"/{SESSION_TAG}", "/"),
        (f"work/{SESSION_TAG}", "work/"),
        (f"/work/x{SESSION_TAG}", f"/work/x{SESSION_TAG}/"),
    ],
)
def test_session_directories(path: str, directory: str) -> None:
    assert session_directory(path) == directory


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_FIELDS = ("serverPath", "streamCount", "encryptionKey", "compress", "persistent", "group", "client", "append")


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON))
def test_what_is_taken_can_always_be_sent_on(fields: dict[str, Any]) -> None:
    try:
        request = parse_session_request(json.dumps(fields).encode(), max_streams=64)
    except BadRequest:
        return
    transfer = TransferRequest(
        user="joe", secret="s", file=request.path, streams=request.streams, key=request.key, algorithm=request.cipher
    )
    lines = encode_request(transfer).decode().split("\n")
    assert lines[-2:] == ["END", ""]
    assert [line.partition("=")[0] for line in lines].count("user") == 1


@given(st.binary())
def test_any_body_is_a_request_or_refused(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        parse_session_request(body, max_streams=64)

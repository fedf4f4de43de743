"""Which credential options and environment give, and that secrets stay secret."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from uftp.client.credentials import Anonymous, BearerToken, UsernamePassword, choose_credential
from uftp.errors import AuthenticationFailed, LocalFileError, UsageError


def never(prompt: str) -> str:
    raise AssertionError("asked")


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ({"user": "me:pw:x"}, {}, UsernamePassword("me", "pw:x")),
        ({"user": "me"}, {"UFTP_PASSWORD": "pw"}, UsernamePassword("me", "pw")),
        ({}, {"UFTP_USER": "me", "UFTP_PASSWORD": "pw", "USER": "other"}, UsernamePassword("me", "pw")),
        ({}, {"USER": "me", "UFTP_PASSWORD": "pw"}, UsernamePassword("me", "pw")),
        ({"user": "anonymous"}, {}, Anonymous()),
        ({"token": " abc\n"}, {}, BearerToken("abc")),
        ({}, {"UFTP_TOKEN": "abc"}, BearerToken("abc")),
        ({"user": "me:pw"}, {"UFTP_TOKEN": "abc"}, UsernamePassword("me", "pw")),
    ],
)
def test_choice(options: dict[str, str], environment: dict[str, str], expected: object) -> None:
    assert choose_credential(**options, ask=never, environment=environment) == expected


def test_asking_comes_last() -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "pw"

    assert choose_credential(user="me", ask=ask, environment={}) == UsernamePassword("me", "pw")
    assert asked == ["Password for me: "]


def test_nobody_to_ask() -> None:
    with pytest.raises(AuthenticationFailed, match="-P"):
        choose_credential(user="me", environment={})


def test_contradiction() -> None:
    with pytest.raises(UsageError):
        choose_credential(user="me", token="x", environment={})
    with pytest.raises(UsageError):
        choose_credential(token="line\nbreak", environment={})


def test_password_file(tmp_path: Path) -> None:
    file = tmp_path / "pw"
    file.write_bytes(b"s3cret \r\nmore\n")
    chosen = choose_credential(user="me", password_file=str(file), environment={})
    assert chosen == UsernamePassword("me", "s3cret ")
    file.write_bytes(b"")
    for path in (file, tmp_path / "none"):
        with pytest.raises(LocalFileError):
            choose_credential(user="me", password_file=str(path), environment={})


async def test_headers_and_representations() -> None:
    user = UsernamePassword("jö", "pässword")
    header = await user.authorization()
    assert header is not None
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == "jö:pässword"
    assert await BearerToken("abc").authorization() == "Bearer abc"
    assert await Anonymous().authorization() is None
    assert "pässword" not in repr(user)
    assert "abc" not in repr(BearerToken("abc"))

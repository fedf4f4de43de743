"""Which credential options, an endpoint and variables give, and that secrets stay secret."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from uftp.client.choosing import FirstAccepted, Wishes, choose_credential
from uftp.client.credentials import (
    Anonymous,
    AskedPassword,
    BearerToken,
    Credential,
    TokenFile,
    UsernamePassword,
    checked_token,
    description,
)
from uftp.client.oidc_agent import OidcAgentCredential
from uftp.errors import AuthenticationFailed, LocalFileError, UFTPError, UsageError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys or logins."""
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


async def never(prompt: str) -> str:
    raise AssertionError("asked")


def choose(options: dict[str, Any], environment: dict[str, str] | None = None, **more: Any) -> Credential:
    return choose_credential(Wishes(**options), environment=environment or {}, **more)


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ({"user": "me:pw:x"}, {}, UsernamePassword("me", "pw:x")),
        ({"user": "me"}, {"UFTP_PASSWORD": "pw"}, UsernamePassword("me", "pw")),
        ({}, {"UFTP_USER": "me", "UFTP_PASSWORD": "pw", "USER": "other"}, UsernamePassword("me", "pw")),
        ({}, {"USER": "me", "UFTP_PASSWORD": "pw"}, UsernamePassword("me", "pw")),
        ({"ask_password": True}, {"USER": "me", "UFTP_PASSWORD": "pw"}, UsernamePassword("me", "pw")),
        ({"user": "anonymous"}, {}, Anonymous()),
        ({}, {"UFTP_USER": "anonymous"}, Anonymous()),
        ({"token": " abc\n"}, {}, BearerToken("abc")),
        ({}, {"UFTP_TOKEN": "abc"}, BearerToken("abc")),
        ({"user": "me:pw"}, {"UFTP_TOKEN": "abc"}, UsernamePassword("me", "pw")),
        ({"user": "me"}, {"UFTP_TOKEN": "abc", "UFTP_PASSWORD": "pw"}, UsernamePassword("me", "pw")),
    ],
)
def test_choice(options: dict[str, Any], environment: dict[str, str], expected: object) -> None:
    assert choose(options, environment, ask=never) == expected


async def test_asking_comes_last_and_once() -> None:
    asked: list[str] = []

    async def ask(prompt: str) -> str:
        asked.append(prompt)
        return "pw"

    for options in ({"user": "me"}, {"user": "me", "ask_password": True}):
        asked.clear()
        credential = choose(options, ask=ask)
        assert asked == []
        for _ in range(2):
            assert await credential.authorization() == await UsernamePassword("me", "pw").authorization()
        assert asked == ["Password for me: "]
        assert "pw" not in repr(credential)


@pytest.mark.parametrize("options", [{"user": "me"}, {"user": "me", "ask_password": True}, {}])
def test_nobody_to_ask(options: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationFailed, match=r"--password-file|-u"):
        choose(options)


@pytest.mark.parametrize(
    "options",
    [
        {"user": "me", "token": "x"},
        {"user": "me", "oidc_agent": "x"},
        {"token": "x", "oidc_agent": "x"},
        {"identity": "x", "oidc_agent": "x"},
        {"identity": "x", "password_file": "x", "user": "me"},
        {"token": "line\nbreak"},
        {"token": ""},
        {"token": "blank in it"},
        {"token": "ü"},
    ],
)
def test_contradictions_and_tokens_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        choose(options)


def test_password_file(tmp_path: Path) -> None:
    file = tmp_path / "pw"
    file.write_bytes(b"s3cret \r\nmore\n")
    assert choose({"user": "me", "password_file": str(file)}) == UsernamePassword("me", "s3cret ")
    assert choose({"user": "me", "password_file": "~/pw"}) == UsernamePassword("me", "s3cret ")
    file.write_bytes(b"")
    for path in (file, tmp_path / "none", tmp_path, "nul\0in it"):
        with pytest.raises(LocalFileError):
            choose({"user": "me", "password_file": str(path)})


@pytest.mark.parametrize("variable", [False, True])
async def test_a_token_file_is_read_for_each_request(tmp_path: Path, variable: bool) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    credential = choose({}, {"UFTP_TOKEN": f"@{file}"}) if variable else choose({"token": f"@{file}"})
    assert isinstance(credential, TokenFile)
    assert await credential.authorization() == "Bearer one"
    assert not await credential.renew("Bearer one")
    file.write_text("two\n")
    assert await credential.renew("Bearer one")
    assert await credential.authorization() == "Bearer two"
    file.write_text("no token\n")
    with pytest.raises(LocalFileError, match="token"):
        await credential.authorization()
    with pytest.raises(LocalFileError, match="cannot read the token file"):
        choose({"token": f"@{file}x"})


@pytest.mark.parametrize(
    ("options", "configured", "environment", "expected"),
    [
        ({}, {"user": "cora"}, {"UFTP_PASSWORD": "pw", "UFTP_USER": "eve"}, UsernamePassword("cora", "pw")),
        ({"user": "me"}, {"user": "cora"}, {"UFTP_PASSWORD": "pw"}, UsernamePassword("me", "pw")),
        ({}, {"user": "anonymous"}, {"UFTP_PASSWORD": "pw"}, Anonymous()),
        ({"token": "t"}, {"user": "cora", "oidc_agent": "x"}, {}, BearerToken("t")),
        ({}, {"token": "t"}, {"UFTP_TOKEN": "e"}, BearerToken("t")),
        ({}, {}, {"UFTP_TOKEN": "e"}, BearerToken("e")),
        # Whoever configured an account there did not mean the token of something else.
        ({}, {"user": "cora"}, {"UFTP_TOKEN": "e", "UFTP_PASSWORD": "pw"}, UsernamePassword("cora", "pw")),
    ],
)
def test_options_before_endpoints_before_variables(
    options: dict[str, Any], configured: dict[str, Any], environment: dict[str, str], expected: object
) -> None:
    assert choose(options, environment, configured=Wishes(**configured), ask=never) == expected


def test_an_endpoints_agent() -> None:
    assert isinstance(choose({}, configured=Wishes(oidc_agent="campus")), OidcAgentCredential)


async def test_headers_representations_and_descriptions() -> None:
    user = UsernamePassword("jö", "pässword")
    header = await user.authorization()
    assert header is not None
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == "jö:pässword"
    assert await BearerToken("abc").authorization() == "Bearer abc"
    assert await Anonymous().authorization() is None
    for credential, secret in ((user, "pässword"), (BearerToken("abc"), "abc"), (AskedPassword("me", never), "never")):
        assert secret not in repr(credential)
        assert secret not in description(credential)
    assert description(user) == "the password of 'jö'"


def test_tokens_are_fit_for_a_header() -> None:
    assert checked_token("  a.b-c_d~e+f/g==\r\n") == "a.b-c_d~e+f/g=="
    for text in ("", " ", "a b", "a\r\nX: y", "a\x7f", "ä"):
        with pytest.raises(UsageError, match="token"):
            checked_token(text)


async def test_what_is_tried_when_nothing_is_asked_for(home: Path) -> None:
    """A broken key and one that others may read are passed over, and said; the password comes last."""
    (home / ".ssh").mkdir()
    for name, mode in (("id_broken", 0o600), ("id_open", 0o644), ("other", 0o600), ("id_a.pub", 0o600)):
        file = home / ".ssh" / name
        file.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
        file.chmod(mode)
    notes: list[str] = []

    async def ask(prompt: str) -> str:
        return "pw"

    found = choose({"user": "me"}, ask=ask, note=notes.append)
    assert isinstance(found, FirstAccepted)
    assert await found.authorization() == await UsernamePassword("me", "pw").authorization()
    assert found.method == "PASSWORD"
    assert len(notes) == 2
    assert "id_broken: the key cannot be read" in notes[0]
    assert "id_open: others may read" in notes[1]
    nobody = choose({"user": "me"})
    with pytest.raises(UFTPError, match=r"nothing to log in with as me: .*id_broken.*; .*id_open.*; use -i"):
        await nobody.authorization()

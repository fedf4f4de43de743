"""Who one is: what a credential gives to the auth server, and the ones that need nothing but themselves.

A credential answers one question, the `Authorization` header of the next request; it may do I/O for that, so tokens
that expire or come from an agent fit behind the same interface. Secrets stay out of reprs, logs and error texts.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import trio

from uftp.errors import LocalFileError, UsageError

_MAX_SECRET_BYTES = 64 * 1024

Ask = Callable[[str], Awaitable[str]]
"""Asks the person for something secret, given a prompt."""


class Credential(Protocol):
    """What proves who one is."""

    @property
    def method(self) -> str:
        """How, in a word for people: `PASSWORD`, `ANONYMOUS`."""

    async def authorization(self) -> str | None:
        """The value of the `Authorization` header, None for no header.

        Raises:
            AuthenticationFailed: no token can be had.
        """


@runtime_checkable
class RenewableCredential(Protocol):
    """A credential that may have something better after a refusal: a fresh token, or another way to log in."""

    async def renew(self, refused: str) -> bool:
        """Whether `authorization` has something else to offer than what was refused.

        Args:
            refused: the header the server did not accept.

        Raises:
            AuthenticationFailed: no token can be had.
        """


def description(credential: Credential) -> str:
    """What was tried, for error texts, as `the password of 'alice'`; never anything secret."""
    said = getattr(credential, "description", None)
    return said if isinstance(said, str) else f"the credential ({credential.method})"


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Nobody in particular: no header is sent."""

    method = "ANONYMOUS"
    description = "no credential"

    async def authorization(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class UsernamePassword:
    """HTTP Basic; also the login of a plain FTP server."""

    username: str
    password: str = field(repr=False)
    method = "PASSWORD"

    @property
    def description(self) -> str:
        return f"the password of {self.username!r}"

    async def authorization(self) -> str | None:
        pair = f"{self.username}:{self.password}".encode("utf-8", "surrogateescape")
        return "Basic " + base64.b64encode(pair).decode()


class AskedPassword:
    """A password that is asked for when it is first needed."""

    method = "PASSWORD"

    def __init__(self, username: str, ask: Ask) -> None:
        self.username = username
        self._ask = ask
        self._password: UsernamePassword | None = None
        self._asking = trio.Lock()

    @property
    def description(self) -> str:
        return f"the password of {self.username!r}"

    async def login(self) -> UsernamePassword:
        """The name with the password that was typed."""
        async with self._asking:
            if self._password is None:
                self._password = UsernamePassword(self.username, await self._ask(f"Password for {self.username}: "))
        return self._password

    async def authorization(self) -> str | None:
        """HTTP Basic with what was typed."""
        return await (await self.login()).authorization()


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token as it was given."""

    token: str = field(repr=False)
    method = "TOKEN"
    description = "the token given"

    async def authorization(self) -> str | None:
        return f"Bearer {self.token}"


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A token in the first line of a file, read for each request: something else may keep it fresh."""

    path: str
    method = "TOKEN"

    @property
    def description(self) -> str:
        return f"the token in {self.path}"

    async def authorization(self) -> str | None:
        return f"Bearer {read_token_file(self.path)}"

    async def renew(self, refused: str) -> bool:
        return await self.authorization() != refused


def read_secret_file(path: str, what: str = "password") -> str:
    """The first line of a file that holds a password or token.

    Args:
        path: the file.
        what: is in it, for errors.

    Raises:
        LocalFileError: it cannot be read, or is empty.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_SECRET_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LocalFileError(f"{path}: cannot read the {what} file: {reason}") from error
    secret = content.partition(b"\n")[0].rstrip(b"\r")
    if not secret:
        raise LocalFileError(f"{path}: the {what} file is empty")
    return os.fsdecode(secret)


def read_token_file(path: str) -> str:
    """The token in the first line of a file.

    Raises:
        LocalFileError: it cannot be read, is empty or holds no token.
    """
    try:
        return checked_token(read_secret_file(path, "token"))
    except UsageError as error:
        raise LocalFileError(f"{path}: {error}") from error


def checked_token(text: str) -> str:
    """A token without the line end that people paste or files have.

    Raises:
        UsageError: it has characters that no token has, and that would end the header.
    """
    token = text.strip()
    if not token or not token.isascii() or any(not 0x20 < ord(character) < 0x7F for character in token):
        raise UsageError("the token is empty or has characters no token can have")
    return token

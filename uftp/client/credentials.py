"""Who one is: what a credential gives to the auth server, and where passwords come from.

A credential answers one question, the `Authorization` header of the next request; it may do I/O for that, so tokens
that expire or come from an agent fit behind the same interface. Secrets stay out of reprs, logs and error texts.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from uftp.errors import AuthenticationFailed, LocalFileError, UsageError

USER_VARIABLE = "UFTP_USER"
PASSWORD_VARIABLE = "UFTP_PASSWORD"  # noqa: S105 -- the variable's name
TOKEN_VARIABLE = "UFTP_TOKEN"  # noqa: S105 -- the variable's name
_MAX_SECRET_BYTES = 64 * 1024


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


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Nobody in particular: no header is sent."""

    method = "ANONYMOUS"

    async def authorization(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class UsernamePassword:
    """HTTP Basic; also the login of a plain FTP server."""

    username: str
    password: str = field(repr=False)
    method = "PASSWORD"

    async def authorization(self) -> str | None:
        pair = f"{self.username}:{self.password}".encode("utf-8", "surrogateescape")
        return "Basic " + base64.b64encode(pair).decode()


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token as it was given."""

    token: str = field(repr=False)
    method = "TOKEN"

    async def authorization(self) -> str | None:
        return f"Bearer {self.token}"


def read_secret_file(path: str) -> str:
    """The first line of a file that holds a password or token.

    Raises:
        LocalFileError: it cannot be read, or is empty.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_SECRET_BYTES)
    except OSError as error:
        raise LocalFileError(f"{path}: cannot read the password file: {error.strerror}") from error
    secret = content.partition(b"\n")[0].rstrip(b"\r")
    if not secret:
        raise LocalFileError(f"{path}: the password file is empty")
    return os.fsdecode(secret)


def choose_credential(
    *,
    user: str | None = None,
    ask: Callable[[str], str] | None = None,
    password_file: str | None = None,
    token: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Credential:
    """The credential that options and environment ask for, in the order a person would expect.

    A token wins; then a user, from `user` (NAME or NAME:PASSWORD), UFTP_USER or the login name, with a password from
    `user`, the file, UFTP_PASSWORD, or asked for. The user `anonymous` without a password needs none.

    Args:
        user: as given by -u.
        ask: asks the person for the password, given a prompt; None where nobody can be asked.
        password_file: file with the password in its first line.
        token: a bearer token.
        environment: variables, those of the process by default.

    Raises:
        UsageError: contradictory options.
        AuthenticationFailed: no password to be had.
        LocalFileError: the password file cannot be read.
    """
    environment = os.environ if environment is None else environment
    if token is not None and user is not None:
        raise UsageError("give either a user (-u) or a token (-A), not both")
    if token is None and user is None:
        token = environment.get(TOKEN_VARIABLE)
    if token is not None:
        # A token never has line ends in it, but what people paste or read from files has.
        return BearerToken(_header_safe(token.strip(), "token"))
    name, colon, password = (user or "").partition(":")
    name = name or environment.get(USER_VARIABLE) or environment.get("USER") or environment.get("LOGNAME") or ""
    if colon:
        return UsernamePassword(name, password)
    if password_file is not None:
        return UsernamePassword(name, read_secret_file(password_file))
    if name == "anonymous":
        return Anonymous()
    if PASSWORD_VARIABLE in environment:
        return UsernamePassword(name, environment[PASSWORD_VARIABLE])
    if ask is None:
        raise AuthenticationFailed(
            f"no password for {name or 'the user'}; use -P to be asked, --password-file or the variable "
            f"{PASSWORD_VARIABLE}, or -u anonymous"
        )
    return UsernamePassword(name, ask(f"Password for {name}: "))


def _header_safe(secret: str, what: str) -> str:
    if not secret or not secret.isascii() or any(ord(character) < 0x21 for character in secret):
        raise UsageError(f"the {what} is empty or has characters no {what} can have")
    return secret

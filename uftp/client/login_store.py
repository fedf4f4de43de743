"""Logins kept between commands: one file a server, readable by its owner alone, replaced in one step.

    $XDG_STATE_HOME/uftp/logins/<hash of the server's URL>.json     default: ~/.local/state/uftp/logins

A provider may give a new refresh token with every refresh and call the old one stolen when it comes again. So only one
process refreshes at a time, under a lock on a file beside, and the new one is on disk before anybody uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio

from uftp.client.oidc import OidcClient, Tokens
from uftp.errors import LocalFileError, TimedOut, UsageError

_MAX_FILE_BYTES: Final = 1024 * 1024
_LOCK_SECONDS: Final = 120.0  # longer than a refresh may take
_LOCK_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLogin:
    """A login to a server.

    Attributes:
        server: base URL of the auth server, as `https://host:port/SITE`; the tokens go there and nowhere else.
        client: the provider.
        tokens: what it gave last.
        name: who the server said this is; empty if it did not.
    """

    server: str
    client: OidcClient
    tokens: Tokens
    name: str = ""


class LoginStore:
    """The logins of a person.

    Args:
        directory: where they are; None for the usual place.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = _usual_directory() if directory is None else directory

    def load(self, server: str) -> StoredLogin | None:
        """The login to a server; None if there is none.

        Raises:
            LocalFileError: it cannot be read, or others can read it.
        """
        return self._read(self._path(server))

    def all(self) -> list[StoredLogin]:
        """All logins, by server; files that cannot be read are left out."""
        found = []
        with contextlib.suppress(OSError):
            for name in os.listdir(self._directory):
                if re.fullmatch(r"[0-9a-f]{32}\.json", name):
                    with contextlib.suppress(LocalFileError):
                        login = self._read(os.path.join(self._directory, name))
                        if login is not None:
                            found.append(login)
        return sorted(found, key=lambda login: login.server)

    def save(self, login: StoredLogin) -> None:
        """Write a login; an older one for the same server is replaced.

        Raises:
            LocalFileError: it cannot be written; the older one is untouched.
        """
        path = self._path(login.server)
        new = f"{path}.{secrets.token_hex(4)}.new"
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.write(json.dumps(_to_json(login)).encode())
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(new, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(new)
                raise
        except OSError as error:
            raise LocalFileError(f"{self._directory}: cannot keep the login: {error.strerror}") from error

    def forget(self, server: str) -> bool:
        """Remove a login.

        Returns:
            Whether there was one.

        Raises:
            LocalFileError: it cannot be removed.
        """
        path = self._path(server)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise LocalFileError(f"{path}: cannot remove the login: {error.strerror}") from error
        return True

    @asynccontextmanager
    async def locked(self, server: str) -> AsyncIterator[None]:
        """Keep other processes from refreshing this login, for the block.

        Raises:
            TimedOut: another one does not end.
            LocalFileError: no lock can be had.
        """
        path = f"{self._path(server)}.lock"
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalFileError(f"{path}: cannot lock the login: {error.strerror}") from error
        try:
            with trio.move_on_after(_LOCK_SECONDS) as waiting:
                while not _lock(descriptor, path):  # noqa: ASYNC110 -- other processes set no events
                    await trio.sleep(_LOCK_POLL_SECONDS)
            if waiting.cancelled_caught:
                raise TimedOut(f"{path}: another uftp has held this for {_LOCK_SECONDS:.0f} s; is one hanging?")
            yield
        finally:
            os.close(descriptor)

    def _path(self, server: str) -> str:
        name = hashlib.sha256(server.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return os.path.join(self._directory, f"{name}.json")

    def _read(self, path: str) -> StoredLogin | None:
        try:
            with open(path, "rb", opener=_open_plain) as file:
                facts = os.fstat(file.fileno())
                content = file.read(_MAX_FILE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LocalFileError(f"{path}: cannot read the login: {error.strerror}") from error
        if facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077:
            raise LocalFileError(f"{path}: others may read or write this login; remove it and log in again")
        try:
            return _from_json(json.loads(content))
        except (ValueError, KeyError, TypeError, UsageError, RecursionError) as error:
            raise LocalFileError(f"{path}: this is no login; remove it and log in again") from error


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _lock(descriptor: int, path: str) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise LocalFileError(f"{path}: cannot lock the login: {error.strerror}") from error
    return True


def _usual_directory() -> str:
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # as the XDG base directory specification has it
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "uftp", "logins")


def _to_json(login: StoredLogin) -> dict[str, object]:
    client, tokens = login.client, login.tokens
    return {
        "server": login.server,
        "name": login.name,
        "issuer": client.issuer,
        "client_id": client.client_id,
        "client_secret": client.client_secret,
        "scopes": list(client.scopes),
        "ca": client.ca,
        "access_token": tokens.access_token,
        "expires": tokens.expires,
        "refresh_token": tokens.refresh_token,
    }


def _from_json(document: Mapping[str, Any]) -> StoredLogin:
    texts = [document[name] for name in ("server", "name", "access_token")]
    maybe = [document[name] for name in ("client_secret", "ca", "refresh_token")]
    if not all(isinstance(text, str) for text in texts) or not all(
        text is None or isinstance(text, str) for text in maybe
    ):
        raise ValueError("a member of the wrong type")
    client = OidcClient(
        issuer=str(document["issuer"]),
        client_id=str(document["client_id"]),
        client_secret=document["client_secret"],
        scopes=tuple(map(str, document["scopes"])),
        ca=document["ca"],
    )
    tokens = Tokens(
        access_token=document["access_token"],
        expires=float(document["expires"]),
        refresh_token=document["refresh_token"],
    )
    return StoredLogin(server=document["server"], client=client, tokens=tokens, name=document["name"])

"""The credential behind `uftp login`: a kept token, refreshed shortly before it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import trio

from uftp.client.login_store import LoginStore, StoredLogin
from uftp.client.oidc import LoginEnded, Provider
from uftp.errors import AuthenticationFailed, LocalFileError, NetworkError

_MARGIN_SECONDS: Final = 60.0  # clocks differ, and a request may have to wait

_log = logging.getLogger(__name__)


class OidcLogin:
    """Tokens of a login made with `uftp login`.

    Args:
        server: base URL of the auth server.
        store: where logins are kept.
        clock: Unix seconds.
    """

    method = "OIDC"

    def __init__(self, server: str, store: LoginStore | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._server = server
        self._store = store or LoginStore()
        self._clock = clock
        self._login: StoredLogin | None = None
        self._is_kept = True
        self._lock = trio.Lock()

    def __repr__(self) -> str:
        return f"OidcLogin({self._server!r})"

    @property
    def description(self) -> str:
        return "the login made with `uftp login`"

    async def authorization(self) -> str:
        """`Bearer` and a token that is good for a minute, unless the provider gives shorter ones or is away.

        Raises:
            AuthenticationFailed: no login, or it has ended.
            NetworkError: the token has ended, and the provider cannot be reached.
            LocalFileError: the login cannot be read.
        """
        async with self._lock:
            login = self._login or self._load()
            if login.tokens.expires - self._clock() < _MARGIN_SECONDS:
                try:
                    login = await self._refreshed(login.tokens.access_token)
                except NetworkError:
                    if login.tokens.expires <= self._clock():
                        raise
            self._login = login
            return f"Bearer {login.tokens.access_token}"

    async def renew(self, refused: str) -> bool:
        """Refresh, if the token refused is the one in use and another is to be had."""
        async with self._lock:
            if self._login is None:
                return False
            token = self._login.tokens.access_token
            if refused == f"Bearer {token}":
                try:
                    self._login = await self._refreshed(token)
                except (LoginEnded, NetworkError):
                    return False  # the server's own words say more
            return refused != f"Bearer {self._login.tokens.access_token}"

    def _load(self) -> StoredLogin:
        login = self._store.load(self._server)
        if login is None:
            raise AuthenticationFailed(
                f"not logged in at {self._server}; `uftp login {self._server}/rest/auth` does it"
            )
        return login

    async def _refreshed(self, old: str) -> StoredLogin:
        """The login with a token that is not `old`: from another process, or else from the provider."""
        again = f"`uftp login {self._server}/rest/auth`"
        async with self._store.locked(self._server):
            # One that could not be written is newer than what is on disk.
            login = self._load() if self._is_kept or self._login is None else self._login
            tokens = login.tokens
            if tokens.access_token != old and tokens.expires - self._clock() >= _MARGIN_SECONDS:
                return login
            if tokens.refresh_token is None:
                if tokens.expires > self._clock():
                    return login
                raise LoginEnded(f"the login at {self._server} has ended; {again}")
            # Not to be cut short: a provider that has answered has made the old refresh token worthless.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
                async with Provider(login.client) as provider:
                    try:
                        fresh = await provider.refresh(tokens.refresh_token, self._clock)
                    except LoginEnded as error:
                        raise LoginEnded(f"{error}; {again}") from error
                login = replace(login, tokens=fresh)
                try:
                    self._store.save(login)
                    self._is_kept = True
                except LocalFileError as error:
                    self._is_kept = False
                    _log.warning("uftp: %s; log in again after this command", error)
                return login
            raise NetworkError(f"{login.client.issuer}: the identity provider does not answer; try again later")

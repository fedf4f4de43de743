"""From a URL and a credential to FTP sessions, as many as are needed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Self

from uftp.client.auth import AuthServer, HttpOptions, SessionGrant, SessionRequest
from uftp.client.credentials import Anonymous, AskedPassword, Credential, UsernamePassword
from uftp.client.layers import ask_for, check_without_auth_server
from uftp.client.login import SessionOptions, log_in
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl, parse_url, session_directory
from uftp.errors import AuthenticationFailed, NetworkError, UsageError


class _SecretRefused(AuthenticationFailed):
    """A data node refuses the one-time password that the auth server has just given."""


class Connector:
    """Opens sessions on one server. Use as an async context manager.

    Args:
        url: the server; of its path only the directory matters, and only if `directory` is None.
        credential: who one is. An FTP URL's own user wins for FTP.
        directory: base directory to ask the auth server for.
        http: how the auth server is talked to.
        options: how the sessions behave.
        client: addresses the FTP connections will come from (-X).
        group: primary group asked for.
        writes: whether files will be written; matters for shares.
    """

    def __init__(
        self,
        url: RemoteUrl,
        credential: Credential,
        *,
        directory: bytes | None = None,
        http: HttpOptions | None = None,
        options: SessionOptions | None = None,
        client: str | None = None,
        group: str | None = None,
        writes: bool = False,
    ) -> None:
        self.url = url
        self._credential = credential
        self._options = options or SessionOptions()
        self._server = AuthServer(credential, http)
        self._request = SessionRequest(
            directory=session_directory([url]) if directory is None else directory,
            client=client,
            group=group,
            send=not (writes and url.kind == "access"),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close what is kept between sessions."""
        await self._server.aclose()

    async def authenticate(self, *, persistent: bool = False) -> SessionGrant:
        """Ask the auth server for a session without opening it. It has the key of the options, if they have one.

        Args:
            persistent: whether the one-time password is to be good for several logins.

        Raises:
            UsageError: an FTP URL, which has no auth server.
            UFTPError: see `AuthServer.request_session`.
        """
        if self.url.kind == "ftp":
            raise UsageError(f"{self.url.service}: an FTP server gives no one-time passwords; use an https URL")
        _, request = ask_for(self._options, replace(self._request, persistent=persistent))
        return await self._server.request_session(self.url.service, request)

    async def open(self) -> FTPSession:
        """A new session; the caller closes it.

        Raises:
            UFTPError: see `AuthServer.request_session` and `uftp.client.login`.
        """
        if self.url.kind == "ftp":
            check_without_auth_server(self._options, self.url.service)
            user, password = await self._ftp_login()
            return await log_in(self.url.host, self.url.port, user=user, password=password, options=self._options)
        try:
            return await self._open_granted()
        except _SecretRefused:
            # A data node that was started again has forgotten its secrets; a second one it does not know is an answer.
            return await self._open_granted()

    async def _open_granted(self) -> FTPSession:
        options, request = ask_for(self._options, self._request)
        grant = await self._server.request_session(self.url.service, request)
        options = replace(options, required_features=grant.features)
        for place, host in enumerate(grant.hosts, 1):
            try:
                return await log_in(host, grant.port, user="anonymous", password=grant.secret, options=options)
            except NetworkError:
                if place == len(grant.hosts):
                    raise
            except AuthenticationFailed as error:
                raise _SecretRefused(str(error)) from error
        raise AssertionError("a grant names at least one host")

    async def _ftp_login(self) -> tuple[str, str]:
        if self.url.user is not None and self.url.password is not None:
            return self.url.user, self.url.password
        credential = self._credential
        if isinstance(credential, AskedPassword):
            credential = await credential.login()
        if isinstance(credential, UsernamePassword):
            return self.url.user or credential.username, credential.password
        if self.url.user in (None, "anonymous", "ftp") and isinstance(credential, Anonymous):
            return "anonymous", "anonymous@"
        raise AuthenticationFailed(f"{self.url.service}: an FTP server needs a user and password; use -u and -P")


@contextlib.asynccontextmanager
async def open_session(
    url: str | RemoteUrl,
    credential: Credential | None = None,
    *,
    ca: str | None = None,
    insecure: bool = False,
    options: SessionOptions | None = None,
    client: str | None = None,
    group: str | None = None,
) -> AsyncIterator[FTPSession]:
    """An FTP session on the server of a URL, for the block.

    Args:
        url: as typed on the command line; the session's base is the directory part of its path.
        credential: who one is; anonymous by default.
        ca: file with the CA certificates to trust instead of the system's.
        insecure: do not verify the auth server's certificate.
        options: time-outs and addresses.
        client: addresses the FTP connections will come from, if the auth server cannot see them.
        group: primary group asked for.

    Raises:
        UFTPError: as described at the top of `uftp.errors`.
    """
    options = options or SessionOptions()
    place = parse_url(url) if isinstance(url, str) else url
    http = HttpOptions(ca=ca, insecure=insecure, family=options.family)
    connector = Connector(place, credential or Anonymous(), http=http, options=options, client=client, group=group)
    async with connector, await connector.open() as session:
        yield session

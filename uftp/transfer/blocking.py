"""The package for callers that are not async: scripts and notebooks.

    with uftp.connect("https://host:9000/rest/auth/TEST:/data/", user="alice", password=...) as there:
        for entry in there.ls():
            print(entry.name, entry.size)
        there.get("run1.nc", ".")

Each connection has a thread with a trio loop in it; an asyncio loop in the calling thread does not matter.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeVar

from uftp.client import remote
from uftp.client.auth import HttpOptions
from uftp.client.credentials import Anonymous, Credential, UsernamePassword
from uftp.client.login import SessionOptions
from uftp.client.portal import Portal
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl, parse_url
from uftp.errors import UsageError
from uftp.protocol.facts import FileInfo
from uftp.transfer.copy import Access, copy_files
from uftp.transfer.options import CopyOptions
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopySummary

T = TypeVar("T")
Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def make_access(
    *,
    user: str | None = None,
    password: str | None = None,
    credential: Credential | None = None,
    ca: str | None = None,
    insecure: bool = False,
    options: SessionOptions | None = None,
    client: str | None = None,
    group: str | None = None,
) -> Access:
    """Credentials and connection settings from plain arguments.

    Raises:
        UsageError: a user without a password, or both a user and a credential.
    """
    if user is not None:
        if credential is not None or password is None:
            raise UsageError("give user and password, or a credential")
        credential = UsernamePassword(user, password)
    options = options or SessionOptions()
    http = HttpOptions(ca=ca, insecure=insecure, family=options.family)
    return Access(credential=credential or Anonymous(), http=http, session=options, client=client, group=group)


class Connection:
    """A connection to one server; see `connect`. Lost sessions are opened again.

    Paths are absolute, or relative to the directory of the URL.
    """

    def __init__(self, url: RemoteUrl, access: Access) -> None:
        self._url = url
        self._access = access
        self._portal = Portal()
        self._connector = access.connector(url)
        self._pool = SessionPool(self._connector.open)

    def __enter__(self) -> Self:
        self._portal.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._portal.call(self._aclose)
        finally:
            self._portal.__exit__(*exc)

    async def _aclose(self) -> None:
        await self._pool.__aexit__(None, None, None)
        await self._connector.aclose()

    def _run(self, step: Callable[[FTPSession], Awaitable[T]]) -> T:
        async def run() -> T:
            async with self._pool.session() as session:
                return await step(session)

        return self._portal.call(run)

    def _path(self, path: Path) -> bytes:
        raw = os.fsencode(path)
        return raw if raw.startswith(b"/") else remote.join(self._url.path, raw)

    def ls(self, path: Path = "") -> list[FileInfo]:
        """The entries of a directory; a file is its own only entry.

        Raises:
            UFTPError: as described at the top of `uftp.errors`; so for all methods here.
        """
        where = self._path(path)

        async def step(session: FTPSession) -> list[FileInfo]:
            info = await session.stat(where)
            return await session.listdir(where) if info.is_dir else [info]

        return self._run(step)

    def stat(self, path: Path) -> FileInfo:
        """What is known of a file or directory."""
        return self._run(lambda session: session.stat(self._path(path)))

    def exists(self, path: Path) -> bool:
        """Whether there is such a file or directory."""
        return self._run(lambda session: session.stat_or_none(self._path(path))) is not None

    def mkdir(self, path: Path, *, parents: bool = False) -> None:
        """Create a directory; with `parents`, those above it too, and one that is there is no error."""
        where = self._path(path)
        self._run(lambda session: remote.make_directories(session, where) if parents else session.mkdir(where))

    def remove(self, path: Path, *, recursive: bool = False) -> None:
        """Remove a file, or a directory with all that is in it."""
        self._run(lambda session: remote.remove(session, self._path(path), recursive=recursive))

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing a file of the new name."""
        self._run(lambda session: session.rename(self._path(source), self._path(target)))

    def checksum(self, path: Path, algorithm: str | None = None) -> str:
        """The digest of a file in hex, as the server computes it."""
        return self._run(lambda session: session.checksum(self._path(path), algorithm)).digest

    def get(self, source: Path, target: Path, *, options: CopyOptions | None = None) -> CopySummary:
        """Fetch a file or tree. Nothing partial ever has the target's name.

        Raises:
            SomeFailed: some files failed; the others are there.
            UFTPError: see there.
        """
        return self._copy([self._url.display(self._path(source))], os.fsdecode(target), options)

    def put(self, source: Path, target: Path = "", *, options: CopyOptions | None = None) -> CopySummary:
        """Store a file or tree. Nothing partial ever has the target's name.

        Raises:
            SomeFailed: some files failed; the others are there.
            UFTPError: see there.
        """
        return self._copy([os.fsdecode(source)], self._url.display(self._path(target)), options)

    def _copy(self, sources: Sequence[str], target: str, options: CopyOptions | None) -> CopySummary:
        async def run() -> CopySummary:
            return await copy_files(sources, target, access=self._access_for_copy(), options=options)

        summary = self._portal.call(run)
        summary.raise_for_failures()
        return summary

    def _access_for_copy(self) -> Access:
        if self._url.password is None:
            return self._access
        # The URLs handed to the copy have no password in them.
        user = UsernamePassword(self._url.user or "", self._url.password)
        return Access(credential=user, http=self._access.http, session=self._access.session)


def connect(
    url: str,
    *,
    user: str | None = None,
    password: str | None = None,
    credential: Credential | None = None,
    ca: str | None = None,
    insecure: bool = False,
    options: SessionOptions | None = None,
    client: str | None = None,
    group: str | None = None,
) -> Connection:
    """A connection to the server of a URL, to be used as a context manager; the login happens at the first call.

    Args:
        url: `https://host:port/rest/auth/NAME:/path` or `ftp://host/path`. Relative paths start at its path.
        user, password: of the auth server, or the FTP server.
        credential: instead of user and password.
        ca: file with the CA certificates to trust instead of the system's.
        insecure: do not verify the auth server's certificate.
        options: time-outs and addresses.
        client: addresses the FTP connections will come from, if the auth server cannot see them.
        group: primary group asked for.

    Raises:
        UsageError: not such a URL, or credentials that contradict each other.
    """
    access = make_access(
        user=user,
        password=password,
        credential=credential,
        ca=ca,
        insecure=insecure,
        options=options,
        client=client,
        group=group,
    )
    return Connection(parse_url(url), access)

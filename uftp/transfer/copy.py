"""A whole copy, from sources and target as typed to a summary."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio

from uftp.client.auth import HttpOptions
from uftp.client.connect import Connector
from uftp.client.credentials import Anonymous, Credential
from uftp.client.login import SessionOptions
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl, directory_around, is_url, parse_url, session_directory
from uftp.client.wording import printable
from uftp.errors import UFTPError, UsageError
from uftp.transfer import download_plan, upload_plan
from uftp.transfer.archive import upload_archives
from uftp.transfer.options import CopyOptions
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState, CopySummary
from uftp.transfer.resuming import keeping_journal
from uftp.transfer.workers import Scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How servers are reached in a copy.

    Attributes:
        credential: who one is.
        http: how the auth server is talked to.
        session: how FTP sessions behave.
        client: addresses the FTP connections will come from, if the auth server cannot see them.
        group: primary group asked for.
    """

    credential: Credential = field(default_factory=Anonymous)
    http: HttpOptions = field(default_factory=HttpOptions)
    session: SessionOptions = field(default_factory=SessionOptions)
    client: str | None = None
    group: str | None = None

    def connector(
        self,
        url: RemoteUrl,
        directory: bytes | None = None,
        *,
        writes: bool = False,
        digest: bool = True,
        replace_links: bool = False,
    ) -> Connector:
        """Opens sessions on the server of `url`.

        Args:
            url, directory, writes: see `Connector`.
            digest: whether transfers are compared where MODE U can.
            replace_links: see `SessionOptions`.
        """
        return Connector(
            url,
            self.credential,
            directory=directory,
            http=self.http,
            options=replace(
                self.session,
                digest=digest and self.session.digest,
                replace_links=replace_links or self.session.replace_links,
            ),
            client=self.client,
            group=self.group,
            writes=writes,
        )


async def copy_files(
    sources: Sequence[str],
    target: str,
    *,
    access: Access | None = None,
    options: CopyOptions | None = None,
    state: CopyState | None = None,
) -> CopySummary:
    """Copy files and trees to a server, or from one.

    Args:
        sources: local paths (`-` for standard input), or URLs of one server; with wildcards.
        target: a URL, or a local path (`-` for standard output).
        access: credentials and connections.
        options: what to copy, and how.
        state: totals to watch while it runs, and who is told of results.

    Returns:
        What became of each file. A failed file does not stop the others and does not raise; see
        `CopySummary.raise_for_failures`.

    Raises:
        UFTPError: nothing could be copied: a usage that makes no sense, no session, a single source that is not
            there.
    """
    access = access or Access()
    options = options or CopyOptions()
    state = state or CopyState()
    if not sources:
        raise UsageError("nothing to copy")
    remote = [is_url(source) for source in sources]
    if options.archive and (any(remote) or not is_url(target)):
        raise UsageError("archives are unpacked on the server: the sources must be here, the target a directory there")
    if is_url(target):
        if any(remote):
            raise UsageError("one side must be local: copies between servers are not available yet")
        return await _upload(sources, parse_url(target), access, options, state)
    if not all(remote):
        if any(remote):
            raise UsageError("sources must be all local or all on a server")
        raise UsageError(f"{printable(target)}: neither source nor target is a URL; use cp, or name a server")
    return await _download([parse_url(source) for source in sources], target, access, options, state)


async def _download(
    urls: Sequence[RemoteUrl], target: str, access: Access, options: CopyOptions, state: CopyState
) -> CopySummary:
    first = urls[0]
    if any((url.service, url.user, url.password) != (first.service, first.user, first.password) for url in urls):
        raise UsageError("all sources must be on the same server; copy from each of them in turn")
    async with (
        access.connector(first, session_directory(urls), digest=options.verify) as connector,
        _pool(connector, state, options) as pool,
    ):
        roots = await download_plan.find_roots(pool, urls, options, state, to_stdout=target == "-")
        if roots and target == "-":
            await download_plan.to_standard_output(pool, first, roots, options, state)
        elif roots:
            async with pool.session() as session:
                dialect = session.dialect
            ranges = dialect.has_ranges or dialect.has_restart
            names = [url.display() for url in urls]
            here, top = _place_here(target)
            keeping = keeping_journal(
                pool, state, options, sources=names, target=here, target_exists=_exists(here), top=top
            )
            async with keeping as resuming:
                plan = download_plan.DownloadPlan(
                    pool,
                    state,
                    options,
                    first,
                    roots,
                    os.fsencode(target),
                    ranges=ranges,
                    several=len(urls) > 1,
                    begun=resuming is not None and resuming.begun,
                )
                await Scheduler(pool, state, options, resuming).run(plan)
                await trio.to_thread.run_sync(plan.set_directory_facts)
            state.completed = True
    return state.summary()


def _place_here(path: str) -> tuple[str, bytes]:
    """A path whatever the working directory, and the directory whose file system it is in."""
    whole = os.path.abspath(path) + ("/" if path.endswith("/") else "")
    return whole, os.fsencode(whole if os.path.isdir(whole) else os.path.dirname(whole))


def _exists(path: str) -> bool:
    return os.path.exists(path)


async def _upload(
    sources: Sequence[str], url: RemoteUrl, access: Access, options: CopyOptions, state: CopyState
) -> CopySummary:
    if url.pattern is not None:
        raise UsageError(f"{url.display()}: a target cannot have wildcards; write them as %2A, %3F or %5B")
    names = [os.fsencode(source) for source in sources]
    if options.archive:
        directory = directory_around(url)
        async with (
            access.connector(url, directory, writes=True, digest=options.verify) as connector,
            _pool(connector, state, options) as pool,
        ):
            await upload_archives(pool, url, names, state)
        return state.summary()
    roots = await trio.to_thread.run_sync(upload_plan.find_roots, names, options, state)
    if not roots:
        return state.summary()
    # The target itself may not be there yet; its parent has to be.
    directory = directory_around(url)
    # A link that the user has named himself is followed; one that stands in a tree could lead anywhere.
    tree = len(roots) > 1 or roots[0].is_dir
    async with (
        access.connector(url, directory, writes=True, digest=options.verify, replace_links=tree) as connector,
        _pool(connector, state, options) as pool,
    ):
        async with pool.session() as session:
            dialect = session.dialect
            info = await session.stat_or_none(url.path)
        paths = [source if source == "-" else _place_here(source)[0] for source in sources]
        keeping = keeping_journal(
            pool, state, options, sources=paths, target=url.display(), target_exists=info is not None
        )
        async with keeping as resuming:
            begun = resuming is not None and resuming.begun
            plan = upload_plan.UploadPlan(
                pool, state, options, url, info, roots, dialect=dialect, several=len(sources) > 1, begun=begun
            )
            await Scheduler(pool, state, options, resuming).run(plan)
            await plan.set_directory_facts()
        state.completed = True
    return state.summary()


def _pool(connector: Connector, state: CopyState, options: CopyOptions) -> SessionPool:
    async def open_session() -> FTPSession:
        session = await connector.open()
        state.sessions += 1
        state.on_session(f"session {state.sessions} on {session.name}: {session.describe()}")
        return session

    def refused(error: UFTPError) -> None:
        state.on_note(f"going on with fewer sessions: {error}")

    return SessionPool(open_session, retries=options.retries, on_refusal=refused)

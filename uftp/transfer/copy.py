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
from uftp.client.url import RemoteUrl, directory_around, is_url, parse_url, session_directory
from uftp.client.wording import printable
from uftp.errors import UsageError
from uftp.transfer import upload_plan
from uftp.transfer.archive import upload_archives
from uftp.transfer.carrying import bring, make_pool, send
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState, CopySummary


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
        if all(remote):
            raise UsageError("both sides are servers; `uftp rcp` copies from one to the other")
        if any(remote):
            raise UsageError("sources must be all local or all on a server")
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
        make_pool(connector.open, state, options) as pool,
    ):
        await bring(pool, urls, target, options, state)
    return state.summary()


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
            make_pool(connector.open, state, options) as pool,
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
        make_pool(connector.open, state, options) as pool,
    ):
        await send(pool, url, sources, roots, options, state)
    return state.summary()

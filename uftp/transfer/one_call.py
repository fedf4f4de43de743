"""Copy, sync or list with one call, for scripts and notebooks: blocking, or to be awaited.

    uftp.copy("runs", "https://host:9000/rest/auth/TEST:/data/", user="alice", password=secret, recursive=True)
    await uftp.copy_async(...)

The blocking ones run a trio loop in a thread of their own, so an asyncio loop in the calling thread, as Jupyter has
one, does not matter. The others can be awaited under trio, and under asyncio, where they run in such a thread, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from uftp.client.connect import Connector
from uftp.client.credentials import Credential
from uftp.client.login import SessionOptions
from uftp.client.url import parse_url
from uftp.errors import UsageError
from uftp.protocol.facts import FileInfo
from uftp.transfer.calling import Login, OnProgress, anywhere, block, telling
from uftp.transfer.copy import copy_files
from uftp.transfer.filters import Filters, make_rules
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState, CopySummary
from uftp.transfer.sync import SyncSummary
from uftp.transfer.tree_sync import TreeSyncOptions, sync_places


async def copy_async(
    sources: str | Sequence[str],
    target: str,
    *,
    user: str | None = None,
    password: str | None = None,
    credential: Credential | None = None,
    ca: str | None = None,
    insecure: bool = False,
    session: SessionOptions | None = None,
    recursive: bool = False,
    preserve: bool = False,
    threads: int | None = None,
    exclude: Sequence[str] = (),
    options: CopyOptions | None = None,
    state: CopyState | None = None,
    progress: OnProgress | None = None,
) -> CopySummary:
    """Copy files and trees to a server, or from one, as `uftp cp` does. To be awaited under trio or asyncio.

    Args:
        sources: local paths, or URLs of one server; with wildcards.
        target: a URL or a local path.
        user, password, credential, ca, insecure: as for `connect`.
        session: how data travels: encryption, compression, time-outs.
        recursive: copy directories with all that is in them.
        preserve: keep times and permission bits.
        threads: sessions at once; None for what helps.
        exclude: patterns of what is left out, as of --exclude.
        options: instead of the four before: everything `uftp cp` can do.
        state: totals to watch while it runs, and who is told of each file.
        progress: called with how far it is, every half second and at the end; under asyncio, and in the blocking form,
            from another thread.

    Raises:
        SomeFailed: some files failed; the others are there.
        UFTPError: see there.
    """
    names = [sources] if isinstance(sources, str) else list(sources)
    login = Login(
        user=user, password=password, credential=credential, ca=ca, insecure=insecure, session=session
    ).access()
    if options is None:
        filters = Filters(rules=make_rules((False, pattern) for pattern in exclude))
        options = CopyOptions(recursive=recursive, preserve=preserve, threads=threads, filters=filters)
    elif recursive or preserve or threads is not None or exclude:
        raise UsageError("give options, or the single ones, but not both")
    chosen = options
    watched = state or CopyState()

    async def run() -> CopySummary:
        return await copy_files(names, target, access=login, options=chosen, state=watched)

    summary = await anywhere(lambda: telling(run, watched, progress))
    summary.raise_for_failures()
    return summary


async def sync_async(
    source: str,
    target: str,
    *,
    user: str | None = None,
    password: str | None = None,
    credential: Credential | None = None,
    ca: str | None = None,
    insecure: bool = False,
    session: SessionOptions | None = None,
    delete: bool = False,
    checksum: bool = False,
    update: bool = False,
    dry_run: bool = False,
    exclude: Sequence[str] = (),
    options: TreeSyncOptions | None = None,
    state: CopyState | None = None,
    progress: OnProgress | None = None,
) -> CopySummary | SyncSummary:
    """Make a tree or a file equal to another, as `uftp sync` does. To be awaited under trio or asyncio.

    Args:
        source: a local path or a URL.
        target: the other kind; of a tree the place of the tree itself.
        user, password, credential, ca, insecure, session, state, progress: as for `copy_async`.
        delete: remove what the source does not have, after all else has succeeded.
        checksum: compare by content, not by size and time.
        update: leave what is newer at the target.
        dry_run: change nothing; `state` is told what would be done.
        exclude: patterns of what is neither copied nor removed.
        options: instead of the five before: everything `uftp sync` can do.

    Returns:
        For a tree what became of its files, for a file what had to move.

    Raises:
        SomeFailed: some files failed; the others are there, and nothing was removed.
        UFTPError: see there.
    """
    login = Login(
        user=user, password=password, credential=credential, ca=ca, insecure=insecure, session=session
    ).access()
    if options is None:
        filters = Filters(rules=make_rules((False, pattern) for pattern in exclude))
        how = CopyOptions(dry_run=dry_run, filters=filters)
        options = TreeSyncOptions(copy=how, delete=delete, checksum=checksum, update=update)
    elif delete or checksum or update or dry_run or exclude:
        raise UsageError("give options, or the single ones, but not both")
    chosen = options
    watched = state or CopyState()

    async def run() -> CopySummary | SyncSummary:
        return await sync_places(source, target, access=login, options=chosen, state=watched)

    summary = await anywhere(lambda: telling(run, watched, progress))
    if isinstance(summary, CopySummary):
        summary.raise_for_failures()
    return summary


async def listdir_async(
    url: str,
    *,
    user: str | None = None,
    password: str | None = None,
    credential: Credential | None = None,
    ca: str | None = None,
    insecure: bool = False,
) -> list[FileInfo]:
    """The entries of a directory on a server in order of their names; a file is its own only entry. As `copy_async`.

    Args:
        url: of the directory.
        user, password, credential, ca, insecure: as for `connect`.

    Raises:
        UFTPError: see there.
    """
    place = parse_url(url)
    login = Login(user=user, password=password, credential=credential, ca=ca, insecure=insecure).access()

    async def run() -> list[FileInfo]:
        connector: Connector
        async with login.connector(place) as connector, await connector.open() as session:
            info = await session.stat(place.path)
            entries = await session.listdir(place.path) if info.is_dir else [info]
        return sorted(entries, key=lambda entry: entry.name)

    return await anywhere(run)


def copy(
    sources: str | Sequence[str],
    target: str,
    *,
    user: str | None = None,
    password: str | None = None,
    credential: Credential | None = None,
    ca: str | None = None,
    insecure: bool = False,
    session: SessionOptions | None = None,
    recursive: bool = False,
    preserve: bool = False,
    threads: int | None = None,
    exclude: Sequence[str] = (),
    options: CopyOptions | None = None,
    state: CopyState | None = None,
    progress: OnProgress | None = None,
) -> CopySummary:
    """`copy_async` for callers that are not async; see there."""
    return block(
        lambda: copy_async(
            sources,
            target,
            user=user,
            password=password,
            credential=credential,
            ca=ca,
            insecure=insecure,
            session=session,
            recursive=recursive,
            preserve=preserve,
            threads=threads,
            exclude=exclude,
            options=options,
            state=state,
            progress=progress,
        )
    )


def sync(
    source: str,
    target: str,
    *,
    user: str | None = None,
    password: str | None = None,
    credential: Credential | None = None,
    ca: str | None = None,
    insecure: bool = False,
    session: SessionOptions | None = None,
    delete: bool = False,
    checksum: bool = False,
    update: bool = False,
    dry_run: bool = False,
    exclude: Sequence[str] = (),
    options: TreeSyncOptions | None = None,
    state: CopyState | None = None,
    progress: OnProgress | None = None,
) -> CopySummary | SyncSummary:
    """`sync_async` for callers that are not async; see there."""
    return block(
        lambda: sync_async(
            source,
            target,
            user=user,
            password=password,
            credential=credential,
            ca=ca,
            insecure=insecure,
            session=session,
            delete=delete,
            checksum=checksum,
            update=update,
            dry_run=dry_run,
            exclude=exclude,
            options=options,
            state=state,
            progress=progress,
        )
    )


def listdir(
    url: str,
    *,
    user: str | None = None,
    password: str | None = None,
    credential: Credential | None = None,
    ca: str | None = None,
    insecure: bool = False,
) -> list[FileInfo]:
    """`listdir_async` for callers that are not async; see there."""
    return block(
        lambda: listdir_async(url, user=user, password=password, credential=credential, ca=ca, insecure=insecure)
    )

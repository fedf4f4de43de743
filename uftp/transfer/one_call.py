"""Copy, sync or list with one call, for scripts and notebooks: blocking, or to be awaited.

    uftp.copy("runs", "https://host:9000/rest/auth/TEST:/data/", user="alice", password=secret, recursive=True)
    await uftp.copy_async(...)

The blocking ones run a trio loop in a thread of their own, so an asyncio loop in the calling thread, as Jupyter has
one, does not matter. The others can be awaited under trio, and under asyncio, where they run in such a thread, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from uftp.client.connect import Connector
from uftp.client.credentials import Credential
from uftp.client.login import SessionOptions
from uftp.client.portal import Portal
from uftp.client.url import parse_url
from uftp.errors import UsageError
from uftp.protocol.facts import FileInfo
from uftp.transfer.blocking import make_access
from uftp.transfer.copy import Access, copy_files
from uftp.transfer.filters import Filters, make_rules
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState, CopySummary
from uftp.transfer.sync import SyncSummary
from uftp.transfer.tree_sync import TreeSyncOptions, sync_places

T = TypeVar("T")

_PROGRESS_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a copy is.

    Attributes:
        files, failed, unchanged: done, not done, left alone so far.
        files_found: by the planner so far.
        bytes: moved so far.
        taken_over: bytes that an interrupted copy had brought before.
        bytes_found: to be moved, as far as known.
        planned: whether `files_found` and `bytes_found` are all there is.
        seconds: since the beginning.
    """

    files: int
    failed: int
    unchanged: int
    files_found: int
    bytes: int
    taken_over: int
    bytes_found: int
    planned: bool
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes per second since the beginning."""
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def fraction(self) -> float | None:
        """How much of it is done, 0 to 1; None as long as nobody knows."""
        if not self.planned or not self.bytes_found:
            return None
        return min(1.0, (self.bytes + self.taken_over) / self.bytes_found)

    @classmethod
    def of(cls, state: CopyState) -> Progress:
        """As it is now."""
        return cls(
            files=state.files_done,
            failed=state.files_failed,
            unchanged=state.files_unchanged,
            files_found=state.files_found,
            bytes=state.moved,
            taken_over=state.taken_over,
            bytes_found=state.bytes_found,
            planned=state.planned,
            seconds=time.monotonic() - state.started,
        )


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who one is and how servers are reached; see `uftp.connect` for its members."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    credential: Credential | None = None
    ca: str | None = None
    insecure: bool = False
    session: SessionOptions | None = None

    def access(self) -> Access:
        """For the copy engine.

        Raises:
            UsageError: a user without a password, or both a user and a credential.
        """
        return make_access(
            user=self.user,
            password=self.password,
            credential=self.credential,
            ca=self.ca,
            insecure=self.insecure,
            options=self.session,
        )


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

    summary = await _anywhere(lambda: _telling(run, watched, progress))
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

    summary = await _anywhere(lambda: _telling(run, watched, progress))
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

    return await _anywhere(run)


async def _telling(run: Callable[[], Awaitable[T]], state: CopyState, progress: OnProgress | None) -> T:
    """Run under trio, and tell of progress meanwhile; what `progress` raises ends it."""
    if progress is None:
        return await run()
    results: list[T] = []
    failures: list[BaseException] = []

    async def tell() -> None:
        while True:
            await trio.sleep(_PROGRESS_SECONDS)
            progress(Progress.of(state))

    async with trio.open_nursery() as nursery:
        # Errors are carried over the nursery, which would put them into a group.
        with trio.CancelScope() as work:

            async def tell_or_stop() -> None:
                try:
                    await tell()
                except Exception as error:
                    failures.append(error)
                    work.cancel()

            nursery.start_soon(tell_or_stop)
            try:
                results.append(await run())
            except Exception as error:
                failures.append(error)
        nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]
    progress(Progress.of(state))
    return results[0]


async def _anywhere(function: Callable[[], Awaitable[T]]) -> T:
    """Run a trio function: here under trio, in a thread of its own under asyncio. Cancelling waits for its cleaning."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return await function()  # trio; where there is no loop at all, this says so
    with_loop = asyncio.get_running_loop()
    portal = await with_loop.run_in_executor(None, lambda: Portal().__enter__())
    try:
        call = portal.submit(function)
        try:
            return await asyncio.wrap_future(call.future)
        except asyncio.CancelledError:
            call.cancel()
            raise
    finally:
        await asyncio.shield(with_loop.run_in_executor(None, lambda: portal.__exit__(None, None, None)))


def _block(function: Callable[[], Awaitable[T]]) -> T:
    with Portal() as portal:
        return portal.call(function)


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
    return _block(
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
    return _block(
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
    return _block(
        lambda: listdir_async(url, user=user, password=password, credential=credential, ca=ca, insecure=insecure)
    )

"""`sync` of trees: the target becomes equal to the source, moving only what differs.

The order is what makes it safe. First everything is copied that has a free place or replaces a file; then, if nothing
failed and every directory could be listed, what the source does not have is removed, and what stood in the way is
replaced; times and modes of directories come last.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import trio

from uftp.client.connect import Connector
from uftp.client.dialect import Dialect
from uftp.client.listings import Entry
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl, directory_around, is_url, parse_url
from uftp.client.wording import printable
from uftp.errors import NotFound, Refused, UFTPError, UsageError
from uftp.transfer.copy import Access
from uftp.transfer.deltas import Deltas
from uftp.transfer.local import local_error
from uftp.transfer.local_side import LocalSide
from uftp.transfer.options import CopyOptions
from uftp.transfer.plan import join
from uftp.transfer.pool import SessionPool
from uftp.transfer.remote_side import RemoteSide
from uftp.transfer.results import CopyState, CopySummary, FileResult
from uftp.transfer.resuming import Resuming, keeping_journal
from uftp.transfer.sync import TRUSTED, SyncSummary, login_of, sync_file
from uftp.transfer.sync_comparison import Comparison
from uftp.transfer.tree_makers import DownloadMaker, Maker, UploadMaker
from uftp.transfer.tree_plan import Later, Notes, Pair, PlanOptions, TreePlan
from uftp.transfer.tree_sides import Outcome, Side
from uftp.transfer.workers import Scheduler

Delta = Literal["auto", "always", "never"]

_PLANNING_SESSIONS: Final = 2  # so that listings need not wait for a transfer to end
_REMOVED_AT_ONCE: Final = 512
_FACTS_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSyncOptions:
    """What a sync of trees is asked to do.

    Attributes:
        copy: how files are copied; filters, dry run and limits count here, too. Times and modes are always kept.
        delete: remove what the source does not have; what the filters leave out is kept.
        delete_excluded: remove that, too.
        force: even if the source is empty.
        checksum: compare files of the same size by what is in them, not by their times.
        size_only: compare by size alone.
        update: leave files that are newer at the target.
        delta: send large files that have an older version at the target as changes: where it pays, always, or never.
    """

    copy: CopyOptions = field(default_factory=CopyOptions)
    delete: bool = False
    delete_excluded: bool = False
    force: bool = False
    checksum: bool = False
    size_only: bool = False
    update: bool = False
    delta: Delta = "auto"


async def sync_places(
    source: str,
    target: str,
    *,
    access: Access | None = None,
    options: TreeSyncOptions | None = None,
    state: CopyState | None = None,
) -> CopySummary | SyncSummary:
    """Make `target` equal to `source`, a tree or a file; one of them is here, the other one on a server.

    Args:
        source: a local path or a URL.
        target: the other kind. Of a tree it is the place of the tree itself, made if its parent is there; of a file see
            `uftp.transfer.sync.sync_file`.
        access: credentials and connections.
        options: what to do.
        state: totals to watch while it runs, and who is told of results.

    Returns:
        For a tree what became of each file: a failed one does not stop the others, see
        `CopySummary.raise_for_failures`. For a file what had to move.

    Raises:
        UsageError: it makes no sense, or would empty the target without `force`.
        UFTPError: nothing could be done, or the session was lost for good. Nothing has been removed then, or not all
            that was to be.
    """
    access = access or Access()
    options = options or TreeSyncOptions()
    state = state or CopyState()
    if options.checksum and options.size_only:
        raise UsageError("by checksum or by size alone: only one of them makes sense")
    if is_url(source) == is_url(target):
        raise UsageError(f"{printable(target)}: one of the two must be on a server, and the other one here")
    url = parse_url(source if is_url(source) else target)
    if url.pattern is not None:
        raise UsageError(f"{url.display()}: sync takes no wildcards; it makes one place equal to another")
    # A journal knows files by size and time, which is what --checksum does not trust.
    resume = False if options.checksum else options.copy.resume
    options = replace(options, copy=replace(options.copy, recursive=True, preserve=True, resume=resume))
    job = _TreeSync(access, options, state, url)
    if is_url(source):
        return await job.download(os.fsencode(target)) or await _one_file(source, target, access, options, state)
    return await job.upload(os.fsencode(source)) or await _one_file(source, target, access, options, state)


async def _one_file(
    source: str, target: str, access: Access, options: TreeSyncOptions, state: CopyState
) -> SyncSummary:
    asked = [
        name
        for name, given in (
            ("--delete", options.delete),
            ("--delete-excluded", options.delete_excluded),
            ("--checksum", options.checksum),
            ("--size-only", options.size_only),
            ("--update", options.update),
            ("--dry-run", options.copy.dry_run),
            ("a filter", not options.copy.filters.takes_all),
        )
        if given
    ]
    if asked:
        raise UsageError(f"{printable(source)}: is a file; {asked[0]} is for trees")
    state.on_result = lambda result: None  # the summary says it all
    return await sync_file(source, target, access=access, state=state)


class _TreeSync:
    def __init__(self, access: Access, options: TreeSyncOptions, state: CopyState, url: RemoteUrl) -> None:
        self._access = access
        self._options = options
        self._state = state
        self._url = url
        self._later = Later()
        self._verify = options.copy.verify

    @asynccontextmanager
    async def _pool(self, connector: Connector) -> AsyncIterator[SessionPool]:
        state = self._state

        async def open_session() -> FTPSession:
            session = await connector.open()
            state.sessions += 1
            state.on_session(f"session {state.sessions} on {session.name}: {session.describe()}")
            return session

        async with SessionPool(
            open_session,
            retries=self._options.copy.retries,
            on_refusal=lambda error: state.on_note(f"going on with fewer sessions: {error}"),
        ) as pool:
            pool.allow(_PLANNING_SESSIONS)
            yield pool

    # -- both directions ------------------------------------------------------------------------------------------

    async def upload(self, local: bytes) -> CopySummary | None:
        """The local tree to the server; None if it is a file."""
        if local == b"-":
            raise UsageError("-: sync needs a file or a tree; standard input can be copied with cp")
        try:
            info = await trio.to_thread.run_sync(os.stat, local)
        except OSError as error:
            raise local_error(error, local, "read it") from error
        if not stat.S_ISDIR(info.st_mode):
            return None
        top = _top(info)
        url = self._url
        async with (
            self._access.connector(
                url, directory_around(url), writes=True, digest=self._verify, replace_links=True
            ) as connector,
            self._pool(connector) as pool,
        ):
            async with pool.session() as session:
                dialect = session.dialect
                there = await session.stat_or_none(url.path)
            if there is not None and not there.is_dir:
                raise UsageError(f"{url.display()}: is a file; a tree cannot take its place")
            options = self._plan_options(dialect, uploads=True)
            source = LocalSide(local, self._options.copy.links)
            target = RemoteSide(pool, url, dialect, "keep")
            deltas = self._deltas(dialect, pool)
            maker = UploadMaker(local, url, self._options.copy, self._state, dialect, deltas)
            present = None if there is None else Entry.of(there)
            if there is None and not self._options.copy.dry_run:
                async with pool.session() as session:
                    await session.mkdir(url.path.rstrip(b"/"))
            pair = Pair(b"", top, present, frozenset())
            place = os.fsdecode(_absolute(local))
            async with keeping_journal(
                pool, self._state, self._options.copy, sources=[place], target=url.display()
            ) as kept:
                await self._run(pool, source, target, maker, options, pair, kept)
        return self._state.summary()

    async def download(self, local: bytes) -> CopySummary | None:
        """The server's tree to here; None if it is a file."""
        if local == b"-":
            raise UsageError("-: sync needs a place to compare with; use cat, or cp to standard output")
        url = self._url
        async with self._access.connector(url, digest=self._verify) as connector, self._pool(connector) as pool:
            async with pool.session() as session:
                dialect = session.dialect
                info = await session.stat(url.path)
            if not info.is_dir:
                return None
            self._check_links(dialect)
            options = self._plan_options(dialect, uploads=False)
            present = await trio.to_thread.run_sync(self._local_target, local)
            source = RemoteSide(pool, url, dialect, self._options.copy.links)
            target = LocalSide(local, "keep")
            maker = DownloadMaker(local, url, self._options.copy, dialect, self._deltas(dialect, pool))
            top = Entry.of(info)._replace(name=b"")
            pair = Pair(b"", top, present, frozenset())
            place = _absolute(local)
            async with keeping_journal(
                pool, self._state, self._options.copy, sources=[url.display()], target=os.fsdecode(place), top=place
            ) as kept:
                await self._run(pool, source, target, maker, options, pair, kept)
        return self._state.summary()

    def _local_target(self, local: bytes) -> Entry | None:
        try:
            info = os.stat(local)
        except FileNotFoundError:
            if not self._options.copy.dry_run:
                try:
                    os.mkdir(local, 0o777)
                except OSError as error:
                    raise local_error(error, local, "create the directory") from error
            return None
        except OSError as error:
            raise local_error(error, local, "look at it") from error
        if not stat.S_ISDIR(info.st_mode):
            raise UsageError(f"{printable(local)}: is a file; a tree cannot take its place")
        return _top(info)

    def _check_links(self, dialect: Dialect) -> None:
        if self._options.copy.links != "follow" and not dialect.has_links:
            raise Refused(
                f"{self._url.display()}: the server does not tell links from what they point to; "
                "leave --links out to follow them"
            )

    def _deltas(self, dialect: Dialect, pool: SessionPool) -> Deltas | None:
        session = self._access.session
        possible = dialect.is_uftp and any(name in dialect.features.hash_algorithms for name in TRUSTED)
        if not possible or self._options.delta == "never" or session.encrypt or session.compress:
            return None
        return Deltas(pool, self._url, self._state, always=self._options.delta == "always")

    async def _run(
        self,
        pool: SessionPool,
        source: Side,
        target: Side,
        maker: Maker,
        plan_options: PlanOptions,
        top: Pair,
        kept: Resuming | None,
    ) -> None:
        self._protects = plan_options.protects
        try:
            plan = TreePlan(source, target, maker, plan_options, self._state, self._later, [top])
            await self._carry_out(pool, plan, kept)
            await self._send_changes(source, target, maker)
            if await self._may_remove(target):
                await self._remove(target, self._later.in_the_way)
                if self._later.replacements and self._is_clean:
                    again = TreePlan(
                        source, target, maker, plan_options, self._state, self._later, (), self._later.replacements
                    )
                    await self._carry_out(pool, again, kept)
                if self._is_clean:
                    await self._remove(target, self._later.extra)
            await self._set_directory_facts(target)
        finally:
            self._later.close()

    def _plan_options(self, dialect: Dialect, *, uploads: bool) -> PlanOptions:
        options = self._options
        algorithm = None
        if options.checksum:
            algorithm = next((name for name in TRUSTED if name in dialect.features.hash_algorithms), None)
            if algorithm is None:
                raise Refused(f"{self._url.display()}: the server computes no checksums; leave --checksum out")
        kept = not uploads or dialect.kind in ("ours", "other") or "MFMT" in dialect.features
        return PlanOptions(
            filters=options.copy.filters,
            links=options.copy.links,
            comparison=Comparison(
                checksum=options.checksum,
                size_only=options.size_only,
                update=options.update,
                rough=dialect.listing == "LIST",
                times_kept=kept,
            ),
            algorithm=algorithm,
            delete=options.delete or options.delete_excluded,
            delete_excluded=options.delete_excluded,
            refuse_empty=(options.delete or options.delete_excluded) and not options.force,
            dry_run=options.copy.dry_run,
        )

    async def _carry_out(self, pool: SessionPool, plan: TreePlan, kept: Resuming | None) -> None:
        if self._options.copy.dry_run:
            await plan(_NoQueue())
            self._state.planned = True
        else:
            await Scheduler(pool, self._state, self._options.copy, kept).run(plan)

    # -- afterwards -----------------------------------------------------------------------------------------------

    @property
    def _is_clean(self) -> bool:
        return not (self._state.files_failed or self._state.ended_early or self._later.incomplete)

    async def _may_remove(self, target: Side) -> bool:
        later = self._later
        waiting = later.extra.count + later.in_the_way.count
        if not waiting:
            return False
        if self._is_clean:
            return True
        why = "a directory could not be listed" if later.incomplete else "not everything was copied"
        self._state.on_note(f"nothing was removed at {target.display(b'')}, as {why}")
        for one in later.replacements:
            place = target.display(one.relative)
            error = Refused(f"{place}: something of another kind is in the way, and stays there, as {why}")
            self._state.record(FileResult(source="", target=place, error=error))
        return False

    async def _remove(self, target: Side, notes: Notes) -> None:
        files: list[bytes] = []
        directories: list[bytes] = []
        for mark, relative in notes:
            (directories if mark == b"d" else files).append(relative)
            if len(files) + len(directories) >= _REMOVED_AT_ONCE:
                await self._remove_some(target, files, directories)
                files, directories = [], []
        await self._remove_some(target, files, directories)

    async def _remove_some(self, target: Side, files: Sequence[bytes], directories: Sequence[bytes]) -> None:
        await self._remove_files(target, files)
        await self._remove_trees(target, directories)

    async def _remove_files(self, target: Side, files: Sequence[bytes]) -> bool:
        outcomes: Sequence[Outcome] = [None] * len(files)
        if files and not self._options.copy.dry_run:
            outcomes = await target.remove_files(files)
        self._report_removed(target, files, outcomes)
        return all(outcome is None for outcome in outcomes)

    def _report_removed(self, target: Side, places: Sequence[bytes], outcomes: Sequence[Outcome]) -> None:
        for place, outcome in zip(places, outcomes, strict=True):
            shown = target.display(place)
            self._state.record(FileResult(source="", target=shown, action="delete", error=outcome))

    async def _remove_trees(self, target: Side, directories: Sequence[bytes]) -> set[bytes]:
        """Remove directories with what is in them, but for what the filters protect; those that are gone."""
        links = {one for one in directories if await self._was_link(target, one)}
        directories = [one for one in directories if one not in links]
        if not directories:
            return links
        files: list[bytes] = []
        below: list[bytes] = []
        kept: set[bytes] = set()
        for directory, entries in zip(directories, await target.entries(directories), strict=True):
            if isinstance(entries, UFTPError):
                self._report_removed(target, [directory], [entries])
                kept.add(directory)
                continue
            for entry in entries:
                place = join(directory, entry.name)
                if self._protects(place, entry):
                    kept.add(directory)
                elif entry.kind == "directory":
                    below.append(place)
                else:
                    files.append(place)
        if not await self._remove_files(target, files):
            kept.update(directories)  # those with failures would be refused; the others are tried next time
        if below:
            gone = await self._remove_trees(target, below)
            kept.update(place.rpartition(b"/")[0] for place in below if place not in gone)
        empty = [directory for directory in directories if directory not in kept]
        outcomes: Sequence[Outcome] = [None] * len(empty)
        if empty and not self._options.copy.dry_run:
            outcomes = await target.remove_directories(empty)
        self._report_removed(target, empty, outcomes)
        return links | {place for place, outcome in zip(empty, outcomes, strict=True) if outcome is None}

    async def _was_link(self, target: Side, place: bytes) -> bool:
        """On a server that does not tell, a link to a directory looks like one; what it points to is not ours."""
        if not isinstance(target, RemoteSide) or not target.hides_links or self._options.copy.dry_run:
            return False
        if not await target.remove_link(place):
            return False
        self._report_removed(target, [place], [None])
        return True

    async def _send_changes(self, source: Side, target: Side, maker: Maker) -> None:
        """Large files of which an older version is there."""
        deltas = maker.deltas
        if deltas is None or self._state.ended_early:
            return
        for relative, _ in deltas.waiting:
            shown = source.display(relative), target.display(relative)
            began = trio.current_time()
            try:
                summary = await sync_file(
                    *shown, access=login_of(self._access, self._url), state=self._state, preserve=True
                )
            except UFTPError as error:
                self._state.record(FileResult(source=shown[0], target=shown[1], error=error))
                continue
            self._state.record(
                FileResult(source=shown[0], target=shown[1], bytes=summary.literal, seconds=trio.current_time() - began)
            )

    async def _set_directory_facts(self, target: Side) -> None:
        if self._options.copy.dry_run:
            return
        facts = [facts for _, facts in sorted(self._later.changed.items(), reverse=True)]  # the deepest first
        failed, first = 0, ""
        for start in range(0, len(facts), _FACTS_AT_ONCE):
            some = facts[start : start + _FACTS_AT_ONCE]
            for one, outcome in zip(some, await target.set_facts(some), strict=True):
                if outcome is not None and not isinstance(outcome, NotFound):
                    first = first or f"{target.display(one.relative)}: {outcome}"
                    failed += 1
        if failed:
            self._state.on_note(f"time or mode of {failed} directories could not be set; the first: {first}")


class _NoQueue:
    """For a dry run, in which nothing is offered."""

    async def offer(self, task: object, /) -> None:
        raise AssertionError("a dry run copies nothing")

    offer_batch = offer


def _top(info: os.stat_result) -> Entry:
    unique = b"%d.%d" % (info.st_dev, info.st_ino)
    return Entry(b"", "directory", 0, info.st_mtime_ns, stat.S_IMODE(info.st_mode) & 0o777, None, unique)


def _absolute(local: bytes) -> bytes:
    return os.path.abspath(local)

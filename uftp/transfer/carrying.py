"""A copy over sessions that can be had: one way or the other, whoever opens them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl
from uftp.errors import UFTPError
from uftp.transfer import download_plan, upload_plan
from uftp.transfer.options import CopyOptions
from uftp.transfer.plan import Root
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState
from uftp.transfer.resuming import keeping_journal
from uftp.transfer.workers import Scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneSource:
    """A local file that is sent under an exact name: no directory, no pattern.

    Attributes:
        path: what is opened.
        shown: what messages and the journal call it.
    """

    path: bytes
    shown: str


def make_pool(
    open_session: Callable[[], Awaitable[FTPSession]],
    state: CopyState,
    options: CopyOptions,
    *,
    may_open: Callable[[], bool] = lambda: True,
) -> SessionPool:
    """A pool that tells `state` of its sessions.

    Args:
        open_session, may_open: see `SessionPool`.
        state, options: of the copy.
    """

    async def open_it() -> FTPSession:
        session = await open_session()
        state.sessions += 1
        state.on_session(f"session {state.sessions} on {session.name}: {session.describe()}")
        return session

    def refused(error: UFTPError) -> None:
        state.on_note(f"going on with fewer sessions: {error}")

    return SessionPool(open_it, retries=options.retries, on_refusal=refused, may_open=may_open)


async def bring(
    pool: SessionPool,
    urls: Sequence[RemoteUrl],
    target: str,
    options: CopyOptions,
    state: CopyState,
    *,
    lone: download_plan.LoneTarget | None = None,
    keep: Callable[[], bool] = lambda: True,
) -> None:
    """Copy from a server.

    Args:
        pool: sessions there.
        urls: what, on that server.
        target: local path, `-` for standard output.
        options, state: of the copy.
        lone: the target if it is one file under an exact name, instead of the rules of `cp`; then there is one URL.
        keep: asked when the copy ends early: whether what a later one can go on with stays.

    Raises:
        UFTPError: nothing could be copied.
    """
    roots = await download_plan.find_roots(pool, urls, options, state, to_stdout=target == "-")
    if roots and target == "-":
        await download_plan.to_standard_output(pool, urls[0], roots, options, state)
    elif roots:
        async with pool.session() as session:
            dialect = session.dialect
        ranges = dialect.has_ranges or dialect.has_restart
        names = [url.display() for url in urls]
        here, top = (lone.shown, os.path.dirname(lone.place)) if lone is not None else _place_here(target)
        keeping = keeping_journal(
            pool, state, options, sources=names, target=here, target_exists=_exists(here), top=top, keep=keep
        )
        async with keeping as resuming:
            plan = download_plan.DownloadPlan(
                pool,
                state,
                options,
                urls[0],
                roots,
                os.fsencode(target),
                ranges=ranges,
                several=len(urls) > 1,
                begun=resuming is not None and resuming.begun,
                lone=lone,
            )
            await Scheduler(pool, state, options, resuming).run(plan)
            await trio.to_thread.run_sync(plan.set_directory_facts)
        state.completed = True


def _place_here(path: str) -> tuple[str, bytes]:
    """A path whatever the working directory, and the directory whose file system it is in."""
    whole = os.path.abspath(path) + ("/" if path.endswith("/") else "")
    return whole, os.fsencode(whole if os.path.isdir(whole) else os.path.dirname(whole))


def _exists(path: str) -> bool:
    return os.path.exists(path)


async def send(
    pool: SessionPool,
    url: RemoteUrl,
    sources: Sequence[str],
    roots: Sequence[Root],
    options: CopyOptions,
    state: CopyState,
    *,
    lone: LoneSource | None = None,
    keep: Callable[[], bool] = lambda: True,
) -> None:
    """Copy to a server.

    Args:
        pool: sessions there.
        url: the target.
        sources: local paths as named.
        roots: what they come to, see `uftp.transfer.upload_plan.find_roots`.
        options, state: of the copy.
        lone: the source if it is one file, and `url` the exact name of its target; then it is the only root.
        keep: as for `bring`.

    Raises:
        UFTPError: nothing could be copied.
    """
    async with pool.session() as session:
        dialect = session.dialect
        info = await session.stat_or_none(url.path)
    paths = [source if source == "-" else _place_here(source)[0] for source in sources]
    keeping = keeping_journal(
        pool,
        state,
        options,
        sources=paths if lone is None else [lone.shown],
        target=url.display(),
        target_exists=info is not None,
        keep=keep,
    )
    async with keeping as resuming:
        plan = upload_plan.UploadPlan(
            pool,
            state,
            options,
            url,
            info,
            roots,
            dialect=dialect,
            several=len(sources) > 1,
            begun=resuming is not None and resuming.begun,
            lone=None if lone is None else lone.shown,
        )
        await Scheduler(pool, state, options, resuming).run(plan)
        await plan.set_directory_facts()
    state.completed = True

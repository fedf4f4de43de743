"""Copies between servers that were started earlier: how they stand, ending them, and going on to wait."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from uftp.client import server_copies
from uftp.client.session import FTPSession
from uftp.errors import NotFound, Refused, UFTPError, UsageError
from uftp.protocol.server_copies import MAX_ID, CopyError, CopyStatus
from uftp.transfer.between_places import Copy, Place
from uftp.transfer.between_sides import open_on_node
from uftp.transfer.between_watch import Watcher
from uftp.transfer.results import CopyState, CopySummary

_MAX_NODES: Final = 64  # behind one name


def parse_copy_number(text: str) -> int:
    """The id of a copy as typed.

    Raises:
        UsageError: it is none.
    """
    if not text.isascii() or not text.isdigit() or int(text) > MAX_ID:
        raise UsageError(f"{text}: not the id of a copy; `uftp rcp --no-wait` prints it, a number")
    return int(text)


@contextlib.asynccontextmanager
async def _finding(at: Place, number: int) -> AsyncIterator[tuple[FTPSession, CopyStatus]]:
    """A session on the node that knows a copy, and how it stands, for the block.

    A name may stand for several nodes, and only the one that runs a copy knows it; NAME-1, NAME-2 are the single ones
    (CONTROL-PLANE 3).

    Raises:
        NotFound: none of them knows it.
    """
    error: UFTPError = NotFound(
        f"copy {number}: {at.url.service} knows no such copy of yours; it is forgotten an hour after its end"
    )
    for instance in range(_MAX_NODES):
        url = at.url if not instance else replace(at.url, service=f"{at.url.service}-{instance}")
        try:
            # Nothing is looked at but the copy: the home directory is always there.
            async with at.access.connector(url, b"") as connector, await connector.open() as session:
                if not server_copies.can_report(session):
                    raise Refused(f"{session.name}: this server tells nothing of copies, and cannot end them")
                status = await server_copies.status(session, number)
                if status.word != "UNKNOWN":
                    yield session, status
                    return
        except NotFound:
            if not instance:
                raise
            break
        except UFTPError as failure:
            if not instance or at.url.kind != "auth":
                raise
            error = failure  # this node is down, and may be the one; the others can still be asked
            continue
        if at.url.kind != "auth":
            break
    raise error


async def copy_status(at: Place, number: int) -> tuple[CopyStatus, list[CopyError]]:
    """How a copy stands, and which files have failed in it so far.

    Args:
        at: the server that runs it, by any place there.
        number: its id.

    Raises:
        NotFound: the server does not know it, or not as one of this person's.
        Refused: the server tells nothing of copies.
    """
    async with _finding(at, number) as (session, status):
        failures: list[CopyError] = []
        if status.failed and server_copies.can_copy_trees(session):
            failures, following = await server_copies.errors(session, number)
            while following:
                some, following = await server_copies.errors(session, number, following)
                failures += some
        return status, failures


async def abort_copy(at: Place, number: int, *, keep: bool = False) -> str:
    """End a copy, and wait until it has ended.

    Args:
        at, number: as of `copy_status`.
        keep: leave what a later copy can go on with.

    Returns:
        ABORTED, or what it was already.

    Raises:
        NotFound, Refused: as of `copy_status`.
    """
    async with _finding(at, number) as (session, _):
        return await server_copies.abort(session, number, keep=keep and server_copies.can_copy_trees(session))


async def watch_copy(at: Place, number: int, *, state: CopyState) -> CopySummary:
    """Wait for a copy. Cancelled, it goes on: somebody else has started it.

    Args:
        at, number: as of `copy_status`.
        state: totals to watch.

    Raises:
        NotFound, Refused: as of `copy_status`.
        UFTPError: as of `Watcher.run`.
    """
    async with _finding(at, number) as (session, _):
        control = session.control
        copy = Copy(id=number, host=control.host, port=control.port, at=at, source=at, target=at, way="receive")
        state.sessions += 1

        async with at.access.connector(at.url, b"") as connector, AsyncExitStack() as opened:

            async def again(copy: Copy) -> FTPSession:
                return await opened.enter_async_context(await open_on_node(connector, copy))

            await Watcher(copy, again, state, keep=True, last=True, lasting=True).run(session)
    state.planned = True
    return state.summary()

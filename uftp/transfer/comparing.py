"""What is on the other side already, for copies that leave unchanged files alone (`CopyOptions.unchanged`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from uftp.client.listings import Listing, list_many
from uftp.errors import NetworkError, NotFound, UFTPError
from uftp.transfer.batch import SmallFile
from uftp.transfer.options import FileFacts, Unchanged
from uftp.transfer.plan import join
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState
from uftp.transfer.retrying import wait_before

Files = dict[bytes, FileFacts]


def take_changed(
    files: Sequence[SmallFile],
    relative: bytes,
    there: Mapping[bytes, FileFacts],
    unchanged: Unchanged,
    state: CopyState,
) -> list[SmallFile]:
    """The files of a directory that have to be copied; the others are counted as unchanged.

    Args:
        files: of the source.
        relative: the directory, below the target.
        there: by name, the files it has on the other side.
        unchanged: see there.
        state: counts.
    """
    changed: list[SmallFile] = []
    for file in files:
        other = there.get(file.name)
        facts = FileFacts(join(relative, file.name), file.size, file.mtime_ns, file.permissions)
        if other is not None and unchanged(facts, other):
            state.files_unchanged += 1
        else:
            changed.append(file)
    return changed


async def list_files(
    pool: SessionPool, target: bytes, relatives: Sequence[bytes], *, retries: int
) -> dict[bytes, Files]:
    """The regular files in directories below `target`, by directory and name, many listings under way together.

    A directory that cannot be listed has none: then all of it is copied.

    Raises:
        UFTPError: no session can be had.
    """
    found: dict[bytes, Files] = {}
    waiting = {join(target, relative): relative for relative in relatives}
    links = False

    def took(path: bytes, outcome: Listing | UFTPError) -> None:
        if isinstance(outcome, NetworkError):
            return  # once more
        relative = waiting.pop(path)
        files: Files = {}
        if isinstance(outcome, Listing):
            try:
                for entry in outcome.entries():
                    if entry.kind == "file":
                        place = join(relative, entry.name)
                        files[entry.name] = FileFacts(place, entry.size, entry.mtime_ns, entry.permissions)
            except UFTPError:
                files = {}
        found[relative] = files

    for attempt in range(1, retries + 2):
        given = list(reversed(waiting))

        def supply(given: list[bytes] = given) -> list[bytes]:
            return [given.pop()] if given else []

        try:
            async with pool.session() as session:
                links = session.dialect.has_links
                await list_many(session, supply, took, links=links)
        except NetworkError:
            if pool.failed or attempt > retries:
                raise
        except NotFound:
            pass
        if not waiting:
            break
        await trio.sleep(wait_before(attempt))
    return found

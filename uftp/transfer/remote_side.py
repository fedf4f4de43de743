"""A tree on a server as one side of a sync: steps go several to a round trip, and outlive a lost session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from uftp.client import many
from uftp.client.dialect import Dialect
from uftp.client.listings import Entry, Listing, list_many
from uftp.client.remote import make_directories as make_remote_directories
from uftp.client.remote import remove_tree
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl
from uftp.client.wording import printable
from uftp.errors import NetworkError, NotFound, Refused, UFTPError
from uftp.protocol.names import is_part_name
from uftp.transfer.options import Links
from uftp.transfer.plan import join
from uftp.transfer.pool import SessionPool
from uftp.transfer.tree_sides import Facts, Outcome

_TRIES: Final = 3  # sessions for a step, if they are lost


class RemoteSide:
    """A tree on a server.

    Args:
        pool: sessions; a step that loses one is begun again where it was.
        url: its top.
        dialect: of the server.
        links: how links are listed: as what they point to, as links, or not at all; a server without LINKS can only
            do the first.
    """

    def __init__(self, pool: SessionPool, url: RemoteUrl, dialect: Dialect, links: Links) -> None:
        self._pool = pool
        self._url = url
        self._links = links if dialect.has_links else "follow"
        self._dialect = dialect

    def _path(self, relative: bytes) -> bytes:
        return join(self._url.path, relative)

    def display(self, relative: bytes) -> str:
        return self._url.display(self._path(relative))

    async def entries(self, directories: Sequence[bytes]) -> list[list[Entry] | UFTPError]:
        names = {self._path(relative): relative for relative in directories}
        found: dict[bytes, list[Entry] | UFTPError] = {}

        def took(path: bytes, listing: Listing | UFTPError) -> None:
            if isinstance(listing, Listing):
                try:
                    found[path] = sorted(
                        entry for entry in listing.entries() if entry.kind != "link" or self._links != "skip"
                    )
                except UFTPError as error:
                    found[path] = error
            else:
                found[path] = listing

        async def step(session: FTPSession) -> None:
            waiting = [path for path in names if path not in found or isinstance(found[path], NetworkError)]

            def supply() -> list[bytes]:
                given, waiting[:] = waiting[:], []
                return given

            await list_many(session, supply, took, links=self._links != "follow")

        for attempt in range(_TRIES):
            lost = [path for path in names if path not in found or isinstance(found[path], NetworkError)]
            if not lost:
                break
            try:
                async with self._pool.session() as session:
                    await step(session)
            except NetworkError as error:
                if attempt == _TRIES - 1:
                    raise
                for path in lost:
                    found.setdefault(path, error)
        missing = NetworkError("the listing was lost with its connection")
        return [found.get(path, missing) for path in names]

    async def _change(self, make: Callable[[FTPSession], Sequence[many.Change]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for attempt in range(_TRIES):
            async with self._pool.session() as session:
                changes = make(session)
                try:
                    await many.change_many(session, changes[len(outcomes) :], outcomes)
                    break
                except NetworkError:
                    if attempt == _TRIES - 1:
                        raise
        return outcomes

    async def _run(self, step: Callable[[FTPSession], Awaitable[None]]) -> Outcome:
        try:
            async with self._pool.session() as session:
                await step(session)
        except UFTPError as error:
            return error
        return None

    async def make_directories(self, relatives: Sequence[bytes]) -> list[Outcome]:
        paths = [self._path(relative) for relative in relatives]
        outcomes = await self._change(lambda session: [many.make_directory(session, path) for path in paths])
        for place, (path, outcome) in enumerate(zip(paths, outcomes, strict=True)):
            if outcome is not None:  # it may be there, made before a connection was lost or by somebody else

                async def look(session: FTPSession, path: bytes = path) -> None:
                    await make_remote_directories(session, path)

                outcomes[place] = await self._run(look)
        return outcomes

    async def make_links(self, links: Sequence[tuple[bytes, bytes]]) -> list[Outcome]:
        if not self._dialect.has_links:
            return [Refused(f"{self.display(place)}: the server makes no symbolic links") for place, _ in links]
        await self.remove_files([place for place, _ in links])
        return await self._change(
            lambda session: [many.make_link(session, points_to, self._path(place)) for place, points_to in links]
        )

    async def remove_files(self, relatives: Sequence[bytes]) -> list[Outcome]:
        outcomes = await self._change(
            lambda session: [many.remove_file(session, self._path(relative)) for relative in relatives]
        )
        return [None if isinstance(outcome, NotFound) else outcome for outcome in outcomes]

    async def remove_directories(self, relatives: Sequence[bytes]) -> list[Outcome]:
        outcomes = await self._change(
            lambda session: [many.remove_directory(session, self._path(relative)) for relative in relatives]
        )
        for place, (relative, outcome) in enumerate(zip(relatives, outcomes, strict=True)):
            if isinstance(outcome, NotFound):
                outcomes[place] = None
            elif outcome is not None:
                outcomes[place] = await self._run(self._emptied(self._path(relative))) and outcome
        return outcomes

    def _emptied(self, path: bytes) -> Callable[[FTPSession], Awaitable[None]]:
        async def step(session: FTPSession) -> None:
            left = await session.listdir(path)
            if not left or not all(is_part_name(entry.name) for entry in left):
                raise NotFound(f"{printable(path)}: something else keeps it")
            await remove_tree(session, path)

        return step

    async def set_facts(self, facts: Sequence[Facts]) -> list[Outcome]:
        if self._dialect.kind == "ours":
            return await self._change(
                lambda session: [
                    many.set_facts(session, self._path(one.relative) or b".", one.mtime_ns, one.permissions)
                    for one in facts
                ]
            )
        outcomes: list[Outcome] = []
        for one in facts:

            async def step(session: FTPSession, one: Facts = one) -> None:
                path = self._path(one.relative) or b"."
                await session.set_facts(path, mtime_ns=one.mtime_ns, permissions=one.permissions)

            outcomes.append(await self._run(step))
        return outcomes

    async def digests(self, relatives: Sequence[bytes], algorithm: str) -> list[str | UFTPError]:
        paths = [self._path(relative) for relative in relatives]
        results: list[str | UFTPError] = []
        for attempt in range(_TRIES):
            try:
                async with self._pool.session() as session:
                    await many.checksum_many(session, paths[len(results) :], algorithm, results)
                break
            except NetworkError:
                if attempt == _TRIES - 1:
                    raise
        return results

    @property
    def hides_links(self) -> bool:
        """Whether a link to a directory is listed as one."""
        return self._links == "follow"

    async def remove_link(self, relative: bytes) -> bool:
        """Remove what is listed as a directory if it is a link to one: DELE removes a link, and refuses a directory."""
        (outcome,) = await self._change(lambda session: [many.remove_file(session, self._path(relative))])
        return outcome is None

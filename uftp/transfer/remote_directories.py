"""What a plan changes on the server itself: directories made ahead, their facts at the end, and links.

Many go in each round trip. A session that is lost on the way costs another try, not what was to be made: whatever had
been done before is found to be there.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal

import trio

from uftp.client import ahead
from uftp.client.session import FTPSession
from uftp.client.wording import printable
from uftp.errors import NetworkError, NotFound, Refused, UFTPError
from uftp.protocol.facts import FileInfo
from uftp.protocol.names import part_name
from uftp.transfer.pool import SessionPool
from uftp.transfer.retrying import wait_before

_AT_ONCE: Final = 1024  # directories whose facts are set in one go

Made = Literal["new", "old"]
Facts = tuple[bytes, int | None, int | None]


class RemoteDirectories:
    """See the module.

    Args:
        pool: lends sessions.
        retries: further tries after a session was lost.
    """

    def __init__(self, pool: SessionPool, *, retries: int) -> None:
        self._pool = pool
        self._retries = retries

    async def make(self, wanted: Sequence[tuple[bytes, bool]]) -> list[Made | UFTPError]:
        """Make directories.

        Args:
            wanted: paths, parents first, and for each whether it may be there already.

        Returns:
            For each whether it is new or was there, or why it is not.
        """
        outcomes: list[Made | UFTPError | None] = [None] * len(wanted)
        refused: dict[int, UFTPError] = {}
        tries = 0

        async def work(session: FTPSession) -> None:
            nonlocal tries
            tries += 1
            due = [place for place, outcome in enumerate(outcomes) if outcome is None and place not in refused]

            def made(number: int, error: UFTPError | None) -> None:
                place = due[number]
                if error is None:
                    outcomes[place] = "new"
                elif not isinstance(error, Refused | NotFound) or not (wanted[place][1] or tries > 1):
                    outcomes[place] = error
                else:
                    refused[place] = error

            await ahead.make_directories(session, [wanted[place][0] for place in due], made)
            if refused:
                await self._look_at(session, [wanted[place][0] for place in refused], outcomes, refused)

        trouble = await self._with_sessions(work)
        unknown = trouble or NetworkError("the session was lost")
        return [unknown if outcome is None else outcome for outcome in outcomes]

    @staticmethod
    async def _look_at(
        session: FTPSession,
        paths: Sequence[bytes],
        outcomes: list[Made | UFTPError | None],
        refused: dict[int, UFTPError],
    ) -> None:
        """Whether what could not be made is there already."""
        due = list(refused)

        def found(number: int, info: FileInfo | UFTPError) -> None:
            place = due[number]
            error = refused.pop(place)
            if isinstance(info, UFTPError):
                outcomes[place] = error
            elif info.is_dir:
                outcomes[place] = "old"
            else:
                kind = "a link, which is not followed," if info.link is not None else "a file"
                outcomes[place] = Refused(f"{printable(paths[number])}: {kind} is in the way of this directory")

        await ahead.look_at_many(session, paths, found)

    async def set_facts(self, facts: Sequence[Facts]) -> list[tuple[bytes, UFTPError]]:
        """Set times and permission bits, given as (path, mtime_ns, permissions).

        Returns:
            Paths for which that failed, and why.
        """
        failures: list[tuple[bytes, UFTPError]] = []
        for start in range(0, len(facts), _AT_ONCE):
            failures += await self._set_some(facts[start : start + _AT_ONCE])
        return failures

    async def _set_some(self, facts: Sequence[Facts]) -> list[tuple[bytes, UFTPError]]:
        failures: list[tuple[bytes, UFTPError]] = []
        due = list(range(len(facts)))

        async def work(session: FTPSession) -> None:
            given = list(due)

            def outcome(number: int, error: UFTPError | None) -> None:
                due.remove(given[number])
                if error is not None:
                    failures.append((facts[given[number]][0], error))

            await ahead.set_facts(session, [facts[place] for place in given], outcome)

        trouble = await self._with_sessions(work)
        if trouble is not None:
            failures += [(facts[place][0], trouble) for place in due]
        return failures

    async def make_links(self, links: Sequence[tuple[bytes, bytes]]) -> list[UFTPError | None]:
        """Make symbolic links, given as (path, target). A link or file of the name is replaced, a directory is not.

        Returns:
            For each None, or why it is not there.
        """
        done: dict[int, UFTPError | None] = {}

        async def work(session: FTPSession) -> None:
            due = [place for place in range(len(links)) if place not in done]
            in_the_way: list[int] = []

            def outcome(number: int, error: UFTPError | None) -> None:
                if isinstance(error, Refused):
                    in_the_way.append(due[number])
                else:
                    done[due[number]] = error

            await ahead.make_links(session, [links[place] for place in due], outcome)
            for place in in_the_way:
                done[place] = await self._replace(session, *links[place])

        trouble = await self._with_sessions(work)
        return [done.get(place, trouble) for place in range(len(links))]

    @staticmethod
    async def _replace(session: FTPSession, path: bytes, target: bytes) -> UFTPError | None:
        """Make a link where something may be already; never is nothing there in between."""
        try:
            there = await session.stat(path, links=True)
            if there.link == target:
                return None
            if there.is_dir:
                return Refused(f"{printable(path)}: a directory is in the way of this link")
            directory, slash, _ = path.rpartition(b"/")
            part = directory + slash + part_name(secrets.token_bytes(8))
            await session.symlink(target, part)
            try:
                await session.rename(part, path)
            except UFTPError:
                if session.usable:
                    await session.delete(part)
                raise
        except UFTPError as error:
            if not session.usable:
                raise
            return error
        return None

    async def _with_sessions(self, work: Callable[[FTPSession], Awaitable[None]]) -> UFTPError | None:
        """Run `work`, again on another session where one is lost; why it could not be done, or None."""
        for attempt in range(1, self._retries + 2):
            try:
                async with self._pool.session() as session:
                    await work(session)
            except NetworkError as error:
                trouble: UFTPError = error
            except UFTPError as error:
                return error
            else:
                return None
            if self._pool.failed:
                break
            if attempt <= self._retries:
                await trio.sleep(wait_before(attempt))
        return trouble

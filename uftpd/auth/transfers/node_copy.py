"""A copy that runs on a node of ours: asked about, and ended, by sessions that come and go.

The copy lives on the node whatever becomes of the session it was started from, and of this server. All that is needed
to find it again is its name, `SERVER-N/ID`, on any auth server that knows the node by that name.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, Self, TypeVar

import trio

from uftp.client import server_copies
from uftp.client.session import FTPSession
from uftp.client.wording import printable
from uftp.errors import NetworkError, PeerBrokeProtocol, Refused
from uftp.protocol.server_copies import CopyStatus
from uftpd.auth.transfers.endings import Ending, NotNow
from uftpd.auth.transfers.model import FileError
from uftpd.auth.transfers.sides import NodeSession, OwnSide

T = TypeVar("T")

PATIENCE_SECONDS: Final = 60.0
"""How long a node may not answer before the transfer is put back into the queue."""

MOST_ERRORS: Final = 10_000
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 5.0
_NAME: Final = re.compile(r"(.{1,200})-([0-9]{1,9})/([0-9]{1,19})")


class NodeCopy:
    """See the module. Use by one task at a time.

    Args:
        side: the logical server of the node that runs it.
        number: the node, from 1.
        copy_id: of the copy, there.
        session: on that node, to begin with.
    """

    def __init__(self, side: OwnSide, number: int, copy_id: int, session: FTPSession | None = None) -> None:
        self._side = side
        self._number = number
        self._id = copy_id
        self._session = session

    @classmethod
    def started(cls, side: OwnSide, node: NodeSession, copy_id: int) -> Self:
        """One that `node` has just started."""
        return cls(side, node.instance.number, copy_id, node.session)

    @classmethod
    def found(cls, side: OwnSide, name: str) -> Self | None:
        """The one of this name; None if it is none of this side's nodes."""
        match = _NAME.fullmatch(name)
        if match is None or match[1] != side.name or not 1 <= int(match[2]) <= len(side.server.instances):
            return None
        return cls(side, int(match[2]), int(match[3]))

    @property
    def node(self) -> str:
        """The node, for people."""
        return f"{self._side.name}-{self._number}"

    @property
    def name(self) -> str:
        """What finds it again."""
        return f"{self.node}/{self._id}"

    def close(self) -> None:
        """Close the session; the copy goes on."""
        if self._session is not None:
            self._session.control.break_off("closed")
            self._session = None

    async def status(self) -> CopyStatus:
        """How it stands.

        Raises:
            NotNow: the node does not answer.
        """
        return await self._ask(lambda session: server_copies.status(session, self._id))

    async def abort(self, *, keep: bool) -> str:
        """End it, and wait until it has ended; returns what has become of it.

        Args:
            keep: what a later copy can go on with stays.

        Raises:
            NotNow: the node does not answer.
        """
        return await self._ask(lambda session: server_copies.abort(session, self._id, keep=keep))

    async def errors(self) -> list[FileError]:
        """Which files failed, `MOST_ERRORS` at most.

        Raises:
            NotNow: the node does not answer, or does not know the copy any more.
        """
        found: list[FileError] = []
        following = 0
        while len(found) < MOST_ERRORS:
            first = following
            page, following = await self._ask(lambda session: server_copies.errors(session, self._id, first))  # noqa: B023 - awaited at once
            found += [
                FileError(source=printable(one.source), target=printable(one.target), error=printable(one.error))
                for one in page
            ]
            if not following:
                break
        return found[:MOST_ERRORS]

    async def _ask(self, question: Callable[[FTPSession], Awaitable[T]]) -> T:
        """An answer, by another session if this one broke; the node may be just starting again."""
        deadline = trio.current_time() + PATIENCE_SECONDS
        pause = _FIRST_PAUSE
        while True:
            try:
                session = await self._open()
                return await question(session)
            except Refused as error:
                raise NotNow(f"{self.node} does not tell how the copy stands: {error}") from error
            except (NetworkError, PeerBrokeProtocol, Ending) as error:
                self.close()
                if trio.current_time() + pause > deadline:
                    raise NotNow(f"{self.node} does not answer: {error}") from error
            await trio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 1.6)

    async def _open(self) -> FTPSession:
        if self._session is None or not self._session.usable:
            self._session = (await self._side.log_in(number=self._number)).session
        return self._session

"""Sessions shared by planner and workers: few to begin with, more as they are wanted and granted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Self

import trio

from uftp.client.session import FTPSession
from uftp.errors import AuthenticationFailed, NetworkError, PeerBrokeProtocol, Refused, UFTPError

# Waits before a lost connection is tried again, in seconds.
_BACK_OFF: Final = (0.0, 0.5, 2.0)


class SessionPool:
    """Lends sessions. Use as an async context manager; leaving closes all of them.

    A broken session is dropped when it comes back. If the server grants no further session the pool goes on with
    those it has; if there are none left and none can be opened, every borrower gets that error.

    Args:
        open_session: opens one.
        limit: sessions at once.
        on_refusal: told, once, why there are fewer sessions than asked for.
    """

    def __init__(
        self,
        open_session: Callable[[], Awaitable[FTPSession]],
        *,
        limit: int = 1,
        on_refusal: Callable[[UFTPError], None] = lambda error: None,
    ) -> None:
        self._open_session = open_session
        self._on_refusal = on_refusal
        self._limit = limit
        self._idle: list[FTPSession] = []
        self._count = 0
        self._opened = 0
        self._refused = False
        self._waiting = trio.lowlevel.ParkingLot()
        self._fatal: UFTPError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for session in self._idle:
            await session.aclose()
        self._idle.clear()

    @property
    def count(self) -> int:
        """Sessions open or being opened."""
        return self._count

    @property
    def failed(self) -> bool:
        """Whether there is no session and none can be had."""
        return self._fatal is not None

    def allow(self, limit: int) -> None:
        """Let the pool grow to `limit` sessions, unless the server has refused one already."""
        if not self._refused and limit > self._limit:
            self._limit = limit
            self._waiting.unpark_all()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[FTPSession]:
        """A session for the block, which is for short use: one file or one piece, one listing.

        Raises:
            UFTPError: there is no session and none can be had.
        """
        session = await self._acquire()
        try:
            yield session
        finally:
            if session.usable:
                self._idle.append(session)
            else:
                self._count -= 1
            self._waiting.unpark()

    async def _acquire(self) -> FTPSession:
        while True:
            await trio.lowlevel.checkpoint()
            if self._idle:
                return self._idle.pop()
            if self._fatal is not None:
                raise self._fatal
            if self._count < self._limit:
                session = await self._open()
                if session is not None:
                    return session
            else:
                await self._waiting.park()

    async def _open(self) -> FTPSession | None:
        """A new session; None if the pool has to do with what it has."""
        self._count += 1
        try:
            session = await self._try_to_open()
        except (Refused, AuthenticationFailed, NetworkError, PeerBrokeProtocol) as error:
            self._count -= 1
            if self._count > 0:
                if not self._refused:
                    self._on_refusal(error)
                self._refused = True
                self._limit = self._count
                return None
            self._fatal = error
            self._waiting.unpark_all()
            raise
        except BaseException:
            self._count -= 1
            self._waiting.unpark()
            raise
        self._opened += 1
        return session

    async def _try_to_open(self) -> FTPSession:
        # The first session is asked for once: a mistyped host should fail at once. Lost ones are worth waiting for.
        waits = _BACK_OFF if self._opened else _BACK_OFF[:1]
        for wait in waits[:-1]:
            try:
                return await self._open_session()
            except NetworkError:
                if self._count > 1:
                    raise
                await trio.sleep(wait)
        return await self._open_session()

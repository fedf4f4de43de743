"""Sessions shared by planner and workers: few to begin with, more as they are wanted and granted.

A lost session is replaced by a fresh one, with a fresh one-time password, from whatever data node the auth server
names. While there is none at all, one of the borrowers tries again and again, and the others wait for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Self, TypeVar

import trio

from uftp.client.session import FTPSession
from uftp.errors import UFTPError
from uftp.transfer.retrying import is_worth_another_session, may_pass, wait_before

T = TypeVar("T")

_OUTAGE: Final = 4  # times `retries`: attempts before a server that was there is given up; two minutes with five
_FEWER_SECONDS: Final = 20.0  # until more sessions are asked for again after one was refused


class SessionPool:
    """Lends sessions. Use as an async context manager; leaving closes all of them.

    A broken session is dropped when it comes back. If the server grants no further session the pool goes on with
    those it has, and asks again later; if there are none left and none can be opened, every borrower gets that error.

    Attributes:
        may_open: see there.

    Args:
        open_session: opens one.
        limit: sessions at once.
        retries: how often what may pass is tried again.
        on_refusal: told, once, why there are fewer sessions than asked for.
        may_open: whether `open_session` could give a further one at all; if not, those that are there have to do.
    """

    def __init__(
        self,
        open_session: Callable[[], Awaitable[FTPSession]],
        *,
        limit: int = 1,
        retries: int = 5,
        on_refusal: Callable[[UFTPError], None] = lambda error: None,
        may_open: Callable[[], bool] = lambda: True,
    ) -> None:
        self._open_session = open_session
        self.may_open = may_open
        self._on_refusal = on_refusal
        self._limit = limit
        self._retries = retries
        self._idle: list[FTPSession] = []
        self._live = 0  # sessions there are, lent or idle
        self._opening = 0
        self._opened = False  # whether there ever was one
        self._said_fewer = False
        self._fewer: tuple[int, float] | None = None  # how many there may be for the time being, and until when
        self._recovering = False
        self._waiting = trio.lowlevel.ParkingLot()
        self._round_trip: float | None = None
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
        return self._live + self._opening

    @property
    def failed(self) -> bool:
        """Whether there is no session and none can be had."""
        return self._fatal is not None

    @property
    def live(self) -> int:
        """Sessions open."""
        return self._live

    @property
    def is_short(self) -> bool:
        """Whether the server has refused a further session, and was not asked again since."""
        return self._fewer is not None

    @property
    def round_trip(self) -> float | None:
        """Seconds that the quickest reply has taken, on any session that was given back; None before there was one."""
        return self._round_trip

    async def open_ahead(self) -> None:
        """Open a session for later, if there may be a further one; where there is none, who needs one sees to it.

        Raises:
            UFTPError: the last session was lost meanwhile, and none can be had.
        """
        if not self._live or self._fatal is not None or not self._has_room():
            return
        session = await self._open()
        if session is not None:
            self._idle.append(session)
            self._waiting.unpark()

    def allow(self, limit: int) -> None:
        """Let the pool grow to `limit` sessions, as far as the server grants them."""
        if limit > self._limit:
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
            if (took := session.round_trip) is not None:
                self._round_trip = took if self._round_trip is None else min(took, self._round_trip)
            if session.usable:
                self._idle.append(session)
            else:
                self._live -= 1
            self._waiting.unpark()

    async def call(self, step: Callable[[FTPSession], Awaitable[T]]) -> T:
        """What `step` gives, on one session or, where that broke under it, on the next one.

        Args:
            step: may be begun again: what it did without being told so has to do no harm the second time.

        Raises:
            UFTPError: what `step` raises, the last time if it was tried several times; as `session`.
        """
        attempt = 0
        while True:
            try:
                async with self.session() as session:
                    return await step(session)
            except UFTPError as error:
                attempt += 1
                if self.failed or attempt > self._retries or not may_pass(error):
                    raise
            await trio.sleep(wait_before(attempt))

    async def _acquire(self) -> FTPSession:
        while True:
            await trio.lowlevel.checkpoint()
            if self._idle:
                return self._idle.pop()
            if self._fatal is not None:
                raise self._fatal
            if self._has_room():
                session = await self._open()
                if session is not None:
                    return session
            else:
                await self._waiting.park()

    def _has_room(self) -> bool:
        if self._recovering or (self.count and not self.may_open()):
            return False
        limit = self._limit
        if self._fewer is not None:
            fewer, until = self._fewer
            if self._live and trio.current_time() < until:
                limit = min(limit, fewer)
            else:
                self._fewer = None
        return self.count < limit

    async def _open(self) -> FTPSession | None:
        """A new session; None if the pool has to do with what it has, or somebody else sees to it."""
        self._opening += 1
        try:
            session = await self._open_session()
        except UFTPError as error:
            self._opening -= 1
            if self._live:
                self._do_with_fewer(error)
                return None
            if self._recovering:
                return None
            return await self._recover(error)
        except BaseException:
            self._opening -= 1
            self._waiting.unpark()
            raise
        self._opening -= 1
        return self._keep(session)

    def _keep(self, session: FTPSession) -> FTPSession:
        self._live += 1
        self._opened = True
        return session

    def _do_with_fewer(self, error: UFTPError) -> None:
        self._fewer = (self._live, trio.current_time() + _FEWER_SECONDS)
        if not self._said_fewer:
            self._said_fewer = True
            self._on_refusal(error)

    async def _recover(self, error: UFTPError) -> FTPSession | None:
        """There is no session. One that has been there is worth waiting for; a mistyped host should fail at once."""
        self._recovering = True
        attempt = 0
        try:
            while True:
                attempt += 1
                if not self._opened or attempt > _OUTAGE * self._retries or not is_worth_another_session(error):
                    if not self._live:
                        self._fatal = error
                        raise error
                    return None
                await trio.sleep(wait_before(attempt))
                if self._idle or self._live:
                    return None  # one that was being opened meanwhile
                try:
                    return self._keep(await self._open_session())
                except UFTPError as again:
                    error = again
        finally:
            self._recovering = False
            self._waiting.unpark_all()

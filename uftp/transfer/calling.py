"""What calls for scripts and notebooks share: who logs in, how far it is, and which event loop it runs in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from uftp.client.credentials import Credential
from uftp.client.login import SessionOptions
from uftp.client.portal import Portal
from uftp.transfer.blocking import make_access
from uftp.transfer.copy import Access
from uftp.transfer.results import CopyState

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


async def telling(run: Callable[[], Awaitable[T]], state: CopyState, progress: OnProgress | None) -> T:
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


async def anywhere(function: Callable[[], Awaitable[T]]) -> T:
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


def block(function: Callable[[], Awaitable[T]]) -> T:
    with Portal() as portal:
        return portal.call(function)

"""Runs async functions for callers that are not async: a trio loop in a thread of its own.

Notebooks have an asyncio loop running already; a thread is the one place where that does not matter.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import trio

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Submitted(Generic[T]):
    """A function that runs in the loop.

    Attributes:
        future: its result; CancelledError if it was cancelled.
        cancel: ends it; the future tells when it has cleaned up.
    """

    future: Future[T]
    cancel: Callable[[], None]


class Portal:
    """Use as a context manager; leaving it cancels what still runs, and waits for it."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=trio.run, args=(self._main,), name="uftp", daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._token is not None and self._nursery is not None:
            self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        if self._thread is not None:
            self._thread.join()

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set()
            await trio.sleep_forever()

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run `function` in the loop and wait for it.

        Ctrl-C, or a notebook's "interrupt", cancels it; it has cleaned up when KeyboardInterrupt comes out here.

        Raises:
            Whatever `function` raises.
        """
        running = self.submit(function)
        try:
            return running.future.result()
        except KeyboardInterrupt:
            running.cancel()
            with contextlib.suppress(BaseException):
                running.future.result()
            raise

    def submit(self, function: Callable[[], Awaitable[T]]) -> Submitted[T]:
        """Begin `function` in the loop; its future has what becomes of it."""
        if self._token is None or self._nursery is None:
            raise RuntimeError("the portal is not open")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # ended by the scope alone, so that it tells when all is cleaned up
        scope = trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    future.set_result(await function())
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                if scope.cancelled_caught:
                    future.set_exception(CancelledError())

        token = self._token
        token.run_sync_soon(self._nursery.start_soon, run)
        return Submitted(future, lambda: token.run_sync_soon(scope.cancel))

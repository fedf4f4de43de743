"""Runs async functions for callers that are not async: a trio loop in a thread of its own.

Notebooks have an asyncio loop running already; a thread is the one place where that does not matter.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Self, TypeVar

import trio

T = TypeVar("T")


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
        if self._token is None or self._nursery is None:
            raise RuntimeError("the portal is not open")
        future: Future[T] = Future()
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
                    future.cancel()

        self._token.run_sync_soon(self._nursery.start_soon, run)
        try:
            return future.result()
        except KeyboardInterrupt:
            self._token.run_sync_soon(scope.cancel)
            with contextlib.suppress(BaseException):
                future.result()
            raise

"""A server that does not have the lease of a transfer any more, or loses its store, or fails: what it leaves alone."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from copying_node import RUNNING, CopyNode, Script
from managing import managing, until_true
from running_auth import StartAuth

from uftpd.auth.store.engine import StoreUnavailable
from uftpd.auth.transfers import attempt
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Claimed, Lease, TransferState
from uftpd.auth.transfers.opening import at_last

pytestmark = pytest.mark.slow


def take_away(directory: Path) -> None:
    """Let somebody else have all leases, who does nothing with them."""
    with sqlite3.connect(directory / "store.db", timeout=30) as store:
        store.execute("UPDATE transfers SET lease_holder = 'another', lease_until = ?", (time.time() + 1000,))
    store.close()


async def test_a_copy_is_not_begun_without_the_lease(
    start_auth: StartAuth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = attempt.Attempt._prepared
    prepared = trio.Event()

    async def stopped(self: attempt.Attempt, *args: Any) -> Callable[[], Awaitable[int]]:
        # As a process that is stopped here until its lease has lapsed.
        found = await prepare(self, *args)
        await trio.to_thread.run_sync(take_away, tmp_path)
        prepared.set()
        return found

    monkeypatch.setattr(attempt.Attempt, "_prepared", stopped)
    async with managing(start_auth, tmp_path, CopyNode()) as site:
        transfer = await site.submit("TEST:/out/a")
        with trio.fail_after(30):
            await prepared.wait()
        await until_true(lambda: not site.node.connections, "the session to be closed")
        assert site.node.copies == {}
        assert (await site.show(transfer))["state"] == "active"


async def test_a_copy_too_many_is_ended(start_auth: StartAuth, tmp_path: Path) -> None:
    class Stealing(CopyNode):
        def start(self, *args: Any) -> bytes:
            take_away(tmp_path)
            return super().start(*args)

    script = Script(says=[RUNNING])
    async with managing(start_auth, tmp_path, Stealing(scripts=deque([script]))) as site:
        transfer = await site.submit("TEST:/out/a")
        await until_true(lambda: bool(script.aborted), "the copy to be ended")
        assert script.aborted == [True], "what it has got is left to whoever has the transfer"
        sources = await site.managed.sources(transfer)
        assert [source.copy for source in sources] == [""]


async def test_what_makes_a_server_fail_is_not_met_again_at_once(
    start_auth: StartAuth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, settle = ManagedTransfers.claim, ManagedTransfers.settle
    claims: Counter[str] = Counter()
    bad: list[str] = []

    async def counted(self: ManagedTransfers, *args: Any) -> Claimed | None:
        found = await claim(self, *args)
        if found is not None:
            claims[found.transfer.id] += 1
        return found

    async def failing(self: ManagedTransfers, lease: Lease, *args: Any, **more: Any) -> TransferState | None:
        if not bad or lease.transfer_id in bad:
            bad[:] = [lease.transfer_id]
            raise ZeroDivisionError
        return await settle(self, lease, *args, **more)

    monkeypatch.setattr(ManagedTransfers, "claim", counted)
    monkeypatch.setattr(ManagedTransfers, "settle", failing)
    async with managing(start_auth, tmp_path, CopyNode()) as site:
        first = await site.submit("TEST:/out/a")
        await until_true(lambda: bool(bad), "the server to fail")
        for _ in range(2):
            await site.wait(await site.submit("TEST:/out/b"), "succeeded")
        assert claims[first] == 1


async def test_a_store_that_is_away_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    answers: list[object] = [StoreUnavailable(), StoreUnavailable(), "kept"]

    async def ask() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await at_last(ask) == "kept"

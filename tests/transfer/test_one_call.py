"""The calls for scripts and notebooks: blocking inside a running asyncio loop, and awaited under asyncio and trio."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from plain_ftp import PlainServer, pyftpdlib_server

import uftp

pytestmark = pytest.mark.slow

Runner = Callable[[Callable[[], Awaitable[Any]]], Any]


def under_asyncio(function: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await asyncio.wait_for(function(), 60)

    return asyncio.run(main())


def under_trio(function: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        with trio.fail_after(60):
            return await function()

    return trio.run(main)


@pytest.fixture(params=[under_asyncio, under_trio])
def anywhere(request: pytest.FixtureRequest) -> Runner:
    runner: Runner = request.param
    return runner


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    with pyftpdlib_server(tmp_path_factory.mktemp("ftp")) as running:
        yield running


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals of what is tested are kept apart from the person's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "a").write_bytes(b"a" * 1000)
    (top / "sub" / "b.tmp").write_bytes(b"b")
    (top / "sub" / "c").write_bytes(b"c")
    return top


def test_awaited(server: PlainServer, tree: Path, tmp_path: Path, anywhere: Runner) -> None:
    told: list[uftp.Progress] = []
    url = f"{server.url}/{tmp_path.name}"
    summary = anywhere(lambda: uftp.copy_async(str(tree), url, recursive=True, progress=told.append))
    assert (summary.files, summary.failed) == (3, 0)
    assert (told[-1].files, told[-1].bytes, told[-1].fraction) == (3, 1002, 1.0)
    assert told[-1].rate > 0
    names = [entry.name for entry in anywhere(lambda: uftp.listdir_async(url))]
    assert names == [b"a", b"sub"]
    (tree / "a").unlink()
    summary = anywhere(lambda: uftp.sync_async(str(tree), url, delete=True, exclude=["*.tmp"]))
    assert summary.deleted == 1
    assert [entry.name for entry in anywhere(lambda: uftp.listdir_async(url + "/sub"))] == [b"b.tmp", b"c"]
    with pytest.raises(uftp.UFTPError):
        anywhere(lambda: uftp.copy_async(str(tree / "missing"), url))


def test_blocking_inside_a_running_loop(server: PlainServer, tree: Path, tmp_path: Path) -> None:
    """As in a notebook, whose cells run in one."""
    url = f"{server.url}/{tmp_path.name}"
    told: list[uftp.Progress] = []

    async def cell() -> None:
        uftp.copy(str(tree), url, recursive=True, preserve=True, exclude=["*.tmp"])
        assert [entry.text_name for entry in uftp.listdir(url)] == ["a", "sub"]
        summary = uftp.sync(url, str(tmp_path / "back"), progress=told.append)
        assert isinstance(summary, uftp.CopySummary)
        assert summary.files == 2
        dry = uftp.sync(str(tree), url, dry_run=True)
        assert isinstance(dry, uftp.CopySummary)
        assert dry.files == 1

    asyncio.run(cell())
    assert sorted(path.name for path in (tmp_path / "back").rglob("*")) == ["a", "c", "sub"]
    assert told[-1].files == 2
    (server.root / tmp_path.name / "a").unlink()
    one = uftp.sync(str(tree / "a"), f"{url}/a")
    assert isinstance(one, uftp.SyncSummary)
    assert one.method == "copy"


def test_contradictions_are_refused(tree: Path, server: PlainServer) -> None:
    with pytest.raises(uftp.UFTPError, match="not both"):
        uftp.copy(str(tree), server.url, recursive=True, options=uftp.CopyOptions())
    with pytest.raises(uftp.UFTPError, match="not both"):
        uftp.sync(str(tree), server.url, delete=True, options=uftp.TreeSyncOptions())
    with pytest.raises(uftp.UFTPError):
        uftp.copy(str(tree), server.url, user="me")


def test_a_fault_of_the_callback_ends_the_copy(server: PlainServer, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # so that it neither waits for a reader nor ends

    def complain(progress: uftp.Progress) -> None:
        raise ValueError("no")

    try:
        with pytest.raises(ValueError, match="no"):
            uftp.copy(str(pipe), server.url + "/from-pipe", progress=complain)
    finally:
        os.close(writer)
    assert not (server.root / "from-pipe").exists()


def test_cancelled_under_asyncio_it_cleans_up_and_ends(server: PlainServer, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)
    before = threading.active_count()

    async def main() -> None:
        opened = asyncio.Event()
        loop = asyncio.get_running_loop()
        state = uftp.CopyState(on_session=lambda text: loop.call_soon_threadsafe(opened.set))
        task = asyncio.create_task(uftp.copy_async(str(pipe), server.url + "/cancelled", state=state))
        await asyncio.wait_for(opened.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 60)

    try:
        asyncio.run(main())
    finally:
        os.close(writer)
    assert not (server.root / "cancelled").exists()
    deadline = time.monotonic() + 30
    while any(thread.name == "uftp" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, (before, threading.enumerate())
        time.sleep(0.01)

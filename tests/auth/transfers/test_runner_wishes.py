"""What owners ask for while a transfer runs, and what servers that come and go leave to each other."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import trio
from copying_node import DONE, RUNNING, CopyNode, Script, broken
from fake_node import FakeNode
from managing import Managing, managing, until_true
from postgres import Postgres
from running_auth import DEMO, MAP, StartAuth

from uftpd.auth.transfers import drive, node_copy
from uftpd.auth.transfers.model import Action

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wishes are heard ten times as soon as else."""
    monkeypatch.setattr(drive, "HEARTBEAT_SECONDS", 0.1)


def node(*scripts: Script) -> CopyNode:
    """A node that runs these copies, one after the other."""
    return CopyNode(scripts=deque(scripts))


async def begun(site: Managing, source: str | list[str] = "TEST:/out/a", **body: Any) -> str:
    """A transfer whose copy runs, and is known to."""
    before = len(site.node.copies)
    transfer = await site.submit(source, **body)
    await until_true(lambda: len(site.node.copies) > before, "the copy to start")

    async def known() -> bool:
        return bool((await site.show(transfer))["bytes"])

    with trio.fail_after(30):
        while not await known():  # noqa: ASYNC110 -- it is a row
            await trio.sleep(0.02)
    return transfer


async def test_cancel_ends_the_copy_and_keeps_nothing(start_auth: StartAuth, tmp_path: Path) -> None:
    script = Script(says=[RUNNING])
    async with managing(start_auth, tmp_path, node(script)) as site:
        transfer = await begun(site)
        assert await site.act(transfer, "cancel") == 200
        found = await site.wait(transfer, "cancelled")
        assert script.aborted == [False]
        assert (found["reason"], found["rate"]) == ("", 0)


async def test_pause_keeps_what_there_is_and_resume_goes_on(start_auth: StartAuth, tmp_path: Path) -> None:
    first, second = Script(says=[RUNNING]), Script()
    async with managing(start_auth, tmp_path, node(first, second)) as site:
        transfer = await begun(site)
        assert await site.act(transfer, "pause") == 200
        await site.wait(transfer, "paused")
        assert first.aborted == [True]
        assert await site.act(transfer, "resume") == 200
        assert (await site.wait(transfer, "succeeded", "failed"))["state"] == "succeeded"
        assert second.how.resume


async def test_a_copy_that_ended_before_it_could_be_stopped_counts(start_auth: StartAuth, tmp_path: Path) -> None:
    # Paused just when it was done: going on finds that out, and copies nothing again.
    script = Script(says=[RUNNING])
    async with managing(start_auth, tmp_path, node(script)) as site:
        transfer = await begun(site)
        await site.act(transfer, "pause")
        script.says[:] = [DONE]
        found = await site.wait(transfer, "paused", "succeeded")
        if found["state"] == "paused":
            await site.act(transfer, "resume")
        assert (await site.wait(transfer, "succeeded"))["bytes"] == 10
        assert list(site.node.copies.values()) == [script]


async def test_a_cancelled_transfer_starts_nothing_more(start_auth: StartAuth, tmp_path: Path) -> None:
    first = Script(says=[RUNNING])
    async with managing(start_auth, tmp_path, node(first)) as site:
        transfer = await begun(site, ["TEST:/out/a", "TEST:/out/b"])
        await site.act(transfer, "cancel")
        await site.wait(transfer, "cancelled")
        other = await site.submit("TEST:/out/c")
        await site.wait(other, "succeeded")
        assert [script.words[1] for script in site.node.copies.values()] == [b"/out/a", b"/out/c"]


async def test_a_server_that_ends_leaves_its_copies_to_the_next(start_auth: StartAuth, tmp_path: Path) -> None:
    script = Script(says=[RUNNING])
    copying = node(script)
    async with managing(start_auth, tmp_path, copying) as site:
        transfer = await begun(site)
    assert script.aborted == []
    async with managing(start_auth, tmp_path, copying) as site:
        script.says[:] = [DONE]
        found = await site.wait(transfer, "succeeded", "failed")
        assert (found["state"], found["attempts"]) == ("succeeded", 1)
        assert list(copying.copies.values()) == [script], "it was watched, not started again"


async def test_a_wish_is_heard_by_the_next_server(start_auth: StartAuth, tmp_path: Path) -> None:
    script = Script(says=[RUNNING])
    copying = node(script)
    async with managing(start_auth, tmp_path, copying, more="active = 1") as site:
        transfer = await begun(site)
        # The node does not answer any more: the wish cannot be fulfilled before this server ends.
        copying.gone = True
        copying.break_connections()
        await site.act(transfer, "cancel")
    assert script.aborted == []
    copying.gone = False
    async with managing(start_auth, tmp_path, copying) as site:
        await site.wait(transfer, "cancelled")
        assert script.aborted == [False]


async def test_a_server_that_died_is_replaced(start_auth: StartAuth, tmp_path: Path) -> None:
    # Its lease is still there, and nobody renews it.
    script = Script(says=[RUNNING])
    copying = node(script)
    async with managing(start_auth, tmp_path, copying, more="lease_seconds = 1") as site:
        transfer = await begun(site)
        managed = site.managed

        async def silent(*_: object, **__: object) -> None:
            await trio.sleep_forever()

        with pytest.MonkeyPatch.context() as patch:
            for method in ("renew", "note", "settle", "hand_back"):
                patch.setattr(managed, method, silent)
            async with managing(start_auth, tmp_path, copying) as second:
                script.says[:] = [DONE]
                assert (await second.wait(transfer, "succeeded", "failed"))["state"] == "succeeded"
                assert list(copying.copies.values()) == [script]


async def test_two_servers_work_on_one_queue(start_auth: StartAuth, tmp_path: Path, database: Postgres) -> None:
    copying = node()
    async with (
        managing(start_auth, tmp_path, copying, store=database.url) as first,
        managing(start_auth, tmp_path, copying, store=database.url) as second,
    ):
        paths = [f"/out/{number}" for number in range(20)]
        wanted = [await (first, second)[number % 2].submit(f"TEST:{path}") for number, path in enumerate(paths)]
        for transfer in wanted:
            assert (await second.wait(transfer, "succeeded", "failed"))["state"] == "succeeded"
        done = [script.words[1].decode() for script in copying.copies.values()]
        assert sorted(path for path in done if path in paths) == sorted(paths), "each was copied once"


# -- owners -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"role": "banned", "xlogin": "user1"}, "You may not use this server any more"),
        ({"role": "user", "xlogin": "another"}, "You do not have the account 'user1' on 'TEST' any more"),
        ({"role": "user", "xlogin": "user1", "uftpd.TEST.xlogin": "another"}, "You do not have the account 'user1'"),
        (None, "You may not use this server any more"),
    ],
)
async def test_the_owner_is_looked_at_before_each_attempt(
    start_auth: StartAuth, tmp_path: Path, entry: dict[str, str] | None, reason: str
) -> None:
    script = Script(says=[RUNNING])
    async with managing(start_auth, tmp_path, node(script)) as site:
        transfer = await begun(site)
        await site.act(transfer, "pause")
        await site.wait(transfer, "paused")
        name = DEMO.replace(", ", ",")
        mapping = {key: value for key, value in MAP.items() if key != name} | ({name: entry} if entry else {})
        assert len(mapping) == len(MAP) - (entry is None)
        (tmp_path / "new.json").write_text(json.dumps(mapping))
        (tmp_path / "new.json").replace(tmp_path / "map.json")
        # Who is banned cannot ask for it any more.
        await site.managed.act(transfer, Action.RESUME)
        found = await site.managed.get(transfer)
        with trio.fail_after(30):
            while found is not None and not found.state.is_final:
                await trio.sleep(0.02)
                found = await site.managed.get(transfer)
        assert found is not None
        assert found.state.value == "failed"
        assert reason in found.reason
        assert len(site.node.copies) == 1


async def test_a_node_that_stays_away_is_tried_later(
    start_auth: StartAuth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_copy, "PATIENCE_SECONDS", 0.5)
    script = Script(says=[RUNNING])
    copying = node(script)
    async with managing(start_auth, tmp_path, copying, more="attempts = 1000") as site:
        transfer = await begun(site)
        copying.gone = True
        copying.break_connections()
        with trio.fail_after(30):
            while (await site.show(transfer))["attempts"] < 2:  # noqa: ASYNC110 -- it is a row
                await trio.sleep(0.02)
        copying.gone = False
        script.says[:] = [DONE]
        assert (await site.wait(transfer, "succeeded", "failed"))["state"] == "succeeded"
        assert list(copying.copies.values()) == [script], "it was found again"


async def test_another_node_of_the_group_takes_over(
    start_auth: StartAuth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = [Script(says=[RUNNING]), Script(says=[RUNNING])]
    nodes = (node(scripts[0]), node(scripts[1]))
    async with managing(start_auth, tmp_path, *nodes) as site:
        transfer = await site.submit("TEST:/out/a")
        await until_true(lambda: any(one.copies for one in nodes), "the copy to start")
        runs, other = sorted(nodes, key=lambda one: not one.copies)
        await site.wait(transfer, "active")
        # It was started again, and remembers nothing; for a while its front lets nobody in.
        other.scripts = deque([Script()])
        runs.scripts = deque([Script()])
        runs.forget()
        assert (await site.wait(transfer, "succeeded", "failed"))["state"] == "succeeded"


async def test_the_runner_outlives_what_goes_wrong(
    start_auth: StartAuth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    right = drive.Attempt.run

    async def wrong(self: drive.Attempt) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        await right(self)

    monkeypatch.setattr(drive.Attempt, "run", wrong)
    async with managing(start_auth, tmp_path, node()) as site:
        found = await site.wait(await site.submit("TEST:/out/a"), "succeeded", "failed")
        assert (found["state"], found["attempts"]) == ("succeeded", 2)


async def test_a_silent_command_port_is_passed_over(start_auth: StartAuth, tmp_path: Path) -> None:
    copying = node(Script(says=[broken()]), Script())
    silent = FakeNode(closed=True)
    async with managing(start_auth, tmp_path, copying, others=(silent,)) as site:
        found = await site.wait(await site.submit("TEST:/out/a"), "succeeded", "failed")
        assert (found["state"], found["node"]) == ("succeeded", "TEST-2")

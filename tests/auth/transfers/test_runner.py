"""What the runner makes of what nodes say: true ends, and the way there."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
from copying_node import DONE, RUNNING, CopyNode, Script, broken
from managing import managing, until_true
from running_auth import StartAuth

from uftp.protocol.command_port import Purpose
from uftp.protocol.server_copies import CopyError, CopyStatus

pytestmark = pytest.mark.slow

GONE = CopyError(source=b"/out/a", target=b"/in/a", error="/out/a: no such file")


def node(*scripts: Script) -> CopyNode:
    """A node that runs these copies, one after the other."""
    return CopyNode(scripts=deque(scripts))


async def test_a_transfer_is_run_and_succeeds(start_auth: StartAuth, tmp_path: Path) -> None:
    script = Script(says=[RUNNING, RUNNING, DONE])
    async with managing(start_auth, tmp_path, node(script)) as site:
        transfer = await site.submit("TEST:/out/a", options={"recursive": True, "preserve": True})
        found = await site.wait(transfer, "succeeded")
        assert (found["bytes"], found["total"], found["files"], found["filesFailed"]) == (10, 10, 1, 0)
        assert (found["node"], found["attempts"], found["reason"]) == ("TEST-1", 1, "")
        assert found["ended"] >= found["started"] > 0
        assert script.verb == "RECEIVE-FILE"
        target, source, place, secret = script.words
        assert (target, source, place) == (b"/in/", b"/out/a", b"127.0.0.1:%d" % site.node.ftp_port)
        assert (script.how.trees, script.how.recursive, script.how.preserve) == (True, True, True)
        assert (script.how.resume, script.how.verify, script.how.encrypt) == (True, True, False)
        asked = {request.secret: request for request in site.node.transfers}[secret.decode()]
        assert (asked.user, asked.purpose, asked.max_logins) == ("user1", Purpose.COPY, script.how.logins)
        assert asked.persistent
        assert asked.expires is not None
        assert {str(address) for address in asked.client_ip} >= {"127.0.0.1"}


async def test_the_node_is_believed_only_when_asked_twice(start_auth: StartAuth, tmp_path: Path) -> None:
    # It says that it has finished, and lists a file that failed.
    script = Script(says=[DONE], errors=[GONE])
    async with managing(start_auth, tmp_path, node(script)) as site:
        transfer = await site.submit("TEST:/out/a")
        found = await site.wait(transfer, "succeeded", "failed")
        assert found["state"] == "failed"
        assert "no such file" in found["reason"]
        assert await site.errors(transfer) == [{"source": "/out/a", "target": "/in/a", "error": GONE.error}]


async def test_an_end_with_failed_files_is_no_success(start_auth: StartAuth, tmp_path: Path) -> None:
    script = Script(
        says=[CopyStatus(word="FINISHED", bytes=10, total=10, files=1, failed=1, error="permission denied")]
    )
    async with managing(start_auth, tmp_path, node(script)) as site:
        found = await site.wait(await site.submit("TEST:/out/a"), "succeeded", "failed")
        assert (found["state"], found["filesFailed"]) == ("failed", 1)


async def test_what_may_pass_is_tried_again(start_auth: StartAuth, tmp_path: Path) -> None:
    scripts = (Script(says=[RUNNING, broken()]), Script(says=[broken("connection lost")]), Script())
    async with managing(start_auth, tmp_path, node(*scripts)) as site:
        found = await site.wait(await site.submit("TEST:/out/a"), "succeeded", "failed")
        assert (found["state"], found["attempts"], found["reason"]) == ("succeeded", 3, "")
        assert all(script.how.resume for script in scripts)


async def test_what_lasts_is_not(start_auth: StartAuth, tmp_path: Path) -> None:
    failed = CopyStatus(word="FAILED", bytes=5, files=1, failed=2, found=3, planned=True)
    errors = [GONE, CopyError(source=b"/out/b\n", target=b"", error="/out/b: permission denied")]
    async with managing(start_auth, tmp_path, node(Script(says=[failed], errors=errors))) as site:
        transfer = await site.submit("TEST:/out/a")
        found = await site.wait(transfer, "succeeded", "failed")
        assert (found["state"], found["attempts"], found["filesFailed"], found["files"]) == ("failed", 1, 2, 1)
        assert found["reason"].startswith("2 files failed: ")
        assert [error["source"] for error in await site.errors(transfer)] == ["/out/a", "/out/b\\x0a"]


async def test_attempts_are_bounded(start_auth: StartAuth, tmp_path: Path) -> None:
    scripts = [Script(says=[broken()]) for _ in range(9)]
    async with managing(start_auth, tmp_path, node(*scripts), more="attempts = 3") as site:
        found = await site.wait(await site.submit("TEST:/out/a"), "succeeded", "failed")
        assert (found["state"], found["attempts"]) == ("failed", 3)
        assert "the data connection broke" in found["reason"]
        assert "3 of 3" in found["reason"]
        assert len(site.node.scripts) == 6
        only = await site.submit("TEST:/out/b", options={"retries": 0})
        assert (await site.wait(only, "failed"))["attempts"] == 1


async def test_failed_files_of_an_earlier_attempt_are_forgotten(start_auth: StartAuth, tmp_path: Path) -> None:
    passing = CopyError(source=b"/out/a", target=b"", error="the data connection broke")
    failed = CopyStatus(word="FAILED", failed=1, found=1)
    scripts = (Script(says=[failed], errors=[passing] * 450), Script())
    async with managing(start_auth, tmp_path, node(*scripts)) as site:
        transfer = await site.submit("TEST:/out/a")
        assert (await site.wait(transfer, "succeeded"))["filesFailed"] == 0
        assert await site.errors(transfer) == []


async def test_a_copy_that_its_node_forgot_is_started_again(start_auth: StartAuth, tmp_path: Path) -> None:
    first = Script(says=[RUNNING])
    async with managing(start_auth, tmp_path, node(first)) as site:
        transfer = await site.submit("TEST:/out/a")
        await until_true(lambda: bool(site.node.copies), "the copy to start")
        site.node.forget()
        found = await site.wait(transfer, "succeeded", "failed")
        assert (found["state"], found["attempts"]) == ("succeeded", 1)
        assert site.node.last is not first


async def test_a_broken_session_is_replaced(start_auth: StartAuth, tmp_path: Path) -> None:
    script = Script(says=[RUNNING])
    async with managing(start_auth, tmp_path, node(script)) as site:
        transfer = await site.submit("TEST:/out/a")
        await until_true(lambda: bool(site.node.copies), "the copy to start")
        logins = site.node.logins
        site.node.break_connections()
        await until_true(lambda: site.node.logins > logins, "another session")
        script.says[:] = [DONE]
        assert (await site.wait(transfer, "succeeded", "failed"))["attempts"] == 1
        assert list(site.node.copies.values()) == [script], "it was watched, not started again"


async def test_a_copy_that_somebody_ended_is_tried_again(start_auth: StartAuth, tmp_path: Path) -> None:
    scripts = (Script(says=[RUNNING, CopyStatus(word="ABORTED")]), Script())
    async with managing(start_auth, tmp_path, node(*scripts)) as site:
        found = await site.wait(await site.submit("TEST:/out/a"), "succeeded", "failed")
        assert (found["state"], found["attempts"]) == ("succeeded", 2)


async def test_no_room_is_no_failure(start_auth: StartAuth, tmp_path: Path) -> None:
    busy = Script(refusal="550 Too many copies of this user - server limit is 4")
    async with managing(start_auth, tmp_path, node(busy, busy, Script()), more="attempts = 1") as site:
        found = await site.wait(await site.submit("TEST:/out/a"), "succeeded", "failed")
        assert (found["state"], found["attempts"]) == ("succeeded", 1)


async def test_the_other_node_runs_it_if_one_may_not(start_auth: StartAuth, tmp_path: Path) -> None:
    refusing = Script(refusal="550 This server does not copy with 127.0.0.1")
    script = Script()
    async with managing(start_auth, tmp_path, node(refusing, script)) as site:
        assert (await site.wait(await site.submit("TEST:/out/a"), "succeeded", "failed"))["state"] == "succeeded"
        assert (refusing.verb, script.verb) == ("RECEIVE-FILE", "SEND-FILE")
        assert script.words[:2] == (b"/out/a", b"/in/")


async def test_a_missing_source_fails_at_once(start_auth: StartAuth, tmp_path: Path) -> None:
    refusals = [Script(refusal="550 /out/a: No such file or directory") for _ in range(2)]
    async with managing(start_auth, tmp_path, node(*refusals)) as site:
        found = await site.wait(await site.submit("TEST:/out/a"), "succeeded", "failed")
        assert (found["state"], found["attempts"]) == ("failed", 1)
        assert "No such file" in found["reason"]


async def test_a_node_that_runs_no_copies(start_auth: StartAuth, tmp_path: Path) -> None:
    old = CopyNode()
    old.ping = type(old.ping)(version="3.5.3", max_sessions=16)
    async with managing(start_auth, tmp_path, old) as site:
        found = await site.wait(await site.submit("TEST:/out/a"), "succeeded", "failed")
        assert (found["state"], found["attempts"]) == ("failed", 1)
        assert "can run copies" in found["reason"]


async def test_encryption_has_one_key_for_both_sides(start_auth: StartAuth, tmp_path: Path) -> None:
    script = Script()
    async with managing(start_auth, tmp_path, node(script)) as site:
        await site.wait(await site.submit("TEST:/out/a", options={"encrypt": True}), "succeeded")
        assert script.how.encrypt
        keys = {request.key for request in site.node.transfers if request.key}
        assert [len(key) for key in keys] == [48]
        asked = {request.secret: request for request in site.node.transfers}[script.words[3].decode()]
        assert asked.key in keys


async def test_several_sources(start_auth: StartAuth, tmp_path: Path) -> None:
    failed = CopyStatus(word="FAILED", failed=1, error="no such file")
    scripts = (Script(), Script(says=[failed], errors=[GONE]), Script())
    async with managing(start_auth, tmp_path, node(*scripts)) as site:
        transfer = await site.submit(["TEST:/out/a", "TEST:/out/b", "TEST:/out/c*"], "TEST:/in")
        found = await site.wait(transfer, "succeeded", "failed")
        assert (found["state"], found["files"], found["bytes"], found["filesFailed"]) == ("failed", 2, 20, 1)
        assert found["reason"].startswith("1 of 3 sources were not copied: ")
        # With several sources the target is a directory, whether it is there or not.
        assert [script.words[:2] for script in scripts] == [
            (b"/in/", b"/out/a"),
            (b"/in/", b"/out/b"),
            (b"/in/", b"/out/c*"),
        ]
        # What was copied is not copied again.
        assert await site.act(transfer, "retry") == 200
        found = await site.wait(transfer, "succeeded")
        assert (found["files"], found["bytes"], found["filesFailed"]) == (3, 30, 0)
        assert site.node.last.words[1] == b"/out/b"
        assert len(site.node.copies) == 4


@pytest.mark.parametrize(
    ("files", "source", "target", "said"),
    [
        ({b"/in": "dir"}, "/out/a", "/in", (b"/out/a", b"/in/")),
        ({b"/out/a": "file"}, "/out/a", "/in", (b"/out/a", b"/in")),
        ({b"/out/a": "dir"}, "/out/a", "/in", (b"/out/a/", b"/in/")),
        ({b"/out/a": "dir", b"/in": "dir"}, "/out/a", "/in", (b"/out/a", b"/in/")),
        ({b"/out/a": "dir"}, "/out/a/", "/in", (b"/out/a/", b"/in/")),
        ({b"/out/a": "dir"}, "/out/*", "/in", (b"/out/*", b"/in")),
        ({b"/in": "file"}, "/out/a", "/in", (b"/out/a", b"/in")),
        ({}, "/out/%2A%5B", "/in/", (b"/out/[*][[]", b"/in/")),
        ({}, "out/ä b%25", "in/", ("out/ä b%".encode(), b"in/")),
    ],
)
async def test_names_are_settled_before_the_first_attempt(
    start_auth: StartAuth, tmp_path: Path, files: dict[bytes, str], source: str, target: str, said: tuple[bytes, bytes]
) -> None:
    # A second attempt at a directory that the first one made must not write into it one level deeper.
    scripts = (Script(says=[broken()]), Script())
    copying = node(*scripts)
    copying.files = dict(files)
    async with managing(start_auth, tmp_path, copying) as site:
        transfer = await site.submit(f"TEST:{source}", f"TEST:{target}", options={"recursive": True})
        await until_true(lambda: bool(site.node.copies), "the copy to start")
        copying.files[b"/in"] = "dir"
        await site.wait(transfer, "succeeded")
        assert [script.words[1::-1] for script in scripts] == [said, said]


async def test_an_https_source_is_fetched_by_the_target(start_auth: StartAuth, tmp_path: Path) -> None:
    script = Script()
    async with managing(start_auth, tmp_path, node(script)) as site:
        url = "https://data.example.org/a%20b?x=1"
        assert (await site.wait(await site.submit(url), "succeeded", "failed"))["state"] == "succeeded"
        assert (script.verb, script.words) == ("RCP-FETCH", (b"/in/", url.encode()))

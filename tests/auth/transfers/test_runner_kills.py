"""Managed transfers between real data nodes, while auth server and nodes are killed, and owners change their mind."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from data_node import Person, made_accounts

from benchmarks.stack import NAME, PASSWORD, Stack
from uftp.client.auth import AuthServer, HttpOptions
from uftp.client.credentials import UsernamePassword
from uftp.client.managed import ManagedTransfers, Transfer, TransferRequest
from uftp.client.url import parse_url
from uftp.errors import NetworkError, Refused

pytestmark = pytest.mark.slow

PATIENCE = 60.0
SIZE = 24 * 1024 * 1024
RATE = "8m"  # a second; so a copy takes long enough to be met in the middle


def edited(text: str) -> str:
    """Retries soon, and leases that lapse soon."""
    settings = "backoff_seconds = 0.2\nlongest_backoff_seconds = 0.5\nlease_seconds = 2\n"
    assert "[transfers]\n" in text
    return text.replace("[transfers]\n", f"[transfers]\n{settings}")


@pytest.fixture(scope="module")
def person() -> Iterator[Person]:
    if os.geteuid() != 0:
        yield Person.find(pwd.getpwuid(os.geteuid()).pw_name)
        return
    with made_accounts("kl") as (first, _):
        yield first


@dataclass
class Place:
    """A running site, and a directory for files on it."""

    stack: Stack
    work: Path
    person: Person
    data: bytes

    def url(self, name: str) -> str:
        return f"{self.stack.url}{self.work}/{name}"

    @asynccontextmanager
    async def transfers(self) -> AsyncIterator[ManagedTransfers]:
        """Those of the person."""
        http = HttpOptions(ca=str(self.stack.ca))
        async with AuthServer(UsernamePassword(self.stack.login, PASSWORD), http) as auth:
            yield ManagedTransfers(auth, parse_url(self.stack.url))

    def is_whole_or_gone(self) -> bool:
        """Nothing stands under the target's name but all of it: a copy may end before a wish is heard."""
        target = self.work / "in" / "file"
        return not target.exists() or target.read_bytes() == self.data

    def left(self) -> list[str]:
        """What is in the target directory."""
        return sorted(os.listdir(self.work / "in"))


@pytest.fixture(scope="module")
def stack(person: Person) -> Iterator[Stack]:
    """One auth server, two data nodes; whoever kills one starts it again."""
    with tempfile.TemporaryDirectory(prefix="uftp-kills-") as name:
        Path(name).chmod(0o755)
        with Stack(Path(name), ["127.0.0.1", "127.0.0.1"], user=person.name, edit_auth=edited) as running:
            yield running


@pytest.fixture
def place(stack: Stack, person: Person) -> Iterator[Place]:
    """A file to copy, and where to."""
    with tempfile.TemporaryDirectory(prefix="uftp-files-") as name:
        work = Path(name)
        work.chmod(0o755)
        data = random.Random(name).randbytes(SIZE)
        (work / "file").write_bytes(data)
        (work / "in").mkdir()
        for path in (work, work / "file", work / "in"):
            os.chown(path, person.uid, person.gid)
        yield Place(stack, work, person, data)


async def begun(transfers: ManagedTransfers, place: Place) -> str:
    """A transfer of the file, some of which is there."""
    submitted = await transfers.submit(
        TransferRequest(sources=[place.url("file")], target=place.url("in/file"), options={"limitRate": RATE})
    )
    await until(transfers, submitted.id, lambda found: found.bytes > SIZE // 8)
    return submitted.id


async def until(transfers: ManagedTransfers, transfer: str, condition: object) -> Transfer:
    """Until a condition holds of it; the server may be away meanwhile."""
    assert callable(condition)
    with trio.fail_after(PATIENCE):
        while True:
            try:
                found = await transfers.get(transfer)
                if condition(found):
                    return found
            except NetworkError:
                pass
            await trio.sleep(0.05)


def ended(found: Transfer) -> bool:
    return found.is_final


async def wish(transfers: ManagedTransfers, transfer: str, action: str) -> None:
    """Ask for something that may be too late."""
    with contextlib.suppress(Refused):
        await transfers.act(transfer, action)


async def run_sync(function: object, *args: object) -> None:
    assert callable(function)
    await trio.to_thread.run_sync(lambda: function(*args))


async def test_the_auth_server_is_killed(place: Place) -> None:
    async with place.transfers() as transfers:
        transfer = await begun(transfers, place)
        await run_sync(place.stack.kill, "auth")
        await run_sync(place.stack.start, "auth")
        found = await until(transfers, transfer, ended)
        assert (found.state, found.attempts, found.bytes) == ("succeeded", 1, SIZE)
        assert (place.work / "in" / "file").read_bytes() == place.data
        assert place.left() == ["file"]
        lines = [line for node in ("node0", "node1") for line in place.stack.log(node).splitlines()]
        started = [line for line in lines if "copy started" in line and transfer in line]
        assert len(started) == 1, "it was watched, not started again"


async def test_the_node_that_runs_it_is_killed(place: Place) -> None:
    async with place.transfers() as transfers:
        transfer = await begun(transfers, place)
        number = (await transfers.get(transfer)).node.removeprefix(f"{NAME}-")
        await run_sync(place.stack.kill, f"node{int(number) - 1}")
        await run_sync(place.stack.start, f"node{int(number) - 1}")
        found = await until(transfers, transfer, ended)
        assert found.state == "succeeded", found.reason
        assert (place.work / "in" / "file").read_bytes() == place.data
        assert place.left() == ["file"]


async def test_pause_and_resume_go_on_where_it_was(place: Place) -> None:
    async with place.transfers() as transfers:
        transfer = await begun(transfers, place)
        await wish(transfers, transfer, "pause")
        await until(transfers, transfer, lambda found: found.state in ("paused", "succeeded"))
        assert place.is_whole_or_gone()
        await wish(transfers, transfer, "resume")
        found = await until(transfers, transfer, ended)
        assert found.state == "succeeded", found.reason
        assert (place.work / "in" / "file").read_bytes() == place.data
        assert place.left() == ["file"]


async def test_cancel_leaves_nothing(place: Place) -> None:
    async with place.transfers() as transfers:
        transfer = await begun(transfers, place)
        await wish(transfers, transfer, "cancel")
        found = await until(transfers, transfer, ended)
        assert place.is_whole_or_gone()
        assert not [name for name in place.left() if name != "file"], "no part stays"
        if found.state == "succeeded":
            return  # it was too late
        assert found.state == "cancelled"
        assert (await transfers.act(transfer, "retry")).state in ("queued", "active")
        found = await until(transfers, transfer, ended)
        assert found.state == "succeeded", found.reason
        assert (place.work / "in" / "file").read_bytes() == place.data


async def test_a_tree_with_files_that_cannot_be_read(place: Place) -> None:
    tree = place.work / "tree"
    (tree / "deep").mkdir(parents=True)
    for number in range(30):
        (tree / "deep" / f"f{number}").write_bytes(b"%d" % number)
    if os.geteuid() == 0:
        (tree / "closed").write_bytes(b"")
        (tree / "closed").chmod(0o600)
    async with place.transfers() as transfers:
        request = TransferRequest(sources=[place.url("tree")], target=place.url("new"), options={"recursive": True})
        found = await until(transfers, (await transfers.submit(request)).id, ended)
        copied = {str(path.relative_to(place.work / "new")) for path in (place.work / "new").rglob("*")}
        assert copied == {"deep", *(f"deep/f{number}" for number in range(30))}
        if os.geteuid() == 0:
            assert (found.state, found.files, found.files_failed) == ("failed", 30, 1)
            errors, _ = await transfers.errors(found.id)
            assert [Path(error.source).name for error in errors] == ["closed"]
            assert "ermission" in errors[0].error
            (tree / "closed").chmod(0o644)
            await transfers.act(found.id, "retry")
            found = await until(transfers, found.id, ended)
            # The directory that the first attempt made is written to, not into.
            assert sorted(os.listdir(place.work / "new")) == ["closed", "deep"]
        assert found.state == "succeeded", found.reason
        assert (found.files_failed, (await transfers.errors(found.id))[0]) == (0, [])

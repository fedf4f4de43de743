"""Real data nodes behind one name: sessions go round, and killed or frozen nodes are passed over."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio
from data_node import Node, Person, made_accounts, running_node
from raw_ftp import RawFtp, eventually
from running_auth import DEMO, Running, StartAuth

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def person() -> Iterator[Person]:
    """Whom the nodes run as, and all sessions."""
    if os.geteuid() != 0:
        yield Person.find(pwd.getpwuid(os.geteuid()).pw_name)
        return
    with made_accounts("ef") as (first, _):
        yield first


@dataclass
class Cluster:
    """Nodes, and an auth server's settings for them."""

    person: Person
    nodes: list[Node]
    stack: ExitStack = field(repr=False)

    def settings(self, **command_port: object) -> dict[str, Any]:
        instances = ", ".join(
            f'{{host = "127.0.0.1", command = "127.0.0.1:{node.command[1]}", plain = true}}' for node in self.nodes
        )
        return {
            "extra": f"[nodes.CLUSTER]\ninstances = [{instances}]\n",
            "mapping": {DEMO: {"role": "user", "xlogin": self.person.name}},
            "command_port": "\n".join(f"{key} = {value}" for key, value in command_port.items()),
        }

    def number_of(self, port: int) -> int:
        """Which node, from 1, has this FTP port."""
        return [node.ftp[1] for node in self.nodes].index(port) + 1

    async def log_in(self, reply: dict[str, Any]) -> str:
        """The directory a session starts in, with the host, port and secret of a reply."""

        def session() -> str:
            with RawFtp((reply["serverHost"], reply["serverPort"])) as ftp:
                ftp.log_in(reply["secret"])
                answer: bytes = ftp.command("PWD")
                return answer.decode()

        return await trio.to_thread.run_sync(session)


@pytest.fixture
def cluster(person: Person) -> Iterator[Cluster]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(running_node(person, as_root=False)) for _ in range(3)]
        yield Cluster(person, nodes, stack)


async def _kill(node: Node) -> None:
    """End the spawner of a node and all with it, as the kernel would if memory ran out."""
    pids = list(node.processes())
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await trio.to_thread.run_sync(node.process.wait)


async def _numbers(auth: Running, cluster: Cluster, count: int, server: str = "CLUSTER") -> list[int]:
    found = []
    for _ in range(count):
        reply = await auth.post(server, {"serverPath": "/"})
        assert reply.status_code == 200, reply.text
        found.append(cluster.number_of(reply.json()["serverPort"]))
    return found


async def test_sessions_spread_and_work_on_each_node(start_auth: StartAuth, cluster: Cluster) -> None:
    async with start_auth(**cluster.settings()) as auth:
        assert sorted(await _numbers(auth, cluster, 3)) == [1, 2, 3]
        for number in (1, 2, 3):
            reply = await auth.post(f"CLUSTER-{number}", {"serverPath": "/tmp"})
            assert cluster.number_of(reply.json()["serverPort"]) == number
            assert "/tmp" in await cluster.log_in(reply.json())
            assert reply.json()["features"], "the node's extensions are passed on"
            log = cluster.nodes[number - 1].wait_log("session started", user=cluster.person.name)
            assert log["request"], "the id of the request is in the node's log"
        assert (await auth.post("CLUSTER-4")).status_code == 404
        assert (await auth.post("CLUSTER-0")).status_code == 404


@pytest.fixture
def pair(person: Person) -> Iterator[Cluster]:
    """Two nodes that run as they do at a site: as root, where the tests do."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(running_node(person, as_root=os.geteuid() == 0)) for _ in range(2)]
        yield Cluster(person, nodes, stack)


async def test_nodes_copy_with_each_other_since_the_auth_server_names_them(
    start_auth: StartAuth, pair: Cluster
) -> None:
    """Nothing is configured on the nodes: without the auth server's word they would connect to nobody."""
    first, second = pair.nodes
    source, target = first.directory(), second.directory()
    first.file(source / "file", b"content")
    async with start_auth(**pair.settings()) as auth:
        asked = await auth.post("CLUSTER-1", {"serverPath": f"{source}/"})
        other = (await auth.post("CLUSTER-2", {"serverPath": f"{target}/"})).json()

        def copy(reply: dict[str, Any]) -> None:
            with RawFtp((reply["serverHost"], reply["serverPort"])) as ftp:
                ftp.log_in(reply["secret"])
                for stranger in (second.command[1], 21):
                    ftp.ok(f"SEND-FILE 'file' 'new' '127.0.0.1:{stranger}' 'secret'", 534)
                where = f"{other['serverHost']}:{other['serverPort']}"
                started = ftp.ok(f"SEND-FILE 'file' 'new' '{where}' '{other['secret']}'", 299)
                status = b"RCP-STATUS " + started.strip().rpartition(b"=")[2]
                eventually(lambda: not ftp.ok(status, 299).startswith(b"299 RUNNING"), 60.0, what="the end")
                assert ftp.ok(status, 299).startswith(b"299 FINISHED ")

        await trio.to_thread.run_sync(copy, asked.json())
    assert (target / "new").read_bytes() == b"content"


async def test_a_killed_node_is_passed_over(start_auth: StartAuth, cluster: Cluster) -> None:
    settings = cluster.settings(reuse_seconds=0, status_wait_seconds=10, down_seconds=0)
    async with start_auth(**settings) as auth:
        assert (await auth.info()).json()["CLUSTER"]["status"] == "OK [3 of 3 UFTPD servers available]"
        await _kill(cluster.nodes[1])
        # The first who asks is told, and nobody gets a session that is none.
        assert (await auth.info()).json()["CLUSTER"]["status"] == "OK [2 of 3 UFTPD servers available]"
        assert set(await _numbers(auth, cluster, 6)) == {1, 3}
        refused = await auth.post("CLUSTER-2", {"serverPath": "/"})
        assert refused.status_code == 500
        assert "The selected UFTPD server is not available" in refused.json()["errorMessage"]
        assert (await _numbers(auth, cluster, 1, "CLUSTER-3")) == [3]
        await _kill(cluster.nodes[0])
        await _kill(cluster.nodes[2])
        down = await auth.post("CLUSTER", {"serverPath": "/"})
        assert down.status_code == 500
        assert "None of the configured UFTPD servers is available" in down.json()["errorMessage"]
        status = (await auth.info()).json()
        assert status["CLUSTER"]["status"] == "DOWN [0 of 3 UFTPD servers available]"
        assert status["CLUSTER"]["sessionLimit"] == 16, "what a node once said of itself is kept"


async def test_a_frozen_node_is_passed_over(start_auth: StartAuth, cluster: Cluster) -> None:
    """It takes connections, since the kernel does, and never answers."""
    async with start_auth(**cluster.settings(reuse_seconds=0)) as auth:
        # Only this one is given up soon: on a busy machine those that live need longer, too.
        first = auth.running.services.registry.servers["CLUSTER"].instances[0]
        assert await first.ping(max_age=60.0) is not None  # none is under way now
        first._limits = msgspec.structs.replace(first._limits, ping_seconds=0.3)
        frozen = list(cluster.nodes[0].processes())
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert set(await _numbers(auth, cluster, 4)) == {2, 3}
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)


async def test_while_all_are_down_it_is_503_at_once(start_auth: StartAuth, cluster: Cluster) -> None:
    async with start_auth(**cluster.settings(reuse_seconds=0)) as auth:
        for node in cluster.nodes:
            await _kill(node)
        codes = [(await auth.post("CLUSTER", {"serverPath": "/"})) for _ in range(2)]
        assert codes[1].status_code == 503
        assert codes[1].json()["errorMessage"] == "DOWN [0 of 3 UFTPD servers available]"

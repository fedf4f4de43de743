"""Data nodes that answer, do not, lie, or come back: selection, fail-over, health and the exchange itself."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trustme
from fake_node import FakeNode, serving
from running_auth import Pki, StartAuth

from uftp.protocol.command_port import PingRequest, RequestRefused, TransferRequest, UserInfoRequest, encode_request
from uftp.protocol.command_replies import PingReply
from uftpd.auth.errors import NotFound
from uftpd.auth.nodes.client import CommandPort, NodeUnreachable
from uftpd.auth.nodes.instance import NodeInstance
from uftpd.auth.nodes.registry import LogicalServer, NodeRegistry, build_registry
from uftpd.auth.nodes.resumption import RESUME_SECONDS
from uftpd.config.auth import AuthConfig, CommandPortClient, Instance, Node, Server
from uftpd.config.toml import ConfigError, HostPort


def _instance(node: FakeNode, **settings: object) -> Instance:
    return Instance(host="ftp.example.org", command=HostPort.parse(node.address), **settings)  # type: ignore[arg-type]


def _port(pki: Pki, **limits: float) -> CommandPort:
    return CommandPort(
        CommandPortClient(ca=pki.ca_path, **limits),  # type: ignore[arg-type]
        pki.directory / "auth.pem",
        pki.directory / "auth.key",
    )


# -- the exchange -----------------------------------------------------------------------------------------------------


async def test_mutual_tls(pki: Pki) -> None:
    async with serving(FakeNode(), pki.node_context()) as node:
        reply = await _port(pki).exchange(_instance(node), PingRequest())
        assert reply.startswith(b"Version: 3.5.3\n")
        assert node.pings == 1


async def test_a_pinned_subject_replaces_the_host_name(pki: Pki) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pki.ca.issue_cert("other.example.org", common_name="UFTPD", organization_name="X").configure_cert(context)
    async with serving(FakeNode(), context) as node:
        with pytest.raises(NodeUnreachable, match=r"certificate not accepted.*127\.0\.0\.1"):
            await _port(pki).exchange(_instance(node), PingRequest())
        # trustme names the organisational unit after the host, so the subject is taken from the refusal.
        with pytest.raises(NodeUnreachable, match="its certificate is for") as caught:
            await _port(pki).exchange(_instance(node, subject="CN=UFTPD,O=Y"), PingRequest())
        subject = str(caught.value).partition("for '")[2].rstrip("'")
        assert await _port(pki).exchange(_instance(node, subject=subject.upper()), PingRequest())
        assert await _port(pki).exchange(_instance(node, check_host_name=False), PingRequest())


async def test_a_node_of_another_authority_is_not_trusted(pki: Pki) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with serving(FakeNode(), context) as node:
        with pytest.raises(NodeUnreachable, match="certificate not accepted"):
            await _port(pki).exchange(_instance(node, check_host_name=False), PingRequest())
        assert node.fields == []


async def test_a_node_that_does_not_trust_us_is_unreachable(pki: Pki) -> None:
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pki.ca.issue_cert("127.0.0.1").configure_cert(strict)
    trustme.CA().configure_trust(strict)
    strict.verify_mode = ssl.CERT_REQUIRED
    async with serving(FakeNode(), strict) as node:
        with pytest.raises(NodeUnreachable):
            await _port(pki).exchange(_instance(node), PingRequest())


@pytest.mark.parametrize("tls", [True, False])
async def test_a_node_that_closes_at_once(pki: Pki, tls: bool) -> None:
    async with serving(FakeNode(closed=True), pki.node_context() if tls else None) as node:
        with pytest.raises(NodeUnreachable, match="closed without a reply"):
            await _port(pki).exchange(_instance(node, plain=not tls), PingRequest())


async def test_a_silent_node_costs_bounded_time(pki: Pki) -> None:
    async with serving(FakeNode(silent=True)) as node:
        with pytest.raises(NodeUnreachable, match=r"no reply within 0\.05 s"):
            await _port(pki, reply_seconds=0.05).exchange(_instance(node, plain=True), PingRequest())


async def test_a_handshake_that_never_ends_costs_bounded_time(pki: Pki) -> None:
    async with serving(FakeNode(silent=True)) as node:  # speaks no TLS, and reads on
        with pytest.raises(NodeUnreachable, match=r"no connection within 0\.05 s"):
            await _port(pki, connect_seconds=0.05).exchange(_instance(node), PingRequest())


async def test_an_endless_reply_costs_bounded_memory(pki: Pki) -> None:
    async with serving(FakeNode(raw_reply=b"x" * (1 << 20))) as node:
        with pytest.raises(NodeUnreachable, match="reply larger than"):
            await _port(pki).exchange(_instance(node, plain=True), PingRequest())


async def test_nobody_listens(pki: Pki) -> None:
    async with serving(FakeNode()) as node:
        pass
    with pytest.raises(NodeUnreachable, match="refused"):
        await _port(pki).exchange(_instance(node, plain=True), PingRequest())


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_session_of_tls_is_resumed_for_a_while(pki: Pki) -> None:
    clock = _Clock()
    port = CommandPort(CommandPortClient(ca=pki.ca_path), pki.directory / "auth.pem", pki.directory / "auth.key", clock)
    async with serving(FakeNode(), pki.node_context()) as node:
        for _ in range(4):
            await port.exchange(_instance(node), PingRequest())
        assert node.resumed == 3
        # What was found about the node's certificate holds for the way it was checked, and for no other.
        with pytest.raises(NodeUnreachable, match="its certificate is for"):
            await port.exchange(_instance(node, subject="CN=Somebody"), PingRequest())
        assert node.resumed == 3
        clock.now += RESUME_SECONDS
        await port.exchange(_instance(node), PingRequest())
        assert node.resumed == 3


async def test_a_pinned_subject_holds_for_resumed_sessions_too(pki: Pki) -> None:
    async with serving(FakeNode(), pki.node_context()) as node:
        with pytest.raises(NodeUnreachable) as caught:
            await _port(pki).exchange(_instance(node, subject="CN=x"), PingRequest())
        subject = str(caught.value).partition("for '")[2].rstrip("'")
        port = _port(pki)
        for _ in range(3):
            await port.exchange(_instance(node, subject=subject), PingRequest())
        assert node.resumed == 2


async def test_a_restarted_node_knows_no_old_session(pki: Pki) -> None:
    port = _port(pki)
    async with serving(FakeNode(), pki.node_context()) as node:
        await port.exchange(_instance(node), PingRequest())
        settings = _instance(node)
    async with serving(FakeNode(), pki.node_context(), port=settings.command.port) as again:
        await port.exchange(settings, PingRequest())
        await port.exchange(settings, PingRequest())
        assert (again.pings, again.resumed) == (2, 1)


async def test_a_node_that_ends_resumed_connections_is_served_with_full_handshakes(pki: Pki) -> None:
    clock = _Clock()
    async with serving(FakeNode(ends_resumed=True), pki.node_context()) as node:
        instance = _node_instance(node, pki, clock, tls=True)
        for _ in range(4):
            assert await instance.ping(max_age=0) is not None
        assert (node.pings, node.resumed) == (4, 1)
        clock.now += RESUME_SECONDS
        for _ in range(3):
            assert await instance.ping(max_age=0) is not None
        assert (node.pings, node.resumed) == (7, 2)


async def test_a_session_is_asked_for_again_with_another_secret(pki: Pki) -> None:
    """The node may have taken the request before it closed a resumed connection."""
    async with serving(FakeNode(), pki.node_context()) as node:
        instance = _node_instance(node, pki, _Clock(), tls=True)
        await instance.ping(max_age=0)
        node.mute = 1
        announced = await instance.transfer(TransferRequest(user="u", secret=""))
        secrets = [request.secret for request in node.transfers]
        assert len(set(secrets)) == 2
        assert announced.secret == secrets[-1]
        assert instance.up


async def test_a_node_that_dies_behind_a_resumed_session_is_unreachable(pki: Pki) -> None:
    async with serving(FakeNode(), pki.node_context()) as node:
        instance = _node_instance(node, pki, _Clock(), tls=True)
        assert await instance.ping(max_age=0) is not None
        node.closed = True
        assert await instance.ping(max_age=0) is None
        assert not instance.up


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "ü" * 70])
async def test_a_host_that_cannot_be_is_unreachable(pki: Pki, host: str) -> None:
    where = Instance(host="x", command=HostPort(host, 1))
    with pytest.raises(NodeUnreachable, match=host[:3]):
        await _port(pki).exchange(where, PingRequest())


def test_files_that_cannot_be_used_are_named(tmp_path: Path, pki: Pki) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    certificate, key = pki.directory / "auth.pem", pki.directory / "auth.key"
    with pytest.raises(ConfigError, match=r"junk\.pem: no usable CA"):
        CommandPort(CommandPortClient(ca=tmp_path / "junk.pem"), certificate, key)
    with pytest.raises(ConfigError, match=r"none\.key: cannot be read"):
        CommandPort(CommandPortClient(ca=pki.ca_path), certificate, tmp_path / "none.key")
    with pytest.raises(ConfigError, match=r"junk\.pem: no certificate with its unencrypted key"):
        CommandPort(CommandPortClient(ca=pki.ca_path), certificate, tmp_path / "junk.pem")


# -- who may copy with whom -------------------------------------------------------------------------------------------


async def test_peers_are_named_only_to_a_node_that_knows_copies(pki: Pki) -> None:
    wanted = TransferRequest(user="u", secret="", peers=("data2.example.org:64434",))
    for features, named in (((), ()), (("UTC",), ()), (("UTC", "RCP-PROGRESS"), wanted.peers)):
        async with serving(FakeNode(ping=PingReply(features=features))) as node:
            instance = _node_instance(node, pki, _Clock())
            await instance.ping(max_age=0)
            await instance.transfer(wanted)
            assert node.transfers[0].peers == named
            assert ("peers" in node.fields[-1]) == bool(named)


async def test_where_clients_find_a_node_is_known_from_its_answers(pki: Pki) -> None:
    async with serving(FakeNode(ftp_port=2811)) as node:
        instance = _node_instance(node, pki, _Clock())
        assert instance.ftp_address is None
        assert instance.was_never_heard()
        await instance.ping(max_age=0)
        assert not instance.was_never_heard()
        assert instance.ftp_address is None, "this one does not tell its port to a ping"
        await instance.transfer(TransferRequest(user="u", secret=""))
        assert str(instance.ftp_address) == "ftp.example.org:2811"
        node.ping = PingReply(listen_port=64000)
        await instance.ping(max_age=0)
        assert str(instance.ftp_address) == "ftp.example.org:64000"
        later = _node_instance(node, pki, _Clock())
        later.take_over(instance)
        assert later.ftp_address == instance.ftp_address


async def test_every_node_that_is_known_may_be_copied_with(pki: Pki) -> None:
    settings = CommandPortClient(ca=pki.ca_path)
    port = CommandPort(settings, pki.directory / "auth.pem", pki.directory / "auth.key", _Clock())
    async with (
        serving(FakeNode(ping=PingReply(listen_port=1001))) as first,
        serving(FakeNode(ping=PingReply(listen_port=1002))) as second,
        serving(FakeNode(closed=True)) as down,
        trio.open_nursery() as background,
    ):

        def node(name: str, fake: FakeNode, number: int, host: str) -> NodeInstance:
            where = Instance(host=host, command=HostPort.parse(fake.address), plain=True)
            return NodeInstance(name, number, where, port, settings, _Clock())

        nodes = [node("A", first, 1, "2001:db8::1"), node("A", second, 2, "b.example.org"), node("A", down, 3, "c")]
        odd = node("B", second, 1, "[::1]]")
        registry = NodeRegistry({"A": LogicalServer("A", "", nodes), "B": LogicalServer("B", "", [odd])})
        # Shortly after the start: those nobody has heard of are asked first.
        expected = ("[2001:db8::1]:1001", "b.example.org:1002")
        assert await registry.peers(background, wait_seconds=30) == expected
        assert (first.pings, second.pings) == (1, 2)
        assert await registry.peers(background, wait_seconds=30) == expected
        assert (first.pings, second.pings) == (1, 2), "nobody is asked twice"
        request = TransferRequest(user="u", secret="s", peers=expected)
        assert b"\npeers=[2001:db8::1]:1001,b.example.org:1002\n" in encode_request(request, extensions=True)


# -- one node's health ------------------------------------------------------------------------------------------------


def _node_instance(
    fake: FakeNode, pki: Pki, clock: Callable[[], float], number: int = 1, *, tls: bool = False, **limits: float
) -> NodeInstance:
    settings = CommandPortClient(ca=pki.ca_path, **limits)  # type: ignore[arg-type]
    port = CommandPort(settings, pki.directory / "auth.pem", pki.directory / "auth.key", clock)
    return NodeInstance("TEST", number, _instance(fake, plain=not tls), port, settings, clock)


async def test_a_dead_node_is_left_alone_for_a_minute(pki: Pki) -> None:
    clock = _Clock()
    async with serving(FakeNode(closed=True)) as node:
        instance = _node_instance(node, pki, clock)
        assert not instance.is_left_alone()
        assert await instance.ping(max_age=0) is None
        assert instance.is_left_alone()
        node.closed = False
        clock.now += 59
        assert await instance.ping(max_age=0) is None
        assert node.pings == 0
        clock.now += 2
        assert not instance.is_left_alone()
        assert await instance.ping(max_age=0) is not None
        assert instance.up


async def test_a_fresh_answer_is_used_again(pki: Pki) -> None:
    clock = _Clock()
    async with serving(FakeNode()) as node:
        instance = _node_instance(node, pki, clock)
        assert not instance.answered_within(1e9)
        for _ in range(3):
            assert await instance.ping(max_age=5) == PingReply(
                version="3.5.3", max_sessions=16, listen_port=0, listen_address=""
            )
        assert node.pings == 1
        assert instance.answered_within(1)
        clock.now += 6
        assert not instance.answered_within(5)
        await instance.ping(max_age=5)
        assert node.pings == 2


async def test_a_node_that_hangs_is_soon_passed_over(pki: Pki) -> None:
    async with serving(FakeNode(silent=True)) as node:
        instance = _node_instance(node, pki, _Clock(), ping_seconds=0.05)
        assert await instance.ping(max_age=0) is None
        assert instance.is_left_alone()


async def test_a_node_that_stays_down_is_a_warning_once(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    clock = _Clock()
    async with serving(FakeNode(closed=True)) as node:
        instance = _node_instance(node, pki, clock)
        for _ in range(3):
            assert await instance.ping(max_age=0) is None
            clock.now += 61
        node.closed = False
        assert await instance.ping(max_age=0) is not None
        node.closed = True
        assert await instance.ping(max_age=0) is None
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert texts == ["data node does not answer"] * 2


async def test_the_background_finds_a_dead_node_and_a_repaired_one(
    pki: Pki, autojump_clock: trio.testing.MockClock
) -> None:
    """On a virtual clock: pings go every 30 s while the node lives, every 60 s while it does not."""
    node = _ScriptedNode()
    settings = CommandPortClient(ca=pki.ca_path)
    where = Instance(host="x", command=HostPort("127.0.0.1", 1), plain=True)
    instance = NodeInstance("TEST", 1, where, node, settings)  # type: ignore[arg-type]
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(instance.watch)
        await trio.sleep(70)
        states = [instance.up]
        node.alive = False
        await trio.sleep(30)
        states.append(instance.up)
        await trio.sleep(20)
        node.alive = True
        await trio.sleep(65)
        states.append(instance.up)
        nursery.cancel_scope.cancel()
    assert states == [True, False, True]
    assert [round(at - start) for at in node.asked] == [0, 30, 60, 90, 150, 180]


async def test_a_ping_that_fails_in_an_unknown_way_ends_nothing(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    node = _ScriptedNode()
    settings = CommandPortClient()
    where = Instance(host="x", command=HostPort("127.0.0.1", 1), plain=True)
    instance = NodeInstance("TEST", 1, where, node, settings)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(instance.watch)
        await trio.sleep(10)
        node.alive = None
        await trio.sleep(30)
        states = [instance.up]
        node.alive = True
        await instance.background_ping(nursery).wait()
        await trio.sleep(60)
        states.append(instance.up)
        nursery.cancel_scope.cancel()
    assert states == [False, True]
    assert "ping failed" in [record.getMessage() for record in caplog.records]


class _ScriptedNode:
    """Stands for the command port of a node, without sockets."""

    def __init__(self) -> None:
        self.alive: bool | None = True
        self.asked: list[float] = []

    async def exchange(self, *_: object, **__: object) -> bytes:
        self.asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.alive is None:
            raise RuntimeError("a mistake of ours")
        if not self.alive:
            raise NodeUnreachable("dead")
        return b"Version: 1\n"


async def test_pings_at_the_same_time_are_one(pki: Pki) -> None:
    async with serving(FakeNode()) as node:
        instance = _node_instance(node, pki, _Clock())
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(lambda: instance.ping(max_age=5))
        assert node.pings == 1


async def test_user_info(pki: Pki) -> None:
    reply = b"Version: 3.5.3\nUser: alice\nHome: /home/alice\nAccepted key 0: ssh-ed25519 AAAA x\nStatus: OK\n"
    async with serving(FakeNode(raw_reply=reply)) as node:
        info = await _node_instance(node, pki, _Clock()).user_info("alice")
        assert info.accepted_keys == ("ssh-ed25519 AAAA x",)
        assert UserInfoRequest("alice").user == info.user


@pytest.mark.parametrize("field", [{"scope": b"a"}, {"http": True}, {"max_logins": 1}])
async def test_restricted_sessions_are_not_sent_to_a_node_that_would_not_restrict(
    pki: Pki, field: dict[str, Any]
) -> None:
    async with serving(FakeNode()) as node:
        instance = _node_instance(node, pki, _Clock())
        request = TransferRequest(user="u", secret="", **field)
        for _ in range(2):  # before the first ping, and after one without features
            with pytest.raises(RequestRefused, match="too old for restricted sessions"):
                await instance.transfer(request)
            await instance.ping(max_age=0)
        node.ping = PingReply(features=("UTC",))
        await instance.ping(max_age=0)
        await instance.transfer(request)
        assert len(node.transfers) == 1


# -- logical servers --------------------------------------------------------------------------------------------------


async def test_names_and_numbers(pki: Pki) -> None:
    async with serving(FakeNode()) as node:
        instances = [_node_instance(node, pki, _Clock(), number) for number in (1, 2)]
        registry = NodeRegistry({name: LogicalServer(name, "", instances) for name in ("AB", "X")})
        assert registry.find("AB")[1] is None
        assert registry.find("AB-2")[1] == 2
        for wrong in ("AB-3", "AB-0", "AB--1", "AB-", "AB-x", "AB-1-1", "X-1", "CD", "", "-1", "AB-²"):
            with pytest.raises(NotFound):
                registry.find(wrong)


async def test_sessions_go_round_and_a_dead_node_is_skipped(start_auth: StartAuth) -> None:
    nodes = [FakeNode(ftp_port=1001), FakeNode(ftp_port=1002), FakeNode(ftp_port=1003)]
    async with start_auth(*nodes) as auth:
        ports = [(await auth.post()).json()["serverPort"] for _ in range(6)]
        assert ports == [1001, 1002, 1003] * 2
        nodes[1].closed = True
        auth.node.ping = PingReply(version="9", max_sessions=4)
        ports = [(await auth.post("TEST")).json()["serverPort"] for _ in range(4)]
        assert 1002 not in ports
        info = (await auth.info()).json()["TEST"]
        assert info["status"] == "OK [2 of 3 UFTPD servers available]"
        assert (await auth.post("TEST-3")).json()["serverPort"] == 1003
        assert (await auth.post("TEST-2")).status_code == 500


async def test_when_all_are_down_it_is_500_and_then_503(start_auth: StartAuth) -> None:
    nodes = [FakeNode(closed=True), FakeNode(closed=True)]
    async with start_auth(*nodes, extra="") as auth:
        # The pings at the start may have been first to find out; either way the status is right afterwards.
        first = await auth.post()
        assert first.status_code in (500, 503)
        second = await auth.post()
        assert second.status_code == 503
        assert second.json()["errorMessage"] == "DOWN [0 of 2 UFTPD servers available]"
        info = (await auth.info()).json()
        assert info["TEST"]["status"] == "DOWN [0 of 2 UFTPD servers available]"
        assert info["server"]["externalConnections"] == {"UFTPD server 'TEST'": "DOWN"}


async def test_the_status_is_that_of_now(start_auth: StartAuth) -> None:
    """The first who asks after a node has died is told so."""
    nodes = [FakeNode(), FakeNode()]
    async with start_auth(*nodes, command_port="reuse_seconds = 0\nstatus_wait_seconds = 10") as auth:
        assert (await auth.info()).json()["TEST"]["status"] == "OK [2 of 2 UFTPD servers available]"
        nodes[1].closed = True
        assert (await auth.info()).json()["TEST"]["status"] == "OK [1 of 2 UFTPD servers available]"
        nodes[0].closed = True
        assert (await auth.info()).json()["TEST"]["status"] == "DOWN [0 of 2 UFTPD servers available]"


async def test_a_node_that_never_answered_is_unknown(start_auth: StartAuth) -> None:
    async with start_auth(FakeNode(silent=True), command_port="status_wait_seconds = 0") as auth:
        info = (await auth.info()).json()
        assert info["server"]["externalConnections"] == {"UFTPD server 'TEST'": "UNKNOWN"}
        assert info["TEST"]["uftpdServerVersion"] == "n/a"
        assert "sessionLimit" not in info["TEST"]


async def test_a_status_does_not_wait_long_for_a_node_that_hangs(start_auth: StartAuth) -> None:
    async with start_auth(FakeNode(silent=True), FakeNode(), command_port="status_wait_seconds = 0.05") as auth:
        for _ in range(3):
            assert (await auth.info()).json()["TEST"]["status"] == "OK [2 of 2 UFTPD servers available]"


async def test_what_is_known_of_a_node_outlives_a_new_configuration(pki: Pki, tmp_path: Path) -> None:
    clock = _Clock()
    port = _port(pki)
    async with serving(FakeNode(closed=True)) as dead, serving(FakeNode()) as alive:
        nodes = {"AB": Node(instances=(_instance(dead, plain=True), _instance(alive, plain=True)))}
        config = AuthConfig(server=Server(), nodes=nodes, command_port=CommandPortClient(ca=pki.ca_path))
        first = build_registry(config, port, clock)
        for instance in first.servers["AB"].instances:
            await instance.ping(max_age=0)
        turned = {"AB": Node(instances=tuple(reversed(nodes["AB"].instances))), "CD": nodes["AB"]}
        second = build_registry(msgspec.structs.replace(config, nodes=turned), port, clock, previous=first)
        assert [instance.up for instance in second.servers["AB"].instances] == [True, False]
        assert second.servers["AB"].version() == "3.5.3"
        assert second.servers["CD"].status() == "OK [2 of 2 UFTPD servers available]"  # not asked yet


async def test_each_node_gets_a_secret_of_its_own(start_auth: StartAuth) -> None:
    """A node that takes the request and falls silent may have the secret; the next one gets another."""
    silent, good = FakeNode(ftp_port=1001), FakeNode(ftp_port=1002)
    async with start_auth(silent, good) as auth:
        await auth.post()
        await auth.post()
        silent.raw_reply = b""
        reply = await auth.post()
        assert reply.json()["serverPort"] == 1002
        sent = [fields["secret"] for fields in silent.fields + good.fields if "secret" in fields]
        assert len(set(sent)) == len(sent) == 5  # the silent one was asked once more, by a full handshake


async def test_plain_text_to_a_node_on_loopback(start_auth: StartAuth) -> None:
    async with start_auth(tls=False) as auth:
        assert (await auth.post()).status_code == 200


@pytest.mark.parametrize("reply", [b"OK", b"OK::x", b"500::no", b"\xff\x00junk", b"OK::70000", b"ERROR::a\nb\x1b[2J"])
async def test_odd_replies_are_refusals_in_one_line(start_auth: StartAuth, reply: bytes) -> None:
    async with start_auth(FakeNode(raw_reply=reply)) as auth:
        answer = await auth.post()
        assert answer.status_code == 500
        text = answer.json()["errorMessage"]
        assert text.startswith("UFTPD server 'TEST': ")
        assert text.isprintable()


async def test_upstreams_transfer_reply_is_understood(start_auth: StartAuth) -> None:
    async with start_auth(FakeNode(raw_reply=b"OK::64434\n")) as auth:
        assert (await auth.post()).json()["serverPort"] == 64434

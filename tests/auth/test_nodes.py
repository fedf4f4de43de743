"""Data nodes that answer, do not, lie, or come back: selection, fail-over, health and the exchange itself."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trustme
from fake_node import FakeNode, serving
from running_auth import Pki, StartAuth

from uftp.protocol.command_port import PingRequest, UserInfoRequest
from uftp.protocol.command_replies import PingReply
from uftpd.auth.errors import NotFound
from uftpd.auth.nodes.client import CommandPort, NodeUnreachable
from uftpd.auth.nodes.instance import NodeInstance
from uftpd.auth.nodes.registry import LogicalServer, NodeRegistry
from uftpd.config.auth import CommandPortClient, Instance
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


def test_files_that_cannot_be_used_are_named(tmp_path: Path, pki: Pki) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    certificate, key = pki.directory / "auth.pem", pki.directory / "auth.key"
    with pytest.raises(ConfigError, match=r"junk\.pem: no usable CA"):
        CommandPort(CommandPortClient(ca=tmp_path / "junk.pem"), certificate, key)
    with pytest.raises(ConfigError, match=r"none\.key: cannot be read"):
        CommandPort(CommandPortClient(ca=pki.ca_path), certificate, tmp_path / "none.key")
    with pytest.raises(ConfigError, match=r"junk\.pem: no certificate with its unencrypted key"):
        CommandPort(CommandPortClient(ca=pki.ca_path), certificate, tmp_path / "junk.pem")


# -- one node's health ------------------------------------------------------------------------------------------------


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _node_instance(fake: FakeNode, pki: Pki, clock: Callable[[], float], number: int = 1) -> NodeInstance:
    limits = CommandPortClient()
    return NodeInstance("TEST", number, _instance(fake, plain=True), _port(pki), limits, clock)


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
        assert instance.wants_ping()
        for _ in range(3):
            assert await instance.ping(max_age=5) == PingReply(
                version="3.5.3", max_sessions=16, listen_port=0, listen_address=""
            )
        assert node.pings == 1
        assert not instance.wants_ping()
        clock.now += 6
        await instance.ping(max_age=5)
        assert node.pings == 2
        clock.now += 61
        assert instance.wants_ping()


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
        assert len(set(sent)) == len(sent) == 4


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

"""An upstream node, played from the published exchanges: what it is sent, and how its words are taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from fake_node import FakeNode, serving
from running_auth import Pki

from uftp.protocol.command_port import (
    Access,
    Purpose,
    RequestRefused,
    TransferRequest,
)
from uftpd.auth.addresses import parse_address
from uftpd.auth.nodes.client import CommandPort
from uftpd.auth.nodes.instance import NodeInstance
from uftpd.config.auth import CommandPortClient, Instance
from uftpd.config.toml import HostPort

_VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "command-port.json").read_text())
_REPLIES: dict[str, bytes] = {
    e["note"].partition(":")[0].partition(";")[0]: e["reply"].encode() for e in _VECTORS["exchanges"]
}
_EXTENSIONS = {"request-id", "purpose", "scope", "expires", "max-logins", "http"}
_FULL = TransferRequest(
    user="user1",
    secret="",
    client_ip=tuple(a for a in map(parse_address, ("192.0.2.10", "2001:db8::1")) if a is not None),
    persistent=True,
    file="/home/user1/data/",
    streams=2,
    groups=("hpc1",),
    rate_limit=209715200,
    key=bytes(range(48)),
    includes=("/work/*", "/tmp/*"),
    excludes=("/work/private/*",),
    access=Access.READ,
    request_id="abc",
    purpose=Purpose.SHARE,
    expires=60,
)


class UpstreamNode(FakeNode):
    """Answers pings and requests as upstream does."""

    def _reply(self, fields: Mapping[str, str]) -> bytes:
        if fields["request-type"] == "uftp-ping-request":
            self.pings += 1
            return _REPLIES["ping"]
        return self.raw_reply or b"OK::64434\n"


def _instance(node: FakeNode, pki: Pki) -> NodeInstance:
    limits = CommandPortClient(ca=pki.ca_path)
    port = CommandPort(limits, pki.directory / "auth.pem", pki.directory / "auth.key")
    where = Instance(host="ftp.example.org", command=HostPort.parse(node.address))
    return NodeInstance("TEST", 1, where, port, limits)


@pytest.mark.parametrize("pinged", [True, False])
async def test_no_field_of_ours_is_sent(pki: Pki, pinged: bool) -> None:
    async with serving(UpstreamNode(), pki.node_context()) as node:
        instance = _instance(node, pki)
        if pinged:
            reply = await instance.ping(max_age=0)
            assert reply is not None
            assert (reply.version, reply.max_sessions, reply.features) == ("3.5.3", 16, ())
        announced = await instance.transfer(_FULL)
        assert announced.port == 64434
        sent = node.fields[-1]
        assert not _EXTENSIONS & sent.keys()
        assert list(sent.items()) == [
            ("request-type", "uftp-transfer-request"),
            ("client-ip", "192.0.2.10,::ffff:192.0.2.10,2001:db8::1"),
            ("user", "user1"),
            ("secret", announced.secret),
            ("persistent", "true"),
            ("file", "/home/user1/data/"),
            ("append", "false"),
            ("streams", "2"),
            ("compress", "false"),
            ("group", "hpc1"),
            ("rateLimit", "209715200"),
            ("key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v"),
            ("algo", "AES"),
            ("includes", "/work/*:/tmp/*"),
            ("excludes", "/work/private/*"),
            ("access-permissions", "READ"),
        ]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (_REPLIES["minimal transfer request"], "ERROR::Duplicate secret - this is not allowed."),
        (_REPLIES["missing 'user'"], "ERROR::'user'"),
        (b"500::Request rejected. Reason: too many\n", "500::Request rejected. Reason: too many"),
        (b"OK\n", "OK"),
    ],
)
async def test_its_refusals_are_its_own_words(pki: Pki, reply: bytes, words: str) -> None:
    async with serving(UpstreamNode(raw_reply=reply), pki.node_context()) as node:
        with pytest.raises(RequestRefused) as caught:
            await _instance(node, pki).transfer(_FULL)
        assert str(caught.value) == words


async def test_its_keys_are_understood(pki: Pki) -> None:
    reply = _REPLIES["user info with two accepted keys"]
    async with serving(UpstreamNode(raw_reply=reply), pki.node_context()) as node:
        info = await _instance(node, pki).user_info("alice")
        assert info.accepted_keys == ("ssh-ed25519 AAAAC3Nz demo@example", "ssh-rsa AAAAB3 two words")
        assert node.fields[-1] == {
            "request-type": "uftp-get-user-info-request",
            "client-ip": "",
            "user": "alice",
            "secret": "null",
            "persistent": "false",
        }
        node.raw_reply = _REPLIES["user info for root is refused"]
        with pytest.raises(RequestRefused, match="500 Not allowed"):
            await _instance(node, pki).user_info("root")


async def test_our_own_node_is_sent_all_of_it(pki: Pki) -> None:
    async with serving(FakeNode(), pki.node_context()) as node:
        node.ping = type(node.ping)(features=("MODE U",))
        instance = _instance(node, pki)
        await instance.ping(max_age=0)
        await instance.transfer(_FULL)
        sent = node.fields[-1]
        assert {name: sent[name] for name in _EXTENSIONS & sent.keys()} == {
            "request-id": "abc",
            "purpose": "share",
            "expires": "60",
        }

"""Fields of the command port that only our own ends know (EXTENSIONS section 7), as a node takes them."""

from __future__ import annotations

import secrets

import pytest
from data_node import Node, StartNode
from raw_ftp import eventually

from uftp.protocol.command_port import PingRequest, Purpose
from uftp.protocol.command_replies import parse_ping_reply
from uftp.protocol.features import EXTENSION_FEATURES, copy_features


def ask(node: Node, *lines: str) -> str:
    """The reply to a transfer request with these lines more."""
    secret = secrets.token_hex(8)
    request = ["request-type=uftp-transfer-request", f"user={node.person.name}", f"secret={secret}"]
    return node.ask(
        "\n".join([*request, "client-ip=127.0.0.1", f"file={node.root}/", *lines, "END\n"]).encode()
    ).decode()


def test_a_node_says_what_it_can(shared_node: Node) -> None:
    reply = parse_ping_reply(shared_node.request(PingRequest()))
    assert reply.features == EXTENSION_FEATURES + copy_features(copies=True, fetches=True)
    assert reply.features, "without any no auth server would send the fields below"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("http=true", "ERROR::Access over HTTP is not supported by this UFTPD server.\n"),
        ("scope=../x", "ERROR::'scope' must be a path below the session directory\n"),
        ("scope=a%2F..%2F..%2Fb", "ERROR::'scope' must be a path below the session directory\n"),
        ("scope=%2Fetc", "ERROR::'scope' must be a path below the session directory\n"),
        ("scope=", "ERROR::'scope' must be a path below the session directory\n"),
        ("scope=.", "ERROR::'scope' must be a path below the session directory\n"),
        ("purpose=other", "ERROR::'purpose' must be one of login share copy\n"),
        ("expires=0", "ERROR::'expires' must be at least 1\n"),
        ("expires=soon", "ERROR::'expires' is not an integer\n"),
        ("max-logins=0", "ERROR::'max-logins' must be at least 1\n"),
        ("scope=a\nscope=b", "ERROR::Repeated key 'scope'\n"),
    ],
)
def test_what_is_refused(shared_node: Node, line: str, reply: str) -> None:
    assert ask(shared_node, line) == reply


@pytest.mark.parametrize(
    "line", ["http=false", "scope=a%20b", "purpose=share", "expires=5", "max-logins=2", "unknown=1"]
)
def test_what_is_taken(shared_node: Node, line: str) -> None:
    assert ask(shared_node, line).startswith("OK::")


def test_so_many_logins_and_no_more(shared_node: Node) -> None:
    secret = shared_node.expect(max_logins=2)
    for _ in range(2):
        with shared_node.connect() as ftp:
            ftp.log_in(secret)
            ftp.ok("NOOP")
    assert shared_node.login_fails(secret=secret)[:3] in (b"500", b"530")


def test_a_secret_that_is_not_used_in_time(start_node: StartNode) -> None:
    node = start_node(limits={"sessions_per_user": 1})
    secret = node.expect(expires=1)
    assert ask(node).startswith("ERROR::Too many")
    eventually(lambda: ask(node).startswith("OK::"), what="the slot of a secret that ran out")
    assert node.login_fails(secret=secret) == b"530 Not logged in: no matching transfer request found\r\n"


def test_the_log_names_request_and_purpose(shared_node: Node) -> None:
    name = secrets.token_hex(6)
    with shared_node.login(request_id=name, purpose=Purpose.SHARE) as ftp:
        ftp.ok("NOOP")
    assert shared_node.wait_log("login expected", request=name)["user"] == shared_node.person.name
    assert shared_node.wait_log("session started", request=name)["purpose"] == "share"
    assert shared_node.wait_log("session-ended", request=name)

"""The command port with TLS: who is admitted, and what a bad peer costs others."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from data_node import Node, StartNode
from raw_ftp import TIMEOUT, eventually

from uftpd.data.acl import has_expired

PING = b"request-type=uftp-ping-request\nEND\n"


class Peers:
    """A certificate authority, the node's certificate, and peers with subjects of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        server = self.ca.issue_cert("localhost", "127.0.0.1")
        self.ca.cert_pem.write_to_path(str(directory / "ca.pem"))
        server.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
        self.acl = directory / "acl"

    def settings(self, **more: object) -> dict[str, object]:
        pem = str(self.directory / "server.pem")
        ca = str(self.directory / "ca.pem")
        return {"plain": False, "certificate": pem, "key": pem, "ca": ca, "acl": str(self.acl), **more}

    def context(self, ca: trustme.CA | None, organisation: str = "") -> ssl.SSLContext:
        """TLS for a peer that has a certificate of `ca`, or none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        self.ca.configure_trust(context)
        if ca is not None:
            ca.issue_cert("peer", common_name="peer", organization_name=organisation or None).configure_cert(context)
        return context


@pytest.fixture
def peers() -> Iterator[Peers]:
    # Where the front can read the list: it runs as an account without rights.
    directory = Path(tempfile.mkdtemp(prefix="uftp-pki-"))
    directory.chmod(0o755)
    yield Peers(directory)
    shutil.rmtree(directory)


def ask(node: Node, context: ssl.SSLContext, request: bytes = PING) -> bytes:
    """The reply; empty if the node closes without one."""
    try:
        with socket.create_connection(node.command, TIMEOUT) as plain, context.wrap_socket(plain) as peer:
            peer.sendall(request)
            reply = b""
            while data := peer.recv(65536):
                reply += data
            return reply
    except (ssl.SSLError, ConnectionError):
        return b""


@pytest.mark.slow
def test_who_is_admitted(start_node: StartNode, peers: Peers) -> None:
    peer = peers.context(peers.ca, "Trusted")
    peers.acl.write_text("# nobody yet\n\n")
    node = start_node(command_port=peers.settings(request_seconds=2))
    assert ask(node, peer) == b"", "not on the list"
    subject = node.wait_log("peer not in the ACL")["subject"]
    assert subject.startswith("CN=peer,")
    assert ask(node, peers.context(trustme.CA(), "Trusted")) == b"", "of another authority"
    assert ask(node, peers.context(None)) == b"", "without certificate"
    reasons = [event["reason"] for event in node.log("request not served")]
    assert reasons[0].startswith("certificate not accepted: ")
    assert node.log("request not served")[0]["peer"] == "127.0.0.1"
    # The list is read again when it changes; spelling and order do not matter, every part does.
    reordered = ", ".join(reversed(subject.upper().split(",")))
    for line, admitted in (
        (f"# one line\n{reordered}\nnonsense\n", True),
        ("CN=peer\n", False),
        (f"{subject},C=DE\n", False),
        (f"{subject}\n", True),
    ):
        peers.acl.write_text(line)
        assert ask(node, peer).startswith(b"Version: ") == admitted, line
    peers.acl.unlink()
    assert ask(node, peer).startswith(b"Version: "), "what was read last stays in force"


def _resume(node: Node, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bytes, bool, ssl.SSLSession]:
    """The reply to a ping, whether the session was resumed, and the session to go on with."""
    with (
        socket.create_connection(node.command, TIMEOUT) as plain,
        context.wrap_socket(plain, session=session) as peer,
    ):
        peer.sendall(PING)
        reply = b""
        with suppress(ssl.SSLError, ConnectionError):
            while data := peer.recv(65536):
                reply += data
        assert peer.session is not None
        return reply, bool(peer.session_reused), peer.session


@pytest.mark.slow
def test_a_resumed_session_is_checked_like_any_other(start_node: StartNode, peers: Peers) -> None:
    peer = peers.context(peers.ca, "Trusted")
    peers.acl.write_text("O=Trusted\n")
    node = start_node(command_port=peers.settings(acl_subset=True))
    reply, resumed, session = _resume(node, peer, None)
    assert (reply[:8], resumed) == (b"Version:", False)
    for _ in range(2):
        assert _resume(node, peer, session)[:2] == (reply, True)
    peers.acl.write_text("O=Somebody else\n")
    assert _resume(node, peer, session)[:2] == (b"", True), "taken off the list"
    assert node.wait_log("peer not in the ACL")["subject"].startswith("CN=peer,")
    peers.acl.write_text("O=Trusted\n")
    assert _resume(node, peer, session)[:2] == (reply, True)
    if os.geteuid() != 0 or not node.as_root:
        node.signal(signal.SIGHUP)
        node.wait_log("configuration reloaded")
        assert _resume(node, peer, session)[1] is False, "tickets end with the certificates they were made under"


def test_a_certificate_that_has_run_out() -> None:
    certificate = x509.load_pem_x509_certificate(trustme.CA().issue_cert("peer").cert_chain_pems[0].bytes())
    der, end = certificate.public_bytes(serialization.Encoding.DER), certificate.not_valid_after_utc
    assert not has_expired(der, end)
    assert has_expired(der, end + dt.timedelta(seconds=1))
    assert has_expired(b"junk")
    assert not has_expired(None)


@pytest.mark.slow
def test_the_subset_rule_is_a_choice(start_node: StartNode, peers: Peers) -> None:
    peers.acl.write_text("O=trusted\n")
    node = start_node(command_port=peers.settings(acl_subset=True))
    assert ask(node, peers.context(peers.ca, "Trusted")).startswith(b"Version: ")
    assert ask(node, peers.context(peers.ca, "Other")) == b""


@pytest.mark.slow
def test_bad_peers_cost_nobody_else_anything(start_node: StartNode, peers: Peers) -> None:
    peer = peers.context(peers.ca, "Trusted")
    peers.acl.write_text("O=Trusted\n")
    node = start_node(command_port=peers.settings(acl_subset=True, request_seconds=0.7))
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(node.command, TIMEOUT)) for _ in range(5)]
        silent[0].sendall(b"\x16\x03\x01")
        plain = stack.enter_context(socket.create_connection(node.command, TIMEOUT))
        plain.sendall(PING)
        slow = stack.enter_context(peer.wrap_socket(socket.create_connection(node.command, TIMEOUT)))
        slow.sendall(PING[:5])
        assert ask(node, peer).startswith(b"Version: ")
        for connection in silent:
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        with suppress(ssl.SSLError, ConnectionResetError):
            assert slow.recv(1) == b""
    big = ask(node, peer, b"a=" + b"x" * 100_000)
    assert big == b"" or big.startswith(b"ERROR::Request is larger than")
    assert ask(node, peer).startswith(b"Version: ")
    assert ask(node, peer, b"request-type=foo\nEND\n") == b"ERROR::Unsupported request type 'foo'\n"


@pytest.mark.slow
def test_a_reload_keeps_a_key_that_only_root_can_read(start_node: StartNode, peers: Peers) -> None:
    peer = peers.context(peers.ca, "Trusted")
    peers.acl.write_text("O=Trusted\n")
    (peers.directory / "server.pem").chmod(0o600 if os.geteuid() == 0 else 0o400)
    node = start_node(command_port=peers.settings(acl_subset=True), limits={"sessions_per_user": 1})
    assert b"MaxSessionsPerClient: 1\n" in ask(node, peer)
    node.config_path.write_text(node.config_path.read_text().replace("sessions_per_user = 1", "sessions_per_user = 7"))
    node.signal(signal.SIGHUP)
    eventually(lambda: b"MaxSessionsPerClient: 7\n" in ask(node, peer))


@pytest.mark.slow
def test_a_reload_never_takes_tls_away(start_node: StartNode, peers: Peers) -> None:
    peer = peers.context(peers.ca, "Trusted")
    peers.acl.write_text("O=Trusted\n")
    node = start_node(command_port=peers.settings(acl_subset=True, request_seconds=2))
    node.config_path.write_text(node.config_path.read_text().replace("plain = false", "plain = true"))
    node.signal(signal.SIGHUP)
    node.wait_log("TLS of the command port stays as it was until a restart")
    assert ask(node, peer).startswith(b"Version: ")
    with suppress(ConnectionResetError):
        assert not node.ask(PING).startswith(b"Version")

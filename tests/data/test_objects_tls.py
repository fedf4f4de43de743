"""HTTPS of the object server: relays that hold the key, and nothing else."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from data_node import Node, StartNode, descriptors
from object_client import RawHttp, TlsFiles, certificate_serial, link, object_url
from raw_ftp import TIMEOUT, eventually

CONTENT = os.urandom(300_000)
BIG = 24 << 20
ROOT_ONLY = pytest.mark.skipif(
    os.geteuid() != 0, reason="the kernel shows open files of protected processes to root only"
)


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    return TlsFiles(tmp_path)


@pytest.fixture
def node(start_node: StartNode, tls: TlsFiles) -> Node:
    return start_node(objects={**tls.settings, "relays": 2})


@pytest.fixture
def file(node: Node) -> Path:
    return node.file(node.directory() / "file", CONTENT)


def relays(node: Node) -> list[int]:
    """Process ids of those that serve: of all processes of a node only they wait for connections to HTTPS."""
    parts = urlsplit(object_url(node))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {f[9] for f in lines if f[3] == "0A" and int(f[1].rpartition(":")[2], 16) == parts.port}
    names = {f"socket:[{inode}]" for inode in listening}
    front = node.front()
    return [pid for pid in node.children() if pid != front and names & set(descriptors(pid).values()) and _waits(pid)]


def _waits(pid: int) -> bool:
    return "anon_inode:[eventpoll]" in descriptors(pid).values()


def served_serial(node: Node, tls: TlsFiles) -> int:
    """Serial number of the certificate that is shown just now."""
    parts = urlsplit(object_url(node))
    with (
        socket.create_connection((parts.hostname, parts.port), TIMEOUT) as plain,
        tls.client.wrap_socket(plain, server_hostname=parts.hostname) as connection,
    ):
        der = connection.getpeercert(binary_form=True)
    assert der
    return certificate_serial(ssl.DER_cert_to_PEM_cert(der).encode())


def test_a_file(node: Node, tls: TlsFiles, file: Path) -> None:
    url = link(node, file)
    assert url.startswith("https://127.0.0.1:")
    with RawHttp(url, tls.client) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.version() == "TLSv1.3"
        for _ in range(3):
            reply = client.get()
            assert (reply.status, reply.body) == (200, CONTENT)
        assert client.get("Range: bytes=5-9").body == CONTENT[5:10]
        assert client.get("Connection: close", method="HEAD").headers["content-length"] == str(len(CONTENT))
        assert client.rest() == b""
    assert node.wait_log("object", status=200)["peer"] == "127.0.0.1"


def test_requests_ahead_and_another_object(node: Node, tls: TlsFiles, file: Path) -> None:
    other = link(node, node.file(file.parent / "other", b"another"))
    with RawHttp(link(node, file), tls.client) as client:
        for _ in range(20):
            client.send("Range: bytes=0-99")
        client.send(path=urlsplit(other).path)
        assert [client.answer().body for _ in range(21)] == [CONTENT[:100]] * 20 + [b"another"]


def test_a_session_is_resumed(node: Node, tls: TlsFiles, file: Path) -> None:
    """Each relay knows its own tickets, so this needs some tries at two of them."""
    url = link(node, file)
    parts = urlsplit(url)

    def resumes() -> bool:
        with RawHttp(url, tls.client) as client:
            assert isinstance(client.socket, ssl.SSLSocket)
            client.get()
            session = client.socket.session
        with (
            socket.create_connection((parts.hostname, parts.port), TIMEOUT) as plain,
            tls.client.wrap_socket(plain, server_hostname=parts.hostname, session=session) as connection,
        ):
            return bool(connection.session_reused)

    eventually(resumes)


def test_other_ways_to_begin_are_refused(node: Node, file: Path, tls: TlsFiles) -> None:
    url = link(node, file)
    old = ssl.create_default_context(cafile=str(tls.ca_file))
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        RawHttp(url, old)
    with RawHttp(url) as plain:
        plain.send()
        rest = plain.rest()
        assert b"HTTP" not in rest
        assert CONTENT[:16] not in rest
    with RawHttp(url, tls.client) as client:
        assert client.get().status == 200


def test_a_wrong_secret(node: Node, tls: TlsFiles) -> None:
    with RawHttp(object_url(node) + "/o/x", tls.client) as client:
        assert client.get().status == 404
        assert client.rest() == b""


def test_clients_that_say_nothing(start_node: StartNode, tls: TlsFiles) -> None:
    node = start_node(objects={**tls.settings, "relays": 1, "head_seconds": 0.5})
    with RawHttp(object_url(node)) as before, RawHttp(object_url(node), tls.client) as after:
        assert before.rest() == b"", "no handshake"
        assert after.answer().status == 408
        assert after.rest() == b""


def test_a_client_that_takes_nothing_is_given_up(start_node: StartNode, tls: TlsFiles) -> None:
    node = start_node(objects={**tls.settings, "relays": 1, "stall_seconds": 1.0})
    path = node.file(node.directory() / "big", b"\0" * BIG)
    with RawHttp(link(node, path), tls.client) as client:
        client.send()
        node.wait_log("object", path=str(path), result="stalled")
        assert len(client.rest()) < BIG


def test_a_download_that_is_cut_short_is_seen_to_be(node: Node, tls: TlsFiles) -> None:
    path = node.file(node.directory() / "big", b"\0" * BIG)
    with RawHttp(link(node, path), tls.client) as client:
        client.send()
        assert b"Content-Length: %d" % BIG in client.head()
        os.truncate(path, 1000)
        assert len(client.rest()) < BIG


@ROOT_ONLY
def test_a_relay_has_no_right_and_no_file(node: Node, file: Path, tls: TlsFiles) -> None:
    with RawHttp(link(node, file), tls.client) as client:
        client.get()
        pids = relays(node)
        assert len(pids) == 2
        for pid in pids:
            status = dict(line.partition(":\t")[::2] for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert status["Uid"].split() == [str(pwd.getpwnam("nobody").pw_uid)] * 4
            assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
            assert status["NoNewPrivs"] == "1"
            assert status["Threads"] == "1"
            kinds = {value.partition(":")[0] for value in descriptors(pid).values()}
            assert kinds <= {"socket", "pipe", "anon_inode", "/dev/null", str(node.log_path)}, kinds


@ROOT_ONLY
def test_a_killed_relay_is_replaced(node: Node, tls: TlsFiles, file: Path) -> None:
    url = link(node, file)
    eventually(lambda: len(relays(node)) == 2)
    for pid in relays(node):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(node.log("relay died")) == 2)
    eventually(lambda: len(relays(node)) == 2)
    with RawHttp(url, tls.client) as client:
        assert client.get().body == CONTENT, "secrets are the front's"


def test_a_new_certificate(node: Node, tls: TlsFiles, file: Path) -> None:
    path = node.file(file.parent / "big", os.urandom(1 << 20) * 24)
    old = served_serial(node, tls)
    with RawHttp(link(node, path), tls.client) as client:
        client.send()
        head = client.head()
        assert b" 200 OK" in head
        new = tls.renew()
        node.signal(signal.SIGHUP)
        eventually(lambda: served_serial(node, tls) == new)
        # Old relays take no connection any more; what they have goes on.
        assert new != old
        assert client.rest_of(BIG) == path.read_bytes()
        assert client.get("Range: bytes=0-0").status == 206
    for _ in range(4):
        assert served_serial(node, tls) == new


def test_a_certificate_that_cannot_be_used_changes_nothing(node: Node, tls: TlsFiles, file: Path) -> None:
    old = served_serial(node, tls)
    tls.key.write_text("no key")
    node.signal(signal.SIGHUP)
    node.wait_log("TLS of the object server stays as it was")
    assert served_serial(node, tls) == old
    assert "no certificate with its unencrypted key" in str(node.log("relay failed")[0]["reason"])
    new = tls.renew()
    node.signal(signal.SIGHUP)
    eventually(lambda: served_serial(node, tls) == new)


def test_a_node_whose_certificate_cannot_be_used_does_not_start(start_node: StartNode, tls: TlsFiles) -> None:
    tls.key.write_text("no key")
    node = start_node(objects=tls.settings, wait_ready=False)
    assert node.wait() == 1
    assert "no certificate with its unencrypted key" in str(node.wait_log("relay failed")["reason"])
    assert not node.log("ready")


def test_a_drain_lets_a_download_end(node: Node, tls: TlsFiles) -> None:
    path = node.file(node.directory() / "big", os.urandom(1 << 20) * 24)
    with RawHttp(link(node, path), tls.client) as client:
        client.send()
        assert b" 200 OK" in client.head()
        node.signal(signal.SIGTERM)
        assert client.rest() == path.read_bytes()
    assert node.wait() == 0


def test_relays_end_with_the_node(node: Node, tls: TlsFiles, file: Path) -> None:
    with RawHttp(link(node, file), tls.client) as client:
        client.get()
        node.signal(signal.SIGKILL)
        assert client.rest() == b""
        node.process.wait(TIMEOUT)
        eventually(lambda: not node.processes(), what="processes left")

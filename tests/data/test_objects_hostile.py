"""The object server against clients that mean no good, and files that change while they are read."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_node import Node, Person, running_node
from object_client import RawHttp, link, object_url
from raw_ftp import eventually

PLAIN: dict[str, object] = {"listen": ["127.0.0.1:0"]}
QUICK = {**PLAIN, "head_seconds": 0.5, "idle_seconds": 0.5, "stall_seconds": 1.0}
CONTENT = bytes(range(256)) * 40
BIG = 24 << 20  # more than the kernel holds between two ends


@pytest.fixture(scope="module")
def node(people: tuple[Person, Person]) -> Iterator[Node]:
    limits: dict[str, object] = {"sessions_per_user": 200, "share_sessions_per_user": 200}
    with running_node(people[0], as_root=os.geteuid() == 0, limits=limits, objects=PLAIN) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(people: tuple[Person, Person]) -> Iterator[Node]:
    limits: dict[str, object] = {"share_sessions_per_user": 200, "unproven": 8, "unproven_per_address": 4}
    with running_node(people[0], as_root=os.geteuid() == 0, limits=limits, objects=QUICK) as running:
        yield running


@pytest.fixture
def url(node: Node) -> str:
    return link(node, node.file(node.directory() / "file", CONTENT))


BAD_HEADS = [
    b"GET {path} HTTP/1.1\nHost: h\n\n",
    b"GET {path} HTTP/1.1\r\nHost: h\r\nX: a\n\r\n\r\n",
    b"GET {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nGET /x",
    b"GET {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"GET {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n-1\r\n",
    b"GET {path} HTTP/1.1\r\n Host: h\r\n\r\n",
    b"GET {path} HTTP/1.1\r\nHost : h\r\n\r\n",
    b"GET {path}\0 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET {path} HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"GET {path} HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 40_000,
    b"PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
]


@pytest.mark.parametrize("served_before", [False, True], ids=["at the front", "at the object server"])
@pytest.mark.parametrize("number", range(len(BAD_HEADS)))
def test_what_is_no_request_ends_the_connection(url: str, number: int, served_before: bool) -> None:
    """Nothing behind such a head may be taken for a request, whoever reads it."""
    with RawHttp(url) as client:
        if served_before:
            assert client.get().status == 200
        head = BAD_HEADS[number].replace(b"{path}", client.path.encode())
        client.socket.sendall(head + b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % client.path.encode())
        reply = client.answer()
        assert reply.status in (400, 405, 431, 505)
        assert reply.headers["connection"] == "close"
        assert client.rest() == b""


def test_a_request_in_absolute_form(url: str) -> None:
    with RawHttp(url) as client:
        assert client.get(path=f"http://another.example.org{client.path}").body == CONTENT
        assert client.get(path="http://another.example.org/o/x").status == 404


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: h\r\nX: "])
def test_a_head_that_does_not_come_at_the_front(impatient: Node, sent: bytes) -> None:
    with RawHttp(object_url(impatient)) as client:
        client.socket.sendall(sent)
        assert client.answer().status == 408
        assert client.rest() == b""


def test_a_head_that_comes_byte_by_byte_has_no_more_time(impatient: Node) -> None:
    path = impatient.file(impatient.directory() / "file", CONTENT)
    with RawHttp(link(impatient, path)) as client:
        assert client.get().status == 200
        closed = threading.Event()

        def trickle() -> None:
            try:
                while not closed.wait(0.05):
                    client.socket.sendall(b"G")
            except OSError:
                pass

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert client.answer().status == 408
            assert client.rest() == b""
        finally:
            closed.set()
            thread.join()


def test_a_connection_without_a_further_request_ends(impatient: Node) -> None:
    path = impatient.file(impatient.directory() / "file", CONTENT)
    with RawHttp(link(impatient, path)) as client:
        assert client.get().status == 200
        assert client.rest() == b""


def test_silent_connections_are_bounded(impatient: Node) -> None:
    """Like those to the FTP port: some of one address, and then no more until these are over."""
    waiting = [RawHttp(object_url(impatient)) for _ in range(4)]
    try:
        eventually(lambda: _status_or_none(object_url(impatient) + "/o/x") == 429)
    finally:
        for client in waiting:
            client.socket.close()
    eventually(lambda: _status_or_none(object_url(impatient) + "/o/x") == 404)


def _status_or_none(url: str) -> int | None:
    with RawHttp(url) as client:
        try:
            return client.get().status
        except (OSError, AssertionError):
            return None


def test_a_client_that_takes_nothing_is_given_up(impatient: Node) -> None:
    path = impatient.file(impatient.directory() / "big", b"\0" * BIG)
    with RawHttp(link(impatient, path)) as client:
        client.send()
        impatient.wait_log("object", path=str(path), result="stalled")
        assert len(client.rest()) < BIG


def test_many_slow_clients_take_few_threads(node: Node) -> None:
    path = node.file(node.directory() / "big", b"\0" * BIG)
    url = link(node, path)
    clients = [RawHttp(url) for _ in range(60)]
    try:
        for client in clients:
            client.send()
        for client in clients:
            assert b" 200 OK" in client.head()
        with RawHttp(url) as quick:
            assert len(quick.get().body) == BIG, "a quick one gets through"
            if os.geteuid() == 0:
                assert len(os.listdir(f"/proc/{node.session_of(quick)}/task")) < 30
    finally:
        for client in clients:
            client.socket.close()


@pytest.mark.parametrize("reset", [False, True])
def test_clients_that_leave_in_mid_download(node: Node, reset: bool) -> None:
    path = node.file(node.directory() / f"big{reset}", b"\0" * BIG)
    url = link(node, path)
    with RawHttp(url) as client:
        client.send()
        assert b" 200 OK" in client.head()
        if reset:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    logged = node.wait_log("object", path=str(path), result="closed")
    assert logged["bytes"] < BIG
    with RawHttp(url) as client:
        assert len(client.get().body) == BIG


def test_a_file_that_is_cut_while_it_is_sent(node: Node) -> None:
    path = node.file(node.directory() / "big", b"\0" * BIG)
    with RawHttp(link(node, path)) as client:
        client.send()
        assert b"Content-Length: %d" % BIG in client.head()
        os.truncate(path, 1000)
        assert len(client.rest()) < BIG, "an answer that is cut short is seen to be"
    node.wait_log("object", path=str(path), result="the file has become shorter")


def test_a_file_that_grows_while_it_is_sent(node: Node) -> None:
    path = node.file(node.directory() / "big", b"\0" * BIG)
    with RawHttp(link(node, path)) as client:
        client.send()
        assert b"Content-Length: %d" % BIG in client.head()
        with path.open("ab") as file:
            file.write(b"more")
        assert client.rest_of(BIG) == b"\0" * BIG
        assert client.get().body[BIG:] == b"more", "the answer before ended where it said"


def test_a_link_that_flips_leads_nowhere_else(node: Node) -> None:
    """What is beneath a shared directory is found by the kernel: no moment lets anybody out of it."""
    top = node.directory()
    outside, shared = top / "outside", top / "shared"
    outside.mkdir()
    (shared / "real").mkdir(parents=True)
    # Each is asked for once: a file that has been found stays the one that was meant.
    for number in range(400):
        node.file(outside / f"file{number}", b"outside")
        node.file(shared / "real" / f"file{number}", b"inside")
    flip = shared / "flip"
    flip.symlink_to("real")
    over = threading.Event()

    def flipper() -> None:
        new = shared / "new"
        while not over.is_set():
            for target in ("../outside", "real"):
                new.symlink_to(target)
                new.rename(flip)

    thread = threading.Thread(target=flipper)
    thread.start()
    try:
        with RawHttp(link(node, shared)) as client:
            replies = [client.get(path=f"{client.path}/flip/file{number}") for number in range(400)]
    finally:
        over.set()
        thread.join()
    assert {(reply.status, reply.body) for reply in replies} <= {(200, b"inside"), (404, b"404 Not Found\n")}
    assert any(reply.status == 200 for reply in replies)


def test_a_directory_swapped_for_a_link(node: Node) -> None:
    top = node.directory()
    (top / "other").mkdir()
    (top / "shared").mkdir()
    for name in ("one", "two"):
        node.file(top / "other" / name, b"outside")
        node.file(top / "shared" / name, b"inside")
    with RawHttp(link(node, top / "shared")) as client:
        assert client.get(path=client.path + "/one").body == b"inside"
        (top / "shared").rename(top / "moved")
        (top / "shared").symlink_to("other")
        assert client.get(path=client.path + "/two").status == 404
        assert client.get(path=client.path + "/one").body == b"inside", "the file that was meant"


def test_devices_and_pipes_are_no_objects(node: Node) -> None:
    top = node.directory()
    os.mkfifo(top / "pipe")
    for path in (top / "pipe", Path("/dev/tty"), Path("/proc/kmsg")):
        with RawHttp(link(node, path)) as client:
            assert client.get().status == 404

"""Several data connections, gzip and the old ciphers, with a client that does what it likes."""

from __future__ import annotations

import base64
import gzip
import io
import socket
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from data_node import Node, StartNode
from raw_ftp import TIMEOUT, RawFtp, read_all

from uftp.protocol.command_port import Cipher
from uftp.protocol.jparss import MAX_BLOCK, chunk_lengths, pack_header
from uftp.protocol.legacy_ciphers import Encryptor

KEY = bytes(range(48))
DONE = b"226 File transfer successful\r\n"
PAYLOAD = bytes(range(256)) * 300


def framed(payload: bytes, streams: int) -> list[bytes]:
    wires = [b""] * streams
    for sequence, start in enumerate(range(0, len(payload), MAX_BLOCK)):
        block = payload[start : start + MAX_BLOCK]
        at = 0
        for stream, chunk in enumerate(chunk_lengths(len(block), streams)):
            wires[stream] += pack_header(stream, sequence, len(block), chunk) + block[at : at + chunk]
            at += chunk
    return wires


def open_streams(ftp: RawFtp, count: int) -> list[socket.socket]:
    ftp.ok(f"NOOP {count}", 222)
    return [ftp.data() for _ in range(count)]


def store(ftp: RawFtp, name: str, wires: Sequence[bytes]) -> bytes:
    """Upload over several streams that all end; the final reply."""
    connections = open_streams(ftp, len(wires))
    ftp.ok(f"STOR {name}", 150)
    for connection, wire in zip(connections, wires, strict=True):
        with connection:
            connection.sendall(wire)
    return ftp.reply()


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_frames_as_the_document_shows_them(shared_node: Node) -> None:
    directory = shared_node.directory()
    shared_node.file(directory / "digits", b"0123456789")
    with shared_node.login(file=f"{directory}/") as ftp:
        connections = open_streams(ftp, 2)
        assert ftp.command("RETR digits") == b"150 OK 10 bytes available for reading.\r\n"
        assert [read_all(connection).hex() for connection in connections] == [
            "cebf0000000000000000000a000000053031323334",
            "cebf0001000000000000000a000000053536373839",
        ]
        assert ftp.reply() == DONE
        ftp.ok("ALLO 7")
        connections = open_streams(ftp, 2)
        ftp.ok("STOR up", 150)
        connections[0].sendall(bytes.fromhex("cebf0000000000000000000700000003616263"))
        connections[1].sendall(bytes.fromhex("cebf000100000000000000070000000464656667"))
        assert ftp.reply() == DONE, "the announced length ends it"
        for connection in connections:
            connection.close()
        assert (directory / "up").read_bytes() == b"abcdefg"
        # Back to one stream without frames.
        assert ftp.retrieve("RETR digits")[1] == b"0123456789"


def test_listings_go_through_the_layers(shared_node: Node) -> None:
    directory = shared_node.directory()
    shared_node.file(directory / "name", b"")
    with shared_node.login(file=f"{directory}/") as ftp:
        connections = open_streams(ftp, 3)
        ftp.ok("NLST", 150)
        wires = [read_all(connection) for connection in connections]
        assert wires == framed(b"name\r\n", 3)
        assert ftp.reply() == DONE
    with shared_node.login(file=f"{directory}/", compress=True) as ftp:
        assert gzip.decompress(ftp.retrieve("NLST")[1]) == b"name\r\n"


def test_nothing_is_sent_of_an_empty_file(shared_node: Node) -> None:
    directory = shared_node.directory()
    shared_node.file(directory / "empty", b"")
    with shared_node.login(file=f"{directory}/") as ftp:
        connections = open_streams(ftp, 2)
        ftp.ok("RETR empty", 150)
        assert [read_all(connection) for connection in connections] == [b"", b""]
        assert ftp.reply() == DONE
        assert store(ftp, "up", [b"", b""]) == DONE
        assert (directory / "up").read_bytes() == b""


def test_the_number_of_connections(shared_node: Node) -> None:
    directory = shared_node.directory()
    with shared_node.login(file=f"{directory}/") as ftp:
        for bad in ("0", "-1"):
            ftp.ok(f"NOOP {bad}", 501)
        assert ftp.command("NOOP 9") == b"223 Opening 4 data connections\r\n"
        # Fewer than asked for: refused before anything starts, and the session goes on.
        first = ftp.data()
        assert ftp.command("STOR one").startswith(b"550 Error processing command 'STOR': 1 of 4 data connections")
        first.close()
        # NOOP closes what is open.
        kept = ftp.data()
        ftp.ok("NOOP 2", 222)
        assert kept.recv(1) == b""
        kept.close()
        # One more than granted: all before it are closed, and one counts.
        connections = [ftp.data() for _ in range(3)]
        assert [connection.recv(1) for connection in connections[:2]] == [b"", b""]
        ftp.ok("STOR one", 150)
        connections[2].sendall(b"plain")
        for connection in connections:
            connection.close()
        assert ftp.reply() == DONE
        assert files(directory) == {"one": b"plain"}


def test_one_connection_may_be_asked_for_before_its_number_is_said(shared_node: Node) -> None:
    # Upstream nodes do so as clients of another node (DATA-PLANE 12).
    directory = shared_node.directory()
    with shared_node.login(file=f"{directory}/") as ftp:
        with ftp.data() as data:
            ftp.ok("NOOP 1", 222)
            ftp.ok("STOR one", 150)
            data.sendall(b"plain")
        assert ftp.reply() == DONE
        assert files(directory) == {"one": b"plain"}
        # One that is left from before goes when the next one is asked for.
        left = ftp.data()
        ftp.ok("NOOP 1", 222)
        _, got = ftp.retrieve("RETR one")
        assert got == b"plain"
        assert left.recv(1) == b""
        left.close()


def test_commands_are_read_while_streams_are_awaited(shared_node: Node) -> None:
    with shared_node.login(file="") as ftp:
        ftp.ok("NOOP 2", 222)
        ports = [ftp.passive(), ftp.passive()]
        assert len(set(ports)) == 2
        ftp.ok("NOOP")
        ftp.ok("PWD", 257)
        ftp.ok("RANG 0 100", 350)
        # In the other order: each has its port.
        last = socket.create_connection((ftp.host, ports[1]), TIMEOUT)
        first = socket.create_connection((ftp.host, ports[0]), TIMEOUT)
        ftp.ok("RETR /dev/zero", 150)
        assert (read_all(first), read_all(last)) == tuple(framed(bytes(100), 2))
        assert ftp.reply() == DONE


def test_errors_before_the_transfer_keep_the_connections(shared_node: Node) -> None:
    directory = shared_node.directory()
    shared_node.file(directory / "f", PAYLOAD)
    with shared_node.login(file=f"{directory}/") as ftp:
        connections = open_streams(ftp, 2)
        ftp.ok("RETR missing", 550)
        ftp.ok("STOR ../../../etc/x", 534)
        ftp.ok("RETR f", 150)
        assert [read_all(connection) for connection in connections] == framed(PAYLOAD, 2)
        assert ftp.reply() == DONE


def test_keep_alive_and_several_streams(shared_node: Node) -> None:
    directory = shared_node.directory()
    shared_node.file(directory / "f", b"12345")
    with shared_node.login(file=f"{directory}/") as ftp:
        ftp.ok("KEEP-ALIVE true")
        connections = open_streams(ftp, 2)
        ftp.ok("KEEP-ALIVE true", 504)
        ftp.ok("RETR f", 150)
        assert [read_all(connection) for connection in connections] == framed(b"12345", 2)
        assert ftp.reply() == DONE
        with ftp.data() as data:
            for _ in range(2):
                ftp.ok("RETR f", 150)
                assert ftp.reply() == DONE
            assert data.recv(10, socket.MSG_WAITALL) == b"1234512345"


def test_abort_ends_all_streams(shared_node: Node) -> None:
    with shared_node.login(file="") as ftp:
        connections = open_streams(ftp, 3)
        ftp.ok("RANG 0 100000000000", 350)
        ftp.ok("RETR /dev/zero", 150)
        connections[1].recv(1000)
        assert ftp.command("ABOR").startswith(b"426")
        assert ftp.reply().startswith(b"226")
        for connection in connections:
            connection.close()
        ftp.ok("NOOP")


BAD: list[Any] = [
    ("wrong magic", lambda wires: [b"\xce\xbe" + wires[0][2:], wires[1]]),
    ("streams swapped", lambda wires: [wires[1], wires[0]]),
    ("wrong sequence", lambda wires: [wires[0][:7] + b"\x01" + wires[0][8:], wires[1]]),
    ("too large a block", lambda wires: [wires[0][:8] + b"\0\0\x40\x01" + wires[0][12:], wires[1]]),
    ("no block", lambda wires: [wires[0][:8] + bytes(8), wires[1][:8] + bytes(8)]),
    ("blocks that differ", lambda wires: [wires[0], wires[1][:8] + b"\0\0\0\x02\0\0\0\x01" + b"x"]),
    ("wrong chunk", lambda wires: [wires[0][:12] + b"\0\0\0\x01" + wires[0][16:], wires[1]]),
    ("cut in a chunk", lambda wires: [wires[0], wires[1][:-1]]),
    ("cut in a header", lambda wires: [wires[0], wires[1][:9]]),
    ("one stream empty", lambda wires: [wires[0], b""]),
    ("one block missing", lambda wires: [wires[0][: 16 + MAX_BLOCK // 2], wires[1]]),
    ("bytes behind the last block", lambda wires: [wires[0] + b"x", wires[1]]),
]


@pytest.mark.parametrize(("change"), [change for _, change in BAD], ids=[name for name, _ in BAD])
@pytest.mark.parametrize("announced", [True, False])
def test_garbled_frames_leave_no_file(shared_node: Node, change: Any, announced: bool) -> None:
    directory = shared_node.directory()
    shared_node.file(directory / "old", b"old")
    wires = change(framed(PAYLOAD, 2))
    with shared_node.login(file=f"{directory}/") as ftp:
        if announced:
            ftp.ok(f"ALLO {len(PAYLOAD)}")
        answer = store(ftp, "old", wires)
        if announced and wires[0].endswith(b"x") and len(wires[1]) == len(framed(PAYLOAD, 2)[1]):
            assert answer == DONE, "what comes behind the announced length is not looked at"
            assert files(directory) == {"old": PAYLOAD}
            return
        assert answer.startswith(b"551 Error processing command 'STOR': "), answer
        assert files(directory) == {"old": b"old"}
        # The session goes on.
        assert store(ftp, "new", framed(PAYLOAD, 2)) == DONE
        assert (directory / "new").read_bytes() == PAYLOAD


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("encrypted", [True, False])
def test_cut_layers_leave_no_file(shared_node: Node, announced: bool, encrypted: bool) -> None:
    directory = shared_node.directory()
    encryptor = Encryptor("AES", KEY)
    wire = encryptor.update(PAYLOAD) + encryptor.finish() if encrypted else gzip.compress(PAYLOAD)
    fields: dict[str, Any] = {"key": KEY, "algorithm": Cipher.AES} if encrypted else {"compress": True}
    with shared_node.login(file=f"{directory}/", **fields) as ftp:
        for cut in (1, 9, 16, len(wire) // 2, len(wire)):
            if announced:
                ftp.ok(f"ALLO {len(PAYLOAD)}")
            answer = ftp.store("STOR up", wire[:-cut])
            if announced and not encrypted and cut <= 9:
                assert answer == DONE, "only the trailer is missing, and all that was announced is there"
                (directory / "up").unlink()
                continue
            assert answer.startswith(b"551 "), (cut, answer)
            assert files(directory) == {}
        assert ftp.store("STOR up", wire) == DONE
        assert files(directory) == {"up": PAYLOAD}


def test_a_changed_bit_under_gzip_is_noticed(shared_node: Node) -> None:
    directory = shared_node.directory()
    wire = bytearray(gzip.compress(PAYLOAD))
    wire[len(wire) // 2] ^= 4
    with shared_node.login(file=f"{directory}/", compress=True) as ftp:
        for announced in (True, False):
            if announced:
                ftp.ok(f"ALLO {len(PAYLOAD)}")
            assert ftp.store("STOR up", bytes(wire)).startswith(b"551 ")
        assert files(directory) == {}


def test_a_bomb_fills_no_more_than_announced(shared_node: Node) -> None:
    directory = shared_node.directory()
    bomb = gzip.compress(bytes(1 << 28), 9)
    with shared_node.login(file=f"{directory}/", compress=True) as ftp:
        ftp.ok("ALLO 1000")
        assert ftp.store("STOR up", bomb) == DONE
        assert files(directory) == {"up": bytes(1000)}


def test_a_failed_append_is_not_taken_for_whole(shared_node: Node) -> None:
    directory = shared_node.directory()
    shared_node.file(directory / "f", b"old")
    with shared_node.login(file=f"{directory}/", compress=True) as ftp:
        assert ftp.store("APPE f", gzip.compress(b"new")) == DONE
        assert ftp.store("APPE f", gzip.compress(PAYLOAD)[:-9]).startswith(b"551 ")
        assert (directory / "f").read_bytes().startswith(b"oldnew")


@pytest.mark.parametrize("announced", [True, False])
def test_archives_come_through_the_layers(shared_node: Node, announced: bool) -> None:
    directory = shared_node.directory()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("member")
        member.size = len(PAYLOAD)
        archive.addfile(member, io.BytesIO(PAYLOAD))
    data = packed.getvalue()
    encryptor = Encryptor("AES", KEY)
    for streams, wire, fields in (
        (2, b"", {}),
        (1, gzip.compress(data), {"compress": True}),
        (1, encryptor.update(data) + encryptor.finish(), {"key": KEY, "algorithm": Cipher.AES}),
    ):
        with shared_node.login(file=f"{directory}/", **fields) as ftp:
            ftp.ok("TYPE ARCHIVE")
            if announced:
                ftp.ok(f"ALLO {len(data)}")
            assert store(ftp, ".", framed(data, 2) if streams > 1 else [wire]) == DONE
            assert files(directory) == {"member": PAYLOAD}
            ftp.ok("TYPE NORMAL")
        (directory / "member").unlink()


# -- ciphers a site does not allow --------------------------------------------------------------------------------


def refusal(node: Node, key: bytes, algorithm: str) -> bytes:
    text = base64.b64encode(key).decode()
    lines = ("request-type=uftp-transfer-request", f"user={node.person.name}", "secret=abcdefghijklmnop",
             "client-ip=127.0.0.1", f"key={text}", f"algo={algorithm}", "END", "")  # fmt: skip
    return node.ask("\n".join(lines).encode())


def test_a_site_without_the_old_ciphers(start_node: StartNode) -> None:
    node = start_node(transfers={"legacy_ciphers": []})
    assert refusal(node, bytes(56), "BLOWFISH").startswith(b"ERROR::BLOWFISH is not allowed")
    assert refusal(node, bytes(32), "AES").startswith(b"ERROR::AES is not allowed")
    # A key that may be for MODE U: the session is there, and takes nothing else.
    directory = node.directory()
    node.file(directory / "f", b"1")
    with node.login(file=f"{directory}/", key=KEY, algorithm=Cipher.AES) as ftp:
        assert b"CRYPTED-" not in ftp.command("FEAT")
        with ftp.data():
            for line in ("RETR f", "STOR up", "APPE up", "NLST", "MLSD", "LIST"):
                answer = ftp.command(line)
                assert answer.startswith(b"504 "), (line, answer)
                assert b"MODE U" in answer
        ftp.ok("OPTS MODE U CRYPT AES-256-GCM")
        ftp.ok("MODE U")
    assert files(directory) == {"f": b"1"}


def test_a_site_with_one_of_them(start_node: StartNode) -> None:
    node = start_node(transfers={"legacy_ciphers": ["AES"]}, limits={"streams": 8})
    assert refusal(node, bytes(56), "BLOWFISH").startswith(b"ERROR::")
    with node.login(key=KEY[:32], algorithm=Cipher.AES) as ftp:
        assert b" CRYPTED-AES\r\n" in ftp.command("FEAT")
        assert ftp.command("NOOP 99") == b"223 Opening 8 data connections\r\n"

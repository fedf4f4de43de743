"""SYNC-TO-CLIENT and SYNC-TO-SERVER on a running node, spoken by hand."""

from __future__ import annotations

import os
import random
import socket
import stat
from pathlib import Path

import pytest
from data_node import Node
from raw_ftp import TIMEOUT, RawFtp, eventually

from uftp.protocol.command_port import Access
from uftp.protocol.rsync import RECORD
from uftp.streams import Meter
from uftp.streams.delta import follow, lead

OLD = random.Random(1).randbytes(200_000)
NEW = OLD[:50_000] + b"changed" + OLD[50_000:]
DONE = b"226 File transfer successful\r\n"


def memory(content: bytes = b"") -> int:
    fd = os.memfd_create("sync")
    os.write(fd, content)
    return fd


def follow_with(data: socket.socket, old: bytes) -> bytes:
    """Be the follower; the new file."""
    fds = memory(old), memory()
    try:
        result = follow(data, fds[0], len(old), fds[1], Meter())
        assert result.literal < 2000
        return os.pread(fds[1], result.size, 0)
    finally:
        for fd in fds:
            os.close(fd)


def lead_with(data: socket.socket, new: bytes) -> None:
    fd = memory(new)
    try:
        lead(data, fd, len(new), Meter())
    finally:
        os.close(fd)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_both_ways_on_one_connection(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", NEW)
    shared_node.file(base / "old", OLD, 0o640)
    with shared_node.login(file=f"{base}/") as ftp, ftp.data() as data:
        for _ in range(2):
            assert ftp.command("SYNC-TO-CLIENT f") == b"200 OK\r\n"
            assert follow_with(data, OLD) == NEW
        assert ftp.command("SYNC-TO-SERVER old") == b"200 OK\r\n"
        lead_with(data, NEW)
        assert ftp.command("NOOP") == b"200 OK\r\n", "no final reply"
        assert (base / "old").read_bytes() == NEW
        assert stat.S_IMODE((base / "old").stat().st_mode) == 0o640
        assert ftp.command("RETR f").startswith(b"150 ")
        received = b""
        while chunk := data.recv(1 << 20):
            received += chunk
        assert received == NEW
        assert ftp.reply() == DONE
    assert names(base) == ["f", "old"]
    assert shared_node.wait_log("transfer", verb="SYNC-TO-SERVER", path=str(base / "old"))["result"] == "ok"


def test_small_and_empty_files(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "small", b"short")
    shared_node.file(base / "empty", b"")
    with shared_node.login(file=f"{base}/") as ftp, ftp.data() as data:
        for name, content in (("small", b"short"), ("empty", b"")):
            assert ftp.command(f"SYNC-TO-CLIENT {name}") == b"200 OK\r\n"
            assert follow_with(data, OLD[:700]) == content
        for name, content in (("small", b"longer than before"), ("empty", b"1"), ("small", b"")):
            assert ftp.command(f"SYNC-TO-SERVER {name}") == b"200 OK\r\n"
            lead_with(data, content)
            ftp.ok("NOOP")
            assert (base / name).read_bytes() == content


def test_refusals_leave_the_connection(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", OLD)
    shared_node.file(base / "secret.key", OLD)
    (base / "d").mkdir()
    os.link(base / "f", base / "linked")
    with shared_node.login(file=f"{base}/", excludes=("*.key",)) as ftp:
        for verb in ("SYNC-TO-CLIENT", "SYNC-TO-SERVER"):
            assert ftp.command(f"{verb} f").startswith(b"550 "), "no data connection"
        with ftp.data() as data:
            for line, code in {
                "SYNC-TO-CLIENT nosuch": b"550 ",
                "SYNC-TO-SERVER nosuch": b"550 ",
                "SYNC-TO-CLIENT d": b"550 ",
                "SYNC-TO-SERVER d": b"550 ",
                "SYNC-TO-SERVER linked": b"550 ",
                "SYNC-TO-CLIENT secret.key": b"534 ",
                "SYNC-TO-SERVER secret.key": b"534 ",
                "SYNC-TO-CLIENT": b"501 ",
            }.items():
                assert ftp.command(line).startswith(code), line
            assert ftp.command("SYNC-TO-CLIENT f") == b"200 OK\r\n"
            assert follow_with(data, OLD) == OLD


def test_rights(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", NEW)
    with shared_node.login(file=f"{base}/", access=Access.READ) as ftp, ftp.data() as data:
        assert ftp.command("SYNC-TO-SERVER f").startswith(b"534 ")
        assert ftp.command("SYNC-TO-CLIENT f") == b"200 OK\r\n"
        assert follow_with(data, OLD) == NEW, "in a session that the kernel confines"
    with shared_node.login(file=f"{base}/", access=Access.INFO) as ftp, ftp.data():
        assert ftp.command("SYNC-TO-CLIENT f").startswith(b"534 ")


def test_not_in_mode_u_nor_over_several_streams(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", OLD)
    with shared_node.login(file=f"{base}/") as ftp:
        ftp.ok("MODE U")
        for verb in ("SYNC-TO-CLIENT", "SYNC-TO-SERVER"):
            assert ftp.command(f"{verb} f").startswith(b"504 ")


def begin(ftp: RawFtp) -> socket.socket:
    """An exchange in which the server waits for records."""
    data = ftp.data()
    assert ftp.command("SYNC-TO-SERVER f") == b"200 OK\r\n"
    missing = 8 + 24 * 391
    while missing:
        missing -= len(data.recv(missing)) or pytest.fail("the sums end early")
    return data


@pytest.mark.parametrize(
    "records",
    [b"", RECORD.pack(3, 0), RECORD.pack(1, 5) + b"xy", RECORD.pack(391, 0), RECORD.pack(0, -1), RECORD.pack(-7, 0)],
)
def test_a_leader_that_breaks_off_changes_nothing(shared_node: Node, records: bytes) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", OLD)
    with shared_node.login(file=f"{base}/") as ftp:
        with begin(ftp) as data:
            data.sendall(records)
            data.shutdown(socket.SHUT_WR)
            assert ftp.reply().startswith(b"551 Error processing command 'SYNC-TO-SERVER': ")
        ftp.ok("NOOP")
        assert ftp.retrieve("RETR f")[1] == OLD, "the session goes on, on a new connection"
    assert names(base) == ["f"]


def test_an_abort_changes_nothing(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", OLD)
    with shared_node.login(file=f"{base}/") as ftp, begin(ftp) as data:
        data.sendall(RECORD.pack(0, 0))
        assert ftp.command("ABOR").startswith(b"426 ")
        assert ftp.reply().startswith(b"226 ")
    assert names(base) == ["f"]
    assert (base / "f").read_bytes() == OLD


def test_a_client_that_goes_away_changes_nothing(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", OLD)
    ftp = shared_node.login(file=f"{base}/")
    data = begin(ftp)
    data.sendall(RECORD.pack(0, 0))
    ftp.close()
    shared_node.wait_log("transfer", verb="SYNC-TO-SERVER", path=str(base / "f"))
    data.close()
    eventually(lambda: names(base) == ["f"])
    assert (base / "f").read_bytes() == OLD


def test_the_file_is_never_there_in_part(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", OLD)
    with shared_node.login(file=f"{base}/") as ftp, begin(ftp) as data:
        data.settimeout(TIMEOUT)
        data.sendall(RECORD.pack(-1, 1_000_000) + bytes(500_000))
        assert ftp.command("STAT").startswith(b"211-")
        assert (base / "f").read_bytes() == OLD
        data.sendall(bytes(500_000))
        ftp.ok("NOOP")
        assert (base / "f").read_bytes() == bytes(1_000_000)

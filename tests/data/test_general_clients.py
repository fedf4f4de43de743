"""What general FTP clients expect, and UFTP's own never ask for."""

from __future__ import annotations

import os

from data_node import Node, StartNode
from raw_ftp import read_all

TOKYO = {"TZ": "Asia/Tokyo"}
NOON = 1_600_000_000  # 2020-09-13 12:26:40 UTC


def modify(answer: bytes) -> bytes:
    """The time in an MLST reply."""
    return answer.partition(b"modify=")[2].partition(b";")[0]


def test_times_are_utc_for_a_client_that_says_who_it_is(start_node: StartNode) -> None:
    node = start_node(environment=TOKYO)
    path = node.file(node.directory() / "dated", b"")
    os.utime(path, (NOON, NOON))
    with node.login() as ftp:
        assert modify(ftp.ok(f"MLST {path}", 250)) == b"20200913212640"
        assert b" CLNT\r\n" in ftp.ok("FEAT", 211)
        ftp.ok("CLNT lftp/4.9.2")
        assert modify(ftp.ok(f"MLST {path}", 250)) == b"20200913122640"
        ftp.ok(f"MFMT 20210203040506 {path}", 213)
    assert path.stat().st_mtime == 1612325106


def test_times_are_utc_for_a_client_that_said_so_before_login(start_node: StartNode) -> None:
    node = start_node(environment=TOKYO)
    path = node.file(node.directory() / "dated", b"")
    os.utime(path, (NOON, NOON))
    with node.connect() as ftp:
        ftp.reply()
        ftp.ok("CLNT lftp/4.9.2")
        ftp.ok("USER anonymous", 331)
        ftp.ok(f"PASS {node.expect()}", 230)
        assert modify(ftp.ok(f"MLST {path}", 250)) == b"20200913122640"


def test_quit_during_a_download_is_answered_and_the_download_goes_on(shared_node: Node) -> None:
    content = os.urandom(32 * 1024 * 1024)  # more than the buffers between the two ends hold
    path = shared_node.file(shared_node.directory() / "large", content)
    with shared_node.login() as ftp:
        data = ftp.data()
        assert ftp.command(f"RETR {path}").startswith(b"150 ")
        ftp.send("QUIT")
        assert ftp.reply() == b"221 Goodbye\r\n"
        assert read_all(data) == content
        assert ftp.reply() == b"226 File transfer successful\r\n"
        assert ftp.is_closed()


def test_an_upload_without_length_does_not_count_once_its_client_is_gone(shared_node: Node) -> None:
    path = shared_node.directory() / "never"
    with shared_node.login() as ftp:
        data = ftp.data()
        assert ftp.command(f"STOR {path}") == b"150 OK\r\n"
        data.sendall(b"some of it")
        ftp.send("QUIT")
        assert ftp.reply() == b"221 Goodbye\r\n"
    data.close()
    assert shared_node.wait_log("transfer", path=str(path))["result"] == "551"
    assert not path.exists()

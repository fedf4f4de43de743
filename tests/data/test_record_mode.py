"""MODE U on a real data node: negotiation, hello, transfers, pipelining, and peers that do not keep to it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from data_node import Node
from raw_ftp import TIMEOUT, RawFtp, eventually
from record_ftp import KEY, PLAIN, RecordFtp

from uftp.protocol.command_port import Access
from uftp.protocol.record_mode import RecordOptions, format_options, make_hello
from uftp.protocol.records import ABORT, END, HOLE, MAX_CONTENT, MAX_RAW, pack_header, pack_hole, pack_trailer
from uftp.streams import Meter
from uftp.streams.records import Aborted

EVERYTHING = RecordOptions(crypt=True, compress=True, level=3, digest=True, sparse=True, facts=True)
CRYPT = RecordOptions(crypt=True)
DIGEST = RecordOptions(digest=True, facts=True)
ALL_OPTIONS = [
    RecordOptions(crypt=crypt, compress=compress, digest=digest, sparse=sparse, facts=facts)
    for crypt, compress, digest, sparse, facts in itertools.product((False, True), repeat=5)
]
DONE = b"226 File transfer successful\r\n"


def name_of(options: RecordOptions) -> str:
    names = [name for name in ("crypt", "compress", "digest", "sparse", "facts") if getattr(options, name)]
    return "-".join(names) or "plain"


@contextlib.contextmanager
def record_session(
    node: Node, base: Path, options: RecordOptions = PLAIN, *, connect: bool = True, **fields: object
) -> Iterator[RecordFtp]:
    key = KEY if options.crypt else None
    with node.login(file=f"{base}/", key=key, **fields) as ftp, RecordFtp(ftp, options, KEY) as session:
        if connect:
            session.connect()
        yield session


def parts(base: Path) -> list[str]:
    return [name for name in os.listdir(base) if name.startswith(".uftp-")]


# -- agreeing ---------------------------------------------------------------------------------------------------------


def test_what_is_refused_before_anything_moves(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        for line, code in (
            ("OPTS MODE U CRYPT AES-256-GCM", 504),  # no key
            ("OPTS MODE U TURBO", 501),
            ("OPTS MODE U LEVEL 3", 501),
            ("OPTS MODE U COMPRESS ZSTD LEVEL 99", 501),
            ("OPTS MODE S CRYPT", 501),
            ("OPTS MODE U COMPRESS ZSTD LEVEL 5", 200),
            ("OPTS MODE U DIGEST MD5", 501),  # and nothing changes:
        ):
            assert ftp.command(line).startswith(b"%d" % code), line
        assert b" COMPRESS=ZSTD;LEVEL=5;SALT=" in ftp.ok("MODE U")
        for line, code in (
            ("OPTS MODE U", 503),
            ("NOOP 2", 504),
            ("NOOP 1", 222),
            ("NOOP", 200),
            ("SYNC-TO-CLIENT x", 504),
            ("SYNC-TO-SERVER x", 504),
            ("RETR x", 425),
            ("MODE S", 200),
            ("OPTS MODE U", 200),
            ("MODE X", 504),
        ):
            assert ftp.command(line).startswith(b"%d" % code), line
        assert ftp.ok("MODE U").startswith(b"200 MODE U SALT=")


def test_every_mode_u_has_a_salt_of_its_own(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        assert len({ftp.ok("MODE U") for _ in range(5)}) == 5


def test_a_session_with_a_key_does_not_move_plain_data(shared_node: Node) -> None:
    base = shared_node.directory()
    content = b"for nobody else" * 100
    shared_node.file(base / "secret", content)
    with shared_node.login(file=f"{base}/", key=KEY) as ftp:
        assert ftp.command("MODE U").startswith(b"504 ")
        ftp.ok("OPTS MODE U DIGEST BLAKE3")
        assert ftp.command("MODE U").startswith(b"504 ")
        with ftp.data() as data:
            ftp.send("RETR secret")
            answer = ftp.reply()
            received = b""
            if answer.startswith(b"150"):
                while chunk := data.recv(65536):
                    received += chunk
            assert b"nobody" not in received
    assert base64.b64encode(KEY).decode() not in shared_node.log_path.read_text()
    assert repr(KEY) not in shared_node.log_path.read_text()


def test_mode_s_and_mode_u_close_the_connection(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "x", b"content")
    for line in ("MODE S", "MODE U"):
        with record_session(shared_node, base) as session:
            assert session.retrieve("RETR x") == b"content"
            session.ftp.ok(line)
            assert session.data is not None
            assert session.data.recv(1) == b""
            if line == "MODE S":
                assert session.ftp.retrieve("RETR x")[1] == b"content"


# -- hello ------------------------------------------------------------------------------------------------------------


def connect_to(session: RecordFtp, port: int) -> socket.socket:
    return socket.create_connection((session.ftp.host, port), TIMEOUT)


def is_turned_away(connection: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


@pytest.mark.parametrize("options", [PLAIN, CRYPT], ids=name_of)
def test_strangers_neither_get_in_nor_take_the_place(shared_node: Node, options: RecordOptions) -> None:
    base = shared_node.directory()
    shared_node.file(base / "x", b"content")
    with record_session(shared_node, base, options) as session:
        used = make_hello(session.key, session.salt, session.nonce)
        assert session.retrieve("RETR x") == b"content"
        port = session.ftp.passive()
        wrong_proof = session.hello()[:-1] + b"?"
        other_key = make_hello(b"other" * 8, session.salt, os.urandom(32))
        other_salt = make_hello(session.key, bytes(32), os.urandom(32))
        for said in (used, wrong_proof, other_key, other_salt, b"GET / HTTP/1.1\r\n\r\n" * 10):
            with connect_to(session, port) as stranger:
                stranger.sendall(said)
                assert is_turned_away(stranger), said
        # Silent ones, more than may wait: the oldest give way.
        silent = [connect_to(session, port) for _ in range(20)]
        half = connect_to(session, port)
        half.sendall(session.hello()[:40])
        data = connect_to(session, port)
        data.sendall(session.hello())
        session.attach(data)
        assert session.retrieve("RETR x") == b"content"
        for stranger in (*silent, half):
            assert is_turned_away(stranger)
            stranger.close()
    refused = [event["reason"] for event in shared_node.log("data-connection-refused")]
    assert {"replayed", "wrong proof", "not a hello"} <= set(refused)


def test_a_hello_in_pieces_with_records_behind_it(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, connect=False) as session:
        port = session.ftp.passive()
        session.ftp.send("STOR x")
        data = connect_to(session, port)
        everything = session.hello() + pack_header(END, 7, 1) + b"content"
        for byte in everything:
            data.sendall(bytes([byte]))
        assert session.ftp.reply() == b"150 OK\r\n"
        assert session.ftp.reply() == DONE
        data.close()
    assert (base / "x").read_bytes() == b"content"


def test_commands_are_answered_while_the_client_has_yet_to_connect(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "x", b"content")
    with record_session(shared_node, base, connect=False) as session:
        port = session.ftp.passive()
        for line in ("SIZE x", "PWD", "RANG 0 3", "NOOP"):
            session.ftp.send(line)
        session.ftp.send("RETR x")
        assert [session.ftp.reply()[:3] for _ in range(4)] == [b"213", b"257", b"350", b"200"]
        data = connect_to(session, port)
        data.sendall(session.hello())
        session.attach(data)
        assert session.ftp.reply() == b"150 OK 3 bytes available for reading.\r\n"
        assert session.take(session.incoming("RETR x", 0, 3)) == b"con"
        assert session.ftp.reply() == DONE


def test_abor_ends_the_wait_for_a_connection(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, connect=False) as session:
        session.ftp.passive()
        session.ftp.socket.sendall(b"RETR x\r\nSTOR y\r\nABOR\r\n")
        assert [session.ftp.reply()[:3] for _ in range(3)] == [b"426", b"426", b"226"]
        assert session.ftp.command("RETR x").startswith(b"425 "), "the port is given up"


def test_a_client_that_goes_before_it_connects_is_not_waited_for(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, connect=False) as session:
        pid = shared_node.session_of(session.ftp)
        session.ftp.passive()
        session.ftp.send("RETR x")
        session.ftp.close()
        eventually(lambda: pid not in shared_node.children(), what="the session to end")


# -- transfers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=name_of)
def test_one_connection_serves_everything(shared_node: Node, options: RecordOptions) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, options) as session:
        for size in (0, 1, 5000, MAX_CONTENT, 5 * MAX_CONTENT + 3):
            content = os.urandom(size // 2) + b"a" * (size - size // 2)
            facts = b"modify=20200102030405.25;UNIX.mode=0640;" if options.facts else b""
            assert session.store(f"STOR f{size}", content, facts) == b"150 OK\r\n" + DONE
            assert (base / f"f{size}").read_bytes() == content
            info = (base / f"f{size}").stat()
            if options.facts:
                assert info.st_mtime_ns == 1577934245_250000000
                assert info.st_mode & 0o7777 == 0o640
            assert session.retrieve(f"RETR f{size}") == content
            if options.facts:
                assert session.facts == facts
        assert session.store("APPE f1", b"more") == b"150 OK\r\n" + DONE
        assert session.retrieve("RETR f1") == b"amore"
        assert session.retrieve("NLST", facts=False).split() == sorted(
            (b"f%d" % size for size in (0, 1, 5000, MAX_CONTENT, 5 * MAX_CONTENT + 3)),
            key=session.retrieve("NLST", facts=False).split().index,
        )
        assert b"type=file" in session.retrieve("MLSD", facts=False)
        assert b" f5000\r\n" in session.retrieve("LIST -la", facts=False)
    assert not parts(base)


def test_ranges_both_ways(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "x", b"0123456789")
    with record_session(shared_node, base, EVERYTHING) as session:
        session.ftp.ok("RANG 2 5", 350)
        assert session.retrieve("RETR x", 2, 3) == b"234"
        session.ftp.ok("RANG 8 100", 350)
        assert session.ftp.command("RETR x") == b"150 OK 2 bytes available for reading.\r\n"
        assert session.take(session.incoming("RETR x", 8, 92)) == b"89"
        assert session.ftp.reply() == DONE
        session.ftp.ok("REST 7", 350)
        assert session.retrieve("RETR x", 7) == b"789"
        session.ftp.ok("RANG 3 6", 350)
        assert session.store("STOR x", b"abc", offset=3, length=3) == b"150 OK\r\n" + DONE
        session.ftp.ok("ALLO 4")
        assert session.store("STOR y", b"four", length=4) == b"150 OK\r\n" + DONE
    assert (base / "x").read_bytes() == b"012abc6789"
    assert (base / "y").read_bytes() == b"four"


@pytest.mark.parametrize("options", [PLAIN, EVERYTHING], ids=name_of)
def test_another_sum_than_announced_is_552_and_the_next_transfer_works(
    shared_node: Node, options: RecordOptions
) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, options) as session:
        for content in (b"", b"too", b"much too much", b"much too much" * 1_000_000):
            session.ftp.ok("ALLO 4")
            answer = session.store("STOR x", content, length=4)
            assert answer.startswith(b"150 OK\r\n552 "), answer
            assert not (base / "x").exists()
        assert session.store("STOR x", b"fine") == b"150 OK\r\n" + DONE
    assert not parts(base)


def test_dev_zero_and_dev_null(shared_node: Node) -> None:
    with shared_node.login(file="") as ftp, RecordFtp(ftp, RecordOptions(digest=True, sparse=True)) as session:
        session.connect()
        ftp.ok("RANG 0 100000", 350)
        assert session.retrieve("RETR /dev/zero", 0, 100_000) == bytes(100_000)
        assert session.store("STOR /dev/null", b"x" * 100_000) == b"150 OK\r\n" + DONE


# -- refused and failed uploads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [PLAIN, EVERYTHING], ids=name_of)
def test_the_sequence_of_a_refused_upload_is_read_whatever_it_holds(shared_node: Node, options: RecordOptions) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, options) as session:
        session.ftp.send("STOR no/such/directory")
        outgoing = session.writer.begin(*session.count("STOR no/such/directory"))
        assert session.ftp.reply().startswith(b"550 "), "a client that waits is told before it sends"
        outgoing.abort()
        session.writer.flush()
        assert session.store("STOR no/such/directory", b"sent ahead" * 300_000).startswith(b"550 ")
        assert session.store("STOR", b"without a name").startswith(b"501 ")
        assert session.store("STOR x", b"fine") == b"150 OK\r\n" + DONE
        assert session.retrieve("RETR x") == b"fine"


def test_without_the_right_nothing_is_written_and_nothing_gets_out_of_step(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "x", b"old")
    with record_session(shared_node, base, EVERYTHING, access=Access.READ) as session:
        assert session.store("STOR x", b"new").startswith(b"534 ")
        assert session.store("APPE x", b"new").startswith(b"534 ")
        assert session.retrieve("RETR x") == b"old"


def test_a_refused_download_has_no_sequence(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "x", b"content")
    with record_session(shared_node, base, EVERYTHING) as session:
        assert session.ftp.command("RETR missing").startswith(b"550 ")
        session.count("RETR missing")
        assert session.ftp.command("LIST missing").startswith(b"550 ")
        session.count("LIST missing")
        assert session.ftp.command("MLSD x").startswith(b"550 ")
        session.count("MLSD x")
        assert session.retrieve("RETR x") == b"content"


@pytest.mark.parametrize("options", [PLAIN, EVERYTHING], ids=name_of)
def test_what_is_kept_of_an_aborted_upload(shared_node: Node, options: RecordOptions) -> None:
    base = shared_node.directory()
    for name in ("whole", "appended", "ranged"):
        shared_node.file(base / name, b"0123456789" * 10)
    shared_node.file(base / "linked", b"0123456789" * 10)
    os.link(base / "linked", base / "other name")
    with record_session(shared_node, base, options) as session:

        def aborted(line: str, offset: int = 0, length: int | None = None) -> None:
            outgoing = session.outgoing(line, offset, length)
            assert session.ftp.reply() == b"150 OK\r\n"
            outgoing.from_bytes(b"x" * 20, Meter())
            outgoing._emit_held(0)
            outgoing.from_bytes(b"y" * 20, Meter())
            outgoing.abort("changed my mind")
            session.writer.flush()
            answer = session.ftp.reply()
            assert answer.startswith(b"426 "), answer
            assert b"changed my mind" in answer

        aborted("STOR whole")
        aborted("STOR new")
        aborted("APPE appended")
        aborted("APPE new too")
        session.ftp.ok("RANG 50 90", 350)
        aborted("STOR ranged", 50, 40)
        aborted("STOR linked")
        assert session.store("STOR next", b"fine") == b"150 OK\r\n" + DONE
    assert (base / "whole").read_bytes() == (base / "appended").read_bytes() == b"0123456789" * 10
    assert (base / "ranged").read_bytes() == b"0123456789" * 5 + b"x" * 20 + b"0123456789" * 3
    assert not (base / "new").exists()
    assert (base / "new too").read_bytes() == b""
    assert (base / "linked").read_bytes() == b"", "written in place, since it has two names: nothing of it is kept"
    assert not parts(base)


def test_a_wrong_digest_is_451_and_no_file(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "x", b"old")
    with record_session(shared_node, base, DIGEST) as session:
        session.ftp.send("STOR x")
        session.count("STOR x")
        payload = b"content" + pack_trailer(b"", bytes(32))
        assert session.data is not None
        session.data.sendall(pack_header(END, len(payload), 1) + payload)
        assert session.ftp.reply() == b"150 OK\r\n"
        assert session.ftp.reply().startswith(b"451 ")
        assert (base / "x").read_bytes() == b"old"
        assert session.store("STOR x", b"new") == b"150 OK\r\n" + DONE
    assert (base / "x").read_bytes() == b"new"

    def logged() -> list[tuple[object, ...]]:
        events = [event for event in shared_node.log("transfer") if event["path"] == str(base / "x")]
        return [(event["result"], event["verified"], event["mode"]) for event in events]

    eventually(lambda: len(logged()) == 2)
    assert logged() == [("451", False, "U"), ("ok", True, "U")]


@pytest.mark.parametrize("facts", [b"size=3;", b"modify=yesterday;", b"UNIX.mode=99999999;", b"\xff=\xff;"])
def test_facts_that_cannot_be_are_an_error_and_no_file(shared_node: Node, facts: bytes) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, DIGEST) as session:
        assert session.store("STOR x", b"content", facts).startswith(b"150 OK\r\n501 ")
        assert not (base / "x").exists()
        assert session.store("STOR x", b"content", b"") == b"150 OK\r\n" + DONE


def test_a_file_system_that_refuses_is_answered_at_once(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base) as session:
        session.ftp.ok(f"RANG {2**62 - 10} {2**62 - 5}", 350)
        outgoing = session.outgoing("STOR x", 2**62 - 10, 5)
        assert session.ftp.reply() == b"150 OK\r\n"
        outgoing.from_bytes(b"abc", Meter())
        outgoing._emit_held(0)
        session.writer.flush()
        assert session.ftp.reply().startswith(b"552 "), "before the sequence has ended"
        outgoing.abort()
        session.writer.flush()
        assert session.store("STOR y", b"fine") == b"150 OK\r\n" + DONE


def test_a_full_disk_is_452_and_leaves_nothing(shared_node: Node) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    base = shared_node.directory()
    small = base / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        os.chown(small, shared_node.person.uid, shared_node.person.gid)
        with record_session(shared_node, base, DIGEST) as session:
            assert session.store("STOR small/x", os.urandom(400_000)).startswith(b"150 OK\r\n452 ")
            assert os.listdir(small) == []
            assert session.store("STOR small/x", b"fits") == b"150 OK\r\n" + DONE
        with record_session(shared_node, base, RecordOptions(sparse=True)) as session:
            session.ftp.send("APPE small/x")
            number, _ = session.count("APPE small/x")
            assert session.data is not None
            hole = pack_header(HOLE, 8, number) + pack_hole(400_000)
            session.data.sendall(hole + pack_header(END, 0, number))
            assert session.ftp.reply() == b"150 OK\r\n"
            assert session.ftp.reply().startswith(b"452 ")
            assert (small / "x").read_bytes() == b"fits", "the zeros of an appended hole are cut off again"
    finally:
        subprocess.run(["umount", str(small)], check=True)


# -- connections that end ---------------------------------------------------------------------------------------------


def both_replies(ftp: RawFtp, line: str) -> bytes:
    """The code of the final reply."""
    answer = ftp.command(line)
    return (ftp.reply() if answer.startswith(b"150") else answer)[:3]


def test_without_a_connection_transfers_are_425_at_once(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "x", b"content")
    with record_session(shared_node, base, connect=False) as session:
        for line in ("RETR x", "STOR y", "LIST", "APPE y", "NLST", "MLSD"):
            assert session.ftp.command(line).startswith(b"425 "), line
            session.count(line)
        session.connect()
        assert session.retrieve("RETR x") == b"content"
        session.close()
        # The kernel takes what it can before it learns of the end; after that every transfer fails at once.
        answers = [both_replies(session.ftp, "RETR x") for _ in range(3)]
        assert answers[-1] == b"425"
        assert set(answers) <= {b"226", b"426", b"425"}
        session.number += 3
        session.connect()
        assert session.retrieve("RETR x") == b"content"


def test_a_connection_closed_during_an_upload_is_426_and_leaves_no_file(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base) as session:
        session.ftp.send("STOR x")
        assert session.ftp.reply() == b"150 OK\r\n"
        assert session.data is not None
        session.data.sendall(pack_header(0, 100, 1) + b"only some")
        session.close()
        assert session.ftp.reply().startswith(b"426 ")
        assert session.ftp.command("RETR x").startswith(b"425 ")
        assert os.listdir(base) == []


def test_a_connection_closed_during_a_download_is_426(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "x", bytes(30_000_000))
    with record_session(shared_node, base) as session:
        assert session.ftp.command("RETR x").startswith(b"150 ")
        session.close()
        assert session.ftp.reply().startswith(b"426 ")


@pytest.mark.parametrize("end", ["whole session", "data first"])
def test_a_client_that_is_gone_leaves_nothing(shared_node: Node, end: str) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, DIGEST) as session:
        pid = shared_node.session_of(session.ftp)
        session.ftp.send("STOR x")
        assert session.ftp.reply() == b"150 OK\r\n"
        assert session.data is not None
        session.data.sendall(pack_header(0, 100, 1) + b"only some")
        if end == "data first":
            session.close()
        session.ftp.close()
        eventually(lambda: pid not in shared_node.children(), what="the session to end")
    assert os.listdir(base) == []


@pytest.mark.parametrize(
    "records",
    [
        pack_header(0, 0, 1),
        pack_header(0, 10, 2) + bytes(10),
        pack_header(END, MAX_RAW + 1, 1),
        pack_header(END | ABORT, 0, 1),
        pack_header(ABORT, 513, 1) + bytes(513),
        pack_header(1 << 29, 10, 1) + bytes(10),
        pack_header(1 << 28, 8, 1) + bytes(8),
    ],
)
def test_records_that_may_not_be_end_the_connection_and_not_the_session(shared_node: Node, records: bytes) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base) as session:
        session.ftp.send("STOR x")
        assert session.ftp.reply() == b"150 OK\r\n"
        assert session.data is not None
        session.data.sendall(records)
        assert session.ftp.reply().startswith(b"451 ")
        assert is_turned_away(session.data)
        session.close()
        session.number = 1
        assert session.ftp.command("RETR x").startswith(b"425 ")
        session.number += 1
        session.connect()
        assert session.store("STOR y", b"fine") == b"150 OK\r\n" + DONE
    assert os.listdir(base) == ["y"]


# -- somebody in between ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "arrived", "offset", "length"),
    [
        ("STOR mine", "STOR .bashrc", 0, None),
        ("APPE mine", "STOR mine", 0, None),
        ("STOR mine", "STOR mine", 5, None),
        ("STOR mine", "STOR mine", 0, 7),
    ],
)
def test_a_command_changed_on_the_way_writes_nothing_and_ends_the_session(
    shared_node: Node, said: str, arrived: str, offset: int, length: int | None
) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, CRYPT) as session:
        if offset:
            session.ftp.ok(f"REST {offset}", 350)
        if length is not None:
            session.ftp.ok(f"ALLO {length}")
        session.ftp.send(arrived)
        outgoing = session.writer.begin(*session.count(said))
        outgoing.from_bytes(b"content", Meter())
        outgoing.end()
        session.writer.flush()
        assert session.ftp.reply() == b"150 OK\r\n"
        assert session.ftp.reply().startswith(b"421 ")
        assert session.ftp.is_closed()
    assert not [name for name in os.listdir(base) if (base / name).stat().st_size]


def test_records_of_somebody_without_the_key_end_the_session(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, CRYPT) as session:
        session.ftp.send("STOR x")
        assert session.ftp.reply() == b"150 OK\r\n"
        assert session.data is not None
        session.data.sendall(pack_header(END, 23, 1) + b"content" + bytes(16))
        assert session.ftp.reply().startswith(b"421 ")
        assert session.ftp.is_closed()
    assert os.listdir(base) == []


# -- pipelining -------------------------------------------------------------------------------------------------------


class Receiving:
    """Reads replies, or sequences of records, while the test writes: as the protocol wants it of a client."""

    def __init__(self, work: object) -> None:
        self.result: list[object] = []
        self._thread = threading.Thread(target=lambda: self.result.append(work()))  # type: ignore[operator]
        self._thread.start()

    def wait(self) -> object:
        self._thread.join(3 * TIMEOUT)
        assert self.result, "it hangs, or has failed"
        return self.result[0]


@pytest.mark.parametrize("options", [PLAIN, EVERYTHING], ids=name_of)
@pytest.mark.parametrize("buffers", [None, 4096], ids=["usual buffers", "tiny buffers"])
def test_thousands_of_small_files_of_all_kinds_pipelined(
    shared_node: Node, options: RecordOptions, buffers: int | None
) -> None:
    base = shared_node.directory()
    choose = random.Random(7)
    count = 3000 if buffers is None else 600
    with record_session(shared_node, base, options) as session:
        assert session.data is not None
        if buffers is not None:
            for connection in (session.data, session.ftp.socket):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        contents: dict[str, bytes] = {}
        plan: list[tuple[str, bytes, int]] = []  # line, content, number
        expected: list[bytes] = []
        downloads: list[tuple[int, bytes, bytes]] = []
        for index in range(count):
            kind = choose.choice(["STOR", "STOR", "RETR", "refused STOR", "refused RETR", "NOOP", "RANG"])
            if kind == "STOR" or not contents:
                name, content = f"f{index}", choose.randbytes(choose.randrange(3000))
                contents[name] = content
                plan.append((f"STOR {name}", content, *session.count(f"STOR {name}")[:1]))
                expected += [b"150", b"226"]
            elif kind == "RETR":
                name = choose.choice(list(contents))
                number, bound = session.count(f"RETR {name}")
                plan.append((f"RETR {name}", b"", number))
                downloads.append((number, bound, contents[name]))
                expected += [b"150", b"226"]
            elif kind == "refused STOR":
                plan.append(("STOR none/x", choose.randbytes(500), *session.count("STOR none/x")[:1]))
                expected.append(b"550")
            elif kind == "refused RETR":
                plan.append(("RETR none", b"", *session.count("RETR none")[:1]))
                expected.append(b"550")
            elif kind == "NOOP":
                plan.append(("NOOP", b"", 0))
                expected.append(b"200")
            else:
                plan += [("RANG 1 2", b"", 0), ("RANG 1 0", b"", 0)]
                expected += [b"350", b"350"]

        unanswered = threading.Semaphore(48 * 1024 // 32)

        def replies() -> list[bytes]:
            found = []
            for code in expected:
                found.append(session.ftp.reply()[:3])
                if code != b"150":
                    unanswered.release()
            return found

        def records() -> int:
            for number, bound, content in downloads:
                assert session.reader.next_number() == number
                assert session.take(session.reader.begin(number, bound)) == content
            return len(downloads)

        answers, taken = Receiving(replies), Receiving(records)
        for line, content, number in plan:
            unanswered.acquire()
            session.ftp.send(line)
            if line.startswith("STOR"):
                bound = RecordFtp.binding_of(line)
                outgoing = session.writer.begin(number, bound)
                outgoing.from_bytes(content, Meter())
                outgoing.end()
        session.writer.flush()
        assert answers.wait() == expected
        assert taken.wait() == len(downloads)
    for name, content in contents.items():
        assert (base / name).read_bytes() == content
    assert not parts(base)


@pytest.mark.parametrize("line", ["STAT", "HASH x", "OPTS UTC ON"])
def test_one_that_waits_for_each_reply_is_served_after_any_other_command(shared_node: Node, line: str) -> None:
    """What another command has come between is another run of the pipeline, on the same connection."""
    base = shared_node.directory()
    content = os.urandom(3_000_000)
    shared_node.file(base / "x", content)
    with record_session(shared_node, base) as session:
        for _ in range(3):
            assert session.ftp.command("RETR x").startswith(b"150 ")
            assert session.take(session.incoming("RETR x")) == content
            assert session.ftp.reply() == DONE
            session.ftp.command(line)
            outgoing = session.outgoing("STOR y")
            assert session.ftp.reply() == b"150 OK\r\n"
            outgoing.from_bytes(b"content", Meter())
            outgoing.end()
            session.writer.flush()
            assert session.ftp.reply() == DONE
            session.ftp.command(line)


def test_replies_come_in_order_and_quit_in_its_turn(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base) as session:
        lines = ["STOR a", "SIZE a", "STAT", "HASH a", "RNFR a", "RNTO b", "RETR b", "PWD", "DELE b", "XYZZY", "QUIT"]
        session.ftp.socket.sendall("".join(line + "\r\n" for line in lines).encode())
        outgoing = session.writer.begin(1)
        outgoing.from_bytes(b"content", Meter())
        outgoing.end()
        session.writer.flush()
        codes = []
        while answer := session.ftp.reply():
            codes.append(int(answer[:3]))
        assert codes == [150, 226, 213, 211, 213, 350, 200, 150, 226, 257, 200, 502, 221]
        session.number = 1
        assert session.take(session.incoming("RETR b")) == b"content"


def test_a_client_that_takes_replies_but_no_data_holds_up_nobody_for_good(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "x", os.urandom(8_000_000))
    with record_session(shared_node, base) as session:
        for _ in range(5):
            session.ftp.send("RETR x")
        assert session.ftp.reply().startswith(b"150 ")
        # The server waits for us. Now we take it all, and everything ends well.
        for _ in range(5):
            incoming = session.incoming("RETR x")
            assert incoming.to_nowhere(None, Meter()) == 8_000_000
            assert incoming.finish()
        assert [session.ftp.reply()[:3] for _ in range(9)] == [b"226", *[b"150", b"226"] * 4]


def test_abor_stops_what_runs_and_all_before_it(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, Path("/"), replace(EVERYTHING, compress=False, level=1)) as session:
        session.ftp.ok("RANG 0 1000000000000", 350)
        session.ftp.send("RETR /dev/zero")
        assert session.ftp.reply().startswith(b"150 ")
        first = session.incoming("RETR /dev/zero", 0, 1_000_000_000_000)
        for line in ("RETR /dev/null", f"STOR {base}/x", "LIST /", "ABOR"):
            session.ftp.send(line)
        session.count("RETR /dev/null")
        stored = session.writer.begin(*session.count(f"STOR {base}/x"))
        session.count("LIST /")
        with pytest.raises(Aborted):
            first.to_nowhere(None, Meter())
        stored.abort()
        session.writer.flush()
        assert [session.ftp.reply()[:3] for _ in range(5)] == [b"426"] * 4 + [b"226"]
        assert session.store(f"STOR {base}/x", b"fine") == b"150 OK\r\n" + DONE, "the connection goes on"


def test_abor_that_comes_too_late_costs_nothing(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base) as session:
        assert session.store("STOR x", b"one") == b"150 OK\r\n" + DONE
        session.ftp.send("ABOR")
        assert session.store("STOR x", b"two").startswith(b"226 ")
        assert session.ftp.reply() == b"150 OK\r\n"
        assert session.ftp.reply() == DONE
        assert session.retrieve("RETR x") == b"two"


def test_abor_reaches_an_upload_whose_client_says_nothing(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base) as session:
        outgoing = session.outgoing("STOR x")
        assert session.ftp.reply() == b"150 OK\r\n"
        session.ftp.send("ABOR")
        assert session.ftp.reply().startswith(b"426 "), "before the client has ended its sequence"
        outgoing.abort()
        session.writer.flush()
        assert session.ftp.reply().startswith(b"226 ")
    assert os.listdir(base) == []


def test_a_client_that_sends_no_records_after_a_refused_upload_can_abort(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base) as session:
        assert session.ftp.command("STOR none/x").startswith(b"550 ")
        session.ftp.send("NOOP")
        session.ftp.send("ABOR")
        # The server waits for the sequence that is due, and after ABOR no longer than ten seconds.
        assert session.ftp.reply().startswith(b"200 ")
        assert session.ftp.reply().startswith(b"226 ")
        session.close()
        session.number = 1
        session.connect()
        assert session.store("STOR x", b"fine") == b"150 OK\r\n" + DONE


def test_abor_does_not_wait_for_uploads_that_were_still_queued(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base) as session:
        first = session.outgoing("STOR x")
        assert session.ftp.reply() == b"150 OK\r\n"
        session.ftp.send("STOR y")  # and never a record of it
        session.ftp.send("ABOR")
        assert session.ftp.reply().startswith(b"426 ")
        first.abort()
        session.writer.flush()
        assert session.ftp.reply().startswith(b"426 ")
        assert session.ftp.reply().startswith(b"226 "), "ten seconds later"
    assert os.listdir(base) == []


def test_the_server_reads_no_more_than_it_may_and_forgets_nothing(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base) as session:
        # Far more than the server reads ahead, while it waits for the records of the first line.
        lines = b"STOR first\r\n" + b"SIZE first\r\n" * 30_000
        sent = Receiving(lambda: session.ftp.socket.sendall(lines))
        assert session.ftp.reply() == b"150 OK\r\n"
        outgoing = session.writer.begin(1)
        outgoing.from_bytes(b"content", Meter())
        outgoing.end()
        session.writer.flush()
        assert session.ftp.reply() == DONE
        assert {session.ftp.reply() for _ in range(30_000)} == {b"213 7\r\n"}
        sent.wait()


def test_other_uses_of_the_session_stay_possible(shared_node: Node) -> None:
    base = shared_node.directory()
    with record_session(shared_node, base, replace(EVERYTHING, level=1)) as session:
        for line, code in (("MKD d", 257), ("CWD d", 200), ("PWD", 257), ("CDUP", 200), ("RMD d", 200)):
            session.ftp.ok(line, code)
        assert session.store("STOR x", b"1") == b"150 OK\r\n" + DONE
        assert session.ftp.command("MLST x").startswith(b"250-")
        session.ftp.ok("TYPE I")
        assert b"INFO" not in session.ftp.ok("FEAT", 211)


def test_the_line_of_options_may_be_any_case(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        ftp.ok(format_options(RecordOptions(digest=True)).lower())
        assert b"DIGEST=BLAKE3" in ftp.ok("mode u")

"""Transfers over real data connections: ranges, keep-alive, listings, names, aborts, ports."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from data_node import Node, Person, StartNode
from raw_ftp import TIMEOUT, RawFtp, eventually, read_all

from uftp.protocol.command_port import Access

ROWS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "ranges.json").read_text())
DONE = b"226 File transfer successful\r\n"


def identify(row: dict[str, Any]) -> str:
    return " ".join(row["before"]) or "plain"


def prepare_range(ftp: RawFtp, row: dict[str, Any]) -> bool:
    """Send the commands of a row; whether all were taken."""
    for line, expected in zip(row["before"], row["replies"], strict=True):
        answer = ftp.command(line).decode()
        if expected is None:
            assert answer.startswith("501 ")
            return False
        assert answer == expected + "\r\n"
    return True


@pytest.mark.parametrize("row", ROWS["retr"], ids=identify)
def test_retr_with_ranges(shared_node: Node, row: dict[str, Any]) -> None:
    base = shared_node.directory()
    shared_node.file(base / "digits.txt", b"0123456789")
    with shared_node.login(file=f"{base}/") as ftp:
        if not prepare_range(ftp, row):
            return
        first, data = ftp.retrieve("RETR digits.txt")
        assert data.decode() == row["data"]
        announced = int(first.split()[2])
        assert announced >= len(data)
        if "RANG" not in identify(row):
            assert announced == len(data)
        assert ftp.retrieve("RETR digits.txt")[1] == b"0123456789", "the range is forgotten"


@pytest.mark.parametrize(
    ("verb", "row"),
    [("STOR", row) for row in ROWS["stor"]] + [("APPE", row) for row in ROWS["appe"]],
    ids=lambda value: value if isinstance(value, str) else identify(value),
)
def test_stores_with_ranges(shared_node: Node, verb: str, row: dict[str, Any]) -> None:
    base = shared_node.directory()
    target = shared_node.file(base / "f.txt", b"ABCDEFGHIJ", 0o640)
    with shared_node.login(file=f"{base}/") as ftp:
        if not prepare_range(ftp, row):
            return
        assert ftp.store(f"{verb} f.txt", b"xyz") == DONE
        assert target.read_bytes().decode() == row["file_after"]
        assert target.stat().st_mode & 0o777 == 0o640
        assert ftp.store("STOR f.txt", b"q") == DONE
        assert target.read_bytes() == b"q", "the range is forgotten"
        assert [p.name for p in base.iterdir()] == ["f.txt"]


def test_ranges_are_forgotten_after_failures(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", b"0123456789")
    with shared_node.login(file=f"{base}/") as ftp:
        for failing in ("RETR nosuch", "STOR nodir/x", "HASH nosuch", "APPE nodir/x", "LIST nosuch"):
            ftp.ok("RANG 2 5", 350)
            assert ftp.command(failing)[:1] == b"5"
            with ftp.data() as data:
                assert ftp.command("RETR f") == b"150 OK 10 bytes available for reading.\r\n"
                read_all(data)
                assert ftp.reply() == DONE


def test_keep_alive(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "digits.txt", b"0123456789")
    with shared_node.login(file=f"{base}/") as ftp:
        ftp.ok("KEEP-ALIVE true")
        with ftp.data() as data:
            for line, content in ((None, b"0123456789"), ("RANG 2 5", b"234")):
                if line:
                    ftp.ok(line, 350)
                assert ftp.command("RETR digits.txt") == b"150 OK %d bytes available for reading.\r\n" % len(content)
                assert data.recv(100, socket.MSG_WAITALL if len(content) > 100 else 0) == content
                assert ftp.reply() == DONE
            ftp.ok("ALLO 3")
            assert ftp.command("STOR up.txt") == b"150 OK\r\n"
            data.sendall(b"abc")
            assert ftp.reply() == DONE
            assert (base / "up.txt").read_bytes() == b"abc"
            assert ftp.command("RETR nosuch")[:3] == b"550"
            assert ftp.command("MLST nosuch")[:3] == b"550"
            assert ftp.command("RETR digits.txt")[:6] == b"150 OK"
            assert data.recv(100) == b"0123456789"
            assert ftp.reply() == DONE
            # Without a length only the end of the data ends a store, and the connection with it.
            assert ftp.command("STOR last.txt") == b"150 OK\r\n"
            data.sendall(b"xy")
            data.shutdown(socket.SHUT_WR)
            assert ftp.reply() == DONE
            assert data.recv(1) == b""
        assert ftp.command("RETR digits.txt")[:3] == b"550", "no data connection"


def test_upload_ended_by_count(shared_node: Node) -> None:
    base = shared_node.directory()
    with shared_node.login(file=f"{base}/") as ftp, ftp.data() as data:
        ftp.ok("ALLO 3")
        assert ftp.command("STOR up.txt") == b"150 OK\r\n"
        data.sendall(b"abcdef")
        assert ftp.reply() == DONE
        assert (base / "up.txt").read_bytes() == b"abc"
        assert data.recv(1) == b"", "ended, and not reset"


def test_nothing_has_its_name_before_it_is_whole(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "old", b"before", 0o604)
    with shared_node.login(file=f"{base}/") as ftp, shared_node.login(file=f"{base}/") as other:
        for name, there in (("new", False), ("old", True)):
            with ftp.data() as data:
                assert ftp.command(f"STOR {name}") == b"150 OK\r\n"
                data.sendall(b"x" * 100_000)
                eventually(lambda: b"100000 bytes" in ftp.command("STAT"))
                assert (base / name).exists() == there
                assert not there or (base / name).read_bytes() == b"before"
                assert sorted(other.retrieve("NLST")[1].split()) == ([b"new", b"old"] if there else [b"old"])
            assert ftp.reply() == DONE
            assert (base / name).read_bytes() == b"x" * 100_000
        assert (base / "old").stat().st_mode & 0o777 == 0o604
        assert (base / "new").stat().st_mode & 0o777 == 0o644


# -- listings and names -------------------------------------------------------------------------------------------


def test_listings(shared_node: Node) -> None:
    base = shared_node.directory()
    os.utime(shared_node.file(base / "digits.txt", b"0123456789"), (1612325106, 1612325106))
    (base / "sub").mkdir()
    (base / "dangling").symlink_to("nowhere")
    (base / ".uftp-0123456789abcdef.part").write_bytes(b"unfinished")
    with shared_node.login(file=f"{base}/") as ftp:
        assert ftp.retrieve("MLSD sub") == (b"150 OK\r\n", b"")
        lines = ftp.retrieve("MLSD")[1].split(b"\r\n")
        facts = {frozenset(line.split(b";")) for line in lines}
        assert (
            frozenset(b"size=10;modify=20210203040506;type=file;perm=rw;UNIX.mode=100644; digits.txt".split(b";"))
            in facts
        )
        assert len(lines) == 3
        assert lines[-1] == b""
        for line in ("LIST", "LIST -a", "LIST -la .", f"LIST {base}"):
            lines = ftp.retrieve(line)[1].split(b"\r\n")
            assert b"-rw-------   1 dummy dummy 10 Feb 03 2021 digits.txt" in lines, line
            assert len(lines) == 3, line
        assert sorted(ftp.retrieve("NLST")[1].split()) == [b"digits.txt", b"sub"]
        for line in ("LIST digits.txt", "MLSD digits.txt"):
            with ftp.data() as data:
                assert ftp.command(line)[:3] == b"550", line
                assert data.recv(1) == b""
        status = ftp.command("STAT .")
        assert b" -rw- 10 1612325106000 digits.txt\r\n" in status
        assert b"part" not in status
        assert b"dangling" not in status


NAMES = [
    b"line\nbreak",
    b"\xff\xfe",
    b" leading",
    b"trailing ",
    b"100%25",
    b"%41",
    b'quo"te',
    b"\xc3\xbcmlaut",
    b"\xff",
]
# Without NAMES PCT 0xFF before a byte from 0xF0 on is a Telnet sequence; before others it is itself.
SAYABLE = [b"\xff\xe9", b" leading", b"100%25", b"%41", b'quo"te', b"\xc3\xbcmlaut", b"\xff"]


def encode(name: bytes) -> bytes:
    return b"".join(bytes([b]) if 0x20 < b < 0x7F and b != 0x25 else b"%%%02X" % b for b in name)


@pytest.mark.parametrize("access", ["FULL", "WRITE"])
def test_any_name_survives_with_names_pct(shared_node: Node, access: str) -> None:
    base = shared_node.directory()
    with shared_node.login(file=f"{base}/", access=Access[access]) as ftp:
        assert ftp.command("OPTS NAMES PCT")[:3] == b"200"
        for name in NAMES:
            said = encode(name)
            assert ftp.store(b"STOR " + said, name) == DONE
            assert ftp.retrieve(b"RETR " + said)[1] == name
            assert ftp.command(b"SIZE " + said) == b"213 %d\r\n" % len(name)
            assert ftp.command(b"MLST " + said).split(b"\r\n")[1].endswith(b"; " + said)
            assert ftp.command(b"HASH " + said).endswith(b"/" + said + b"\r\n")
            assert ftp.command(b"MKD d" + said) == b'257 "%s" directory created\r\n' % encode(
                os.fsencode(base) + b"/d" + name
            ).replace(b'"', b'""')
            ftp.ok(b"CWD d" + said)
            assert ftp.command("PWD").endswith(said.replace(b'"', b'""') + b'"\r\n')
            ftp.ok("CDUP")
            ftp.ok(b"RNFR d" + said, 350)
            ftp.ok(b"RNTO e" + said)
        assert sorted(n for n in os.listdir(os.fsencode(base)) if not n.startswith(b"e")) == sorted(NAMES)
        wanted = sorted([encode(n) for n in NAMES] + [encode(b"e" + n) for n in NAMES])
        assert sorted(ftp.retrieve("NLST")[1].split(b"\r\n")[:-1]) == wanted
        lines = ftp.retrieve("MLSD")[1].split(b"\r\n")[:-1]
        assert sorted(line.partition(b" ")[2] for line in lines) == wanted
        lines = ftp.command("STAT N").split(b"\r\n")[1:-2]
        assert sorted(line.split(b" ", 4)[4] for line in lines) == wanted
        lines = ftp.retrieve("LIST")[1].split(b"\r\n")[:-1]
        assert len(lines) == len(wanted)


def test_names_without_names_pct(shared_node: Node) -> None:
    base = shared_node.directory()
    for name in [*SAYABLE, b"line\nbreak", b"trailing "]:
        (base / os.fsdecode(name)).write_bytes(name)
    with shared_node.login(file=f"{base}/") as ftp:
        for name in SAYABLE:
            assert ftp.retrieve(b"RETR " + name)[1] == name
            assert ftp.store(b"STOR x" + name, name) == DONE
            assert (base / os.fsdecode(b"x" + name)).read_bytes() == name
        wanted = sorted([*SAYABLE, *(b"x" + n for n in SAYABLE), b"trailing "])
        assert sorted(ftp.retrieve("NLST")[1].split(b"\r\n")[:-1]) == wanted
        lines = ftp.retrieve("MLSD")[1].split(b"\r\n")[:-1]
        assert sorted(line.partition(b" ")[2] for line in lines) == wanted
        lines = ftp.command("STAT N").split(b"\r\n")[1:-2]
        assert sorted(line.split(b" ", 4)[4] for line in lines) == wanted
        shared_node.wait_log("names-hidden", count=1)


# -- devices and other files ----------------------------------------------------------------------------------------


def test_devices(shared_node: Node) -> None:
    with shared_node.login(file="/") as ftp:
        assert b"type=file" in ftp.command("MLST /dev/zero")
        assert ftp.retrieve("RETR /dev/zero") == (b"150 OK 0 bytes available for reading.\r\n", b"")
        ftp.ok("RANG 0 3000000", 350)
        assert ftp.retrieve("RETR /dev/zero")[1] == bytes(3_000_000)
        assert ftp.retrieve("RETR /dev/null")[1] == b""
        assert ftp.store("STOR /dev/null", b"x" * 3_000_000) == DONE
        ftp.ok("RANG 0 5", 350)
        ftp.ok("ALLO 5")
        assert ftp.store("STOR /dev/null", b"12345") == DONE
        assert ftp.store("APPE /dev/null", b"12345") == DONE
        for line in ("RETR /dev/full", "STOR /dev/full", "RETR /dev/random", "RETR /dev/tty", "HASH /dev/random"):
            ftp.data().close()
            assert ftp.command(line)[:3] == b"550", line
        assert ftp.command("HASH /dev/zero")[:3] == b"213"


def test_targets_that_are_no_files(shared_node: Node) -> None:
    base = shared_node.directory()
    (base / "dir").mkdir()
    os.mkfifo(base / "fifo", 0o666)
    (base / "fifo").chmod(0o666)
    (base / "dangling").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as bound, shared_node.login(file=f"{base}/") as ftp, ftp.data() as data:
        bound.bind(str(base / "socket"))
        reader = os.open(base / "fifo", os.O_RDWR)  # with a reader it could be opened
        for name in ("dir", "fifo", "socket", "dangling", ".", "dir/", "nodir/x", "fifo/x", "x" * 300):
            for verb in ("RETR", "STOR", "APPE"):
                if name == "dangling" and verb == "RETR":
                    continue
                answer = ftp.command(f"{verb} {name}")
                assert answer[:2] == b"55" or answer[:3] == b"534", (verb, name, answer)
        assert ftp.command("RETR dangling")[:3] == b"550"
        os.close(reader)
        # All that left the data connection as it was.
        assert ftp.command("STOR plain") == b"150 OK\r\n"
        data.sendall(b"1")
        data.shutdown(socket.SHUT_WR)
        assert ftp.reply() == DONE


def test_targets_that_cannot_be_replaced(shared_node: Node) -> None:
    base = shared_node.directory()
    person = shared_node.person
    linked = shared_node.file(base / "linked", b"much longer than before")
    os.link(linked, base / "second name")
    (base / "elsewhere").mkdir()
    os.chown(base / "elsewhere", person.uid, person.gid)
    real = shared_node.file(base / "elsewhere" / "real", b"before", 0o600)
    (base / "link").symlink_to("elsewhere/real")
    closed = base / "closed"
    closed.mkdir()
    inside = shared_node.file(closed / "inside", b"much longer than before")
    shared_node.file(closed / "unwritable", b"keep", 0o444)
    shared_node.file(base / "unwritable", b"keep", 0o444)
    closed.chmod(0o555)
    with shared_node.login(file=f"{base}/") as ftp:
        ftp.passive()
        ftp.send("STOR linked")
        eventually(lambda: b"STOR in progress" in ftp.command("STAT"))
        ftp.send("ABOR")  # before the client has connected
        assert (ftp.reply()[:3], ftp.reply()[:3]) == (b"426", b"226")
        assert linked.read_bytes() == b"much longer than before"
        assert ftp.store("STOR linked", b"new") == DONE
        assert (base / "second name").read_bytes() == b"new"
        assert linked.stat().st_nlink == 2
        assert ftp.store("STOR link", b"new") == DONE
        assert (base / "link").is_symlink()
        assert real.read_bytes() == b"new"
        assert real.stat().st_mode & 0o777 == 0o600
        assert ftp.store("STOR closed/inside", b"new") == DONE
        assert inside.read_bytes() == b"new"
        with ftp.data():
            for line in ("STOR closed/new", "STOR closed/unwritable", "STOR unwritable", "APPE unwritable"):
                if os.geteuid() != 0 or person.uid != 0:
                    assert ftp.command(line)[:3] == b"550", line
    assert (base / "unwritable").read_bytes() == b"keep"
    ways = {Path(e["path"]).name: e["how"] for e in shared_node.log("transfer") if str(base) in e["path"]}
    assert (ways["linked"], ways["inside"], ways["link"]) == ("in-place", "in-place", "part")
    closed.chmod(0o755)


# -- status and abort ---------------------------------------------------------------------------------------------


def test_status_and_abort_during_a_download(shared_node: Node) -> None:
    with shared_node.login(file="/") as ftp, ftp.data() as data:
        ftp.ok("RANG 0 1000000000000", 350)
        assert ftp.command("RETR /dev/zero")[:3] == b"150"
        eventually(lambda: data.recv(65536))
        status = ftp.command("STAT")
        assert re.search(rb"RETR in progress: [0-9]+ of 1000000000000 bytes", status), status
        assert b" -" in ftp.command("STAT F /dev/zero")
        ftp.send("ABOR")
        assert ftp.reply()[:3] == b"426"
        assert ftp.reply()[:3] == b"226"
        with contextlib.suppress(ConnectionResetError):
            while data.recv(1 << 20):
                pass
        assert ftp.retrieve("RETR /dev/null")[1] == b""


def test_abort_during_an_upload_leaves_nothing(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "old", b"before")
    with shared_node.login(file=f"{base}/") as ftp:
        for name in ("new", "old"):
            for allo in ("ALLO 1000000", "NOOP"):
                with ftp.data() as data:
                    ftp.ok(allo)
                    assert ftp.command(f"STOR {name}") == b"150 OK\r\n"
                    data.sendall(b"x" * 1000)
                    eventually(lambda: b" 1000 " in ftp.command("STAT"))
                    ftp.send("ABOR")
                    assert ftp.reply()[:3] == b"426"
                    assert ftp.reply()[:3] == b"226"
        assert ftp.store("STOR after", b"") == DONE
    assert {p.name: p.read_bytes() for p in base.iterdir()} == {"old": b"before", "after": b""}


def test_abort_while_waiting_for_the_client(shared_node: Node) -> None:
    base = shared_node.directory()
    with shared_node.login(file=f"{base}/") as ftp:
        port = ftp.passive()
        ftp.send("STOR x")
        eventually(lambda: b"STOR in progress" in ftp.command("STAT"))
        ftp.send("ABOR")
        assert ftp.reply()[:3] == b"426"
        assert ftp.reply()[:3] == b"226"
        ftp.ok("NOOP")
        del port
        assert ftp.store("STOR x", b"1") == DONE


def test_abort_of_commands_sent_ahead(shared_node: Node) -> None:
    with shared_node.login(file="/") as ftp, ftp.data() as data:
        ftp.ok("RANG 0 1000000000000", 350)
        ftp.socket.sendall(b"RETR /dev/zero\r\nRETR /dev/null\r\nNOOP\r\nABOR\r\nSYST\r\n")
        codes = [ftp.reply()[:3] for _ in range(5)]
        if codes[0] == b"150":  # it had begun
            codes = [*codes[1:], ftp.reply()[:3]]
        assert codes == [b"426", b"426", b"200", b"226", b"215"]
        del data


def test_an_aborted_transfer_takes_its_range_along(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "whole", b"all of it")
    with shared_node.login(file="/") as ftp, ftp.data() as data:
        ftp.ok("RANG 0 1000000000000", 350)
        ftp.ok("RETR /dev/zero", 150)
        ftp.socket.sendall(b"RANG 0 3\r\nRETR /dev/zero\r\nABOR\r\n")
        assert [ftp.reply()[:3] for _ in range(4)] == [b"426", b"350", b"426", b"226"]
        del data
        assert ftp.retrieve(f"RETR {base}/whole")[1] == b"all of it"


def test_a_status_sent_together_with_its_command(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        port = ftp.passive()
        ftp.socket.sendall(b"NLST\r\nSTAT\r\n")  # it waits for its client, so the answer cannot
        answer = ftp.reply()
        assert b"NLST in progress" in answer
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as data:
            assert ftp.reply()[:3] == b"150"
            read_all(data)
            assert ftp.reply() == DONE


def test_abort_of_a_hash(shared_node: Node) -> None:
    base = shared_node.directory()
    with (base / "big").open("wb") as big:
        big.truncate(1 << 40)
    (base / "big").chmod(0o644)
    with shared_node.login(file=f"{base}/") as ftp:
        ftp.send("HASH big")
        eventually(lambda: b"HASH in progress" in ftp.command("STAT"))
        ftp.send("ABOR")
        assert ftp.reply()[:3] == b"426"
        assert ftp.reply()[:3] == b"226"
        assert ftp.command("SIZE big") == b"213 %d\r\n" % (1 << 40)


@pytest.mark.slow
def test_a_flood_of_lines_is_not_read_further(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        ftp.passive()
        ftp.send("NLST")  # waits for its client
        eventually(lambda: b"NLST in progress" in ftp.command("STAT"))
        ftp.socket.settimeout(0.5)
        pid = shared_node.session_of(ftp)
        flood = (b"x" * 40_000 + b"\n" + b"y\n" * 20_000) * 500
        with pytest.raises(TimeoutError):
            ftp.socket.sendall(flood)
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert resident < 150_000_000


@pytest.mark.slow
def test_many_commands_sent_ahead(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        count = 20_000
        ftp.socket.sendall(b"NOOP\r\n" * 5)
        for _ in range(5):
            ftp.reply()
        sender = threading.Thread(target=ftp.socket.sendall, args=(b"NOOP\r\n" * count,))
        sender.start()
        for _ in range(count):
            assert ftp.reply() == b"200 OK\r\n"
        sender.join(TIMEOUT)


# -- data connections -----------------------------------------------------------------------------------------------


def test_passive_forms(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        answer = ftp.command("PASV").decode()
        match = re.fullmatch(r"227 Entering Passive Mode \(127,0,0,1,([0-9]+),([0-9]+)\)\r\n", answer)
        assert match, answer
        with socket.create_connection(("127.0.0.1", int(match[1]) * 256 + int(match[2]))) as data:
            ftp.ok("LIST", 150)
            read_all(data)
            assert ftp.reply() == DONE
        for line in ("EPSV", "EPSV 1", "EPSV 2"):
            assert ftp.command(line)[:3] == b"229"


def test_a_new_epsv_takes_the_place_of_the_last(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        first = ftp.data()
        second = ftp.data()
        assert first.recv(1) == b""
        ftp.ok("NLST", 150)
        read_all(second)
        assert ftp.reply() == DONE
        port = ftp.passive()
        ftp.passive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        third = ftp.data()
        assert ftp.command("NOOP 2")[:3] == b"222"
        assert third.recv(1) == b"", "NOOP n closes what is open, but for one that stays one"
        first.close()
        third.close()


def test_strangers_are_turned_away(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", b"mine")
    with shared_node.login(file=f"{base}/") as ftp:
        port = ftp.passive()
        ftp.send("RETR f")
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), TIMEOUT, ("127.0.0.2", 0)) as stranger:
                assert stranger.recv(1) == b""
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as data:
            assert ftp.reply()[:3] == b"150"
            assert read_all(data) == b"mine"
            assert ftp.reply() == DONE


def test_a_connection_that_is_reset_at_once(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        for _ in range(20):
            with ftp.data() as data:
                data.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            assert ftp.command("NLST")[:3] in (b"150", b"551", b"550", b"500")
            ftp.send("NOOP")
            while (answer := ftp.reply()) != b"200 OK\r\n":
                assert answer[:1] in b"25"


@pytest.mark.slow
def test_ipv6(start_node: StartNode) -> None:
    node = start_node(ftp_host="::1")
    base = node.directory()
    with node.login(file=f"{base}/") as ftp:
        assert ftp.store("STOR x", b"six") == DONE
        assert ftp.retrieve("RETR x")[1] == b"six"
        assert ftp.command("PASV")[:3] == b"522"


@pytest.mark.slow
def test_ipv4_client_of_a_dual_stack_listener(start_node: StartNode) -> None:
    node = start_node(ftp_host="::")
    with RawFtp(("127.0.0.1", node.ftp[1])) as ftp:
        ftp.log_in(node.expect())
        assert ftp.command("PASV").startswith(b"227 Entering Passive Mode (127,0,0,1,")
        assert ftp.retrieve("NLST")[1] == b""


def free_port() -> int:
    """A free port that the system will not hand out meanwhile, to a listener or to an outgoing connection."""
    lowest_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(min(10_000, lowest_ephemeral - 1000), lowest_ephemeral), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


@pytest.mark.slow
def test_a_range_of_one_port_serves_many_sessions(start_node: StartNode) -> None:
    port = free_port()
    node = start_node(ftp={"port_range": str(port), "port_wait_seconds": 0.3})
    base = node.directory()
    with node.login(file=f"{base}/") as first, node.login(file=f"{base}/") as second:
        with first.data() as one, second.data() as two:
            # Both are connected: the port is free again.
            for ftp, data, name in ((first, one, "a"), (second, two, "b")):
                assert data.getpeername()[1] == port
                ftp.ok(f"STOR {name}", 150)
            for ftp, data in ((second, two), (first, one)):
                data.sendall(b"x")
                data.close()
                assert ftp.reply() == DONE
        # One waits for its client; the other has to wait, and is told.
        assert first.passive() == port
        answer = second.command("EPSV")
        assert answer[:3] == b"522"
        assert str(port).encode() in answer
        assert second.command("PASV")[:3] == b"522"
        # It gets it as soon as it comes free.
        second.send("EPSV")
        socket.create_connection(("127.0.0.1", port)).close()
        assert second.reply()[:3] == b"229"
        first.ok("NOOP")
        # A client that gives up waiting gives up the port.
        second.ok("ABOR", 226)
        assert first.passive() == port
        first.ok("ABOR", 226)
        assert second.passive() == port


@pytest.mark.slow
def test_one_port_for_two_users(start_node: StartNode, people: tuple[Person, Person]) -> None:
    port = free_port()
    node = start_node(ftp={"port_range": str(port), "port_wait_seconds": 20})
    with node.login(user=people[0].name, file="/") as first, node.login(user=people[1].name, file="/") as second:
        assert first.passive() == port
        assert first.passive() == port, "its own port is free for it again"
        # Whoever gives up waiting does not take the port with him.
        second.send("EPSV")
        eventually(lambda: b"EPSV in progress" in second.command("STAT"))
        second.send("ABOR")
        assert (second.reply()[:3], second.reply()[:3]) == (b"426", b"226")
        for _ in range(3):
            with first.data() as data:
                first.ok("NLST", 150)
                read_all(data)
                assert first.reply() == DONE
            with second.data() as data:
                second.ok("NLST", 150)
                read_all(data)
                assert second.reply() == DONE


@pytest.mark.slow
def test_a_port_held_by_another_program(start_node: StartNode) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        node = start_node(ftp={"port_range": str(port), "port_wait_seconds": 0.7})
        with node.login() as ftp:
            assert ftp.command("EPSV")[:3] == b"522"
            holder.close()
            assert ftp.passive() == port


@pytest.mark.slow
def test_a_session_that_ends_returns_its_port(start_node: StartNode) -> None:
    port = free_port()
    node = start_node(ftp={"port_range": str(port), "port_wait_seconds": 10})
    with node.login() as first, node.login() as second, node.login() as third:
        assert first.passive() == port
        third.send("EPSV")
        second.send("EPSV")
        third.close()  # while it waits
        os.kill(node.session_of(first), 9)
        assert second.reply()[:3] == b"229"


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_a_session_that_ends_while_it_asks_for_a_port_keeps_none(start_node: StartNode) -> None:
    port = free_port()
    node = start_node(ftp={"port_range": str(port), "port_wait_seconds": 10})
    for _ in range(8):  # the front sees the wish and the end in any order
        with node.login() as passing:
            session = node.session_of(passing)
            os.kill(node.front(), signal.SIGSTOP)
            passing.send("EPSV")
            passing.close()
            eventually(partial(is_gone, session))
            os.kill(node.front(), signal.SIGCONT)
        with node.login() as ftp:
            assert ftp.passive() == port


@pytest.mark.slow
def test_a_client_that_does_not_connect(start_node: StartNode) -> None:
    node = start_node(limits={"data_connect_seconds": 0.2})
    with node.login() as ftp:
        ftp.passive()
        answer = ftp.command("NLST")
        assert answer[:3] == b"550"
        assert b"no data connection" in answer
        assert ftp.retrieve("NLST")[1] == b""


def test_two_sessions_that_append_at_once_do_not_overwrite_each_other(shared_node: Node) -> None:
    path = shared_node.file(shared_node.directory() / "log", b"0")
    with shared_node.login() as one, shared_node.login() as other:
        with one.data() as first, other.data() as second:
            for ftp in (one, other):
                assert ftp.command(f"APPE {path}") == b"150 OK\r\n"
            first.sendall(b"11")
            eventually(lambda: path.read_bytes() == b"011")
            second.sendall(b"22")
        assert one.reply() == DONE
        assert other.reply() == DONE
    assert path.read_bytes() == b"01122"

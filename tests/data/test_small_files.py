"""Runs of small files in MODE U: what a short way serves is what the general way would have served."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_node import Node, StartNode
from raw_ftp import RawFtp, eventually
from record_ftp import KEY, RecordFtp

from uftp.protocol.command_port import Access
from uftp.protocol.record_mode import RecordOptions
from uftp.protocol.records import binding
from uftp.streams import Garbled, Meter
from uftp.streams.records import Aborted

DIGEST = RecordOptions(digest=True, facts=True, sparse=True)
SEALED = RecordOptions(crypt=True, digest=True, facts=True)
OLD, NEW = 1_600_000_000, b"modify=20231114221320.5;UNIX.mode=0751;"
NAMES = (
    *("plain", "empty", "large", "missing", "unreadable", "unwritable", "other name", "two names", "link", "dangling"),
    *("directory", "no/such/directory/x", "shut/x", "full of %41 %", "pipe", "\udce9\udcfe", "../outside", "."),
)


@contextlib.contextmanager
def record_session(node: Node, base: Path, options: RecordOptions, **fields: object) -> Iterator[RecordFtp]:
    key = KEY if options.crypt else None
    with node.login(file=f"{base}/", key=key, **fields) as ftp, RecordFtp(ftp, options, KEY) as session:
        session.connect()
        yield session


def make_tree(node: Node) -> Path:
    """One of everything."""
    base = node.directory()
    for name, content, mode in (
        ("plain", b"plain content", 0o640),
        ("empty", b"", 0o600),
        ("large", b"0123456789" * 20_000, 0o644),
        ("unreadable", b"secret", 0o200),
        ("unwritable", b"fixed", 0o444),
        ("other name", b"with blanks", 0o644),
        ("two names", b"twice", 0o604),
        ("full of %41 %", b"percent", 0o644),
        (os.fsdecode(b"\xe9\xfe"), b"no text", 0o644),
    ):
        node.file(base / name, content, mode)
        os.utime(base / name, (OLD, OLD))
    (base / "first name").hardlink_to(base / "two names")
    (base / "link").symlink_to("plain")
    (base / "dangling").symlink_to("nowhere")
    (base / "directory").mkdir()
    (base / "shut").mkdir(mode=0o500)
    os.mkfifo(base / "pipe")
    for path in (base / "directory", base / "shut", base / "pipe"):
        os.chown(path, node.person.uid, node.person.gid)
    return base


def look(base: Path) -> dict[str, tuple[object, ...]]:
    """What a tree has, but for times that are of now."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(base):
        for name in (*directories, *files):
            path = Path(directory, name)
            info = path.lstat()
            content: object = None
            if stat.S_ISREG(info.st_mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            when = info.st_mtime_ns if info.st_mtime < 1_750_000_000 else None
            found[str(path.relative_to(base))] = (info.st_mode, info.st_nlink, content, when)
    return found


Step = tuple[str, str, bytes, bytes, str]  # verb, name, content, facts, how the sequence ends


def steps(seed: int, count: int) -> list[Step]:
    chosen = random.Random(seed)
    made: list[Step] = []
    for number in range(count):
        name = chosen.choice((*NAMES, f"new{number % 7}", f"directory/new{number % 5}"))
        verb = chosen.choice(("RETR", "STOR"))
        content = chosen.randbytes(chosen.choice((0, 1, 100, 4096, 70_000)))
        facts = chosen.choice((b"", NEW, b"UNIX.mode=0600;", b"modify=nonsense;"))
        end = chosen.choice(("END",) * 8 + ("ABORT", "two records", "wrong digest"))
        made.append((verb, name, content, facts, end))
        made += [("RETR", f"new{number % 7}", b"", b"", "END")] * chosen.choice((0, 0, 3))
    return made


def line_of(step: Step) -> bytes:
    return f"{step[0]} {step[1]}".encode("utf-8", "surrogateescape")


def send_records(session: RecordFtp, number: int, step: Step) -> None:
    _, _, content, facts, end = step
    outgoing = session.writer.begin(number, binding(line_of(step), 0, None))
    if end == "two records" and len(content) > 1:
        outgoing.from_bytes(content[:1], Meter())
        outgoing._emit_held(0)
        content = content[1:]
    outgoing.from_bytes(content, Meter())
    if end == "ABORT":
        outgoing.abort("changed its mind")
    else:
        if end == "wrong digest" and outgoing._digest is not None:
            outgoing._digest.update(b"x")
        outgoing.end(facts)


def take_records(session: RecordFtp, number: int, step: Step, announced: bytes) -> object:
    incoming = session.reader.begin(number, binding(line_of(step), 0, None))
    content = bytearray()
    try:
        moved = incoming.to_chunks(content.extend, int(announced.split()[2]), Meter())
        assert incoming.finish()
    except (Aborted, Garbled) as error:
        return type(error)
    assert moved == len(content)
    return bytes(content), incoming.facts if b"modify=2020" in incoming.facts else None


def final(first: bytes, ftp: RawFtp) -> bytes:
    return ftp.reply() if first.startswith(b"1") else first


def all_at_once(session: RecordFtp, todo: list[Step]) -> list[tuple[bytes, object]]:
    """Lines and records ahead of all replies."""
    numbers = range(session.number + 1, session.number + len(todo) + 1)
    session.number += len(todo)
    session.ftp.socket.sendall(b"".join(line_of(step) + b"\r\n" for step in todo))
    for number, step in zip(numbers, todo, strict=True):
        if step[0] == "STOR":
            send_records(session, number, step)
    session.writer.flush()
    outcome: list[tuple[bytes, object]] = []
    for number, step in zip(numbers, todo, strict=True):
        first = session.ftp.reply()
        came = None
        if step[0] == "RETR" and first.startswith(b"150"):
            came = take_records(session, number, step, first)
        outcome.append((final(first, session.ftp), came))
    return outcome


def one_by_one(session: RecordFtp, todo: list[Step]) -> list[tuple[bytes, object]]:
    """Each when the one before is through, and records when the server asks for them: as no run is ever served."""
    outcome: list[tuple[bytes, object]] = []
    for step in todo:
        session.number += 1
        session.ftp.send(line_of(step))
        first = session.ftp.reply()
        came = None
        if step[0] == "STOR":
            if first.startswith(b"150"):
                send_records(session, session.number, step)
            else:
                session.writer.begin(session.number, binding(line_of(step), 0, None)).abort()
            session.writer.flush()
        elif first.startswith(b"150"):
            came = take_records(session, session.number, step, first)
        outcome.append((final(first, session.ftp), came))
    return outcome


@pytest.mark.parametrize("options", [DIGEST, SEALED, RecordOptions()], ids=["digest", "sealed", "plain"])
@pytest.mark.parametrize("seed", range(4))
def test_runs_end_as_single_commands_do(shared_node: Node, options: RecordOptions, seed: int) -> None:
    todo = steps(seed, 60)
    together, apart = make_tree(shared_node), make_tree(shared_node)
    # What the client says of a file it does not send at all is not the server's answer to it.
    with record_session(shared_node, together, options) as session:
        many = all_at_once(session, todo)
        assert session.ftp.command("PWD").startswith(b"257")
    with record_session(shared_node, apart, options) as session:
        single = one_by_one(session, todo)
    single = [(reply.replace(os.fsencode(apart), os.fsencode(together)), came) for reply, came in single]
    for step, one, other in zip(todo, many, single, strict=True):
        if step[0] == "STOR" and other[0][:1] != b"2":
            # One that was refused before its records were sent was not told of what is wrong with them, too.
            assert one[0][:1] in b"45", step
            assert one == other or step[4] != "END" or b"nonsense" in step[3], step
        else:
            assert one == other, step
    assert look(together) == look(apart)


def test_the_rights_of_a_session_hold_in_runs(shared_node: Node) -> None:
    base = make_tree(shared_node)
    before = look(base)
    (base / "leads out").symlink_to("/etc/passwd")
    lines = b"RETR plain\r\nRETR leads out\r\nRETR directory/../plain\r\nSTOR plain\r\nSTOR new\r\nRETR plain\r\n"
    with record_session(shared_node, base, DIGEST, access=Access.READ) as session:
        session.ftp.socket.sendall(lines)
        replies = []
        for number, line in enumerate(lines.split(b"\r\n")[:-1], 1):
            first = session.ftp.reply()
            if line.startswith(b"STOR"):
                session.writer.begin(number).abort()
                session.writer.flush()
            elif first.startswith(b"150"):
                take_records(session, number, ("RETR", "", b"", b"", "END"), first)
            replies.append(final(first, session.ftp)[:3])
    assert replies[0] == replies[2] == replies[5] == b"226"
    assert replies[1][:1] == b"5"
    assert replies[3] == replies[4] == b"534"
    (base / "leads out").unlink()
    assert look(base) == before


@pytest.mark.parametrize("protected", [("plain",), ("directory/guarded",)])
def test_protected_files_are_written_in_no_run(start_node: StartNode, protected: tuple[str, ...]) -> None:
    node = start_node()
    base = make_tree(node)
    (base / "way").symlink_to("directory")
    node.stop()
    guarded = [os.path.relpath(base / name, node.person.home) for name in protected]
    node = start_node(files={"write_protected": guarded})
    names = [f"{way}{name}" for name in ("plain", "guarded", "free") for way in ("", "directory/", "way/")]
    with record_session(node, base, DIGEST) as session:
        outcome = all_at_once(session, [("STOR", name, b"new", b"", "END") for name in names])
    for name, (reply, _) in zip(names, outcome, strict=True):
        real = name.replace("way/", "directory/")
        assert reply[:3] == (b"534" if real in protected else b"226"), name
    for name in protected:
        assert not (base / name).exists() or (base / name).read_bytes() != b"new"


def test_usage_is_logged_for_each_file_of_a_run(shared_node: Node) -> None:
    base = make_tree(shared_node)
    names = ["plain", os.fsdecode(b"\xe9\xfe"), "other name", "missing", "empty"]
    with record_session(shared_node, base, DIGEST) as session:
        all_at_once(session, [("RETR", name, b"", b"", "END") for name in names])
        all_at_once(session, [("STOR", "new 1", b"12345", b"", "END"), ("STOR", "new 2", b"", b"", "END")])
    shared_node.wait_log("transfer", path=str(base / "new 2"))
    lines = {line["path"]: line for line in shared_node.log("transfer") if line["path"].startswith(str(base))}
    assert lines[str(base / "plain")]["bytes"] == 13
    assert lines[f"{base}/\\xe9\\xfe"]["result"] == "ok"
    assert lines[str(base / "missing")]["result"] == "550"
    new = lines[str(base / "new 1")]
    assert (new["verb"], new["bytes"], new["how"], new["mode"], new["verified"]) == ("STOR", 5, "part", "U", True)
    assert new["user"] == shared_node.person.name
    assert isinstance(new["seconds"], float)


def test_abor_ends_a_run(shared_node: Node) -> None:
    base = make_tree(shared_node)
    with record_session(shared_node, base, DIGEST) as session:
        # The data connection is not read, so the server comes to stand within the run.
        lines = [b"RETR %b" % (b"large" if number % 2 else b"plain") for number in range(400)]
        session.ftp.socket.sendall(b"\r\n".join(lines) + b"\r\nABOR\r\n")
        done = aborted = 0
        for number in range(1, 401):
            first = session.ftp.reply()
            if first.startswith(b"150"):
                take_records(session, number, ("RETR", lines[number - 1][5:].decode(), b"", b"", "END"), first)
            last = final(first, session.ftp)
            assert last[:3] in (b"226", b"426")
            done += last.startswith(b"226")
            aborted += last.startswith(b"426")
        assert session.ftp.reply().startswith(b"226 ")
        assert aborted
        session.number = 400
        assert session.retrieve("RETR plain") == b"plain content"


def test_a_client_that_goes_leaves_no_part_of_a_run(shared_node: Node) -> None:
    base = make_tree(shared_node)
    with record_session(shared_node, base, DIGEST) as session:
        pid = shared_node.session_of(session.ftp)
        todo: list[Step] = [("STOR", f"new{number}", b"x" * 5000, NEW, "END") for number in range(300)]
        session.ftp.socket.sendall(b"".join(line_of(step) + b"\r\n" for step in todo))
        for number, step in enumerate(todo[:150], 1):
            send_records(session, number, step)
        session.writer.flush()
        assert session.data is not None
        session.data.sendall(b"\x80\0\x13\x88\0\0\0\x97" + b"y" * 100)  # the beginning of one more
        session.data.shutdown(socket.SHUT_WR)
    eventually(lambda: pid not in shared_node.children(), what="the end of the session")
    new = [path for path in base.iterdir() if path.name.startswith("new")]
    assert all(path.read_bytes() == b"x" * 5000 for path in new)
    assert not [path for path in base.iterdir() if path.name.endswith(".part")]

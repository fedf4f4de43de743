"""Copies between servers as processes: who may start, see and end them, and what is left when something dies.

Both ends are one node, which may copy with itself here; what the copies bring is tested elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from data_node import Node, Person, StartNode, running_node
from raw_ftp import RawFtp, eventually

from uftp.protocol.command_port import Access, Cipher
from uftp.protocol.server_copies import CopyStatus, parse_copy_error, parse_copy_status

PATIENCE = 30.0  # seconds
ALLOW: dict[str, object] = {"allow": ["127.0.0.1"]}
SLOW = "OPTS RCP RATE=20000"  # bytes a second: minutes for what is copied here
LARGE = 3_000_000


@pytest.fixture(scope="module")
def node(people: tuple[Person, Person]) -> Iterator[Node]:
    with running_node(people[0], as_root=os.geteuid() == 0, copies=ALLOW, limits={"sessions_per_user": 100}) as running:
        yield running


def start(ftp: RawFtp, line: str) -> int:
    answer = ftp.command(line)
    match = re.fullmatch(rb"299 OK transfer-process-ID=([0-9]{1,19})\r\n", answer)
    assert match, answer
    return int(match[1])


def status(ftp: RawFtp, copy: int) -> CopyStatus:
    answer = ftp.command(f"RCP-STATUS {copy}")
    assert answer.startswith(b"299 "), answer
    return parse_copy_status(answer[4:])


def ended(ftp: RawFtp, copy: int) -> CopyStatus:
    """How a copy ends."""
    eventually(lambda: status(ftp, copy).is_final, PATIENCE)
    return status(ftp, copy)


def moving(ftp: RawFtp, copy: int) -> None:
    """Wait until a copy moves data."""
    eventually(lambda: status(ftp, copy).bytes > 0 or status(ftp, copy).is_final, PATIENCE)
    assert status(ftp, copy).word == "RUNNING"


def other_end(node: Node, directory: Path, **fields: Any) -> str:
    """Address and secret for the other end of a copy, in quotes."""
    secret = node.expect(file=f"{directory}/", **fields)
    return f"'127.0.0.1:{node.ftp[1]}' '{secret}'"


@pytest.fixture
def slow_copy(node: Node) -> Iterator[tuple[RawFtp, int, Path, Path]]:
    """A session, the copy it has started, the source's directory and the target's; ended afterwards."""
    source, target = node.directory(), node.directory()
    node.file(source / "f", secrets.token_bytes(LARGE))
    with node.login(file=f"{target}/") as ftp:
        ftp.ok(SLOW)
        copy = start(ftp, f"RECEIVE-FILE 'new' 'f' {other_end(node, source)}")
        moving(ftp, copy)
        yield ftp, copy, source, target
        ftp.command(f"RCP-ABORT {copy}")


# -- who may


def test_what_a_session_may_do_its_copies_may(node: Node) -> None:
    base = node.directory()
    node.file(base / "f", b"content")
    peer = f"'127.0.0.1:{node.ftp[1]}' 'nobody-waits'"
    for access, verb in ((Access.INFO, "SEND-FILE"), (Access.READ, "RECEIVE-FILE"), (Access.READ, "RCP-FETCH")):
        with node.login(file=f"{base}/", access=access) as ftp:
            arguments = "f https://example.org/" if verb == "RCP-FETCH" else f"f g {peer}"
            assert ftp.command(f"{verb} {arguments}").startswith(b"534 ")
            assert ftp.command("RCP-STATUS 1") == b"299 UNKNOWN\r\n"
    with node.login(file=f"{base}/", access=Access.NONE) as ftp:
        assert ftp.command("RCP-STATUS 1").startswith(b"534 ")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("SEND-FILE f", b"501"),
        ("SEND-FILE f g h:1 s s", b"501"),
        ("SEND-FILE f g h s", b"501"),
        ("SEND-FILE f g h:99999 s", b"501"),
        ("SEND-FILE", b"501"),
        ("SEND-FILE nosuch g 127.0.0.1:PORT s", b"550"),
        ("SEND-FILE . g 127.0.0.1:PORT s", b"550"),
        ("SEND-FILE /etc/passwd g 127.0.0.1:PORT s", b"534"),
        ("SEND-FILE f g 127.0.0.3:PORT s", b"534"),
        ("SEND-FILE f g no-such-host.invalid:PORT s", b"534"),
        ("RECEIVE-FILE . g 127.0.0.1:PORT s", b"550"),
        ("RECEIVE-FILE nosuch/g g 127.0.0.1:PORT s", b"550"),
        ("RECEIVE-FILE ../g g 127.0.0.1:PORT s", b"534"),
        ("RECEIVE-FILE g g 127.0.0.3:PORT s", b"534"),
        ("RCP-FETCH g http://example.org/", b"501"),
        ("RCP-FETCH g https://127.0.0.3/", b"534"),
        ("RCP-FETCH g", b"501"),
        ("RCP-STATUS", b"501"),
        ("RCP-STATUS x", b"501"),
        ("RCP-ABORT 1 x", b"501"),
        ("RCP-ERRORS 1", b"550"),
        ("OPTS RCP SOMETHING", b"501"),
    ],
)
def test_what_is_refused_starts_nothing(node: Node, line: str, code: bytes) -> None:
    base = node.directory()
    node.file(base / "f", b"content")
    before = len(node.log("copy started"))
    with node.login(file=f"{base}/") as ftp:
        answer = ftp.command(line.replace("PORT", str(node.ftp[1])))
        assert answer[:3] == code, answer
        assert answer.endswith(b"\r\n")
    assert len(node.log("copy started")) == before
    assert [path.name for path in base.iterdir()] == ["f"]


def test_a_refused_copy_takes_the_range_with_it(node: Node) -> None:
    base, there = node.directory(), node.directory()
    node.file(base / "f", b"0123456789")
    with node.login(file=f"{base}/") as ftp:
        ftp.ok("RANG 2 4", 350)
        assert ftp.command("SEND-FILE f").startswith(b"501 ")
        assert ended(ftp, start(ftp, f"SEND-FILE f g {other_end(node, there)}")).word == "FINISHED"
    assert (there / "g").read_bytes() == b"0123456789"


def test_copies_of_others_are_unknown(two_people: tuple[Person, Person], start_node: StartNode) -> None:
    node = start_node(as_root=True, copies=ALLOW)
    source, target = node.directory(), node.directory()
    node.file(source / "f", secrets.token_bytes(LARGE))
    with node.login(file=f"{target}/") as ftp, node.login(user=two_people[1].name, file="/") as stranger:
        ftp.ok(SLOW)
        copy = start(ftp, f"RECEIVE-FILE new f {other_end(node, source)}")
        assert stranger.command(f"RCP-STATUS {copy}") == b"299 UNKNOWN\r\n"
        assert stranger.command(f"RCP-ABORT {copy}") == b"299 UNKNOWN\r\n"
        assert stranger.command(f"RCP-ERRORS {copy}").startswith(b"550 ")
        assert stranger.command(f"RCP-ERRORS {copy}") == stranger.command(f"RCP-ERRORS {copy + 1}")
        with node.login(file=f"{source}/") as another:
            assert status(another, copy).word == "RUNNING"
            assert another.command(f"RCP-ABORT {copy}") == b"299 ABORTED\r\n"


def test_a_site_may_have_none(start_node: StartNode) -> None:
    node = start_node(copies={"enabled": False})
    with node.login() as ftp:
        assert b"RCP-" not in ftp.command("FEAT")
        for line in ("SEND-FILE f g h:1 s", "RECEIVE-FILE f g h:1 s", "RCP-FETCH f https://h/", "OPTS RCP TREES"):
            assert ftp.command(line).startswith(b"502 ")
        assert ftp.command("RCP-STATUS 1") == b"299 UNKNOWN\r\n"
    with node.connect() as ftp:
        ftp.reply()
        assert b"RCP-" not in ftp.command("FEAT")


def test_a_user_has_a_limited_number_at_a_time(start_node: StartNode) -> None:
    node = start_node(copies=ALLOW, limits={"copy_sessions_per_user": 2})
    source, target = node.directory(), node.directory()
    node.file(source / "f", secrets.token_bytes(LARGE))
    with node.login(file=f"{target}/") as ftp:
        ftp.ok(SLOW)
        copies = [start(ftp, f"RECEIVE-FILE new{n} f {other_end(node, source)}") for n in range(2)]
        answer = ftp.command(f"RECEIVE-FILE more f {other_end(node, source)}")
        assert answer.startswith(b"500 "), answer  # a 4xx would be success to old clients
        assert b"server limit is 2" in answer
        ftp.ok("OPTS MODE U")
        ftp.ok("MODE U")
        assert ftp.command(f"RECEIVE-FILE more f {other_end(node, source)}").startswith(b"450 ")
        assert ftp.command(f"RCP-ABORT {copies[0]}") == b"299 ABORTED\r\n"
        copies.append(start(ftp, f"RECEIVE-FILE again f {other_end(node, source)}"))
        for copy in copies[1:]:
            assert ftp.command(f"RCP-ABORT {copy}") == b"299 ABORTED\r\n"
    assert list(target.iterdir()) == []


def test_encryption_needs_a_key(node: Node) -> None:
    source, target = node.directory(), node.directory()
    node.file(source / "f", b"content")
    with node.login(file=f"{source}/") as ftp:
        ftp.ok("OPTS RCP ENCRYPT")
        assert ftp.command(f"SEND-FILE f g {other_end(node, target)}").startswith(b"504 ")
    key = {"key": secrets.token_bytes(48), "algorithm": Cipher.AES}
    with node.login(file=f"{source}/", **key) as ftp:
        ftp.ok("OPTS RCP ENCRYPT")
        copy = start(ftp, f"SEND-FILE f g {other_end(node, target, **key)}")
        assert ended(ftp, copy).word == "FINISHED"
    assert (target / "g").read_bytes() == b"content"


# -- restricted sessions


def test_rules_on_paths_hold_for_copies(node: Node) -> None:
    base, there = node.directory(), node.directory()
    outside = node.file(node.directory() / "secret", b"secret")
    node.file(base / "open", b"may be read")
    node.file(base / "closed", b"may not")
    node.file(there / "g", b"from there")
    (base / "link").symlink_to(outside)
    with node.login(file=f"{base}/", excludes=("closed", "closed2")) as ftp:
        assert ftp.command(f"SEND-FILE closed x {other_end(node, there)}").startswith(b"534 ")
        assert not ftp.command(f"SEND-FILE link x {other_end(node, there)}").startswith(b"2")
        assert ftp.command(f"RECEIVE-FILE closed2 g {other_end(node, there)}").startswith(b"534 ")
        assert not ftp.command(f"RECEIVE-FILE link g {other_end(node, there)}").startswith(b"2")
        for line in (f"SEND-FILE open x {other_end(node, there)}", f"RECEIVE-FILE new g {other_end(node, there)}"):
            assert ended(ftp, start(ftp, line)).word == "FINISHED"
        ftp.ok("OPTS RCP TREES RECURSIVE")
        answer = ftp.command(f"SEND-FILE . x {other_end(node, there)}")
        assert answer.startswith(b"534 "), answer
        assert b"only single files" in answer
    assert (there / "x").read_bytes() == b"may be read"
    assert (base / "new").read_bytes() == b"from there"
    assert outside.read_bytes() == b"secret"
    assert not (base / "closed2").exists()


def test_a_restricted_session_leaves_no_notes_in_the_home_directory(spare_home: Path, node: Node) -> None:
    source, target = node.directory(), node.directory()
    node.file(source / "f", secrets.token_bytes(LARGE))
    notes = spare_home / ".local" / "state" / "uftp" / "copies"
    before = set(notes.glob("*"))
    for excludes, noted in (((str(spare_home),), False), ((), True)):
        with node.login(file="/", excludes=excludes) as ftp:
            ftp.ok(f"{SLOW} RESUME")
            copy = start(ftp, f"RECEIVE-FILE {target}/new f {other_end(node, source)}")
            moving(ftp, copy)  # and so its journal is open, if it has one
            assert bool(set(notes.glob("*")) - before) is noted
            assert ftp.command(f"RCP-ABORT {copy}") == b"299 ABORTED\r\n"
    assert list(target.iterdir()) == []


def test_the_null_device_takes_everything(node: Node) -> None:
    source = node.directory()
    node.file(source / "f", b"content")
    with node.login(file="/") as ftp:
        for words in ("", "RESUME", "TREES"):
            ftp.ok(f"OPTS RCP {words}".strip())
            state = ended(ftp, start(ftp, f"RECEIVE-FILE /dev/null f {other_end(node, source)}"))
            assert (state.word, state.bytes) == ("FINISHED", 7), state


def test_trees_in_a_session_the_kernel_confines(node: Node) -> None:
    base, there = node.directory(), node.directory()
    outside = node.file(node.directory() / "secret", b"secret")
    node.file(base / "f", b"content")
    (base / "link").symlink_to(outside)
    with node.login(file=f"{base}/", access=Access.READ) as ftp:
        ftp.ok("OPTS RCP TREES RECURSIVE")
        state = ended(ftp, start(ftp, f"SEND-FILE . there {other_end(node, there)}"))
    found = {path.name: path.read_bytes() for path in (there / "there").rglob("*") if path.is_file()}
    assert found == {"f": b"content"}, state
    assert (state.word, state.files) in (("FINISHED", 1), ("FAILED", 1))


def test_a_tree_does_not_change_what_the_site_protects(spare_home: Path, node: Node) -> None:
    there = node.directory()
    (there / "home" / ".ssh").mkdir(parents=True)
    (there / "home" / "other").mkdir()
    node.file(there / "home" / ".ssh" / "authorized_keys", b"a key")
    node.file(there / "home" / "other" / "authorized_keys", b"no key")
    for path in there.rglob("*"):
        os.chown(path, node.person.uid, node.person.gid)
    ssh = spare_home / ".ssh"
    ssh.mkdir(exist_ok=True)
    os.chown(ssh, node.person.uid, node.person.gid)
    with node.login(file="") as ftp:
        assert ftp.command(f"RECEIVE-FILE .ssh/authorized_keys x {other_end(node, there)}").startswith(b"534 ")
        ftp.ok("OPTS RCP TREES RECURSIVE")
        assert ended(ftp, start(ftp, f"RECEIVE-FILE . home/other {other_end(node, there)}")).word == "FINISHED"
        copy = start(ftp, f"RECEIVE-FILE . home/.ssh {other_end(node, there)}")
        state = ended(ftp, copy)
        assert (state.word, state.failed) == ("FAILED", 1), state
        lines = ftp.command(f"RCP-ERRORS {copy}").split(b"\r\n")
        assert lines[0] == b"299-%d" % copy
        assert lines[2] == b"299 End 0"
        failure = parse_copy_error(lines[1])
        assert failure.source.endswith(b".ssh/authorized_keys")
        assert "write-protected" in failure.error
    assert not (ssh / "authorized_keys").exists()
    assert (spare_home / "other" / "authorized_keys").read_bytes() == b"no key"


@pytest.mark.parametrize("part", ["RANG 0 4", "REST 2"])
def test_nor_does_a_part_of_a_file_in_a_tree(spare_home: Path, node: Node, part: str) -> None:
    there = node.directory()
    node.file(there / "authorized_keys", b"a key")
    for name in (".ssh", "elsewhere"):
        (spare_home / name).mkdir(exist_ok=True)
        os.chown(spare_home / name, node.person.uid, node.person.gid)
    with node.login(file="") as ftp:
        ftp.ok("OPTS RCP TREES RECURSIVE")
        lines = (".ssh .", ".ssh authorized_keys", ".ssh/authorized_keys authorized_keys")
        for line in lines:
            ftp.ok(part, 350)
            state = ended(ftp, start(ftp, f"RECEIVE-FILE {line} {other_end(node, there)}"))
            assert state.word == "FAILED", line
            assert "write-protected" in state.error, state
            assert not (spare_home / ".ssh" / "authorized_keys").exists(), line
        ftp.ok(part, 350)
        assert ended(ftp, start(ftp, f"RECEIVE-FILE elsewhere . {other_end(node, there)}")).word == "FINISHED"
    assert (spare_home / "elsewhere" / "authorized_keys").stat().st_size in (4, 5)


# -- ends


def test_a_copy_is_ended_by_another_session_and_leaves_nothing(
    slow_copy: tuple[RawFtp, int, Path, Path], node: Node
) -> None:
    _, copy, _, target = slow_copy
    with node.login(file=f"{target}/") as another:
        assert another.command(f"RCP-ABORT {copy}") == b"299 ABORTED\r\n"
        assert list(target.iterdir()) == [], "answered when it has really ended"
        assert another.command(f"RCP-ABORT {copy} KEEP") == b"299 ABORTED\r\n"
        state = status(another, copy)
    assert state.word == "ABORTED"
    assert 0 < state.bytes < LARGE


def test_ids_that_are_nobodys_are_unknown(node: Node) -> None:
    with node.login() as ftp:
        for line in (
            f"RCP-STATUS {node.pid}",
            f"RCP-ABORT {node.front()}",
            "RCP-ABORT 0 KEEP",
            f"RCP-STATUS {2**63 - 1}",
        ):
            assert ftp.command(line) == b"299 UNKNOWN\r\n"
    assert node.front() in node.children()


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[int, threading.Event]]:
    """A port where nobody says a word; set when somebody has come."""
    came = threading.Event()
    held = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(listener.accept()[0])
                    came.set()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1], came
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
    for connection in held:
        connection.close()


def test_a_copy_is_ended_while_it_logs_in(node: Node) -> None:
    base = node.directory()
    node.file(base / "f", b"content")
    with silent_server() as (port, came), node.login(file=f"{base}/") as ftp:
        copy = start(ftp, f"SEND-FILE f g 127.0.0.1:{port} one-time-word")
        assert came.wait(PATIENCE)
        assert status(ftp, copy).word == "RUNNING"
        assert ftp.command(f"RCP-ABORT {copy}") == b"299 ABORTED\r\n"
        assert status(ftp, copy).word == "ABORTED"


def test_the_other_server_cannot_make_us_say_the_password(node: Node) -> None:
    base = node.directory()
    node.file(base / "f", b"content")
    word = secrets.token_hex(12)
    node.used_secrets.append(word)  # nor the log
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                connection.sendall(b"220 UFTPD 3.5.3, x\r\n")
                lines.readline()
                connection.sendall(b"331 go on\r\n")
                lines.readline()
                connection.sendall(f"530 Not logged in: {word} \x1b[31m is wrong\r\n".encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with node.login(file=f"{base}/") as ftp:
            copy = start(ftp, f"SEND-FILE f g 127.0.0.1:{listener.getsockname()[1]} {word}")
            state = ended(ftp, copy)
        thread.join(PATIENCE)
    assert state.word == "FAILED"
    assert "is wrong" in state.error
    assert word not in state.error
    assert "\x1b" not in state.error


# -- deaths


def copy_process(node: Node, before: set[int]) -> int:
    """The child that has come since, and is at work: spares wait in one system call, and have no threads."""
    found: list[int] = []

    def there() -> bool:
        found[:] = []
        for pid in set(node.children()) - before:
            with contextlib.suppress(OSError):
                if any(link.startswith("anon_inode:[eventpoll]") for link in links(pid)) and connects(pid, node.ftp[1]):
                    found.append(pid)
        return len(found) == 1

    eventually(there, PATIENCE, what="the process of the copy")
    return found[0]


def links(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]


def connects(pid: int, port: int) -> bool:
    """Whether a process is a client of this port."""
    inodes = {link for link in links(pid) if link.startswith("socket:")}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes and int(fields[2].rpartition(":")[2], 16) == port:
                return True
    return False


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel shows open files of protected processes to root only")
def test_a_killed_copy_has_failed(node: Node) -> None:
    source, target = node.directory(), node.directory()
    node.file(source / "f", secrets.token_bytes(LARGE))
    with node.login(file=f"{target}/") as ftp:
        ftp.ok(SLOW)
        before = {node.front()}
        copy = start(ftp, f"RECEIVE-FILE new f {other_end(node, source)}")
        moving(ftp, copy)
        os.kill(copy_process(node, before), signal.SIGKILL)
        state = ended(ftp, copy)
        assert (state.word, state.error) == ("FAILED", "the process of the copy ended")
        assert ftp.command(f"RCP-ABORT {copy}") == b"299 FAILED\r\n"
    eventually(lambda: not list(target.iterdir()), PATIENCE, what="nothing under the final name, and no part")


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel shows open files of protected processes to root only")
@pytest.mark.parametrize("killed", ["front", "spawner"])
def test_without_a_front_a_copy_ends_in_good_order(start_node: StartNode, killed: str) -> None:
    node = start_node(copies=ALLOW, limits={"drain_seconds": 0.3})
    source, target = node.directory(), node.directory()
    node.file(source / "f", secrets.token_bytes(LARGE))
    with node.login(file=f"{target}/") as ftp:
        ftp.ok(SLOW)
        copy = start(ftp, f"RECEIVE-FILE new f {other_end(node, source)}")
        moving(ftp, copy)
        pid = copy_process(node, {node.front()})
        os.kill(node.front() if killed == "front" else node.pid, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{pid}/fd").exists(), PATIENCE)
    if killed == "spawner":
        node.process.wait(PATIENCE)
        eventually(lambda: not node.processes(), PATIENCE)
    else:
        eventually(lambda: len(node.log("front started")) == 2, PATIENCE)
        with node.login(file=f"{source}/") as ftp:
            assert status(ftp, copy).word == "UNKNOWN"
    eventually(lambda: not list(target.iterdir()), PATIENCE)


@pytest.mark.parametrize("finishes", [True, False])
def test_a_node_that_shuts_down_gives_copies_its_time(start_node: StartNode, finishes: bool) -> None:
    node = start_node(copies=ALLOW, limits={"drain_seconds": 60 if finishes else 0.2})
    with running_node(node.person, as_root=node.as_root) as other:
        source, target = other.directory(), node.directory()
        other.file(source / "f", secrets.token_bytes(LARGE))
        with node.login(file=f"{target}/") as ftp:
            ftp.ok("OPTS RCP RATE=1000000" if finishes else SLOW)
            copy = start(ftp, f"RECEIVE-FILE new f {other_end(other, source)}")
            eventually(lambda: status(ftp, copy).bytes > 0, PATIENCE)
        node.signal(signal.SIGTERM)
        node.wait()
        (event,) = node.log("copy-ended")
        if finishes:
            assert event["state"] == "FINISHED"
            assert (target / "new").read_bytes() == (source / "f").read_bytes()
        else:
            assert (event["state"], event["reason"]) == ("FAILED", "the server was shut down")
            assert list(target.iterdir()) == []


def test_the_next_front_counts_what_runs(start_node: StartNode) -> None:
    node = start_node(copies=ALLOW, limits={"copy_sessions_per_user": 1, "drain_seconds": 60})
    target = node.directory()
    with running_node(node.person, as_root=node.as_root) as other:
        source = other.directory()
        other.file(source / "f", secrets.token_bytes(LARGE))
        with node.login(file=f"{target}/") as ftp:
            ftp.ok(SLOW)
            moving(ftp, start(ftp, f"RECEIVE-FILE new f {other_end(other, source)}"))
        os.kill(node.front(), signal.SIGKILL)
        eventually(lambda: len(node.log("front started")) == 2, PATIENCE)
        with node.login(file=f"{target}/") as ftp:
            answer = ftp.command(f"RECEIVE-FILE more f {other_end(other, source)}")
            assert b"server limit is 1" in answer, answer
        node.stop()
        assert list(target.iterdir()) == []


def test_the_state_follows_the_copy(slow_copy: tuple[RawFtp, int, Path, Path]) -> None:
    ftp, copy, _, _ = slow_copy
    first = status(ftp, copy)
    assert (first.total, first.found, first.planned, first.files) == (LARGE, 1, True, 0)
    eventually(lambda: status(ftp, copy).bytes > first.bytes, PATIENCE)
    assert status(ftp, copy).seconds > 0

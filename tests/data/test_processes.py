"""The processes of a node: rights given up, crashes of each one survived, draining and reloading."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from data_node import Node, Person, StartNode, descriptors, running_node
from raw_ftp import TIMEOUT, RawFtp, eventually, read_all

from uftp.protocol.command_port import Purpose
from uftpd.data import spawn_messages
from uftpd.data.spawner import Child, inherited

DONE = b"226 File transfer successful\r\n"


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def environment(pid: int) -> dict[str, str]:
    """What the process would hand on; /proc shows the one it was started with, so a session is asked indirectly."""
    items = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(item.decode().split("=", 1) for item in items if item)


# -- rights ---------------------------------------------------------------------------------------------------------


def test_a_session_has_no_right_but_the_users(shared_node: Node) -> None:
    person = shared_node.person
    with shared_node.login() as ftp, shared_node.login() as other:
        pid = shared_node.session_of(ftp)
        facts = status(pid)
        assert facts["Uid"].split() == [str(person.uid)] * 4
        assert facts["Gid"].split() == [str(person.gid)] * 4
        assert {int(g) for g in facts["Groups"].split()} <= {person.gid}
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(facts[name], 16) == 0, name
        assert facts["NoNewPrivs"] == "1"
        assert facts["Threads"] == "1"
        open_files = descriptors(pid)
        kinds = [what.partition(":")[0] for what in open_files.values()]
        assert set(kinds) <= {"socket", "anon_inode", "/dev/null", f"{shared_node.root}"}, open_files
        # Control connection, report socket (twice), and two pairs by which the event loop wakes itself.
        assert kinds.count("socket") == 7, open_files
        assert kinds.count("anon_inode") <= 2, open_files
        mine = set(open_files.values())
        theirs = set(descriptors(shared_node.session_of(other)).values())
        assert not {what for what in mine & theirs if what.startswith("socket")}, "a socket of another session"


def test_the_front_has_no_rights(shared_node: Node) -> None:
    facts = status(shared_node.front())
    assert "0" not in facts["Uid"].split()
    assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == 0
    assert facts["NoNewPrivs"] == "1"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into the front and sessions")
def test_nothing_is_left_open_by_sessions(shared_node: Node) -> None:
    base = shared_node.directory()
    watched = (shared_node.front(), shared_node.pid)

    def counts() -> list[int]:
        return [len(descriptors(pid)) for pid in watched]

    def settled() -> bool:
        return len(shared_node.children()) == 1 + 2  # the front and the spares

    eventually(settled)
    before = counts()  # at least: a session of another test may just be going
    for _ in range(3):
        sessions = [shared_node.login(file=f"{base}/") for _ in range(4)]
        for ftp in sessions:
            assert ftp.store("STOR x", b"x") == DONE
            assert ftp.retrieve("NLST")[1] == b"x\r\n"
            ftp.passive()
        shared_node.login_fails(file=f"{base}/missing/")
        for ftp in sessions:
            ftp.close()
    eventually(settled)
    eventually(
        lambda: all(now <= then for now, then in zip(counts(), before, strict=True)), what=f"{before} {counts()}"
    )


@pytest.mark.slow
def test_a_session_leaks_no_descriptor(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", b"x")
    with shared_node.login(file=f"{base}/") as ftp:
        pid = shared_node.session_of(ftp)
        assert ftp.retrieve("NLST")[1] == b"f\r\n"
        before = len(descriptors(pid))
        for _ in range(5):
            for line in ("LIST", "MLSD", "RETR f", "STOR g", "APPE f"):
                ftp.passive()
                ftp.send(line)
                eventually(lambda: b"in progress" in ftp.command("STAT"))
                ftp.send("ABOR")  # before its client has connected
                assert (ftp.reply()[:3], ftp.reply()[:3]) == (b"426", b"226")
            for line in ("LIST nosuch", "MLSD f", "RETR nosuch", "STOR no/such", "STAT nosuch", "STAT .", "HASH f"):
                ftp.data().close()
                ftp.command(line)
        ftp.command("ABOR")
        eventually(lambda: len(descriptors(pid)) <= before, what=str(descriptors(pid)))
    assert not (base / "g").exists()


@pytest.mark.slow
def test_one_user_cannot_read_anothers_files(two_people: tuple[Person, Person]) -> None:
    first, second = two_people
    with running_node(first, as_root=True) as node:
        secret = node.file(node.root / "secret", b"x", 0o600)
        with node.login(user=second.name) as ftp, ftp.data():
            for line in (f"RETR {secret}", f"HASH {secret}", f"APPE {secret}", f"STOR {secret}", f"DELE {secret}"):
                assert ftp.command(line)[:2] in (b"55", b"50"), line
            assert ftp.command(f"CWD {first.home}")[:3] in (b"550", b"534")
        assert node.login_fails(user=second.name, file=f"{first.home}/")[:3] == b"530"
        with node.login() as ftp:
            assert ftp.retrieve("RETR secret")[1] == b"x"
        assert secret.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"user": "root"}, "Attempted to select 'root'"),
        ({"user": "nosuchuser"}, "Attempted to select unknown user 'nosuchuser'"),
        ({"user": "daemon"}, "User id of 'daemon' is below the lowest one served here"),
        ({"groups": ("nosuchgroup",)}, "Attempt to run a task with an unknown primary group: nosuchgroup"),
        ({"groups": ("DEFAULT_GID", "nosuch")}, "Attempt to run a task with an unknown supplementary group: nosuch"),
        ({"groups": ("root",)}, "The user {user} is not a member of the group root"),
        ({"groups": ("DEFAULT_GID", "root")}, "The user {user} is not a member of the group root"),
    ],
    ids=str,
)
def test_who_is_not_served(
    two_people: tuple[Person, Person], shared_node: Node, fields: dict[str, object], reason: str
) -> None:
    if not shared_node.as_root:
        pytest.skip("one user only")
    text = reason.format(user=two_people[0].name)
    assert shared_node.login_fails(**fields).decode() == f"530 Not logged in: {text}\r\n"


def test_groups(two_people: tuple[Person, Person], shared_node: Node) -> None:
    if not shared_node.as_root:
        pytest.skip("one user only")
    name = two_people[0].name  # the account's own group has its name
    for groups in ((), ("NONE",), ("NONE", "root"), ("DEFAULT_GID",), (name,), (name, name), (name, "DEFAULT_GID")):
        with shared_node.login(groups=groups) as ftp:
            facts = status(shared_node.session_of(ftp))
            assert facts["Gid"].split() == [str(two_people[0].gid)] * 4
            assert facts["Groups"].split() == [str(two_people[0].gid)]


def test_a_node_of_one_user_serves_nobody_else(shared_node: Node, people: tuple[Person, Person]) -> None:
    if shared_node.as_root:
        pytest.skip("all users")
    request = "request-type=uftp-transfer-request\nclient-ip=127.0.0.1\nuser=daemon\nsecret=abcdefgh\nEND\n"
    reply = shared_node.ask(request.encode()).decode()
    assert reply == (
        f"ERROR::This UFTPD server runs without root, as '{people[0].name}', and cannot open sessions for 'daemon'\n"
    )


# -- crashes ----------------------------------------------------------------------------------------------------------


def start_store(ftp: RawFtp, name: str, size: int | None) -> socket.socket:
    """A whole-file STOR under way; `size` is announced."""
    data = ftp.data()
    if size is not None:
        ftp.ok(f"ALLO {size}")
    assert ftp.command(f"STOR {name}") == b"150 OK\r\n"
    data.sendall(b"x" * 100_000)
    eventually(lambda: b" 100000" in ftp.command("STAT"))
    return data


def kill_front(node: Node, ftp: RawFtp) -> None:
    os.kill(node.front(), signal.SIGKILL)


def kill_spawner(node: Node, ftp: RawFtp) -> None:
    os.kill(node.pid, signal.SIGKILL)


def kill_session(node: Node, ftp: RawFtp) -> None:
    os.kill(node.session_of(ftp), signal.SIGKILL)


def kill_client(node: Node, ftp: RawFtp) -> None:
    ftp.close()


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 1_000_000])
@pytest.mark.parametrize("killed", [kill_client, kill_session, kill_front, kill_spawner])
def test_a_kill_in_mid_upload(start_node: StartNode, killed: Callable[[Node, RawFtp], None], size: int | None) -> None:
    node = start_node(limits={"drain_seconds": 0.3})
    base = node.directory()
    node.file(base / "old", b"before")
    with node.login(file=f"{base}/") as ftp, node.login(file=f"{base}/") as second:
        pids = [node.session_of(ftp), node.session_of(second)]
        with start_store(ftp, "new", size), start_store(second, "old", size):
            node.allowed |= {"traceback"}
            killed(node, ftp)
            if killed in (kill_client, kill_session):
                killed(node, second)
            # What is left of the node gives the running transfers a moment, and ends them.
            eventually(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in pids))
    if killed is kill_spawner:
        node.process.wait(TIMEOUT)
        eventually(lambda: not node.processes(), what=str(node.processes()))
    else:
        if killed is kill_front:
            eventually(lambda: len(node.log("front started")) == 2)
        with node.login(file=f"{base}/") as ftp:
            assert ftp.store("STOR after", b"1") == DONE
        (base / "after").unlink()
    assert {p.name: p.read_bytes() for p in base.iterdir()} == {"old": b"before"}


@pytest.mark.slow
def test_a_client_killed_with_both_connections(start_node: StartNode, tmp_path: Path) -> None:
    # The kernel closes a killed client's sockets one after the other: the end of the data looks as a whole file's.
    # The session is held meanwhile, so that both ends are there when it looks; how long the kernel takes between them
    # is nobody's to say.
    node = start_node()
    base = node.directory()
    for _ in range(5):
        ftp = node.login(file=f"{base}/")
        data = start_store(ftp, "new", None)
        session = node.session_of(ftp)
        os.kill(session, signal.SIGSTOP)
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        ftp.close()
        data.close()  # the child has both
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.kill(session, signal.SIGCONT)
    eventually(lambda: len(node.log("session-ended")) == 5)
    assert list(base.iterdir()) == []


@pytest.mark.slow
def test_a_new_front_knows_the_sessions_of_the_old_one(start_node: StartNode) -> None:
    node = start_node(limits={"sessions_per_user": 2, "drain_seconds": 20})
    base = node.directory()
    with node.login(file=f"{base}/") as ftp:
        data = start_store(ftp, "new", None)
        lost = node.expect()
        os.kill(node.front(), signal.SIGKILL)
        eventually(lambda: len(node.log("front started")) == 2)
        assert node.login_fails(secret=lost)[:3] == b"530", "outstanding secrets are lost"
        node.expect()
        refused = b"ERROR::Too many active sessions for '%s' - server limit is 2\n" % node.person.name.encode()
        request = f"request-type=uftp-transfer-request\nuser={node.person.name}\nsecret=another\nEND\n"
        assert node.ask(request.encode()) == refused
        # The running transfer ends well, and its session then makes room.
        data.close()
        assert ftp.reply() == DONE
        assert ftp.reply()[:3] == b"421"
        assert (base / "new").stat().st_size == 100_000
        eventually(lambda: node.ask(request.encode()).startswith(b"OK::"))


@pytest.mark.slow
def test_a_new_front_knows_what_the_sessions_of_the_old_one_are_for(start_node: StartNode) -> None:
    node = start_node(limits={"sessions_per_user": 1, "share_sessions_per_user": 1, "drain_seconds": 20})
    request = f"request-type=uftp-transfer-request\nuser={node.person.name}\nsecret=another\n"
    base = node.directory()
    with node.login(file=f"{base}/", purpose=Purpose.SHARE) as ftp:
        data = start_store(ftp, "new", None)
        os.kill(node.front(), signal.SIGKILL)
        eventually(lambda: len(node.log("front started")) == 2)
        refused = node.ask(f"{request}purpose=share\nEND\n".encode())
        assert refused.endswith(b"server limit is 1\n")
        with node.login() as own:
            own.ok("NOOP")
        data.close()
        assert ftp.reply() == DONE


@pytest.mark.slow
def test_a_front_that_dies_with_unread_messages(start_node: StartNode) -> None:
    node = start_node()
    front = node.front()
    with node.login() as ftp:
        os.kill(front, signal.SIGSTOP)
        pid = node.session_of(ftp)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{pid}").exists())  # the spawner has told the front
        os.kill(front, signal.SIGKILL)
    eventually(lambda: len(node.log("front started")) == 2)
    with node.login() as ftp:
        ftp.ok("NOOP")


@pytest.mark.slow
def test_a_spare_that_dies_is_replaced(start_node: StartNode) -> None:
    node = start_node(limits={"spares": 3})
    eventually(lambda: len(node.children()) == 4)
    for pid in node.children():
        if pid != node.front():
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: node.children() == [node.front()])
    with node.login() as ftp, node.login() as other:
        ftp.ok("NOOP")
        other.ok("NOOP")


def test_inherited_messages_have_a_legal_size() -> None:
    children = [Child(f"{n:08x}", "\U0001d11e" * 250 + str(n), "session", n, n, Purpose.SHARE) for n in range(2000)]
    children.append(Child("keys-1", "x", "user-info", 1, 1))
    messages = list(inherited(children))
    assert max(len(spawn_messages.encode(message)) for message in messages) <= spawn_messages.MAX_MESSAGE
    assert {i: s for message in messages for i, s in message.sessions.items()} == {
        c.id: (c.user, c.purpose) for c in children[:-1]
    }


# -- draining, reloading --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_drain_lets_a_running_transfer_finish(start_node: StartNode) -> None:
    node = start_node(limits={"drain_seconds": 20})
    base = node.directory()
    with node.login(file=f"{base}/") as ftp, node.login() as idle, node.connect() as unproven:
        unproven.reply()
        expected = node.expect()
        data = start_store(ftp, "new", None)
        node.signal(signal.SIGTERM)
        assert idle.reply()[:3] == b"421"
        assert idle.is_closed()
        eventually(lambda: refuses(node.ftp) and refuses(node.command))
        ftp_answer = unproven.command("USER anonymous")
        if ftp_answer:
            assert unproven.command(f"PASS {expected}")[:3] == b"530"
        data.sendall(b"y")
        data.close()
        assert ftp.reply() == DONE
        assert ftp.reply()[:3] == b"421"
        assert node.wait() == 0
    assert (base / "new").stat().st_size == 100_001
    assert node.log("transfer")[-1]["result"] == "ok"
    assert len(node.log("session-ended")) == 2, "the last words of sessions are logged"


@pytest.mark.slow
def test_during_a_drain_a_client_finishes_what_is_made_of_several_commands(start_node: StartNode) -> None:
    node = start_node(limits={"drain_seconds": 20})
    base = node.directory()
    with node.login(file=f"{base}/") as ftp:
        data = start_store(ftp, "part", None)
        node.signal(signal.SIGTERM)
        node.wait_log("draining")
        data.close()
        assert ftp.reply() == DONE
        with ftp.data() as data:
            ftp.ok("RANG 0 4", 350)
            ftp.ok("STOR part", 150)
            data.sendall(b"piece")
            data.shutdown(socket.SHUT_WR)
            assert ftp.reply() == DONE
        ftp.ok("RNFR part", 350)
        ftp.ok("RNTO whole")
        assert ftp.reply()[:3] == b"421", "once it has no more to say"
        assert node.wait() == 0
    assert (base / "whole").exists()


def refuses(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 1).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


@pytest.mark.slow
def test_a_drain_has_an_end(start_node: StartNode) -> None:
    node = start_node(limits={"drain_seconds": 0.2})
    base = node.directory()
    with node.login(file=f"{base}/") as ftp:
        data = start_store(ftp, "new", 200_000)
        node.signal(signal.SIGTERM)
        assert ftp.reply()[:3] == b"551"
        assert ftp.reply()[:3] == b"421"
        assert node.wait() == 0
        data.close()
    assert list(base.iterdir()) == []
    assert node.log("transfer")[-1]["result"] != "ok"


@pytest.mark.slow
def test_a_second_signal_kills(start_node: StartNode) -> None:
    node = start_node(limits={"drain_seconds": 1000})
    base = node.directory()
    with node.login(file=f"{base}/") as ftp:
        data = start_store(ftp, "new", 200_000)
        node.signal(signal.SIGINT)
        node.wait_log("draining")
        node.signal(signal.SIGTERM)
        assert node.wait() == 1
        assert ftp.is_closed()
        data.close()
    assert list(base.iterdir()) == []


@pytest.mark.slow
def test_systemd_is_told(start_node: StartNode, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        path = f"\0uftp-test-{os.getpid()}"
        channel.bind(path)
        channel.settimeout(TIMEOUT)
        node = start_node(wait_ready=False, environment={"NOTIFY_SOCKET": "@" + path[1:]})
        assert channel.recv(100) == b"READY=1"
        with node.login() as ftp:
            ftp.ok("NOOP")
        node.signal(signal.SIGTERM)
        assert channel.recv(100) == b"STOPPING=1"
        assert node.wait() == 0


@pytest.mark.slow
def test_a_reload(start_node: StartNode) -> None:
    node = start_node(limits={"sessions_per_user": 1})
    node.config_path.chmod(0o644)
    request = f"request-type=uftp-transfer-request\nuser={node.person.name}\nsecret=%s\nEND\n"
    with node.login() as ftp:
        assert node.ask((request % "a").encode()).startswith(b"ERROR::Too many")
        text = node.config_path.read_text()
        node.config_path.write_text(text.replace("sessions_per_user = 1", "sessions_per_user = 3"))
        node.signal(signal.SIGHUP)
        eventually(lambda: len(node.log("configuration reloaded")) == 2)
        assert node.ask((request % "b").encode()).startswith(b"OK::")
        node.config_path.write_text("nonsense = 1\n")
        node.signal(signal.SIGHUP)
        node.wait_log("configuration not reloaded")
        assert node.ask((request % "c").encode()).startswith(b"OK::")
        ftp.ok("NOOP")


@pytest.mark.slow
def test_a_node_that_cannot_serve_ends(start_node: StartNode, tmp_path: Path) -> None:
    tls = {"plain": False, **{name: str(tmp_path / name) for name in ("certificate", "key", "ca", "acl")}}
    node = start_node(wait_ready=False, command_port=tls)
    node.allowed |= {"front failed", "traceback"}
    assert node.wait() == 1
    assert node.log("front failed")


@pytest.mark.slow
def test_downloads_survive_a_drain(start_node: StartNode) -> None:
    node = start_node(limits={"drain_seconds": 20})
    base = node.directory()
    with (base / "big").open("wb") as big:
        big.truncate(50_000_000)
    (base / "big").chmod(0o644)
    with node.login(file=f"{base}/") as ftp:
        data = ftp.data()
        ftp.ok("RETR big", 150)
        node.signal(signal.SIGTERM)
        node.wait_log("draining")
        assert len(read_all(data)) == 50_000_000
        assert ftp.reply() == DONE
        assert node.wait() == 0

"""Every limit has its own clear reply, and one peer's fault costs nobody else anything."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from data_node import Node, StartNode
from raw_ftp import TIMEOUT, RawFtp, eventually, read_all

DONE = b"226 File transfer successful\r\n"


# -- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_racing_logins_have_one_winner(shared_node: Node) -> None:
    for _ in range(10):
        secret = shared_node.expect()
        with ExitStack() as stack:
            rivals = [stack.enter_context(shared_node.connect()) for _ in range(4)]
            for ftp in rivals:
                ftp.reply()
                ftp.ok("USER anonymous", 331)
            with ThreadPoolExecutor(len(rivals)) as pool:
                answers = list(pool.map(RawFtp.command, rivals, [f"PASS {secret}"] * len(rivals)))
            assert sorted(answer[:3] for answer in answers) == [b"230", b"500", b"500", b"500"]


def test_a_used_secret_is_dead(shared_node: Node) -> None:
    with shared_node.login(secret="used-up-by-now") as ftp:
        pid = shared_node.session_of(ftp)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    eventually(lambda: shared_node.login_fails(secret="used-up-by-now")[:3] == b"530")


def test_a_secret_is_spent_by_a_login_that_fails(shared_node: Node) -> None:
    secret = shared_node.expect(file="/no/such/directory/")
    assert shared_node.login_fails(secret=secret)[:3] == b"530"
    gone = b"530 Not logged in: no matching transfer request found\r\n"
    eventually(lambda: shared_node.login_fails(secret=secret) == gone)


def test_a_persistent_secret_and_its_logins(shared_node: Node) -> None:
    secret = shared_node.expect(persistent=True)
    for _ in range(2):
        with shared_node.connect() as one, shared_node.connect() as two:
            one.log_in(secret)
            two.log_in(secret)
    limited = shared_node.expect(persistent=True, max_logins=2)
    with shared_node.connect() as one, shared_node.connect() as two:
        one.log_in(limited)
        two.log_in(limited)
        assert shared_node.login_fails(secret=limited)[:3] == b"500"


@pytest.mark.slow
def test_a_secret_expires(shared_node: Node) -> None:
    secret = shared_node.expect(expires=1.0)
    with shared_node.connect() as ftp:
        ftp.log_in(secret)
    late = shared_node.expect(expires=1.0)
    over = time.monotonic() + 1.05
    eventually(lambda: time.monotonic() > over)
    assert shared_node.login_fails(secret=late)[:3] == b"530"


# -- the command port -------------------------------------------------------------------------------------------------


def ask(node: Node, *lines: str) -> bytes:
    return node.ask(("\n".join(lines) + "\n").encode())


def test_requests_and_replies(shared_node: Node) -> None:
    node = shared_node
    ping = ask(node, "request-type=uftp-ping-request", "END").decode()
    values = dict(line.split(": ", 1) for line in ping.splitlines())
    assert values["Version"]
    assert values["ListenPort"] == str(node.ftp[1])
    assert values["MaxSessionsPerClient"] == "100"
    assert "UTC" in values["Features"].split("; ")
    transfer = ("request-type=uftp-transfer-request", "client-ip=127.0.0.1", f"user={node.person.name}")
    rows = [
        (("request-type=foo", "END"), b"ERROR::Unsupported request type 'foo'\n"),
        (("user=alice", "END"), b"ERROR::Unsupported request type 'n/a'\n"),
        ((transfer[0], "secret=x", "END"), b"ERROR::'user'\n"),
        ((*transfer, "END"), b"ERROR::'secret'\n"),
        ((*transfer, "secret=x", "user=other", "END"), b"ERROR::Repeated key 'user'\n"),
        ((*transfer, "secret=x\x07", "END"), b"ERROR::Control characters are not allowed in a request\n"),
        ((*transfer, "secret=x y", "END"), b"ERROR::The secret must be printable text"),
        ((*transfer, "secret=x", "access-permissions=ALL", "END"), b"ERROR::'access-permissions' must be one of"),
        ((*transfer, "secret=x", "rateLimit=fast", "END"), b"ERROR::'rateLimit' is not an integer"),
        ((*transfer, "secret=x", "key=AAAA", "END"), b"ERROR::"),
        ((*transfer, "secret=duplicate-1", "END"), b"OK::%d\n" % node.ftp[1]),
        ((*transfer, "secret=duplicate-1", "END"), b"ERROR::Duplicate secret - this is not allowed.\n"),
        (("request-type=uftp-get-user-info-request", "user=root", "END"), b"500 Not allowed\n"),
    ]
    for lines, reply in rows:
        assert ask(node, *lines).startswith(reply), lines
    assert ask(node, "request-type=uftp-ping-request\r", "END\r").startswith(b"Version: ")
    unknown = ask(node, "request-type=uftp-get-user-info-request", "user=nosuchuser", "END")
    if node.as_root:
        assert unknown == b"500 No such user or no home directory found\n"
    else:
        assert unknown[:3] in (b"500", b"530")


@pytest.mark.usefixtures("spare_home")
def test_user_info_reads_keys_as_the_user(shared_node: Node) -> None:
    person = shared_node.person
    for folder in (".ssh", ".uftp"):
        (person.home / folder).mkdir(exist_ok=True)
        os.chown(person.home / folder, person.uid, person.gid)
    keys = person.home / ".ssh" / "authorized_keys"
    shared_node.file(keys, b"# comment\n\nssh-ed25519 AAAA me\n  ssh-rsa BBBB two words\n", 0o600)
    fifo = person.home / ".uftp" / "authorized_keys"
    os.mkfifo(fifo)
    try:
        reply = ask(shared_node, "request-type=uftp-get-user-info-request", f"user={person.name}", "END").decode()
    finally:
        fifo.unlink()
    lines = reply.splitlines()
    assert f"User: {person.name}" in lines
    assert f"Home: {person.home}" in lines
    assert "Accepted key 0: ssh-ed25519 AAAA me" in lines
    assert "Accepted key 1: ssh-rsa BBBB two words" in lines
    assert not [line for line in lines if line.startswith("Accepted key 2")]
    assert lines[-1].startswith(f"Status: keyfile {keys} : OK keyfile {fifo} : ")


@pytest.mark.slow
@pytest.mark.usefixtures("spare_home")
def test_a_huge_key_file(shared_node: Node) -> None:
    person = shared_node.person
    (person.home / ".ssh").mkdir(exist_ok=True)
    keys = shared_node.file(person.home / ".ssh" / "authorized_keys", b"\xff" * 63 + b"\n" + b"k\n" * 100_000, 0o600)
    reply = ask(shared_node, "request-type=uftp-get-user-info-request", f"user={person.name}", "END")
    shared_node.file(keys, b"\xff\n" * 100_000)
    worse = ask(shared_node, "request-type=uftp-get-user-info-request", f"user={person.name}", "END")
    shared_node.file(keys, b"k\n" + b"\xff" * 70_000)
    longest = ask(shared_node, "request-type=uftp-get-user-info-request", f"user={person.name}", "END")
    keys.unlink()
    for text in (reply, worse):
        assert text.startswith(b"Version: "), text
        assert b"Accepted key 1000: " in text
    assert b"Accepted key 0: k\n" in longest


def test_a_request_cut_off_before_its_end_has_no_effect(shared_node: Node) -> None:
    text = f"request-type=uftp-transfer-request\nclient-ip=127.0.0.1\nuser={shared_node.person.name}\nsecret=cut-off\n"
    for cut in (text, text + "EN", text + "END", text + "ENDING\n", text + "access-permissions=RE"):
        with socket.create_connection(shared_node.command, TIMEOUT) as peer:
            peer.sendall(cut.encode())
            peer.shutdown(socket.SHUT_WR)
            assert peer.recv(100) == b""
    assert shared_node.login_fails(secret="cut-off")[:3] == b"530"


def test_an_oversized_request_is_told_so(shared_node: Node) -> None:
    for _ in range(5):
        with socket.create_connection(shared_node.command, TIMEOUT) as peer:
            sender = threading.Thread(target=send_quietly, args=(peer, b"a=" + b"x" * 1_000_000))
            sender.start()
            assert peer.recv(1000).startswith(b"ERROR::Request is larger than")
            sender.join(TIMEOUT)


def send_quietly(peer: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        peer.sendall(data)


@pytest.mark.slow
def test_silent_and_slow_peers_block_nobody(start_node: StartNode) -> None:
    node = start_node(command_port={"request_seconds": 0.5, "max_connections": 8})
    with ExitStack() as stack:
        peers = [stack.enter_context(socket.create_connection(node.command, TIMEOUT)) for _ in range(7)]
        peers[0].sendall(b"request-type=uftp-")
        peers[1].sendall(b"\x16\x03\x01\x00\x05hello")
        peers[2].sendall(b"\n" * 1000)
        assert ask(node, "request-type=uftp-ping-request", "END").startswith(b"Version")
        peers.append(stack.enter_context(socket.create_connection(node.command, TIMEOUT)))
        with socket.create_connection(node.command, TIMEOUT) as one_too_many:
            assert one_too_many.recv(100) == b"ERROR::Too many requests at once, try again later\n"
        assert node.log("connection refused")
        for peer in peers:
            assert peer.recv(1) == b"", "each has a deadline"
    assert ask(node, "request-type=uftp-ping-request", "END").startswith(b"Version")


# -- before login -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_unproven_connections(start_node: StartNode) -> None:
    node = start_node(limits={"unproven": 5, "unproven_per_address": 2})
    with ExitStack() as stack:
        held = [stack.enter_context(node.connect()) for _ in range(2)]
        for ftp in held:
            assert ftp.reply()[:3] == b"220"
        refused = stack.enter_context(node.connect())
        assert refused.reply()[:3] == b"421", "two of this address"
        assert refused.is_closed()
        for n in (2, 3, 4):
            other = stack.enter_context(node.connect(source=f"127.0.0.{n}"))
            assert other.reply()[:3] == b"220"
        refused = stack.enter_context(node.connect(source="127.0.0.9"))
        assert refused.reply()[:3] == b"421", "five in all"
        secret = node.expect()
        held[0].ok("USER anonymous", 331)
        held[0].ok(f"PASS {secret}", 230)
        # One that is logged in is not counted any more.
        eventually(lambda: greeted(node))
        held[0].ok("NOOP")


def greeted(node: Node) -> bool:
    with node.connect() as ftp:
        return ftp.reply()[:3] == b"220"


@pytest.mark.slow
def test_times(start_node: StartNode) -> None:
    node = start_node(limits={"login_seconds": 0.3, "idle_seconds": 0.3, "stall_seconds": 0.3})
    base = node.directory()
    with node.connect() as ftp:
        ftp.reply()
        assert ftp.reply() == b"421 Login took too long, closing the control connection\r\n"
        assert ftp.is_closed()
    with node.login() as ftp:
        assert ftp.reply() == b"421 Nothing came for too long, closing the control connection\r\n"
        assert ftp.is_closed()
    # A transfer counts as activity, and has a time of its own.
    with node.login(file=f"{base}/") as ftp, ftp.data() as data:
        ftp.ok("STOR x", 150)
        for _ in range(10):
            data.sendall(b"x")
            time.sleep(0.1)  # the pace of a slow client, not a wait for something
        answer = ftp.reply()
        assert answer[:3] == b"551"
        assert b"no data moved for too long" in answer
        assert ftp.reply()[:3] == b"421"
    with node.login(file=f"{base}/") as ftp, ftp.data():
        ftp.ok("RANG 0 1000000000", 350)
        ftp.send("RETR /dev/zero")
        assert ftp.reply()[:3] == b"534"
    with node.login(file="/") as ftp, ftp.data():
        ftp.ok("RANG 0 1000000000", 350)
        ftp.ok("RETR /dev/zero", 150)
        assert ftp.reply()[:3] == b"551", "a client that does not read"
    assert list(base.iterdir()) == []


@pytest.mark.slow
def test_sessions_per_user(start_node: StartNode) -> None:
    node = start_node(limits={"sessions_per_user": 2, "share_sessions_per_user": 1, "line_bytes": 512})
    request = (
        "request-type=uftp-transfer-request",
        "client-ip=127.0.0.1",
        f"user={node.person.name}",
        "secret=%s",
        "END",
    )
    secret = node.expect(persistent=True)
    with node.connect() as one, node.connect() as two:
        one.log_in(secret)
        two.log_in(secret)
        answer = node.login_fails(secret=secret)
        assert answer.decode() == (
            "500 Error establishing connection: Too many active transfer requests / sessions for "
            f"'{node.person.name}' - server limit is 2\r\n"
        )
        refused = ask(node, *request).decode()
        assert refused == f"ERROR::Too many active sessions for '{node.person.name}' - server limit is 2\n"
        share = (*request[:-1], "purpose=share", "END")
        assert ask(node, *(line.replace("%s", "share-1") for line in share)).startswith(b"OK::"), "counted apart"
        assert ask(node, *(line.replace("%s", "share-2") for line in share)).startswith(b"ERROR::Too many")
        assert one.command("RETR " + "x" * 600) == b"500 Command line is longer than 512 bytes\r\n"
    eventually(lambda: ask(node, *request).startswith(b"OK::"))


@pytest.mark.slow
def test_sessions_of_all_users(start_node: StartNode) -> None:
    node = start_node(limits={"sessions": 1, "spares": 0})
    with node.login() as ftp:
        answer = node.login_fails()
        assert answer == b"530 Not logged in: Too many sessions on this server - limit is 1\r\n"
        ftp.ok("NOOP")
    eventually(lambda: node.login_fails(secret="x") and not [p for p in node.children() if p != node.front()])
    node.login().close()


@pytest.mark.slow
def test_rates(shared_node: Node) -> None:
    with shared_node.login(rate_limit=1_000_000) as ftp:
        assert b" RATE_LIMIT 1000000\r\n" in ftp.command("OPTS")
        for asked, got in (("0", "1000000"), ("2000000", "1000000"), ("500000", "500000"), ("700000", "700000")):
            ftp.ok(f"OPTS RATE_LIMIT {asked}")
            assert f" RATE_LIMIT {got}\r\n".encode() in ftp.command("OPTS"), "never above the request's"
        ftp.ok("OPTS RATE_LIMIT 100000")
        with ftp.data() as data:
            ftp.ok("STOR limited", 150)
            data.sendall(b"x" * 60_000)
            data.shutdown(socket.SHUT_WR)
            assert ftp.reply() == DONE
        record = shared_node.wait_log("transfer", path=f"{shared_node.root}/limited", result="ok")
        assert record["bytes"] == 60_000
        assert record["seconds"] > 0.3


# -- no wrong success -----------------------------------------------------------------------------------------------


def test_an_upload_that_is_too_short_fails(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "old", b"before")
    with shared_node.login(file=f"{base}/") as ftp:
        for name in ("new", "old"):
            ftp.ok("ALLO 10")
            assert ftp.store(f"STOR {name}", b"short") == (
                b"551 Error processing command 'STOR': the data ended after 5 of 10 bytes\r\n"
            )
        ftp.ok("NOOP")
    assert {p.name: p.read_bytes() for p in base.iterdir()} == {"old": b"before"}


def test_an_upload_whose_connection_is_reset_fails(shared_node: Node) -> None:
    base = shared_node.directory()
    with shared_node.login(file=f"{base}/") as ftp:
        data = ftp.data()
        ftp.ok("STOR new", 150)
        data.sendall(b"x" * 1000)
        eventually(lambda: b" 1000" in ftp.command("STAT"))
        data.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        data.close()
        assert ftp.reply()[:3] == b"551"
        ftp.ok("NOOP")
    assert list(base.iterdir()) == []


def test_a_download_the_client_leaves(shared_node: Node) -> None:
    with shared_node.login(file="/") as ftp:
        data = ftp.data()
        ftp.ok("RANG 0 1000000000", 350)
        ftp.ok("RETR /dev/zero", 150)
        data.recv(10)
        data.close()
        assert ftp.reply()[:3] == b"426"
        ftp.ok("NOOP")


def test_a_file_that_shrinks_while_it_is_sent(shared_node: Node) -> None:
    base = shared_node.directory()
    with (base / "big").open("wb") as big:
        big.truncate(100_000_000)
    (base / "big").chmod(0o644)
    with shared_node.login(file=f"{base}/") as ftp, ftp.data() as data:
        assert ftp.command("RETR big") == b"150 OK 100000000 bytes available for reading.\r\n"
        data.recv(10)
        os.truncate(base / "big", 1000)
        read_all(data)
        answer = ftp.reply()
        assert answer[:3] == b"551"
        assert b"early" in answer


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("before", [b"", b"ALLO 3000000"])
def test_a_full_disk(shared_node: Node, before: bytes) -> None:
    base = shared_node.directory()
    person = shared_node.person
    with small_disk(base):
        os.chown(base, person.uid, person.gid)
        shared_node.file(base / "old", b"before")
        with shared_node.login(file=f"{base}/") as ftp:
            for verb, name in (("STOR", "new"), ("STOR", "old")):
                if before:
                    ftp.ok(before)
                with ftp.data() as data:
                    ftp.ok(f"{verb} {name}", 150)
                    send_quietly(data, b"x" * 3_000_000)
                assert ftp.reply()[:3] == b"552"
            assert {p.name: p.read_bytes() for p in base.iterdir()} == {"old": b"before"}
            assert ftp.store("STOR small", b"fits") == DONE


# -- endings ----------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_without_a_word(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        pid = shared_node.session_of(ftp)
        ftp.passive()
        ftp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_a_half_closed_control_connection(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "f", b"content")
    ftp: RawFtp
    with shared_node.login(file=f"{base}/") as ftp, ftp.data() as data:
        ftp.socket.sendall(b"NOOP\r\nSYST\r\n")
        ftp.socket.shutdown(socket.SHUT_WR)
        assert ftp.reply()[:3] == b"200"
        assert ftp.reply()[:3] == b"215"
        assert ftp.is_closed()
        assert data.recv(1) == b""


def test_a_session_ended_by_its_user(shared_node: Node) -> None:
    with shared_node.login() as ftp:
        os.kill(shared_node.session_of(ftp), signal.SIGTERM)
        assert ftp.is_closed()
    shared_node.wait_log("child failed", status=int(signal.SIGTERM))

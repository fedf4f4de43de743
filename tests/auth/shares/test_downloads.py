"""Downloads of shares that are cut, resumed, raced for, slow, or attacked."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from delivering import SECONDS, Delivering
from peer_programs import needed

SIZE = 12_000_000


@pytest.fixture
def large(delivering: Delivering) -> tuple[Path, bytes]:
    content = os.urandom(1_000_000) * (SIZE // 1_000_000)
    return delivering.file(delivering.directory() / "large.bin", content), content


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


@contextmanager
def half_way(delivering: Delivering, url: str, *, head: str = "") -> Iterator[ssl.SSLSocket]:
    """A download whose first bytes have come, and of which nothing more is read."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    context = ssl.create_default_context(cafile=delivering.ca)
    with socket.create_connection((parts.hostname, parts.port or 443), timeout=SECONDS) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        with context.wrap_socket(plain, server_hostname=parts.hostname) as connection:
            connection.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
            answer = connection.recv(4096)
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 206")), answer
            yield connection


def rest_of(connection: ssl.SSLSocket) -> int:
    """Bytes that still come, until the connection ends, however it ends."""
    got = 0
    try:
        while data := connection.recv(1 << 20):
            got += len(data)
    except OSError:
        pass
    return got


# -- tools that resume ---------------------------------------------------------------------------------------------


def test_curl_and_wget_go_on_where_they_were_cut(delivering: Delivering, large: tuple[Path, bytes]) -> None:
    path, content = large
    url = delivering.share(path)
    target = delivering.work / "resumed"
    wget = [needed("wget"), "-q", "--tries=1", f"--ca-certificate={delivering.ca}", "-c", "-O", str(target), url]
    curl = ["curl", "-sS", "--cacert", delivering.ca, "-C", "-", "-o", str(target), url]
    for command in (wget, curl):
        for cut in (0, 1, 65537, SIZE - 1):
            target.write_bytes(content[:cut])
            subprocess.run(command, check=True, timeout=SECONDS)
            assert target.read_bytes() == content


def test_aria2_with_eight_connections(delivering: Delivering, large: tuple[Path, bytes]) -> None:
    path, content = large
    url = delivering.share(path)
    command = [needed("aria2c"), "-q", f"--ca-certificate={delivering.ca}", "-x8", "-s8", "-k1M", "--no-conf"]
    subprocess.run([*command, "-d", str(delivering.work), "-o", "whole", url], check=True, timeout=SECONDS)
    assert (delivering.work / "whole").read_bytes() == content


# -- one time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4096, 2_000_000])
def test_of_many_who_race_for_a_one_time_share_one_wins(delivering: Delivering, size: int) -> None:
    content = os.urandom(size)
    url = delivering.share(delivering.file(delivering.directory() / "once", content), onetime=True)
    racers = []
    for number in range(16):
        target = delivering.work / f"race{number}"
        command = ["curl", "-s", "--cacert", delivering.ca, "--interface", f"127.0.0.{number + 1}"]
        command += ["-o", str(target), "-w", "%{http_code}", url]
        racers.append((subprocess.Popen(command, stdout=subprocess.PIPE), target))
    statuses = [racer.communicate(timeout=2 * SECONDS)[0] for racer, _ in racers]
    winners = [target for status, (_, target) in zip(statuses, racers, strict=True) if status == b"200"]
    assert len(winners) == 1, statuses
    assert winners[0].read_bytes() == content
    assert set(statuses) <= {b"200", b"404", b"409"}
    assert delivering.gone(url)


def test_looks_and_broken_tries_use_nothing_up(delivering: Delivering, large: tuple[Path, bytes]) -> None:
    path, content = large
    url = delivering.share(path, onetime=True)
    assert delivering.curl("-I", url).status == 200
    assert delivering.curl("-H", "Accept: text/html", url).status == 200
    assert delivering.curl(f"{url}?checksum=md5").status == 200
    with half_way(delivering, url):
        pass
    # The server notices that the client is gone, and gives the use back.
    eventually(lambda: delivering.curl("-r", "0-0", url).status == 206)
    eventually(lambda: delivering.curl("-o", "/dev/null", "-w", "", url).status == 200)
    assert delivering.gone(url)
    assert path.read_bytes() == content


def test_parts_use_a_share_up_when_they_are_the_whole(delivering: Delivering, large: tuple[Path, bytes]) -> None:
    path, content = large
    url = delivering.share(path, onetime=True)
    half = SIZE // 2
    first = delivering.curl("-r", f"0-{half - 1}", url)
    assert (first.status, first.body) == (206, content[:half])
    assert not delivering.gone(url)
    second = delivering.curl("-r", f"{half}-", url)
    assert (second.status, second.body) == (206, content[half:])
    eventually(lambda: delivering.gone(url))


# -- slow, gone, killed, withdrawn -----------------------------------------------------------------------------------


def _memory(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_slow_readers_cost_no_memory(delivering: Delivering) -> None:
    top = delivering.directory()
    path = delivering.file(top / "huge", b"")
    os.truncate(path, 400_000_000)
    url = delivering.share(top)
    delivering.curl(f"{url}?format=json")
    before = {pid: _memory(pid) for pid in delivering.processes()}
    slow = [half_way(delivering, f"{url}/huge") for _ in range(12)]
    for connection in slow:
        connection.__enter__()
    try:
        delivering.file(top / "other", os.urandom(3_000_000))
        assert len(delivering.curl(f"{url}/other").body) == 3_000_000
        grown = {pid: _memory(pid) - known for pid, known in before.items() if Path(f"/proc/{pid}/status").exists()}
        assert max(grown.values()) < 120_000_000, grown
    finally:
        for connection in slow:
            connection.__exit__(None, None, None)
    assert delivering.curl("-r", "-5", f"{url}/huge").body == bytes(5)


def test_a_session_that_is_killed_makes_no_short_file(delivering: Delivering) -> None:
    path = delivering.file(delivering.directory() / "huge", b"")
    os.truncate(path, 300_000_000)
    url = delivering.share(path)
    with half_way(delivering, url) as connection:
        delivering.kill_sessions()
        assert rest_of(connection) < 299_000_000
    reply = delivering.curl("-r", "0-9", url)
    assert (reply.status, reply.body) == (206, bytes(10))


@pytest.mark.parametrize("fields", [{}, {"onetime": True}], ids=["any number", "one time"])
def test_withdrawing_stops_what_is_under_way(delivering: Delivering, fields: dict[str, object]) -> None:
    path = delivering.file(delivering.directory() / "huge", b"")
    os.truncate(path, 300_000_000)
    url = delivering.share(path, **fields)
    name = delivering.site.first
    login = ("-u", f"{name}:{delivering.site.password(name)}")
    with half_way(delivering, url) as connection:
        own = url.replace("/rest/access/", "/rest/share/")
        assert delivering.curl(*login, "-X", "DELETE", f"{own}?stop=true").status == 200
        assert rest_of(connection) < 299_000_000
    assert delivering.curl(url).status == 404
    # It is not the client that has ended it.
    said = delivering.logged("share=" + url.rpartition("/")[2][:8], "info auth: delivery")
    assert "delivery stopped" in said


def test_a_file_that_shrinks_breaks_off(delivering: Delivering) -> None:
    path = delivering.file(delivering.directory() / "huge", b"")
    os.truncate(path, 300_000_000)
    url = delivering.share(path)
    with half_way(delivering, url) as connection:
        os.truncate(path, 1000)
        assert rest_of(connection) < 299_900_000


def test_an_old_client_that_waits_for_the_end_sees_a_cut(delivering: Delivering) -> None:
    """HTTP/1.0 knows no chunks: the end of an archive is the end of the connection."""
    top = delivering.directory()
    os.truncate(delivering.file(top / "huge", b""), 300_000_000)
    os.truncate(delivering.file(top / "huge2", b""), 300_000_000)
    url = delivering.share(top)
    command = ["curl", "-sS", "-0", "--cacert", delivering.ca, "--limit-rate", "2M", f"{url}?format=tar"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.read(100_000)
        delivering.kill_sessions()
        threading.Thread(target=client.stdout.read, daemon=True).start()
        assert client.wait(SECONDS) != 0


# -- links that change -----------------------------------------------------------------------------------------------


def test_a_directory_that_becomes_a_link_gives_nothing_away(delivering: Delivering) -> None:
    """Never a byte of what a link leads to, whenever it takes the place of a directory."""
    above = delivering.directory()
    delivering.file(above / "secret" / "f", b"SECRET" * 100)
    delivering.file(above / "top" / "d" / "f", b"public" * 100)
    top = above / "top"
    (top / "link").symlink_to("../secret")
    url = delivering.share(top)
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            os.rename(top / "d", top / "real")
            os.rename(top / "link", top / "d")
            os.rename(top / "d", top / "link")
            os.rename(top / "real", top / "d")

    flipper = threading.Thread(target=flip)
    flipper.start()
    try:
        out = delivering.work / "out"
        command = ["curl", "-sS", "--cacert", delivering.ca, "-Z", "--parallel-max", "8", "-g"]
        numbers = [f"{url}/d/f?{number}" for number in range(400)] + [f"{url}/d?format=json&{n}" for n in range(50)]
        numbers += [f"{url}/d?format=tar&{n}" for n in range(50)]
        for number, address in enumerate(numbers):
            command += ["-o", f"{out}{number}", address]
        subprocess.run(command, check=False, timeout=2 * SECONDS, stderr=subprocess.DEVNULL)
    finally:
        stop.set()
        flipper.join()
    bodies = [found.read_bytes() for found in delivering.work.glob("out*")]
    assert len(bodies) > 400
    assert not any(b"SECRET" in body for body in bodies)
    assert any(body == b"public" * 100 for body in bodies)

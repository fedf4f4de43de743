"""PUT into shares."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import urllib.parse
from pathlib import Path

import pytest
from delivering import SECONDS, Delivering


@pytest.fixture
def writable(delivering: Delivering) -> tuple[str, Path]:
    top = delivering.directory()
    return delivering.share(top, access="WRITE"), top


def put(delivering: Delivering, url: str, content: bytes, *arguments: str) -> int:
    source = delivering.work / "source"
    source.write_bytes(content)
    return delivering.curl(*arguments, "-T", str(source), url).status


@pytest.mark.parametrize("size", [0, 1, 300_000, 5_000_001])
def test_a_new_file_and_another_in_its_place(delivering: Delivering, writable: tuple[str, Path], size: int) -> None:
    url, top = writable
    content = os.urandom(size)
    assert put(delivering, f"{url}/new", content) == 201
    assert (top / "new").read_bytes() == content
    assert put(delivering, f"{url}/new", content + b"more") == 204
    assert (top / "new").read_bytes() == content + b"more"
    if size:  # curl waits for ever with an empty file
        assert put(delivering, f"{url}/chunked", content, "-H", "Transfer-Encoding: chunked") == 201
        assert (top / "chunked").read_bytes() == content
    assert sorted(os.listdir(top)) == (["chunked", "new"] if size else ["new"])
    assert delivering.curl(f"{url}/new").body == content + b"more"


def test_any_name(delivering: Delivering, writable: tuple[str, Path]) -> None:
    url, top = writable
    names = [b"a b\"'%.txt", "ü\N{PARTY POPPER}".encode(), b"latin\xe4", b"line\nbreak", b"-x", b"..x"]
    for name in names:
        assert put(delivering, f"{url}/{urllib.parse.quote_from_bytes(name, safe='')}", name) == 201
    assert sorted(os.listdir(os.fsencode(top))) == sorted(names)


def test_what_cannot_be_written(delivering: Delivering, writable: tuple[str, Path]) -> None:
    url, top = writable
    delivering.file(top / "sub" / "f", b"f")
    (top / "out").symlink_to("/tmp/outside-of-a-share")
    (top / "up").symlink_to("..")
    reading = delivering.share(top / "sub" / "f")
    for address, status in (
        (url, {409}),
        (f"{url}/", {409}),
        (f"{url}/sub", {409}),
        (f"{url}/missing/f", {404}),
        (f"{url}/../f", {404}),
        (f"{url}/%2e%2e%2ff", {404}),
        (f"{url}/up/f", {403, 404}),
        (f"{url}/out", {403, 404}),
        (f"{url}/{'x' * 256}", {404}),
        (reading, {401}),
    ):
        source = delivering.work / "source"
        source.write_bytes(b"content")
        reply = delivering.curl("-X", "PUT", "--data-binary", f"@{source}", address)
        assert reply.status in status, (address, reply.status, reply.body)
    assert not Path("/tmp/outside-of-a-share").exists()
    assert sorted(os.listdir(top)) == ["out", "sub", "up"]
    assert (top / "sub" / "f").read_bytes() == b"f"


def test_conditions(delivering: Delivering, writable: tuple[str, Path]) -> None:
    url, top = writable
    new = ("-H", "If-None-Match: *")
    assert put(delivering, f"{url}/f", b"one", *new) == 201
    assert put(delivering, f"{url}/f", b"two", *new) == 412
    tag = delivering.curl("-I", f"{url}/f").headers["etag"]
    assert put(delivering, f"{url}/f", b"two", "-H", 'If-Match: "other"') == 412
    assert put(delivering, f"{url}/missing", b"two", "-H", "If-Match: *") == 412
    assert (top / "f").read_bytes() == b"one"
    assert put(delivering, f"{url}/f", b"two", "-H", f"If-Match: {tag}") == 204
    assert put(delivering, f"{url}/f", b"three", "-H", f"If-Match: {tag}") == 412
    assert (top / "f").read_bytes() == b"two"


def test_of_many_who_make_one_file_one_wins(delivering: Delivering, writable: tuple[str, Path]) -> None:
    url, top = writable
    makers = []
    for number in range(8):
        source = delivering.work / f"source{number}"
        source.write_bytes(b"%d" % number * 100_000)
        command = ["curl", "-s", "--cacert", delivering.ca, "-H", "If-None-Match: *", "-T", str(source)]
        command += ["-o", "/dev/null", "-w", "%{http_code}", f"{url}/f"]
        makers.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    statuses = [maker.communicate(timeout=SECONDS)[0] for maker in makers]
    assert sorted(statuses) == [b"201"] + [b"412"] * 7
    assert (top / "f").read_bytes() == b"%d" % statuses.index(b"201") * 100_000


@pytest.mark.parametrize("head", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_a_body_that_ends_early_is_no_file(delivering: Delivering, writable: tuple[str, Path], head: str) -> None:
    url, top = writable
    (top / "old").write_bytes(b"old")
    delivering.site.give(top / "old")
    for name in ("new", "old"):
        parts = urllib.parse.urlsplit(f"{url}/{name}")
        assert parts.hostname is not None
        context = ssl.create_default_context(cafile=delivering.ca)
        with (
            socket.create_connection((parts.hostname, parts.port or 443), timeout=SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as connection,
        ):
            connection.sendall(f"PUT {parts.path} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
            body = b"x" * 300_000
            connection.sendall(b"493e0\r\n" + body + b"\r\n" if "chunked" in head else body)
    # Another upload of the same name waits for its turn, so what was cut is over then.
    assert put(delivering, f"{url}/new", b"whole") in (201,)
    assert put(delivering, f"{url}/old", b"whole", "-H", "If-None-Match: *") == 412
    assert (top / "old").read_bytes() == b"old"
    assert sorted(os.listdir(top)) == ["new", "old"]


def test_a_shared_file_can_be_replaced(delivering: Delivering) -> None:
    top = delivering.directory()
    path = delivering.file(top / "f", b"old")
    url = delivering.share(path, access="WRITE")
    assert put(delivering, url, b"new") == 204
    assert path.read_bytes() == b"new"
    assert delivering.curl(url).body == b"new"
    assert put(delivering, f"{url}/x", b"new") == 404
    assert os.listdir(top) == ["f"]

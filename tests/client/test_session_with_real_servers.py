"""The plain FTP session against real servers of others."""

# ruff: noqa: ASYNC240 -- small local files, looked at between the steps of a test

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from plain_ftp import PlainServer, pyftpdlib_server, vsftpd_server

from uftp.client import remote
from uftp.client.login import SessionOptions, open_ftp_session
from uftp.client.session import FTPSession
from uftp.errors import AuthenticationFailed, NetworkError, NotFound, Refused, UsageError
from uftp.streams import Meter, Outgoing

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(scope="module", params=["pyftpdlib", "vsftpd"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    start = {"pyftpdlib": pyftpdlib_server, "vsftpd": vsftpd_server}[request.param]
    with start(tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
async def session(server: PlainServer) -> AsyncIterator[FTPSession]:
    async with open_ftp_session("127.0.0.1", server.port, user=server.user, password=server.password) as opened:
        yield opened


@pytest.fixture
def here(server: PlainServer) -> Iterator[Path]:
    """The server's directory, empty before and after."""
    yield server.root
    for path in sorted(server.root.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def at(server: PlainServer, name: str) -> bytes:
    return f"{server.prefix}/{name}".encode()


async def fetch(session: FTPSession, path: bytes, target: Path, *, offset: int = 0, length: int | None = None) -> bytes:
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        await session.retrieve(
            path,
            lambda incoming, limit, meter: incoming.to_file(fd, 0, limit, meter),
            offset=offset,
            length=length,
        )
    finally:
        os.close(fd)
    return target.read_bytes()


async def put(session: FTPSession, path: bytes, data: bytes, *, offset: int | None = None, append: bool = False) -> int:
    def send(outgoing: Outgoing, meter: Meter) -> None:
        outgoing.from_bytes(data, meter)

    return await session.store(path, send, length=len(data), offset=offset, append=append)


async def test_what_is_stored_comes_back(server: PlainServer, here: Path, session: FTPSession, tmp_path: Path) -> None:
    assert await put(session, at(server, "a file"), CONTENT) == len(CONTENT)
    assert (here / "a file").read_bytes() == CONTENT
    assert await session.size(at(server, "a file")) == len(CONTENT)
    assert await fetch(session, at(server, "a file"), tmp_path / "back") == CONTENT


async def test_empty_files(server: PlainServer, here: Path, session: FTPSession, tmp_path: Path) -> None:
    assert await put(session, at(server, "empty"), b"") == 0
    assert await fetch(session, at(server, "empty"), tmp_path / "back") == b""


async def test_part_of_a_file_by_cutting_the_connection_and_the_session_goes_on(
    server: PlainServer, here: Path, session: FTPSession, tmp_path: Path
) -> None:
    await put(session, at(server, "x"), CONTENT)
    part = await fetch(session, at(server, "x"), tmp_path / "part", offset=1000, length=500)
    assert part == CONTENT[1000:1500]
    assert session.usable
    assert await fetch(session, at(server, "x"), tmp_path / "tail", offset=len(CONTENT) - 10) == CONTENT[-10:]


async def test_writing_into_a_file_keeps_the_rest(server: PlainServer, here: Path, session: FTPSession) -> None:
    await put(session, at(server, "x"), b"0123456789")
    await put(session, at(server, "x"), b"ab", offset=4)
    assert (here / "x").read_bytes() == b"0123ab6789"
    with pytest.raises(Refused, match="beginning"):
        await put(session, at(server, "x"), b"ab", offset=0)
    await put(session, at(server, "x"), b"!!", append=True)
    assert (here / "x").read_bytes() == b"0123ab6789!!"


async def test_listing_and_facts(server: PlainServer, here: Path, session: FTPSession) -> None:
    await session.mkdir(at(server, "sub dir"))
    await put(session, at(server, "sub dir/.hidden"), b"12345")
    await put(session, at(server, "-odd"), b"1")
    found = {info.name: info for info in await session.listdir(server.prefix.encode() or b"/")}
    assert set(found) == {b"sub dir", b"-odd"}
    assert found[b"sub dir"].is_dir
    assert found[b"-odd"].size == 1
    (inner,) = await session.listdir(at(server, "sub dir"))
    assert (inner.name, inner.size, inner.is_dir) == (b".hidden", 5, False)
    info = await session.stat(at(server, "sub dir/.hidden"))
    assert (info.name, info.size, info.is_dir) == (b".hidden", 5, False)
    assert abs(info.mtime_ns / 1e9 - (here / "sub dir/.hidden").stat().st_mtime) < 2
    assert (await session.stat(at(server, "sub dir"))).is_dir
    assert (await session.stat(b"/")).is_dir


async def test_what_is_not_there(server: PlainServer, here: Path, session: FTPSession, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nope"):
        await session.stat(at(server, "nope"))
    with pytest.raises(NotFound):
        await session.listdir(at(server, "nope"))
    with pytest.raises(NotFound):
        await fetch(session, at(server, "nope"), tmp_path / "x")
    with pytest.raises((NotFound, Refused)):
        await put(session, at(server, "nope/x"), b"data")
    assert await session.stat_or_none(at(server, "nope")) is None
    with pytest.raises(Refused, match="checksum"):
        await session.checksum(at(server, "nope"))
    assert session.usable


async def test_renaming_and_removing(server: PlainServer, here: Path, session: FTPSession) -> None:
    await put(session, at(server, "a"), b"new")
    await put(session, at(server, "b"), b"old")
    await session.rename(at(server, "a"), at(server, "b"))
    assert [path.name for path in here.iterdir()] == ["b"]
    assert (here / "b").read_bytes() == b"new"
    await session.delete(at(server, "b"))
    assert list(here.iterdir()) == []


async def test_trees(server: PlainServer, here: Path, session: FTPSession) -> None:
    await remote.make_directories(session, at(server, "a/b/c"))
    await remote.make_directories(session, at(server, "a/b/c"))
    await put(session, at(server, "a/b/x1.nc"), b"1")
    await put(session, at(server, "a/b/x2.nc"), b"2")
    await put(session, at(server, "a/b/y.txt"), b"3")
    failures: list[object] = []
    walk = remote.Walk(session.listdir, at(server, "a"), on_error=lambda path, error: failures.append(error))
    assert [entry.relative async for entry in walk] == [b"b", b"b/c", b"b/x1.nc", b"b/x2.nc", b"b/y.txt"]
    assert failures == []
    found = await remote.expand(session, at(server, "a/*/x?.nc"), b"")
    assert [entry.relative for entry in found] == [b"x1.nc", b"x2.nc"]
    with pytest.raises(UsageError):
        await remote.remove(session, at(server, "a"), recursive=False)
    await remote.remove(session, at(server, "a"), recursive=True)
    assert list(here.iterdir()) == []


async def test_removing_a_tree_does_not_follow_links(server: PlainServer, here: Path, session: FTPSession) -> None:
    (here / "keep").mkdir()
    (here / "keep" / "precious").write_bytes(b"1")
    (here / "tree").mkdir()
    (here / "tree" / "link").symlink_to("../keep")
    os.chown(here / "tree", (here.stat()).st_uid, -1)
    await remote.remove(session, at(server, "tree"), recursive=True)
    assert not (here / "tree").exists()
    assert (here / "keep" / "precious").exists()


async def test_a_cancelled_transfer_ends_the_session(server: PlainServer, here: Path, session: FTPSession) -> None:
    with trio.CancelScope() as scope:

        def send(outgoing: Outgoing, meter: Meter) -> None:
            outgoing.from_bytes(b"x" * 100, meter)
            trio.from_thread.run_sync(scope.cancel)
            while True:
                outgoing.from_bytes(b"x" * 100_000, meter)

        await session.store(at(server, "endless"), send)
    assert scope.cancelled_caught
    assert not session.usable
    with pytest.raises(NetworkError):
        await session.stat(b"/")


async def test_passive_mode_uses_the_address_of_the_server(server: PlainServer, here: Path) -> None:
    options = SessionOptions()
    async with open_ftp_session(
        "127.0.0.1", server.port, user=server.user, password=server.password, options=options
    ) as session:
        session._data_ports._extended = False
        await put(session, at(server, "x"), b"by PASV")
    assert (here / "x").read_bytes() == b"by PASV"


async def test_a_wrong_password_is_not_shown(tmp_path: Path) -> None:
    with pyftpdlib_server(tmp_path) as server, pytest.raises(AuthenticationFailed) as caught:
        async with open_ftp_session("127.0.0.1", server.port, user="tester", password="t0psecret"):
            pass
    assert "t0psecret" not in str(caught.value)


async def test_no_server_there() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(NetworkError, match="refused"):
        async with open_ftp_session("127.0.0.1", port, user="x", password="y"):
            pass

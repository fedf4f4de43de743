"""pyunicore's UFTP class, as its mount and its users drive it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ftp_account import BINARY
from uftp_site import Site

credentials = pytest.importorskip("pyunicore.credentials")
client = pytest.importorskip("pyunicore.uftp.uftp")
pyunicore_client = pytest.importorskip("pyunicore.client")

# It does not verify certificates, and says so with each request.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Unverified HTTPS request")]


def credential(site: Site) -> object:
    found: object = credentials.UsernamePassword(site.first, site.password(site.first))
    return found


@pytest.fixture
def remote(site: Site) -> Path:
    """A directory on the server."""
    return site.directory()


@pytest.fixture
def uftp(site: Site, remote: Path) -> Iterator[client.UFTP]:
    connected = client.UFTP()
    connected.connect(credential(site), f"{site.auth}/TEST", str(remote))
    yield connected
    connected.close()


def write(uftp: client.UFTP, name: str, content: bytes, offset: int = 0) -> None:
    with uftp.get_write_socket(name, offset) as data:
        data.sendall(content)
    assert uftp.ftp.voidresp().startswith("226")


def read(uftp: client.UFTP, name: str, offset: int = 0) -> bytes:
    with uftp.get_read_socket(name, offset) as data, data.makefile("rb") as stream:
        content: bytes = stream.read()
    assert uftp.ftp.voidresp().startswith("226")
    return content


def test_writing_and_reading(uftp: client.UFTP, remote: Path) -> None:
    write(uftp, "/file", BINARY)
    assert (remote / "file").read_bytes() == BINARY
    assert read(uftp, "file") == BINARY
    assert read(uftp, "file", 1000) == BINARY[1000:]
    write(uftp, "file", b"middle", 1000)
    assert (remote / "file").read_bytes() == BINARY[:1000] + b"middle" + BINARY[1006:]


def test_listdir_and_stat(uftp: client.UFTP, site: Site, remote: Path) -> None:
    site.file(remote / "file", b"123").chmod(0o640)
    (remote / "sub").mkdir()
    assert sorted(uftp.listdir("/")) == ["file", "sub"]
    assert uftp.listdir("sub") == []
    found = uftp.stat("/file")
    assert found["st_size"] == 3
    assert found["st_mode"] == stat.S_IFREG | 0o640
    assert stat.S_ISDIR(uftp.stat("sub")["st_mode"])
    with pytest.raises(OSError, match="File not found"):
        uftp.stat("nosuch")


def test_changes(uftp: client.UFTP, site: Site, remote: Path) -> None:
    site.file(remote / "file", b"123")
    uftp.mkdir("/dir", 0o755)
    uftp.rename("/file", "/dir/moved")
    uftp.chmod("/dir/moved", 0o600)
    uftp.set_time("/dir/moved", 1_600_000_000)
    status = (remote / "dir/moved").stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert int(status.st_mtime) == 1_600_000_000
    assert uftp.stat("/dir/moved")["st_mtime"] == 1_600_000_000
    uftp.rm("/dir/moved")
    uftp.rmdir("/dir")
    assert uftp.listdir("/") == []


def test_auth_server(site: Site) -> None:
    server = client.AuthServer(credential(site), f"{site.auth}/TEST:")
    assert server.is_sharing_supported() is True
    host, port, secret = server.authenticate("/tmp")
    assert f"{host}:{port}" == site.ready["nodes"]["TEST"]
    assert secret


def test_many_sessions_with_one_secret(site: Site, remote: Path) -> None:
    site.file(remote / "file", BINARY)
    host, port, secret = client.UFTP().authenticate(credential(site), f"{site.auth}/TEST", str(remote))
    results: list[bytes] = []
    ready = threading.Barrier(6)

    def session() -> None:
        uftp = client.UFTP()
        uftp.open_uftp_session(host, port, secret)
        ready.wait(20)  # all are logged in at once
        results.append(read(uftp, "file"))
        uftp.close()

    threads = [threading.Thread(target=session) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [BINARY] * 6


def test_file_system(site: Site, remote: Path) -> None:
    pytest.importorskip("fs")
    from pyunicore.uftp.uftpfs import UFTPFS

    with UFTPFS(f"{site.auth}/TEST", credential(site), str(remote)) as fs:
        fs.writebytes("file", BINARY)
        assert fs.readbytes("file") == BINARY
        fs.makedir("sub")
        assert sorted(fs.listdir("/")) == ["file", "sub"]
        with fs.open("file", "rb") as one, fs.open("file", "rb") as two:
            assert one.read(10) == two.read(10)
        fs.remove("file")
        assert fs.listdir("/") == ["sub"]


def test_file_system_seeks_in_a_large_file(site: Site, remote: Path) -> None:
    """It ends a session for each seek, by QUIT, while the transfer before still runs."""
    pytest.importorskip("fs")
    from pyunicore.uftp.uftpfs import UFTPFS

    content = os.urandom(16 * 1024 * 1024)
    with UFTPFS(f"{site.auth}/TEST", credential(site), str(remote)) as fs:
        fs.writebytes("large", content)
        with fs.open("large", "rb") as file:
            for offset in (0, 5_000_000, 100, 16_000_000):
                file.seek(offset)
                assert file.read(1000) == content[offset : offset + 1000]


def test_sharing(site: Site, remote: Path) -> None:
    """Its own `Resource` for all that there is to do with a share."""
    path = site.file(remote / "file", BINARY)
    login = credentials.UsernamePassword(site.first, site.password(site.first))
    sharing = client.AuthServer(login, f"{site.auth}/TEST:").get_sharing_endpoint()
    before = sharing.properties
    assert before["userInfo"]["uid"] == site.first
    wanted = {"path": str(path), "user": "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN", "lifetime": 3600}
    reply = sharing.transport.post(url=sharing.resource_url, json=wanted)
    assert reply.status_code == 201
    share = pyunicore_client.Resource(login, reply.headers["Location"])
    assert share.properties["share"]["path"] == str(path)
    assert share.set_properties({"lifetime": "60", "access": "WRITE"}) == {
        "lifetime": "OK",
        "access": "Property not found!",
    }
    share.cache_time = 0
    assert share.properties["share"]["lifetime"] <= 60
    assert share.properties["share"]["access"] == "READ"
    share.delete()
    with pytest.raises(Exception, match="404"):
        share.properties  # noqa: B018 - it is a request

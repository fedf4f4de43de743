"""Settings that change what sessions do."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from data_node import StartNode
from raw_ftp import RawFtp, eventually

from uftp.protocol.command_port import Access

DONE = b"226 File transfer successful\r\n"


@pytest.mark.slow
@pytest.mark.parametrize("access", [Access.FULL, Access.WRITE])
def test_durability_and_umask(start_node: StartNode, access: Access) -> None:
    node = start_node(files={"durability": "fsync", "umask": "027"})
    base = node.directory()
    with node.login(file=f"{base}/", access=access) as ftp:
        for content in (b"first", b"second"):
            assert ftp.store("STOR x", content) == DONE
        assert ftp.store("APPE x", b"!") == DONE
        ftp.ok("RANG 0 1", 350)
        assert ftp.store("STOR x", b"S") == DONE
        ftp.ok("MKD d", 257)
    assert (base / "x").read_bytes() == b"Second!"
    assert (base / "x").stat().st_mode & 0o777 == 0o640
    assert (base / "d").stat().st_mode & 0o777 == 0o750


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/share/zoneinfo/Asia/Tokyo").exists(), reason="no time zones here")
def test_local_times_also_where_the_zone_file_is_hidden(start_node: StartNode) -> None:
    node = start_node(environment={"TZ": "Asia/Tokyo"})
    base = node.directory()
    for access in (Access.FULL, Access.WRITE):
        os.utime(node.file(base / "f", b"x"), (1612325106, 1612325106))  # 2021-02-03 04:05:06 UTC
        with node.login(file=f"{base}/", access=access) as ftp:
            assert b"modify=20210203130506;" in ftp.command("MLST f")
            assert b"modify=20210203040506;" in ftp.retrieve("MLSD")[1]
            assert ftp.command("MDTM f") == b"213 20210203040506\r\n"
            ftp.ok("MFMT 20200102120000 f", 213)
            assert (base / "f").stat().st_mtime == 1577934000
            ftp.ok("OPTS UTC ON")
            assert b"modify=20200102030000;" in ftp.command("MLST f")


@pytest.mark.slow
def test_utc_for_legacy_clients_and_an_advertised_address(start_node: StartNode) -> None:
    node = start_node(
        environment={"TZ": "UTC-9"}, files={"legacy_times": "utc"}, ftp={"advertise": "192.0.2.7", "text": "our site"}
    )
    base = node.directory()
    os.utime(node.file(base / "f", b"x"), (1612325106, 1612325106))
    with node.connect() as ftp:
        assert ftp.reply().endswith(b", our site\r\n")
    with node.login(file=f"{base}/") as ftp:
        assert b"modify=20210203040506;" in ftp.command("MLST f")
        assert ftp.command("PASV").startswith(b"227 Entering Passive Mode (192,0,2,7,")
        assert ftp.retrieve("NLST")[1] == b"f\r\n"
    assert b"AdvertiseAddress: 192.0.2.7\n" in node.ask(b"request-type=uftp-ping-request\nEND\n")


@pytest.mark.slow
def test_allowed_and_denied_accounts(start_node: StartNode, people: tuple[object, object]) -> None:
    node = start_node(users={"allow": ["nobody-in-particular"]})
    assert node.login_fails() == f"530 Not logged in: User '{node.person.name}' is not served here\r\n".encode()
    other = start_node(users={"deny": [node.person.name]})
    assert b"is not served here" in other.login_fails()


@pytest.mark.slow
def test_many_at_once(start_node: StartNode) -> None:
    node = start_node(limits={"sessions_per_user": 100})
    base = node.directory()
    secrets = [node.expect(file=f"{base}/") for _ in range(40)]

    def work(number: int) -> RawFtp:
        ftp = node.connect()
        ftp.log_in(secrets[number])
        content = bytes([number]) * 100_000
        assert ftp.store(f"STOR f{number}", content) == DONE
        assert ftp.retrieve(f"RETR f{number}")[1] == content
        return ftp

    with ThreadPoolExecutor(16) as pool:
        sessions = list(pool.map(work, range(40)))
    assert len(list(base.iterdir())) == 40
    assert sessions[0].retrieve("NLST")[1].count(b"\r\n") == 40
    for ftp in sessions:
        ftp.close()
    eventually(lambda: len(node.log("session-ended")) == 40)
    assert len([e for e in node.log("transfer") if e["result"] == "ok"]) == 80


@pytest.mark.slow
def test_a_users_rate_is_shared(start_node: StartNode) -> None:
    node = start_node(limits={"rate_per_user": 400_000})
    base = node.directory()
    with node.login(file=f"{base}/") as one, node.login(file=f"{base}/") as two:
        assert two.store("STOR a", b"x" * 60_000) == DONE
        one.close()
    shared = node.wait_log("transfer", path=f"{base}/a")
    assert shared["seconds"] > 0.1  # 60,000 at 200,000 a second, less what a burst may hold


@pytest.mark.slow
def test_an_unrestricted_session_of_everything(start_node: StartNode) -> None:
    node = start_node()
    with node.login(file="/") as ftp:
        assert ftp.command("PWD") == b'257 "/"\r\n'
        assert ftp.command("CDUP")[:3] == b"534"
        assert b" etc\r\n" in ftp.retrieve("LIST")[1]
        assert ftp.command("STAT F /").endswith(b" /\r\n211 End of file list\r\n")
        assert ftp.command("DELE /etc/passwd")[:1] == b"5"
        assert ftp.command("STOR /")[:1] == b"5"

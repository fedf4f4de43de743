"""Python's ftplib: every call it has but active mode and FTP_TLS."""

from __future__ import annotations

import ftplib
import io
import re
import stat
import threading
from collections.abc import Iterator

import pytest
from data_node import Node, Person
from ftp_account import BINARY, LARGE, FtpAccount

_SECONDS = 20.0
CRLF_TEXT = b"one\r\ntwo\nthree\r\n\r\n\xe4\xff\n"


def log_in(account: FtpAccount) -> ftplib.FTP:
    ftp = ftplib.FTP(timeout=_SECONDS)
    ftp.connect(account.host, account.port)
    ftp.login("anonymous", account.password)
    return ftp


@pytest.fixture
def ftp(account: FtpAccount) -> Iterator[ftplib.FTP]:
    with log_in(account) as connected:
        yield connected


def test_connect_greets_and_login_answers(account: FtpAccount) -> None:
    ftp = ftplib.FTP()
    assert re.match(r"220 UFTPD .*,.*", ftp.connect(account.host, account.port, _SECONDS))
    assert ftp.getwelcome() == ftp.welcome
    assert ftp.login("anonymous", account.password) == "230 Login successful"
    assert ftp.quit().startswith("221")


def test_login_with_a_wrong_password_is_a_permanent_error(account: FtpAccount) -> None:
    with ftplib.FTP(timeout=_SECONDS) as ftp:
        ftp.connect(account.host, account.port)
        with pytest.raises(ftplib.error_perm, match=r"^530 "):
            ftp.login("anonymous", "wrong")


@pytest.mark.parametrize("size", [0, 1, 8192, len(BINARY)])
def test_binary_content_there_and_back(account: FtpAccount, ftp: ftplib.FTP, size: int) -> None:
    content = BINARY[-size:] if size else b""
    told: list[bytes] = []
    assert ftp.storbinary("STOR file", io.BytesIO(content), callback=told.append) == "226 File transfer successful"
    assert b"".join(told) == content
    assert (account.remote / "file").read_bytes() == content
    got = io.BytesIO()
    assert ftp.retrbinary("RETR file", got.write) == "226 File transfer successful"
    assert got.getvalue() == content


def test_binary_with_rest(account: FtpAccount, ftp: ftplib.FTP) -> None:
    account.there("file")
    got = io.BytesIO()
    ftp.retrbinary("RETR file", got.write, blocksize=1000, rest=300_000)
    assert got.getvalue() == BINARY[300_000:]
    account.there("up", BINARY[:5000])
    ftp.storbinary("STOR up", io.BytesIO(BINARY[5000:]), rest=5000)
    assert (account.remote / "up").read_bytes() == BINARY


def test_append(account: FtpAccount, ftp: ftplib.FTP) -> None:
    ftp.storbinary("APPE file", io.BytesIO(b"one"))
    ftp.storbinary("APPE file", io.BytesIO(b"two"))
    assert (account.remote / "file").read_bytes() == b"onetwo"


def test_text_mode_changes_no_bytes(account: FtpAccount, ftp: ftplib.FTP) -> None:
    account.there("text", CRLF_TEXT)
    ftp.encoding = "latin-1"
    lines: list[str] = []
    ftp.retrlines("RETR text", lines.append)
    assert lines == ["one", "two", "three", "", "äÿ"]
    ftp.storlines("STOR up", io.BytesIO(b"a\nb\r\nc"), callback=lambda line: None)
    assert (account.remote / "up").read_bytes() == b"a\r\nb\r\nc\r\n"  # ftplib itself writes these line ends
    ftp.voidcmd("TYPE A")
    with ftp.transfercmd("RETR text") as data, data.makefile("rb") as stream:
        assert stream.read() == CRLF_TEXT
    ftp.voidresp()


def test_ntransfercmd_tells_the_size(account: FtpAccount, ftp: ftplib.FTP) -> None:
    account.there("file")
    ftp.voidcmd("TYPE I")
    connection, size = ftp.ntransfercmd("RETR file")
    # ftplib looks for "(N bytes)", which the UFTP form of the reply does not have.
    assert size is None
    with connection, connection.makefile("rb") as stream:
        assert stream.read() == BINARY
    assert ftp.voidresp().startswith("226")


def test_listings(account: FtpAccount, ftp: ftplib.FTP) -> None:
    names = ["a b", "sub", "z", "ümlaut"]
    for name in ("a b", "ümlaut", "z", "sub/inner"):
        account.there(name, b"123")
    assert sorted(ftp.nlst()) == names
    assert ftp.nlst("sub") == ["inner"]
    lines: list[str] = []
    ftp.dir(lines.append)
    assert sorted(line.split(maxsplit=8)[8] for line in lines) == names
    ftp.dir("sub", lambda line: lines.append(line))
    assert re.fullmatch(r"-rw-\S{6} +1 \S+ \S+ 3 \w{3} \d\d \d\d:\d\d inner", lines[-1])
    ftp.retrlines("LIST -la sub", lines.append)
    assert lines[-1].endswith(" inner")


def test_mlsd_with_facts(account: FtpAccount, ftp: ftplib.FTP) -> None:
    account.there("file", b"123").chmod(0o640)
    account.there("sub/inner")
    found = dict(ftp.mlsd(facts=["type", "size", "modify"]))
    assert set(found) == {"file", "sub"}
    assert found["file"]["type"] == "file"
    assert found["file"]["size"] == "3"
    assert re.fullmatch(r"[0-9]{14}", found["file"]["modify"])
    assert found["sub"]["type"] == "dir"
    assert [name for name, _ in ftp.mlsd("sub")] == ["inner"]
    assert int(dict(ftp.mlsd())["file"]["unix.mode"], 8) == stat.S_IFREG | 0o640


def test_an_empty_directory_lists_as_empty(ftp: ftplib.FTP) -> None:
    assert ftp.nlst() == []
    assert list(ftp.mlsd()) == []


def test_names(account: FtpAccount, ftp: ftplib.FTP) -> None:
    account.there("file", b"x")
    assert ftp.rename("file", "ünd so") == "200 OK"
    assert (account.remote / "ünd so").read_bytes() == b"x"
    assert ftp.size("ünd so") == 1
    ftp.delete("ünd so")
    assert ftp.nlst() == []
    with pytest.raises(ftplib.error_perm, match=r"^550 "):
        ftp.delete("nosuch")
    with pytest.raises(ftplib.error_perm, match=r"^550 "):
        ftp.rename("nosuch", "other")
    with pytest.raises(ftplib.error_perm, match=r"^550 "):
        ftp.size("nosuch")


def test_directories(account: FtpAccount, ftp: ftplib.FTP) -> None:
    assert ftp.pwd() == str(account.remote)
    assert ftp.mkd('quo"ted') == f'{account.remote}/quo"ted'
    ftp.cwd('quo"ted')
    assert ftp.pwd() == f'{account.remote}/quo"ted'
    ftp.cwd("..")
    ftp.rmd('quo"ted')
    assert ftp.nlst() == []
    with pytest.raises(ftplib.error_perm, match=r"^550 "):
        ftp.cwd("nosuch")
    with pytest.raises(ftplib.error_perm):
        ftp.cwd("..")
    assert ftp.pwd() == str(account.remote)


def test_sendcmd(account: FtpAccount, ftp: ftplib.FTP) -> None:
    account.there("file", b"x").chmod(0o600)
    features = ftp.sendcmd("FEAT").splitlines()
    assert {" SIZE", " MDTM", " REST STREAM", " UTF8", " EPSV", " PASV"} <= set(features)
    assert ftp.sendcmd("STAT").startswith("211-")
    assert "file" in ftp.sendcmd("STAT N .")
    assert re.fullmatch(r"213 [0-9]{14}", ftp.sendcmd("MDTM file"))
    assert ftp.sendcmd("SITE CHMOD 750 file").startswith("200")
    assert stat.S_IMODE((account.remote / "file").stat().st_mode) == 0o750
    assert ftp.sendcmd("MFMT 20200102030405 file").startswith("213")
    assert ftp.sendcmd("MDTM file") == "213 20200102030405"
    assert ftp.sendcmd("NOOP") == "200 OK"
    assert ftp.sendcmd("SYST").startswith("215 ")
    assert ftp.voidcmd("OPTS UTF8 ON").startswith("200")
    with pytest.raises(ftplib.error_perm, match=r"^502 "):
        ftp.sendcmd("SITE NOSUCH")


@pytest.mark.parametrize("at_least", [1, 200_000], ids=["first bytes", "later"])
def test_abort_in_a_download_leaves_the_session_usable(account: FtpAccount, ftp: ftplib.FTP, at_least: int) -> None:
    account.there("large", LARGE * 4)
    ftp.voidcmd("TYPE I")
    data = ftp.transfercmd("RETR large")
    while at_least > 0:
        at_least -= len(data.recv(65536))
    assert ftp.abort().startswith("426")
    data.close()
    assert ftp.voidresp().startswith("226")
    assert ftp.pwd() == str(account.remote)
    got = io.BytesIO()
    ftp.retrbinary("RETR large", got.write, rest=len(LARGE) * 4 - 5)
    assert got.getvalue() == LARGE[-5:]


def test_abort_in_an_upload_leaves_the_old_file(account: FtpAccount, ftp: ftplib.FTP) -> None:
    account.there("file", b"old")
    ftp.voidcmd("TYPE I")
    data = ftp.transfercmd("STOR file")
    data.sendall(BINARY)
    assert ftp.abort().startswith("426")
    data.close()
    assert ftp.voidresp().startswith("226")
    assert (account.remote / "file").read_bytes() == b"old"
    ftp.storbinary("STOR file", io.BytesIO(b"new"))
    assert (account.remote / "file").read_bytes() == b"new"
    assert ftp.nlst() == ["file"]


def test_a_download_the_client_has_enough_of_is_a_temporary_error(account: FtpAccount, ftp: ftplib.FTP) -> None:
    # PyFilesystem, and with it pyunicore's UFTPFS, reads the head of a file so, and fails at any 5xx.
    account.there("large", LARGE * 4)
    ftp.voidcmd("TYPE I")
    with ftp.transfercmd("RETR large") as data:
        data.recv(10)
    with pytest.raises(ftplib.error_temp, match=r"^426 "):
        ftp.voidresp()
    assert ftp.nlst() == ["large"]


def test_abort_without_a_transfer(ftp: ftplib.FTP) -> None:
    assert ftp.abort().startswith("226")
    assert ftp.sendcmd("NOOP") == "200 OK"


def test_passive_forms(account: FtpAccount, ftp: ftplib.FTP) -> None:
    account.there("file", b"x")
    ftp.set_pasv(True)
    assert ftp.makepasv()[0] == account.host
    assert ftp.nlst() == ["file"]
    ftp.trust_server_pasv_ipv4_address = True
    assert ftp.nlst() == ["file"]


def test_active_mode_is_refused_and_the_session_goes_on(ftp: ftplib.FTP) -> None:
    with pytest.raises(ftplib.error_perm, match=r"^502 "):
        ftp.sendport("127.0.0.1", 1)
    with pytest.raises(ftplib.error_perm, match=r"^502 "):
        ftp.sendeprt("::1", 1)
    assert ftp.nlst() == []


def test_ipv6(account_v6: FtpAccount) -> None:
    with log_in(account_v6) as ftp:
        ftp.storbinary("STOR file", io.BytesIO(BINARY))
        got = io.BytesIO()
        ftp.retrbinary("RETR file", got.write)
        assert got.getvalue() == BINARY
        assert ftp.nlst() == ["file"]
        with pytest.raises(ftplib.error_perm, match=r"^5"):
            ftp.sendcmd("PASV")


@pytest.mark.slow
def test_sessions_side_by_side(account: FtpAccount) -> None:
    account.there("large", LARGE)
    results: list[bytes] = []

    def fetch() -> None:
        got = io.BytesIO()
        with log_in(account) as ftp:
            ftp.retrbinary("RETR large", got.write)
        results.append(got.getvalue())

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert set(results) == {LARGE}


def test_another_users_files_are_closed(peer_node: Node, peer_people: tuple[Person, Person]) -> None:
    if not peer_node.as_root:
        pytest.skip("changing user needs root")
    owner, other = peer_people
    private = peer_node.directory()
    private.chmod(0o700)
    peer_node.file(private / "file", b"private", 0o600)
    secret = peer_node.expect(user=other.name, file="/")
    with ftplib.FTP(timeout=_SECONDS) as ftp:
        ftp.connect(*peer_node.ftp)
        ftp.login("anonymous", secret)
        for command in (f"SIZE {private}/file", f"CWD {private}", f"DELE {private}/file"):
            with pytest.raises(ftplib.error_perm, match=r"^5"):
                ftp.sendcmd(command)
        with pytest.raises(ftplib.error_perm, match=r"^5"):
            ftp.retrbinary(f"RETR {private}/file", print)
        with pytest.raises(ftplib.error_perm, match=r"^5"):
            ftp.storbinary(f"STOR {private}/new", io.BytesIO(b"x"))
    assert owner != other
    assert (private / "file").read_bytes() == b"private"

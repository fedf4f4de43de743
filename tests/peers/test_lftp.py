"""lftp: listings, transfers, trees, and no waiting."""

from __future__ import annotations

import pytest
from ftp_account import BINARY, LARGE, FtpAccount, tree
from peer_programs import Outcome, needed, run

pytestmark = pytest.mark.slow


def lftp(account: FtpAccount, *commands: str, code: int = 0) -> Outcome:
    script = "; ".join(["set cmd:fail-exit yes", *commands, "exit"])
    login = ("-u", f"anonymous,{account.password}", "-p", str(account.port))
    return run(needed("lftp"), "--norc", *login, "-e", script, account.host, cwd=account.local, code=code)


def test_listings(account: FtpAccount) -> None:
    account.there("file", b"123").chmod(0o640)
    account.there("sub/deep/two words", b"")
    assert sorted(lftp(account, "cls").lines) == ["file", "sub/"]
    assert sorted(line.split(maxsplit=8)[8] for line in lftp(account, "ls").lines) == ["file", "sub"]
    (line,) = lftp(account, "cls -l file").lines
    assert line.startswith("-rw-r-----        3 ")
    assert lftp(account, "nlist sub").lines == ["deep"]
    assert lftp(account, "glob -f echo *").lines == ["file"]
    assert sorted(lftp(account, "find").lines) == ["./", "./file", "./sub/", "./sub/deep/", "./sub/deep/two words"]
    assert lftp(account, "du -b").lines[-1].split() == ["3", "."]
    assert lftp(account, "cd sub/deep", "pwd").lines[0].endswith("/sub/deep")


def test_get_and_put(account: FtpAccount) -> None:
    account.there("file")
    lftp(account, "get file", "put file -o back")
    assert (account.local / "file").read_bytes() == BINARY
    assert (account.remote / "back").read_bytes() == BINARY
    times = {path.stat().st_mtime_ns // 10**9 for path in (account.local / "file", *account.remote.iterdir())}
    assert len(times) == 1


def test_reget_and_reput(account: FtpAccount) -> None:
    account.there("file")
    account.here("file", BINARY[:777])
    account.there("up", BINARY[:888])
    lftp(account, "reget file", "reput file -o up")
    assert (account.local / "file").read_bytes() == BINARY
    assert (account.remote / "up").read_bytes() == BINARY


def test_mget_and_mput(account: FtpAccount) -> None:
    for name in ("a1", "a2", "b1"):
        account.there(name, name.encode())
    lftp(account, "mget a*", "mkdir to", "cd to", "mput a*")
    assert tree(account.local) == {"a1": b"a1", "a2": b"a2"}
    assert tree(account.remote / "to") == {"a1": b"a1", "a2": b"a2"}


@pytest.mark.parametrize("option", ["", "--parallel=3"], ids=["serial", "parallel"])
def test_mirror(account: FtpAccount, option: str) -> None:
    for number in range(6):
        account.there(f"from/d{number % 2}/e/file {number}", BINARY[number:])
    account.there("from/top", b"")
    wanted = tree(account.remote / "from")
    lftp(account, f"mirror {option} from here")
    assert tree(account.local / "here") == wanted
    lftp(account, f"mirror -R {option} here to")
    assert tree(account.remote / "to") == wanted


def test_mirror_onto_what_is_there(account: FtpAccount) -> None:
    account.here("here/a/one", b"1")
    account.here("here/two", b"2")
    account.there("to/a/one", b"1")
    account.there("to/extra/file", b"x")
    lftp(account, "mirror -R --delete here to")
    assert tree(account.remote / "to") == tree(account.local / "here")
    again = lftp(account, "mirror -R --delete --verbose here to")
    assert "New:" not in again.text
    assert "Modified:" not in again.text


def test_pget(account: FtpAccount) -> None:
    account.there("large", LARGE * 3)
    lftp(account, "set pget:min-chunk-size 100k", "pget -n 4 large")
    assert (account.local / "large").read_bytes() == LARGE * 3


def test_changes(account: FtpAccount) -> None:
    account.there("file", b"x")
    lftp(account, "mkdir -p a/b/c", "mv file a/b/moved", "chmod 600 a/b/moved")
    assert tree(account.remote) == {"a": None, "a/b": None, "a/b/c": None, "a/b/moved": b"x"}
    assert (account.remote / "a/b/moved").stat().st_mode & 0o777 == 0o600
    lftp(account, "rmdir a/b/c", "rm a/b/moved", "mkdir a/x", "rm -r a")
    assert tree(account.remote) == {}


@pytest.mark.parametrize(
    "command", ["mkdir there", "rm nosuch", "mv nosuch x", "get nosuch", "cd nosuch", "rmdir full"]
)
def test_what_fails_is_said_at_once(account: FtpAccount, command: str) -> None:
    account.there("there/x", b"")
    account.there("full/x", b"")
    assert "550 " in lftp(account, command, code=1).err


def test_epsv_and_ipv6(account_v6: FtpAccount) -> None:
    account_v6.there("file")
    lftp(account_v6, "set ftp:prefer-epsv yes", "get file")
    assert (account_v6.local / "file").read_bytes() == BINARY

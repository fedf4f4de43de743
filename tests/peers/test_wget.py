"""wget: files, continuation, trees."""

from __future__ import annotations

from ftp_account import BINARY, FtpAccount, tree
from peer_programs import Outcome, needed, run


def wget(account: FtpAccount, *options: str, code: int = 0) -> Outcome:
    return run(needed("wget"), "--no-config", "-nv", "--tries=1", *options, cwd=account.local, code=code)


def test_get(account: FtpAccount) -> None:
    account.there("sub/file")
    wget(account, account.url + "sub/file")
    assert (account.local / "file").read_bytes() == BINARY


def test_continue(account: FtpAccount) -> None:
    account.there("file")
    account.here("file", BINARY[:4321])
    wget(account, "-c", account.url + "file")
    assert (account.local / "file").read_bytes() == BINARY


def test_recursive(account: FtpAccount) -> None:
    for name in ("from/a", "from/b/c d", "from/b/e/f"):
        account.there(name)
    wget(account, "-r", "-nH", account.url + "from/")
    assert tree(account.local) == tree(account.remote)


def test_pattern(account: FtpAccount) -> None:
    for name in ("a1", "a2", "b1"):
        account.there(name, name.encode())
    wget(account, account.url + "a*")
    assert tree(account.local) == {"a1": b"a1", "a2": b"a2"}


def test_timestamping(account: FtpAccount) -> None:
    account.there("file")
    wget(account, "-N", account.url + "file")
    first = (account.local / "file").stat()
    wget(account, "-N", account.url + "file")
    assert (account.local / "file").stat().st_mtime_ns == first.st_mtime_ns
    assert int(first.st_mtime) // 60 == int((account.remote / "file").stat().st_mtime) // 60  # LIST has no seconds


def test_missing(account: FtpAccount) -> None:
    wget(account, account.url + "nosuch", code=8)


def test_ipv6(account_v6: FtpAccount) -> None:
    account_v6.there("file")
    wget(account_v6, account_v6.url + "file")
    assert (account_v6.local / "file").read_bytes() == BINARY

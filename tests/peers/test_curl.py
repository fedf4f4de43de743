"""curl, as people and scripts call it."""

from __future__ import annotations

import stat

import pytest
from ftp_account import BINARY, LARGE, FtpAccount, tree
from peer_programs import Outcome, needed, run


def curl(account: FtpAccount, *options: str, code: int = 0, stdin: bytes | None = None) -> Outcome:
    return run(needed("curl"), "-q", "-sS", *options, cwd=account.local, code=code, stdin=stdin)


def conversation(outcome: Outcome) -> list[str]:
    """What was said on the control connection, by `-v`."""
    return [line for line in outcome.err.splitlines() if line.startswith(("< ", "> "))]


def test_download(account: FtpAccount) -> None:
    account.there("file")
    curl(account, "-o", "got", account.url + "file")
    assert (account.local / "got").read_bytes() == BINARY


@pytest.mark.parametrize("options", [(), ("--disable-epsv",), ("--use-ascii",)], ids=["epsv", "pasv", "ascii"])
def test_download_in_all_modes(account: FtpAccount, options: tuple[str, ...]) -> None:
    account.there("sub/deep/file")
    done = curl(account, "-v", *options, account.url + "sub/deep/file")
    # In ASCII curl itself makes every line end a line feed; the session's text mode changes no bytes.
    assert done.out == (BINARY.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if "--use-ascii" in options else BINARY)
    assert [line for line in conversation(done) if line.startswith("< 5")] == []


def test_upload(account: FtpAccount) -> None:
    account.here("file")
    done = curl(account, "-v", "-T", "file", account.url)
    assert (account.remote / "file").read_bytes() == BINARY
    assert [line for line in conversation(done) if line.startswith("< 5")] == []


def test_upload_from_stdin(account: FtpAccount) -> None:
    curl(account, "-T", "-", account.url + "file", stdin=BINARY)
    assert (account.remote / "file").read_bytes() == BINARY


def test_resume_download(account: FtpAccount) -> None:
    account.there("file")
    account.here("got", BINARY[:1234])
    curl(account, "-C", "-", "-o", "got", account.url + "file")
    assert (account.local / "got").read_bytes() == BINARY


def test_resume_upload(account: FtpAccount) -> None:
    account.here("file")
    account.there("file", BINARY[:1234])
    curl(account, "-C", "-", "-T", "file", account.url)
    assert (account.remote / "file").read_bytes() == BINARY


def test_append(account: FtpAccount) -> None:
    account.here("file")
    account.there("file", b"before")
    curl(account, "-a", "-T", "file", account.url)
    assert (account.remote / "file").read_bytes() == b"before" + BINARY


def test_lists(account: FtpAccount) -> None:
    for name in ("one", "two words", "sub/three"):
        account.there(name, b"123")
    assert sorted(curl(account, "-l", account.url).lines) == ["one", "sub", "two words"]
    long = sorted(curl(account, account.url).lines, key=lambda line: line.split(maxsplit=8)[8])
    assert [line[:4] for line in long] == ["-rw-", "drwx", "-rw-"]
    assert curl(account, "-l", account.url + "sub/").lines == ["three"]
    assert curl(account, "-X", "MLSD", account.url + "sub/").text.endswith("; three\n")


@pytest.mark.parametrize(
    ("span", "wanted"),
    [("100-199", slice(100, 200)), ("0-0", slice(0, 1)), ("5000-", slice(5000, None)), ("-100", slice(-100, None))],
)
def test_range(account: FtpAccount, span: str, wanted: slice) -> None:
    account.there("file")
    assert curl(account, "-r", span, account.url + "file").out == BINARY[wanted]


@pytest.mark.slow
def test_range_of_a_large_file_is_broken_off_at_once(account: FtpAccount) -> None:
    account.there("large", LARGE * 4)
    done = curl(account, "-v", "-r", "0-9", account.url + "large")
    assert done.out == LARGE[:10]
    assert "> ABOR" in done.err


@pytest.mark.slow
def test_several_files_over_one_connection(account: FtpAccount) -> None:
    # curl 7.88 sleeps for a second where the reply to EPSV is there before it waits for it, as on loopback.
    names = [f"file{number}" for number in range(3)]
    for number, name in enumerate(names):
        account.there(name, BINARY[number:])
    done = curl(account, "-v", *[word for name in names for word in ("-o", name, account.url + name)])
    assert tree(account.local) == {name: BINARY[number:] for number, name in enumerate(names)}
    assert conversation(done).count("> USER anonymous") == 1


def test_quote_commands(account: FtpAccount) -> None:
    account.there("file")
    quoted = ["MKD before", "-RNFR file", "-RNTO after", "-SITE CHMOD 640 after", "-MDTM after", "*DELE nosuch"]
    words = [word for command in quoted for word in ("-Q", command)]
    assert curl(account, *words, account.url + "file").out == BINARY
    assert sorted(path.name for path in account.remote.iterdir()) == ["after", "before"]
    assert stat.S_IMODE((account.remote / "after").stat().st_mode) == 0o640


@pytest.mark.slow
@pytest.mark.parametrize("method", ["multicwd", "nocwd", "singlecwd"])
def test_create_directories(account: FtpAccount, method: str) -> None:
    account.here("file")
    options = ["--ftp-create-dirs", "--ftp-method", method]
    if method != "multicwd":  # curl makes at most one level then
        account.there("a/b c/x" if method == "nocwd" else "a/x", b"")
    url = account.url + "a/b%20c/file"
    curl(account, *options, "-T", "file", url)
    assert (account.remote / "a/b c/file").read_bytes() == BINARY
    assert curl(account, *options, url).out == BINARY
    assert "file" in curl(account, *options, "-l", account.url + "a/b%20c/").lines


def test_absolute_path(account: FtpAccount) -> None:
    account.there("sub/file")
    path = str(account.remote / "sub/file").removeprefix("/")
    assert curl(account, "--ftp-method", "singlecwd", account.url + "%2F" + path).out == BINARY


def test_head_and_times(account: FtpAccount) -> None:
    account.there("file", b"123")
    curl(account, "-Q", "MFMT 20200102030405 file", "-R", "-o", "got", account.url + "file")
    assert (account.local / "got").stat().st_mtime == 1577934245
    head = curl(account, "-I", account.url + "file").text
    assert "Content-Length: 3" in head
    assert "Last-Modified: Thu, 02 Jan 2020 03:04:05 GMT" in head
    assert curl(account, "-z", "1 Jan 2021", account.url + "file").out == b""


@pytest.mark.parametrize(("name", "code"), [("nosuch", 78), ("nosuch/", 9), ("nosuch/file", 9)])
def test_what_is_missing(account: FtpAccount, name: str, code: int) -> None:
    curl(account, account.url + name, code=code)


def test_upload_into_a_directory_that_is_missing(account: FtpAccount) -> None:
    account.here("file")
    curl(account, "-T", "file", account.url + "nosuch/file", code=9)
    assert tree(account.remote) == {}


def test_wrong_password(account: FtpAccount) -> None:
    curl(account, account.url.replace(account.password, "wrong"), code=67)


def test_ipv6(account_v6: FtpAccount) -> None:
    account_v6.here("file")
    curl(account_v6, "-T", "file", account_v6.url)
    assert curl(account_v6, "--disable-epsv", account_v6.url + "file").out == BINARY

"""The whole system: `uftp` asks `uftpd standalone` for sessions and moves files through a data node of ours."""

from __future__ import annotations

import contextlib
import ftplib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_standalone import PASSWORD, account, standalone
from running_uftp import UFTP, Outcome, environment, uftp, uftp_inside

import uftp as package

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
CONTENT = os.urandom(5 * MIB) * 14  # above the size from which -t splits


# What neither leaves anything on standard output but text nor depends on how the program ends.
_INSIDE = ("ls", "stat", "find", "checksum", "mkdir", "rm", "mv", "info")


@dataclass(frozen=True)
class Place:
    """A server, and a directory that its user may write to."""

    auth: str
    ca: str
    directory: Path

    @property
    def url(self) -> str:
        return f"{self.auth}/TEST:{self.directory}"

    def __call__(self, *arguments: str | bytes | Path, stdin: bytes = b"", password: str = PASSWORD) -> Outcome:
        command, *rest = arguments
        given = ["--ca", self.ca, "-u", "joe", *rest]
        if command in _INSIDE and not stdin:
            return uftp_inside(str(command), *map(os.fsdecode, given), env={"UFTP_PASSWORD": password})
        return uftp(command, *given, stdin=stdin, env={"UFTP_PASSWORD": password})

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        command, *rest = arguments
        return subprocess.Popen(
            [UFTP, command, "--ca", self.ca, "-u", "joe", *rest],
            stderr=subprocess.PIPE,
            env=environment({"UFTP_PASSWORD": PASSWORD}),
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    # Not below pytest's directory, which other users cannot enter.
    directory = Path(tempfile.mkdtemp(prefix="uftp-test-"))
    if os.geteuid() == 0:
        os.chown(directory, pwd.getpwnam(account()).pw_uid, -1)
    try:
        with standalone(tmp_path_factory.mktemp("standalone") / "state") as running:
            yield Place(running.auth, running.ca, directory)
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def there(server: Place) -> Iterator[Place]:
    yield server
    for entry in server.directory.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def files(top: Path) -> dict[bytes, bytes]:
    root = os.fsencode(top)
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


def test_parallel_ranges_both_ways(there: Place, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(CONTENT)
    for threads in ("1", "3"):
        assert there("cp", "-t", threads, source, there.url + "/big").code == 0
        assert (there.directory / "big").read_bytes() == CONTENT
        assert there("cp", "-t", threads, there.url + "/big", back).code == 0
        assert back.read_bytes() == CONTENT
        back.unlink()
        (there.directory / "big").unlink()
    assert list(there.directory.iterdir()) == []


def test_trees_with_any_names(there: Place, tmp_path: Path) -> None:
    top = tmp_path / "tree"
    (top / "sub dir" / "empty").mkdir(parents=True)
    odd = [b"plain", b" leading", b"trailing ", b"new\nline", b"\xff\xfe", b"per%41cent", b"st*r", b"-dash", b"\x01"]
    for name in odd:
        with open(os.path.join(os.fsencode(top / "sub dir"), name), "wb") as file:
            file.write(name)
    (top / "nothing in it").write_bytes(b"")
    assert there("cp", "-r", top, there.url + "/").code == 0
    assert files(there.directory / "tree") == files(top)
    assert (there.directory / "tree" / "sub dir" / "empty").is_dir()
    assert there("cp", "-r", there.url + "/tree", tmp_path / "back").code == 0
    assert files(tmp_path / "back") == files(top)
    assert there("rm", "-r", there.url + "/tree").code == 0


def test_a_slip_in_one_of_several_names_replaces_nothing(there: Place, tmp_path: Path) -> None:
    source, results = tmp_path / "run2", tmp_path / "results"
    for path in (source, there.directory / "run2"):
        path.write_bytes(b"second run")
    for path in (results, there.directory / "results"):
        path.write_bytes(b"precious")
    up = there("cp", tmp_path / "rum1", source, there.url + "/results")
    down = there("cp", there.url + "/rum1", there.url + "/run2", results)
    for outcome in (up, down):
        assert outcome.code == 2
        assert "several sources need a directory" in outcome.err
    assert results.read_bytes() == (there.directory / "results").read_bytes() == b"precious"


def test_paths_that_start_at_the_home_directory(there: Place, tmp_path: Path) -> None:
    home = pwd.getpwnam(account()).pw_dir
    below = os.path.relpath(there.directory, home if os.path.isdir(home) else "/")
    url = f"{there.auth}/TEST:{below}"
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)
    for arguments in (
        ["mkdir", url + "/sub"],
        ["mkdir", "-p", url + "/a/b"],
        ["cp", source, url + "/sub/f"],
        ["cp", source, url + "/sub/"],
        ["cp", "-r", url + "/sub", tmp_path / "back"],
        ["sync", source, url + "/sub/f"],
        ["mv", url + "/sub/f", below + "/sub/g"],
        ["ls", url + "/sub/g"],
        ["checksum", url + "/sub/*"],
        ["rm", url + "/sub/g"],
        ["rm", "-r", url + "/sub"],
    ):
        outcome = there(*arguments)
        assert outcome.code == 0, (arguments, outcome.err)
    assert files(tmp_path / "back") == {b"f": source.read_bytes(), b"source": source.read_bytes()}
    assert [path.name for path in there.directory.iterdir()] == ["a"]
    (there.directory / "f").write_bytes(b"found")
    grant = there("auth", "--json", url + "/").records[0]
    with ftplib.FTP() as ftp:
        ftp.connect(str(grant["host"]), int(grant["port"]))
        ftp.login("anonymous", str(grant["password"]))
        assert sorted(ftp.nlst()) == ["a", "f"]
    with package.connect(url + "/", credential=package.UsernamePassword("joe", PASSWORD), ca=there.ca) as data:
        assert data.stat("f").size == 5


def test_times_and_modes(there: Place, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(b"x")
    source.chmod(0o640)
    os.utime(source, ns=(1_111_111_111_123_456_789, 1_111_111_111_123_456_789))
    assert there("cp", "-p", source, there.url + "/f").code == 0
    assert there("cp", "-p", there.url + "/f", back).code == 0
    for path in (there.directory / "f", back):
        assert path.stat().st_mtime_ns == 1_111_111_111_123_456_789
        assert path.stat().st_mode & 0o777 == 0o640
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    (folder / "x").write_bytes(b"x")
    os.utime(folder, ns=(10**18, 10**18))
    assert there("cp", "-rp", folder, there.url + "/").code == 0
    assert there("cp", "-rp", there.url + "/folder", tmp_path / "again").code == 0
    for path in (there.directory / "folder", tmp_path / "again"):
        assert path.stat().st_mtime_ns == 10**18
        assert path.stat().st_mode & 0o777 == 0o700
    # Without -p a file that is replaced keeps the mode it had, however it is stored.
    source.chmod(0o600)
    source.write_bytes(CONTENT)
    for threads in ("1", "2"):
        assert there("cp", "-t", threads, source, there.url + "/f").code == 0
        assert (there.directory / "f").stat().st_mode & 0o777 == 0o640


def test_ranges_in_place(there: Place, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 20)
    target = there.directory / "f"
    assert there("cp", "-", there.url + "/f", stdin=b"0123456789").code == 0
    assert there("cp", "-B", "0-3-p", source, there.url + "/f").code == 0
    assert target.read_bytes() == b"xxxx456789"
    assert there("cp", "-B", "8-11-p", source, there.url + "/f").code == 0
    assert target.read_bytes() == b"xxxx4567xxxx"
    assert there("cp", "-B", "8-11", source, there.url + "/f").code == 0
    assert target.read_bytes() == b"xxxx"
    assert there("cat", "-B", "1-2", there.url + "/f").out == b"xx"
    assert there("cp", "-B", "0-9m", f"{there.auth}/TEST:/dev/zero", tmp_path / "zeros").code == 0
    assert (tmp_path / "zeros").stat().st_size == 9 * MIB + 1
    assert there("cp", "-t", "2", "-B", "0-99m", f"{there.auth}/TEST:/dev/zero", "/dev/null").code == 0
    assert there("cp", source, f"{there.auth}/TEST:/dev/null").code == 0


def test_checksums(there: Place) -> None:
    (there.directory / "f").write_bytes(CONTENT)
    for name, algorithm in (("MD5", "md5"), ("sha256", "sha256"), ("SHA-512", "sha512")):
        (line,) = there("checksum", "-a", name, there.url + "/f").lines
        assert line == f"{hashlib.new(algorithm, CONTENT).hexdigest()} {there.directory}/f"
    assert len(there("checksum", "-a", "blake3", "--json", there.url + "/f").records[0]["checksum"]) == 64
    assert there("checksum", "-a", "CRC", there.url + "/f").code == 5


def test_who_and_where(there: Place) -> None:
    info = there("info", "-C", there.auth)
    assert info.code == 0
    assert "Server:             TEST" in info.lines
    assert any(line.startswith("Connected to UFTPD 'TEST'") for line in info.lines)
    words = there("auth", there.url + "/").lines[0].split()
    assert words[:2] + words[3:4] == ["Connect", "to", "password:"]
    record = there("authenticate", "--json", there.url + "/").records[0]
    assert set(record) == {"host", "port", "user", "password", "persistent"}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ls", "{auth}/TEST:{dir}/missing"], 4, "missing"),
        (["ls", "{auth}/TEST:{dir}/missing/"], 4, "directory"),
        (["ls", "{auth}/NOPE:/"], 4, "it has TEST"),
        (["ls", "--insecure", "--ca", "/dev/null", "{auth}/TEST:/"], 7, "CA"),
        (["cp", "{auth}/TEST:{dir}/missing", "x"], 4, "missing"),
        (["cp", "/etc/hostname", "{auth}/TEST:/usr/x"], 5, "/usr/x"),
        (["cp", "-", "{auth}/TEST:/usr/x"], 5, "uftp: /usr/x: "),
        (["mkdir", "{auth}/TEST:{dir}/a/b"], 4, ""),
        (["mkdir", "{auth}/TEST"], 5, "uftp: .: "),
        (["cat", "{auth}/TEST:{dir}"], 2, "is a directory, which cannot go to standard output"),
        (["info", "/etc"], 2, "/etc: not a URL"),
    ],
)
def test_refusals(there: Place, arguments: list[str], code: int, says: str) -> None:
    outcome = there(*(argument.format(auth=there.auth, dir=there.directory) for argument in arguments))
    assert outcome.code == code, outcome.err
    assert len(outcome.error_lines) == 1
    assert says in outcome.err


def test_credentials_and_trust(there: Place) -> None:
    wrong = there("ls", there.url, password="wr0ng")
    assert wrong.code == 3
    assert "wr0ng" not in wrong.err
    untrusted = uftp("ls", "-u", f"joe:{PASSWORD}", there.url)
    assert untrusted.code == 6
    assert "--ca" in untrusted.err
    assert PASSWORD not in untrusted.err
    assert uftp("ls", "--insecure", "-u", f"joe:{PASSWORD}", there.url).code == 0
    assert uftp("ls", "--ca", there.ca, there.url, env={"USER": "joe"}).code == 3


def test_a_name_for_the_server_and_a_token_for_a_job(there: Place, tmp_path: Path) -> None:
    """Every command takes a place by its endpoint's name; local files with colons stay reachable."""
    (tmp_path / "pw").write_text(f"{PASSWORD}\n")
    (tmp_path / "config.toml").write_text(
        f"""
[endpoints.here]
url = "{there.auth}/TEST"
user = "joe"
password_file = "{tmp_path / "pw"}"
ca = "{there.ca}"
"""
    )
    (tmp_path / "a:b").write_bytes(b"colon")
    base = f"here:{there.directory}"

    def run(*arguments: str) -> Outcome:
        outcome = uftp(*arguments, env={"UFTP_CONFIG": str(tmp_path / "config.toml")}, cwd=tmp_path)
        assert outcome.code == 0, outcome.err
        return outcome

    run("mkdir", "-p", f"{base}/x/y")
    run("cp", "./a:b", f"{base}/x/")
    assert run("ls", "-1", f"{base}/x").lines == ["a:b", "y"]
    run("mv", f"{base}/x/a:b", f"{base}/x/c")
    run("mv", f"{base}/x/c", f"{there.directory}/x/d:e")
    assert run("cat", f"{base}/x/d*").out == b"colon"
    assert run("stat", "--json", f"{base}/x/d:e").records[0]["size"] == 5
    assert run("checksum", f"{base}/x/d:e").lines[0].endswith("/x/d:e")
    assert f"{there.directory}/x/y" in run("find", "-r", base).lines
    run("cp", f"{base}/x/d:e", "./back:up")
    assert (tmp_path / "back:up").read_bytes() == b"colon"
    token = run("issue-token", "-l", "1h", "here").lines[0]
    (tmp_path / "token").write_text(token)
    for given in ("@token", token):
        assert run("ls", "-1", "-A", given, f"{base}/x").lines == ["d:e", "y"]
    run("rm", "-r", f"{base}/x")


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def open_by_server(directory: Path) -> bool:
    """Whether some process has a file in `directory` open for an upload, named or not."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target.startswith(f"{directory}/") and os.stat(link).st_size > MIB:
                return True
    return False


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into session processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("threads", ["1", "3"])
def test_an_upload_that_is_stopped_leaves_nothing_under_its_name(
    there: Place, number: signal.Signals, threads: str
) -> None:
    running = there.start("cp", "-t", threads, "-B", "0-2000g", "/dev/zero", there.url + "/f")
    try:
        wait_for(lambda: open_by_server(there.directory))
        running.send_signal(number)
        _, err = running.communicate(timeout=30)
    finally:
        running.kill()
        running.wait()
    wait_for(lambda: not open_by_server(there.directory))
    assert not (there.directory / "f").exists()
    if number != signal.SIGKILL:
        assert running.returncode == 128 + number
        assert err.startswith(b"uftp: interrupted; 0 of 1")
        assert b"; to go on: uftp cp " in err
        assert err.count(b"\n") == 1
        assert list(there.directory.iterdir()) == []


def test_the_python_interface(there: Place, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    with package.connect(there.url + "/", user="joe", password=PASSWORD, ca=there.ca) as connection:
        connection.mkdir("a/b", parents=True)
        assert connection.put(source, "a/b/x").bytes == len(CONTENT)
        assert [entry.name for entry in connection.ls("a/b")] == [b"x"]
        assert connection.stat("a/b/x").size == len(CONTENT)
        assert connection.checksum("a/b/x", "SHA-256") == hashlib.sha256(CONTENT).hexdigest()
        connection.rename("a/b/x", "a/y")
        assert connection.exists("a/y")
        assert not connection.exists("a/b/x")
        connection.get("a/y", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == CONTENT
        with pytest.raises(package.UFTPError, match="missing"):
            connection.get("missing", tmp_path)
        connection.remove("a", recursive=True)
        assert connection.ls() == []
    summary = package.copy(str(source), there.url + "/", user="joe", password=PASSWORD, ca=there.ca)
    assert summary.files == 1

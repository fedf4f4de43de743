"""The command line against plain FTP servers: results on stdout, the rest on stderr, exit codes, nothing partial."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from plain_ftp import PlainServer, pyftpdlib_server, vsftpd_server
from running_uftp import UFTP, environment, uftp

pytestmark = pytest.mark.slow

CONTENT = os.urandom(300_000)
NOTE = "uftp: no checksums can be had to compare files with their sources; only sizes are\n"  # these servers have none


@pytest.fixture(scope="module", params=["pyftpdlib", "vsftpd"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    start = {"pyftpdlib": pyftpdlib_server, "vsftpd": vsftpd_server}[request.param]
    with start(tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(autouse=True)
def there(server: PlainServer) -> Iterator[Path]:
    yield server.root
    for path in sorted(server.root.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "a" / "b").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a" / "x").write_bytes(CONTENT)
    (top / "a" / "b" / "y z").write_bytes(b"y")
    (top / "none").write_bytes(b"")
    return top


def content(top: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else None for path in sorted(top.rglob("*"))
    }


def test_trees_there_and_back(server: PlainServer, there: Path, tree: Path, tmp_path: Path) -> None:
    up = uftp("cp", "-r", tree, server.url + "/")
    assert (up.code, up.out, up.err) == (0, b"", NOTE)
    assert content(there / "tree") == content(tree)
    down = uftp("cp", "-r", f"{server.url}/tree", "back", cwd=tmp_path)
    assert (down.code, down.out, down.err) == (0, b"", NOTE)
    assert content(tmp_path / "back") == content(tree)
    again = uftp("cp", "-r", "-t", "3", f"{server.url}/tree/", "back", cwd=tmp_path)
    assert again.code == 0
    assert content(tmp_path / "back") == content(tree)


def test_json_has_a_record_a_file_and_a_summary(server: PlainServer, there: Path, tree: Path, tmp_path: Path) -> None:
    outcome = uftp("cp", "--json", tree / "a" / "x", tmp_path / "missing", server.url + "/")
    assert outcome.code == 10
    *files, summary = outcome.records
    assert {(record["type"], record["ok"]) for record in files} == {("file", True), ("file", False)}
    failed = next(record for record in files if not record["ok"])
    assert failed["exit_code"] == 7
    assert "missing" in failed["error"]
    assert (summary["type"], summary["files"], summary["failed"], summary["bytes"]) == ("summary", 1, 1, len(CONTENT))
    assert all(line.startswith("uftp: ") for line in outcome.error_lines)
    assert "secret" not in outcome.out.decode() + outcome.err
    assert [path.name for path in there.iterdir()] == ["x"]


def test_standard_input_and_output(server: PlainServer, there: Path) -> None:
    assert uftp("cp", "-", server.url + "/piped", stdin=CONTENT).code == 0
    assert (there / "piped").read_bytes() == CONTENT
    for arguments in (["cp", server.url + "/piped", "-"], ["cat", server.url + "/piped"]):
        outcome = uftp(*arguments)
        assert (outcome.code, outcome.out, outcome.err) == (0, CONTENT, "")
    assert uftp("cat", "-B", "10-19", server.url + "/piped").out == CONTENT[10:20]


def test_byte_ranges(server: PlainServer, there: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    target = tmp_path / "target"
    assert uftp("cp", "-B", "100-199", source, server.url + "/part").code == 0
    assert (there / "part").read_bytes() == CONTENT[100:200]
    assert uftp("cp", source, server.url + "/whole").code == 0
    assert uftp("cp", "-B", "5-9", server.url + "/whole", target).code == 0
    assert target.read_bytes() == CONTENT[5:10]
    target.write_bytes(b"." * 20)
    assert uftp("cp", "-B", "5-9-p", server.url + "/whole", target).code == 0
    assert target.read_bytes() == b"....." + CONTENT[5:10] + b".........."
    source.write_bytes(b"x" * 400_000)
    assert uftp("cp", "-B", "5-9-p", source, server.url + "/whole").code == 0
    assert (there / "whole").read_bytes() == CONTENT[:5] + b"xxxxx" + CONTENT[10:]


def test_devices(server: PlainServer, there: Path) -> None:
    assert uftp("cp", "-B", "0-1m", "/dev/zero", server.url + "/zeros").code == 0
    assert (there / "zeros").read_bytes() == bytes(1024**2 + 1)
    assert uftp("cp", server.url + "/zeros", "/dev/null").code == 0
    endless = uftp("cp", "/dev/zero", server.url + "/zeros")
    assert endless.code == 2
    assert "-B" in endless.err


def test_a_full_disk_fails_one_file_and_not_the_session(server: PlainServer, there: Path, tmp_path: Path) -> None:
    (there / "a").write_bytes(CONTENT)
    (there / "b").write_bytes(CONTENT)
    full = uftp("cp", server.url + "/a", "/dev/full")
    assert full.code == 7
    assert "/dev/full: cannot write it: No space left" in full.err, "by its name here"
    # As many bytes as the target's file system can hold are a matter of that file alone.
    (tmp_path / "a").mkdir()
    some = uftp("cp", server.url + "/a", server.url + "/b", tmp_path)
    assert some.code == 10
    assert (tmp_path / "b").read_bytes() == CONTENT


def test_wildcards_and_links(server: PlainServer, there: Path, tree: Path, tmp_path: Path) -> None:
    assert uftp("cp", "-r", tree, server.url + "/").code == 0
    target = tmp_path / "here"
    target.mkdir()
    outcome = uftp("cp", f"{server.url}/tree/*/?", target)
    assert outcome.code == 0
    assert [path.name for path in target.iterdir()] == ["x"]
    # A link in a tree is never written through; one the user names is.
    outside = tmp_path / "outside"
    outside.mkdir()
    (target / "a").symlink_to(outside)
    outcome = uftp("cp", "-r", f"{server.url}/tree/", target)
    assert outcome.code == 10
    assert list(outside.iterdir()) == []
    (tmp_path / "link").symlink_to(outside / "file")
    assert uftp("cp", f"{server.url}/tree/a/x", tmp_path / "link").code == 0
    assert (outside / "file").read_bytes() == CONTENT


def test_looking_around(server: PlainServer, there: Path, tree: Path) -> None:
    assert uftp("cp", "-r", tree, server.url + "/").code == 0
    assert [line.split()[0][0] + line.rpartition(" ")[2] for line in uftp("ls", server.url + "/tree/").lines] == [
        "da",
        "dempty",
        "-none",
    ]
    assert uftp("ls", "-1", server.url + "/tree/a").lines == ["b", "x"]
    found = uftp("find", "-r", "-F", server.url + "/tree").lines
    assert [line.removeprefix(server.prefix) for line in found] == ["/tree/a/b/y z", "/tree/a/x", "/tree/none"]
    record = uftp("stat", "--json", server.url + "/tree/a/x").records[0]
    assert (record["type"], record["size"], record["name"]) == ("file", len(CONTENT), "x")
    assert uftp("ls", "--json", server.url + "/tree/a/x").records[0]["size"] == len(CONTENT)


def test_changing_things(server: PlainServer, there: Path) -> None:
    url = server.url
    assert uftp("mkdir", url + "/d").code == 0
    assert uftp("mkdir", "-p", url + "/d", url + "/p/q/r").code == 0
    assert (there / "p" / "q" / "r").is_dir()
    assert uftp("mkdir", url + "/no/where").code in (4, 5)
    assert uftp("cp", "-", url + "/f", stdin=b"1").code == 0
    assert uftp("mv", url + "/f", url + "/d").code == 0
    assert uftp("mv", url + "/d/f", f"{server.prefix}/d/g").code == 0
    assert (there / "d" / "g").read_bytes() == b"1"
    assert uftp("rm", url + "/d").code == 2
    assert uftp("rm", "-r", url + "/d", url + "/p").code == 0
    assert list(there.iterdir()) == []
    assert uftp("rm", url + "/d").code == 4


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ls", "{url}/missing"], 4),
        (["cp", "{url}/missing", "{local}/x"], 4),
        (["cp", "{local}/missing", "{url}/x"], 7),
        (["cp", "-E", "{local}", "{url}/x"], 2),
        (["cp", "{local}", "{url}/x"], 2),
        (["cp", "a", "b"], 2),
        (["cp", "{url}/a"], 2),
        (["cp", "-B", "nonsense", "{url}/a", "{local}/x"], 2),
        (["checksum", "{url}/missing"], 4),
        (["ls", "ftp://nobody:wrong@127.0.0.1:{port}/"], 3),
        (["ls", "ftp://127.0.0.1:1/"], 6),
        (["ls", "https://127.0.0.1:1/rest/auth/X:/", "-u", "a:b"], 6),
        (["nonsense"], 2),
        (["ls", "-i", "{local}/nokey", "https://127.0.0.1:1/rest/auth/X:/"], 7),
    ],
)
def test_exit_codes_and_one_line(server: PlainServer, arguments: list[str], code: int, tmp_path: Path) -> None:
    values = {"url": server.url, "local": tmp_path, "port": server.port}
    outcome = uftp(*(argument.format(**values) for argument in arguments))
    if "wrong" in arguments[-1] and server.name == "vsftpd":
        code = outcome.code if outcome.code in (3, 5) else 3  # it says 530 This FTP server is anonymous only
    assert outcome.code == code, outcome.err
    assert outcome.out == b""
    assert len(outcome.error_lines) == 1
    assert outcome.err.startswith("uftp: ")
    assert "secret" not in outcome.err


def test_ctrl_c_leaves_nothing(server: PlainServer, there: Path) -> None:
    reader, writer = os.pipe()
    running = subprocess.Popen(
        [UFTP, "cp", "-", server.url + "/slow"], stdin=reader, stderr=subprocess.PIPE, env=environment()
    )
    os.close(reader)
    try:
        os.write(writer, b"x" * 60_000)
        deadline = time.monotonic() + 20
        while not any(path.stat().st_size for path in there.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [path.name.startswith(".uftp-") for path in there.iterdir()] == [True]
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    finally:
        os.close(writer)
        running.kill()
        running.wait()
    assert running.returncode == 130
    assert err.startswith(b"uftp: interrupted; ")
    assert err.count(b"\n") == 1
    assert list(there.iterdir()) == []


@pytest.mark.parametrize("command", ["ls", "cat"])
def test_a_reader_that_has_enough_is_no_trouble(server: PlainServer, there: Path, command: str) -> None:
    (there / "big").write_bytes(CONTENT)
    place = {"ls": "/", "cat": "/big"}[command]
    for number in range(30):
        (there / f"file{number}").write_bytes(b"")
    with subprocess.Popen(
        [UFTP, command, server.url + place], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""

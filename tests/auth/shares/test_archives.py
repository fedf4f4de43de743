"""Directories as zip and tar, unpacked by the programs people have."""

from __future__ import annotations

import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from delivering import SECONDS, Delivering
from peer_programs import needed


@pytest.fixture
def tree(delivering: Delivering) -> Path:
    top = delivering.directory()
    delivering.file(top / "empty", b"")
    delivering.file(top / "text.txt", b"the same line\n" * 5000)
    delivering.file(top / "random.gz", os.urandom(200_000))
    delivering.file(top / "a" / "b" / "deep", b"deep")
    delivering.file(top / "a" / "ümlaut \N{PARTY POPPER}", b"umlaut")
    delivering.file(top / "a" / ("long" * 50), b"long")
    delivering.file(top / "a" / "large", os.urandom(3_000_000))
    for number in range(100):
        delivering.file(top / "many" / f"f{number}", b"%d" % number * number)
    os.mkdir(top / "nothing")
    delivering.site.give(top / "nothing")
    os.utime(top / "text.txt", (1_600_000_001, 1_600_000_001))
    os.chmod(top / "text.txt", 0o750)
    (top / "loop").symlink_to(".")
    (top / "a" / "link").symlink_to("../text.txt")
    (top / "out").symlink_to("/etc")
    return top


def contents(top: Path) -> dict[str, bytes | None]:
    """Files by their way, and directories; links left out."""
    found: dict[str, bytes | None] = {}
    for path in top.rglob("*"):
        if not path.is_symlink() and not any(parent.is_symlink() for parent in path.relative_to(top).parents):
            found[str(path.relative_to(top))] = path.read_bytes() if path.is_file() else None
    return found


UNPACK = {
    "zip": [["unzip", "-q", "{file}"], ["bsdtar", "-xf", "{file}"]],
    "tar": [["tar", "-xf", "{file}"], ["bsdtar", "-xf", "{file}"]],
}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unpacked_it_is_the_same(delivering: Delivering, tree: Path, kind: str) -> None:
    url = delivering.share(tree)
    reply = delivering.curl(f"{url}/?format={kind}")
    assert reply.status == 200
    assert reply.headers["content-disposition"] == f'attachment; filename="{tree.name}.{kind}"'
    archive = delivering.work / f"archive.{kind}"
    archive.write_bytes(reply.body)
    expected = contents(tree)
    for number, words in enumerate(UNPACK[kind]):
        target = delivering.work / f"unpacked{number}"
        target.mkdir()
        program = needed(words[0])
        arguments = [word.format(file=archive) for word in words[1:]]
        subprocess.run([program, *arguments], cwd=target, check=True, timeout=SECONDS)
        assert contents(target / tree.name) == expected, words
        info = (target / tree.name / "text.txt").stat()
        assert (info.st_mtime, info.st_mode & 0o777) == (1_600_000_001, 0o750)
    if kind == "zip":
        with zipfile.ZipFile(archive) as opened:
            assert opened.testzip() is None
            packed = opened.getinfo(f"{tree.name}/text.txt")
            assert packed.compress_size < packed.file_size // 10
            assert opened.getinfo(f"{tree.name}/random.gz").compress_type == zipfile.ZIP_STORED
    else:
        with tarfile.open(archive) as opened_tar:
            assert len(opened_tar.getnames()) == len(set(opened_tar.getnames())) == len(expected) + 1


def test_a_directory_below(delivering: Delivering, tree: Path) -> None:
    url = delivering.share(tree)
    archive = delivering.work / "a.tar"
    archive.write_bytes(delivering.curl(f"{url}/a/b?format=tar").body)
    with tarfile.open(archive) as opened:
        assert opened.getnames() == ["b", "b/deep"]
    assert delivering.curl("-I", f"{url}/a?format=tar").headers["content-type"] == "application/x-tar"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_what_cannot_be_read_breaks_the_archive(delivering: Delivering, tree: Path, kind: str) -> None:
    locked = delivering.file(tree / "many" / "locked", b"x" * 1000)
    locked.chmod(0)
    url = delivering.share(tree)
    reply = delivering.curl(f"{url}?format={kind}", ok=False)
    assert reply.code != 0 or reply.status >= 400


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_session_that_dies_breaks_the_archive(delivering: Delivering, kind: str) -> None:
    top = delivering.directory()
    for number in range(3):
        os.truncate(delivering.file(top / f"huge{number}.gz", b""), 200_000_000)
    url = delivering.share(top)
    command = ["curl", "-sS", "--cacert", delivering.ca, "--limit-rate", "4M", f"{url}?format={kind}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.read(1_000_000)
        delivering.kill_sessions()
        while client.stdout.read(1 << 20):
            pass
        assert client.wait(SECONDS) == 18  # partial file

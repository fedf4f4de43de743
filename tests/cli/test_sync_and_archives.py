"""`uftp sync` and `uftp cp -a` against our own server, as a person runs them."""

from __future__ import annotations

import io
import os
import pwd
import random
import shutil
import signal
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_standalone import PASSWORD, account, standalone
from running_uftp import UFTP, Outcome, environment, uftp

pytestmark = pytest.mark.slow

BASE = random.Random(2).randbytes(3_000_000)
EDITED = BASE[:1_000_000] + b"some bytes more" + BASE[1_000_000:]


@dataclass(frozen=True)
class Place:
    """A server, and a directory that its user may write to."""

    auth: str
    ca: str
    directory: Path

    @property
    def url(self) -> str:
        return f"{self.auth}/TEST:{self.directory}"

    def __call__(self, *arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None) -> Outcome:
        command, *rest = arguments
        login = ("--ca", self.ca, "-u", "joe")
        return uftp(command, *login, *rest, stdin=stdin, env={"UFTP_PASSWORD": PASSWORD}, cwd=cwd)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> Path:
        """A file of the user's on the server."""
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(mode)
        if os.geteuid() == 0:
            shutil.chown(path, account())
        return path


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


def files(top: Path) -> dict[str, bytes]:
    return {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file() and not p.is_symlink()}


def test_sync_both_ways(there: Place, tmp_path: Path) -> None:
    local = tmp_path / "f"
    local.write_bytes(EDITED)
    remote = there.file("f", BASE, 0o640)
    done = there("sync", "--json", local, there.url + "/f")
    assert done.code == 0, done.err
    (record,) = done.records
    assert (record["type"], record["method"], record["verified"]) == ("sync", "delta", "BLAKE3")
    assert (record["size"], record["reason"]) == (len(EDITED), None)
    assert 15 <= record["literal"] < 2000
    assert remote.read_bytes() == EDITED
    assert stat.S_IMODE(remote.stat().st_mode) == 0o640
    local.write_bytes(BASE)
    local.chmod(0o600)
    done = there("sync", there.url + "/f", ".", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "of 3.0 MB moved (0.0 %)" in done.err
    assert local.read_bytes() == EDITED
    assert stat.S_IMODE(local.stat().st_mode) == 0o600
    assert [p.name for p in (*tmp_path.iterdir(), *there.directory.iterdir())] == ["f", "f"]


def test_sync_where_the_server_cannot(there: Place, tmp_path: Path) -> None:
    """A file with a second name is written in place, which no delta can be."""
    local = tmp_path / "f"
    local.write_bytes(EDITED)
    os.link(there.file("f", BASE), there.directory / "other")
    done = there("sync", local, there.url + "/f")
    assert done.code == 0, done.err
    assert "all 3.0 MB copied" in done.err
    assert "store it as a whole" in done.err
    assert files(there.directory) == {"f": EDITED, "other": EDITED}
    assert there("sync", tmp_path, there.url + "/f").code == 2
    (line,) = there("sync", "--json", "-q", local, there.url + "/").records
    assert line["method"] == "delta" or "store it" in line["reason"]


def test_sync_of_trees(there: Place, tmp_path: Path) -> None:
    source, target = tmp_path / "tree", there.directory / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "f").write_bytes(b"1")
    (source / "g.tmp").write_bytes(b"2")
    done = there("sync", "--exclude", "*.tmp", "--dry-run", source, there.url + "/tree")
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.lines] == ["mkdir", "copy"]
    assert done.err == "1 file to copy (1 B), 0 to delete, 0 unchanged, 0 with errors; nothing was changed\n"
    assert not target.exists()
    done = there("sync", "--exclude", "*.tmp", source, there.url + "/tree")
    assert (done.code, done.out) == (0, b""), done.err
    assert done.err.startswith("1 file, 1 B in ")
    assert files(target) == {"sub/f": b"1"}
    (source / "sub" / "f").unlink()
    done = there("sync", "--delete", "--json", source, there.url + "/tree")
    assert done.code == 0, done.err
    assert done.err == ""
    kinds = [(record["type"], record.get("ok"), record.get("dry_run")) for record in done.records]
    assert kinds == [("file", True, None), ("delete", True, None), ("summary", None, None)]
    assert done.records[1]["target"] == there.url + "/tree/sub/f"
    assert {name: done.records[-1][name] for name in ("files", "deleted", "failed")} == {
        "files": 1,
        "deleted": 1,
        "failed": 0,
    }
    assert files(target) == {"g.tmp": b"2"}
    there.file("tree/extra", b"").chmod(0o600)
    done = there("sync", "-q", there.url + "/tree", tmp_path / "back")
    assert (done.code, done.out, done.err) == (0, b"", "")
    assert files(tmp_path / "back") == {"g.tmp": b"2", "extra": b""}
    done = there("sync", "--delete", tmp_path / "nothing", there.url + "/tree")
    assert done.code == 7
    assert len(done.error_lines) == 1
    assert files(target) == files(tmp_path / "back")


def test_an_interrupted_sync_leaves_the_old_file(there: Place, tmp_path: Path) -> None:
    """The leader has 200 MB to search before it sends anything, and is interrupted as it begins."""
    remote = there.file("f", BASE)
    large = tmp_path / "large"
    with large.open("wb") as file:
        for number in range(200):
            file.write(random.Random(number).randbytes(1_000_000))
    process = subprocess.Popen(
        [UFTP, "sync", "--debug", "--ca", there.ca, "-u", "joe", large, there.url + "/f"],
        stderr=subprocess.PIPE,
        env=environment({"UFTP_PASSWORD": PASSWORD}),
        text=True,
    )
    assert process.stderr is not None
    previous = ""
    for line in process.stderr:
        if "< 200 OK" in line and "SYNC" in previous:
            break
        previous = line
    process.send_signal(signal.SIGINT)
    process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 130
    assert remote.read_bytes() == BASE


def tar_of(tree: dict[str, bytes], *links: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in tree.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return out.getvalue()


TREE = {"a": b"1", "sub/dir/b": BASE, "c d": b""}


@pytest.mark.parametrize("options", [(), ("-C",), ("-E",)], ids=lambda options: "".join(options) or "plain")
def test_archives_from_files_and_standard_input(there: Place, tmp_path: Path, options: tuple[str, ...]) -> None:
    archive = tmp_path / "t.tar"
    archive.write_bytes(tar_of(TREE))
    done = there("cp", "-a", *options, archive, there.url)
    assert done.code == 0, done.err
    assert files(there.directory) == TREE
    shutil.rmtree(there.directory / "sub")
    done = there("cp", "-a", *options, "-", there.url + "/", stdin=tar_of(TREE))
    assert done.code == 0, done.err
    assert files(there.directory) == TREE


def test_refused_members_are_named(there: Place, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(tar_of({**TREE, "../up": b"evil"}, "link"))
    (tmp_path / "good.tar").write_bytes(tar_of({"good": b"1"}))
    done = there("cp", "-a", "bad.tar", "good.tar", there.url, cwd=tmp_path)
    assert done.code == 10
    assert "2 of 5 members not unpacked: ../up has a name that leads upwards; link is a link" in done.err
    assert files(there.directory) == {**TREE, "good": b"1"}
    assert not (there.directory.parent / "up").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-a", "t.tar", "URL/nosuch"), 4, "create it with mkdir"),
        (("-a", "t.tar", "URL/file"), 5, "is no directory"),
        (("-a", "nosuch.tar", "URL"), 7, "No such file"),
        (("-a", "text", "URL"), 9, "neither a tar nor a zip archive"),
        (("-a", "URL/file", "."), 2, "the sources must be here"),
        (("-a", "-r", "t.tar", "URL"), 2, "no sense"),
        (("-a", "-", "-", "URL"), 2, "once only"),
    ],
    ids=range(7),
)
def test_archives_that_cannot_be_sent(
    there: Place, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    there.file("file", b"1")
    (tmp_path / "t.tar").write_bytes(tar_of(TREE))
    (tmp_path / "text").write_bytes(b"text" * 300)
    done = there("cp", *(word.replace("URL", there.url) for word in arguments), cwd=tmp_path)
    assert done.code == code, done.err
    assert said in done.err
    assert len(done.error_lines) == 1
    assert files(there.directory) == {"file": b"1"}

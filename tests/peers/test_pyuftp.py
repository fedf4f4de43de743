"""pyuftp's command line, against auth server and data node."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from ftp_account import BINARY, LARGE, tree
from peer_programs import Outcome, beside_python, run
from uftp_site import Site

pytestmark = pytest.mark.slow


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """The client's directory."""
    path = tmp_path / "local"
    path.mkdir()
    return path


def pyuftp(site: Site, local: Path, *arguments: str, stdin: bytes | None = None, user: str = "") -> Outcome:
    """Run it; what it complains about without failing is a failure too."""
    name = user or site.first
    login = ("-u", f"{name}:{site.password(name)}")
    done = run(beside_python("pyuftp"), *arguments, *login, cwd=local, stdin=stdin, PYTHONWARNINGS="ignore")
    assert b"ERROR" not in done.out
    assert done.err == ""
    return done


def test_info(site: Site, local: Path) -> None:
    text = pyuftp(site, local, "info", "-C", site.auth).text
    assert f"Remote user info: uid={site.first}" in text
    assert "Server status:    OK" in text
    assert "Connected to UFTPD 'TEST' at 127.0.0.1:" in text
    assert "ERROR" not in text


def test_authenticate(site: Site, local: Path) -> None:
    text = pyuftp(site, local, "authenticate", site.url("/tmp/")).text
    assert text.startswith(f"Connect to {site.ready['nodes']['TEST']} password: ")


def test_ls(site: Site, local: Path) -> None:
    remote = site.directory()
    site.file(remote / "a file", b"123")
    (remote / "sub").mkdir()
    lines = sorted(pyuftp(site, local, "ls", site.url(f"{remote}/")).lines)
    assert [line.split(maxsplit=5)[-1] for line in lines] == ["a file", "sub"]
    assert lines[0].startswith("-rw-")
    assert lines[1].startswith("d")


@pytest.mark.parametrize("threads", ["1", "4"])
def test_copies_there_and_back(site: Site, local: Path, threads: str) -> None:
    remote = site.directory()
    for number in range(5):
        (local / f"file{number}").write_bytes(BINARY[number:])
    pyuftp(site, local, "cp", "-t", threads, "file*", site.url(f"{remote}/"))
    wanted = tree(local)
    assert tree(remote) == wanted
    back = local / "back"
    back.mkdir()
    pyuftp(site, local, "cp", "-t", threads, site.url(f"{remote}/file*"), "back")
    assert tree(back) == wanted


@pytest.mark.parametrize("threads", ["1", "4"])
def test_recursive_copies(site: Site, local: Path, threads: str) -> None:
    remote = site.directory()
    for name in ("sub", "sub/deep"):
        (remote / name).mkdir()  # it makes none itself
        site.give(remote / name)
    for name in ("one", "sub/two", "sub/deep/three"):
        (local / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (local / "from" / name).write_bytes(name.encode())
    pyuftp(site, local, "cp", "-r", "-t", threads, "from/*", site.url(f"{remote}/"))
    assert tree(remote) == tree(local / "from")


def test_one_large_file(site: Site, local: Path) -> None:
    remote = site.directory()
    (local / "large").write_bytes(LARGE)
    pyuftp(site, local, "cp", "large", site.url(remote / "up"))
    assert (remote / "up").read_bytes() == LARGE
    pyuftp(site, local, "cp", site.url(remote / "up"), "back")
    assert (local / "back").read_bytes() == LARGE


def test_ranges(site: Site, local: Path) -> None:
    remote = site.directory()
    site.file(remote / "file", BINARY)
    pyuftp(site, local, "cp", "-B", "1000-1999", site.url(remote / "file"), "part")
    assert (local / "part").read_bytes() == BINARY[1000:2000]
    (local / "new").write_bytes(bytes(3000))
    pyuftp(site, local, "cp", "-B", "1000-1999-p", "new", site.url(remote / "file"))
    assert (remote / "file").read_bytes() == BINARY[:1000] + bytes(1000) + BINARY[2000:]


def test_standard_streams(site: Site, local: Path) -> None:
    remote = site.directory()
    pyuftp(site, local, "cp", "-", site.url(remote / "file"), stdin=BINARY)
    assert (remote / "file").read_bytes() == BINARY
    assert pyuftp(site, local, "cp", site.url(remote / "file"), "-").out.startswith(BINARY)


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_archives(site: Site, local: Path, form: str) -> None:
    """From standard input. Files it uploads by another session than the one it sets the mode in: stored as they are."""
    remote = site.directory()
    (local / "from" / "sub").mkdir(parents=True)
    for name in ("one", "sub/two"):
        (local / "from" / name).write_bytes(name.encode())
    archive = Path(shutil.make_archive(str(local / "archive"), form, local / "from"))
    pyuftp(site, local, "cp", "-a", "-", site.url(remote), stdin=archive.read_bytes())
    assert tree(remote) == tree(local / "from")
    pyuftp(site, local, "cp", "-a", str(archive), site.url(remote))
    assert (remote / archive.name).read_bytes() == archive.read_bytes()


def test_directories_and_removal(site: Site, local: Path) -> None:
    remote = site.directory()
    pyuftp(site, local, "mkdir", site.url(remote / "made"))
    assert tree(remote) == {"made": None}
    site.file(remote / "file", b"x")
    pyuftp(site, local, "rm", site.url(remote / "file"), stdin=b"y\n")
    assert tree(remote) == {"made": None}


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-1", "SHA-256", "SHA-512"])
def test_checksum(site: Site, local: Path, algorithm: str) -> None:
    remote = site.directory()
    site.file(remote / "file", BINARY)
    wanted = hashlib.new(algorithm.replace("SHA-1", "sha1").replace("-", "").lower(), BINARY).hexdigest()
    assert wanted in pyuftp(site, local, "checksum", "-a", algorithm, site.url(remote / "file")).text


def test_find(site: Site, local: Path) -> None:
    remote = site.directory()
    for name in ("a", "b"):
        site.file(remote / name, b"")
    found = pyuftp(site, local, "find", "-r", site.url(f"{remote}/")).text
    assert f"{remote}/a" in found
    assert f"{remote}/b" in found


def test_another_users_files_are_closed(site: Site, local: Path) -> None:
    if len(site.people) < 2:
        pytest.skip("one user only")
    remote = site.directory(mode=0o700)
    site.file(remote / "file", b"private")
    other = list(site.people)[1]
    name = ("-u", f"{other}:{site.password(other)}")
    done = run(beside_python("pyuftp"), "cp", site.url(remote / "file"), "got", *name, cwd=local, code=1)
    assert b"530 Not logged in" in done.out
    assert tree(local) == {}

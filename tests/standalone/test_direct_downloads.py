"""Shared files fetched straight from the data node: `uftpd standalone --direct`, and the programs people use."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_standalone import PASSWORD, UFTPD, Standalone, account, standalone

pytestmark = pytest.mark.slow

LARGE = os.urandom(1 << 20) * 6 + b"tail"
ANYBODY = "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN"


@dataclass
class Site:
    """A server whose downloads are direct, and a place for shared files.

    Attributes:
        files: a directory of the account.
    """

    server: Standalone
    files: Path

    @property
    def base(self) -> str:
        return self.server.auth.removesuffix("/rest/auth")

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return run("curl", "-sS", "--cacert", self.server.ca, *arguments)

    def file(self, name: str, content: bytes) -> Path:
        path = self.files / name
        path.write_bytes(content)
        return path

    def share(self, path: str, **fields: object) -> str:
        """A link for anybody."""
        body = json.dumps({"path": path, "user": ANYBODY, "access": "READ", **fields})
        login = ["-u", f"joe:{PASSWORD}", "-H", "Content-Type: application/json"]
        done = self.curl(*login, "-d", body, "-D", "-", f"{self.base}/rest/share/TEST")
        place = [line for line in done.stdout.decode().splitlines() if line.lower().startswith("location:")]
        assert place, done.stdout
        return f"{self.base}/rest/access/TEST/{place[0].strip().rpartition('/')[2]}"

    def served_by_node(self) -> int:
        """How many requests the data node itself has answered."""
        return self.server.log().count(" session: object ")


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return subprocess.run([program, *arguments], capture_output=True, timeout=60, check=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    entry = pwd.getpwnam(account())
    files = Path(tempfile.mkdtemp(prefix="uftp-shared-"))
    files.chmod(0o755)
    try:
        with standalone(tmp_path_factory.mktemp("direct") / "state", "--direct") as server:
            if os.geteuid() == 0:
                os.chown(files, entry.pw_uid, entry.pw_gid)
            yield Site(server, files)
    finally:
        shutil.rmtree(files)


@pytest.fixture
def link(site: Site) -> str:
    return site.share(str(site.file("large file.bin", LARGE)))


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


SUM = hashlib.sha256(LARGE).hexdigest()


def test_curl_is_sent_on_to_the_node(site: Site, link: str, tmp_path: Path) -> None:
    before = site.served_by_node()
    done = site.curl("-f", "-L", "-w", "%{num_redirects} %{url_effective}", "-o", str(tmp_path / "out"), link)
    count, place = done.stdout.decode().split(" ", 1)
    assert count == "1"
    assert place.startswith("https://127.0.0.1:")
    assert place.endswith("/large%20file.bin")
    assert not place.startswith(site.base)
    assert checksum(tmp_path / "out") == SUM
    assert site.served_by_node() > before


def test_curl_resumes(site: Site, link: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(LARGE[:1_000_001])
    site.curl("-f", "-L", "-C", "-", "-o", str(tmp_path / "out"), link)
    assert checksum(tmp_path / "out") == SUM


def test_a_tag_that_was_given_is_known_when_it_comes_back(site: Site, link: str, tmp_path: Path) -> None:
    """Whoever delivered the file: what a client knows of it is asked of the same server next time."""
    out, tag = str(tmp_path / "out"), str(tmp_path / "tag")
    site.curl("-f", "-L", "-o", out, "--etag-save", tag, link)
    etag = Path(tag).read_text().strip()
    done = site.curl("-L", "-o", out, "-w", "%{http_code}", "-r", "0-99", "-H", f"If-Match: {etag}", link)
    assert done.stdout == b"206"
    done = site.curl("-L", "-o", out, "-w", "%{http_code}", "-r", "0-99", "-H", f"If-Range: {etag}", link)
    assert done.stdout == b"206"
    done = site.curl("-L", "-o", out, "-w", "%{http_code}", "-H", f"If-None-Match: {etag}", link)
    assert done.stdout == b"304"
    head = site.curl("-f", "-L", "-I", link).stdout.decode().lower()
    assert f"etag: {etag}".lower() in head, "as the file's own"


def test_aria2c_with_eight_connections(site: Site, link: str, tmp_path: Path) -> None:
    options = ["-q", "-x8", "-s8", "-k1M", "--file-allocation=none", f"--ca-certificate={site.server.ca}"]
    run("aria2c", *options, "-d", str(tmp_path), "-o", "out", link)
    assert checksum(tmp_path / "out") == SUM


def test_wget_resumes(site: Site, link: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(LARGE[:1_000_001])
    run("wget", "-nv", "-c", f"--ca-certificate={site.server.ca}", "-O", str(tmp_path / "out"), link)
    assert checksum(tmp_path / "out") == SUM


def test_our_own_client(site: Site, link: str, tmp_path: Path) -> None:
    before = site.served_by_node()
    uftp = str(UFTPD.with_name("uftp"))
    run(uftp, "get-share", "--http", "-t", "4", "--ca", site.server.ca, link, str(tmp_path / "out"))
    assert checksum(tmp_path / "out") == SUM
    assert site.served_by_node() > before


def test_a_file_of_a_shared_directory(site: Site, tmp_path: Path) -> None:
    (site.files / "folder").mkdir()
    site.file("folder/grün.bin", LARGE)
    site.file("outside", LARGE)
    (site.files / "folder" / "out").symlink_to("../outside")
    (site.files / "folder" / "in").symlink_to("grün.bin")
    link = site.share(f"{site.files}/folder/")
    before = site.server.log().count("object server started")
    for name in ("gr%C3%BCn.bin", "in"):
        done = site.curl("-f", "-L", "-o", str(tmp_path / "out"), "-w", "%{num_redirects}", f"{link}/{name}")
        assert done.stdout == b"1"
        assert checksum(tmp_path / "out") == SUM
    assert site.server.log().count("object server started") == before + 1, "one process for all files of a share"
    for wrong in ("out", "../outside", "%2e%2e/outside"):
        done = site.curl("--path-as-is", "-L", "-o", "/dev/null", "-w", "%{http_code}", f"{link}/{wrong}")
        assert done.stdout == b"404", wrong


def test_a_directory_that_is_a_link(site: Site, tmp_path: Path) -> None:
    (site.files / "far" / "away").mkdir(parents=True)
    site.file("far/away/file.bin", LARGE)
    (site.files / "near").symlink_to("far/away")
    link = site.share(f"{site.files}/near/")
    done = site.curl("-f", "-L", "-o", str(tmp_path / "out"), "-w", "%{num_redirects}", f"{link}/file.bin")
    assert done.stdout == b"1"
    assert checksum(tmp_path / "out") == SUM


def test_a_share_for_one_download_is_delivered_by_the_auth_server(site: Site, tmp_path: Path) -> None:
    link = site.share(str(site.file("once.bin", LARGE)), onetime=True)
    done = site.curl("-f", "-L", "-o", str(tmp_path / "out"), "-w", "%{num_redirects}", link)
    assert done.stdout == b"0"
    assert checksum(tmp_path / "out") == SUM


def test_without_the_option_the_auth_server_delivers(tmp_path: Path, site: Site) -> None:
    with standalone(tmp_path / "state") as server:
        other = Site(server, site.files)
        link = other.share(str(site.file("large file.bin", LARGE)))
        done = other.curl("-f", "-L", "-o", str(tmp_path / "out"), "-w", "%{num_redirects}", link)
        assert done.stdout == b"0"
        assert checksum(tmp_path / "out") == SUM
        assert other.served_by_node() == 0

"""Downloads by the programs people use: curl, wget, aria2c, each resumed and in parallel where it can."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_node import Node, Person, running_node
from object_client import TlsFiles, link

CONTENT = os.urandom(1 << 20) * 20 + b"tail"
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return TlsFiles(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", params=["http", "https"])
def node(request: pytest.FixtureRequest, people: tuple[Person, Person], tls: TlsFiles) -> Iterator[Node]:
    objects: dict[str, object] = {"listen": ["127.0.0.1:0"]} if request.param == "http" else {**tls.settings}
    with running_node(people[0], as_root=os.geteuid() == 0, objects=objects) as running:
        yield running


@pytest.fixture
def url(node: Node) -> str:
    return link(node, node.file(node.directory() / "large file.bin", CONTENT)) + "/large%20file.bin"


def run(tls: TlsFiles, directory: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    trusted = {"CURL_CA_BUNDLE": str(tls.ca_file), "PATH": os.environ["PATH"], "HOME": str(directory)}
    return subprocess.run(
        [program, *arguments], cwd=directory, env=trusted, capture_output=True, text=True, timeout=60, check=False
    )


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_curl(tls: TlsFiles, tmp_path: Path, url: str) -> None:
    done = run(tls, tmp_path, "curl", "-sS", "-f", "-OJ", url)
    assert done.returncode == 0, done.stderr
    assert checksum(tmp_path / "large file.bin") == SUM


def test_curl_resumes(tls: TlsFiles, tmp_path: Path, url: str) -> None:
    (tmp_path / "out").write_bytes(CONTENT[:1_234_567])
    done = run(tls, tmp_path, "curl", "-sS", "-f", "-C", "-", "-o", "out", url)
    assert done.returncode == 0, done.stderr
    assert checksum(tmp_path / "out") == SUM


def test_curl_fetches_only_what_has_changed(tls: TlsFiles, tmp_path: Path, url: str) -> None:
    for _ in range(2):
        done = run(
            tls, tmp_path, "curl", "-sS", "-f", "--etag-save", "tag", "--etag-compare", "tag", "-o", "out",
            "-w", "%{http_code} %{size_download}", url,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert done.stdout == "304 0"


def test_wget_resumes(tls: TlsFiles, tmp_path: Path, url: str) -> None:
    (tmp_path / "out").write_bytes(CONTENT[:1_234_567])
    done = run(tls, tmp_path, "wget", "-nv", "-c", f"--ca-certificate={tls.ca_file}", "-O", "out", url)
    assert done.returncode == 0, done.stderr
    assert checksum(tmp_path / "out") == SUM


def test_aria2c_with_eight_connections(tls: TlsFiles, tmp_path: Path, url: str, node: Node) -> None:
    done = run(
        tls, tmp_path, "aria2c", "-q", "-x8", "-s8", "-k1M", "--file-allocation=none",
        f"--ca-certificate={tls.ca_file}", "-o", "out", url,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert checksum(tmp_path / "out") == SUM
    assert len([e for e in node.log("object") if e["status"] == 206]) >= 7, "in pieces"

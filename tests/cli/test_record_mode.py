"""`uftp` and our own servers, in MODE U and out of it: same files, same times, same errors."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_standalone import PASSWORD, Standalone, account, standalone
from running_uftp import Outcome, uftp, uftp_inside

pytestmark = pytest.mark.slow

MODES = {
    "plain": ([], "MODE U, not encrypted, verified by BLAKE3"),
    "encrypted": (["-E"], "MODE U, AES-256-GCM, verified by BLAKE3"),
    "compressed": (["-C"], "MODE U, not encrypted, zstd level 1, verified by BLAKE3"),
    "both": (["-E", "-C", "--compression-level", "3"], "MODE U, AES-256-GCM, zstd level 3, verified by BLAKE3"),
    "stream": (["--mode", "stream"], "MODE S, not encrypted"),
    "old cipher": (["--mode", "stream", "-E", "--legacy-cipher", "aes"], "MODE S, AES"),
}


class Place:
    """A server, and a directory that its user may write to."""

    def __init__(self, server: Standalone, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.url = f"{server.auth}/TEST:{directory}"

    def __call__(self, command: str, *arguments: str | Path) -> Outcome:
        run = uftp if "--debug" in arguments else uftp_inside  # which sets up logging for a whole process
        return run(command, "--ca", self.server.ca, "-u", "joe", *arguments, env={"UFTP_PASSWORD": PASSWORD})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = Path(tempfile.mkdtemp(prefix="uftp-test-"))  # other users cannot enter pytest's
    if os.geteuid() == 0:
        os.chown(directory, pwd.getpwnam(account()).pw_uid, -1)
    try:
        with standalone(tmp_path_factory.mktemp("standalone") / "state") as running:
            yield Place(running, directory)
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def there(place: Place) -> Iterator[Place]:
    yield place
    for entry in place.directory.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all sizes around those that matter, sparse ones, ones that compress, and odd names."""
    top = tmp_path_factory.mktemp("tree")
    source = random.Random(7)
    sizes = [0, 1, 65_535, 65_536, 1_048_575, 1_048_576, 1_048_577, 4_194_305]
    for directory in ("a", "a/b", "c"):
        (top / directory).mkdir()
        for number in range(25):
            (top / directory / f"small {number}").write_bytes(b"%d " % number * source.randrange(1000))
        for size in sizes:
            (top / directory / f"random {size}").write_bytes(source.randbytes(size))
    with open(top / "sparse", "wb") as sparse:
        sparse.seek(5_000_000)
        sparse.write(b"in the middle")
        sparse.truncate(9_000_000)
    (top / "odd \n %41 \u00e4").write_text("odd")
    for path in top.rglob("*"):
        if path.is_file():
            path.chmod(source.choice([0o600, 0o640, 0o644, 0o755]))
            moment = source.randrange(10**18, 17 * 10**17)
            os.utime(path, ns=(moment, moment))
    return top


def facts(top: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path.relative_to(top)): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in top.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("mode", MODES)
def test_trees_both_ways(mode: str, there: Place, tree: Path, tmp_path: Path) -> None:
    options, words = MODES[mode]
    up = there("cp", "-v", "-r", "-p", *options, f"{tree}/", there.url + "/tree")
    assert up.code == 0, up.err
    assert words in up.err
    assert facts(there.directory / "tree") == facts(tree)
    down = there("cp", "-v", "-r", "-p", *options, there.url + "/tree", tmp_path / "back")
    assert down.code == 0, down.err
    assert words in down.err
    assert facts(tmp_path / "back") == facts(tree)


@pytest.mark.parametrize("mode", MODES)
def test_large_files_in_ranges(mode: str, there: Place, tmp_path: Path) -> None:
    options, _ = MODES[mode]
    source = tmp_path / "source"
    source.write_bytes(random.Random(3).randbytes(20_000_000) * 2 + b"end")
    assert there("cp", "-t", "3", "-T", "32m", *options, source, there.url + "/big").code == 0
    assert (there.directory / "big").read_bytes() == source.read_bytes()
    assert there("cp", "-t", "3", "-T", "32m", *options, there.url + "/big", tmp_path / "back").code == 0
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert there("cp", "-B", "5-1000004", *options, there.url + "/big", tmp_path / "part").code == 0
    assert (tmp_path / "part").read_bytes() == source.read_bytes()[5:1_000_005]
    (tmp_path / "new").write_bytes(b"\0" * 2_000_000)
    assert there("cp", "-B", "7-1000006-p", *options, tmp_path / "new", there.url + "/big").code == 0
    expected = bytearray(source.read_bytes())
    expected[7:1_000_007] = bytes(1_000_000)
    assert (there.directory / "big").read_bytes() == expected


@pytest.mark.parametrize("mode", MODES)
def test_failures_are_of_their_files_alone(mode: str, there: Place, tmp_path: Path) -> None:
    options, _ = MODES[mode]
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"f{number:02}").write_text(f"{number}")
    (there.directory / "f07").mkdir(mode=0o755)
    up = there("cp", "-r", *options, f"{source}/", there.url)
    assert up.code == 10
    assert "f07" in up.err
    assert "1 of 20 files failed" in up.err
    assert sorted(path.name for path in there.directory.iterdir()) == [f"f{number:02}" for number in range(20)]
    (tmp_path / "back" / "f11").mkdir(parents=True)
    down = there("cp", *options, there.url + "/f*", tmp_path / "back")
    assert "f11" in down.err
    assert "1 of 19 files failed" in down.err
    assert down.code == 10
    assert (tmp_path / "back" / "f19").read_text() == "19"
    assert there("cp", *options, there.url + "/nope", tmp_path / "x").code == 4


def test_contradictions_are_named(there: Place, tmp_path: Path) -> None:
    for options, words in (
        (["-E", "--mode", "stream"], "--legacy-cipher"),
        (["--compression-level", "3"], "use it with -C"),
        (["--mode", "block"], "block"),
        (["-C", "--compression-level", "20"], "20"),
    ):
        outcome = there("cp", *options, there.url + "/x", tmp_path / "x")
        assert outcome.code == 2
        assert len(outcome.error_lines) == 1
        assert words in outcome.err


def test_the_key_is_in_no_log_and_no_output(there: Place, tmp_path: Path) -> None:
    (there.directory / "f").write_text("f")
    outcome = there("cp", "-E", "--debug", "-v", there.url + "/f", tmp_path / "f")
    assert outcome.code == 0
    assert "MODE U CRYPT=AES-256-GCM" in outcome.err
    for text in (outcome.err, there.server.log()):
        assert "encryptionKey" not in text
        assert "key=" not in text

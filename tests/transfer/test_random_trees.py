"""Trees of any shape, copied up and down through the real server, and compared exactly."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from random_trees import Directory, build, expected, holes, look, trees
from running_standalone import PASSWORD, account, standalone

from uftp.client.auth import HttpOptions
from uftp.client.credentials import UsernamePassword
from uftp.transfer.copy import Access, copy_files
from uftp.transfer.options import CopyOptions, Links
from uftp.transfer.results import CopyState, CopySummary

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """A server, a directory that its user may write to, and one of our own."""

    url: str
    access: Access
    there: Path
    here: Path

    def copy(self, source: str, target: str, options: CopyOptions, notes: list[str] | None = None) -> CopySummary:
        state = CopyState(on_note=(notes if notes is not None else []).append)

        async def run() -> CopySummary:
            return await copy_files([source], target, access=self.access, options=options, state=state)

        return trio.run(run)

    def clear(self) -> None:
        for directory in (self.there, self.here):
            for name in os.listdir(os.fsencode(directory)):
                remove(os.fsencode(directory) + b"/" + name)


def remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        os.chmod(path, 0o700)
        for name in os.listdir(path):
            remove(path + b"/" + name)
        os.rmdir(path)
    else:
        os.unlink(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    # Not below pytest's directory, which other users cannot enter.
    there = Path(tempfile.mkdtemp(prefix="uftp-test-"))
    if os.geteuid() == 0:
        os.chown(there, pwd.getpwnam(account()).pw_uid, -1)
    here = tmp_path_factory.mktemp("here")
    try:
        with standalone(tmp_path_factory.mktemp("standalone") / "state") as running:
            access = Access(credential=UsernamePassword("joe", PASSWORD), http=HttpOptions(ca=running.ca))
            place = Place(f"{running.auth}/TEST:{there}", access, there, here)
            yield place
            place.clear()
    finally:
        shutil.rmtree(there)


def keeping(links: Links = "keep") -> CopyOptions:
    return CopyOptions(recursive=True, preserve=True, links=links)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tree=trees)
def test_any_tree_comes_back_as_it_was(place: Place, tree: Directory) -> None:
    place.clear()
    source, there, back = (os.fsencode(path) for path in (place.here / "in", place.there / "t", place.here / "out"))
    build(source, tree)
    wanted = expected(tree)
    assert look(source) == wanted
    up = place.copy(os.fsdecode(source), f"{place.url}/t", keeping())
    assert up.failed == 0, [result.problem for result in up.failures]
    assert look(there) == wanted
    down = place.copy(f"{place.url}/t", os.fsdecode(back), keeping())
    assert down.failed == 0, [result.problem for result in down.failures]
    assert look(back) == wanted
    assert up.files == down.files == sum(node[0] != "directory" for node in wanted.values())
    # The server's account owns what is there: a directory without its owner's right to write takes nothing new, which
    # is no fault of the copy. All else can be copied once more, onto what is there.
    if all(node[1] != 0o500 for node in wanted.values() if node[0] == "directory"):
        again = place.copy(os.fsdecode(source) + "/", f"{place.url}/t", keeping())
        assert again.failed == 0, [result.problem for result in again.failures]
        assert look(there) == wanted
        again = place.copy(f"{place.url}/t/", os.fsdecode(back), keeping())
        assert again.failed == 0, [result.problem for result in again.failures]
        assert look(back) == wanted
    assert holes(back) == holes(there) == holes(source)

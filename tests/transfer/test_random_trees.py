"""Trees of any shape, copied up and down through the real server, and compared exactly."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from random_trees import Directory, build, expected, holes, look, trees
from running_standalone import PASSWORD, account, standalone

from uftp.client.auth import HttpOptions
from uftp.client.credentials import UsernamePassword
from uftp.transfer.copy import Access, copy_files
from uftp.transfer.filters import Filters, make_rules, parse_names
from uftp.transfer.options import CopyOptions, FileFacts, Links
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
    # The server's account owns what is there: without its owner's right to write a directory takes nothing new, and a
    # file is not replaced, which is no fault of the copy. All else can be copied once more, onto what is there.
    if all(int(str(node[-2])) & 0o200 for node in wanted.values() if node[0] != "link"):
        again = place.copy(os.fsdecode(source) + "/", f"{place.url}/t", keeping())
        assert again.failed == 0, [result.problem for result in again.failures]
        assert look(there) == wanted
        again = place.copy(f"{place.url}/t/", os.fsdecode(back), keeping())
        assert again.failed == 0, [result.problem for result in again.failures]
        assert look(back) == wanted
    assert holes(back) == holes(there) == holes(source)


def test_nothing_is_written_where_links_in_the_target_lead(place: Place) -> None:
    place.clear()
    for top, outside in ((place.there / "t", place.there / "outside"), (place.here / "t", place.here / "outside")):
        outside.mkdir(parents=True)
        (outside / "kept").write_text("old")
        os.chmod(outside, 0o777)
        top.mkdir()
        os.chmod(top, 0o777)
        (top / "small").symlink_to("../outside/kept")
        (top / "large").symlink_to("../outside/kept")
        (top / "nowhere").symlink_to("../outside/new")
        (top / "directory").symlink_to("../outside")
    source = place.here / "in"
    (source / "directory").mkdir(parents=True)
    (source / "directory" / "kept").write_text("new")
    for name in ("small", "nowhere"):
        (source / name).write_text(name)
    (source / "large").write_bytes(b"large" * 500_000)
    shutil.copytree(source, place.there / "source")

    for start, target, top in (
        (f"{source}/", f"{place.url}/t", place.there / "t"),
        (f"{place.url}/source/", str(place.here / "t"), place.here / "t"),
    ):
        summary = place.copy(start, target, CopyOptions(recursive=True))
        assert (summary.files, summary.failed) == (3, 1), [result.problem for result in summary.failures]
        assert "directory" in summary.failures[0].problem
        for name in ("small", "large", "nowhere"):
            assert not (top / name).is_symlink()
            assert (top / name).read_bytes() == (source / name).read_bytes()
        assert (top / "directory").is_symlink()
        assert os.listdir(top.parent / "outside") == ["kept"]
        assert (top.parent / "outside" / "kept").read_text() == "old"


def test_links_are_followed_kept_or_left_out(place: Place) -> None:
    place.clear()
    source = place.here / "in"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("content")
    (source / "file-link").symlink_to("sub/file")
    (source / "directory-link").symlink_to("sub")
    (source / "sub" / "loop").symlink_to("..")
    shutil.copytree(source, place.there / "source", symlinks=True)
    for start, parent in ((str(source), place.there), (f"{place.url}/source", place.here)):
        target = f"{place.url}/" if parent is place.there else f"{parent}/"
        for links, files, failed in (("follow", 3, 2), ("keep", 4, 0), ("skip", 1, 0)):
            options = CopyOptions(recursive=True, links=links)  # type: ignore[arg-type]
            notes: list[str] = []
            summary = place.copy(start, f"{target}{links}", options, notes)
            assert (summary.files, summary.failed) == (files, failed), (links, summary.failures)
            top = parent / links
            assert (top / "sub" / "file").read_text() == "content"
            if links == "follow":
                assert (top / "file-link").read_text() == (top / "directory-link" / "file").read_text() == "content"
                assert not any(path.is_symlink() for path in top.rglob("*"))
                assert all("leads back up" in result.problem for result in summary.failures)
            elif links == "keep":
                assert os.readlink(top / "directory-link") == "sub"
                assert os.readlink(top / "sub" / "loop") == ".."
            else:
                assert sorted(path.name for path in top.rglob("*")) == ["file", "sub"]
                assert len([note for note in notes if "is a link, left out" in note]) == 3


def test_special_files_are_left_out_with_a_note(place: Place) -> None:
    place.clear()
    source = place.here / "in"
    source.mkdir()
    os.mkfifo(source / "pipe")
    (source / "file").write_text("content")
    there = place.there / "source"
    there.mkdir()
    os.mkfifo(there / "pipe")
    (there / "file").write_text("content")
    for start, target in ((str(source), f"{place.url}/t"), (f"{place.url}/source", str(place.here / "out"))):
        notes: list[str] = []
        summary = place.copy(start, target, CopyOptions(recursive=True), notes)
        assert (summary.files, summary.failed) == (1, 0)
        assert [note for note in notes if "pipe" in note and "left out" in note]
    assert os.listdir(place.there / "t") == os.listdir(place.here / "out") == ["file"]


def test_filters_and_dry_runs(place: Place) -> None:
    place.clear()
    source = place.here / "in"
    for name in ("a/one.txt", "a/two.o", "b/one.txt", "large.txt", "old.txt"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "large.txt").write_bytes(b"x" * 100)
    os.utime(source / "old.txt", ns=(1, 1))
    shutil.copytree(source, place.there / "source")
    for start, make, parent in (
        (f"{source}/", f"{place.url}/", place.there),
        (f"{place.url}/source/", f"{place.here}/", place.here),
    ):
        for number, (filters, wanted) in enumerate(
            [
                (Filters(rules=make_rules([(False, "*.o"), (False, "/b")])), {"a/one.txt", "large.txt", "old.txt"}),
                (Filters(rules=make_rules([(True, "*/"), (True, "one.*"), (False, "*")])), {"a/one.txt", "b/one.txt"}),
                (Filters(max_size=20, newer_ns=2), {"a/one.txt", "a/two.o", "b/one.txt"}),
                (Filters(min_size=50), {"large.txt"}),
                (Filters(files_from=parse_names(b"a\nold.txt\n")), {"a/one.txt", "a/two.o", "old.txt"}),
            ]
        ):
            options = CopyOptions(recursive=True, preserve=True, filters=filters)
            rehearsed = place.copy(start, f"{make}{number}", replace(options, dry_run=True))
            assert not (parent / str(number)).exists()
            summary = place.copy(start, f"{make}{number}", options)
            assert (rehearsed.files, rehearsed.bytes) == (summary.files, summary.bytes)
            assert summary.failed == 0
            top = parent / str(number)
            assert {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()} == wanted
        filters = Filters(files_from=parse_names(b"a/one.txt\na/nosuch\nno/such\n"))
        summary = place.copy(start, f"{make}list", CopyOptions(recursive=True, filters=filters))
        assert (summary.files, summary.failed) == (1, 2)
        assert all("in the list of names" in result.problem for result in summary.failures)


def test_unchanged_files_are_left(place: Place) -> None:
    place.clear()
    source = place.here / "in"
    (source / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (source / name).write_text(name)

    def unchanged(here: FileFacts, there: FileFacts) -> bool:
        assert here.relative == there.relative
        return (here.size, here.mtime_ns, here.permissions) == (there.size, there.mtime_ns, there.permissions)

    options = CopyOptions(recursive=True, preserve=True, unchanged=unchanged)
    for start, target in ((f"{source}/", f"{place.url}/t"), (f"{place.url}/t/", str(place.here / "out"))):
        assert place.copy(start, target, options).files == 3
        assert (place.copy(start, target, options).files, place.copy(start, target, options).unchanged) == (0, 3)
        rehearsed = place.copy(start, target, replace(options, dry_run=True))
        assert (rehearsed.files, rehearsed.unchanged) == (0, 3)
        changed = source / "sub" / "c" if target.startswith("http") else place.there / "t" / "sub" / "c"
        changed.write_text("changed")
        again = place.copy(start, target, options)
        assert (again.files, again.unchanged) == (1, 2)
    assert (place.here / "out" / "sub" / "c").read_text() == "changed"

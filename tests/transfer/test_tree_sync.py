"""Sync of trees against a server of ours: what is there afterwards, and what was left alone."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_standalone import PASSWORD, account, standalone

import uftp
from uftp.client.auth import HttpOptions
from uftp.client.listings import Entry
from uftp.client.login import SessionOptions
from uftp.errors import LocalFileError, NotFound, Refused, SomeFailed, UsageError
from uftp.transfer.copy import Access
from uftp.transfer.filters import Filters, make_rules
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState, CopySummary, FileResult
from uftp.transfer.sync import SyncSummary
from uftp.transfer.sync_comparison import Comparison, same_time
from uftp.transfer.tree_sync import TreeSyncOptions, sync_places

pytestmark = pytest.mark.slow

SECOND = 10**9
THEN = 1_600_000_000 * SECOND + 123_456_789


@dataclass
class Outcome:
    """What a sync came to, and all that was reported."""

    summary: CopySummary
    results: list[FileResult]
    notes: list[str]

    def done(self, action: str) -> set[str]:
        """Base names of what was done."""
        return {Path(r.target).name for r in self.results if r.action == action and r.error is None}


@dataclass
class Site:
    """A server and a directory on it that belongs to its user."""

    auth: str
    access: Access
    directory: Path
    trees: int = field(default=0)

    def url(self, path: Path) -> str:
        return f"{self.auth}/TEST:" + str(path).replace("%", "%25")

    def new(self) -> Path:
        """A place there that does not exist yet."""
        self.trees += 1
        return self.directory / f"tree{self.trees}"

    def own(self, top: Path) -> None:
        """Give a tree to the server's user."""
        if os.geteuid() == 0:
            uid = pwd.getpwnam(account()).pw_uid
            for place in (top, *top.rglob("*")):
                os.chown(place, uid, -1, follow_symlinks=False)

    def run(self, source: Path, target: Path, *, up: bool, access: Access | None = None, **options: Any) -> Outcome:
        """Sync, with options of both kinds."""
        own = {name: options.pop(name) for name in list(options) if name in TreeSyncOptions.__dataclass_fields__}
        results: list[FileResult] = []
        notes: list[str] = []
        state = CopyState(on_result=results.append, on_note=notes.append)
        places = (str(source), self.url(target)) if up else (self.url(source), str(target))

        async def main() -> CopySummary | SyncSummary:
            with trio.fail_after(60):
                return await sync_places(
                    *places,
                    access=access or self.access,
                    options=TreeSyncOptions(copy=CopyOptions(**options), **own),
                    state=state,
                )

        summary = trio.run(main)
        assert isinstance(summary, CopySummary)
        return Outcome(summary, results, notes)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = Path(tempfile.mkdtemp(prefix="uftp-test-"))  # not below pytest's, which other users cannot enter
    try:
        with standalone(tmp_path_factory.mktemp("standalone") / "state") as running:
            access = Access(
                credential=uftp.UsernamePassword("joe", PASSWORD),
                http=HttpOptions(ca=running.ca),
                session=SessionOptions(),
            )
            found = Site(running.auth, access, directory)
            found.own(directory)
            yield found
    finally:
        shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals of what is tested are kept apart from the person's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


Content = bytes | None | str  # a file, a directory, a link to somewhere


def build(top: Path, tree: dict[str, Content], mtime_ns: int = THEN) -> Path:
    """Make a tree; the order of its names is that in which they are made."""
    top.mkdir(exist_ok=True)
    for name, content in tree.items():
        place = top / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir(exist_ok=True)
        elif isinstance(content, str):
            place.symlink_to(content)
        else:
            place.write_bytes(content)
            os.utime(place, ns=(mtime_ns, mtime_ns))
    return top


def look(top: Path) -> dict[str, tuple[object, ...]]:
    """All that a sync makes equal: kinds, contents, times and modes of files and directories, where links point to."""
    found: dict[str, tuple[object, ...]] = {}
    for place in (top, *top.rglob("*")):
        info = place.lstat()
        name = str(place.relative_to(top))
        if stat.S_ISLNK(info.st_mode):
            found[name] = ("link", os.readlink(place))
        elif stat.S_ISDIR(info.st_mode):
            found[name] = ("directory", info.st_mtime_ns, stat.S_IMODE(info.st_mode))
        else:
            found[name] = ("file", place.read_bytes(), info.st_mtime_ns, stat.S_IMODE(info.st_mode))
    return found


@pytest.fixture(params=[True, False], ids=["up", "down"])
def both(
    request: pytest.FixtureRequest, site: Site, tmp_path: Path
) -> Callable[..., tuple[Path, Path, Callable[..., Outcome]]]:
    """Builds a source and a target on the two sides, and gives what syncs them."""
    up: bool = request.param

    def make(
        source: dict[str, Content], target: dict[str, Content] | None = None
    ) -> tuple[Path, Path, Callable[..., Outcome]]:
        here, there = tmp_path / "here", site.new()
        origin, place = (here, there) if up else (there, here)
        build(origin, source)
        if target is not None:
            build(place, target)
        for one in (origin, place):
            if one == there and one.exists():
                site.own(there)
        return origin, place, lambda **options: site.run(origin, place, up=up, **options)

    return make


Both = Callable[..., tuple[Path, Path, Callable[..., Outcome]]]

TREE: dict[str, Content] = {
    "a/one": b"1",
    "a/two": b"22" * 1000,
    "a/b/odd \n%41 name": b"odd",
    "a/b/.hidden": b"",
    "empty": None,
    "large": bytes(range(256)) * 8192,
}


def test_a_tree_is_equal_afterwards_and_the_next_run_moves_nothing(both: Both) -> None:
    source, target, run = both(TREE)
    (source / "a/one").chmod(0o600)
    (source / "empty").chmod(0o750)
    os.utime(source / "a/b", ns=(THEN, THEN))
    outcome = run()
    outcome.summary.raise_for_failures()
    assert look(target) == look(source)
    assert (outcome.summary.files, outcome.summary.unchanged) == (5, 0)
    assert outcome.done("mkdir") == {"a", "b", "empty"}
    again = run(delete=True)
    assert (again.summary.files, again.summary.unchanged, again.summary.deleted) == (0, 5, 0)
    assert again.summary.bytes == 0
    assert look(target) == look(source)


def test_only_what_differs_moves_and_modes_follow(both: Both) -> None:
    source, target, run = both(TREE, TREE)
    (source / "a/one").write_bytes(b"!")
    (source / "a/two").chmod(0o640)
    outcome = run()
    assert outcome.done("copy") == {"one"}
    assert outcome.summary.unchanged == 4
    assert look(target) == look(source)


def test_what_the_source_lacks_stays_unless_told(both: Both) -> None:
    extra: dict[str, Content] = {**TREE, "junk": b"j", "old/deep/er": b"o", "old/x": b"x", "void": None}
    source, target, run = both(TREE, extra)
    assert run().summary.deleted == 0
    assert (target / "old/deep/er").exists()
    outcome = run(delete=True)
    assert outcome.done("delete") == {"junk", "er", "deep", "x", "old", "void"}
    assert outcome.summary.deleted == 6
    assert look(target) == look(source)


def test_a_dry_run_says_all_and_changes_nothing(both: Both) -> None:
    source, target, run = both({**TREE, "kind": None}, {"a/two": b"old", "junk/x": b"x", "kind": b"file"})
    before = look(target)
    outcome = run(dry_run=True, delete=True)
    assert look(target) == before
    real = run(delete=True)
    assert look(target) == look(source)
    for action in ("copy", "mkdir", "delete"):
        assert outcome.done(action) == real.done(action)
    assert (outcome.summary.files, outcome.summary.bytes) == (real.summary.files, real.summary.bytes)


def test_kinds_that_differ_are_replaced_with_delete_only(both: Both) -> None:
    source, target, run = both(
        {"was file/inside/f": b"new", "was dir": b"now a file", "fine": b"1"},
        {"was file": b"old", "was dir/a/b": b"old", "was dir/c": b"old"},
    )
    refused = run()
    with pytest.raises(SomeFailed):
        refused.summary.raise_for_failures()
    assert refused.done("copy") == {"fine"}
    assert (target / "was dir/a/b").read_bytes() == b"old"
    assert (target / "was file").read_bytes() == b"old"
    assert all("--delete" in str(result.error) for result in refused.results if result.error)
    run(delete=True).summary.raise_for_failures()
    assert look(target) == look(source)


def test_links_are_kept_changed_and_removed_as_links(both: Both, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    build(outside, {"precious": b"p"})
    source, target, run = both(
        {"f": b"1", "to f": "f", "to nothing": "no/thing", "changed": "new", "now a link": "f", "now a file": b"x"},
        {"changed": "old", "now a link": b"file", "now a file": str(outside), "extra": str(outside)},
    )
    outcome = run(links="keep", delete=True)
    outcome.summary.raise_for_failures()
    assert look(target) == look(source)
    assert (outside / "precious").read_bytes() == b"p"
    assert run(links="keep").summary.unchanged == 6


def test_links_are_followed_or_skipped(both: Both) -> None:
    _, target, run = both({"d/f": b"1", "to d": "d", "to f": "d/f", "loop": "."})
    run(links="skip").summary.raise_for_failures()
    assert {place.name for place in target.rglob("*")} == {"d", "f"}
    followed = run(delete=True)
    assert [Path(result.source).name for result in followed.results if result.error] == ["loop"]
    assert (target / "to d/f").read_bytes() == (target / "to f").read_bytes() == b"1"
    assert not (target / "to d").is_symlink()


def test_nothing_is_removed_when_a_file_has_failed(site: Site, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a directory the server's user cannot write, next to one of his own: root makes it")
    source, target = tmp_path / "here", site.new()
    build(source, {"shut/new": b"n", "open/new": b"n", "kind": None})
    build(target, {"shut/old": b"o", "junk": b"j", "kind": b"k"})
    site.own(target)
    os.chown(target / "shut", 0, 0)
    outcome = site.run(source, target, up=True, delete=True)
    with pytest.raises(SomeFailed):
        outcome.summary.raise_for_failures()
    assert (target / "junk").exists()
    assert (target / "shut/old").exists()
    assert (target / "kind").read_bytes() == b"k"
    assert (target / "open/new").read_bytes() == b"n"
    assert any("nothing was removed" in note for note in outcome.notes)
    failed = {Path(result.target).name for result in outcome.results if result.error}
    assert failed == {"new", "kind"}


def test_nothing_is_removed_when_a_directory_cannot_be_listed(site: Site, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a directory the server's user cannot list: root makes it")
    source, target = site.new(), tmp_path / "here"
    build(source, {"shut/new": b"n", "f": b"1"})
    site.own(source)
    os.chown(source / "shut", 0, 0)
    (source / "shut").chmod(0o700)
    build(target, {"junk": b"j", "shut/old": b"o"})
    outcome = site.run(source, target, up=False, delete=True)
    assert outcome.summary.failed == 1
    assert (target / "junk").exists()
    assert (target / "shut/old").exists()
    assert (target / "f").read_bytes() == b"1"


def test_too_many_errors_end_it_before_anything_is_removed(site: Site, tmp_path: Path) -> None:
    source, target = tmp_path / "here", site.new()
    build(source, {"a": b"n", "b": b"n", "c": b"n"})
    build(target, {"a/x": b"o", "b/x": b"o", "c/x": b"o", "junk": b"j"})
    site.own(target)
    outcome = site.run(source, target, up=True, max_errors=1)
    assert outcome.summary.failed >= 1
    with pytest.raises(SomeFailed):
        outcome.summary.raise_for_failures()
    assert (target / "junk").exists()


def test_an_empty_source_needs_force(both: Both) -> None:
    source, target, run = both({}, {"f": b"1", "d/g": b"2"})
    with pytest.raises(UsageError, match="--force"):
        run(delete=True)
    assert (target / "d/g").exists()
    assert run().summary.deleted == 0
    assert run(delete=True, force=True).summary.deleted == 3
    assert look(target) == look(source)


def test_a_missing_source_removes_nothing(site: Site, tmp_path: Path) -> None:
    target = build(tmp_path / "here", {"f": b"1"})
    there = build(site.new(), {"f": b"1"})
    site.own(there)
    with pytest.raises(NotFound):
        site.run(site.directory / "missing", target, up=False, delete=True, force=True)
    with pytest.raises(LocalFileError):
        site.run(tmp_path / "missing", there, up=True, delete=True, force=True)
    assert (target / "f").exists()
    assert (there / "f").exists()


def test_what_is_left_out_is_neither_copied_nor_removed(both: Both) -> None:
    rules = Filters(rules=make_rules([(False, "*.tmp"), (False, "/cache/")]), min_size=1)
    _, target, run = both(
        {"a.tmp": b"s", "b": b"s", "cache/x": b"s", "none": b"", "d/y": b"s"},
        {"a.tmp": b"target", "c.tmp": b"t", "cache/z": b"t", "junk": b"t", "old/k.tmp": b"t", "old/gone": b"t"},
    )
    outcome = run(delete=True, filters=rules)
    outcome.summary.raise_for_failures()
    names = {str(place.relative_to(target)) for place in target.rglob("*") if place.is_file()}
    assert names == {"a.tmp", "b", "c.tmp", "cache/z", "d/y", "old/k.tmp"}
    assert (target / "a.tmp").read_bytes() == b"target"
    run(delete_excluded=True, filters=rules).summary.raise_for_failures()
    names = {str(place.relative_to(target)) for place in target.rglob("*")}
    assert names == {"b", "d", "d/y"}


def test_names_in_a_list_are_all_that_is_touched(both: Both) -> None:
    _, target, run = both({"a": b"s", "b": b"s", "d/x": b"s"}, {"b": b"target", "d/y": b"t", "e": b"t"})
    run(delete=True, filters=Filters(files_from=frozenset({b"a", b"d"}))).summary.raise_for_failures()
    assert {str(place.relative_to(target)) for place in target.rglob("*") if place.is_file()} == {"a", "b", "d/x", "e"}
    assert (target / "b").read_bytes() == b"target"


def test_newer_targets_are_left_with_update(both: Both) -> None:
    _, target, run = both({"newer there": b"source", "older there": b"source"}, {})
    build(target, {"newer there": b"longer target"}, THEN + 1)
    build(target, {"older there": b"longer target"}, THEN - 1)
    _own(target)
    outcome = run(update=True)
    assert outcome.done("copy") == {"older there"}
    assert (target / "newer there").read_bytes() == b"longer target"
    assert run().done("copy") == {"newer there"}


def _own(target: Path) -> None:
    uid = target.stat().st_uid
    for place in target.rglob("*"):
        os.chown(place, uid, -1, follow_symlinks=False)


def test_checksums_find_what_times_hide(both: Both) -> None:
    source, target, run = both(
        {"same": b"12345", "hidden": b"12345", "time": b"12345"}, {"same": b"12345", "hidden": b"abcde"}
    )
    build(target, {"time": b"12345"}, THEN - SECOND)
    _own(target)
    assert run(dry_run=True).done("copy") == {"time"}
    outcome = run(checksum=True)
    assert outcome.done("copy") == {"hidden"}
    assert look(target)["hidden"] == look(source)["hidden"]
    assert look(target)["time"] == look(source)["time"], "its time is set without copying it"
    build(target, {"time": b"54321"}, THEN + SECOND)
    assert run(size_only=True).summary.files == 0
    with pytest.raises(UsageError):
        run(size_only=True, checksum=True)


def test_large_files_go_as_changes_when_asked(both: Both) -> None:
    import random

    base = random.Random(4).randbytes(2_000_000)
    edited = base[:1_000_000] + b"some more" + base[1_000_000:]
    source, target, run = both({"large": edited, "small": b"s"}, {"large": base})
    outcome = run(delta="always")
    outcome.summary.raise_for_failures()
    assert outcome.summary.files == 2
    assert outcome.summary.bytes < 500_000  # checksums of blocks, and what is new
    assert look(target) == look(source)


@pytest.mark.parametrize("mode", ["stream", "encrypted"])
def test_other_ways_of_moving_data(site: Site, tmp_path: Path, mode: str) -> None:
    changed = SessionOptions(mode="stream") if mode == "stream" else SessionOptions(encrypt=True, compress=True)
    access = replace(site.access, session=changed)
    source, there, back = build(tmp_path / "here", TREE), site.new(), tmp_path / "back"
    for up, one, other in ((True, source, there), (False, there, back)):
        site.run(one, other, up=up, access=access, delta="always").summary.raise_for_failures()
        assert look(other) == look(one)
        assert site.run(one, other, up=up, access=access, delete=True).summary.files == 0


def test_a_file_and_a_tree_do_not_take_each_others_place(site: Site, tmp_path: Path) -> None:
    tree, there = build(tmp_path / "here", {"f": b"1"}), build(site.new(), {"f": b"1"})
    site.own(there)
    for source, target, up in ((tree, there / "f", True), (there, tree / "f", False)):
        with pytest.raises(UsageError, match="is a file"):
            site.run(source, target, up=up)
    with pytest.raises(UsageError, match="--delete is for trees"):
        site.run(tree / "f", there / "f", up=True, delete=True)
    with pytest.raises((NotFound, Refused)):
        site.run(tree, there / "no" / "such", up=True)


NAMES = st.sampled_from(["a", "b", "c d", "\n", "%41", "ä", "z" * 255])
NODES = st.recursive(
    st.one_of(st.binary(max_size=30), st.sampled_from(["a", "b/c", "../x"])),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
TREES = st.dictionaries(NAMES, NODES, max_size=4)


def plant(top: Path, tree: Any, times: Iterator[int]) -> None:
    """Make a tree of nested dictionaries."""
    top.mkdir(exist_ok=True)
    for name, node in tree.items():
        place = top / name
        if isinstance(node, dict):
            plant(place, node, times)
        elif isinstance(node, str):
            place.symlink_to(node)
        else:
            place.write_bytes(node)
            when = next(times)
            os.utime(place, ns=(when, when))
    when = next(times)
    os.utime(top, ns=(when, when))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(first=TREES, second=TREES, up=st.booleans(), data=st.integers(0, 3))
def test_any_tree_becomes_any_other(
    site: Site, tmp_path_factory: pytest.TempPathFactory, first: Any, second: Any, up: bool, data: int
) -> None:
    here, there = tmp_path_factory.mktemp("tree") / "here", site.new()
    source, target = (here, there) if up else (there, here)
    plant(source, first, iter(range(THEN, THEN + 1000)))
    plant(target, second, iter(range(THEN + data, THEN + 2000)))
    site.own(there)
    outcome = site.run(source, target, up=up, delete=True, force=True, links="keep", checksum=True)
    outcome.summary.raise_for_failures()
    assert look(target) == look(source)
    again = site.run(source, target, up=up, delete=True, force=True, links="keep")
    assert (again.summary.files, again.summary.deleted) == (0, 0)
    shutil.rmtree(there)


TIMES = st.integers(0, 2**62)


@given(one=TIMES, unit=st.sampled_from([10**9, 10**6, 10**3, 100, 1]))
def test_a_time_equals_what_a_coarser_side_keeps_of_it(one: int, unit: int) -> None:
    kept = one // unit * unit
    assert same_time(one, kept)
    assert same_time(kept, one)
    assert not same_time(one, kept + 10**9)


@given(one=st.integers(0, 2**40))
def test_rough_times_are_minutes_or_days(one: int) -> None:
    seconds = one * SECOND
    assert same_time(seconds, seconds // (60 * SECOND) * 60 * SECOND, rough=True)
    assert same_time(seconds, seconds // (86_400 * SECOND) * 86_400 * SECOND, rough=True)
    assert not same_time(seconds, seconds + 86_400 * SECOND, rough=True)


def test_a_server_that_sets_no_times_is_not_sent_everything_again() -> None:
    source, later = Entry(b"f", "file", 1, THEN, None), Entry(b"f", "file", 1, THEN + SECOND, None)
    assert Comparison().judge(source, later) == "differs"
    assert Comparison(times_kept=False).judge(source, later) == "same"
    assert Comparison(times_kept=False).judge(later, source) == "differs"
    assert Comparison().judge(source, later._replace(mtime_ns=None)) == "differs"

"""Walks and what is made ahead of the transfers: in bounded memory, few round trips, and whatever the server does."""

# ruff: noqa: ASYNC240 -- small local files, looked at after the step that a test is about

from __future__ import annotations

import os
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from scripted_records import FEATURES, RecordDialogue, record_server, reply

from uftp.client.login import SessionOptions
from uftp.errors import Refused
from uftp.protocol.names import pct_encode
from uftp.streams import Meter
from uftp.transfer import local_walk
from uftp.transfer.batch import Batch, SmallFile
from uftp.transfer.copy import Access, copy_files
from uftp.transfer.directory_facts import DirectoryFacts, KeptFacts
from uftp.transfer.filters import Filters, make_rules
from uftp.transfer.local_walk import LocalWalk
from uftp.transfer.look_ahead import LookAhead
from uftp.transfer.options import CopyOptions
from uftp.transfer.task import FileTask
from uftp.transfer.walk import LostDirectories, Selection

ACCESS = Access(session=SessionOptions(stall_timeout=20, reply_timeout=20, final_timeout=20, connect_timeout=20))
TREE = CopyOptions(recursive=True)
PORTION = 40


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few hundred files are many."""
    monkeypatch.setattr(local_walk, "PORTION_ENTRIES", PORTION)
    monkeypatch.setattr(local_walk, "GROUP_ENTRIES", 2 * PORTION)


def walk(top: Path) -> LocalWalk:
    return LocalWalk(os.fsencode(top), links="follow", selection=Selection(Filters()), lost=lambda relative: False)


def fill(top: Path, files: int, directories: int) -> None:
    for number in range(directories):
        (top / f"d{number}").mkdir(parents=True)
        for other in range(files // directories):
            os.close(os.open(top / f"d{number}" / f"file-with-a-name-{other}", os.O_CREAT | os.O_WRONLY))


# -- here ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_portions")
def test_a_walk_meets_everything_once_and_parents_first(tmp_path: Path) -> None:
    fill(tmp_path, 6 * PORTION, 2)
    (tmp_path / "d0" / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "d0" / "sub" / "deep" / "file").touch()
    walking = walk(tmp_path)
    known = {b""}
    files: Counter[bytes] = Counter()
    while group := walking.next_group():
        for portion in group:
            assert portion.relative in known
            assert len(portion.files) <= PORTION
            known |= {(portion.relative + b"/" + found.name).lstrip(b"/") for found in portion.directories}
            files.update(portion.relative + b"/" + file.name for file in portion.files)
    assert known == {b"", b"d0", b"d1", b"d0/sub", b"d0/sub/deep"}
    assert set(files) == {os.fsencode(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert set(files.values()) == {1}


def test_what_cannot_be_looked_at_fails_only_if_it_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").touch()
    for filters, failures in ((Filters(), [b"dangling"]), (Filters(rules=make_rules([(False, "d*")])), [])):
        selection = Selection(filters)
        walking = LocalWalk(os.fsencode(tmp_path), links="follow", selection=selection, lost=lambda relative: False)
        (portion,) = walking.next_group()
        assert [name for name, _ in portion.failures] == failures
        assert [file.name for file in portion.files] == [b"file"]
        assert walking.next_group() == []


@pytest.mark.usefixtures("small_portions")
def test_a_walk_takes_no_more_memory_for_more_files(tmp_path: Path) -> None:
    peaks = []
    for name, files in (("few", 10 * PORTION), ("many", 60 * PORTION)):
        fill(tmp_path / name, files, 2)
        walking = walk(tmp_path / name)
        tracemalloc.start()
        try:
            found = 0
            while group := walking.next_group():
                found += sum(len(portion.files) for portion in group)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert found == files
    assert peaks[1] < peaks[0] + 50 * PORTION * 16, "a file handed on leaves nothing behind"


# -- on a server --------------------------------------------------------------------------------------------------


class Tree:
    """A tree on a server of a test: answers MLSD and MLST from a table of listings.

    Args:
        listings: lines by directory.
        before: called with each directory before it is listed; True if it has answered itself.
    """

    def __init__(
        self,
        listings: dict[str, list[bytes]],
        before: Callable[[RecordDialogue, str], bool] = lambda dialogue, path: False,
    ) -> None:
        self._listings = listings
        self._before = before

    def mlsd(self, dialogue: RecordDialogue, argument: str) -> None:
        path = os.fsdecode(dialogue.name(argument))
        if self._before(dialogue, path):
            return
        if path not in self._listings:
            dialogue.say("550 No such directory")
            return
        dialogue.say("150 OK")
        outgoing = dialogue.writer.begin(dialogue.number, dialogue.binding, facts=False)
        outgoing.from_bytes(b"".join(line + b"\r\n" for line in self._listings[path]), Meter())
        outgoing.end()
        dialogue.writer.flush()
        dialogue.say("226 done")

    def mlst(self, dialogue: RecordDialogue, argument: str) -> None:
        path = os.fsdecode(dialogue.name(argument))
        kind = "dir" if path in self._listings else "file"
        dialogue.say(f"250-\r\n type={kind};size=1;modify=20210203040506;unique=u{path.strip('/')}; x\r\n250 End")

    async def fetch(self, target: Path, options: CopyOptions = TREE) -> tuple[list[str], list[str]]:
        """The files that came, and what failed."""
        with record_server({"MLSD": self.mlsd, "MLST": self.mlst, "RETR": _retrieve}) as server:
            summary = await copy_files([f"{server.url}/top"], str(target), access=ACCESS, options=options)
        return (
            sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()),
            [result.problem for result in summary.failures],
        )


def _retrieve(dialogue: RecordDialogue, argument: str) -> None:
    dialogue.files[os.fsencode(argument)] = b"x"
    dialogue.retrieve(argument)


def file_line(name: str) -> bytes:
    return b"type=file;size=1;modify=20210203040506;perm=rw;UNIX.mode=100644; " + pct_encode(name.encode())


def directory_line(name: str, unique: str = "") -> bytes:
    fact = f"unique={unique};" if unique else ""
    return f"type=dir;size=0;modify=20210203040506;perm=lwe;UNIX.mode=40755;{fact} {name}".encode()


async def test_links_that_lead_back_up_on_a_server_are_seen(tmp_path: Path) -> None:
    listings = {
        "/top": [file_line("a"), directory_line("sub", "usub")],
        "/top/sub": [directory_line("back", "utop"), directory_line("self", "usub"), directory_line("other", "uother")],
        "/top/sub/other": [file_line("b")],
    }
    files, failures = await Tree(listings).fetch(tmp_path / "t")
    assert files == ["a", "sub/other/b"]
    assert len(failures) == 2
    assert all("leads back up" in failure for failure in failures)


async def test_a_server_that_does_not_tell_its_directories_apart_is_not_walked_for_ever(tmp_path: Path) -> None:
    class Endless(dict[str, list[bytes]]):
        def __missing__(self, path: str) -> list[bytes]:
            return [directory_line("again")]

        def __contains__(self, path: object) -> bool:
            return str(path).startswith("/top")

    files, failures = await Tree(Endless()).fetch(tmp_path / "t", CopyOptions(recursive=True, dry_run=True))
    assert files == []
    assert len(failures) == 1
    assert "too deep" in failures[0]


@pytest.mark.parametrize(
    "line",
    [
        file_line("../x"),
        file_line("a/b"),
        file_line("x\0"),
        file_line(".."),
        b"nonsense",
        b"type=file;size=x; a",
        b"type=file;size=1;modify=20211303040506;perm=;UNIX.mode=100644; a",
    ],
)
async def test_a_listing_with_one_thing_that_cannot_be_is_not_believed(line: bytes, tmp_path: Path) -> None:
    listings = {"/top": [file_line("a"), directory_line("bad"), directory_line("good")]}
    listings |= {"/top/bad": [file_line("b"), line], "/top/good": [file_line("c")]}
    files, failures = await Tree(listings).fetch(tmp_path / "t")
    assert files == ["a", "good/c"]
    assert len(failures) == 1
    assert not (tmp_path / "x").exists()


async def test_a_name_that_is_listed_twice_is_one_file(tmp_path: Path) -> None:
    listings = {"/top": [file_line("a"), file_line("a"), directory_line("d"), directory_line("d")]}
    listings["/top/d"] = [file_line("b")]
    files, failures = await Tree(listings).fetch(tmp_path / "t")
    assert (files, failures) == (["a", "d/b"], [])


@pytest.mark.parametrize("what", ["control", "data", "425", "451"])
async def test_a_listing_that_is_lost_is_asked_for_again(what: str, tmp_path: Path) -> None:
    lost: Counter[str] = Counter()

    def lose(dialogue: RecordDialogue, path: str) -> bool:
        if path != "/top/d7" or lost[path] == 2:
            return False
        lost[path] += 1
        if what == "control":
            dialogue.hang_up()
        elif what == "data":
            dialogue.say("150 OK")
            dialogue.close_data()
            dialogue.say("426 the data connection broke")
        else:
            dialogue.say(f"{what} not now")
        return True

    listings = {"/top": [directory_line(f"d{number}") for number in range(20)]}
    listings |= {f"/top/d{number}": [file_line("a")] for number in range(20)}
    files, failures = await Tree(listings, lose).fetch(tmp_path / "t")
    assert failures == []
    assert files == sorted(f"d{number}/a" for number in range(20))
    assert lost["/top/d7"] == 2


async def test_a_directory_that_cannot_be_listed_fails_alone(tmp_path: Path) -> None:
    listings = {"/top": [directory_line("no"), directory_line("yes")], "/top/yes": [file_line("a")]}
    files, failures = await Tree(listings).fetch(tmp_path / "t")
    assert files == ["yes/a"]
    assert len(failures) == 1
    assert "/top/no" in failures[0]


# -- made on a server ---------------------------------------------------------------------------------------------


class Directories:
    """MKD of a server of a test, which answers only when so many have come: a client that waits gets no answer."""

    def __init__(
        self, together: int, answer: Callable[[RecordDialogue, str], bool] = lambda dialogue, path: False
    ) -> None:
        self.made: set[str] = set()
        self.lock = threading.Lock()
        self._together = together
        self._answer = answer
        self._waiting: list[str] = []

    def mkd(self, dialogue: RecordDialogue, argument: str) -> None:
        path = os.fsdecode(dialogue.name(argument))
        with self.lock:
            if self._answer(dialogue, path):
                return
            known = path in self.made or os.path.dirname(path) not in {*self.made, "/", ""}
            self.made.add(path)
            self._waiting.append("550 no" if known else '257 "made"')
            if len(self._waiting) >= self._together:
                waiting, self._waiting = self._waiting, []
                for text in waiting:
                    dialogue.say(text)
                self._together = 1

    def mlst(self, dialogue: RecordDialogue, argument: str) -> None:
        path = os.fsdecode(dialogue.name(argument))
        kind = "dir" if path in self.made else "file"
        if kind == "dir":
            dialogue.say(f"250-\r\n type={kind};size=1;modify=20210203040506; x\r\n250 End")
        else:
            dialogue.say("550 No such file")


def source_tree(top: Path) -> Path:
    for number in range(10):
        for other in range(12):
            (top / f"d{number}" / f"e{other}").mkdir(parents=True)
            (top / f"d{number}" / f"e{other}" / "file").write_text("x")
    return top


async def test_directories_are_made_many_in_a_round_trip(tmp_path: Path) -> None:
    source = source_tree(tmp_path / "top")
    directories = Directories(1)

    def first(dialogue: RecordDialogue, path: str) -> bool:
        if path == "/top":
            directories.made.add(path)
            dialogue.say('257 "made"')
            directories._together = 130
            return True
        return False

    directories._answer = first
    with record_server({"MKD": directories.mkd, "MLST": directories.mlst}) as server:
        summary = await copy_files([str(source)], f"{server.url}/top", access=ACCESS, options=TREE)
    assert (summary.files, summary.failed) == (120, 0)
    assert len(directories.made) == 131
    assert len(server.files) == 120


async def test_a_session_lost_at_mkd_leaves_no_directory_out(tmp_path: Path) -> None:
    source = source_tree(tmp_path / "top")
    losses = [37, 61, 90]
    count = 0

    def lose(dialogue: RecordDialogue, path: str) -> bool:
        nonlocal count
        count += 1
        if losses and count == losses[0]:
            losses.pop(0)
            directories.made.add(path)  # it is done, but nobody hears of it
            dialogue.hang_up()
            return True
        return False

    directories = Directories(1, lose)
    with record_server({"MKD": directories.mkd, "MLST": directories.mlst}) as server:
        summary = await copy_files([str(source)], f"{server.url}/top", access=ACCESS, options=TREE)
    assert losses == []
    assert (summary.files, summary.failed) == (120, 0)
    assert len(server.files) == 120


async def test_what_is_in_a_directory_that_cannot_be_made_is_not_tried(tmp_path: Path) -> None:
    source = source_tree(tmp_path / "top")

    def refuse(dialogue: RecordDialogue, path: str) -> bool:
        if path != "/top/d3":
            return False
        dialogue.say("553 no right to do this")
        return True

    directories = Directories(1, refuse)
    with record_server({"MKD": directories.mkd, "MLST": directories.mlst}) as server:
        summary = await copy_files([str(source)], f"{server.url}/top", access=ACCESS, options=TREE)
    assert (summary.files, summary.failed) == (108, 1)
    assert "/top/d3" in summary.failures[0].problem or "no right" in summary.failures[0].problem
    assert not [line for line in server.lines if line.startswith("STOR /top/d3/")]


async def test_links_need_a_server_that_knows_them(tmp_path: Path) -> None:
    source = tmp_path / "top"
    source.mkdir()
    (source / "file").write_text("x")
    (source / "link").symlink_to("file")
    directories = Directories(1)
    keep = CopyOptions(recursive=True, links="keep")
    with record_server({"MKD": directories.mkd, "MLST": directories.mlst}) as server:
        summary = await copy_files([str(source)], f"{server.url}/top", access=ACCESS, options=keep)
        assert (summary.files, summary.failed) == (1, 1)
        assert "makes no symbolic links" in summary.failures[0].problem
        assert "link" in summary.failures[0].source
    tree = Tree({"/top": [file_line("a")]})
    files, failures = await tree.fetch(tmp_path / "t", keep)
    assert files == []
    assert len(failures) == 1
    assert "does not tell links" in failures[0]


async def test_a_link_of_the_target_is_no_directory(tmp_path: Path) -> None:
    def link(dialogue: RecordDialogue, argument: str) -> None:
        path = os.fsdecode(dialogue.name(argument))
        if path == "/top":
            dialogue.say("250-\r\n type=dir;modify=20210203040506; x\r\n250 End")
        else:
            dialogue.say("250-\r\n type=OS.unix=symlink;UNIX.target=/etc;modify=20210203040506; x\r\n250 End")

    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "file").write_text("x")
    actions = {"MKD": reply("550 there is something"), "MLST": link}
    with record_server(actions, features=(*FEATURES, "LINKS")) as server:
        summary = await copy_files([f"{tmp_path}/in/"], f"{server.url}/top", access=ACCESS, options=TREE)
    assert (summary.files, summary.failed) == (0, 1)
    assert "a link, which is not followed" in summary.failures[0].problem
    assert server.files == {}


# -- parts --------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.builds(
            DirectoryFacts,
            st.binary(max_size=40),
            st.none() | st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1),
            st.none() | st.integers(min_value=0, max_value=0o777),
        )
    ),
    st.integers(min_value=1, max_value=5),
)
def test_facts_of_directories_come_out_backwards(given_facts: list[DirectoryFacts], most: int) -> None:
    kept = KeptFacts()
    for facts in given_facts:
        kept.add(*facts)
    taken: list[DirectoryFacts] = []
    while some := kept.take(most):
        assert len(some) <= most
        taken += some
    assert taken == given_facts[::-1]


def test_lost_directories_take_what_is_in_them_along() -> None:
    lost = LostDirectories()
    assert not lost.holds(b"a")
    lost.add(b"a/b")
    assert [path for path in (b"", b"a", b"a/b", b"a/b/c/d", b"a/bc") if lost.holds(path)] == [b"a/b", b"a/b/c/d"]


class SlowQueue:
    """A queue that takes one batch, and the next one when told."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.go_on = trio.Event()

    async def offer(self, task: FileTask, /) -> None:
        self.taken.append(task.source)

    async def offer_batch(self, batch: Batch, /) -> None:
        self.taken.append(batch.target_directory.decode())
        await self.go_on.wait()


def batch(name: str, files: int = 1) -> Batch:
    def task(file: SmallFile) -> FileTask:
        raise NotImplementedError

    small = [SmallFile(b"%d" % number, 1, None, None) for number in range(files)]
    return Batch(b"", name.encode(), small, upload=True, fresh=False, task=task)


async def test_large_files_overtake_small_ones_within_bounds() -> None:
    queue = SlowQueue()
    large = type("Large", (), {"source": "large"})()
    async with LookAhead.before(queue) as ahead:
        for number in range(3):
            await ahead.offer_batch(batch(str(number)))
        await trio.testing.wait_all_tasks_blocked()
        await ahead.offer(large)
        assert queue.taken == ["0", "large"]
        # But not without end: what waits is in memory.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(offer_many, ahead)
            await trio.testing.wait_all_tasks_blocked()
            assert 20 < len(ahead._waiting) < 60
            queue.go_on.set()
    assert queue.taken[:4] == ["0", "large", "1", "2"]
    assert len(queue.taken) == 104


async def offer_many(ahead: LookAhead) -> None:
    for _ in range(100):
        await ahead.offer_batch(batch("more", 500))


async def test_what_a_queue_answers_reaches_the_plan() -> None:
    class Refusing(SlowQueue):
        async def offer_batch(self, batch: Batch, /) -> None:
            raise Refused("too many failures")

    async def plan(batches: int) -> None:
        async with LookAhead.before(Refusing()) as ahead:
            for _ in range(batches):
                await ahead.offer_batch(batch("a"))
                await trio.testing.wait_all_tasks_blocked()

    for batches in (1, 1000):
        with pytest.raises(Refused, match="too many"):
            await plan(batches)


async def test_names_of_a_list_that_are_not_met_are_failures(tmp_path: Path) -> None:
    listings = {"/top": [file_line("a"), file_line("b")]}
    files, failures = await Tree(listings).fetch(
        tmp_path / "t", CopyOptions(recursive=True, filters=Filters(files_from=frozenset({b"a", b"c"})))
    )
    assert files == ["a"]
    assert len(failures) == 1
    assert "in the list of names" in failures[0]

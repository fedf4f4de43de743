"""The lane of small files: what it carries, what it puts aside, and what it says of the rest when something breaks."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from misbehaving_records import BAD_RETR
from running_standalone import PASSWORD, account, descendants, standalone
from scripted_records import RecordDialogue, RecordServer, record_server

from uftp.client.connect import open_session
from uftp.client.credentials import UsernamePassword
from uftp.client.login import SessionOptions, open_ftp_session
from uftp.client.session import FTPSession
from uftp.errors import LocalFileError, NetworkError, NotFound, Refused, TransferFailed, UFTPError
from uftp.protocol.facts import FileInfo
from uftp.transfer import lane, lane_thread
from uftp.transfer.batch import Batch, SmallFile
from uftp.transfer.download import Download
from uftp.transfer.local import open_target
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState
from uftp.transfer.task import FileTask
from uftp.transfer.upload import Upload

QUICK = SessionOptions(stall_timeout=20, reply_timeout=20, final_timeout=20, connect_timeout=20)
MTIME = 1_700_000_000_123_456_789


@dataclass
class Site:
    """A real server, and a directory of its user's."""

    url: str
    ca: str
    pid: int
    top: Path
    _made: list[Path] = field(default_factory=list)

    def directory(self) -> Path:
        path = self.top / f"d{len(self._made)}"
        path.mkdir()
        if os.geteuid() == 0:
            os.chown(path, pwd.getpwnam(account()).pw_uid, -1)
        self._made.append(path)
        return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    # Not below pytest's directory, which other users cannot enter.
    top = Path(tempfile.mkdtemp(prefix="uftp-test-"))
    top.chmod(0o755)
    try:
        with standalone(tmp_path_factory.mktemp("standalone") / "state") as running:
            yield Site(f"{running.auth}/TEST:{top}/", running.ca, running.pid, top)
    finally:
        shutil.rmtree(top)


@dataclass
class Outcome:
    """What a lane said."""

    done: dict[bytes, int] = field(default_factory=dict)
    rest: dict[bytes, UFTPError | None] = field(default_factory=dict)
    state: CopyState = field(default_factory=CopyState)


async def carry(session: FTPSession, batches: Sequence[Batch], *, preserve: bool = True) -> Outcome:
    """Carry batches; each file is either done or among the rest, and once."""
    outcome, waiting = Outcome(), list(batches)
    all_names = sorted(file.name for batch in batches for file in batch.files)

    def done(batch: Batch, files: Sequence[SmallFile]) -> None:
        for file in files:
            assert file.name not in outcome.done
            outcome.done[file.name] = file.size

    rest = await lane.carry(
        session,
        lambda: waiting.pop(0) if waiting else None,
        done,
        options=CopyOptions(preserve=preserve),
        state=outcome.state,
    )
    outcome.rest = {one.file.name: one.error for one in rest}
    left = [file.name for batch in waiting for file in batch.files]
    assert sorted([*outcome.done, *(one.file.name for one in rest), *left]) == all_names
    assert outcome.state.moved == sum(outcome.done.values())
    return outcome


def batch_of(
    session: FTPSession,
    source: bytes,
    target: bytes,
    files: Sequence[SmallFile],
    *,
    upload: bool,
    preserve: bool = True,
) -> Batch:
    options, state = CopyOptions(preserve=preserve), CopyState()

    def task(file: SmallFile) -> FileTask:
        here, there = source + b"/" + file.name, target + b"/" + file.name
        if upload:
            return Upload(
                here, there, None, options, state, source="", target="", dialect=session.dialect, size=file.size
            )
        info = FileInfo(name=file.name, size=file.size, mtime_ns=file.mtime_ns or 0, mode=stat.S_IFREG | 0o644)
        return Download(here, info, options, lambda part=None: open_target(there), source="", target="", ranges=True)

    return Batch(source, target, list(files), upload=upload, fresh=False, task=task)


def listed(directory: Path) -> list[SmallFile]:
    """As a planner lists it, but for the order."""
    top = os.fsencode(directory)
    return [
        SmallFile(name, info.st_size, info.st_mtime_ns, stat.S_IMODE(info.st_mode))
        for name in sorted(os.listdir(top))
        if stat.S_ISREG((info := os.stat(top + b"/" + name)).st_mode)
    ]


def look(directory: Path) -> dict[bytes, tuple[bytes, int, int]]:
    top = os.fsencode(directory)
    found = {}
    for name in os.listdir(top):
        path = top + b"/" + name
        info = os.stat(path)
        found[name] = (Path(os.fsdecode(path)).read_bytes(), info.st_mtime_ns, stat.S_IMODE(info.st_mode))
    return found


def fill(directory: Path, seed: int, count: int = 120) -> None:
    chosen = random.Random(seed)
    for number in range(count):
        name = (
            chosen.choice(["plain%d", "with blank %d ", "%%41%d", "\udce9%d", "new\nline%d", "-x%d", ".hidden%d"])
            % number
        )
        path = directory / name
        path.write_bytes(chosen.randbytes(chosen.choice([0, 1, 512, 4096, 65_535, 65_536, 300_000])))
        path.chmod(chosen.choice([0o600, 0o644, 0o755, 0o640]))
        os.utime(path, ns=(MTIME, MTIME - chosen.randrange(10**18)))


@pytest.mark.parametrize("mode", ["plain", "sealed", "packed"])
async def test_trees_come_back_as_they_were(site: Site, tmp_path: Path, mode: str) -> None:
    options = SessionOptions(encrypt=mode == "sealed", compress=mode == "packed")
    source, back, there = tmp_path / "source", tmp_path / "back", site.directory()
    source.mkdir()
    back.mkdir()
    fill(source, 1)
    (back / "holes").write_bytes(b"old")
    holes = source / "holes"
    with holes.open("wb") as file:
        file.truncate(500_000)
    async with open_session(site.url, UsernamePassword("joe", PASSWORD), ca=site.ca, options=options) as session:
        up = batch_of(session, os.fsencode(source), os.fsencode(there), listed(source), upload=True)
        outcome = await carry(session, [up])
        assert not outcome.rest
        assert look(there) == look(source)
        assert (there / "holes").stat().st_blocks * 512 < 500_000
        # In two batches, and back over files of before.
        files = listed(there)
        halves = [files[:50], files[50:]]
        down = [batch_of(session, os.fsencode(there), os.fsencode(back), half, upload=False) for half in halves]
        outcome = await carry(session, down)
        assert not outcome.rest
        assert look(back) == look(source)
        assert session.usable
        # The session is in step for whatever comes.
        assert len(await session.listdir(os.fsencode(there))) == len(files)


async def test_what_fails_on_either_side_fails_alone(site: Site, tmp_path: Path) -> None:
    source, back, there = tmp_path / "source", tmp_path / "back", site.directory()
    source.mkdir()
    back.mkdir()
    fill(source, 2, 60)
    for name in ("vanished", "grown", "shrunk", "a directory there", "huge now"):
        (source / name).write_bytes(name.encode() * 20)
    files = listed(source)
    (source / "vanished").unlink()
    (source / "grown").write_bytes(b"x" * 70_000)
    (source / "shrunk").write_bytes(b"")
    (source / "huge now").write_bytes(b"y" * 3_000_000)
    (there / "a directory there").mkdir()
    async with open_session(site.url, UsernamePassword("joe", PASSWORD), ca=site.ca, options=QUICK) as session:
        up = batch_of(session, os.fsencode(source), os.fsencode(there), files, upload=True)
        outcome = await carry(session, [up])
        assert sorted(outcome.rest) == [b"a directory there", b"vanished"]
        assert isinstance(outcome.rest[b"vanished"], LocalFileError)
        assert isinstance(outcome.rest[b"a directory there"], Refused)
        assert (outcome.done[b"grown"], outcome.done[b"shrunk"], outcome.done[b"huge now"]) == (70_000, 0, 3_000_000)
        (there / "a directory there").rmdir()
        here = look(source)
        assert {name: look(there)[name] for name in outcome.done} == {name: here[name] for name in outcome.done}
        # The other way.
        wanted = [*listed(there), SmallFile(b"vanished", 5, None, None)]
        wanted = [file._replace(size=7) if file.name == b"huge now" else file for file in wanted]
        (back / "grown").mkdir()
        down = batch_of(session, os.fsencode(there), os.fsencode(back), wanted, upload=False)
        outcome = await carry(session, [down])
        assert sorted(outcome.rest) == [b"grown", b"vanished"]
        assert isinstance(outcome.rest[b"vanished"], NotFound)
        assert isinstance(outcome.rest[b"grown"], LocalFileError)
        (back / "grown").rmdir()
        assert look(back) == {name: entry for name, entry in look(there).items() if name != b"grown"}
        # A directory that is not there at all.
        nowhere = batch_of(session, os.fsencode(there), os.fsencode(back / "nowhere"), wanted[:3], upload=False)
        again = batch_of(session, os.fsencode(there), os.fsencode(back), wanted[3:5], upload=False)
        outcome = await carry(session, [nowhere, again])
        assert sorted(outcome.rest) == [file.name for file in wanted[:3]]
        assert session.usable


@pytest.mark.parametrize("upload", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("after", [0, 3, 150, 380])
async def test_a_killed_server_leaves_no_wrong_word(site: Site, tmp_path: Path, upload: bool, after: int) -> None:
    here, there = tmp_path / "here", site.directory()
    here.mkdir()
    source, target = (here, there) if upload else (there, here)
    for number in range(400):
        (source / f"f{number:03}").write_bytes(b"%d" % number * 1000)
        if os.geteuid() == 0:
            os.chown(source / f"f{number:03}", pwd.getpwnam(account()).pw_uid, -1)
    async with open_session(site.url, UsernamePassword("joe", PASSWORD), ca=site.ca, options=QUICK) as session:
        child = session_process(site, session)
        files = listed(source)
        whole = batch_of(session, os.fsencode(source), os.fsencode(target), files, upload=upload)
        parts = [
            Batch(whole.source_directory, whole.target_directory, files[n : n + 10], upload, False, whole.task)
            for n in range(0, 400, 10)
        ]
        killing = killer(parts, after, child)
        done: dict[bytes, int] = {}

        def note(batch: Batch, files: Sequence[SmallFile]) -> None:
            done.update({file.name: file.size for file in files})

        rest = await lane.carry(session, killing, note, options=CopyOptions(), state=CopyState())
        assert not session.usable
    contents = {name: content for name, (content, _, _) in look(target).items()}
    for name, size in done.items():
        assert contents[name] == (source / os.fsdecode(name)).read_bytes()
        assert len(contents[name]) == size
    for name, content in contents.items():
        assert content == (source / os.fsdecode(name)).read_bytes()
    assert sorted([*done, *(one.file.name for one in rest), *(f.name for part in parts for f in part.files)]) == [
        file.name for file in files
    ]
    assert sum(one.error is not None for one in rest) <= 1
    assert all(isinstance(one.error, NetworkError) for one in rest if one.error is not None)


def session_process(site: Site, session: FTPSession) -> int:
    """The process that has the other end of a session's control connection."""
    ours, theirs = session.control.socket.getsockname()[1], session.control.socket.getpeername()[1]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [row[9] for row in rows if row[1].endswith(f":{theirs:04X}") and row[2].endswith(f":{ours:04X}")]
    for pid in descendants(site.pid):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if fd.readlink() == Path(f"socket:[{inode}]"):
                    found = pid
    return found  # the last one: whoever accepted it may hold it a moment longer


def killer(parts: list[Batch], after: int, pid: int) -> Callable[[], Batch | None]:
    """Gives batches, and kills a process when so many files have been asked for."""
    given = 0

    def supply() -> Batch | None:
        nonlocal given
        if parts and given >= after:
            os.kill(pid, 9)
            given = -(10**9)
        given += 10
        return parts.pop(0) if parts else None

    return supply


def scripted(server: RecordServer, options: SessionOptions = QUICK) -> AbstractAsyncContextManager[FTPSession]:
    return open_ftp_session("127.0.0.1", server.port, user="anonymous", password="x", options=options)


FILES = {b"/d/f%03d" % number: b"%d " % number * number for number in range(100)}


def entries(size: int | None = None) -> list[SmallFile]:
    return [SmallFile(name[3:], len(content) if size is None else size, None, None) for name, content in FILES.items()]


@pytest.mark.parametrize("case", BAD_RETR)
async def test_a_server_that_lies_about_one_file(case: str, tmp_path: Path) -> None:
    def sometimes(dialogue: RecordDialogue, argument: str) -> None:
        (BAD_RETR[case][0] if argument == "/d/f050" else RecordDialogue.retrieve)(dialogue, argument)

    slow = SessionOptions(stall_timeout=0.3, reply_timeout=20, final_timeout=0.5, connect_timeout=20)
    with record_server({"RETR": sometimes}, files=FILES) as server:
        async with scripted(server, slow) as session:
            down = batch_of(session, b"/d", os.fsencode(tmp_path), entries(), upload=False)
            outcome = await carry(session, [down], preserve=False)
    assert b"f050" in outcome.rest
    blamed = [name for name, error in outcome.rest.items() if error is not None]
    assert blamed in ([], [b"f050"])
    got = {b"/d/" + name: content for name, (content, _, _) in look(tmp_path).items()}
    assert got == {name: content for name, content in FILES.items() if name[3:] in outcome.done}


async def test_a_file_that_breaks_the_session_each_time_is_found(tmp_path: Path) -> None:
    def sometimes(dialogue: RecordDialogue, argument: str) -> None:
        if argument == "/d/f050":
            dialogue.hang_up()
        else:
            dialogue.retrieve(argument)

    left = entries()
    errors: dict[bytes, UFTPError] = {}
    with record_server({"RETR": sometimes}, files=FILES) as server:
        for _ in range(100):
            async with scripted(server) as session:
                down = batch_of(session, b"/d", os.fsencode(tmp_path), left, upload=False)
                outcome = await carry(session, [down], preserve=False)
            errors |= {name: error for name, error in outcome.rest.items() if error is not None}
            left = [file for file in left if file.name in outcome.rest and outcome.rest[file.name] is None]
            if not left:
                break
    assert list(errors) == [b"f050"]
    assert len(look(tmp_path)) == 99


async def test_a_file_much_larger_than_listed_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_thread, "_LARGEST_HELD", 2000)
    files = {**FILES, b"/d/f003": b"z" * 50_000}
    with record_server({}, files=files) as server:
        async with scripted(server) as session:
            down = batch_of(session, b"/d", os.fsencode(tmp_path), entries(), upload=False)
            outcome = await carry(session, [down], preserve=False)
    assert not outcome.rest
    assert outcome.done[b"f003"] == 50_000
    assert (tmp_path / "f003").read_bytes() == files[b"/d/f003"]


@pytest.mark.parametrize("final", ["426 no more", "452 full", "550 no", "421 going down"])
async def test_refused_uploads(final: str, tmp_path: Path) -> None:
    def sometimes(dialogue: RecordDialogue, argument: str) -> None:
        if argument.endswith("50"):
            dialogue.say("150 OK")
            dialogue._discard()
            dialogue.say(final)
        elif argument.endswith("60"):
            dialogue.say(final)
            dialogue._discard()
        else:
            dialogue.store(argument)

    for name, content in FILES.items():
        (tmp_path / os.fsdecode(name[3:])).write_bytes(content)
    with record_server({"STOR": sometimes}) as server:
        async with scripted(server) as session:
            up = batch_of(session, os.fsencode(tmp_path), b"/d", entries(), upload=True)
            outcome = await carry(session, [up], preserve=False)
    if final.startswith("421"):
        assert b"f050" in outcome.rest
        assert len(outcome.rest) + len(outcome.done) == 100
    else:
        assert sorted(outcome.rest) == [b"f050", b"f060"]
        assert isinstance(outcome.rest[b"f050"], TransferFailed)
        assert isinstance(outcome.rest[b"f060"], Refused | NotFound)
    assert {name[3:] for name in server.files} >= set(outcome.done)


async def test_no_reply_behind_the_one_that_ends_the_session_is_believed(tmp_path: Path) -> None:
    """They would be taken for those of the file that it ended with."""

    def once(dialogue: RecordDialogue, argument: str) -> None:
        if not argument.endswith("50"):
            dialogue.store(argument)
            return
        dialogue.say("150 OK")
        dialogue._discard()
        dialogue.say("421 going down")
        for _ in range(20):  # whatever a receive of the client cuts off, the next one begins with success
            dialogue.say("226 done")

    for name, content in FILES.items():
        (tmp_path / os.fsdecode(name[3:])).write_bytes(content)
    for _ in range(5):
        with record_server({"STOR": once}) as server:
            async with scripted(server) as session:
                up = batch_of(session, os.fsencode(tmp_path), b"/d", entries(), upload=True)
                outcome = await carry(session, [up], preserve=False)
        assert b"f050" in outcome.rest
        assert {name[3:] for name in server.files} >= set(outcome.done)


@pytest.mark.parametrize("upload", [True, False], ids=["up", "down"])
async def test_a_cancelled_lane_ends_and_leaves_nothing(tmp_path: Path, upload: bool) -> None:
    token = trio.lowlevel.current_trio_token()
    with record_server({}, files={} if upload else FILES) as server, trio.CancelScope() as scope:

        def stop(dialogue: RecordDialogue, argument: str) -> None:
            if argument == "/d/f020":
                token.run_sync_soon(scope.cancel)
            if argument >= "/d/f020":
                return  # and never answers
            (dialogue.store if upload else dialogue.retrieve)(argument)

        server.actions["STOR" if upload else "RETR"] = stop
        if upload:
            for name, content in FILES.items():
                (tmp_path / os.fsdecode(name[3:])).write_bytes(content)
        async with scripted(server) as session:
            source, target = (os.fsencode(tmp_path), b"/d") if upload else (b"/d", os.fsencode(tmp_path))
            await carry(session, [batch_of(session, source, target, entries(), upload=upload)], preserve=False)
    assert scope.cancelled_caught
    assert not session.usable
    if not upload:
        got = {b"/d/" + name: content for name, (content, _, _) in look(tmp_path).items()}
        assert all(FILES[name] == content for name, content in got.items())

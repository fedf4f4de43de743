"""A copy goes on with what it has brought itself: whatever else happened to the target, the result is the source."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import trio
from click.testing import CliRunner
from running_standalone import PASSWORD, account, standalone

from uftp.cli.main import command_line
from uftp.client.auth import HttpOptions
from uftp.client.credentials import UsernamePassword
from uftp.client.dialect import Dialect
from uftp.client.session import FTPSession
from uftp.streams import Meter
from uftp.transfer.copy import Access, copy_files
from uftp.transfer.journal import Journal
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState, CopySummary
from uftp.transfer.resuming import Resuming
from uftp.transfer.upload import Upload

MIB = 1024 * 1024
SIZES = {"small": 20, "medium": 2 * MIB, "sub/other": 33}


@dataclass
class Place:
    """A server, a directory that its user may write to, and one of our own."""

    url: str
    access: Access
    there: Path
    here: Path

    def copy(self, source: str, target: str, options: CopyOptions) -> CopySummary:
        async def run() -> CopySummary:
            return await copy_files([source], target, access=self.access, options=options, state=CopyState())

        return trio.run(run)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Access]]:
    with standalone(tmp_path_factory.mktemp("standalone") / "state") as server:
        access = Access(credential=UsernamePassword("joe", PASSWORD), http=HttpOptions(ca=server.ca))
        yield f"{server.auth}/TEST:", access


@pytest.fixture
def place(running: tuple[str, Access], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    # Not below pytest's directory, which other users cannot enter.
    there = Path(tempfile.mkdtemp(prefix="uftp-test-"))
    if os.geteuid() == 0:
        os.chown(there, pwd.getpwnam(account()).pw_uid, -1)
    try:
        yield Place(running[0] + str(there), running[1], there, tmp_path)
    finally:
        shutil.rmtree(there)


def fill(top: Path, byte: bytes) -> None:
    for name, size in SIZES.items():
        (top / name).parent.mkdir(exist_ok=True, parents=True)
        (top / name).write_bytes(byte * size)


def contents(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("preserve", [True, False])
def test_files_replaced_between_two_runs_are_copied_again(place: Place, up: bool, preserve: bool) -> None:
    source, target = (place.here / "tree", place.there / "tree") if up else (place.there / "tree", place.here / "tree")
    fill(source, b"1")
    late = source / "late"  # so that the first run leaves something to go on with
    if up:
        late.symlink_to("not yet there")
    else:
        late.touch(mode=0)
    options = CopyOptions(recursive=True, preserve=preserve)
    names = (f"{source}/", place.url + "/tree") if up else (place.url + "/tree/", str(target))
    first = place.copy(*names, options)
    assert first.failed == 1
    late.unlink()
    late.write_bytes(b"3")
    for name, size in SIZES.items():
        if name != "sub/other":
            (target / name).write_bytes(b"2" * size)
    again = place.copy(*names, options)
    assert again.failed == 0
    assert contents(target) == contents(source)
    assert again.unchanged == 1


def test_an_interrupt_while_sessions_are_closed_comes_too_late(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is gone: the same command would take the new directory for one to copy the tree into."""
    fill(place.here / "tree", b"1")

    close = SessionPool.__aexit__

    async def interrupted(self: SessionPool, *exc: object) -> None:
        await close(self, *exc)
        os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep_forever()

    monkeypatch.setattr(SessionPool, "__aexit__", interrupted)
    variables = {"UFTP_USER": "joe", "UFTP_PASSWORD": PASSWORD, "UFTP_NO_AGENT": "true"}
    arguments = ["cp", "-q", "-r", "--ca", str(place.access.http.ca), str(place.here / "tree"), place.url + "/new"]
    result = CliRunner().invoke(command_line, arguments, env=variables)
    assert (result.exit_code, result.output) == (0, "")
    assert contents(place.there / "new") == contents(place.here / "tree")


def test_two_copies_have_parts_of_their_own(place: Place) -> None:
    """Their journals know nothing of each other: what one has put into the part the other one would do without."""

    class Known:
        has_ranges = True

    class Pool:
        async def call(self, step: object) -> bytes:
            return b"fingerprint"

    async def run() -> list[bytes | None]:
        names = []
        source = place.here / "large"
        source.write_bytes(b"x")
        for identity in (b"a", b"b", b"a"):
            journal = Journal.open(place.here / "journals", [identity], {})
            assert journal is not None
            task = Upload(
                bytes(source),
                b"/large",
                None,
                CopyOptions(),
                CopyState(),
                source="large",
                target="large",
                dialect=cast("Dialect", Known()),
                size=1,
            )
            resuming = Resuming(journal, cast("SessionPool", Pool()), CopyState(), CopyOptions(), top=None)
            assert await resuming.take_up(task) == []
            names.append(task.part_name)
            journal.close(remove=False)
        return names

    first, second, first_again = trio.run(run)
    assert first is not None
    assert first == first_again != second


def test_a_part_that_is_removed_meanwhile_is_no_success(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place.here / "large"
    with source.open("wb") as file:
        file.write(b"beginning")
        file.truncate(96 * MIB)
    move = Upload.move
    removed: list[Path] = []

    async def remove_after_the_first(self: Upload, session: FTPSession, piece: Piece, meter: Meter) -> bytes:
        digest = await move(self, session, piece, meter)
        if not removed:
            removed.extend(place.there.glob(".uftp-*.part"))
            for path in removed:
                path.unlink()
        return digest

    monkeypatch.setattr(Upload, "move", remove_after_the_first)
    first = place.copy(str(source), place.url + "/large", CopyOptions(threads=1, retries=0))
    assert len(removed) == 1
    assert first.failed == 1
    assert "removed while it was copied" in str(first.failures[0].error)
    assert not (place.there / "large").exists()
    assert place.copy(str(source), place.url + "/large", CopyOptions(threads=1)).failed == 0
    assert (place.there / "large").read_bytes() == source.read_bytes()
    assert os.listdir(place.there) == ["large"]

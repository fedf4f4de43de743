"""Copies from and to servers in MODE U that misbehave: never a success, never a file that is not whole."""

# ruff: noqa: ASYNC240 -- small local files, looked at after the step that a test is about

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import threading
from pathlib import Path

import pytest
import trio
from misbehaving_records import BAD_RETR, BAD_STOR, CONTENT, cutting, flipping
from running_uftp import UFTP, environment, uftp
from scripted_records import FEATURES, RecordDialogue, RecordServer, record_server, reply

from uftp.client.login import SessionOptions
from uftp.errors import UFTPError
from uftp.streams import Meter, StreamError
from uftp.transfer.copy import Access, copy_files
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState, CopySummary, FileResult

QUICK = Access(session=SessionOptions(stall_timeout=0.3, reply_timeout=0.5, final_timeout=0.5, connect_timeout=2))
SMALL_FILES = {b"/d/f%03d" % number: b"%d " % number * (number * 7) for number in range(300)}


def directory(dialogue: RecordDialogue, argument: str) -> None:
    """MLST where /d is a directory, and all else a file."""
    facts = "type=dir;" if argument.strip("/") == "d" else "type=file;size=5;"
    dialogue.say(f"250-\r\n {facts}modify=20210203040506; x\r\n250 End")


def contents(top: Path) -> dict[bytes, bytes]:
    """All files, as if they were in /d."""
    return {b"/d/" + os.fsencode(path.name): path.read_bytes() for path in top.iterdir()}


async def download(server: RecordServer, target: Path, *, source: str = "/a", retries: int = 0) -> CopySummary:
    options = CopyOptions(retries=retries, recursive=True)
    return await copy_files([f"{server.url}{source}"], str(target), access=QUICK, options=options)


@pytest.mark.parametrize("old", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("case", BAD_RETR)
async def test_no_bad_download_gets_its_name(case: str, old: bool, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if old:
        target.write_text("old")
    # A small file goes in a bundle, a large one alone.
    for facts in ("size=5", "size=2000000"):
        mlst = reply(f"250-\r\n {facts};modify=20210203040506;type=file; x\r\n250 End")
        with record_server({"RETR": BAD_RETR[case][0], "MLST": mlst}) as server:
            summary = await download(server, target)
            assert (summary.files, summary.failed) == (0, 1)
            with pytest.raises(UFTPError, match=BAD_RETR[case][1]):
                summary.raise_for_failures()
        assert list(tmp_path.iterdir()) == ([target] if old else [])
        assert not old or target.read_text() == "old"


async def test_a_connection_cut_at_any_place_leaves_nothing(tmp_path: Path) -> None:
    for after in (0, 8, 1_048_584, 2_999_999, 3_000_000):
        with record_server({"RETR": cutting(after)}, files={b"/a": CONTENT}) as server:
            assert (await download(server, tmp_path / "target")).failed == 1
            assert list(tmp_path.iterdir()) == []
            assert (await download(server, tmp_path / "target")).failed == 0
            assert (tmp_path / "target").read_bytes() == CONTENT
            (tmp_path / "target").unlink()


# A server that says 226 and throws away a small file whose last byte was sent already cannot be found out.
@pytest.mark.parametrize("case", [case for case in BAD_STOR if case != "226 in the middle"])
async def test_no_bad_upload_is_a_success(case: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "small").write_bytes(b"12345")
    with record_server({"STOR": BAD_STOR[case][0], "MLST": directory, "MKD": reply('257 "/d/source"')}) as server:
        for path in (str(source), str(source / "small")):
            summary = await copy_files(
                [path], f"{server.url}/d/", access=QUICK, options=CopyOptions(retries=0, recursive=True)
            )
            assert (summary.files, summary.failed) == (0, 1)
            with pytest.raises(UFTPError):
                summary.raise_for_failures()
        assert not [line for line in server.lines if line.startswith("RNTO")]


async def test_bundles_carry_trees_both_ways(tmp_path: Path) -> None:
    actions = {"MLST": directory, "MKD": reply('257 "/d"')}
    with record_server(actions, files=SMALL_FILES) as server:
        summary = await download(server, tmp_path / "back", source="/d")
        assert (summary.files, summary.failed) == (300, 0)
        assert {
            b"/d/" + os.fsencode(path.name): path.read_bytes() for path in (tmp_path / "back").iterdir()
        } == SMALL_FILES
        server.files.clear()
        summary = await copy_files(
            [f"{tmp_path}/back/"], f"{server.url}/d", options=CopyOptions(retries=0, recursive=True, preserve=True)
        )
        assert (summary.files, summary.failed, summary.bytes) == (300, 0, sum(map(len, SMALL_FILES.values())))
        assert server.files == SMALL_FILES
        assert all(facts.startswith(b"modify=2") for facts in server.facts.values())
        # Nothing was asked for each file but to be stored.
        commands = [line.split()[0] for line in server.lines]
        assert commands.count("STOR") == 300
        assert commands.count("SIZE") == commands.count("RNFR") == commands.count("ALLO") == 0


async def test_one_bad_file_of_many_fails_alone(tmp_path: Path) -> None:
    def sometimes(dialogue: RecordDialogue, argument: str) -> None:
        if argument in BAD:
            BAD[argument](dialogue, argument)
        else:
            dialogue.retrieve(argument)

    BAD = {  # noqa: N806 -- a table
        "/d/f010": reply("550 gone"),
        "/d/f020": BAD_RETR["ABORT"][0],
        "/d/f030": BAD_RETR["wrong digest"][0],
        "/d/f040": BAD_RETR["END, but 451"][0],
        "/d/f050": BAD_RETR["END early"][0],
        "/d/f060": reply("450 busy"),
        "/d/f070": BAD_RETR["END missing"][0],
        "/d/f080": BAD_RETR["hangs up"][0],
        "/d/f090": BAD_RETR["number of another"][0],
        "/d/f100": flipping(9),
    }
    failures: list[FileResult] = []
    state = CopyState(on_result=lambda result: failures.append(result) if result.error else None)
    with record_server({"RETR": sometimes, "MLST": directory}, files=SMALL_FILES) as server:
        summary = await copy_files(
            [f"{server.url}/d"],
            str(tmp_path / "back"),
            access=QUICK,
            options=CopyOptions(retries=0, recursive=True),
            state=state,
        )
    assert {result.source.rpartition(":")[2].partition("/")[2] for result in failures} == {
        name.removeprefix("/") for name in BAD
    }
    assert (summary.files, summary.failed) == (290, 10)
    assert contents(tmp_path / "back") == {
        name: content for name, content in SMALL_FILES.items() if name.decode() not in BAD
    }


async def test_a_server_that_never_has_a_data_connection_fails_every_file(tmp_path: Path) -> None:
    with record_server({"EPSV": reply("522 no port"), "MLST": directory}) as server:
        source = tmp_path / "source"
        source.mkdir()
        for name in "abc":
            (source / name).write_text(name)
        summary = await copy_files(
            [f"{source}/"], f"{server.url}/d", access=QUICK, options=CopyOptions(retries=0, recursive=True)
        )
    assert (summary.files, summary.failed) == (0, 3)


async def test_local_failures_in_a_bundle_are_of_their_files_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in "abc":
        (source / name).write_text(name)
    with record_server({"MLST": directory}) as server:
        (source / "gone").symlink_to("nowhere")
        summary = await copy_files(
            [f"{source}/"], f"{server.url}/d", access=QUICK, options=CopyOptions(retries=0, recursive=True)
        )
        assert (summary.files, summary.failed) == (3, 1)
        assert server.files == {b"/d/a": b"a", b"/d/b": b"b", b"/d/c": b"c"}
        # Downloads into a directory that has another directory of that name.
        target = tmp_path / "target"
        (target / "b").mkdir(parents=True)
        summary = await download(server, target, source="/d/")
        assert (summary.files, summary.failed) == (2, 1)
        assert sorted(path.name for path in target.iterdir()) == ["a", "b", "c"]


async def test_an_interrupt_in_a_bundle_leaves_no_part_file(tmp_path: Path) -> None:
    token = trio.lowlevel.current_trio_token()
    with record_server({"MLST": directory}, files=SMALL_FILES) as server, trio.CancelScope() as scope:

        def stop(dialogue: RecordDialogue, argument: str) -> None:
            if argument == "/d/f200":
                token.run_sync_soon(scope.cancel)
            dialogue.retrieve(argument)

        server.actions["RETR"] = stop
        await download(server, tmp_path / "back", source="/d")
    assert scope.cancelled_caught
    names = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert names == [f"f{number:03}" for number in range(len(names))]
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == SMALL_FILES[b"/d/" + name.encode()]


# Which of the two connections of a server that hangs up is seen to end first is a matter of luck.
@pytest.mark.parametrize(("case", "codes"), [("wrong digest", {9}), ("ABORT", {9}), ("hangs up", {6, 9}), ("421", {6})])
def test_exit_codes(case: str, codes: set[int], tmp_path: Path) -> None:
    with record_server({"RETR": BAD_RETR[case][0]}, files={b"/a": CONTENT}) as server:
        outcome = uftp("cp", "--retries", "0", f"{server.url}/a", tmp_path / "target")
    assert outcome.code in codes
    assert len(outcome.error_lines) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
async def test_a_second_session_without_digests_carries_what_the_first_one_left(up: bool, tmp_path: Path) -> None:
    sessions = transfers = 0

    def features(dialogue: RecordDialogue, argument: str) -> None:
        nonlocal sessions
        sessions += 1
        lines = [line for line in FEATURES if sessions == 1 or line != "MODE U DIGEST BLAKE3"]
        dialogue.say("211-Features:\r\n" + "".join(f" {line}\r\n" for line in lines) + "211 END")

    def broken(dialogue: RecordDialogue, argument: str) -> None:
        nonlocal transfers
        transfers += 1
        if transfers == 20:
            dialogue.hang_up()
        elif up:
            dialogue.store(argument)
        else:
            dialogue.retrieve(argument)

    actions = {"FEAT": features, "STOR" if up else "RETR": broken, "MLST": directory, "SIZE": size}
    source = tmp_path / "source"
    source.mkdir()
    with record_server(actions, files={} if up else SMALL_FILES) as server:
        options = CopyOptions(retries=0, recursive=True, threads=1)
        if up:
            for name, content in SMALL_FILES.items():
                (source / os.fsdecode(name.rpartition(b"/")[2])).write_bytes(content)
            summary = await copy_files([f"{source}/"], f"{server.url}/d", access=QUICK, options=options)
            there = server.files
        else:
            summary = await copy_files([f"{server.url}/d/"], str(source), access=QUICK, options=options)
            there = contents(source)
        assert sessions > 1
        # The one at which the session broke may have failed with it.
        assert summary.files + summary.failed == 300
        assert summary.failed <= 1
        assert len(there) == summary.files
        assert all(content == SMALL_FILES[name] for name, content in there.items())


def missing(dialogue: RecordDialogue, argument: str) -> None:
    """MLST where nothing is."""
    dialogue.say("550 no such file")


def size(dialogue: RecordDialogue, argument: str) -> None:
    """SIZE."""
    dialogue.say(f"213 {len(dialogue.files[dialogue.name(argument)])}")


async def test_a_named_pipe_is_opened_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[CONTENT])
    with record_server({"MLST": missing, "SIZE": size}) as server:
        writer.start()
        await copy_files([str(pipe)], f"{server.url}/f", access=QUICK, options=CopyOptions(retries=0))
        writer.join()
        assert list(server.files.values()) == [CONTENT]


def test_what_was_read_from_a_pipe_is_not_left_out_by_a_second_try(tmp_path: Path) -> None:
    read, write = os.pipe()
    tries = 0

    def lost(dialogue: RecordDialogue, argument: str) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            incoming = dialogue.reader.begin(dialogue.number, dialogue.binding)
            os.write(write, bytes(capacity))  # which takes until the client has read what was there
            dialogue.say("425 no data connection")
            with contextlib.suppress(StreamError):
                incoming.discard(Meter())
            os.close(write)
            return
        dialogue.store(argument)

    capacity = fcntl.fcntl(write, fcntl.F_GETPIPE_SZ)
    os.write(write, bytes(capacity))
    with record_server({"STOR": lost, "MLST": missing, "SIZE": size}) as server:
        done = subprocess.run(
            [UFTP, "cp", "-", f"{server.url}/f"], stdin=read, capture_output=True, timeout=60, env=environment()
        )
        os.close(read)
        assert done.returncode == 9
        assert b"cannot be read again" in done.stderr
        assert not any(server.files.values())


def test_a_file_that_fails_with_its_session_is_named(tmp_path: Path) -> None:
    def sometimes(dialogue: RecordDialogue, argument: str) -> None:
        if argument == "/d/f020":
            dialogue.hang_up()
        else:
            dialogue.retrieve(argument)

    with record_server({"RETR": sometimes, "MLST": directory}, files=SMALL_FILES) as server:
        outcome = uftp("cp", "-r", "--retries", "0", f"{server.url}/d", tmp_path / "back")
    assert outcome.code == 10
    assert len(outcome.error_lines) == 2
    assert "/d/f020: " in outcome.error_lines[0]


async def test_a_session_lost_at_a_listing_costs_nothing(tmp_path: Path) -> None:
    listed = 0

    def first_lost(dialogue: RecordDialogue, argument: str) -> None:
        nonlocal listed
        listed += 1
        if listed == 1:
            dialogue.hang_up()
        else:
            dialogue.list_directory(argument)

    with record_server({"MLSD": first_lost, "MLST": directory}, files=SMALL_FILES) as server:
        summary = await download(server, tmp_path / "back", source="/d/", retries=1)
        assert (summary.files, summary.failed) == (300, 0)
    assert contents(tmp_path / "back") == SMALL_FILES

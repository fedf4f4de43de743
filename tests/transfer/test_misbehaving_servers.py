"""Servers that break off, lie, stall or talk nonsense: never a success, never anything partial under a final name."""

# ruff: noqa: ASYNC240 -- small local files, looked at after the step that a test is about

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
import trio.testing
from scripted_ftp import OTHER, OURS, Action, Dialogue, ScriptedServer, reply, scripted_server

from uftp.client.login import SessionOptions
from uftp.errors import UFTPError
from uftp.transfer.copy import Access, copy_files
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopySummary

SIZE = 1000  # what the scripted MLST says
QUICK = Access(session=SessionOptions(stall_timeout=0.3, reply_timeout=0.5, final_timeout=0.5, connect_timeout=2))


def sending(count: int, begin: str, end: str | None) -> Action:
    """RETR: announce, send `count` bytes, close the data connection, end with this reply (or hang up)."""

    async def act(dialogue: Dialogue, argument: str) -> None:
        await dialogue.say(begin)
        async with await dialogue.data() as data:
            await data.send_all(b"x" * count)
        if end is None:
            await dialogue.control.aclose()
        else:
            await dialogue.say(end)

    return act


async def stalling_retr(dialogue: Dialogue, argument: str) -> None:
    await dialogue.say(f"150 OK {SIZE} bytes")
    async with await dialogue.data() as data:
        await data.send_all(b"x" * 400)
        await data.receive_some(1)  # until the client gives up


async def saying_nothing(dialogue: Dialogue, argument: str) -> None:
    await trio.lowlevel.checkpoint()


async def hang_up(dialogue: Dialogue, argument: str) -> None:
    await dialogue.control.aclose()


async def closed_data_port(dialogue: Dialogue, argument: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    await dialogue.say(f"229 Entering Extended Passive Mode (|||{port}|)")


ANNOUNCED = f"150 OK {SIZE} bytes available for reading."
BAD_RETR: Mapping[str, Action] = {
    "early end, 226": sending(400, ANNOUNCED, "226 File transfer successful"),
    "early end, 426": sending(400, ANNOUNCED, "426 aborted"),
    "early end, 451": sending(400, ANNOUNCED, "451 local error"),
    "all of it, then 451": sending(SIZE, ANNOUNCED, "451 read error"),
    "all of it, then 500": sending(SIZE, ANNOUNCED, "500 Error processing command"),
    "nothing, 226": sending(0, ANNOUNCED, "226 File transfer successful"),
    "garbage at the end": sending(SIZE, ANNOUNCED, "hello world"),
    "garbage instead of 150": sending(SIZE, "hello", "226 done"),
    "hangs up in the middle": sending(400, ANNOUNCED, None),
    "hangs up at the end": sending(SIZE, ANNOUNCED, None),
    "announces too few": sending(SIZE, "150 OK 500 bytes", "226 done"),
    "announces too many": sending(SIZE, "150 OK 2000 bytes", "226 done"),
    "226 without 150": reply("226 File transfer successful"),
    "stalls": stalling_retr,
    "silence after the command": saying_nothing,
    "hangs up at the command": hang_up,
    "says no": reply("550 no such file"),
}


async def download(server: ScriptedServer, target: Path, options: CopyOptions | None = None) -> CopySummary:
    return await copy_files([f"{server.url}/x"], str(target), access=QUICK, options=options or CopyOptions(retries=0))


# Servers of others announce nothing that counts.
RETR_CASES = [(case, OURS) for case in BAD_RETR] + [(case, OTHER) for case in BAD_RETR if "announces" not in case]


@pytest.mark.parametrize(("case", "features"), RETR_CASES)
async def test_no_bad_download_gets_its_name(case: str, features: tuple[str, ...], tmp_path: Path) -> None:
    greeting = "220 UFTPD 9.9.9, test" if features is OURS else "220 hello"
    async with scripted_server({"RETR": BAD_RETR[case]}, features=features, greeting=greeting) as server:
        summary = await download(server, tmp_path / "target")
        with pytest.raises(UFTPError):
            summary.raise_for_failures()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", BAD_RETR)
async def test_a_bad_download_leaves_the_old_file_alone(case: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    async with scripted_server({"RETR": BAD_RETR[case]}) as server:
        assert (await download(server, target)).failed == 1
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


async def test_the_same_server_behaving_well(tmp_path: Path) -> None:
    async with scripted_server({"RETR": sending(SIZE, ANNOUNCED, "226 done")}) as server:
        summary = await download(server, tmp_path / "target")
    assert (summary.files, summary.failed, summary.bytes) == (1, 0, SIZE)
    assert (tmp_path / "target").read_bytes() == b"x" * SIZE


@pytest.mark.parametrize(
    "epsv",
    [closed_data_port, reply("229 nonsense"), reply("522 no free port"), hang_up],
    ids=["closed", "junk", "522", "hang"],
)
async def test_no_data_connection(epsv: Action, tmp_path: Path) -> None:
    async with scripted_server({"EPSV": epsv}) as server:
        assert (await download(server, tmp_path / "target")).failed == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b"])
async def test_names_in_listings_cannot_lead_out(name: str, tmp_path: Path) -> None:
    target = tmp_path / "below" / "target"
    target.mkdir(parents=True)

    async def listing(dialogue: Dialogue, argument: str) -> None:
        await dialogue.say("150 OK")
        async with await dialogue.data() as data:
            await data.send_all(f"type=file;size={SIZE};modify=20210203040506; {name}\r\n".encode())
        await dialogue.say("226 done")

    actions = {
        "MLST": reply("250-\r\n type=dir;size=0;modify=20210203040506; x\r\n250 End"),
        "MLSD": listing,
        "RETR": sending(SIZE, ANNOUNCED, "226 done"),
    }
    async with scripted_server(actions) as server:
        summary = await download(server, target, CopyOptions(retries=0, recursive=True))
    assert summary.failed == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def taking(begin: str, end: str | None, *, read: bool = True) -> Action:
    """STOR: begin, take the data or close at once, end with this reply (or hang up)."""

    async def act(dialogue: Dialogue, argument: str) -> None:
        await dialogue.say(begin)
        if read:
            await dialogue.drain()
        else:
            await (await dialogue.data()).aclose()
        if end is None:
            await dialogue.control.aclose()
        else:
            await dialogue.say(end)

    return act


async def never_reading(dialogue: Dialogue, argument: str) -> None:
    await dialogue.say("150 OK")
    async with await dialogue.data():
        await dialogue.control.receive_some(1)


BIG = 32 * 1024 * 1024  # more than the kernel takes for a connection nobody reads
SHORT = reply("213 400")
BAD_STOR: Mapping[str, Mapping[str, Action]] = {
    "500 at the end": {"STOR": taking("150 OK", "500 disk full")},
    "451 at the end": {"STOR": taking("150 OK", "451 local error")},
    "552 in the middle": {"STOR": taking("150 OK", "552 quota", read=False)},
    "226 in the middle": {"STOR": taking("150 OK", "226 done", read=False)},
    "hangs up at the end": {"STOR": taking("150 OK", None)},
    "hangs up in the middle": {"STOR": taking("150 OK", None, read=False)},
    "garbage at the end": {"STOR": taking("150 OK", "fine")},
    "226, but short": {"STOR": taking("150 OK", "226 done"), "SIZE": SHORT},
    "stalls": {"STOR": never_reading},
    "says no": {"STOR": reply("553 no")},
    "hangs up at the command": {"STOR": hang_up},
}


@pytest.mark.parametrize("features", [OURS, OTHER], ids=["ours", "other"])
@pytest.mark.parametrize("case", BAD_STOR)
async def test_no_bad_upload_gets_its_name(case: str, features: tuple[str, ...], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(BIG))
    actions: dict[str, Action] = {"SIZE": reply(f"213 {BIG}"), **BAD_STOR[case]}
    greeting = "220 UFTPD 9.9.9, test" if features is OURS else "220 hello"
    async with scripted_server(actions, features=features, greeting=greeting) as server:
        summary = await copy_files([str(source)], f"{server.url}/x", access=QUICK, options=CopyOptions(retries=0))
        assert summary.failed == 1
        with pytest.raises(UFTPError):
            summary.raise_for_failures()
        assert [line for line in server.lines if line.startswith("RNTO")] == []
        stored = {line for line in server.lines if line.startswith("STOR")}
        if features is OTHER:
            assert all(".uftp-" in line for line in stored)
            # What may be there is removed, on another session if this one broke.
            assert {line.replace("DELE", "STOR") for line in server.lines if line.startswith("DELE")} == stored


async def test_an_upload_broken_off_ends_in_a_reset_and_not_in_an_end_of_file(tmp_path: Path) -> None:
    """A server that knows no length would take an end of file for the end of the file."""
    ended: list[str] = []
    source = tmp_path / "source"
    source.write_bytes(bytes(BIG))

    async def act(dialogue: Dialogue, argument: str) -> None:
        await dialogue.say("150 OK")
        data = await dialogue.data()
        await data.receive_some(1000)
        scope.cancel()
        await dialogue.control.receive_some(1)
        try:
            while await data.receive_some(1_000_000):
                pass
            ended.append("end of file")
        except trio.BrokenResourceError:
            ended.append("reset")
        await data.aclose()

    async with scripted_server({"STOR": act, "SIZE": reply(f"213 {BIG}")}) as server:
        with trio.CancelScope() as scope:
            await copy_files([str(source)], f"{server.url}/x", access=QUICK, options=CopyOptions(retries=0))
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert ended == ["reset"]


async def test_a_refused_second_session_leaves_the_first_one_working(tmp_path: Path) -> None:
    logins = 0

    async def once(dialogue: Dialogue, argument: str) -> None:
        nonlocal logins
        logins += 1
        await dialogue.say("230 welcome" if logins == 1 else "530 Too many active sessions")

    size = 64 * 1024 * 1024

    async def sending_range(dialogue: Dialogue, argument: str) -> None:
        asked = next(line for line in reversed(server.lines) if line.startswith("RANG"))
        first, end = (int(word) for word in asked.split()[1:])
        await sending(end - first, f"150 OK {end - first} bytes", "226 done")(dialogue, argument)

    actions = {
        "PASS": once,
        "RETR": sending_range,
        "MLST": reply(f"250-\r\n size={size};modify=20210203040506;type=file; x\r\n250 End"),
    }
    async with scripted_server(actions) as server:
        summary = await download(server, tmp_path / "target", CopyOptions(retries=0, threads=4))
    assert (summary.files, summary.failed) == (1, 0)
    assert 2 <= logins <= 4  # each worker asks once
    assert (tmp_path / "target").stat().st_size == size


async def test_nobody_to_log_in_is_one_error_for_all() -> None:
    async with scripted_server({"PASS": reply("530 no")}) as server:
        with pytest.raises(UFTPError, match="530"):
            await copy_files(
                [f"{server.url}/a", f"{server.url}/b"], "/dev/null", access=QUICK, options=CopyOptions(retries=0)
            )
        assert len([line for line in server.lines if line.startswith("PASS")]) == 1

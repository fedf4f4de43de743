"""`sync` with servers that make the mistakes upstream's are known for: noticed, and the file is whole all the same."""

# ruff: noqa: ASYNC240 -- small local files, looked at after the step that a test is about

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from scripted_ftp import Action, Dialogue, reply, scripted_server

from uftp.client.login import SessionOptions, open_ftp_session
from uftp.client.syncing import Unsuitable, fetch_changes, send_changes
from uftp.errors import LocalFileError, NotFound, UFTPError, UsageError
from uftp.protocol.rsync import BLOCK_SUM, RECORD, SUMS_HEADER
from uftp.streams import Meter, prepare
from uftp.streams.delta import follow, lead
from uftp.transfer.copy import Access
from uftp.transfer.sync import SyncSummary, sync_file

FEATURES = (
    "EPSV",
    "RANG STREAM",
    "REST STREAMMFMT",
    "MLSD",
    "MLST",
    "APPE",
    "ARCHIVE",
    "HASH MD5*;SHA-1;SHA-256",
    "CRYPTED-AES",
)
GREETING = "220 UFTPD 3.5.3, https://www.unicore.eu"
QUICK = Access(session=SessionOptions(stall_timeout=2, reply_timeout=5, final_timeout=5, connect_timeout=5))
BASE = random.Random(8).randbytes(200_000)
EDITED = BASE[:70_000] + b"an edit" + BASE[70_010:]
Leading = Callable[[socket.socket, bytes], None]
Following = Callable[[socket.socket, bytes], bytes]


def memory(content: bytes = b"") -> int:
    fd = os.memfd_create("sync")
    os.write(fd, content)
    return fd


def good_leader(end: socket.socket, new: bytes) -> None:
    fd = memory(new)
    try:
        lead(end, fd, len(new), Meter())
    finally:
        os.close(fd)


def good_follower(end: socket.socket, old: bytes) -> bytes:
    fds = memory(old), memory()
    try:
        result = follow(end, fds[0], len(old), fds[1], Meter())
        return os.pread(fds[1], result.size, 0)
    finally:
        for fd in fds:
            os.close(fd)


def read_sums(end: socket.socket) -> tuple[int, list[bytes]]:
    block, count = SUMS_HEADER.unpack(end.recv(SUMS_HEADER.size, socket.MSG_WAITALL))
    sums = end.recv(BLOCK_SUM.size * count, socket.MSG_WAITALL)
    return block, [sums[at + 8 : at + 24] for at in range(0, len(sums), 24)]


def stale_window(end: socket.socket, new: bytes) -> None:
    """The Java leader: at the end of the file what was in its window before stays there."""
    block, known = read_sums(end)
    out, place = b"", 0
    while place < len(new):
        window = new[place : place + block]
        window += new[place - (block - len(window)) : place]
        digest = hashlib.md5(window, usedforsecurity=False).digest()
        if digest not in known:
            break
        out += RECORD.pack(known.index(digest), 0)
        place += block
    rest = new[place:] or new[-1:]
    end.sendall(out + RECORD.pack(-1, len(rest)) + rest)


def breaks_off(end: socket.socket, new: bytes) -> None:
    read_sums(end)
    end.sendall(RECORD.pack(0, 100) + b"only this")
    end.shutdown(socket.SHUT_WR)


def names_no_block(end: socket.socket, new: bytes) -> None:
    end.sendall(RECORD.pack(len(read_sums(end)[1]), 0))


def sends_another_file(end: socket.socket, new: bytes) -> None:
    read_sums(end)
    end.sendall(RECORD.pack(-1, len(new)) + new[:-1] + b"!")


def swallowing_follower(end: socket.socket, old: bytes) -> bytes:
    """The Python follower: a literal is read in pieces of its whole length, or 65536 bytes, which may go too far."""
    block = max(512, len(old) // 1000)
    blocks = [old[at : at + block] for at in range(0, len(old), block)]
    end.sendall(SUMS_HEADER.pack(block, len(blocks)))
    for one in blocks:
        a, b = sum(one), sum((len(one) - j) * x for j, x in enumerate(one))
        end.sendall(BLOCK_SUM.pack((b & 0xFFFF) << 16 | a & 0xFFFF, hashlib.md5(one, usedforsecurity=False).digest()))
    stream = end.makefile("rb")
    made, index = b"", 0
    while index >= 0:
        index, length = RECORD.unpack(stream.read(RECORD.size))
        piece, taken = min(length, 65536), 0
        while taken < length:
            data = stream.read(piece)
            taken += len(data)
            made += data
        made += blocks[index] if index >= 0 else b""
    return made


@dataclass
class Upstream:
    """A server in memory.

    Attributes:
        files: by path.
        lines: all commands.
        said: what it answers to a sync in place of 200.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    leader: Leading = good_leader
    follower: Following = good_follower
    said: str = "200 OK"
    complaint: str = ""
    port: int = 0
    _renamed: str = ""

    @property
    def url(self) -> str:
        return f"ftp://anonymous:x@127.0.0.1:{self.port}"

    @property
    def verbs(self) -> list[str]:
        return [line.partition(" ")[0] for line in self.lines]

    async def stat(self, dialogue: Dialogue, argument: str) -> None:
        path = argument.removeprefix("F ")
        if path in ("/", "/dir", "/dir/"):
            await dialogue.say("211- Sending file list\r\n drwx 4096 1795369667000 dir\r\n211 End of file list")
        elif path in self.files:
            size = len(self.files[path])
            await dialogue.say(f"211- Sending file list\r\n -rw- {size} 1795369667000 f\r\n211 End of file list")
        else:
            await dialogue.say("500 Directory/file does not exist or cannot be accessed!")

    async def hash(self, dialogue: Dialogue, argument: str) -> None:
        content = self.files[argument]
        await dialogue.say(f"213 SHA-256 0-{len(content) - 1} {hashlib.sha256(content).hexdigest()} {argument}")

    async def retr(self, dialogue: Dialogue, argument: str) -> None:
        await dialogue.say(f"150 OK {len(self.files[argument])} bytes available for reading.")
        async with await dialogue.data() as data:
            await data.send_all(self.files[argument])
        await dialogue.say("226 File transfer successful")

    async def stor(self, dialogue: Dialogue, argument: str) -> None:
        await dialogue.say("150 OK")
        self.files[argument] = await dialogue.drain()
        await dialogue.say("226 File transfer successful")

    async def rnfr(self, dialogue: Dialogue, argument: str) -> None:
        self._renamed = argument
        await dialogue.say("350 File action OK")

    async def rnto(self, dialogue: Dialogue, argument: str) -> None:
        self.files[argument] = self.files.pop(self._renamed)
        await dialogue.say("200 OK")

    async def sync(self, dialogue: Dialogue, argument: str, run: Callable[[socket.socket], object]) -> None:
        await dialogue.say(self.said)
        if not self.said.startswith("200"):
            return
        stream = await dialogue.data()
        end = socket.socket(fileno=os.dup(stream.socket.fileno()))
        await stream.aclose()
        prepare(end, 5)
        try:
            with end:
                await trio.to_thread.run_sync(run, end)
        except Exception as error:
            await dialogue.say(f"500 Error processing command 'SYNC': {error}")
        if self.complaint:
            await dialogue.say(self.complaint)

    async def to_client(self, dialogue: Dialogue, argument: str) -> None:
        await self.sync(dialogue, argument, lambda end: self.leader(end, self.files[argument]))

    async def to_server(self, dialogue: Dialogue, argument: str) -> None:
        def run(end: socket.socket) -> None:
            self.files[argument] = self.follower(end, self.files[argument])

        await self.sync(dialogue, argument, run)

    @property
    def actions(self) -> dict[str, Action]:
        return {
            "STAT": self.stat,
            "MLST": reply("500 no"),
            "HASH": self.hash,
            "RETR": self.retr,
            "STOR": self.stor,
            "RNFR": self.rnfr,
            "RNTO": self.rnto,
            "SYST": reply("215 Unix Type: L8"),
            "SYNC-TO-CLIENT": self.to_client,
            "SYNC-TO-SERVER": self.to_server,
        }


@contextlib.asynccontextmanager
async def upstream(**values: object) -> AsyncIterator[Upstream]:
    server = Upstream(**values)  # type: ignore[arg-type]
    async with scripted_server(server.actions, features=FEATURES, greeting=GREETING) as running:
        server.port = running.port
        server.lines = running.lines
        yield server


def check(summary: SyncSummary, method: str, reason: str = "") -> None:
    assert (summary.method, reason in summary.reason) == (method, True), summary
    if method == "delta":
        assert summary.verified == "SHA-256"
        assert summary.literal < summary.size
    else:
        assert summary.literal == summary.size


async def test_down_and_up(tmp_path: Path) -> None:
    local = tmp_path / "f"
    local.write_bytes(BASE)
    local.chmod(0o640)
    async with upstream(files={"/f": EDITED}) as server:
        check(await sync_file(f"{server.url}/f", str(local), access=QUICK), "delta")
        assert local.read_bytes() == EDITED
        assert stat.S_IMODE(local.stat().st_mode) == 0o640
        local.write_bytes(BASE + b"x")
        check(await sync_file(str(local), f"{server.url}/f", access=QUICK), "delta")
        assert server.files == {"/f": BASE + b"x"}
        assert not {"RETR", "STOR"} & set(server.verbs)
        (tmp_path / "dir").mkdir()
        (tmp_path / "dir" / "f").write_bytes(EDITED)
        check(await sync_file(f"{server.url}/f", str(tmp_path / "dir"), access=QUICK), "delta")
        assert (tmp_path / "dir" / "f").read_bytes() == BASE + b"x"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["dir", "f", "f"]


@pytest.mark.parametrize(
    ("leader", "reason"),
    [
        (stale_window, "not equal"),
        (sends_another_file, "not equal"),
        (breaks_off, "broke off"),
        (names_no_block, "broke off"),
    ],
)
async def test_bad_leaders_are_noticed_and_the_file_is_copied(leader: Leading, reason: str, tmp_path: Path) -> None:
    content = bytes(4100)
    local = tmp_path / "f"
    local.write_bytes(content if leader is stale_window else bytes(5000))
    async with upstream(files={"/f": content}, leader=leader) as server:
        check(await sync_file(f"{server.url}/f", str(local), access=QUICK), "copy", reason)
        assert "RETR" in server.verbs
    assert local.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


async def test_a_file_shorter_than_a_block_is_not_asked_of_upstream(tmp_path: Path) -> None:
    """It would leave bytes behind that spoil the next transfer."""
    local = tmp_path / "f"
    local.write_bytes(BASE)
    async with upstream(files={"/f": b"short"}) as server:
        check(await sync_file(f"{server.url}/f", str(local), access=QUICK), "copy", "shorter than a block")
        assert "SYNC-TO-CLIENT" not in server.verbs
    assert local.read_bytes() == b"short"


@pytest.mark.parametrize(
    ("literal", "safe"), [(65_536, True), (65_537, False), (2 * 65_536, True), (2 * 65_536 + 512, False)]
)
async def test_literals_that_upstream_takes_apart_wrongly(literal: int, safe: bool, tmp_path: Path) -> None:
    local = tmp_path / "f"
    new = BASE[:51_200] + random.Random(literal).randbytes(literal) + BASE[51_200:]
    local.write_bytes(new)
    seen: list[bytes] = []

    def follower(end: socket.socket, old: bytes) -> bytes:
        seen.append(swallowing_follower(end, old))
        return seen[-1]

    async with upstream(files={"/f": BASE}, follower=follower) as server:
        summary = await sync_file(str(local), f"{server.url}/f", access=QUICK)
        check(summary, "delta" if safe else "copy", "" if safe else "so long a change")
        assert server.files == {"/f": new}
        assert seen == [new if safe else BASE], "else the follower is given what it has"


async def test_a_wrong_result_on_the_server_is_replaced(tmp_path: Path) -> None:
    local = tmp_path / "f"
    local.write_bytes(EDITED)

    def follower(end: socket.socket, old: bytes) -> bytes:
        return good_follower(end, old)[:-1] + b"?"

    async with upstream(files={"/f": BASE}, follower=follower) as server:
        check(await sync_file(str(local), f"{server.url}/f", access=QUICK), "copy", "not equal")
        assert server.files == {"/f": EDITED}


@pytest.mark.parametrize(
    "options",
    [
        SessionOptions(encrypt=True, key=bytes(48), legacy_cipher="AES"),
        SessionOptions(compress=True),
        SessionOptions(streams=2),
    ],
    ids=["encrypted", "compressed", "streams"],
)
@pytest.mark.parametrize("up", [True, False])
async def test_only_a_plain_connection_is_used(options: SessionOptions, up: bool, tmp_path: Path) -> None:
    """The exchange knows no layers: what is to be encrypted would go in clear."""
    file, new = memory(BASE), memory()
    async with upstream(files={"/f": EDITED}) as server:
        async with open_ftp_session("127.0.0.1", server.port, user="me", password="x", options=options) as session:
            if up:
                exchange = send_changes(session, b"/f", file, len(BASE), meter=Meter())
            else:
                exchange = fetch_changes(session, b"/f", file, len(BASE), new, new_size=len(EDITED), meter=Meter())
            with pytest.raises(Unsuitable, match="without encryption"):
                await exchange
            assert session.usable
        assert not {"EPSV", "SYNC-TO-SERVER", "SYNC-TO-CLIENT"} & set(server.verbs)
    os.close(file)
    os.close(new)


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(
    "answers", [{"said": "504 not with encryption"}, {"complaint": "500 Error processing command 'SYNC': no space"}]
)
async def test_refusals_and_late_complaints(up: bool, answers: dict[str, str], tmp_path: Path) -> None:
    local = tmp_path / "f"
    local.write_bytes(EDITED if up else BASE)
    async with upstream(files={"/f": BASE if up else EDITED}, **answers) as server:
        ends = (str(local), f"{server.url}/f") if up else (f"{server.url}/f", str(local))
        check(await sync_file(*ends, access=QUICK), "copy", "the server said 50")
        assert server.files == {"/f": EDITED}
    assert local.read_bytes() == EDITED


@pytest.mark.parametrize("up", [True, False])
async def test_targets_that_are_not_there_and_empty_files(up: bool, tmp_path: Path) -> None:
    local = tmp_path / "f"
    for old, new, reason in ((None, EDITED, "not there"), (b"", EDITED, "empty"), (BASE, b"", "empty")):
        here, there = (new, old) if up else (old, new)
        if here is None:
            local.unlink(missing_ok=True)
        else:
            local.write_bytes(here)
        async with upstream(files={} if there is None else {"/f": there}) as server:
            ends = (str(local), f"{server.url}/f") if up else (f"{server.url}/f", str(local))
            check(await sync_file(*ends, access=QUICK), "copy", reason)
            assert server.files == {"/f": new}
        assert local.read_bytes() == new


async def test_other_servers_get_a_copy(tmp_path: Path) -> None:
    local = tmp_path / "f"
    local.write_bytes(b"x" * 1000)
    stored: list[bytes] = []

    async def stor(dialogue: Dialogue, argument: str) -> None:
        await dialogue.say("150 go on")
        stored.append(await dialogue.drain())
        await dialogue.say("226 done")

    features = ("EPSV", "SIZE", "MLST size*;modify*;type*;")
    actions = {"STOR": stor, "SIZE": reply("213 1000")}
    async with scripted_server(actions, features=features, greeting="220 some server") as server:
        check(await sync_file(str(local), f"{server.url}/f", access=QUICK), "copy", "has no delta sync")
    assert stored == [b"x" * 1000]


async def test_what_makes_no_sense(tmp_path: Path) -> None:
    local = tmp_path / "f"
    local.write_bytes(BASE)
    (tmp_path / "d").mkdir()
    async with upstream(files={"/f": BASE}) as server:
        cases: list[tuple[str, str, type[UFTPError]]] = [
            (str(local), str(local), UsageError),
            (f"{server.url}/f", f"{server.url}/g", UsageError),
            (f"{server.url}/*", str(local), UsageError),
            (f"{server.url}/dir", str(local), UsageError),
            (str(tmp_path / "d"), f"{server.url}/f", UsageError),
            ("-", f"{server.url}/f", UsageError),
            (f"{server.url}/f", "-", UsageError),
            ("/dev/null", f"{server.url}/f", UsageError),
            (str(tmp_path / "nosuch"), f"{server.url}/f", LocalFileError),
            (f"{server.url}/nosuch", str(local), NotFound),
            (str(local), f"{server.url}/nosuch/", NotFound),
        ]
        for source, target, error in cases:
            with pytest.raises(error):
                await sync_file(source, target, access=QUICK)
    assert local.read_bytes() == BASE


async def test_interrupted_it_leaves_the_old_file(tmp_path: Path) -> None:
    local = tmp_path / "f"
    local.write_bytes(BASE)
    begun = trio.Event()

    def leader(end: socket.socket, new: bytes) -> None:
        read_sums(end)
        end.sendall(RECORD.pack(0, 10) + b"x")
        trio.from_thread.run_sync(begun.set)
        assert end.recv(1) == b""

    async with upstream(files={"/f": EDITED}, leader=leader) as server, trio.open_nursery() as nursery:

        async def run() -> None:
            await sync_file(f"{server.url}/f", str(local), access=QUICK)

        nursery.start_soon(run)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert local.read_bytes() == BASE
    assert [p.name for p in tmp_path.iterdir()] == ["f"]

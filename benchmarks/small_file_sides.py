"""Small files, each side by itself: what the data node costs under a bare client, and the client's lane with the node.

    python -m benchmarks.small_file_sides [--count 10000] [--size 4096] [--rounds 3]

No login, planner or command line is in these figures. The bare client sends lines made before and reads replies and
records without looking at them; its uploads are records made before. Processor time is per file.
"""

from __future__ import annotations

import argparse
import os
import pwd
import select
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import blake3
import trio

from benchmarks import peers
from benchmarks.measure import machine, median, print_table, tree_cpu
from uftp.client.connect import open_session
from uftp.client.credentials import UsernamePassword
from uftp.client.session import FTPSession
from uftp.protocol.records import END, pack_header, pack_trailer
from uftp.transfer import lane
from uftp.transfer.batch import MOST_FILES, Batch, SmallFile
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState
from uftp.transfer.task import FileTask

_WINDOW: Final = 48 * 1024
_FACTS: Final = b"modify=20261122183804.123456789;UNIX.mode=0644;"
_header = struct.Struct(">II")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.small_file_sides", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="files (10000)")
    parser.add_argument("--size", type=int, default=4096, metavar="BYTES", help="of each file (4096)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="medians are shown (3)")
    parser.add_argument("--account", help="as root: the account our sessions run as")
    options = parser.parse_args()
    peers.compile_ours()
    user = peers.account(options.account)
    found: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as name:
        top = Path(name)
        top.chmod(0o755)
        with peers.standalone(top, user) as server:
            for _ in range(options.rounds):
                trio.run(_round, found, top, server, user, options.count, options.size)
    print(f"{machine()}; {options.count} files of {options.size} bytes, {options.rounds} rounds")
    rows = []
    for which, costs in found.items():
        wall, client, node = (median(values) / options.count for values in zip(*costs, strict=True))
        rows.append((which, f"{1 / wall:.0f}", f"{client * 1e6:.0f}", f"{node * 1e6:.0f}"))
    print_table(("what", "files/s", "client CPU us", "node CPU us"), rows)


async def _round(
    found: dict[str, list[tuple[float, float, float]]],
    top: Path,
    server: peers.Server,
    user: pwd.struct_passwd,
    count: int,
    size: int,
) -> None:
    content = os.urandom(size)
    names = [b"file-%06d" % number for number in range(count)]
    here, there, back = top / "here", top / "there", top / "back"
    for directory in (here, there, back):
        directory.mkdir()
    if os.geteuid() == 0:
        os.chown(there, user.pw_uid, user.pw_gid)
    for one in names:
        (here / one.decode()).write_bytes(content)
    password = UsernamePassword(peers.USER, peers.PASSWORD)
    try:
        for which in ("bare client, up", "bare client, down", "lane, up", "lane, down"):
            async with open_session(f"{server.auth}:{there}/", password, ca=server.ca) as session:
                upload = which.endswith("up")
                work = _bare if which.startswith("bare") else _lane
                source, target = (here, there) if upload else (there, back)
                run = await work(session, source, target, names, content, upload)
                node, client, started = tree_cpu(server.pid), time.process_time(), time.perf_counter()
                await run()
                wall = time.perf_counter() - started
                costs = (wall, time.process_time() - client, tree_cpu(server.pid) - node)
                found.setdefault(which, []).append(costs)
            if which == "bare client, down":
                shutil.rmtree(there)
                there.mkdir()
                if os.geteuid() == 0:
                    os.chown(there, user.pw_uid, user.pw_gid)
    finally:
        for directory in (here, there, back):
            shutil.rmtree(directory)


Run = Callable[[], Awaitable[None]]


def _no_task(file: SmallFile) -> FileTask:
    raise AssertionError(f"{file.name!r} goes no other way")


async def _lane(
    session: FTPSession, source: Path, target: Path, names: list[bytes], content: bytes, upload: bool
) -> Run:
    files = [SmallFile(name, len(content), None, None) for name in names]
    batches = [
        Batch(os.fsencode(source), os.fsencode(target), files[at : at + MOST_FILES], upload, True, _no_task)
        for at in range(0, len(files), MOST_FILES)
    ]
    batches.reverse()

    async def run() -> None:
        rest = await lane.carry(
            session,
            lambda: batches.pop() if batches else None,
            lambda batch, files: None,
            options=CopyOptions(preserve=True),
            state=CopyState(),
        )
        if rest:
            raise SystemExit(f"{len(rest)} files were not carried: {rest[0].error}")

    return run


async def _bare(
    session: FTPSession, source: Path, target: Path, names: list[bytes], content: bytes, upload: bool
) -> Run:
    assert session.records is not None
    async with session.control.dialogue():
        connection = await session.records.connection(session)
    verb, where = (b"STOR ", target) if upload else (b"RETR ", source)
    lines = [b"%b%b/%b\r\n" % (verb, os.fsencode(where), name) for name in names]
    payload = content + pack_trailer(_FACTS, blake3.blake3(content).digest())
    records = (
        [pack_header(END, len(payload), number) + payload for number in range(1, len(names) + 1)] if upload else []
    )

    async def run() -> None:
        with socket.socket(fileno=os.dup(session.control.socket.fileno())) as control:
            _pump(control, connection.connection, lines, records)
        await trio.lowlevel.checkpoint()

    return run


def _pump(control: socket.socket, data: socket.socket, lines: list[bytes], records: list[bytes]) -> None:
    """Send all that may be sent, and read all that comes, until the last reply is in."""
    begun = answered = unanswered = said = held = 0
    out, records_out, rest = b"", memoryview(b""), b""
    window = memoryview(bytearray(4 << 20))
    ends = len(lines) if records else 0
    while answered < len(lines) or ends < len(lines):
        if not out and unanswered < _WINDOW * 3 // 4:
            last = begun
            while last < len(lines) and unanswered + len(lines[last]) <= _WINDOW:
                unanswered += len(lines[last])
                last += 1
            out, begun = b"".join(lines[begun:last]), last
        if records and not records_out and said < begun:
            last = min(begun, said + 64)
            records_out, said = memoryview(b"".join(records[said:last])), last
        moved = False
        for connection, waiting in ((control, out), (data, records_out)):
            if waiting:
                try:
                    count = connection.send(waiting, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue
                moved = True
                if connection is control:
                    out = out[count:]
                else:
                    records_out = records_out[count:]
        try:
            *replies, rest = (rest + control.recv(65536, socket.MSG_DONTWAIT)).split(b"\r\n")
            moved = True
            for reply in replies:
                if not reply.startswith(b"1"):
                    if not reply.startswith(b"226"):
                        raise SystemExit(f"the server says {reply!r}")
                    unanswered -= len(lines[answered])
                    answered += 1
        except BlockingIOError:
            pass
        if not records:
            try:
                held += data.recv_into(window[held:], 0, socket.MSG_DONTWAIT)
                moved = True
                start = 0
                while held - start >= 8:
                    word, _ = _header.unpack_from(window, start)
                    if held - start - 8 < word & 0xFFF_FFFF:
                        break
                    start += 8 + (word & 0xFFF_FFFF)
                    ends += bool(word & END)
                window[: held - start] = window[start:held]
                held -= start
            except BlockingIOError:
                pass
        if not moved:
            poll = select.poll()
            poll.register(control, select.POLLIN | (select.POLLOUT if out else 0))
            poll.register(data, select.POLLIN | (select.POLLOUT if records_out else 0))
            poll.poll(10_000)


if __name__ == "__main__":
    main()

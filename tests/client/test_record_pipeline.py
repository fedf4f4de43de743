"""Many transfers of MODE U at once: any mix of them, in any order, with any of them failing, over tiny buffers."""

from __future__ import annotations

import queue
import secrets
import socket
import threading
from collections.abc import Callable, Sequence

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_records import RecordDialogue, RecordServer, record_server

from uftp.client import record_moving
from uftp.client.login import SessionOptions, open_ftp_session
from uftp.client.record_pipeline import Pipeline
from uftp.client.record_transfers import Retrieval, Transfer
from uftp.client.session import FTPSession
from uftp.errors import LocalFileError, NotFound, PeerBrokeProtocol, Refused, TransferFailed
from uftp.streams import Incoming, Meter, Outgoing

KEY = secrets.token_bytes(48)
KINDS = ("get", "get range", "get nothing", "full disk", "put", "put refused", "put short", "put unreadable", "append")
EXPECTED: dict[str, type[Exception] | None] = {
    "get nothing": NotFound,
    "full disk": LocalFileError,
    "put refused": Refused,
    "put short": TransferFailed,
    "put unreadable": LocalFileError,
}


def supplying(transfers: Sequence[Transfer], at_once: int) -> Callable[[], list[Transfer]]:
    """Gives them in bunches."""
    waiting = list(reversed(transfers))
    return lambda: [waiting.pop() for _ in range(min(at_once, len(waiting)))]


class Batch:
    """Transfers, and what must have come of them."""

    def __init__(self, session: FTPSession, server: RecordServer) -> None:
        self.session = session
        self.server = server
        self.transfers: list[Transfer] = []
        self.kinds: dict[Transfer, str] = {}
        self.got: dict[Transfer, bytearray] = {}
        self.wanted: dict[Transfer, bytes] = {}
        self.stored: dict[bytes, bytes] = {}
        self.settled: list[Transfer] = []

    def add(self, kind: str, size: int) -> None:
        """One more of this kind."""
        number = len(self.transfers)
        content = (b"%d " % number * (size // 2 + 1))[:size]
        transfer = self._get(kind, number, content) if "get" in kind or kind == "full disk" else None
        transfer = transfer or self._put(kind, number, content)
        self.transfers.append(transfer)
        self.kinds[transfer] = kind

    def _get(self, kind: str, number: int, content: bytes) -> Transfer:
        got = bytearray()

        def receive(incoming: Incoming, most: int | None, meter: Meter) -> int:
            if kind == "full disk":
                raise OSError(28, "no space left")
            return incoming.to_chunks(got.extend, most, meter)

        path = b"/source %d" % number
        if kind != "get nothing":
            self.server.files[path] = content
        offset, length = (len(content) // 3, len(content) // 2) if kind == "get range" else (0, None)
        transfer = record_moving.retrieval(
            self.session,
            path,
            receive,
            offset=offset,
            length=length,
            settle=lambda: self.settled.append(transfer),
        )
        self.got[transfer] = got
        self.wanted[transfer] = content[offset:] if length is None else content[offset : offset + length]
        return transfer

    def _put(self, kind: str, number: int, content: bytes) -> Transfer:
        def send(outgoing: Outgoing, meter: Meter) -> None:
            outgoing.from_bytes(content, meter)
            if kind == "put unreadable":
                raise OSError(5, "input/output error")

        path = b"/forbidden/%d" % number if kind == "put refused" else b"/target %d" % number
        total = len(content) + 1 if kind == "put short" else len(content)
        if kind in ("put", "append"):
            self.stored[path] = content
        return record_moving.storage(self.session, path, send, total=total, append=kind == "append")

    async def run(self, at_once: int) -> None:
        """Run all, and check what came of each."""
        done: list[Transfer] = []
        left = await self.session.pipeline(supplying(self.transfers, at_once), done.append)
        assert left == []
        assert set(done) == set(self.transfers)
        assert len(done) == len(self.transfers)
        for transfer in self.transfers:
            expected = EXPECTED.get(self.kinds[transfer])
            if expected is None:
                assert transfer.error is None
            else:
                assert isinstance(transfer.error, expected)
            if isinstance(transfer, Retrieval) and transfer.error is None:
                assert bytes(self.got[transfer]) == self.wanted[transfer]
        successes = [one for one in self.transfers if isinstance(one, Retrieval) and one.error is None]
        assert set(self.settled) == set(successes)
        stored = {name: content for name, content in self.server.files.items() if not name.startswith(b"/source")}
        assert stored == self.stored


def squeeze(session: FTPSession) -> None:
    """Tiny buffers, so that each side waits for the other all the time."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        session.control.socket.setsockopt(socket.SOL_SOCKET, option, 2048)


SIZES = st.one_of(st.integers(0, 100), st.sampled_from([4096, 65_535, 65_536, 300_000, 1_048_576, 1_500_000]))


@given(
    steps=st.lists(st.tuples(st.sampled_from(KINDS), SIZES), max_size=40),
    at_once=st.sampled_from([1, 2, 7, 1000]),
    key=st.sampled_from([b"", KEY]),
    compress=st.booleans(),
    tiny=st.booleans(),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_mix_in_step(steps: list[tuple[str, int]], at_once: int, key: bytes, compress: bool, tiny: bool) -> None:
    async def main() -> None:
        options = SessionOptions(key=key, compress=compress)
        with record_server(key=key) as server:
            async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
                if tiny:
                    squeeze(session)
                batch = Batch(session, server)
                for kind, size in steps:
                    batch.add(kind, size)
                await batch.run(at_once)
                assert session.usable
                again = Batch(session, server)
                server.files.clear()
                again.add("get", 10)
                again.add("put", 10)
                await again.run(1)
                assert server.connections == 1

    trio.run(main)


@pytest.fixture(params=[b"", KEY], ids=["plain", "encrypted"])
def key(request: pytest.FixtureRequest) -> bytes:
    assert isinstance(request.param, bytes)
    return request.param


@pytest.mark.slow
async def test_thousands_of_files_both_ways_in_one_go(key: bytes) -> None:
    with record_server(key=key) as server:
        options = SessionOptions(key=key)
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
            batch = Batch(session, server)
            for number in range(3000):
                batch.add(("get", "put", "get nothing")[number % 3], 100)
            await batch.run(500)
            assert session.usable


async def test_unanswered_commands_stay_within_48_kib() -> None:
    """The server answers nothing until it has read all that comes."""
    most = 0

    def count(dialogue: RecordDialogue, argument: str) -> None:
        nonlocal most
        lines = [dialogue.line + b"\r\n"]
        dialogue._control.settimeout(0.1)  # nothing more comes: the client waits for a reply
        try:
            while line := dialogue._input.readline():
                lines.append(line)
        except TimeoutError:
            dialogue._input = dialogue._control.makefile("rb")  # a file that has timed out reads no more
        dialogue._control.settimeout(None)
        most = max(most, sum(map(len, lines)))
        dialogue.number += len(lines) - 1
        for _ in lines:
            dialogue.say("550 no such file")

    with record_server({"RETR": count}) as server:
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b") as session:
            transfers = [
                record_moving.retrieval(session, b"/%d%s" % (number, b"x" * 200), _never) for number in range(500)
            ]
            done: list[Transfer] = []
            assert await session.pipeline(supplying(transfers, 100), done.append) == []
            assert all(isinstance(transfer.error, NotFound) for transfer in transfers)
            assert len(done) == 500
    assert 40 * 1024 < most <= 48 * 1024


def _never(incoming: Incoming, most: int | None, meter: Meter) -> int:
    raise AssertionError("nothing comes")


@pytest.mark.parametrize("place", [0, 3, 40, 99])
async def test_a_connection_that_breaks_costs_one_transfer_and_hands_back_the_others(place: int, key: bytes) -> None:
    def breaking(dialogue: RecordDialogue, argument: str) -> None:
        if argument != f"/{place}" or dialogue.server.connections > 1:
            if dialogue.data is None and dialogue.server.connections:
                dialogue.say("425 no data connection")
            else:
                dialogue.retrieve(argument)
            return
        dialogue.say("150 OK 1000 bytes")
        assert dialogue.writer
        dialogue.close_data()
        dialogue.say("426 broken")

    files = {b"/%d" % number: b"content" for number in range(100)}
    with record_server({"RETR": breaking}, key=key, files=files) as server:
        options = SessionOptions(key=key)
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
            transfers = [record_moving.retrieval(session, name, _into_nothing) for name in files]
            done: list[Transfer] = []
            left = await session.pipeline(supplying(transfers, 100), done.append)
            assert [one for one in done if one.error is not None] == [transfers[place]]
            assert isinstance(transfers[place].error, TransferFailed)
            assert left == transfers[place + 1 :]
            server.actions.pop("RETR")
            assert session.usable
            assert await session.pipeline(supplying(left, 100), done.append) == []
            assert len(done) == 100
            assert [one for one in done if one.error is not None] == [transfers[place]]


def _into_nothing(incoming: Incoming, most: int | None, meter: Meter) -> int:
    return incoming.to_nowhere(most, meter)


async def test_a_lost_session_blames_one_transfer_and_hands_back_the_others() -> None:
    def leaving(dialogue: RecordDialogue, argument: str) -> None:
        if argument == "/5":
            dialogue.hang_up()
        else:
            dialogue.retrieve(argument)

    files = {b"/%d" % number: b"content" for number in range(20)}
    with record_server({"RETR": leaving}, files=files) as server:
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b") as session:
            transfers = [record_moving.retrieval(session, name, _into_nothing) for name in files]
            done: list[Transfer] = []
            left = await session.pipeline(supplying(transfers, 100), done.append)
            assert not session.usable
            assert [one for one in done if one.error is not None] == [transfers[5]]
            # Of those before, some may not have had the time to be taken; none is lost.
            assert {*done, *left} == {*transfers}
            assert left[-14:] == transfers[6:]


async def test_replies_in_another_order_are_found() -> None:
    def swapped(dialogue: RecordDialogue, argument: str) -> None:
        dialogue.say("226 done\r\n150 OK 7 bytes")

    with record_server({"RETR": swapped}, files={b"/a": b"content"}) as server:
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b") as session:
            transfers = [record_moving.retrieval(session, b"/a", _into_nothing) for _ in range(3)]
            done: list[Transfer] = []
            left = await session.pipeline(supplying(transfers, 100), done.append)
            assert isinstance(transfers[0].error, PeerBrokeProtocol)
            assert done == transfers[:1]
            assert left == transfers[1:]
            assert not session.usable


@pytest.mark.parametrize("sends", [True, False])
async def test_cancelling_many_leaves_the_session_usable(sends: bool, key: bytes) -> None:
    content = bytes(200_000)
    files = {b"/%d" % number: content for number in range(100)}
    with record_server(key=key, files={} if sends else files) as server:
        options = SessionOptions(key=key)
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
            with trio.CancelScope() as scope:
                done: list[Transfer] = []

                def finished(transfer: Transfer) -> None:
                    done.append(transfer)
                    if len(done) == 10:
                        scope.cancel()

                transfers: list[Transfer] = [
                    record_moving.storage(
                        session, name, lambda out, meter: out.from_bytes(content, meter), total=200_000
                    )
                    if sends
                    else record_moving.retrieval(session, name, _into_nothing)
                    for name in files
                ]
                await session.pipeline(supplying(transfers, 100), finished)
            assert scope.cancelled_caught
            assert [one.error for one in done] == [None] * len(done)
            assert session.usable
            if sends:
                assert all(stored == content for stored in server.files.values())
            check = Batch(session, server)
            server.files.clear()
            check.add("put", 1000)
            check.add("get", 1000)
            await check.run(10)
            assert server.connections == 1


async def test_a_server_that_does_not_stop_costs_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uftp.client.record_pipeline._GRACE_SECONDS", 0.2)

    def stuck(dialogue: RecordDialogue, argument: str) -> None:
        dialogue.say("150 OK 1000 bytes")
        assert dialogue.writer
        scope_token.run_sync_soon(scope.cancel)
        dialogue._control.recv(1, socket.MSG_PEEK)
        dialogue._control.settimeout(10)
        try:
            while dialogue._control.recv(1000):
                pass
        except OSError:
            pass

    scope_token = trio.lowlevel.current_trio_token()
    with record_server({"RETR": stuck}) as server:
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b") as session:
            with trio.CancelScope() as scope:
                await record_moving.run(session, record_moving.retrieval(session, b"/a", _into_nothing))
            assert scope.cancelled_caught
            assert not session.usable


async def test_what_ends_a_refused_sequence_is_sent_though_nobody_waits_for_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()

    class Queue(queue.SimpleQueue[object]):
        def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
            super().put(item, block, timeout)
            if item is None:
                over.set()

    def tell(pipeline: Pipeline, transfer: Transfer) -> None:
        told(pipeline, transfer)
        over.wait(10)  # the thread comes to look for more work when there will be none

    told = Pipeline._tell
    monkeypatch.setattr(Pipeline, "_tell", tell)
    monkeypatch.setattr("uftp.client.record_pipeline.queue.SimpleQueue", Queue)
    with record_server() as server:
        options = SessionOptions(reply_timeout=5)
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
            check = Batch(session, server)
            check.add("put refused", 1000)
            await check.run(10)
            await session.delete(b"/anything")  # answered when the server has read the sequence

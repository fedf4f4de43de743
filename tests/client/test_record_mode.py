"""MODE U of the client against a scripted server: what is agreed, single transfers, and servers that misbehave."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import trio
from misbehaving_records import BAD_RETR, BAD_STOR, CONTENT, cutting, flipping
from scripted_records import FEATURES, RecordDialogue, RecordServer, record_server, reply

from uftp.client import record_moving
from uftp.client.control import ControlConnection
from uftp.client.login import SessionOptions, open_ftp_session
from uftp.client.session import FTPSession
from uftp.errors import (
    LocalFileError,
    NetworkError,
    NotFound,
    PeerBrokeProtocol,
    Refused,
    TransferFailed,
    UFTPError,
)
from uftp.streams import Incoming, Meter, Outgoing

KEY = secrets.token_bytes(48)
QUICK = {"stall_timeout": 0.5, "reply_timeout": 0.6, "final_timeout": 0.6, "connect_timeout": 2.0}


@pytest.fixture(params=["plain", "encrypted", "compressed", "both"])
def options(request: pytest.FixtureRequest) -> SessionOptions:
    key = KEY if request.param in ("encrypted", "both") else b""
    return SessionOptions(key=key, compress=request.param in ("compressed", "both"))


@pytest.fixture
def server(options: SessionOptions) -> Iterator[RecordServer]:
    with record_server(key=options.key, files={b"/a": CONTENT, b"/empty": b""}) as running:
        yield running


@pytest.fixture
async def session(server: RecordServer, options: SessionOptions) -> AsyncIterator[FTPSession]:
    async with open_ftp_session("127.0.0.1", server.port, user="anonymous", password="x", options=options) as opened:
        yield opened


async def fetch(session: FTPSession, path: bytes, *, offset: int = 0, length: int | None = None) -> bytes:
    got = bytearray()

    def receive(incoming: Incoming, most: int | None, meter: Meter) -> int:
        return incoming.to_chunks(got.extend, most, meter)

    assert await session.retrieve(path, receive, offset=offset, length=length) == len(got)
    return bytes(got)


def giving(data: bytes) -> Callable[[Outgoing, Meter], None]:
    return lambda outgoing, meter: outgoing.from_bytes(data, meter)


# -- what is agreed ---------------------------------------------------------------------------------------------------


async def test_one_connection_serves_all_transfers(session: FTPSession, server: RecordServer) -> None:
    assert await fetch(session, b"/a") == CONTENT
    assert await fetch(session, b"/a", offset=100, length=50) == CONTENT[100:150]
    assert await fetch(session, b"/a", offset=100) == CONTENT[100:]
    assert await fetch(session, b"/empty") == b""
    await session.store(b"/b", giving(CONTENT), length=len(CONTENT))
    await session.store(b"/b", giving(b"new"), length=3, offset=10)
    await session.store(b"/b", giving(b"end"), length=3, append=True)
    assert server.files[b"/b"] == CONTENT[:10] + b"new" + CONTENT[13:] + b"end"
    await session.store(b"/c", giving(b"of any length"))
    assert server.files[b"/c"] == b"of any length"
    assert {info.name: info.size for info in await session.listdir(b"/")} == {
        b"a": len(CONTENT),
        b"b": len(CONTENT) + 3,
        b"c": 13,
        b"empty": 0,
    }
    assert server.connections == 1


async def test_failures_leave_both_ends_in_step(session: FTPSession, server: RecordServer) -> None:
    for _ in range(2):
        with pytest.raises(NotFound):
            await fetch(session, b"/nope")
        with pytest.raises(Refused):
            await session.store(b"/forbidden", giving(CONTENT), length=len(CONTENT))
        with pytest.raises(TransferFailed, match="became shorter"):
            await session.store(b"/short", giving(b"123"), length=4)
        with pytest.raises(LocalFileError, match="no space"):
            await session.retrieve(b"/a", _full_disk)
        with pytest.raises(LocalFileError, match="local"):
            await session.store(b"/unreadable", _unreadable, length=5)
        assert await fetch(session, b"/a") == CONTENT
    assert b"/short" not in server.files
    assert server.connections == 1


def _full_disk(incoming: Incoming, most: int | None, meter: Meter) -> int:
    def write(block: memoryview) -> None:
        raise OSError(28, "no space left on device")

    return incoming.to_chunks(write, most, meter)


def _unreadable(outgoing: Outgoing, meter: Meter) -> None:
    raise OSError(5, "local disk is broken")


async def test_facts_travel_with_the_files(session: FTPSession, server: RecordServer) -> None:
    kept = record_moving.storage(
        session, b"/b", giving(b"1"), total=1, keep=lambda: record_moving.kept_facts(1_111_111_111_123_456_789, 0o640)
    )
    await record_moving.run(session, kept)
    assert server.facts[b"/b"] == b"modify=20050318015831.123456789;UNIX.mode=640;"
    wanted = record_moving.retrieval(session, b"/b", lambda incoming, most, meter: incoming.to_nowhere(most, meter))
    await record_moving.run(session, wanted)
    facts = record_moving.read_facts(session, wanted)
    assert facts is not None
    assert (facts.mtime_ns, facts.permissions) == (1_612_325_106_500_000_000, 0o640)


async def test_a_closed_data_connection_is_opened_again(session: FTPSession, server: RecordServer) -> None:
    assert await fetch(session, b"/empty") == b""

    def close(dialogue: RecordDialogue, argument: str) -> None:
        dialogue.close_data()
        dialogue.say("200 OK")

    server.actions["NOOP"] = close
    for times in (2, 3):
        async with session.control.dialogue():
            await session.control.command(b"NOOP")
        assert await fetch(session, b"/a") == CONTENT
        assert server.connections == times


async def test_425_means_a_new_connection(session: FTPSession, server: RecordServer) -> None:
    refused = 0

    def without_connection(dialogue: RecordDialogue, argument: str) -> None:
        nonlocal refused
        refused += 1
        if refused == 2:
            del server.actions["RETR"]
        dialogue.say("425 no data connection")

    server.actions["RETR"] = without_connection
    assert await fetch(session, b"/a") == CONTENT
    assert refused == 2
    server.actions["RETR"] = reply("425 never")
    with pytest.raises(Refused) as caught:
        await fetch(session, b"/a")
    assert caught.value.code == 425
    assert session.usable


async def test_a_cancelled_transfer_leaves_the_session_usable(session: FTPSession, server: RecordServer) -> None:
    with trio.CancelScope() as scope:

        def send(outgoing: Outgoing, meter: Meter) -> None:
            outgoing.from_bytes(b"x" * 100, meter)
            trio.from_thread.run_sync(scope.cancel)
            while True:
                outgoing.from_bytes(bytes(1_000_000), meter)

        await session.store(b"/endless", send)
    assert scope.cancelled_caught
    assert session.usable
    assert b"/endless" not in server.files
    with trio.CancelScope() as scope:

        def receive(incoming: Incoming, most: int | None, meter: Meter) -> int:
            trio.from_thread.run_sync(scope.cancel)
            return incoming.to_nowhere(most, meter)

        await session.retrieve(b"/a", receive)
    assert session.usable
    assert await fetch(session, b"/a") == CONTENT
    assert server.connections == 1


async def test_mode_stream_is_left_alone() -> None:
    options = SessionOptions(mode="stream")
    with record_server() as server:
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
            assert session.records is None
        assert not [line for line in server.lines if "MODE" in line]


@pytest.mark.parametrize("verb", ["OPTS", "MODE"])
async def test_a_refusal_means_mode_s_but_never_with_a_key(verb: str) -> None:
    def refuse(dialogue: RecordDialogue, argument: str) -> None:
        if argument == "U" or argument.startswith("MODE U"):
            dialogue.say("504 not here")
        else:
            dialogue.say("200 OK")

    with record_server({verb: refuse}) as server:
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b") as session:
            assert session.records is None
        assert (server.lines[-1] == "MODE S") == (verb == "OPTS")
        with pytest.raises(Refused, match=r"no encryption.*504 not here"):
            async with open_ftp_session(
                "127.0.0.1", server.port, user="a", password="b", options=SessionOptions(key=KEY)
            ):
                pass


@pytest.mark.parametrize(
    "answer",
    [
        "200 MODE U",
        "200 MODE U SALT=00;",
        f"200 MODE U SALT={'0' * 64};",
        f"200 MODE U COMPRESS=ZSTD;LEVEL=1;DIGEST=BLAKE3;SPARSE=1;FACTS=1;SALT={'0' * 64};",
        f"200 MODE U DIGEST=BLAKE3;SPARSE=1;FACTS=1;MORE=1;SALT={'0' * 64};",
        f"200 MODE U CRYPT=ROT13;DIGEST=BLAKE3;SPARSE=1;FACTS=1;SALT={'0' * 64};",
    ],
)
async def test_an_agreement_to_something_else_is_none(answer: str) -> None:
    with record_server({"MODE": reply(answer)}) as server, pytest.raises(PeerBrokeProtocol, match="MODE U"):
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b"):
            pass


async def test_a_server_without_the_cipher_gets_no_data() -> None:
    without = tuple(line for line in FEATURES if "CRYPT" not in line)
    options = SessionOptions(key=KEY)
    with record_server(features=without) as server, pytest.raises(Refused, match="no encryption"):
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options):
            pass


async def test_a_server_with_another_key_gets_and_gives_nothing() -> None:
    options = SessionOptions(key=KEY, **QUICK)  # type: ignore[arg-type]
    with record_server(key=bytes(48), files={b"/a": CONTENT}) as server:
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
            with pytest.raises(UFTPError):
                await fetch(session, b"/a")
            assert not session.usable


# -- servers that misbehave -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BAD_RETR)
async def test_no_bad_download_is_a_success(case: str) -> None:
    action, words = BAD_RETR[case]
    settled: list[int] = []
    with record_server({"RETR": action}, files={b"/a": CONTENT}) as server:
        options = SessionOptions(**QUICK)  # type: ignore[arg-type]
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
            wanted = record_moving.retrieval(
                session,
                b"/a",
                lambda incoming, most, meter: incoming.to_nowhere(most, meter),
                settle=lambda: settled.append(1),
            )
            with pytest.raises(UFTPError, match=words):
                await record_moving.run(session, wanted)
            assert settled == []
            if session.usable:
                # In step, or on a new connection: the next one works.
                server.actions.pop("RETR")
                assert await fetch(session, b"/a") == CONTENT


@pytest.mark.parametrize("key", [b"", KEY], ids=["plain", "encrypted"])
@pytest.mark.parametrize("after", [0, 1, 7, 8, 9, 50_007, 50_008, 1_048_584, 2_500_000])
async def test_cut_at_any_record_and_the_next_transfer_works(after: int, key: bytes) -> None:
    with record_server({"RETR": cutting(after)}, key=key, files={b"/a": CONTENT}) as server:
        options = SessionOptions(key=key)
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
            with pytest.raises(TransferFailed, match=r"data connection broke.*426 broken"):
                await fetch(session, b"/a")
            assert session.usable
            assert await fetch(session, b"/a") == CONTENT
            assert server.connections == 2


async def test_a_flipped_bit_anywhere_is_found_and_ends_an_encrypted_session() -> None:
    for place in [*range(60), 500, 1006, 1007, 1008, 1030, 1042, 1057]:
        with record_server({"RETR": flipping(place)}, key=KEY) as server:
            options = SessionOptions(key=KEY, **QUICK)  # type: ignore[arg-type]
            async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
                with pytest.raises(UFTPError):
                    await fetch(session, b"/a")
                # Bits of the length and the number are seen before the tag is looked at.
                assert not session.usable or place < 8


async def test_a_changed_name_on_the_control_connection_does_not_verify() -> None:
    def other_file(dialogue: RecordDialogue, argument: str) -> None:
        dialogue.line = b"RETR /b"
        dialogue.retrieve("/b")

    with record_server({"RETR": other_file}, key=KEY, files={b"/a": b"wanted", b"/b": b"other"}) as server:
        options = SessionOptions(key=KEY, **QUICK)  # type: ignore[arg-type]
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
            with pytest.raises(PeerBrokeProtocol, match="changing the traffic"):
                await fetch(session, b"/a")
            assert not session.usable


@pytest.mark.parametrize("case", BAD_STOR)
async def test_no_bad_upload_is_a_success(case: str) -> None:
    action, words = BAD_STOR[case]
    with record_server({"STOR": action}) as server:
        options = SessionOptions(**QUICK)  # type: ignore[arg-type]
        big = CONTENT * 10  # more than the kernel takes for a connection nobody reads
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b", options=options) as session:
            with pytest.raises(UFTPError, match=words) as caught:
                await session.store(b"/b", giving(big), length=len(big))
            if case.startswith("4"):
                assert caught.value.code == int(case[:3])  # type: ignore[attr-defined]
            if session.usable:
                server.actions.pop("STOR")
                await session.store(b"/b", giving(big), length=len(big))
                assert server.files[b"/b"] == big


async def test_a_refused_range_never_replaces_the_file() -> None:
    with record_server({"RANG": reply("501 no")}, files={b"/b": b"precious"}) as server:
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b") as session:
            with pytest.raises(Refused, match="set the range"):
                await session.store(b"/b", giving(b"x"), length=1, offset=3)
            assert session.usable
            assert server.files == {b"/b": b"precious"}
            assert not [line for line in server.lines if line.startswith("STOR")]


async def test_a_listing_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uftp.client.moving.MAX_LISTING_BYTES", 10_000)
    many = {b"/%04d" % number: b"" for number in range(1000)}
    with record_server(files=many) as server:
        async with open_ftp_session("127.0.0.1", server.port, user="a", password="b") as session:
            with pytest.raises(TransferFailed, match="more than 10000 bytes"):
                await session.listdir(b"/")
            for name in list(many)[10:]:
                del server.files[name]
            assert len(await session.listdir(b"/")) == 10


async def test_a_session_that_is_lost_closes_its_data_connection(server: RecordServer, session: FTPSession) -> None:
    assert await fetch(session, b"/empty") == b""
    control: ControlConnection = session.control
    control.break_off("test")
    with pytest.raises(NetworkError):
        await fetch(session, b"/empty")

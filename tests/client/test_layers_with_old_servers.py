"""Servers without MODE U, as upstream's: what is said to them, and what they may get wrong."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from scripted_ftp import Action, Dialogue, ScriptedServer, reply, scripted_server

from uftp.client.login import SessionOptions, open_ftp_session
from uftp.client.session import FTPSession
from uftp.errors import Refused, TransferFailed, UFTPError
from uftp.protocol.jparss import MAX_BLOCK, chunk_lengths, pack_header
from uftp.protocol.legacy_ciphers import Encryptor
from uftp.streams import Incoming, Meter, Outgoing

FEATURES = ("EPSV", "RANG STREAM", "MFMT", "MLST", "CRYPTED-AES")
KEY = bytes(range(48))
PAYLOAD = bytes(range(256)) * 200
MIB = 1024 * 1024


def framed(payload: bytes, streams: int) -> list[bytes]:
    wires = [b""] * streams
    for sequence, start in enumerate(range(0, len(payload), MAX_BLOCK)):
        block = payload[start : start + MAX_BLOCK]
        at = 0
        for stream, chunk in enumerate(chunk_lengths(len(block), streams)):
            wires[stream] += pack_header(stream, sequence, len(block), chunk) + block[at : at + chunk]
            at += chunk
    return wires


class OldServer:
    """Like upstream: accepts one connection after each EPSV before it goes on, and keeps all of them."""

    def __init__(self) -> None:
        self.connections: list[trio.SocketStream] = []
        self.got: list[bytes] = []

    async def epsv(self, dialogue: Dialogue, argument: str) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listeners[0] as listener:
            await dialogue.say(f"229 Entering Extended Passive Mode (|||{listener.socket.getsockname()[1]}|)")
            with trio.fail_after(10):
                self.connections.append(await listener.accept())

    def sends(self, wires: list[bytes], announced: int) -> Action:
        async def act(dialogue: Dialogue, argument: str) -> None:
            await dialogue.say(f"150 OK {announced} bytes available for reading.")
            async with trio.open_nursery() as nursery:
                for connection, wire in zip(self.connections, wires, strict=True):
                    nursery.start_soon(self._send, connection, wire)
            self.connections.clear()
            await dialogue.say("226 File transfer successful")

        return act

    async def _send(self, connection: trio.SocketStream, wire: bytes) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await connection.send_all(wire)
        await connection.aclose()

    async def stores(self, dialogue: Dialogue, argument: str) -> None:
        await dialogue.say("150 OK")
        self.got = [b""] * len(self.connections)

        async def read(number: int, connection: trio.SocketStream) -> None:
            self.got[number] = b"".join([chunk async for chunk in connection])
            await connection.aclose()

        async with trio.open_nursery() as nursery:
            for number, connection in enumerate(self.connections):
                nursery.start_soon(read, number, connection)
        self.connections.clear()
        await dialogue.say("226 File transfer successful")

    @contextlib.asynccontextmanager
    async def session(
        self, actions: dict[str, Action], **options: Any
    ) -> AsyncIterator[tuple[FTPSession, ScriptedServer]]:
        actions = {"EPSV": self.epsv, "STOR": self.stores, **actions}
        async with (
            scripted_server(actions, features=FEATURES, greeting="220 UFTPD 3.5.3, https://www.unicore.eu") as server,
            open_ftp_session(
                "127.0.0.1", server.port, user="anonymous", password="x", options=SessionOptions(**options)
            ) as one,
        ):
            assert one.dialect.kind == "upstream"
            yield one, server


async def get(one: FTPSession) -> bytes:
    found = bytearray()

    def receive(incoming: Incoming, length: int | None, meter: Meter, /) -> int:
        return incoming.to_chunks(found.extend, length, meter)

    await one.retrieve(b"f", receive)
    return bytes(found)


def sender(data: bytes) -> Callable[[Outgoing, Meter], None]:
    return lambda outgoing, meter: outgoing.from_bytes(data, meter)


GRANT_2 = reply("222 Opening 2 data connections")


async def test_streams_are_asked_for_each_time_and_connected_one_by_one() -> None:
    old = OldServer()
    actions = {"NOOP": GRANT_2, "RETR": old.sends(framed(PAYLOAD, 2), len(PAYLOAD))}
    async with old.session(actions, streams=2) as (one, server):
        assert await get(one) == PAYLOAD
        assert await one.store(b"f", sender(PAYLOAD), length=len(PAYLOAD)) == len(PAYLOAD)
        assert old.got == framed(PAYLOAD, 2)
        said = [line.partition(" ")[0] for line in server.lines if line.partition(" ")[0] in ("NOOP", "EPSV", "RANG")]
        assert said == ["RANG", "NOOP", "EPSV", "EPSV"] * 2


async def test_fewer_streams_than_asked_for() -> None:
    old = OldServer()
    actions = {
        "NOOP": reply("223 Opening 2 data connections"),
        "RETR": old.sends(framed(PAYLOAD, 2), len(PAYLOAD)),
    }
    async with old.session(actions, streams=9) as (one, server):
        assert await get(one) == PAYLOAD
        assert "NOOP 9" in server.lines
    old = OldServer()
    actions = {"NOOP": reply("223 Opening 1 data connections"), "RETR": old.sends([PAYLOAD], len(PAYLOAD))}
    async with old.session(actions, streams=9) as (one, server):
        assert await get(one) == PAYLOAD


@pytest.mark.parametrize("answer", ["500 No", "200 OK", "223 Opening many data connections"])
async def test_a_server_without_several_streams(answer: str) -> None:
    old = OldServer()
    async with old.session({"NOOP": reply(answer)}, streams=2) as (one, _):
        with pytest.raises(UFTPError):
            await get(one)


async def test_streams_that_are_never_finished() -> None:
    """The reference server sends neither trailer nor padding over several streams."""
    packed = [gzip.compress(wire)[:-8] for wire in framed(PAYLOAD, 2)]
    old = OldServer()
    async with old.session({"NOOP": GRANT_2, "RETR": old.sends(packed, len(PAYLOAD))}, streams=2, compress=True) as (
        one,
        _,
    ):
        assert await get(one) == PAYLOAD


@pytest.mark.parametrize("missing", [1, 100, len(PAYLOAD) // 2])
async def test_streams_that_are_cut(missing: int) -> None:
    wires = framed(PAYLOAD, 2)
    wires[1] = wires[1][:-missing]
    old = OldServer()
    async with old.session({"NOOP": GRANT_2, "RETR": old.sends(wires, len(PAYLOAD))}, streams=2) as (one, _):
        with pytest.raises(TransferFailed):
            await get(one)


async def test_one_stream_where_it_encrypts() -> None:
    encryptor = Encryptor("AES", KEY)
    wire = encryptor.update(PAYLOAD) + encryptor.finish()
    old = OldServer()
    async with old.session(
        {"RETR": old.sends([wire], len(PAYLOAD))}, streams=4, encrypt=True, key=KEY, legacy_cipher="AES"
    ) as (one, server):
        assert await get(one) == PAYLOAD
        assert not [line for line in server.lines if line.startswith("NOOP")]


@pytest.mark.parametrize("cut", [1, 8, 16, 17, 1000])
async def test_an_encrypted_download_that_is_cut(cut: int) -> None:
    encryptor = Encryptor("AES", KEY)
    wire = (encryptor.update(PAYLOAD) + encryptor.finish())[:-cut]
    old = OldServer()
    async with old.session({"RETR": old.sends([wire], len(PAYLOAD))}, encrypt=True, key=KEY, legacy_cipher="AES") as (
        one,
        _,
    ):
        with pytest.raises(TransferFailed):
            await get(one)


@pytest.mark.parametrize(
    ("length", "said"),
    [(MIB - 1, ["OPTS BUFFER_SIZE 1048573"]), (MIB - 17, []), (1000, [])],
)
async def test_no_upload_it_would_read_in_whole_buffers(length: int, said: list[str]) -> None:
    old = OldServer()
    async with old.session({}, encrypt=True, key=KEY, legacy_cipher="AES") as (one, server):
        await one.store(b"f", sender(bytes(length)), length=length)
        assert [line for line in server.lines if line.startswith("OPTS")] == said
        assert len(old.got[0]) == (length // 16 + 1) * 16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (SessionOptions(encrypt=True, key=KEY), "--legacy-cipher"),
        (SessionOptions(encrypt=True, key=bytes(56), legacy_cipher="BLOWFISH"), "does not encrypt with BLOWFISH"),
    ],
)
async def test_no_encryption_unless_a_cipher_is_named(options: SessionOptions, said: str) -> None:
    async with scripted_server({}, features=FEATURES) as server:
        with pytest.raises(Refused, match=said):
            async with open_ftp_session("127.0.0.1", server.port, user="anonymous", password="x", options=options):
                pass

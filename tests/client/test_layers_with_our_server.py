"""The client's old forms against our data node: every combination of streams, cipher and gzip, both ways."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from data_node import Node, Person, made_accounts, running_node

from uftp.client.auth import SessionRequest
from uftp.client.dialect import Dialect
from uftp.client.layers import LegacyCipher, ask_for, layers_of, parse_cipher, safe_buffer_bytes
from uftp.client.login import SessionOptions, open_ftp_session
from uftp.client.session import FTPSession
from uftp.errors import PeerBrokeProtocol, Refused, TransferFailed, UsageError
from uftp.protocol.command_port import Cipher
from uftp.protocol.features import Features
from uftp.streams import NO_LAYERS, Incoming, Layers, Meter, Outgoing

KIB = 1024
MIB = 1024 * KIB
SIZES = (0, 1, 15, 16, 17, 16383, 16384, 16385, 32768, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1)
KEYS = {"AES": bytes(range(48)), "BLOWFISH": bytes(range(56))}
COMBINATIONS: list[Any] = [
    pytest.param(streams, cipher, compress, id=f"{streams}-{cipher or 'clear'}{'-gzip' * compress}")
    for streams in (1, 2, 4)
    for cipher in (None, "AES", "BLOWFISH")
    for compress in (False, True)
]


def content(size: int) -> bytes:
    """Half of it shrinks."""
    text = b"a line of text that is there many times\n" * (size // 80 + 1)
    return text[: size // 2] + os.urandom(size - size // 2)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    if os.geteuid() != 0:
        with running_node(Person.find(pwd.getpwuid(os.geteuid()).pw_name), as_root=False) as running:
            yield running
        return
    with made_accounts("lm") as (person, _), running_node(person, as_root=True) as running:
        yield running


def expected_login(node: Node, cipher: str | None, *, compress: bool = False, **fields: Any) -> str:
    if cipher is not None:
        fields |= {"key": KEYS[cipher], "algorithm": Cipher[cipher]}
    return node.expect(compress=compress, **fields)


@asynccontextmanager
async def session(
    node: Node, streams: int, cipher: LegacyCipher | None, compress: bool, **fields: Any
) -> AsyncIterator[FTPSession]:
    """A session without MODE U."""
    options = SessionOptions(
        mode="stream",
        encrypt=cipher is not None,
        key=KEYS[cipher] if cipher else b"",
        legacy_cipher=cipher,
        compress=compress,
        streams=streams,
    )
    secret = expected_login(node, cipher, compress=compress, **fields)
    async with open_ftp_session(*node.ftp, user="anonymous", password=secret, options=options) as one:
        assert one.records is None
        yield one


async def put(one: FTPSession, path: Path, data: bytes, **more: Any) -> None:
    def send(outgoing: Outgoing, meter: Meter) -> None:
        fd = os.memfd_create("source")
        try:
            os.write(fd, data)
            outgoing.from_file(fd, 0, len(data), meter)
        finally:
            os.close(fd)

    more.setdefault("length", len(data))
    assert await one.store(os.fsencode(path), send, **more) == len(data)


async def get(one: FTPSession, path: Path, **more: Any) -> bytes:
    found = bytearray()

    def receive(incoming: Incoming, length: int | None, meter: Meter, /) -> int:
        return incoming.to_chunks(found.extend, length, meter)

    assert await one.retrieve(os.fsencode(path), receive, **more) == len(found)
    return bytes(found)


@pytest.mark.slow
@pytest.mark.parametrize(("streams", "cipher", "compress"), COMBINATIONS)
async def test_files_of_every_size(node: Node, streams: int, cipher: LegacyCipher | None, compress: bool) -> None:
    directory = node.directory()
    async with session(node, streams, cipher, compress) as one:
        for size in SIZES:
            data = content(size)
            path = directory / f"f{size}"
            await put(one, path, data)
            assert path.read_bytes() == data, size
            assert await get(one, path) == data, size
            await put(one, path, data[::-1], length=None)
            assert path.read_bytes() == data[::-1], size


@pytest.mark.slow
@pytest.mark.parametrize(("streams", "cipher", "compress"), COMBINATIONS)
async def test_ranges_appends_and_listings(
    node: Node, streams: int, cipher: LegacyCipher | None, compress: bool
) -> None:
    directory = node.directory()
    data = content(100000)
    async with session(node, streams, cipher, compress) as one:
        await put(one, directory / "f", data)
        assert await get(one, directory / "f", offset=40000, length=20001) == data[40000:60001]
        assert await get(one, directory / "f", offset=99999) == data[99999:]
        await put(one, directory / "f", bytes(1000), offset=500)
        await put(one, directory / "f", b"behind", append=True)
        assert (directory / "f").read_bytes() == data[:500] + bytes(1000) + data[1500:] + b"behind"
        assert [info.name for info in await one.listdir(os.fsencode(directory))] == [b"f"]
        # What fails leaves the session as it was.
        with pytest.raises(Refused):
            await get(one, directory)
        assert await get(one, directory / "f", length=3) == data[:3]


@pytest.mark.parametrize(("streams", "cipher", "compress"), COMBINATIONS)
async def test_an_upload_says_how_its_end_was_known(
    node: Node, streams: int, cipher: LegacyCipher | None, compress: bool
) -> None:
    path = node.directory() / "f"
    marked = cipher is not None or compress
    async with session(node, streams, cipher, compress) as one:
        await put(one, path, b"1", length=None)
        await put(one, path, b"2")
    node.wait_log("transfer", path=str(path), end="marked" if marked else "unverified")
    node.wait_log("transfer", path=str(path), end="marked" if marked else "length")


async def test_no_more_streams_than_the_site_allows(node: Node) -> None:
    path = node.directory() / "f"
    data = content(200000)
    async with session(node, 64, None, False) as one:
        await put(one, path, data)
        assert await get(one, path) == data


async def test_features_of_a_session_with_layers(node: Node) -> None:
    for cipher, compress in (("AES", False), ("BLOWFISH", True), (None, True)):
        with node.connect() as ftp:
            ftp.log_in(expected_login(node, cipher, compress=compress))
            lines = ftp.command("FEAT").decode().splitlines()
            assert (f" CRYPTED-{cipher}" in lines) is (cipher is not None)
            assert " KEEP-ALIVE" not in lines
            assert ftp.command("KEEP-ALIVE true").startswith(b"504")
            assert ftp.command("OPTS KEEP_ALIVE true").startswith(b"504")
            assert ftp.command("KEEP-ALIVE false").startswith(b"200")


def test_keys_are_in_no_log(node: Node) -> None:
    text = node.log_path.read_text()
    for key in KEYS.values():
        assert key.hex() not in text
        assert json.dumps(key.decode("latin-1")) not in text


# -- what is refused ----------------------------------------------------------------------------------------------


async def test_a_wrong_key_gives_no_file(node: Node) -> None:
    path = node.directory() / "f"
    options = SessionOptions(
        mode="stream", encrypt=True, legacy_cipher="AES", key=bytes(reversed(KEYS["AES"])), streams=2
    )
    secret = expected_login(node, "AES")
    async with open_ftp_session(*node.ftp, user="anonymous", password=secret, options=options) as one:
        with pytest.raises(TransferFailed, match="no frame header"):
            await put(one, path, content(1000))
        assert not path.exists()


async def test_encryption_needs_mode_u_or_a_named_cipher(node: Node) -> None:
    options = SessionOptions(mode="stream", encrypt=True, key=KEYS["AES"])
    with pytest.raises(Refused, match="--legacy-cipher"):
        async with open_ftp_session(*node.ftp, user="anonymous", password=expected_login(node, "AES"), options=options):
            pass


async def test_a_server_that_does_not_encrypt(node: Node) -> None:
    options = SessionOptions(mode="stream", encrypt=True, key=KEYS["AES"], legacy_cipher="AES")
    with pytest.raises(Refused, match="does not encrypt"):
        async with open_ftp_session(*node.ftp, user="anonymous", password=node.expect(), options=options):
            pass


async def test_encryption_without_a_key_is_an_error_before_anything_is_sent() -> None:
    with pytest.raises(UsageError):
        async with open_ftp_session(
            "127.0.0.1", 1, user="anonymous", password="x", options=SessionOptions(encrypt=True)
        ):
            pass


async def test_a_server_that_forgets_the_compression(node: Node) -> None:
    path = node.directory() / "f"
    node.file(path, b"x" * 1000)
    options = SessionOptions(mode="stream", compress=True)
    async with open_ftp_session(*node.ftp, user="anonymous", password=node.expect(), options=options) as one:
        with pytest.raises((TransferFailed, PeerBrokeProtocol)):
            await get(one, path)


# -- what to ask for, and what to use -----------------------------------------------------------------------------


def _dialect(*features: str, upstream: bool = True) -> Dialect:
    return Dialect.of("3.5.3" if upstream else None, Features.parse(line.encode() for line in features))


def test_every_session_asks_for_a_key_of_its_own() -> None:
    options = SessionOptions(encrypt=True, compress=True, streams=3)
    first, request = ask_for(options, SessionRequest())
    second, _ = ask_for(options, SessionRequest())
    assert first.key == request.key != second.key
    assert (len(request.key), request.cipher, request.compress, request.streams) == (48, "AES", True, 1)
    assert set(request.to_json()) == {"serverPath", "persistent", "encryptionKey", "encryptionAlgorithm", "compress"}
    assert request.key.hex() not in repr(request)
    plain = ask_for(SessionOptions(streams=3), SessionRequest())[1].to_json()
    assert plain == {"serverPath": "", "persistent": False, "streamCount": 3}
    blowfish = ask_for(SessionOptions(encrypt=True, legacy_cipher="BLOWFISH"), SessionRequest())[1]
    assert (len(blowfish.key), blowfish.cipher) == (56, "BLOWFISH")


def test_what_a_session_uses() -> None:
    crypted = _dialect("CRYPTED-AES", "EPSV")
    named = SessionOptions(encrypt=True, key=KEYS["AES"], legacy_cipher="AES", streams=4)
    # Upstream loses step between ciphers and frames.
    assert layers_of("x", crypted, named) == (Layers(False, "AES", KEYS["AES"]), 1)
    assert layers_of("x", crypted, SessionOptions(compress=True, streams=4)) == (Layers(True), 4)
    assert layers_of("x", _dialect(upstream=False), SessionOptions(streams=4)) == (NO_LAYERS, 1)
    with pytest.raises(Refused):
        layers_of("x", _dialect("CRYPTED-BLOWFISH"), named)
    with pytest.raises(Refused):
        layers_of("x", _dialect(upstream=False), SessionOptions(compress=True))


@pytest.mark.parametrize(("text", "cipher"), [("aes", "AES"), (" Blowfish", "BLOWFISH")])
def test_names_of_ciphers(text: str, cipher: str) -> None:
    assert parse_cipher(text) == cipher


def test_an_unknown_cipher() -> None:
    with pytest.raises(UsageError):
        parse_cipher("rot13")


@pytest.mark.parametrize(
    ("length", "current", "size"),
    [
        (MIB - 1, MIB, 1048573),
        (MIB - 16, MIB, 1048573),
        (MIB - 17, MIB, None),
        (MIB, MIB, None),
        (3 * MIB - 5, MIB, 1048573),
        (1048573 * 16 - 1, 1048573, MIB),
        (None, MIB, 1048573),
        (None, 1048573, None),
    ],
)
def test_upstream_must_not_read_a_padded_file_in_whole_blocks(length: int | None, current: int, size: int) -> None:
    assert safe_buffer_bytes(Layers(False, "AES", KEYS["AES"]), length, current) == size
    assert safe_buffer_bytes(Layers(True, "AES", KEYS["AES"]), length, current) is None
    assert safe_buffer_bytes(NO_LAYERS, length, current) is None

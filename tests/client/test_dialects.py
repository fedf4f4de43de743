"""What is said to which kind of server."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_ftp import OURS, Dialogue, reply, scripted_server

from uftp.client.login import SessionOptions, open_ftp_session
from uftp.client.session import FTPSession
from uftp.errors import NetworkError, NotFound, PeerBrokeProtocol, Refused
from uftp.streams import Incoming, Meter
from uftp.transfer.copy import copy_files

# DATA-PLANE 4.1, the joined names as they are.
UPSTREAM = ("PASV", "EPSV", "RANG STREAM", "REST STREAMMFMT", "MLSD", "MLST", "APPE", "MFF Modify;UNIX.mode;KEEP-ALIVE",
            "ARCHIVE", "UTF-8", "HASH MD5*;SHA-1;SHA-256;SHA-512")  # fmt: skip
GREETING = "220 UFTPD 3.5.3, https://www.unicore.eu"


async def take(dialogue: Dialogue, argument: str) -> None:
    await dialogue.say("150 OK")
    await dialogue.drain()
    await dialogue.say("226 File transfer successful")


async def give(dialogue: Dialogue, argument: str) -> None:
    await dialogue.say("150 OK 4 bytes available for reading.")
    async with await dialogue.data() as data:
        await data.send_all(b"data")
    await dialogue.say("226 File transfer successful")


async def test_an_upload_to_upstream(tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.write_bytes(b"data")
    stat = "211- Sending file list\r\n -rw- 4 1612325106000 x\r\n211 End of file list"
    actions = {"STOR": take, "STAT": reply(stat)}
    async with scripted_server(actions, features=UPSTREAM, greeting=GREETING) as server:
        summary = await copy_files([str(source)], server.url + "/x")
    summary.raise_for_failures()
    verbs = [line.split()[0] for line in server.lines]
    assert not {"SIZE", "APPE", "REST"} & set(verbs)
    assert {line.split()[1] for line in server.lines if line.startswith("OPTS")} <= {"HASH"}
    start = server.lines.index("RANG 1 0")
    assert server.lines[start : start + 3] == ["RANG 1 0", "ALLO 4", "EPSV"]
    assert server.lines[start + 3].startswith("STOR /.uftp-")
    assert server.lines[-1] == "RNTO /x"


async def test_a_download_from_upstream() -> None:
    got: list[bytes] = []
    async with (
        scripted_server({"RETR": give}, features=UPSTREAM, greeting=GREETING) as server,
        open_ftp_session("127.0.0.1", server.port, user="anonymous", password="x") as session,
    ):

        def receive(incoming: Incoming, length: int | None, meter: Meter, /) -> int:
            return incoming.to_chunks(lambda block: got.append(bytes(block)), length, meter)

        await session.retrieve(b"x", receive)
        assert got == [b"data"]
        assert server.lines[-3:] == ["RANG 1 0", "EPSV", "RETR x"]
        for name, error in ((b"blank ", Refused), (b"new\nline", Refused)):
            with pytest.raises(error):
                await session.stat(name)
        assert session.dialect.kind == "upstream"


async def test_names_and_times_to_our_own_servers() -> None:
    async with (
        scripted_server({"MKD": reply("257 OK")}) as server,
        open_ftp_session("127.0.0.1", server.port, user="anonymous", password="x") as session,
    ):
        await session.mkdir(b"/a b\n\xff%")
        await session.set_facts(b"/x", mtime_ns=1_000_000_000_000_000_001, permissions=0o640)
    assert server.lines[3:] == [
        "OPTS UTC ON",
        "OPTS NAMES PCT",
        "MKD /a%20b%0A%FF%25",
        "MFF Modify=20010909014640.000000001;UNIX.mode=640; /x",
    ]


async def open_and_close(port: int, **options: object) -> FTPSession:
    settings = SessionOptions(reply_timeout=0.5, **options)  # type: ignore[arg-type]
    async with open_ftp_session("127.0.0.1", port, user="anonymous", password="s3cret", options=settings) as session:
        return session


async def test_a_server_that_hides_what_was_promised() -> None:
    async with scripted_server({}, features=UPSTREAM, greeting=GREETING) as server:
        await open_and_close(server.port, required_features=["HASH SHA-256", "RANG STREAM"])
        with pytest.raises(PeerBrokeProtocol, match="UTC"):
            await open_and_close(server.port, required_features=["UTC"])


@pytest.mark.parametrize(
    ("verb", "answer", "error"),
    [
        ("USER", "421 busy", NetworkError),
        ("PASS", "421 busy", NetworkError),
        ("PASS", "530 Not logged in: Cannot open the session directory: No such file or directory", NotFound),
        ("PASS", "530 Not logged in: Cannot open the session directory '/root': Permission denied", Refused),
        ("PASS", "500 Session is already running", Refused),
        ("PASS", "500 wrong s3cret", Refused),
        ("OPTS", "501 no", PeerBrokeProtocol),
        ("USER", "nonsense", PeerBrokeProtocol),
    ],
)
async def test_logins_that_fail(verb: str, answer: str, error: type[Exception]) -> None:
    async with scripted_server({verb: reply(answer)}, features=OURS) as server:
        with pytest.raises(error) as caught:
            await open_and_close(server.port)
    assert "s3cret" not in str(caught.value)


async def test_upstream_hangs_up_after_the_login_if_the_directory_is_missing() -> None:
    async def hang_up(dialogue: Dialogue, argument: str) -> None:
        await dialogue.control.aclose()

    async with scripted_server({"FEAT": hang_up}, greeting=GREETING) as server:
        with pytest.raises(NotFound, match="directory"):
            await open_and_close(server.port)


async def test_after_a_refusal_the_session_goes_on() -> None:
    async with (
        scripted_server({"STOR": reply("553 no"), "MKD": reply("257 OK")}) as server,
        open_ftp_session("127.0.0.1", server.port, user="anonymous", password="x") as session,
    ):
        for _ in range(2):
            with pytest.raises(Refused, match="553"):
                await session.store(b"x", lambda outgoing, meter: outgoing.from_bytes(b"1", meter), length=1)
        await session.mkdir(b"d")

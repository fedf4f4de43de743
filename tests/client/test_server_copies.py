"""What a client says to have a server copy from or to another one, and what it makes of the replies."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
from scripted_ftp import OURS, Dialogue, reply, scripted_server

from uftp.client import server_copies
from uftp.client.login import open_ftp_session
from uftp.client.session import FTPSession
from uftp.errors import NotFound, PeerBrokeProtocol, Refused, UFTPError
from uftp.protocol.server_copies import CopyError, CopyWords

SECRET = "vq7kz0pwd"
STARTED = reply("299 OK transfer-process-ID=4711")
UPSTREAM = ("EPSV", "RANG STREAM", "REST STREAM")
FEATURES = (*OURS, "RCP-PROGRESS", "RCP-TREES", "RCP-FETCH")

Use = Callable[[FTPSession], Awaitable[object]]


async def said(use: Use, *, features: tuple[str, ...] = FEATURES, **actions: str) -> tuple[object, str]:
    """What a call gives with a server that answers so, and the last line it sent."""
    verbs = {name.replace("_", "-"): reply(text) for name, text in actions.items()}
    async with scripted_server(verbs, features=features) as server:
        address = ("127.0.0.1", server.port)
        async with open_ftp_session(*address, user="anonymous", password="x") as session:
            found = await use(session)
            assert session.usable
        return found, server.lines[-1]


async def test_the_lines_as_each_kind_of_server_takes_them() -> None:
    def receive(session: FTPSession) -> Awaitable[object]:
        return server_copies.start_receive(session, b"/in/it's", b"/out/a b%", "2001:db8::1", 64434, SECRET)

    number, line = await said(receive, RECEIVE_FILE="299 OK transfer-process-ID=4711")
    assert (number, line) == (
        4711,
        f"RECEIVE-FILE '/in/it%27s' '/out/a%20b%25' '[2001:db8::1]:64434' '{SECRET}'",
    )
    number, line = await said(receive, features=UPSTREAM, RECEIVE_FILE="299 OK transfer-process-ID=4711")
    assert line == f"RECEIVE-FILE '/in/it'\\''s' '/out/a b%' '[2001:db8::1]:64434' '{SECRET}'"

    def send(session: FTPSession) -> Awaitable[object]:
        return server_copies.start_send(session, b"x", b"y", "ftp.example.org", 21, SECRET)

    _, line = await said(send, SEND_FILE="299 OK transfer-process-ID=9223372036854775807")
    assert line == f"SEND-FILE 'x' 'y' 'ftp.example.org:21' '{SECRET}'"

    def fetch(session: FTPSession) -> Awaitable[object]:
        return server_copies.start_fetch(session, b"in/", "https://example.org/a?b=%20c")

    _, line = await said(fetch, RCP_FETCH="299 OK transfer-process-ID=1")
    assert line == "RCP-FETCH 'in/' 'https://example.org/a?b=%2520c'"

    words = CopyWords(trees=True, recursive=True, verify=False, logins=7, rate=1000)
    _, line = await said(lambda session: server_copies.set_copy_words(session, words))
    assert line == "OPTS RCP TREES RECURSIVE NO-VERIFY LOGINS=7 RATE=1000"
    _, line = await said(lambda session: server_copies.set_copy_words(session, CopyWords()))
    assert line == "OPTS RCP"
    _, line = await said(lambda session: server_copies.set_copy_range(session, 10, 5))
    assert line == "RANG 10 15"


async def test_what_a_server_says_of_a_copy() -> None:
    text = "299 RUNNING bytes=5;total=9;files=1;rate=3;failed=2;found=4;planned=1;seconds=1.5;new=thing;"
    status, line = await said(lambda session: server_copies.status(session, 12), RCP_STATUS=text)
    assert line == "RCP-STATUS 12"
    assert (status.word, status.bytes, status.total, status.failed, status.planned) == ("RUNNING", 5, 9, 2, True)  # type: ignore[attr-defined]
    status, _ = await said(lambda session: server_copies.status(session, 12), RCP_STATUS="299 UNKNOWN")
    assert status.is_final  # type: ignore[attr-defined]
    word, line = await said(lambda session: server_copies.abort(session, 12, keep=True), RCP_ABORT="299 ABORTED")
    assert (word, line) == ("ABORTED", "RCP-ABORT 12 KEEP")


async def test_failed_files_and_where_the_list_goes_on() -> None:
    lines = "299-12\r\n source=/a%0Ab;target=/b;error=no%20space;\r\n299 End 201"
    found, line = await said(lambda session: server_copies.errors(session, 12, 200), RCP_ERRORS=lines)
    assert found == ([CopyError(source=b"/a\nb", target=b"/b", error="no space")], 201)
    assert line == "RCP-ERRORS 12 200"


@pytest.mark.parametrize(
    ("use", "answer", "error", "says"),
    [
        (lambda s: server_copies.status(s, 1), "500 'str' object", Refused, "cannot tell how the copy stands"),
        (lambda s: server_copies.status(s, 1), "299 WHATEVER", PeerBrokeProtocol, "No state"),
        (lambda s: server_copies.status(s, 1), "200 OK", PeerBrokeProtocol, "200 OK"),
        (lambda s: server_copies.status(s, 1), "299 RUNNING bytes=x;", PeerBrokeProtocol, "no number"),
        (lambda s: server_copies.errors(s, 1, 5), "299-1\r\n299 End 5", PeerBrokeProtocol, "leads back"),
        (lambda s: server_copies.errors(s, 1), "299-1\r\n what=1;\r\n299 End 0", PeerBrokeProtocol, "No failure"),
        (lambda s: server_copies.start_send(s, b"/x", b"y", "h", 1, SECRET), "550 No such file", NotFound, "/x: "),
        (lambda s: server_copies.start_send(s, b"/x", b"y", "h", 1, SECRET), "299 OK", PeerBrokeProtocol, "no id"),
        (lambda s: server_copies.start_send(s, b"/x", b"y", "hö", 1, SECRET), "", PeerBrokeProtocol, "host"),
        (lambda s: server_copies.start_send(s, b"/x", b"y", "h", 1, SECRET), f"501 what is {SECRET}?", Refused, "..."),
        (lambda s: server_copies.start_send(s, b"/x", b"y", "h", 1, SECRET), f"501 {SECRET}?", Refused, "..."),
        (lambda s: server_copies.set_copy_words(s, CopyWords(trees=True)), "501 No such word", Refused, "No such word"),
    ],
)
async def test_refusals_and_nonsense(use: Use, answer: str, error: type[UFTPError], says: str) -> None:
    verbs = ("RCP-STATUS", "RCP-ERRORS", "SEND-FILE")

    async def opts(dialogue: Dialogue, argument: str) -> None:
        await dialogue.say(answer if argument.startswith("RCP") else "200 OK")

    async with (
        scripted_server(dict.fromkeys(verbs, reply(answer)) | {"OPTS": opts}, features=FEATURES) as server,
        open_ftp_session("127.0.0.1", server.port, user="anonymous", password="x") as session,
    ):
        with pytest.raises(error) as failure:
            await use(session)
    assert says in str(failure.value)
    assert SECRET not in str(failure.value)


async def test_passwords_and_links_do_not_get_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="uftp.client"):
        async with (
            scripted_server({"RECEIVE-FILE": STARTED, "RCP-FETCH": STARTED}, features=FEATURES) as server,
            open_ftp_session("127.0.0.1", server.port, user="anonymous", password="x") as session,
        ):
            await server_copies.start_receive(session, b"a", b"b", "h", 1, SECRET)
            await server_copies.start_fetch(session, b"a", f"https://example.org/rest/access/X/{SECRET}")
    assert "RECEIVE-FILE 'a' 'b' 'h:1' '...'" in caplog.text
    assert SECRET not in caplog.text


async def test_a_name_that_cannot_be_said_is_refused_before_anything_is_sent() -> None:
    async with scripted_server({}, features=UPSTREAM) as server:
        async with open_ftp_session("127.0.0.1", server.port, user="anonymous", password="x") as session:
            with pytest.raises(Refused, match="line break"):
                await server_copies.start_send(session, b"/a\nDELE /b", b"y", "h", 1, SECRET)
        assert not [line for line in server.lines if "FILE" in line or "DELE" in line]

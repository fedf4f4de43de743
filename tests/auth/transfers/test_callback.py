"""The URL that is told of the end: what it gets, how often, and where it may not be."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import trio
from copying_node import CopyNode, Script, broken
from managing import managing, until_true
from running_auth import Pki, StartAuth
from small_https import SmallHttps, small_https

from uftp.client.vetted_http import open_vetted_client, trust
from uftpd.auth.transfers import callback
from uftpd.auth.transfers.callback import Told, callback_body, tell
from uftpd.auth.transfers.model import (
    Place,
    Progress,
    Transfer,
    TransferOptions,
    TransferState,
    Wanted,
)
from uftpd.config.copies import Copies
from uftpd.peers import PeerRules

pytestmark = pytest.mark.slow


def reach(pki: Pki) -> str:
    """Settings: whatever is on this machine may be connected to."""
    return f'allow = ["127.0.0.1"]\nhttps_ca = "{pki.ca_path}"\n'


async def test_the_end_is_told(start_auth: StartAuth, tmp_path: Path, pki: Pki) -> None:
    scripts = deque([Script(), Script(says=[broken("permission denied")])])
    async with (
        small_https(pki) as receiver,
        managing(start_auth, tmp_path, CopyNode(scripts=scripts), more=reach(pki)) as site,
    ):
        for number, state in enumerate(("succeeded", "failed")):
            transfer = await site.submit("TEST:/out/a", callback=f"{receiver.url}/told?token=x", name="nightly")
            await site.wait(transfer, state)
            await until_true(lambda most=number: len(receiver.asked) > most, "the callback")  # type: ignore[misc]
            asked = receiver.asked[number]
            assert asked.line == "POST /told?token=x HTTP/1.1"
            assert asked.headers["content-type"] == "application/json"
            told = asked.json()
            assert (told["id"], told["state"], told["name"]) == (transfer, state, "nightly")
            assert told["ended"] > 0
            assert not {"sources", "target", "reason"} & told.keys()


async def test_it_is_tried_again_a_few_times(
    start_auth: StartAuth, tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(callback, "TRIES", 3)
    monkeypatch.setattr(callback, "_IDLE_SECONDS", 0.05)
    async with small_https(pki) as receiver, managing(start_auth, tmp_path, more=reach(pki)) as site:
        receiver.answers.extend([(503, b"", ""), (302, b"", "https://127.0.0.1:1/"), (200, b"", "")])
        await site.wait(await site.submit("TEST:/out/a", callback=receiver.url), "succeeded")
        await until_true(lambda: len(receiver.asked) == 3, "three tries")
        # One that never takes it is given up; the next transfer's is told all the same.
        receiver.answers.extend([(500, b"", "")] * 3)
        first = await site.submit("TEST:/out/a", callback=receiver.url)
        await until_true(lambda: len(receiver.asked) == 6, "three more tries")
        second = await site.submit("TEST:/out/a", callback=receiver.url)
        await until_true(lambda: len(receiver.asked) == 7, "the other one")
        assert [asked.json()["id"] for asked in receiver.asked[3:]] == [first, first, first, second]


async def test_a_receiver_that_hangs_keeps_nobody_waiting(
    start_auth: StartAuth, tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        silent = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        hanging: list[trio.SocketStream] = []

        async def hang(stream: trio.SocketStream) -> None:
            hanging.append(stream)
            await trio.sleep_forever()

        nursery.start_soon(trio.serve_listeners, hang, [silent])
        port = silent.socket.getsockname()[1]
        async with small_https(pki) as receiver, managing(start_auth, tmp_path, more=reach(pki)) as site:
            await site.submit("TEST:/out/a", callback=f"https://127.0.0.1:{port}/")
            await until_true(lambda: bool(hanging), "the first callback")
            await site.submit("TEST:/out/b", callback=receiver.url)
            await until_true(lambda: bool(receiver.asked), "the second callback")
        nursery.cancel_scope.cancel()


# -- one try ----------------------------------------------------------------------------------------------------------


def transfer_to(url: str) -> Transfer:
    """A transfer that has ended."""
    place = Place(kind="server", text="TEST:/secret/path", server="TEST", path=b"/secret/path")
    return Transfer(
        id="abc",
        person="cn=me",
        name="n",
        state=TransferState.SUCCEEDED,
        wanted=Wanted.NOTHING,
        reason="/secret/path: whatever",
        sources=(place,),
        target=place,
        options=TransferOptions(),
        accounts={},
        callback=url,
        progress=Progress(bytes=5, files=1),
        attempts=1,
        created=1.0,
        started=2.0,
        ended=3.0,
        next_try=0.0,
        node="TEST-1",
    )


def test_no_paths_are_told() -> None:
    assert b"secret" not in callback_body(transfer_to("https://x/"))


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (200, Told(True)),
        (204, Told(True)),
        (301, Told(False, again=True, why="it answered 301")),
        (307, Told(False, again=True, why="it answered 307")),
        (400, Told(False, why="it answered 400")),
        (404, Told(False, why="it answered 404")),
        (408, Told(False, again=True, why="it answered 408")),
        (429, Told(False, again=True, why="it answered 429")),
        (500, Told(False, again=True, why="it answered 500")),
    ],
)
async def test_what_an_answer_means(pki: Pki, status: int, told: Told) -> None:
    async with small_https(pki) as receiver, small_https(pki) as elsewhere:
        receiver.answers.append((status, b"", elsewhere.url))
        assert await tell_at(receiver, pki, ("127.0.0.1",)) == told
        assert not elsewhere.connections, "no redirect is followed"


@pytest.mark.parametrize("allow", [(), ("10.0.0.0/8",), ("127.0.0.2",)])
async def test_what_is_not_allowed_is_not_connected_to(pki: Pki, allow: tuple[str, ...]) -> None:
    async with small_https(pki) as receiver:
        told = await tell_at(receiver, pki, allow)
        assert (told.done, told.again) == (False, False)
        assert not receiver.connections


async def test_nobody_there(pki: Pki) -> None:
    async with small_https(pki) as receiver:
        pass
    assert (await tell_at(receiver, pki, ("127.0.0.1",))).again


async def tell_at(receiver: SmallHttps, pki: Pki, allow: tuple[str, ...]) -> Told:
    """One try."""
    rules = PeerRules(Copies(allow=allow))
    async with open_vetted_client(rules.admit_url, tls=trust(pki.ca_path.read_text())) as client:
        return await tell(client, transfer_to(f"{receiver.url}/told"))

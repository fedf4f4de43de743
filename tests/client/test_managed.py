"""Managed transfers from the client's side: what is asked, and what comes of answers good, bad and missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from scripted_rest import BROKEN, Asked, Scripted, scripted

import uftp
from uftp.client.auth import AuthServer, HttpOptions
from uftp.client.credentials import UsernamePassword
from uftp.client.managed import FINAL_STATES, ManagedTransfers, Transfer, TransferRequest, read_transfer
from uftp.client.url import parse_url
from uftp.errors import NetworkError, NotFound, PeerBrokeProtocol, Refused, UFTPError, UsageError


async def call(server: Scripted, function: Callable[[ManagedTransfers], Any]) -> Any:
    """What a call brings."""
    place = parse_url(f"http://127.0.0.1:{server.port}/SITE/rest/auth/TEST:/x")
    async with AuthServer(UsernamePassword("jo", "pw"), HttpOptions(insecure=True)) as auth:
        return await function(ManagedTransfers(auth, place))


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as running:
        yield running


def key_of(asked: Asked) -> str:
    return asked.headers["idempotency-key"]


def one(number: int = 1, state: str = "active", **more: object) -> dict[str, object]:
    return {"id": f"t{number}", "state": state, "sources": ["A:/x"], "target": "B:/y", **more}


REQUEST = TransferRequest(sources=["A:/x"], target="B:/y")


async def test_a_submission_says_what_was_asked_for_and_no_more(server: Scripted) -> None:
    server.answers = [(201, one(state="queued"))]
    wanted = TransferRequest(
        sources=["A:/x", "A:/y*"],
        target="https://b.example/rest/auth/B:/z/",
        options={"recursive": True},
        credentials={"target": {"token": "secret"}},
        name="n",
    )
    made = await call(server, lambda transfers: transfers.submit(wanted, key="k1"))
    assert (made.id, made.state) == ("t1", "queued")
    [asked] = server.asked
    assert (asked.method, asked.path, key_of(asked)) == ("POST", "/SITE/rest/transfers", "k1")
    assert asked.body == {
        "sources": ["A:/x", "A:/y*"],
        "target": "https://b.example/rest/auth/B:/z/",
        "options": {"recursive": True},
        "credentials": {"target": {"token": "secret"}},
        "name": "n",
    }
    assert "secret" not in repr(wanted)


async def test_programs_open_them_by_the_url_of_the_server(server: Scripted) -> None:
    server.answers = [(200, one())]
    for place in ("/rest/auth", "/rest/auth/TEST:/x"):
        server.answers = [(200, one())]
        url = f"http://127.0.0.1:{server.port}{place}"
        async with uftp.open_transfers(url, uftp.BearerToken("t"), insecure=True) as transfers:
            assert (await transfers.get("t1")).state == "active"
    assert {asked.path for asked in server.asked} == {"/rest/transfers/t1"}
    with pytest.raises(UsageError, match="runs no transfers"):
        async with uftp.open_transfers("ftp://host/", uftp.BearerToken("t")):
            pass


async def test_a_submission_whose_answer_is_lost_is_repeated_with_the_same_key(server: Scripted) -> None:
    server.answers = [BROKEN, (200, one())]
    await call(server, lambda transfers: transfers.submit(REQUEST))
    first, second = server.asked
    assert (first.path, first.body, key_of(first)) == (second.path, second.body, key_of(second))
    assert len(key_of(first)) >= 16
    server.answers = [BROKEN, BROKEN]
    with pytest.raises(NetworkError):
        await call(server, lambda transfers: transfers.submit(REQUEST))
    assert key_of(server.asked[2]) != key_of(first)


@pytest.mark.parametrize("submit", [True, False])
async def test_a_server_without_transfers(server: Scripted, submit: bool) -> None:
    server.answers = [(404, {"errorMessage": "No such resource", "status": 404})]
    with pytest.raises(Refused, match=r"runs no transfers; .* --at"):
        await call(server, lambda t: t.submit(REQUEST) if submit else t.overview())


async def test_a_refusal_is_passed_on(server: Scripted) -> None:
    server.answers = [(400, {"errorMessage": "target: expected \x1b[31mNAME:/path", "status": 400})]
    with pytest.raises(Refused) as caught:
        await call(server, lambda transfers: transfers.submit(REQUEST))
    assert "target: expected" in str(caught.value)
    assert "\x1b" not in str(caught.value)


async def test_a_list_is_read_page_by_page(server: Scripted) -> None:
    pages: dict[str, object] = {
        "": {"transfers": [one(3), one(2)], "next": "p2"},
        "p2": {"transfers": [one(1)], "next": None},
    }
    server.answer = lambda asked: (200, pages[asked.query.get("after", "")])
    found, more = await call(server, lambda transfers: transfers.overview(states=["active", "paused"]))
    assert ([transfer.id for transfer in found], more) == (["t3", "t2", "t1"], False)
    assert {asked.query["state"] for asked in server.asked} == {"active,paused"}
    found, more = await call(server, lambda transfers: transfers.overview(most=2))
    assert ([transfer.id for transfer in found], more) == (["t3", "t2"], True)
    assert server.asked[-1].query == {"limit": "2"}


async def test_errors_are_read_page_by_page(server: Scripted) -> None:
    def answer(asked: Asked) -> tuple[int, object]:
        first = int(asked.query.get("first", "0"))
        entries = [{"source": f"s{n}", "target": "t", "error": "e"} for n in range(first, min(first + 3, 7))]
        return 200, {"errors": entries, "next": first + 3 if first + 3 < 7 else None}

    server.answer = answer
    found, more = await call(server, lambda transfers: transfers.errors("t1"))
    assert ([error.source for error in found], more) == ([f"s{n}" for n in range(7)], False)
    found, more = await call(server, lambda transfers: transfers.errors("t1", most=4))
    assert ([error.source for error in found], more) == (["s0", "s1", "s2", "s3"], True)
    assert server.asked[-1].path == "/SITE/rest/transfers/t1/errors"


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"transfers": {}},
        {"transfers": ["x"]},
        {"transfers": [{"id": "t1"}]},
        {"transfers": [one() | {"id": "a/b"}]},
        {"transfers": [one() | {"id": "x" * 65}]},
        {"transfers": [one() | {"state": "\x1b[2J"}]},
        {"transfers": [one()], "next": 7},
        b"<html>",
    ],
)
async def test_a_list_that_is_none(server: Scripted, document: object) -> None:
    server.answers = [(200, document)]
    with pytest.raises(PeerBrokeProtocol):
        await call(server, lambda transfers: transfers.overview())


async def test_a_list_that_goes_round_in_circles_is_left(server: Scripted) -> None:
    server.answer = lambda asked: (200, {"transfers": [one()], "next": "same"})
    with pytest.raises(PeerBrokeProtocol, match="does not go on"):
        await call(server, lambda transfers: transfers.overview())
    server.answer = lambda asked: (200, {"errors": [{}], "next": 5})
    with pytest.raises(PeerBrokeProtocol, match="does not go on"):
        await call(server, lambda transfers: transfers.errors("t1"))
    assert len(server.asked) == 4


async def test_steering(server: Scripted) -> None:
    server.answers = [(200, one(wanted="pause")), (409, {"errorMessage": "It has failed; retry it instead"})]
    paused = await call(server, lambda transfers: transfers.act("t1", "pause"))
    assert (paused.state, paused.wanted) == ("active", "pause")
    with pytest.raises(Refused, match="retry it instead"):
        await call(server, lambda transfers: transfers.act("t1", "resume", {"source": {"token": "x"}}))
    assert [(asked.path.rpartition("/")[2], asked.body) for asked in server.asked] == [
        ("pause", {}),
        ("resume", {"credentials": {"source": {"token": "x"}}}),
    ]


@pytest.mark.parametrize("text", ["", "..", "a/b", "a?b", "ü", "x" * 65, "a\n"])
async def test_what_cannot_be_an_id_is_not_sent(server: Scripted, text: str) -> None:
    with pytest.raises(UsageError, match="no id of a transfer"):
        await call(server, lambda transfers: transfers.get(text))
    assert server.asked == []


# -- waiting --------------------------------------------------------------------------------------------------------


async def wait(
    server: Scripted, answers: Sequence[tuple[int, object]], **more: Any
) -> tuple[Transfer, list[int], list[UFTPError]]:
    """What waiting ends with, how many bytes were told of on the way, and which errors."""
    server.answers = list(answers)
    told: list[int] = []
    silences: list[UFTPError] = []

    async def work(transfers: ManagedTransfers) -> Transfer:
        return await transfers.wait(
            "t1", on_change=lambda now: told.append(now.bytes), on_silence=silences.append, **more
        )

    return await call(server, work), told, silences


async def test_waiting_tells_of_changes_alone(server: Scripted) -> None:
    steps = [one(state="queued"), one(state="queued"), one(bytes=5), one(bytes=5), one(state="succeeded", bytes=9)]
    last, told, silences = await wait(server, [(200, step) for step in steps])
    assert (last.state, told, silences) == ("succeeded", [0, 5, 9], [])


@pytest.mark.parametrize("state", [*sorted(FINAL_STATES), "paused"])
async def test_waiting_ends(server: Scripted, state: str) -> None:
    last, _, _ = await wait(server, [(200, one(state=state, reason="since"))])
    assert (last.state, last.reason) == (state, "since")


async def test_waiting_bears_with_a_server_that_is_restarted(server: Scripted) -> None:
    down = (503, {"errorMessage": "starting"})
    last, _, silences = await wait(server, [(200, one()), BROKEN, down, BROKEN, (200, one(state="succeeded"))])
    assert last.state == "succeeded"
    assert len(silences) == 1


async def test_waiting_gives_up_in_the_end(server: Scripted) -> None:
    server.answer = lambda asked: BROKEN
    with pytest.raises(NetworkError):
        await call(server, lambda transfers: transfers.wait("t1", patience=0.0))


async def test_waiting_for_what_is_gone(server: Scripted) -> None:
    with pytest.raises(NotFound):
        await wait(server, [(200, one()), (404, {"errorMessage": "There is no such transfer"})])


async def test_waiting_can_be_cancelled(server: Scripted) -> None:
    server.answer = lambda asked: (200, one())
    with trio.move_on_after(30) as scope:

        async def work(transfers: ManagedTransfers) -> Transfer:
            return await transfers.wait("t1", on_change=lambda now: scope.cancel())

        await call(server, work)
    assert scope.cancelled_caught
    assert {asked.method for asked in server.asked} == {"GET"}


# -- what servers say -----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
_FIELDS = [
    "id",
    "name",
    "state",
    "wanted",
    "reason",
    "sources",
    "target",
    "bytes",
    "total",
    "files",
    "filesFailed",
    "rate",
    "created",
    "nextTry",
    "node",
]


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(_FIELDS, JSON)) | JSON)
def test_whatever_a_server_says_is_a_transfer_or_an_error_of_ours(document: object) -> None:
    try:
        found = read_transfer(document, "https://a")
    except PeerBrokeProtocol:
        return
    assert re.fullmatch("[A-Za-z0-9_-]+", found.id)
    assert re.fullmatch("[a-z-]+", found.state)
    assert all(type(count) is int and count >= 0 for count in (found.bytes, found.total, found.files))
    assert all(type(number) is float and number >= 0 for number in (found.rate, found.created, found.next_try))
    assert all(type(text) is str for text in (found.name, found.reason, found.node, *found.sources))


@given(st.fixed_dictionaries(dict.fromkeys(("bytes", "rate", "created", "reason", "sources", "name"), JSON)))
def test_odd_facts_of_a_transfer_are_none(facts: dict[str, object]) -> None:
    found = read_transfer(one() | facts, "https://a")
    for name, value in (("bytes", found.bytes), ("rate", found.rate), ("created", found.created)):
        given_value = facts[name]
        is_good = type(given_value) in (int, float) and 0 <= given_value < 1e18  # type: ignore[operator]
        assert value == (pytest.approx(given_value, abs=1) if is_good else 0)

"""Watching a copy that a server runs: what it says, what it fails to say, and what is never taken for success."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from scripted_ftp import OURS, Action, Dialogue, ScriptedServer, reply, scripted_server

from uftp.client.login import log_in
from uftp.client.session import FTPSession
from uftp.client.url import parse_url
from uftp.errors import AuthenticationFailed, NetworkError, NotFound, Refused, TransferFailed, UFTPError, UsageError
from uftp.transfer import between_watch
from uftp.transfer.between_places import Copy, Place
from uftp.transfer.between_watch import Watcher, error_of
from uftp.transfer.copy import Access
from uftp.transfer.results import CopyState, FileResult

FEATURES = (*OURS, "RCP-PROGRESS", "RCP-TREES")
SOURCE = "https://a.example.org/rest/auth/A:/data"
TARGET = "https://b.example.org/rest/auth/B:/in"
DONE = "299 FINISHED bytes=70;total=70;files=7;found=7;planned=1;"


def saying(*texts: str) -> Action:
    """Answers one after the other, the last one from then on; an empty one closes the connection."""
    left = list(texts)

    async def act(dialogue: Dialogue, argument: str) -> None:
        text = left.pop(0) if len(left) > 1 else left[0]
        if text:
            await dialogue.say(text)
        else:
            await dialogue.control.aclose()
            raise trio.ClosedResourceError

    return act


class Watched:
    """A copy at a scripted server, and how it is watched."""

    def __init__(self, server: ScriptedServer, *, keep: bool = True, last: bool = True) -> None:
        self.server = server
        self.results: list[FileResult] = []
        self.state = CopyState(on_result=self.results.append)
        self.opened: list[FTPSession] = []
        self.reachable = True
        source, target = (Place(url=parse_url(url), access=Access()) for url in (SOURCE, TARGET))
        self.copy = Copy(
            id=12, host="127.0.0.1", port=server.port, at=target, source=source, target=target, way="receive"
        )
        self.watcher = Watcher(self.copy, self.open, self.state, keep=keep, last=last)

    async def open(self, copy: Copy) -> FTPSession:
        if not self.reachable:
            raise NetworkError("127.0.0.1: cannot connect")
        self.opened.append(await log_in("127.0.0.1", self.server.port, user="anonymous", password="x"))
        return self.opened[-1]

    async def run(self) -> str:
        return await self.watcher.run(await self.open(self.copy))


@asynccontextmanager
async def watched(
    *states: str, errors: Sequence[str] = (), keep: bool = True, last: bool = True, **more: Action
) -> AsyncIterator[Watched]:
    actions = {"RCP-STATUS": saying(*states), "RCP-ERRORS": saying(*errors or ("500 none",))}
    actions |= {verb.replace("_", "-"): action for verb, action in more.items()}
    async with scripted_server(actions, features=FEATURES) as server:
        copy = Watched(server, keep=keep, last=last)
        try:
            yield copy
        finally:
            for session in copy.opened:
                await session.aclose()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between_watch, "wait_before", lambda attempt: 0.0)


async def test_the_state_follows_what_the_server_says() -> None:
    running = "299 RUNNING bytes=20;total=50;files=2;failed=1;found=5;planned=0;"
    seen: list[tuple[int, int, int, bool]] = []
    async with watched(running, DONE) as copy:
        copy.state.bytes_done = copy.state.bytes_found = 1000  # what another copy has brought before
        copy.state.files_done = copy.state.files_found = 10
        copy.watcher = Watcher(copy.copy, copy.open, copy.state, keep=True, last=True)
        async with trio.open_nursery() as nursery:

            async def look() -> None:
                while True:
                    state = copy.state
                    seen.append((state.moved, state.bytes_found, state.files_done, state.planned))
                    await trio.sleep(0.01)

            nursery.start_soon(look)
            assert await copy.run() == "FINISHED"
            nursery.cancel_scope.cancel()
        assert (1020, 1050, 12, False) in seen
        assert (copy.state.files_done, copy.state.bytes_done, copy.state.files_failed) == (17, 1070, 0)
        assert copy.state.planned


async def test_a_lost_connection_is_no_end_of_the_copy() -> None:
    async with watched("299 RUNNING", "", "", "299 RUNNING", DONE) as copy:
        assert await copy.run() == "FINISHED"
        assert len(copy.opened) == 3
        assert not copy.results


async def test_a_server_that_stays_away_is_an_error_that_says_so(autojump_clock: trio.testing.MockClock) -> None:
    async with watched("299 RUNNING", "") as copy:
        session = await copy.open(copy.copy)
        copy.reachable = False
        with pytest.raises(NetworkError, match="copy 12 may still go on there"):
            await copy.watcher.run(session)


@pytest.mark.parametrize(
    ("states", "says"),
    [
        (["299 RUNNING bytes=50;", "299 UNKNOWN"], "no longer knows this copy"),
        (["299 RUNNING bytes=50;", "299 ABORTED bytes=50;"], "was ended"),
    ],
)
async def test_what_nobody_saw_finish_is_no_success(states: list[str], says: str) -> None:
    async with watched(*states) as copy:
        with pytest.raises(TransferFailed, match=says):
            await copy.run()


async def test_failed_files_are_told_one_by_one() -> None:
    pages = [
        "299-12\r\n source=/data/x;target=/in/x;error=/in/x:%20Permission%20denied;\r\n299 End 1",
        "299-12\r\n source=/data/%0Ay;target=;error=no%20space;\r\n299 End 0",
    ]
    async with watched("299 FINISHED bytes=5;files=1;failed=2;found=3;planned=1;", errors=pages) as copy:
        assert await copy.run() == "FINISHED"
        assert [type(result.error) for result in copy.results] == [Refused, TransferFailed]
        assert [result.source for result in copy.results] == [f"{SOURCE}/x", f"{SOURCE}/%0Ay"]
        assert copy.results[0].target == f"{TARGET}/x"
        summary = copy.state.summary()
        assert (summary.files, summary.failed) == (1, 2)


async def test_failures_that_are_not_listed_count_all_the_same() -> None:
    page = "299-12\r\n source=/data/x;target=/in/x;error=no;\r\n299 End 0"
    async with watched("299 FAILED files=1;failed=20000;error=no;", errors=[page]) as copy:
        assert await copy.run() == "FAILED"
        assert (copy.state.files_failed, len(copy.results)) == (20000, 1)


async def test_a_copy_that_failed_as_a_whole_is_one_failure_and_says_why() -> None:
    async with watched("299 FAILED bytes=0;error=/data:%20No%20such%20file;") as copy:
        assert await copy.run() == "FAILED"
        (result,) = copy.results
        assert isinstance(result.error, NotFound)
        assert (result.source, result.target) == (SOURCE, TARGET)
    async with watched("299 FAILED") as copy:
        await copy.run()
        assert "does not say why" in str(copy.results[0].error)
        assert copy.state.files_found == 1


@pytest.mark.parametrize("answer", ["299 RUNNING bytes=-1;", "200 OK", "299"])
async def test_nonsense_is_an_error(answer: str) -> None:
    async with watched(answer) as copy:
        with pytest.raises(UFTPError):
            await copy.run()


# -- ending it ------------------------------------------------------------------------------------------------------


async def interrupt(copy: Watched, *, lost: bool = False) -> None:
    """Watch it, and give up once the server was asked."""
    asked = trio.Event()
    answer = copy.server.actions["RCP-STATUS"]

    async def status(dialogue: Dialogue, argument: str) -> None:
        await answer(dialogue, argument)
        asked.set()

    copy.server.actions["RCP-STATUS"] = status
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy.run)
        with trio.fail_after(30):
            await asked.wait()
        if lost:
            copy.opened[0].control.break_off("lost")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("keep", "line"), [(True, "RCP-ABORT 12 KEEP"), (False, "RCP-ABORT 12")])
async def test_who_does_not_wait_any_more_ends_it(keep: bool, line: str) -> None:
    async with watched("299 RUNNING", keep=keep, RCP_ABORT=reply("299 ABORTED")) as copy:
        await interrupt(copy)
        assert copy.server.lines[-1] == line
        assert copy.watcher.stopped == f"the copy was ended on {copy.copy.server}"
        assert not copy.state.completed


async def test_it_may_have_finished_just_then() -> None:
    async with watched("299 RUNNING", RCP_ABORT=reply("299 FINISHED")) as copy:
        await interrupt(copy)
        assert "is complete" in str(copy.watcher.stopped)
        assert copy.state.completed


async def test_what_cannot_be_ended_is_said_to_go_on() -> None:
    async with watched("299 RUNNING", RCP_ABORT=reply("500 no")) as copy:
        await interrupt(copy)
        assert "may still go on" in str(copy.watcher.stopped)


async def test_it_is_ended_on_another_session_where_the_first_one_is_lost() -> None:
    async with watched("299 RUNNING", RCP_ABORT=saying("299 ABORTED")) as copy:
        await interrupt(copy, lost=True)
        assert copy.watcher.stopped == f"the copy was ended on {copy.copy.server}"
        assert len(copy.opened) == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("/x: cannot look at it: the server said 550 No such file", NotFound),
        ("/x: Permission denied", Refused),
        ("h:1: login refused: the server said 530", AuthenticationFailed),
        ("/x: is a directory; use -r to copy it", UsageError),
        ("No space left on device", TransferFailed),
        ("", TransferFailed),
    ],
)
def test_kinds_of_failures_show_in_the_words(text: str, kind: type[UFTPError]) -> None:
    error = error_of(text, SOURCE)
    assert type(error) is kind
    assert "\n" not in str(error)


def test_what_a_server_says_does_not_reach_the_terminal_as_it_is() -> None:
    assert "\x1b" not in str(error_of("\x1b[2J gone", SOURCE))

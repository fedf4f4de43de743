"""The pages of managed transfers in a real browser: they are as the server has them, and let nothing run."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import pytest
from chromium import Browser
from looking import CONTRAST, HOSTILE, NAMES, fits
from serving_views import Views, serving
from starlette.requests import Request
from starlette.responses import Response

from uftpd.auth.pages.render import transfer_page, transfers_page, transfers_part
from uftpd.auth.pages.transfer_views import OneTransferView, TransfersView, TransferView
from uftpd.auth.transfers.model import (
    FINAL_STATES,
    Action,
    FileError,
    Place,
    Progress,
    Transfer,
    TransferOptions,
    TransferState,
    Wanted,
)
from uftpd.auth.transfers.transitions import Refusal, decide

NOW = 1_790_000_000.0
LIST = "/ui/transfers"


def transfer(number: int = 1, state: str = "active", **more: object) -> Transfer:
    """One of them; `active` has 30 of 100 MB."""
    made = Transfer(
        id=f"transfer{number}",
        person="CN=Jo",
        name="",
        state=TransferState(state),
        wanted=Wanted.NOTHING,
        reason="",
        sources=(Place(kind="server", text=f"HERE:/data/run{number}", server="HERE"),),
        target=Place(kind="auth", text="https://b.example/rest/auth/THERE:/in/", service="https://b.example/x"),
        options=TransferOptions(recursive=True, verify=False),
        accounts={},
        progress=Progress(bytes=30_000_000, total=100_000_000, files=3, found=10, rate=7_000_000),
        attempts=2,
        created=NOW - 60,
        started=NOW - 30,
        ended=NOW if state in FINAL_STATES else 0.0,
        next_try=0.0,
        node="THERE 127.0.0.1:64434",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def listing(*transfers: Transfer, **more: object) -> TransfersView:
    shown = [TransferView.of(one, NOW) for one in transfers]
    return replace(TransfersView(person="CN=Jo", token="t" * 64, transfers=shown), **more)  # type: ignore[arg-type]


def one(found: Transfer, *errors: FileError, **more: object) -> OneTransferView:
    view = OneTransferView(
        person="CN=Jo",
        token="t" * 64,
        transfer=TransferView.of(found, NOW),
        errors=errors,
        reference=f"https://auth.example/rest/transfers/{found.id}",
    )
    return replace(view, **more)  # type: ignore[arg-type]


ALL = [
    transfer(1, "queued", progress=Progress()),
    transfer(2, "queued", next_try=NOW + 90, reason="the node of THERE does not answer"),
    transfer(3),
    transfer(4, wanted=Wanted.PAUSE),
    transfer(5, wanted=Wanted.CANCEL),
    transfer(6, "paused", reason="the login at https://b.example is no longer valid: resume with new credentials"),
    transfer(7, "succeeded", name="Spring campaign"),
    transfer(
        8,
        "failed",
        target=Place(kind="server", text="HERE:/in/", server="HERE"),
        reason="2 files could not be copied",
        progress=Progress(files=8, failed=2, found=10),
    ),
    transfer(9, "cancelled"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Views]:
    with serving(Views()) as views:
        yield views


@pytest.fixture
def views(server: Views) -> Views:
    server.pages.clear()
    server.requested.clear()
    return server


def text_of(response: Response) -> str:
    return bytes(response.body).decode()


# -- what is on them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "wanted"), list(product(TransferState, Wanted)))
def test_what_can_be_pressed_is_what_would_be_done(state: TransferState, wanted: Wanted) -> None:
    """No button leads to a refusal, and nothing that helps is missing."""
    wanted = wanted if state is TransferState.ACTIVE else Wanted.NOTHING
    for next_try in (0.0, NOW + 60):
        here = Place(kind="server", text="HERE:/in/", server="HERE")
        found = transfer(state=state.value, wanted=wanted, next_try=next_try, target=here)
        offered = {button.action for button in TransferView.of(found, NOW).buttons}
        assert all(not isinstance(decide(state, wanted, Action(action)), Refusal) for action in offered)
        missing = {
            TransferState.QUEUED: {"pause", "cancel"} | ({"resume"} if next_try else set()),
            TransferState.ACTIVE: {
                Wanted.NOTHING: {"pause", "cancel"},
                Wanted.PAUSE: {"resume", "cancel"},
                Wanted.CANCEL: set(),
            }[wanted],
            TransferState.PAUSED: {"resume", "cancel"},
            TransferState.SUCCEEDED: set(),
            TransferState.FAILED: {"retry"},
            TransferState.CANCELLED: {"retry"},
        }[state]
        assert offered == missing


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_what_has_lost_its_login_elsewhere_is_not_tried_again_from_a_page(state: str) -> None:
    """A page asks for no password of another server; it says what does."""
    view = TransferView.of(transfer(state=state), NOW)
    assert (view.buttons, view.needs_login) == ([], True)
    page = text_of(transfer_page(one(transfer(state=state))))
    assert "uftp transfer retry --login https://auth.example/rest/transfers/transfer1" in page


@pytest.mark.parametrize(("reason", "needs"), [("", False), ("the login is no longer valid", True)])
def test_what_its_owner_has_paused_needs_no_login(reason: str, needs: bool) -> None:
    view = TransferView.of(transfer(state="paused", reason=reason), NOW)
    assert view.needs_login is needs
    assert [button.action for button in view.buttons] == ["resume", "cancel"]


def test_the_policy_lets_only_our_files_run_and_ask_this_server() -> None:
    for page in (transfers_page(listing(*ALL)), transfer_page(one(ALL[2]))):
        policy = page.headers["content-security-policy"]
        assert "connect-src 'self';" in policy
        assert "default-src 'none'" in policy
        assert not re.search(r"<script(?![^>]* nonce=)|<style| on[a-z]+=| style=", text_of(page))


def test_a_part_is_the_same_as_long_as_nothing_changes() -> None:
    assert text_of(transfers_part(listing(*ALL))) == text_of(transfers_part(listing(*ALL)))
    assert text_of(transfers_part(listing(*ALL))) != text_of(transfers_part(listing(*ALL[1:])))
    assert "nonce" not in text_of(transfers_part(listing(*ALL)))


def test_a_page_without_scripts_comes_anew_while_something_moves() -> None:
    refresh = '<noscript><meta http-equiv="refresh"'
    assert refresh in text_of(transfers_page(listing(*ALL)))
    assert refresh not in text_of(transfers_page(listing(*ALL[5:])))
    assert refresh in text_of(transfer_page(one(ALL[2])))
    assert refresh not in text_of(transfer_page(one(ALL[6])))


def test_sources_are_named_once_and_many_of_them_in_short() -> None:
    many = transfer(sources=tuple(Place(kind="server", text=f"HERE:/{n}", server="HERE") for n in range(150)))
    assert "and 149 more" in text_of(transfers_page(listing(many)))
    page = text_of(transfer_page(one(many)))
    assert "HERE:/99" in page
    assert "HERE:/100" not in page
    assert "and 50 more" in page


# -- in a browser ---------------------------------------------------------------------------------------------------

slow = pytest.mark.slow


@slow
def test_hostile_names_are_text(browser: Browser, views: Views) -> None:
    found = [
        transfer(number, name=name, reason=name, node=name, target=Place(kind="server", text=name))
        for number, name in enumerate(HOSTILE)
    ]
    views.pages[LIST] = listing(*found)
    browser.driver.get(views.url + LIST)
    assert len(browser.all("article")) == len(HOSTILE)
    errors = [FileError(source=name, target=name, error=name) for name in HOSTILE]
    for number, each in enumerate(found):
        views.pages[f"{LIST}/x{number}"] = one(replace(each, sources=(each.target,)), *errors)
    for number in range(0, len(HOSTILE), 4):
        browser.driver.get(f"{views.url}{LIST}/x{number}")
        assert len(browser.all(".failures li")) == len(HOSTILE)
        assert browser.run("return window.pwned") is None
        assert "pwned" not in browser.driver.title or HOSTILE[number] == browser.driver.title


@slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_they_can_be_read_on_any_screen(browser: Browser, views: Views, dark: bool) -> None:
    long = transfer(50, name="w" * 255, reason="r" * 300, node="n" * 100)
    views.pages[LIST] = listing(*ALL, long, shares=True, done="The transfer goes on.", problem="It cannot be done.")
    views.pages[f"{LIST}/a"] = one(ALL[5], *(FileError(source="s" * 300, target="t", error="e" * 300),), following=3)
    views.pages[f"{LIST}/b"] = one(ALL[6], problem="It has succeeded already")
    views.pages[f"{LIST}/none"] = listing()
    for path in (LIST, f"{LIST}/a", f"{LIST}/b", f"{LIST}/none"):
        browser.look(320, 640, dark=dark)
        browser.driver.get(views.url + path)
        assert fits(browser), path
        browser.look(1100, 850, dark=dark)
        assert fits(browser), path
        assert browser.run(CONTRAST) == []
        assert browser.run(NAMES) == []
        assert len(browser.all("main")) == len(browser.all("h1")) == 1
        ids = browser.run("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))


@slow
def test_the_page_follows_what_happens(browser: Browser, views: Views) -> None:
    """Without being loaded again: what somebody has opened stays open, and what they are at keeps the focus."""
    views.pages[LIST] = listing(transfer(2), transfer(1))
    browser.driver.get(views.url + LIST)
    browser.find("#transfer-transfer1 summary").click()
    browser.run("window.mine = 1; document.querySelector('#transfer-transfer2 button').focus()")
    further = replace(transfer(2), progress=Progress(bytes=60_000_000, total=100_000_000, files=6, found=10))
    views.pages[LIST] = listing(transfer(3, "queued"), further, transfer(1, "paused", reason="because"))
    browser.wait(lambda: "6 of 10 files" in browser.find("#transfer-transfer2").text)
    assert [article.get_attribute("id") for article in browser.all("article")] == [
        f"transfer-transfer{number}" for number in (3, 2, 1)
    ]
    assert browser.find("#transfer-transfer2 progress").get_attribute("value") == "60"
    assert browser.run("return window.mine") == 1
    assert browser.run("return document.querySelector('#transfer-transfer1 details').open") is True
    assert browser.run("return document.activeElement.closest('article').id") == "transfer-transfer2"
    assert "because" in browser.find("#transfer-transfer1").text
    news = browser.run("return document.querySelector('#news').textContent")
    assert "run1" in news
    assert news.endswith(": paused")
    assert "UTC" not in browser.find("#transfer-transfer3").text  # times are the reader's own
    views.pages[LIST] = listing(transfer(3, "succeeded"))
    browser.wait(lambda: len(browser.all("article")) == 1)
    assert browser.texts(".state") == ["done"]
    assert browser.all("progress") == []


@slow
def test_nothing_is_sent_that_is_there_already(browser: Browser, views: Views) -> None:
    statuses: list[bool] = []

    def answer(request: Request) -> TransfersView:
        if request.query_params.get("part"):
            statuses.append("if-none-match" in request.headers)
        return listing(transfer(1))

    views.pages[LIST] = answer
    browser.driver.get(f"{views.url}{LIST}?done=pause#transfer-transfer1")
    look_again(browser)
    browser.wait(lambda: len(statuses) >= 1)
    look_again(browser)
    browser.wait(lambda: len(statuses) >= 3)
    assert statuses[:3] == [False, True, True]
    assert browser.texts(".state") == ["running"]


def look_again(browser: Browser) -> None:
    """What a page takes for somebody who comes back to it: it asks at once."""
    browser.run("document.dispatchEvent(new Event('visibilitychange'))")


def when(condition: Callable[[], bool], then: Response) -> Callable[[Request], TransfersView | Response]:
    """A page that is there, but whose part is `then` under a condition."""

    def answer(request: Request) -> TransfersView | Response:
        return then if condition() and request.query_params.get("part") else listing(transfer(1))

    return answer


@slow
def test_a_server_that_is_away_for_a_while(browser: Browser, views: Views) -> None:
    down = threading.Event()
    down.set()
    views.pages[LIST] = when(down.is_set, Response(status_code=503))
    browser.driver.get(views.url + LIST)
    assert not browser.find("#silence").is_displayed()
    browser.wait(lambda: browser.find("#silence").is_displayed())
    assert browser.texts(".state") == ["running"]
    down.clear()
    look_again(browser)
    browser.wait(lambda: not browser.find("#silence").is_displayed())


@slow
def test_a_login_that_has_ended(browser: Browser, views: Views) -> None:
    views.pages[LIST] = when(lambda: True, Response(status_code=401))
    browser.driver.get(views.url + LIST)
    browser.wait(lambda: browser.find("#gone").is_displayed())
    assert browser.find("#gone a").get_attribute("href") == f"{views.url}/ui/login?to=transfers"
    assert not browser.find("#silence").is_displayed()


@slow
def test_what_comes_into_a_part_does_not_run(browser: Browser, views: Views) -> None:
    """Should something get through in spite of all, it is dead text."""
    evil = "<div id=evil><script>window.pwned=1</script><img src=x onerror='window.pwned=1'></div>"
    views.pages[LIST] = when(lambda: True, Response(evil, media_type="text/html"))
    browser.driver.get(views.url + LIST)
    browser.wait(lambda: browser.all("#evil"))
    assert browser.run("return window.pwned") is None
    assert any("Content Security Policy" in text for text in browser.complaints())


@slow
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_forms_say_what_is_to_be_done(browser: Browser, views: Views, scripts: bool) -> None:
    views.pages[LIST] = listing(*ALL)
    views.pages[f"{LIST}/transfer6"] = one(ALL[5])
    token = "token=" + "t" * 64
    for start, selector, path, sent in (
        (LIST, "#transfer-transfer3 .row > form button", "transfer3/pause", token),
        (LIST, "#transfer-transfer8 .row > form button", "transfer8/retry", token),  # both sides are here
        (f"{LIST}/transfer6", ".row > form button", "transfer6/resume", f"{token}&back=one"),
        (LIST, "#transfer-transfer3 details button", "transfer3/cancel", token),
    ):
        browser.scripts(on=scripts)
        browser.driver.get(views.url + start)
        if "details" in selector:
            browser.find("#transfer-transfer3 summary").click()
        browser.find(selector).click()
        browser.wait(lambda path=path: browser.driver.current_url == f"{views.url}{LIST}/{path}")  # type: ignore[misc]
        browser.scripts(on=True)
        assert browser.find("body").text == sent

"""The pages of managed transfers at a real site: whose they show, whom they believe, and that they do what they say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from chromium import Browser
from page_site import BROWSER, base_of, client, person
from raw_ftp import eventually
from uftp_site import Site

pytestmark = pytest.mark.slow

SECONDS = 60.0
LIST = "/ui/transfers"
LARGE = os.urandom(1_000_000) * 24


def submit(site: Site, source: Path, target: Path | str, **options: object) -> str:
    """The id of a new transfer of the first person."""
    with person(site) as owner:
        body = {"sources": [f"TEST:{source}"], "target": f"TEST:{target}", "options": options}
        made = owner.post("/rest/transfers", json=body)
        assert made.status_code == 201, made.text
    return str(made.json()["id"])


def state(site: Site, number: str) -> dict[str, Any]:
    with person(site) as owner:
        found: dict[str, Any] = owner.get(f"/rest/transfers/{number}").json()
    return found


def wait_for(site: Site, number: str, wanted: str) -> None:
    eventually(lambda: state(site, number)["state"] == wanted, SECONDS, f"{number} being {wanted}")


@pytest.fixture
def slow(site: Site) -> Iterator[str]:
    """A transfer that takes its time."""
    number = submit(
        site, site.file(site.directory() / "slow.bin", LARGE), site.directory() / "target", limitRate=300_000
    )
    wait_for(site, number, "active")
    yield number
    with person(site) as owner:
        owner.post(f"/rest/transfers/{number}/cancel")
    eventually(lambda: state(site, number)["state"] != "active", SECONDS, "its end")


def token_of(reply: httpx2.Response) -> str:
    found = re.search(r'name="token" value="([0-9a-f]{64})"', reply.text)
    assert found is not None, reply.text
    return found[1]


def logged_in(visitor: httpx2.Client, site: Site, name: str) -> httpx2.Client:
    page = visitor.get("/ui/login?to=transfers")
    assert '<input type="hidden" name="to" value="transfers">' in page.text
    fields = {"token": token_of(page), "to": "transfers", "user": name, "password": site.password(name)}
    assert visitor.post("/ui/login", data=fields).headers["location"] == LIST
    return visitor


@pytest.fixture
def known(site: Site) -> Iterator[httpx2.Client]:
    """The first person, with a browser's manners."""
    with client(site, headers=BROWSER) as visitor:
        yield logged_in(visitor, site, site.first)


def test_who_has_not_logged_in_is_asked_to(site: Site, slow: str) -> None:
    with client(site, headers=BROWSER) as visitor:
        for path in (LIST, f"{LIST}/{slow}"):
            assert visitor.get(path).headers["location"] == "/ui/login?to=transfers"
            part = visitor.get(path, params={"part": "1"})
            assert (part.status_code, part.content) == (401, b"")
        reply = visitor.post(f"{LIST}/{slow}/cancel", data={"token": "0" * 64})
        assert reply.headers["location"] == "/ui/login?to=transfers"
    assert state(site, slow)["state"] == "active"


@pytest.mark.parametrize("to", ["https://evil.example/", "//evil.example", "nothing", "", "../rest"])
def test_a_login_leads_nowhere_but_to_our_pages(site: Site, to: str) -> None:
    with client(site, headers=BROWSER) as visitor:
        page = visitor.get("/ui/login", params={"to": to})
        assert "evil" not in page.text
        fields = {"token": token_of(page), "to": to, "user": site.first, "password": site.password(site.first)}
        assert visitor.post("/ui/login", data=fields).headers["location"] == "/ui/shares"


def test_the_two_pages_lead_to_each_other(known: httpx2.Client) -> None:
    assert f'href="{LIST}"' in known.get("/ui/shares").text
    assert 'href="/ui/shares"' in known.get(LIST).text


@pytest.mark.parametrize("fields", [{"back": "one"}, {"token": "0" * 64}, {"token": ""}])
def test_a_form_of_another_site_changes_nothing(
    known: httpx2.Client, site: Site, slow: str, fields: dict[str, str]
) -> None:
    assert known.post(f"{LIST}/{slow}/cancel", data=fields).status_code == 403
    good = {"token": token_of(known.get(f"{LIST}/{slow}"))}
    foreign = known.post(f"{LIST}/{slow}/cancel", data=good, headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    assert known.get(f"{LIST}/{slow}/cancel").status_code == 405
    found = state(site, slow)
    assert (found["state"], found["wanted"]) == ("active", None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two people")
def test_nobody_sees_or_steers_what_is_somebody_elses(site: Site, slow: str) -> None:
    other = list(site.people)[1]
    with client(site, headers=BROWSER) as visitor:
        logged_in(visitor, site, other)
        page = visitor.get(LIST)
        assert slow not in page.text
        unknown = visitor.get(f"{LIST}/{'a' * 16}")
        theirs = visitor.get(f"{LIST}/{slow}")
        assert theirs.status_code == unknown.status_code == 404
        assert visitor.post(f"{LIST}/{slow}/cancel", data={"token": token_of(page)}).status_code == 404
        assert visitor.get(LIST, params={"after": slow}).status_code == 404
    assert state(site, slow)["wanted"] is None


@pytest.mark.parametrize("path", ["x", "a" * 16, "%00", "..%2f", "ü", "a" * 16 + "/explode"])
def test_what_is_not_there_is_said_to_be_not_there(known: httpx2.Client, path: str) -> None:
    token = token_of(known.get("/ui/shares"))
    if "/" in path:
        assert known.post(f"{LIST}/{path}", data={"token": token}).status_code == 404
    else:
        assert known.get(f"{LIST}/{path}").status_code == 404


def test_a_part_is_short_and_makes_no_login_last_longer(known: httpx2.Client, site: Site) -> None:
    number = submit(site, site.file(site.directory() / "f", b"x"), site.directory())
    wait_for(site, number, "succeeded")
    for path in (LIST, f"{LIST}/{number}"):
        page, part = known.get(path), known.get(path, params={"part": "1"})
        assert "set-cookie" in page.headers
        assert "set-cookie" not in part.headers
        assert len(part.content) < len(page.content)
        assert "<html" not in part.text
        again = known.get(path, params={"part": "1"}, headers={"If-None-Match": part.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert "no-store" in page.headers["cache-control"]


def test_what_cannot_be_done_is_said_on_the_page(known: httpx2.Client, site: Site) -> None:
    number = submit(site, site.file(site.directory() / "f", b"x"), site.directory())
    wait_for(site, number, "succeeded")
    for back, title in ((None, "My transfers"), ("one", number)):
        fields = {"token": token_of(known.get(LIST))} | ({"back": back} if back else {})
        reply = known.post(f"{LIST}/{number}/cancel", data=fields)
        assert reply.status_code == 409
        assert re.search(r'role="alert">It has succeeded already', reply.text)
        assert title in reply.text


def test_many_transfers_come_in_pages(known: httpx2.Client, site: Site) -> None:
    source, target = site.file(site.directory() / "f", b"x"), site.directory()
    made = [submit(site, source, target / str(number)) for number in range(55)]
    first = known.get(LIST).text
    shown = re.findall(r'<article[^>]* id="transfer-([a-z0-9]+)"', first)
    assert shown == made[:-51:-1]
    [older] = re.findall(r'href="(/ui/transfers\?after=[a-z0-9]+)"', first)
    second = known.get(older).text
    assert re.findall(r'<article[^>]* id="transfer-([a-z0-9]+)"', second)[:5] == made[4::-1]
    assert f'<a href="{LIST}">The newest</a>' in second
    with person(site) as owner:
        for number in made:  # some are done already
            assert owner.post(f"/rest/transfers/{number}/cancel").status_code in (200, 409)


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_somebody_steers_a_transfer(browser: Browser, site: Site, slow: str, scripts: bool) -> None:
    browser.driver.get(f"{base_of(site)}{LIST}")
    browser.find("#user").send_keys(site.first)
    browser.find("#password").send_keys(site.password(site.first))
    browser.find("button.first").click()
    browser.wait(lambda: browser.driver.title == "My transfers")
    card = f"#transfer-{slow}"
    if scripts:
        browser.run("window.mine = 1")
        browser.wait(lambda: int(browser.find(f"{card} progress").get_attribute("value") or 0) > 0)
        assert browser.run("return window.mine") == 1
    browser.scripts(on=scripts)

    def is_now(words: str) -> bool:
        if not scripts:
            browser.driver.refresh()
        return browser.find(f"{card} .state").text == words

    browser.find(f"{card} form[action$=pause] button").click()
    browser.wait(lambda: "being paused" in browser.find(".done").text)
    browser.wait(lambda: is_now("paused"))
    assert state(site, slow)["state"] == "paused"
    browser.find(f"{card} form[action$=resume] button").click()
    browser.wait(lambda: is_now("running"))
    browser.find(f"{card} h3 a").click()
    browser.wait(lambda: browser.all("#about"))
    browser.find(f"{card} summary").click()
    browser.find(f"{card} form[action$=cancel] button").click()
    browser.wait(lambda: is_now("cancelled"))
    assert state(site, slow)["state"] == "cancelled"
    assert browser.driver.current_url.endswith(f"{LIST}/{slow}")
    assert [form.get_attribute("action") for form in browser.all(f"{card} form")] == [
        f"{base_of(site)}{LIST}/{slow}/retry"
    ]

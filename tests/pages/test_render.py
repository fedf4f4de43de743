"""Replies made of views: headers, addresses, statuses; and that nothing is read from disk for them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import trio

from uftpd.auth.pages import (
    Crumb,
    DirectoryView,
    Entry,
    ErrorView,
    FileView,
    Kind,
    PasswordView,
    ShareFacts,
    directory_page,
    error_page,
    file_page,
    password_page,
)

SHARE = ShareFacts(name="run", server="CLUSTER")
CRUMBS = (Crumb("run", "/rest/access/CLUSTER/id/"),)
DIRECTORY = DirectoryView(share=SHARE, href="/rest/access/CLUSTER/id/", crumbs=CRUMBS, entries=())
FILE = FileView(share=SHARE, name="f", href="/x/f", download="/x/f?download=1", crumbs=CRUMBS)


def policy_of(headers: str) -> dict[str, str]:
    return dict(item.strip().partition(" ")[::2] for item in headers.split(";"))


async def test_the_policy_lets_only_our_files_run() -> None:
    first, second = await directory_page(DIRECTORY), await directory_page(DIRECTORY)
    policy = policy_of(first.headers["content-security-policy"])
    assert policy.pop("style-src") == policy["script-src"]
    nonce = policy.pop("script-src")
    assert re.fullmatch(r"'nonce-[A-Za-z0-9_-]{24}'", nonce)
    assert nonce not in second.headers["content-security-policy"]
    assert policy == {
        "default-src": "'none'",
        "img-src": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    body = bytes(first.body).decode()
    assert body.count(nonce[7:-1]) == 2
    assert not re.search(r"<script(?![^>]* nonce=)|<style| on[a-z]+=| style=", body)


async def test_only_a_page_for_uploads_may_send_requests() -> None:
    writable = replace(SHARE, writable=True)
    for page in (await directory_page(replace(DIRECTORY, share=writable)), file_page(replace(FILE, share=writable))):
        assert policy_of(page.headers["content-security-policy"])["connect-src"] == "'self'"
    for page in (file_page(FILE), password_page(PasswordView(action="/p")), error_page(ErrorView(status=404))):
        assert "connect-src" not in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    "href", ["javascript:alert(1)", "//evil.example/", "https://evil.example/", "x", "", "/a\nb", "/\u202e"]
)
async def test_an_address_elsewhere_is_a_mistake_of_ours(href: str) -> None:
    entry = Entry(name="x", kind=Kind.FILE, href=href, download="/ok")
    with pytest.raises(ValueError, match="not an address"):
        file_page(replace(FILE, download=href))
    if href:  # empty: not offered
        with pytest.raises(ValueError, match="not an address"):
            await directory_page(replace(DIRECTORY, entries=(entry,)))


async def test_a_server_below_a_path_has_it_in_all_addresses() -> None:
    entry = Entry(name="x", kind=Kind.FILE, href="/rest/access/CLUSTER/id/x")
    view = replace(DIRECTORY, base="/uftp", entries=(entry,), crumbs=CRUMBS * 2)
    body = bytes((await directory_page(view)).body).decode()
    addresses = re.findall(r'(?:href|src|action)="([^"]*)"', body)
    assert {address for address in addresses if not address.startswith(("/uftp/", "#"))} == set()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 416, 418, 429, 432, 500, 502, 503])
def test_every_error_has_words(status: int) -> None:
    page = error_page(ErrorView(status=status, request_id="c0ffee"), headers={"Retry-After": "5"})
    body = bytes(page.body).decode()
    assert page.status_code == status
    assert page.headers["retry-after"] == "5"
    assert "c0ffee" in body
    heading = re.search("<h1>(.+?)</h1>", body)
    assert heading is not None


def test_what_is_gone_looks_like_what_never_was() -> None:
    gone = bytes(error_page(ErrorView(status=404, text="The share has expired")).body)
    never = bytes(error_page(ErrorView(status=404, text="No such share")).body)
    nonce = rb'nonce="[^"]+"'
    assert re.sub(nonce, b"", gone) == re.sub(nonce, b"", never)


_OPENED = """
import sys, trio
from uftpd.auth.app import build_app
from uftpd.auth.pages import *
from uftpd.auth.pages.render import login_page
from uftpd.auth.pages.views import LoginView
share = ShareFacts(name="a", server="b", writable=True, expires=5, password=True)
text = b"# A\\n\\n[x](y) ![i](j) `c` &copy; <https://example.org/\\xc3\\xbc>\\n\\n|a|\\n|-|\\n|b|\\n"
text += b"\\n```\\nc\\n```\\n> q\\n\\n1. l\\n"
entry = Entry(name="\\u00fc\\u202e", kind=Kind.FILE, href="/x", size=5, modified=5)
crumbs = [Crumb("a", "/a/")] * 3
view = DirectoryView(share=share, href="/a/", crumbs=crumbs, entries=[entry], readme=Readme("README.md", text),
    commands=[Command("a", "b")], archives=[Link("zip", "/x")])
trio.run(trio.sleep, 0)
opened = []
sys.addaudithook(lambda event, found: opened.append(found[0]) if event in ("open", "import") else None)
trio.run(directory_page, view)
file_page(FileView(share=share, name="x", href="/a", download="/b", crumbs=crumbs, size=5, modified=5))
password_page(PasswordView(action="/a"))
error_page(ErrorView(status=404))
login_page(LoginView(token="x"))
print(sorted({str(name) for name in opened}))
"""


def test_pages_are_made_without_reading_a_file() -> None:
    """A server that has given up its rights may not be able to read where it is installed."""
    run = subprocess.run([sys.executable, "-c", _OPENED], capture_output=True, text=True, timeout=120, check=False)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


async def test_a_long_directory_leaves_the_loop_to_others() -> None:
    entries = tuple(Entry(name=f"f{number}", kind=Kind.FILE, href=f"/x/f{number}", size=1) for number in range(20_000))
    turns = 0
    async with trio.open_nursery() as nursery:

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(others)
        page = await directory_page(replace(DIRECTORY, entries=entries))
        nursery.cancel_scope.cancel()
    assert turns > 1
    assert bytes(page.body).count(b'<tr role="row" class="file">') == 1000

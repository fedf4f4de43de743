"""The pages of shares in a real browser: what is seen, what does not run, what works without JavaScript."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from chromium import Browser
from looking import ATTACK, CONTRAST, HOSTILE, NAMES, fits
from selenium.webdriver.common.keys import Keys
from serving_views import Views, serving
from starlette.requests import Request

from uftpd.auth.pages import (
    Command,
    Crumb,
    DirectoryView,
    Entry,
    ErrorView,
    FileView,
    Kind,
    Link,
    Order,
    PasswordView,
    Readme,
    ShareFacts,
)
from uftpd.auth.pages.order import PAGE_ENTRIES

pytestmark = pytest.mark.slow

ROOT = "/rest/access/CLUSTER/AbCdEfGhIjKlMnOpQrStUv/"
SHARE = ShareFacts(name="run", server="CLUSTER", expires=2_000_000_000)
WRITABLE = replace(SHARE, writable=True)
CRUMBS = (Crumb("run", ROOT), Crumb("sub", f"{ROOT}sub/"))


def file(name: str, size: int = 1234, modified: float = 1_790_000_000.5) -> Entry:
    encoded = quote(name.encode("utf-8", "surrogateescape"), safe="")
    return Entry(name=name, kind=Kind.FILE, href=ROOT + encoded, size=size, modified=modified)


def directory(*entries: Entry, share: ShareFacts = SHARE, **more: object) -> DirectoryView:
    return replace(DirectoryView(share=share, href=f"{ROOT}sub/", crumbs=CRUMBS, entries=entries), **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server() -> Iterator[Views]:
    with serving(Views()) as views:
        yield views


@pytest.fixture
def views(server: Views) -> Views:
    server.pages.clear()
    server.stored.clear()
    server.refusals.clear()
    server.held.clear()
    server.requested.clear()
    return server


def test_hostile_names_are_text(browser: Browser, views: Views) -> None:
    entries = [file(name) for name in HOSTILE]
    crumbs = [Crumb(name, ROOT) for name in HOSTILE]
    views.pages["/x"] = directory(
        *entries, crumbs=crumbs, readme=Readme(HOSTILE[0] + ".md", "\n\n".join(HOSTILE).encode("utf-8", "replace"))
    )
    browser.driver.get(f"{views.url}/x")
    assert browser.run("return window.pwned") is None
    assert browser.driver.title == HOSTILE[-1]
    shown = browser.texts("tbody .name a")
    assert len(shown) == len(HOSTILE)
    assert HOSTILE[0] in shown
    assert HOSTILE[12] in shown
    assert any("U+202E" in text for text in shown)
    hrefs = {browser.run("return arguments[0].getAttribute('href')", link) for link in browser.all("tbody .name a")}
    assert hrefs == {entry.href for entry in entries}
    assert browser.run("return document.scripts.length") == 1
    assert browser.run("return document.images.length") == 0


def test_a_hostile_readme_does_nothing(browser: Browser, views: Views) -> None:
    text = f"""# <script>{ATTACK}</script>
<img src=x onerror="{ATTACK}"> <iframe srcdoc="<script>parent.pwned=1</script>"></iframe>
![x](https://spy.example/x.png) [x](javascript:{ATTACK}) [y](data:text/html,x) <javascript:alert(1)>
<style>body{{display:none}}</style><meta http-equiv=refresh content="0;url=https://evil.example/">
<form action=/ui/shares method=post><input name=path></form><base href=https://evil.example/>
"""
    views.pages["/x"] = directory(file("a"), readme=Readme("README.md", text.encode()))
    browser.driver.get(f"{views.url}/x")
    assert browser.run("return window.pwned") is None
    assert browser.find(".readme").is_displayed()
    assert browser.all(".readme img, .readme iframe, .readme form, .readme style, .readme a[href]:not([rel])") == []
    assert browser.texts(".readme a[href]") == ["x"]  # the address of the picture, to be followed or not
    assert browser.driver.current_url == f"{views.url}/x"


def test_what_gets_into_a_page_nevertheless_does_not_run(browser: Browser, views: Views) -> None:
    views.pages["/x"] = directory(file("a"))
    browser.driver.get(f"{views.url}/x")
    inject = """
        const script = document.createElement('script');
        script.textContent = 'window.pwned = 1';
        const other = document.createElement('script');
        other.src = '/ui/static/x.js';
        document.body.append(script, other);
        document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.pwned=2"><b style="color:red">x</b>');
        return fetch('/y').then(() => 'sent', () => 'refused');
    """
    assert browser.run(inject) == "refused"
    assert browser.run("return window.pwned") is None
    assert len(browser.complaints()) >= 4


def test_a_directory_without_scripts_has_all_its_links(browser: Browser, views: Views) -> None:
    def view(request: Request) -> DirectoryView:
        entries = [file("b.txt", 5), file("a.txt", 70), Entry(name="z", kind=Kind.DIRECTORY, href=f"{ROOT}z/")]
        archives = (Link("zip", f"{ROOT}?format=zip"), Link("tar", f"{ROOT}?format=tar"))
        return directory(*entries, href="/x", order=Order.of(request.query_params), archives=archives)

    views.pages["/x"] = view
    browser.scripts(on=False)
    browser.driver.get(f"{views.url}/x")
    assert browser.texts("tbody .name") == ["z/", "a.txt", "b.txt"]
    assert browser.texts("tbody time") == ["2026-09-21 14:13 UTC"] * 2
    browser.find("th.size a").click()
    assert browser.texts("tbody .name") == ["z/", "a.txt", "b.txt"]
    assert browser.find("th.size").get_attribute("aria-sort") == "descending"
    browser.find("th.size a").click()
    assert browser.texts("tbody .name") == ["z/", "b.txt", "a.txt"]
    assert [link.get_attribute("href") for link in browser.all(".actions a")] == [
        f"{views.url}{ROOT}?format=zip",
        f"{views.url}{ROOT}?format=tar",
    ]
    assert [link.get_attribute("href") for link in browser.all("td.get a")] == [
        f"{views.url}{ROOT}b.txt?download=1",
        f"{views.url}{ROOT}a.txt?download=1",
    ]
    browser.find(".crumbs a").click()
    assert browser.driver.current_url == views.url + ROOT


def test_times_are_those_of_the_reader(browser: Browser, views: Views) -> None:
    views.pages["/x"] = directory(file("a", modified=1_790_000_000))
    browser.driver.get(f"{views.url}/x")
    element = browser.find("tbody time")
    assert element.get_attribute("datetime") == "2026-09-21T14:13:20Z"
    assert "2026-09-21 14:13:20 UTC" in str(element.get_attribute("title"))
    assert "4:13" in element.text  # the browser's zone is two hours ahead


def test_many_entries_come_in_pages(browser: Browser, views: Views) -> None:
    entries = [file(f"f{number}") for number in range(2 * PAGE_ENTRIES + 3)]
    views.pages["/x"] = lambda request: directory(*entries, href="/x", order=Order.of(request.query_params))
    browser.driver.get(f"{views.url}/x")
    assert browser.run("return document.querySelectorAll('tbody tr').length") == PAGE_ENTRIES
    assert browser.find(".total").text.startswith("2003 files")
    browser.driver.get(f"{views.url}/x?page=99")
    assert browser.run("return document.querySelectorAll('tbody tr').length") == 3
    assert browser.find(".pages span").text == "Page 3 of 3"
    browser.find("a[rel=prev]").click()
    assert browser.find(".pages span").text == "Page 2 of 3"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_pages_fit_on_a_phone(browser: Browser, views: Views, dark: bool, scripts: bool) -> None:
    commands = [Command("Download", "curl -o 'file' https://example.org/" + "x" * 300)]
    readme = Readme(
        "README.md", b"# " + b"word" * 100 + b"\n\n|" + b"a|" * 60 + b"\n|" + b"-|" * 60 + b"\n\n    " + b"c" * 400
    )
    views.pages["/d"] = directory(*map(file, HOSTILE), share=WRITABLE, commands=commands, readme=readme)
    views.pages["/f"] = FileView(
        share=WRITABLE,
        name="w" * 255,
        href=ROOT,
        download=ROOT,
        crumbs=CRUMBS,
        size=10**12,
        modified=1_790_000_000,
        checksum=("SHA-512", "ab" * 64),
        commands=commands,
    )
    views.pages["/p"] = PasswordView(action="/p", wrong=True)
    views.pages["/e"] = ErrorView(status=503, text="x" * 200, request_id="c0ffee")
    for path in ("/d", "/f", "/p", "/e"):
        browser.look(320, 640, dark=dark)
        browser.scripts(on=scripts)
        browser.driver.get(views.url + path)
        browser.scripts(on=True)
        assert fits(browser), path
        browser.look(1100, 850, dark=dark)
        assert fits(browser), path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_read(browser: Browser, views: Views, dark: bool) -> None:
    share = replace(WRITABLE, one_time=True, password=True)
    readme = Readme("README.md", b"# A\n\n> quote `code` [link](x)\n\n```\ncode\n```\n")
    other = Entry(name="link", kind=Kind.OTHER)
    commands = (Command("Download", "curl x"),)
    views.pages["/d"] = directory(file("a"), file("\u202e"), other, share=share, readme=readme, commands=commands)
    views.pages["/f"] = FileView(
        share=share,
        name="f",
        href=ROOT,
        download=ROOT,
        crumbs=CRUMBS,
        size=5,
        view=ROOT,
        checksums=(Link("MD5", ROOT),),
    )
    views.pages["/p"] = PasswordView(action="/p", wrong=True)
    views.pages["/e"] = ErrorView(status=404, request_id="c0ffee")
    browser.look(1100, 850, dark=dark)
    for path in ("/d", "/f", "/p", "/e"):
        browser.driver.get(views.url + path)
        assert browser.run(CONTRAST) == []


def test_everything_has_a_name_for_those_who_do_not_see(browser: Browser, views: Views) -> None:
    commands = (Command("Download", "curl x"),)
    views.pages["/d"] = directory(file("a"), share=WRITABLE, commands=commands, archives=(Link("zip", "/z"),))
    views.pages["/p"] = PasswordView(action="/p")
    for path in ("/d", "/p"):
        browser.driver.get(views.url + path)
        assert browser.run(NAMES) == []
        assert len(browser.all("main")) == len(browser.all("h1")) == 1
        assert browser.find("html").get_attribute("lang") == "en"
        ids = browser.run("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))
    browser.driver.get(f"{views.url}/d")
    browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.driver.switch_to.active_element.text == "Skip to content"


def test_a_page_asks_for_nothing_from_elsewhere(browser: Browser, views: Views) -> None:
    views.pages["/x"] = directory(file("a"), readme=Readme("README.md", b"![x](https://spy.example/x.png)"))
    browser.driver.get(f"{views.url}/x")
    browser.find("tbody tr")
    resources = browser.run("return performance.getEntriesByType('resource').map((e) => new URL(e.name).pathname)")
    assert {name.rpartition(".")[2] for name in resources} <= {"css", "js", "svg"}
    assert all(name.startswith("/ui/static/") for name in resources)
    requested = len(views.requested)
    browser.driver.get(f"{views.url}/x")
    assert views.requested[requested:] == ["/x"], "style and script are kept"


def test_a_link_to_elsewhere_does_not_tell_where_it_was(browser: Browser, views: Views) -> None:
    def shown(request: Request) -> ErrorView:
        return ErrorView(status=400, text="came from: " + request.headers.get("referer", "nowhere"))

    views.pages["/target"] = shown
    target = f"{views.url}/target".replace("127.0.0.1", "localhost")
    views.pages["/x"] = directory(file("a"), readme=Readme("README.md", f"[go]({target})".encode()))
    browser.driver.get(f"{views.url}/x")
    browser.find(".readme a").click()
    assert browser.find("main section p:not(.status)").text == "came from: nowhere"


def test_the_password_is_sent_where_it_belongs(browser: Browser, views: Views) -> None:
    views.pages["/x"] = PasswordView(action="/unlock?a=1&b=2", to="/x?sort=size&order=desc")
    browser.scripts(on=False)
    browser.driver.get(f"{views.url}/x")
    browser.find("#password").send_keys("p&w=ö" + Keys.ENTER)
    browser.wait(lambda: browser.driver.current_url.endswith("/unlock?a=1&b=2"))
    sent = browser.find("body").text
    assert "password=p%26w%3D%C3%B6" in sent
    assert "to=%2Fx%3Fsort%3Dsize%26order%3Ddesc" in sent


def test_a_checksum_is_asked_for_by_a_link_and_copied(browser: Browser, views: Views) -> None:
    def view(request: Request) -> FileView:
        found = ("SHA-256", "ab" * 32) if request.query_params.get("checksum") == "sha256" else None
        return FileView(
            share=SHARE,
            name="f",
            href="/x",
            download="/x?download=1",
            crumbs=CRUMBS[:1],
            size=5,
            checksums=(Link("SHA-256", "/x?checksum=sha256"),),
            checksum=found,
        )

    views.pages["/x"] = view
    browser.driver.get(f"{views.url}/x")
    assert browser.all(".crumbs") == []
    browser.driver.execute_cdp_cmd(
        "Browser.grantPermissions", {"origin": views.url, "permissions": ["clipboardReadWrite"]}
    )
    browser.find("dd a").click()
    assert browser.find(".checksum code").text == "ab" * 32
    browser.find(".checksum .copy").click()
    browser.wait(lambda: browser.find(".checksum .copy").text.startswith("Copied"))
    assert browser.run("return navigator.clipboard.readText()") == "ab" * 32


def test_a_command_with_something_hidden_is_not_offered(browser: Browser, views: Views) -> None:
    commands = (Command("one", "curl x"), Command("two", "curl 'x\nrm -rf ~'"), Command("three", "curl \u202ex"))
    views.pages["/x"] = directory(file("a"), commands=commands)
    browser.driver.get(f"{views.url}/x")
    browser.find("summary").click()
    assert browser.texts(".command code") == ["curl x"]


def test_a_form_without_scripts_says_how_to_upload(browser: Browser, views: Views) -> None:
    views.pages["/x"] = directory(share=WRITABLE, upload_command="curl -T FILE https://example.org/")
    browser.scripts(on=False)
    browser.driver.get(f"{views.url}/x")
    assert "curl -T FILE https://example.org/" in browser.find("#upload").text
    assert not browser.find(".drop").is_displayed()


# -- uploads ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def uploads(browser: Browser, views: Views) -> Views:
    """A page where one can upload is open."""
    views.pages["/x"] = directory(file("a"), share=WRITABLE, href="/put/")
    browser.driver.get(f"{views.url}/x")
    return views


def rows(browser: Browser) -> list[tuple[str, str]]:
    """Names and states of uploads."""
    script = (
        "return [...document.querySelectorAll('.uploads li')]"
        ".map((e) => [e.querySelector('bdi').textContent, e.querySelector('.says').textContent])"
    )
    return [tuple(row) for row in browser.run(script)]


def says(browser: Browser, name: str, text: str) -> bool:
    return any(shown == name and text in state for shown, state in rows(browser))


def press(browser: Browser, name: str, label: str) -> None:
    """Press the button of an upload."""
    script = (
        "return [...document.querySelectorAll('.uploads li')].find((e) => e.querySelector('bdi').textContent === "
        "arguments[0])?.querySelectorAll('button')"
    )
    buttons = browser.wait(
        lambda: [button for button in browser.run(script, name) or [] if button.text.startswith(label)]
    )
    buttons[0].click()


def test_several_files_are_uploaded(browser: Browser, uploads: Views, tmp_path: Path) -> None:
    contents = {"a b.txt": b"one", "ü#?%.bin": bytes(range(256)) * 5000, "empty": b"", "100%.csv": b"x,y"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    browser.find("#pick").send_keys("\n".join(str(tmp_path / name) for name in contents))
    browser.wait(lambda: "4 files are stored" in browser.find(".after").text)
    assert uploads.stored == contents
    assert {state for _, state in rows(browser)} == {"Stored"}
    browser.find(".after a").click()
    browser.wait(lambda: browser.all(".uploads li") == [])


def test_a_file_that_is_there_is_replaced_only_if_that_is_wanted(
    browser: Browser, uploads: Views, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"new")
    uploads.stored["f"] = b"old"
    browser.find("#pick").send_keys(str(tmp_path / "f"))
    browser.wait(lambda: says(browser, "f", "already"))
    assert uploads.stored["f"] == b"old"
    press(browser, "f", "Replace it")
    browser.wait(lambda: says(browser, "f", "Stored"))
    assert uploads.stored["f"] == b"new"


@pytest.mark.parametrize("status", [403, 404, 409, 413, 500, 503, 507])
def test_a_refused_upload_says_why_and_can_be_tried_again(
    browser: Browser, uploads: Views, tmp_path: Path, status: int
) -> None:
    (tmp_path / "f").write_bytes(b"x")
    uploads.refusals["f"] = status
    browser.find("#pick").send_keys(str(tmp_path / "f"))
    browser.wait(lambda: says(browser, "f", f"refused for {status}"))
    del uploads.refusals["f"]
    press(browser, "f", "Try again")
    browser.wait(lambda: says(browser, "f", "Stored"))
    assert uploads.stored == {"f": b"x"}


def test_an_upload_is_cancelled(browser: Browser, uploads: Views, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"x")
        uploads.held[name] = threading.Event()
    browser.find("#pick").send_keys("\n".join(str(tmp_path / name) for name in ("a", "b", "c")))
    browser.wait(lambda: len(browser.all(".uploads progress:not([hidden])")) == 2)
    assert says(browser, "c", "Waiting")
    press(browser, "c", "Cancel")
    press(browser, "a", "Cancel")
    browser.wait(lambda: says(browser, "a", "Cancelled") and says(browser, "c", "Cancelled"))
    uploads.held["b"].set()
    browser.wait(lambda: says(browser, "b", "Stored"))
    browser.wait(lambda: "One file is stored" in browser.find(".after").text)


def test_files_are_dropped_anywhere_on_the_page(browser: Browser, uploads: Views) -> None:
    script = """
        const data = new DataTransfer();
        data.items.add(new File(['dropped'], 'd.txt'));
        for (const kind of ['dragenter', 'dragover', 'drop'])
          document.querySelector('h1').dispatchEvent(
            new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
    """
    browser.run(script)
    browser.wait(lambda: says(browser, "d.txt", "Stored"))
    assert uploads.stored == {"d.txt": b"dropped"}


def test_a_hostile_name_of_an_upload_is_text(browser: Browser, uploads: Views, tmp_path: Path) -> None:
    name = "<img src=x onerror=window.pwned=1>\u202e"
    (tmp_path / name).write_bytes(b"x")
    browser.find("#pick").send_keys(str(tmp_path / name))
    browser.wait(lambda: uploads.stored == {name: b"x"})
    browser.wait(lambda: says(browser, "<img src=x onerror=window.pwned=1>[U+202E]", "Stored"))
    assert browser.run("return window.pwned") is None


def test_a_shared_file_is_replaced(browser: Browser, views: Views, tmp_path: Path) -> None:
    (tmp_path / "other name").write_bytes(b"new")
    views.stored["f"] = b"old"
    views.pages["/x"] = FileView(share=WRITABLE, name="f", href="/put/f", download="/d", crumbs=CRUMBS[:1])
    browser.driver.get(f"{views.url}/x")
    browser.find("#pick").send_keys(str(tmp_path / "other name"))
    browser.wait(lambda: says(browser, "other name", "Stored"))
    assert views.stored == {"f": b"new"}

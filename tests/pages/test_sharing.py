"""A real site, a real browser: what is shared is seen, fetched and stored; people share without another program."""

from __future__ import annotations

import io
import os
import tarfile
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest
from chromium import Browser
from page_site import BROWSER, base_of, client, person, share
from selenium.webdriver.common.keys import Keys
from uftp_site import Site

pytestmark = pytest.mark.slow

NAMES = {
    "plain.bin": 300_000,
    "sp ace #1?.txt": 10,
    "100%.csv": 20,
    "quote'\"`$(x).dat": 5,
    "überblick.pdf": 70,
    "<b onclick=x>.html": 100,
    "empty": 0,
}


def content_of(name: str) -> bytes:
    return (name.encode() * 100_000)[: NAMES[name]]


@pytest.fixture
def directory(site: Site) -> Path:
    """A directory with files of all names, and a README."""
    path = site.directory()
    for name in NAMES:
        site.file(path / name, content_of(name))
    site.file(path / "README.md", b"# About\n\nSee [the data](plain.bin).\n<script>document.title='pwned'</script>\n")
    (path / "sub").mkdir()
    site.give(path / "sub")
    site.file(path / "sub" / "inner.txt", b"inner")
    return path


def row_of(browser: Browser, name: str) -> str:
    """Finds the line of a name, whatever is in it."""
    script = (
        "const row = [...document.querySelectorAll('tbody tr')]"
        ".find((e) => e.querySelector('bdi').textContent === arguments[0]);"
        "document.querySelector('#found')?.removeAttribute('id'); row.id = 'found'; return row.className"
    )
    browser.run(script, name)
    return "#found"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_downloaded_as_it_is(browser: Browser, site: Site, directory: Path, name: str) -> None:
    browser.driver.get(share(site, directory) + "/")
    browser.find(f"{row_of(browser, name)} td.get a").click()
    found = browser.download()
    assert found.read_bytes() == content_of(name)
    # What a browser does not want in a name, it replaces; all else is as the server has it.
    assert len(found.name) == len(name)
    assert {ours for ours, theirs in zip(found.name, name, strict=True) if ours != theirs} <= {"_"}


def test_a_directory_is_looked_through(browser: Browser, site: Site, directory: Path) -> None:
    browser.driver.get(share(site, directory) + "/")
    assert sorted(browser.texts("tbody .name")) == sorted([*NAMES, "README.md", "sub/"])
    assert browser.find(".readme h3").text == "About"
    assert browser.driver.title == directory.name
    browser.find(f"{row_of(browser, 'sub')} .name a").click()
    browser.wait(lambda: browser.texts("tbody .name") == ["inner.txt"])
    browser.find(".crumbs a").click()
    browser.find(".readme a").click()
    assert browser.find("h1").text == "plain.bin"
    browser.find("dd a").click()
    assert len(browser.find(".checksum code").text) == 64


def test_all_of_a_directory_is_downloaded(browser: Browser, site: Site, directory: Path) -> None:
    link = share(site, directory) + "/"
    for number, ending in enumerate(("zip", "tar")):
        browser.driver.get(link)
        browser.all(".actions a")[number].click()
        archive = browser.download()
        assert archive.name == f"{directory.name}.{ending}"
        content = archive.read_bytes()
        archive.unlink()
        assert _unpacked(content, ending) == {name: content_of(name) for name in NAMES} | {
            "README.md": (directory / "README.md").read_bytes(),
            "sub/inner.txt": b"inner",
        }


def _unpacked(content: bytes, ending: str) -> dict[str, bytes]:
    if ending == "zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    else:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            members = [member for member in tar if member.isfile()]
            found = {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in members}
    tops = {name.partition("/")[0] for name in found}
    return {name.partition("/")[2]: data for name, data in found.items()} if len(tops) == 1 else found


def test_files_are_uploaded(browser: Browser, site: Site, tmp_path: Path) -> None:
    target = site.directory()
    contents = {"a b.txt": b"one", "ü#?%.bin": os.urandom(1_500_000), "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    site.file(target / "a b.txt", b"old")
    browser.driver.get(share(site, target, access="WRITE") + "/")
    browser.find("#pick").send_keys("\n".join(str(tmp_path / name) for name in contents))
    browser.wait(lambda: "2 files are stored" in browser.find(".after").text)
    assert (target / "a b.txt").read_bytes() == b"old"
    browser.wait(lambda: [b for b in browser.all(".uploads button") if b.text.startswith("Replace it")])[0].click()
    browser.wait(lambda: "3 files are stored" in browser.find(".after").text)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == contents
    browser.find(".after a").click()
    browser.wait(lambda: sorted(browser.texts("tbody .name")) == sorted(contents))


def test_a_share_for_reading_has_no_place_for_uploads(browser: Browser, site: Site, directory: Path) -> None:
    browser.driver.get(share(site, directory) + "/")
    assert browser.all("#upload") == []


def test_a_password_is_asked_for(browser: Browser, site: Site, directory: Path) -> None:
    link = share(site, directory, password="öpen sesame")
    browser.scripts(on=False)
    browser.driver.get(f"{link}/plain.bin?checksum=sha256")
    assert "plain.bin" not in browser.driver.page_source.replace('value="', "", 1).partition("</head>")[0]
    browser.find("#password").send_keys("wrong" + Keys.ENTER)
    assert "not the password" in browser.find("[role=alert]").text
    browser.find("#password").send_keys("öpen sesame" + Keys.ENTER)
    browser.wait(lambda: browser.all(".checksum code"))
    browser.driver.get(f"{link}/")
    assert "plain.bin" in browser.texts("tbody .name")
    cookies = browser.driver.get_cookies()
    assert all(cookie["httpOnly"] for cookie in cookies)


def test_a_single_download_is_not_used_up_by_looking(browser: Browser, site: Site, directory: Path) -> None:
    link = share(site, directory / "plain.bin", onetime=True)
    for _ in range(2):
        browser.driver.get(link)
        assert "once" in browser.find(".facts").text
    browser.find("a.first").click()
    assert browser.download().read_bytes() == content_of("plain.bin")
    with client(site) as program:
        browser.wait(lambda: program.head(link).status_code == 404)
    browser.driver.get(link)
    assert browser.find("h1").text == "There is nothing here"


def test_a_download_has_arrived_whatever_other_connections_do(site: Site, directory: Path) -> None:
    link = share(site, directory / "plain.bin", onetime=True)
    with client(site) as program:
        assert program.head(link).status_code == 200
        with client(site) as other:  # a later connection, and one that is over before the download is
            assert other.head(link).status_code == 200
        assert program.get(link).content == content_of("plain.bin")
        deadline = time.monotonic() + 60
        while program.head(link).status_code != 404:
            assert time.monotonic() < deadline
    log = (site.root.parent / "state" / "uftpd.log").read_text()
    # The beginning of the id is all that the log has of it.
    assert not [line for line in log.splitlines() if "delivery failed" in line and link.rpartition("/")[2][:8] in line]


@pytest.mark.parametrize("address", ["/rest/access/TEST/nothing", "/rest/access/NONE/x/y", "/ui/nothing"])
def test_what_is_not_there_is_a_page_for_people_only(browser: Browser, site: Site, address: str) -> None:
    browser.driver.get(base_of(site) + address)
    assert browser.find("h1").text == "There is nothing here"
    with client(site) as program:
        reply = program.get(address)
    assert reply.json()["status"] == reply.status_code == 404


def test_a_link_to_a_file_is_the_file_for_programs(site: Site, directory: Path) -> None:
    link = share(site, directory / "plain.bin")
    with client(site) as program:
        assert program.get(link).content == content_of("plain.bin")
        page = program.get(link, headers=BROWSER)
        assert page.headers["content-type"].startswith("text/html")
        assert "Accept" in page.headers["vary"]


# -- sharing ----------------------------------------------------------------------------------------------------------


def log_in(browser: Browser, site: Site, password: str | None = None) -> None:
    browser.driver.get(f"{base_of(site)}/ui")
    browser.find("#user").clear()
    browser.find("#user").send_keys(site.first)
    browser.find("#password").send_keys((password or site.password(site.first)) + Keys.ENTER)


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_somebody_shares_and_revokes(browser: Browser, site: Site, scripts: bool) -> None:
    path = site.directory()
    site.file(path / "f.txt", b"shared")
    browser.scripts(on=scripts)
    log_in(browser, site, "wrong")
    browser.wait(lambda: "not accepted" in browser.find("[role=alert]").text)
    log_in(browser, site)
    browser.wait(lambda: browser.driver.title == "My shares")

    browser.find("#path").send_keys(str(path / "nothing"))
    browser.find("main button.first").click()
    browser.wait(lambda: "No such file" in browser.find("#problem").text)
    assert browser.find("#path").get_attribute("value") == str(path / "nothing")

    browser.find("#path").clear()
    browser.find("#path").send_keys(str(path))
    browser.find("#secret").send_keys("sesame")
    browser.find("main button.first").click()
    card = browser.find("article.share:target")
    assert f"{path}/" in card.text
    assert "with a password" in card.text
    link = browser.find("article.share:target code").text
    with client(site) as program:
        assert program.get(f"{link}/f.txt").status_code == 401
        assert program.get(f"{link}/f.txt", auth=("", "sesame")).content == b"shared"
        browser.find("article.share:target summary").click()
        browser.find("article.share:target .revoke button").click()
        browser.wait(lambda: "revoked" in browser.find("[role=status]").text)
        assert program.get(f"{link}/f.txt", auth=("", "sesame")).status_code == 404

    browser.find(".top button").click()
    browser.wait(lambda: browser.driver.title == "Log in")
    browser.driver.get(f"{base_of(site)}/ui/shares")
    assert browser.driver.title == "Log in"


def test_what_may_be_shared_is_decided_as_for_programs(browser: Browser, site: Site) -> None:
    log_in(browser, site)
    browser.wait(lambda: browser.driver.title == "My shares")

    def refused(problem: str) -> bool:
        return problem in browser.find("#problem").text

    for path, problem in (("relative", "absolute"), ("/nowhere/x", "No such file")):
        browser.find("#path").clear()
        browser.find("#path").send_keys(path)
        browser.find("main button.first").click()
        browser.wait(partial(refused, problem))
    browser.run("document.getElementById('path').value = '/tmp'; document.querySelector('[value=person]').click()")
    browser.find("main button.first").click()
    browser.wait(lambda: "Name the person" in browser.find("#problem").text)
    browser.find("#person").send_keys("no name at all")
    browser.find("main button.first").click()
    browser.wait(lambda: "not a valid name" in browser.find("#problem").text)


def test_pages_for_people_who_share_can_be_read(browser: Browser, site: Site) -> None:
    path = site.directory()
    share(site, path, access="WRITE", onetime=True, password="x")
    for width in (1100, 320):
        browser.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        browser.look(width, 800)
        browser.driver.get(f"{base_of(site)}/ui/login")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        log_in(browser, site)
        browser.wait(lambda: browser.driver.title == "My shares")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    fields = "[...document.querySelectorAll('input:not([type=hidden]), select')]"
    assert browser.run(f"return {fields}.filter((e) => !e.labels.length).length") == 0


def test_the_page_lists_no_more_than_the_rest_interface(site: Site) -> None:
    path = site.directory()
    share(site, path)
    with person(site) as owner:
        listed = owner.get("/rest/share/TEST").json()["shares"]
    assert str(path) + "/" in {entry["path"] for entry in listed}

"""`uftp share` and `uftp get-share` with `uftpd standalone`, as a newcomer types them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_standalone import PASSWORD, account, standalone
from running_uftp import UFTP, Outcome, environment, uftp, uftp_inside

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
LARGE = os.urandom(MIB) * 40


@dataclass(frozen=True)
class Site:
    """A server, its person `joe`, and a directory of theirs."""

    auth: str
    ca: str
    directory: Path

    @property
    def server(self) -> str:
        return f"{self.auth}/TEST"

    def place(self, name: str = "") -> str:
        return f"{self.server}:{self.directory}/{name}"

    def file(self, name: str, content: bytes = b"content\n") -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def share(self, *arguments: str | Path, code: int = 0, stdin: bytes = b"") -> Outcome:
        given = ["share", "--ca", self.ca, "-u", "joe", *arguments]
        env = {"UFTP_PASSWORD": PASSWORD}
        done = uftp(*given, env=env, stdin=stdin) if stdin else uftp_inside(*given, env=env)
        assert done.code == code, done.err
        return done

    def link(self, *arguments: str | Path) -> str:
        return self.share(*arguments).lines[0]

    def get(self, here: Path, *arguments: str | Path, code: int = 0, login: tuple[str, ...] = ()) -> Outcome:
        done = uftp(
            "get-share", "--ca", self.ca, *login, *arguments, cwd=here,
            env={"XDG_STATE_HOME": str(here.parent / "state"), "UFTP_PASSWORD": PASSWORD},
        )  # fmt: skip
        assert done.code == code, done.err
        return done

    def listed(self) -> dict[str, dict[str, object]]:
        records = self.share("-l", "--json", self.server).records
        return {str(record["path"]): record for record in records if record["type"] == "share"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    # Not below pytest's directory, which other users cannot enter.
    directory = Path(tempfile.mkdtemp(prefix="uftp-test-"))
    directory.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(directory, pwd.getpwnam(account()).pw_uid, -1)
    try:
        with standalone(tmp_path_factory.mktemp("standalone") / "state") as running:
            yield Site(running.auth, running.ca, directory)
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    path = tmp_path / "here"
    path.mkdir()
    return path


def files(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("http", [(), ("--http",)], ids=["uftp", "http"])
def test_a_file_for_anybody(site: Site, here: Path, http: tuple[str, ...]) -> None:
    site.file("ünï cö[d]e%41 &.bin", LARGE)
    link = site.link(site.place("ünï cö%5Bd%5De%2541 &.bin"))
    said = site.get(here, "-v", *http, link).err
    assert ("MODE U" in said) is not http
    site.get(here, *http, link, "other name")
    assert files(here) == {"ünï cö[d]e%41 &.bin": LARGE, "other name": LARGE}


@pytest.mark.parametrize("http", [(), ("--http",)], ids=["uftp", "http"])
def test_a_directory(site: Site, here: Path, http: tuple[str, ...]) -> None:
    for name in ("tree/a", "tree/sub dir/b?", "tree/sub dir/deep/c#", "tree/-d", "tree/empty"):
        site.file(name, b"" if name.endswith("empty") else name.encode())
    if not (site.directory / "tree/out").is_symlink():
        (site.directory / "tree/out").symlink_to("/etc")
    link = site.link(site.place("tree"))
    site.get(here, *http, link)
    wanted = {name: content for name, content in files(site.directory / "tree").items() if not name.startswith("out/")}
    assert files(here / "tree") == wanted
    site.get(here, *http, f"{link}/sub%20dir/", "part")
    assert files(here / "part") == {"b?": b"tree/sub dir/b?", "deep/c#": b"tree/sub dir/deep/c#"}
    site.get(here, *http, f"{link}/-d")
    assert (here / "-d").read_bytes() == b"tree/-d"


def test_a_one_time_link_and_a_number_of_downloads(site: Site, here: Path) -> None:
    path = site.file("once", LARGE)
    link = site.link("-1", site.place("once"))
    site.get(here, link)
    assert (here / "once").read_bytes() == LARGE
    assert "share may have ended" in site.get(here, link, code=4).err
    link = site.link("-N", "2", "-L", "2h", site.place("once"))
    assert site.listed()[str(path)]["maxDownloads"] == 2
    for name in ("first", "second"):
        site.get(here, link, name)
    site.get(here, link, "third", code=4)
    assert sorted(files(here)) == ["first", "once", "second"]


def test_an_interrupted_one_time_download_is_gone_on_with(site: Site, here: Path) -> None:
    """What broke off has used nothing up, and what came before is not asked for again."""
    site.file("long", LARGE * 6)
    link = site.link("-1", site.place("long"))
    env = environment({"XDG_STATE_HOME": str(here.parent / "state")})
    command = [UFTP, "get-share", "--ca", site.ca, "-t", "1", link]
    with subprocess.Popen(command, cwd=here, env=env, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not any(path.stat().st_size > MIB for path in here.glob(".uftp-*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
    # On a quick machine it may have been done by then.
    assert (code, bool(list(here.glob(".uftp-*")))) in ((130, True), (0, False))
    if code:
        site.get(here, link)
    assert (here / "long").read_bytes() == LARGE * 6
    assert list(here.glob(".uftp-*")) == []
    site.get(here, link, "again", code=4)


def test_a_link_given_to_cp_is_told_of_get_share(site: Site, here: Path) -> None:
    site.file("linked")
    done = uftp("cp", "--ca", site.ca, "-u", "anonymous", site.link(site.place("linked")), "x", cwd=here)
    assert done.code == 2
    assert "uftp get-share" in done.err
    assert files(here) == {}


def test_for_one_person(site: Site, here: Path) -> None:
    site.file("private")
    link = site.link("-a", "CN=joe,O=UFTP standalone", site.place("private"))
    assert "Log in with -u" in site.get(here, link, code=3).err
    for number, http in enumerate(((), ("--http",))):
        site.get(here, *http, link, str(number), login=("-u", "joe"))
    assert files(here) == {"0": b"content\n", "1": b"content\n"}
    assert "shared with somebody else" in site.get(here, site.link("-a", "CN=x", site.place("private")), code=3).err


def test_with_a_password(site: Site, here: Path, tmp_path: Path) -> None:
    site.file("secret")
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("pä ss\n")
    wrong.write_text("guess\n")
    link = site.link("--link-password-file", right, site.place("secret"))
    assert "--link-password" in site.get(here, link, code=3).err
    site.get(here, "--link-password-file", wrong, link, code=3)
    site.get(here, "--link-password-file", right, link)
    assert files(here) == {"secret": b"content\n"}
    wrong.write_text("\n")
    assert "is empty" in site.share("--link-password-file", wrong, site.place("secret/"), code=2).err
    site.share("-U", link.rpartition("/")[2], "--link-password-file", wrong, site.server)
    site.get(here, link, "open")


def test_listing_changing_and_withdrawing(site: Site, here: Path) -> None:
    first, second = site.file("list/first"), site.file("list/second")
    link = site.link("-L", "1d", site.place("list/first"))
    share_id = link.rpartition("/")[2]
    lines = [line.split() for line in site.share("-l", site.server).lines]
    assert ["ID", "ACCESS", "USED", "ENDS", "FOR", "PATH"] in lines
    assert [share_id, "read", "0", "23h", "anybody", str(first)] in lines
    assert '"accessible"' in site.share("--list", "--raw", "-s", site.server).out.decode()
    done = site.share("-v", "-U", share_id, "-L", "never", site.place("list/second"))
    assert done.lines == [link]
    assert "never ends" in done.err
    assert str(second) in site.listed()
    assert str(first) not in site.listed()
    site.share("-r", share_id, "--stop", site.server)
    assert str(second) not in site.listed()
    site.get(here, link, code=4)
    assert "No such share" in site.share("-r", share_id, site.server, code=4).err
    person = site.link("-a", "CN=joe,O=UFTP standalone", site.place("list/first")).rpartition("/")[2]
    site.link(site.place("list/first"))
    assert "you do not share it" in site.share("-d", site.place("list/second"), code=4).err
    assert str(first) in site.listed()
    site.share("-d", site.place("list/first"))
    assert str(first) not in site.listed()
    assert person not in site.listed()
    site.link(site.place("list"))
    site.share("--delete", "-s", site.auth.replace("/rest/auth", "/rest/share/TEST"), site.directory / "list")
    assert f"{site.directory}/list/" not in site.listed()


def test_a_relative_place_is_below_the_home_directory(site: Site) -> None:
    home = pwd.getpwnam(account()).pw_dir
    done = site.share(f"{site.server}:no such thing", code=4)
    assert f"'{home.rstrip('/')}/no such thing'" in done.err


def test_qr_code(site: Site) -> None:
    site.file("qr")
    lines = site.share("--qr", site.place("qr")).lines
    assert lines[0].startswith(site.auth.replace("/rest/auth", "/rest/access"))
    assert len(lines) > 15
    assert len({len(line) for line in lines[1:]}) == 1


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ((), "what is to be shared?", 2),
        (("-l", "-d", "x"), "different things", 2),
        (("-w", "{place}"), "--write needs --access", 2),
        (("-L", "soon", "{place}"), "not a lifetime", 2),
        (("/data/x",), "on which server?", 2),
        (("-d",), "which place?", 2),
        (("-U", "abc", "{server}"), "what is to change?", 2),
        (("-U", "abc", "-a", "CN=x", "{server}"), "cannot be changed", 2),
        (("-r", "../x", "{server}"), "no id of a share", 5),
        (("-R", "{place}"), "--raw is for --list", 2),
        (("{place}*",), "wildcards", 2),
        (("-a", "Joe", "{place}"), "not a valid name", 5),
        (("{place}nosuch",), "No such file", 4),
        (("-U", "abc", "-L", "1h", "{server}"), "No such share", 4),
        (("ftp://127.0.0.1/x",), "no server of one's own", 2),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(site: Site, arguments: tuple[str, ...], words: str, code: int) -> None:
    done = site.share(*(word.format(place=site.place(), server=site.server) for word in arguments), code=code)
    assert words in done.err
    assert done.err.count("\n") == 1
    assert done.out == b""


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("https://127.0.0.1/rest/auth/TEST:/x",), "not the link of a share", 2),
        (("{access}/nosuch",), "share may have ended", 4),
        (("{access}/nosuch", "-"), "standard output", 2),
        (("{access}/nosuch", "https://x/rest/auth/T:/y"), "place on this machine", 2),
        (("http://127.0.0.1:1/rest/access/T/ID",), "--insecure", 2),
    ],
)
def test_what_cannot_be_fetched_is_said_in_a_line(
    site: Site, here: Path, arguments: tuple[str, ...], words: str, code: int
) -> None:
    access = site.auth.replace("/rest/auth", "/rest/access/TEST")
    done = site.get(here, *(word.format(access=access) for word in arguments), code=code)
    assert words in done.err
    assert done.err.count("\n") == 1
    assert files(here) == {}

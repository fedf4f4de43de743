"""pyuftp's share command with each of its options, and what others then do with the share by UFTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ftp_account import BINARY
from peer_programs import Outcome, beside_python, run
from uftp_site import Site

pytestmark = pytest.mark.slow


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """The client's directory."""
    path = tmp_path / "local"
    path.mkdir()
    return path


def pyuftp(site: Site, local: Path, *arguments: str | Path, user: str | None = None, code: int = 0) -> Outcome:
    """Run it as a person, by default the first."""
    name = site.first if user is None else user
    login = ("-u", f"{name}:{site.password(name)}") if name != "anonymous" else ("-u", "anonymous")
    server = site.auth.replace("/rest/auth", "/rest/share/TEST")
    return run(
        beside_python("pyuftp"),
        *arguments,
        *login,
        cwd=local,
        code=code,
        PYTHONWARNINGS="ignore",
        UFTP_SHARE_URL=server,
    )


def link_of(done: Outcome) -> str:
    """What it says it has shared to."""
    assert done.text.startswith("Shared to ")
    return done.text.split()[-1]


def listed(site: Site, local: Path, user: str | None = None) -> dict[str, dict[str, Any]]:
    """The shares of a person, by path."""
    reply = json.loads(pyuftp(site, local, "share", "--list", "--raw", user=user).out)
    return {share["path"]: share for share in reply["shares"]}


def person(name: str) -> str:
    return f"CN={name},O=UFTP standalone"


def access_url(site: Site, path: Path | str) -> str:
    return f"{site.auth.replace('/rest/auth', '/rest/access')}/TEST:{path}"


def test_share_and_list(site: Site, local: Path) -> None:
    path = site.file(site.directory() / "file", BINARY)
    link = link_of(pyuftp(site, local, "share", path))
    share_id = link.rpartition("/")[2]
    assert link == f"{site.auth.replace('/rest/auth', '/rest/access')}/TEST/{share_id}"
    share = listed(site, local)[str(path)]
    assert (share["id"], share["http"], share["user"]) == (share_id, link, "cn=anonymous,o=unknown,ou=unknown")
    assert "lifetime" not in share
    text = pyuftp(site, local, "share", "--list").text
    line = next(line for line in text.splitlines() if str(path) in line)
    assert [part.strip() for part in line.split("|")] == [share_id, "0", "-", str(path)]


def test_a_directory_is_shown_as_one(site: Site, local: Path) -> None:
    directory = site.directory()
    pyuftp(site, local, "share", directory)
    text = pyuftp(site, local, "share", "--list").text
    assert f"D {directory}/" in text


def test_options_of_a_share(site: Site, local: Path) -> None:
    path = site.file(site.directory() / "file", BINARY)
    done = pyuftp(site, local, "share", "-v", "--one-time", "--lifetime", "3600", "--access", "CN=Other,O=x", path)
    assert '"onetime": true' in done.text
    share = listed(site, local)[str(path)]
    assert (share["user"], share["onetime"], share["access"]) == ("cn=other,o=x", True, "READ")
    assert 3500 < share["lifetime"] <= 3600
    again = pyuftp(site, local, "share", "--write", "--access", "CN=Other,O=x", path)
    share = listed(site, local)[str(path)]
    assert (share["http"], share["onetime"], share["access"]) == (link_of(again), False, "WRITE")
    assert "lifetime" not in share


def test_update_changes_what_it_may_and_nothing_else(site: Site, local: Path) -> None:
    directory = site.directory()
    first, second = site.file(directory / "first", BINARY), site.file(directory / "second", BINARY)
    share_id = link_of(pyuftp(site, local, "share", "--access", "CN=Other,O=x", first)).rpartition("/")[2]
    pyuftp(site, local, "share", "--update", share_id, "--lifetime", "60", second)
    shares = listed(site, local)
    assert str(first) not in shares
    share = shares[str(second)]
    assert (share["id"], share["user"]) == (share_id, "cn=other,o=x")
    assert share["lifetime"] <= 60


def test_delete(site: Site, local: Path) -> None:
    directory = site.directory()
    pyuftp(site, local, "share", directory)
    pyuftp(site, local, "share", "--access", "CN=Other,O=x", directory)
    assert f"{directory}/" in listed(site, local)
    pyuftp(site, local, "share", "--delete", directory)
    assert f"{directory}/" not in listed(site, local)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{}/nosuch",), "No such file or directory"),
        (("relative/path",), "not absolute"),
        (("--access", "Joe", "{}"), "not a valid name"),
        (("--update", "nosuch", "{}"), "No such share"),
    ],
)
def test_what_cannot_be_done_is_said(site: Site, local: Path, arguments: tuple[str, ...], words: str) -> None:
    directory = site.directory()
    done = pyuftp(site, local, "share", *(word.format(directory) for word in arguments), code=1)
    assert words in done.text + done.err


def test_a_shared_file_is_fetched_by_its_path(site: Site, local: Path) -> None:
    """By the person it is shared with. It asks for the directory of the file; all else there stays hidden."""
    grantee = list(site.people)[-1]
    directory = site.directory(mode=0o700)
    path = site.file(directory / "file", BINARY)
    site.file(directory / "beside", b"not shared")
    pyuftp(site, local, "cp", access_url(site, path), "got", user=grantee, code=1)
    pyuftp(site, local, "share", "--access", person(grantee), path)
    pyuftp(site, local, "cp", access_url(site, path), "got", user=grantee)
    assert (local / "got").read_bytes() == BINARY
    names = pyuftp(site, local, "ls", access_url(site, f"{directory}/"), user=grantee).text
    assert "file" in names
    assert "beside" not in names
    pyuftp(
        site, local, "cp", access_url(site, directory / "beside"), "other", user=grantee
    )  # finds none, and says nothing
    assert not (local / "other").exists()


def test_two_shared_files_of_a_directory(site: Site, local: Path) -> None:
    grantee = list(site.people)[-1]
    directory = site.directory(mode=0o700)
    for name in ("one [1]", "two*", "beside"):
        site.file(directory / name, name.encode())
    for name in ("one [1]", "two*"):
        pyuftp(site, local, "share", "--access", person(grantee), directory / name)
    for name in ("one [1]", "two*"):
        names = pyuftp(site, local, "ls", access_url(site, f"{directory}/"), user=grantee).text
        assert name in names
    assert "beside" not in names


def test_a_shared_directory_is_read_and_written(site: Site, local: Path) -> None:
    grantee = list(site.people)[-1]
    directory = site.directory(mode=0o700)
    site.file(directory / "file", BINARY)
    pyuftp(site, local, "share", "--access", person(grantee), directory)
    pyuftp(site, local, "cp", access_url(site, f"{directory}/*"), "./", user=grantee)
    assert (local / "file").read_bytes() == BINARY
    (local / "new").write_bytes(BINARY[:1000])
    pyuftp(site, local, "cp", "new", access_url(site, f"{directory}/"), user=grantee, code=1)
    assert not (directory / "new").exists()
    pyuftp(site, local, "share", "--write", "--access", person(grantee), directory)
    pyuftp(site, local, "cp", "new", access_url(site, f"{directory}/"), user=grantee)
    assert (directory / "new").read_bytes() == BINARY[:1000]


def test_a_share_for_anybody_is_not_found_by_its_path(site: Site, local: Path) -> None:
    path = site.file(site.directory() / "file", BINARY)
    pyuftp(site, local, "share", path)
    done = pyuftp(site, local, "cp", access_url(site, path), "got", user="anonymous", code=1)
    assert "No such share" in done.text + done.err

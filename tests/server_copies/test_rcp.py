"""`uftp rcp` between two sites with different people, as they would use it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_node import Person
from raw_ftp import eventually
from running_uftp import UFTP, Outcome, environment, uftp_inside
from two_sites import PATIENCE, TwoSites, ask
from uftp_site import Site, running_site

import uftp as package
from uftp.cli.main import run
from uftp.errors import NotFound
from uftp.transfer.calling import Progress

SEND = {"UFTP_RCP_USE_SEND_FILE": "true"}
CONTENT = os.urandom(3_000_017)
NAMES = ("plain", "two words", "it's", "star*", "a%2Fb", "new\nline", "über", "-dash", '"quoted"', "back\\slash")


def login(source: Site | None, target: Site | None) -> list[str]:
    """Options that log in on either side."""
    options = []
    for side, site in (("source", source), ("target", target)):
        if site is not None:
            user = f"{site.first}:{site.password(site.first)}"
            options += [f"--{side}-ca", site.ca, f"--{side}-user", user]
    return options


@pytest.fixture(params=["received", "sent"])
def way(request: pytest.FixtureRequest) -> dict[str, str]:
    """Variables that have either side run the copy."""
    return SEND if request.param == "sent" else {}


def rcp(sites: TwoSites, *arguments: str, env: dict[str, str] | None = None) -> Outcome:
    """From the first to the second."""
    return uftp_inside("rcp", *login(sites.first, sites.second), *arguments, env=env)


def make_tree(site: Site, top: Path) -> None:
    """Names of all kinds, in several directories."""
    for directory in (top, top / "in ner", top / "in ner" / "empty"):
        directory.mkdir()
        site.give(directory)
    for number, name in enumerate(NAMES):
        site.file(top / name, b"%d" % number * number)
        site.file(top / "in ner" / name, os.urandom(number * 1000))
        os.utime(top / name, ns=(10**18, 10**18 + number))


def tree(top: Path) -> dict[str, bytes | None]:
    """What is in a directory, with contents."""
    return {str(path.relative_to(top)): path.read_bytes() if path.is_file() else None for path in top.rglob("*")}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -- what is copied where -------------------------------------------------------------------------------------------


def test_a_file_goes_into_a_directory_or_gets_another_name(sites: TwoSites, way: dict[str, str]) -> None:
    source, target = sites.first.directory(mode=0o700), sites.second.directory(mode=0o700)
    sites.first.file(source / "x", CONTENT)
    for goal in (target, target / "y"):
        done = rcp(sites, "--json", sites.first.url(source / "x"), sites.second.url(goal), env=way)
        assert (done.code, done.err) == (0, "")
        begun, ended, summary = done.records
        assert begun["type"] == "copy"
        assert ended == {**begun, "state": "FINISHED"}
        assert begun["server"] == (sites.first if way else sites.second).ready["nodes"]["TEST"]
        assert (summary["files"], summary["failed"], summary["bytes"]) == (1, 0, len(CONTENT))
    assert tree(target) == {"x": CONTENT, "y": CONTENT}
    assert (target / "x").stat().st_uid == sites.second.people[sites.second.first].uid


def test_a_tree_with_any_names_and_with_times(sites: TwoSites, way: dict[str, str]) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    make_tree(sites.first, source / "t")
    url = sites.first.url(source / "t")
    refused = rcp(sites, url, sites.second.url(target), env=way)
    assert refused.code == 2
    assert "use -r" in refused.err
    assert rcp(sites, "-r", "--preserve", url, sites.second.url(target), env=way).code == 0
    assert rcp(sites, "-r", f"{url}/", sites.second.url(target / "new"), env=way).code == 0
    assert tree(target / "t") == tree(source / "t") == tree(target / "new")
    for name in NAMES:
        assert (target / "t" / name).stat().st_mtime_ns == (source / "t" / name).stat().st_mtime_ns


def test_wildcards_and_stars_that_are_none(sites: TwoSites, way: dict[str, str]) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    for name in ("a1", "a2", "a*", "b1"):
        sites.first.file(source / name, name.encode())
    assert rcp(sites, sites.first.url(f"{source}/a%2A"), sites.second.url(f"{target}/one/"), env=way).code == 0
    assert tree(target / "one") == {"a*": b"a*"}
    assert rcp(sites, sites.first.url(f"{source}/a?"), sites.second.url(f"{target}/all/"), env=way).code == 0
    assert names(target / "all") == ["a*", "a1", "a2"]
    missing = rcp(sites, sites.first.url(f"{source}/c*"), sites.second.url(target), env=way)
    assert missing.code == 4
    assert len(missing.error_lines) == 1


def test_several_sources_of_which_one_is_not_there(sites: TwoSites) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    for name in ("x", "y"):
        sites.first.file(source / name, name.encode())
    urls = [sites.first.url(source / name) for name in ("x", "gone", "y")]
    refused = rcp(sites, *urls, sites.second.url(target / "new"))
    assert refused.code == 2
    assert "need a directory" in refused.err
    twice = rcp(sites, urls[0], urls[0], sites.second.url(target))
    assert twice.code == 2
    assert "two sources would get the name x" in twice.err
    assert names(target) == []
    done = rcp(sites, *urls, sites.second.url(target))
    assert done.code == 10
    assert [line for line in done.error_lines if "gone" in line and "does not exist" in line]
    assert tree(target) == {"x": b"x", "y": b"y"}


def test_files_that_fail_are_named_and_the_others_go_on(sites: TwoSites) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    make_tree(sites.first, source / "t")
    (target / "t").mkdir()
    sites.second.give(target / "t")
    blocked = ("plain", "über")
    for name in blocked:  # a directory of its name is in the way of each
        (target / "t" / name).mkdir()
    done = rcp(sites, "-r", "--json", sites.first.url(source / "t"), sites.second.url(target))
    assert done.code == 10
    failures = [record for record in done.records if record["type"] == "file"]
    assert sorted(record["target"] for record in failures) == sorted(
        sites.second.url(target / "t" / name) for name in blocked
    )
    assert all(not record["ok"] and record["error"] for record in failures)
    summary = done.records[-1]
    assert (summary["failed"], summary["files"]) == (len(blocked), 2 * len(NAMES) - len(blocked))
    assert [line for line in done.error_lines if "plain" in line]
    for name, content in tree(source / "t").items():
        if name not in blocked:
            assert tree(target / "t")[name] == content


def test_a_part_of_a_file_goes_to_the_same_place(sites: TwoSites, way: dict[str, str]) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    sites.first.file(source / "x", bytes(range(100)))
    sites.second.file(target / "x", b"." * 50)
    assert rcp(sites, "-B", "10-19", sites.first.url(source / "x"), sites.second.url(target), env=way).code == 0
    assert (target / "x").read_bytes() == b"." * 10 + bytes(range(10, 20)) + b"." * 30


@pytest.mark.parametrize("options", [["-E"], ["-C", "-n", "3"], ["-E", "--legacy-cipher", "aes"], ["--no-verify"]])
def test_how_the_data_travels(sites: TwoSites, options: list[str]) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    sites.first.file(source / "x", CONTENT)
    before = len(sites.first.log())
    assert rcp(sites, *options, sites.first.url(source / "x"), sites.second.url(target)).code == 0
    assert tree(target) == {"x": CONTENT}

    def moved() -> list[str]:
        lines = sites.first.log()[before:].splitlines()
        return [line for line in lines if f"path={source}/x" in line and " bytes=" in line]

    eventually(moved, PATIENCE, "the source's log of it")
    assert ("crypt=True" in moved()[0]) is ("-E" in options)


# -- watching, ending, going on -------------------------------------------------------------------------------------


def test_a_copy_that_nobody_waits_for(sites: TwoSites) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    sites.first.file(source / "x", CONTENT)
    there = login(None, sites.second)
    done = rcp(sites, "--no-wait", sites.first.url(source / "x"), sites.second.url(target))
    assert done.code == 0
    (number,) = done.lines
    hint = re.search(r"uftp rcp --status ([0-9]+) (\S+)", done.err)
    assert hint is not None
    assert hint[1] == number
    assert uftp_inside("rcp", *there, "--wait", number, hint[2]).code == 0
    assert tree(target) == {"x": CONTENT}
    status = uftp_inside("rcp", *there, "--status", number, hint[2])
    assert status.lines[0].startswith("FINISHED 1/1 files, 3.0 MB of 3.0 MB, ")
    (record,) = uftp_inside("rcp", *there, "--json", "--status", number, hint[2]).records
    assert (record["state"], record["files"], record["bytes"]) == ("FINISHED", 1, len(CONTENT))
    assert uftp_inside("rcp", *there, "--abort", number, hint[2]).lines == ["FINISHED"]
    for option in ("--status", "--wait", "--abort"):
        unknown = uftp_inside("rcp", *there, option, "4711", sites.second.url(target))
        assert unknown.code == 4
        assert "no such copy of yours" in unknown.err
    # The other site's person has no business with it.
    foreign = uftp_inside("rcp", *login(sites.first, None), "--status", number, f"{sites.first.auth}/TEST")
    assert foreign.code == 4


def test_a_copy_is_ended_and_leaves_nothing(sites: TwoSites) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    sites.first.file(source / "x", os.urandom(70_000_000))
    slowly = ("--no-wait", "-q", "--limit-rate", "1m")
    done = rcp(sites, *slowly, sites.first.url(source / "x"), sites.second.url(target))
    assert done.err == ""
    there = (*login(None, sites.second), sites.second.url(target))
    assert uftp_inside("rcp", "--status", done.lines[0], *there).lines[0].startswith("RUNNING ")
    assert uftp_inside("rcp", "--abort", done.lines[0], *there).lines == ["ABORTED"]
    assert names(target) == []
    waited = uftp_inside("rcp", "--wait", done.lines[0], *there)
    assert waited.code == 9
    assert "was ended" in waited.err


@pytest.mark.parametrize("resume", [True, False])
def test_ctrl_c_ends_the_copy_and_the_same_command_goes_on(sites: TwoSites, resume: bool) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    content = os.urandom(70_000_000)
    sites.first.file(source / "x", content)
    places = [sites.first.url(source / "x"), sites.second.url(target)]
    options = login(sites.first, sites.second) + ([] if resume else ["--no-resume"])
    command = [UFTP, "rcp", *options, "--json", "--limit-rate", "1m", *places]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    number = json.loads(process.stdout.readline())["id"]
    asking = ("rcp", *login(None, sites.second), "--json", "--status", number, places[1])
    eventually(lambda: uftp_inside(*asking).records[0]["bytes"] > 0, PATIENCE, "something arrives")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 130
    said = errors.decode()
    assert f"the copy was ended on {sites.second.ready['nodes']['TEST']}; to go on: uftp rcp " in said
    assert sites.second.password(sites.second.first) not in said
    assert "x" not in names(target)
    assert (names(target) == []) is not resume
    assert rcp(sites, *places).code == 0
    assert names(target) == ["x"]
    assert (target / "x").read_bytes() == content


# -- sides ----------------------------------------------------------------------------------------------------------


def test_one_side_by_a_one_time_password(sites: TwoSites, tmp_path: Path) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    sites.first.file(source / "x", CONTENT)
    grant = ask(sites.first, source)
    secret = tmp_path / "secret"
    secret.write_text(f"{grant.secret}\n")
    bare = ("-s", grant.address, "-p", f"@{secret}")
    done = uftp_inside("rcp", *login(None, sites.second), *bare, str(source / "x"), sites.second.url(target))
    assert (done.code, done.err) == (0, "")
    again = uftp_inside("rcp", *login(None, sites.second), *bare, str(source / "x"), sites.second.url(target))
    assert again.code == 3
    assert "one-time password" in again.err
    assert grant.secret not in again.err
    grant = ask(sites.second, target)
    bare = ("-s", grant.address, "-p", grant.secret)
    assert (
        uftp_inside("rcp", *login(sites.first, None), *bare, sites.first.url(source / "x"), str(target / "y")).code == 0
    )
    assert tree(target) == {"x": CONTENT, "y": CONTENT}


@pytest.fixture(scope="module")
def lone(sites: TwoSites) -> Iterator[Site]:
    """A site that copies with no other, at an address that the first one copies with."""
    as_root = os.geteuid() == 0
    people: list[Person] = [sites.second.people[sites.second.first]]
    with running_site(people, as_root=as_root, options=["--host", "127.0.0.2"]) as site:
        yield site


def test_whoever_may_runs_the_copy(sites: TwoSites, lone: Site) -> None:
    here, there = sites.first.directory(), lone.directory()
    sites.first.file(here / "x", CONTENT)
    lone.file(there / "y", CONTENT)
    for source, target, goal in ((sites.first, lone, there), (lone, sites.first, here)):
        file = here / "x" if source is sites.first else there / "y"
        done = uftp_inside("rcp", *login(source, target), "--json", source.url(file), target.url(goal))
        assert (done.code, done.err) == (0, "")
        assert done.records[0]["server"] == sites.first.ready["nodes"]["TEST"]
    assert tree(there) == {"x": CONTENT, "y": CONTENT}
    refused = uftp_inside(
        "rcp", *login(lone, sites.second), lone.url(there / "y"), sites.second.url(sites.second.directory())
    )
    assert refused.code == 5
    assert refused.err.count("allows no copies with 127.0.0.2:") == 2


def test_a_file_that_was_shared(sites: TwoSites) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    sites.first.file(source / "x", CONTENT)
    user = f"{sites.first.first}:{sites.first.password(sites.first.first)}"
    shared = uftp_inside("share", "--ca", sites.first.ca, "-u", user, "--json", sites.first.url(source / "x"))
    assert shared.code == 0, shared.err
    link = shared.records[0]["http"]
    done = uftp_inside("rcp", *login(None, sites.second), "--source-ca", sites.first.ca, "--source-user", "anonymous",
                f"{link}:x", sites.second.url(target))  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert tree(target) == {"x": CONTENT}


def test_mistakes_are_one_line_and_change_nothing(
    sites: TwoSites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UFTP_CONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("UFTP_RCP_USE_SEND_FILE", raising=False)
    source, target = sites.first.directory(), sites.second.directory()
    sites.first.file(source / "x", b"x")
    here, there = sites.first.url(source / "x"), sites.second.url(target)
    for arguments, code, says in (
        ((here,), 2, "both are places on servers"),
        ((here, "/tmp/x"), 2, "names no server|says no server"),
        (("/tmp/x", there), 2, "says no server"),
        ((here, "nowhere:x"), 4, "no such endpoint"),
        ((here, "ftp://localhost/x"), 2, "plain FTP server"),
        (("http://127.0.0.1/x", there), 2, "not the URL of an auth server"),
        (("-s", "h:1", here, there), 2, "-s and -p belong together"),
        (("-s", "h:1", "-p", "z", here, there), 2, "both are"),
        (("-s", "h", "-p", "z", "/x", there), 2, "-s h: "),
        (("--keep", here, there), 2, "use it with --abort"),
        (("--status", "1", "--abort", "1", there), 2, "only one of"),
        (("--limit-rate", "0", here, there), 2, "nothing would ever move"),
        (("-B", "0-1", f"{here}*", there), 2, "without wildcards"),
        ((here, f"{there}/*"), 2, "cannot have wildcards"),
    ):
        ended = run(["rcp", *login(sites.first, sites.second), *arguments])
        said = capsys.readouterr().err
        assert ended == code, (arguments, said)
        assert len(said.splitlines()) == 1
        assert re.search(says, said), said
    assert names(target) == []
    assert run(["cp", here, there]) == 2
    assert "`uftp rcp` copies from one to the other" in capsys.readouterr().err


# -- from Python ----------------------------------------------------------------------------------------------------


def logins(sites: TwoSites) -> tuple[package.Login, package.Login]:
    def one(site: Site) -> package.Login:
        return package.Login(user=site.first, password=site.password(site.first), ca=site.ca)

    return one(sites.first), one(sites.second)


def test_from_a_script(sites: TwoSites) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    make_tree(sites.first, source / "t")
    here, there = logins(sites)
    seen: list[Progress] = []
    summary = package.rcp(
        sites.first.url(source / "t"),
        sites.second.url(target),
        source_login=here,
        target_login=there,
        recursive=True,
        progress=seen.append,
    )
    assert (summary.files, summary.failed) == (2 * len(NAMES), 0)
    assert tree(target / "t") == tree(source / "t")
    assert seen[-1].files == 2 * len(NAMES)


def test_under_asyncio(sites: TwoSites) -> None:
    source, target = sites.first.directory(), sites.second.directory()
    here, there = logins(sites)
    url = sites.first.url(source / "gone")
    with pytest.raises(NotFound):
        asyncio.run(package.rcp_async(url, sites.second.url(target), source_login=here, target_login=there))


def test_names_of_endpoints_bring_their_logins(sites: TwoSites, tmp_path: Path) -> None:
    """Two names may be two logins at one server, too."""
    source, target = sites.first.directory(), sites.first.directory()
    sites.first.file(source / "x", CONTENT)
    (tmp_path / "password").write_text(sites.first.password(sites.first.first))
    (tmp_path / "wrong").write_text("not it")
    lines = [
        line
        for name, password in (("right", "password"), ("also", "password"), ("wrong", "wrong"))
        for line in (
            f"[endpoints.{name}]",
            f'url = "{sites.first.auth}/TEST"',
            f'user = "{sites.first.first}"',
            f'password_file = "{tmp_path / password}"',
            f'ca = "{sites.first.ca}"',
        )
    ]
    config = tmp_path / "config.toml"
    config.write_text("\n".join(lines))
    env = {"UFTP_CONFIG": str(config)}
    done = uftp_inside("rcp", f"right:{source}/x", f"also:{target}/", env=env)
    assert (done.code, done.err) == (0, "")
    assert tree(target) == {"x": CONTENT}
    refused = uftp_inside("rcp", f"right:{source}/x", f"wrong:{target}/y", env=env)
    assert refused.code == 3

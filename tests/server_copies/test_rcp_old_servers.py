"""`uftp rcp` where one server is an upstream one, or both are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from old_site import OldSite, old_site
from raw_ftp import eventually
from running_uftp import UFTP, Outcome, environment, uftp_inside
from two_sites import PATIENCE, TwoSites

from uftp.client.auth import HttpOptions
from uftp.client.credentials import UsernamePassword
from uftp.client.url import parse_url
from uftp.errors import TransferFailed
from uftp.transfer.between import copy_between
from uftp.transfer.between_places import BetweenOptions, Listeners, Place
from uftp.transfer.copy import Access
from uftp.transfer.results import CopyState

CONTENT = os.urandom(300_007)
SEND = {"UFTP_RCP_USE_SEND_FILE": "true"}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[OldSite]:
    """Where files come from."""
    (tmp_path / "here").mkdir()
    with old_site(tmp_path / "here") as site:
        yield site


@pytest.fixture
def there(tmp_path: Path) -> Iterator[OldSite]:
    """Where they go."""
    (tmp_path / "there").mkdir()
    with old_site(tmp_path / "there") as site:
        yield site


def rcp(*arguments: str, env: dict[str, str] | None = None) -> Outcome:
    return uftp_inside("rcp", "--insecure", "-u", "me:secret", *arguments, env=env)


def tree(top: Path) -> dict[str, bytes | None]:
    """What is in a directory, with contents."""
    return {str(path.relative_to(top)): path.read_bytes() if path.is_file() else None for path in top.rglob("*")}


def end_of_errands(*sites: OldSite) -> None:
    for site in sites:
        for errand in site.node.errands:
            errand.wait()


# -- both of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [{}, SEND], ids=["received", "sent"])
def test_a_file(here: OldSite, there: OldSite, env: dict[str, str]) -> None:
    source, target = here.node.root / "two words", there.node.root / "y"
    source.write_bytes(CONTENT)
    os.utime(source, (10**9, 10**9))
    target.write_bytes(os.urandom(len(CONTENT)))  # an old one of the same length is no success
    done = rcp("--preserve", here.url(source), there.url(target), env=env)
    assert done.code == 0, done.err
    assert done.err.startswith(f"uftp: {target}: cannot set the mode: ")  # this server has no MFF
    assert len(done.error_lines) == 1
    assert tree(there.node.root) == {"y": CONTENT}
    assert "MFMT" in there.node.verbs()
    runner, other = (here, there) if env else (there, here)
    assert len(runner.node.errands) == 1
    assert not other.node.errands
    # The other one is asked for a password that the runner's address is good for, and it is used once.
    (asked,) = [body["client"] for body in other.requests if body.get("client")]
    assert "127.0.0.1" in asked.split(",")
    assert not any(body.get("client") for body in runner.requests)


def test_trees_and_wildcards_are_seen_to_from_here(here: OldSite, there: OldSite) -> None:
    top = here.node.root / "t"
    (top / "inner" / "empty").mkdir(parents=True)
    for number in range(3):
        (top / f"a{number}").write_bytes(b"%d" % number * number)
        (top / "inner" / f"b{number}").write_bytes(os.urandom(number * 1000))
    root = there.node.root
    refused = rcp(here.url(top), there.url(root))
    assert refused.code == 2
    assert "use -r" in refused.err
    done = rcp("-r", "--json", here.url(top), there.url(f"{root}/"))
    assert (done.code, done.err) == (0, "")
    assert tree(root / "t") == tree(top)
    assert (done.records[-1]["files"], done.records[-1]["bytes"]) == (6, 1 + 2 + 1000 + 2000)
    assert rcp(here.url(f"{top}/a*"), there.url(f"{root}/new/")).code == 0
    assert sorted(tree(root / "new")) == ["a0", "a1", "a2"]
    gone = rcp(here.url(top / "gone"), there.url(root))
    assert gone.code == 4


@pytest.mark.parametrize("options", [["-C"], ["-E", "--legacy-cipher", "aes"], ["-E", "--legacy-cipher", "blowfish"]])
def test_layers_that_both_get_the_same_key_for(here: OldSite, there: OldSite, options: list[str]) -> None:
    (here.node.root / "x").write_bytes(CONTENT)
    done = rcp(*options, here.url(here.node.root / "x"), there.url(there.node.root))
    assert (done.code, done.err) == (0, "")
    assert tree(there.node.root) == {"x": CONTENT}
    bodies = [*here.requests, *there.requests]
    assert len({body.get("encryptionKey") for body in bodies}) == 1
    assert ("encryptionKey" in bodies[0]) is ("-E" in options)
    assert all(body.get("compress", False) is ("-C" in options) for body in bodies)


def test_encryption_that_they_do_not_have_is_no_copy_in_clear(here: OldSite, there: OldSite) -> None:
    (here.node.root / "x").write_bytes(CONTENT)
    done = rcp("-E", here.url(here.node.root / "x"), there.url(there.node.root))
    assert done.code == 5
    assert "--legacy-cipher" in done.err
    assert not there.node.errands
    assert not here.node.errands


def test_what_they_cannot_do_is_refused_before_anything_is_spoilt(here: OldSite, there: OldSite) -> None:
    source, target = here.node.root / "x", there.node.root / "x"
    source.write_bytes(CONTENT)
    target.write_bytes(b"old")
    for options, says in ((["-B", "0-9"], "would spoil the rest"), (["--limit-rate", "1m"], "--limit-rate")):
        done = rcp(*options, here.url(source), there.url(target))
        assert done.code == 5
        assert says in done.err
    bare = rcp("-s", here.node.address, "-p", here.node.expect(), str(source), there.url(target))
    assert bare.code == 5
    assert "--no-wait" in bare.err
    assert not there.node.errands
    assert target.read_bytes() == b"old"
    for option in ("--status", "--abort", "--wait"):
        asked = rcp(option, "4711", there.url(""))
        assert asked.code == 5
        assert "tells nothing of copies" in asked.err


def test_started_and_left_alone(here: OldSite, there: OldSite) -> None:
    source, root = here.node.root / "x", there.node.root
    source.write_bytes(CONTENT)
    done = rcp("--no-wait", here.url(source), there.url(root))
    assert done.code == 0
    assert done.lines == ["4711"]
    assert "never tells" in done.err
    bare = rcp("--no-wait", "-s", here.node.address, "-p", here.node.expect(), str(source), there.url(root / "y"))
    assert bare.code == 0
    end_of_errands(there)
    assert tree(root) == {"x": CONTENT, "y": CONTENT}


# -- trouble --------------------------------------------------------------------------------------------------------


def place(site: OldSite, path: Path) -> Place:
    access = Access(credential=UsernamePassword("me", "secret"), http=HttpOptions(insecure=True))
    return Place(url=parse_url(site.url(path)), access=access)


def packed(side: Place) -> Place:
    session = replace(side.access.session, compress=True)
    return replace(side, access=replace(side.access, session=session))


async def test_a_copy_that_never_gets_there_is_no_success(here: OldSite, there: OldSite) -> None:
    source, target = here.node.root / "x", there.node.root / "x"
    source.write_bytes(CONTENT)
    target.write_bytes(b"old")
    # Where the other one should be, nobody listens.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = taken.getsockname()[1]
    granted = here.grant

    def misleading(body: dict[str, object]) -> dict[str, object]:
        return {**granted(body), "serverPort": dead} if body.get("client") else granted(body)

    here.grant = misleading  # type: ignore[method-assign]
    state = CopyState()
    stopped: list[str] = []
    listeners = Listeners(stopped=lambda copy, text: stopped.append(text))
    options = BetweenOptions(stall_seconds=1)
    summary = await copy_between(
        [place(here, source)], place(there, target), options=options, state=state, listeners=listeners
    )
    assert (summary.files, summary.failed) == (0, 1)
    with pytest.raises(TransferFailed, match="none of 300007 bytes arrived, and then nothing for 1 s"):
        summary.raise_for_failures()
    assert tree(there.node.root) == {"x": b"old"}
    assert "cannot end copies" in stopped[0]


async def test_half_a_file_is_no_success_and_does_not_stay(here: OldSite, there: OldSite) -> None:
    source = here.node.root / "x"
    source.write_bytes(CONTENT)
    # Upstream leaves the end of what it sends in gzip in its own hands (DATA-PLANE 12).
    source_side, target_side = packed(place(here, source)), packed(place(there, there.node.root / "y"))
    options = BetweenOptions(stall_seconds=1, send_file=True)
    summary = await copy_between([source_side], target_side, options=options)
    assert (summary.files, summary.failed) == (0, 1)
    assert tree(there.node.root) == {}


async def test_other_bytes_of_the_same_number_are_no_success(here: OldSite, there: OldSite) -> None:
    source = here.node.root / "x"
    source.write_bytes(CONTENT)

    def spoil(copy: object) -> None:
        # It changes while it is copied, and keeps its length.
        source.write_bytes(CONTENT[::-1])

    done = there.node.root / "y"
    # What arrived is what was there when the copy began, or a mixture; here it is surely the old content.
    began = Listeners(started=lambda copy: (end_of_errands(there), spoil(copy))[-1])
    summary = await copy_between([place(here, source)], place(there, done), listeners=began)
    assert (summary.files, summary.failed) == (0, 1)
    with pytest.raises(TransferFailed, match="not equal"):
        summary.raise_for_failures()
    assert tree(there.node.root) == {}


def test_ctrl_c_says_what_it_cannot_do(here: OldSite, there: OldSite) -> None:
    source = here.node.root / "x"
    source.write_bytes(CONTENT)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and never says a word
        granted = here.grant

        def misleading(body: dict[str, object]) -> dict[str, object]:
            answer = granted(body)
            return {**answer, "serverPort": silent.getsockname()[1]} if body.get("client") else answer

        here.grant = misleading  # type: ignore[method-assign]
        command = [UFTP, "rcp", "--insecure", "-u", "me:secret", here.url(source), there.url(there.node.root)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        eventually(lambda: there.node.errands, PATIENCE, "the copy was started")
        eventually(lambda: there.node.lines.count("RCP-STATUS 4711") > 0, PATIENCE, "the client waits")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert f"{there.node.address} cannot end copies, and may go on for a while" in errors.decode()
    assert tree(there.node.root) == {}


# -- one of ours beside it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["from it", "to it"])
def test_ours_does_the_work_of_both(sites: TwoSites, tmp_path: Path, direction: str) -> None:
    ours = sites.first.directory()
    user = f"{sites.first.first}:{sites.first.password(sites.first.first)}"
    with old_site(tmp_path, "127.0.0.2") as old:
        source = tmp_path if direction == "from it" else ours
        (source / "t" / "inner").mkdir(parents=True)
        for name in ("x", "inner/y", "inner/empty"):
            (source / "t" / name).write_bytes(CONTENT if name != "inner/empty" else b"")
        names = [source / "t", source / "t" / "inner", *(source / "t").rglob("*")]
        if direction == "from it":
            places = [old.url(tmp_path / "t"), sites.first.url(ours / "new")]
            logins = ["--source-user", "me:secret", "--target-user", user]
        else:
            for path in names:
                sites.first.give(path)
            places = [sites.first.url(ours / "t"), old.url(tmp_path / "new")]
            logins = ["--source-user", user, "--target-user", "me:secret"]
        done = uftp_inside("rcp", "--insecure", *logins, "-r", "--json", *places)
        assert (done.code, done.err) == (0, "")
        assert done.records[0]["server"] == sites.first.ready["nodes"]["TEST"]
        assert done.records[-1]["files"] == 3
        target = ours if direction == "from it" else tmp_path
        assert tree(target / "new") == tree(source / "t")
        assert not old.node.errands
        assert set(old.users) == {"me"}
        (asked,) = [body for body in old.requests if body.get("client")]
        assert asked["persistent"] is True

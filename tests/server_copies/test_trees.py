"""Trees from one node to another one of another site: whole, byte for byte, with what failed named (OPTS RCP)."""

from __future__ import annotations

import base64
import filecmp
import os
import random
import re
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from raw_ftp import RawFtp
from two_sites import TwoSites, ask, session, started, status, wait_for_end
from uftp_site import Site

from uftp.protocol.names import pct_encode

pytestmark = pytest.mark.slow

_KEY = os.urandom(48)
_NAMES = [
    b"two words",
    b"it's",
    b'quo"te',
    b"new\nline",
    b"\xff\xfe",
    "ünicode".encode(),
    b"50%",
    b"a;b=c",
    b"-rf",
    b"*?[",
]


def make_tree(site: Site, root: Path, files: int, seed: int = 1) -> Path:
    """A tree of small files with some larger ones, an empty directory, and times and modes that are not the usual."""
    draw = random.Random(seed)
    for number in range(files):
        directory = root / f"sub{number % 17}" / f"deep{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"file{number}"
        size = draw.choice([0, 1, 4096, draw.randrange(20_000)]) if number % 100 else 300_000 + number
        path.write_bytes(draw.randbytes(size))
        path.chmod(draw.choice([0o600, 0o644, 0o755]))
        os.utime(path, ns=(10**18, 10**18 + number * 1_000_000_007))
    (root / "empty").mkdir(parents=True)
    for path in (root, *root.rglob("*")):
        site.give(path)
    return root


def facts_of(root: Path, *, exact: bool) -> dict[bytes, tuple[object, ...]]:
    """Every path below a directory: kind and content; if `exact`, mode and time as well."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        more = (stat.S_IMODE(status.st_mode), status.st_mtime_ns) if exact else ()
        found[bytes(path.relative_to(root))] = (path.is_dir(), content, *more)
    return found


def copied(ftp: RawFtp, words: str, verb: str, local: str, remote: str, other: tuple[Site, str]) -> dict[str, str]:
    """Run a copy to its end; what it came to, with the word as `word`."""
    ftp.ok("OPTS NAMES PCT")
    ftp.ok(f"OPTS RCP TREES {words}")
    grant = ask(other[0], other[1], persistent=True)
    number = started(ftp.command(f"{verb} '{local}' '{remote}' '{grant.address}' '{grant.secret}'"))
    came_to = wait_for_end(ftp, number)
    return {"word": came_to.word, "id": str(number), **came_to.facts}


@pytest.fixture
def here(sites: TwoSites) -> Path:
    return sites.first.directory()


@pytest.fixture
def there(sites: TwoSites) -> Path:
    return sites.second.directory()


@pytest.mark.parametrize(
    "words", ["RECURSIVE PRESERVE LOGINS=4", "RECURSIVE PRESERVE", "RECURSIVE PRESERVE LOGINS=4 COMPRESS NO-VERIFY"]
)
@pytest.mark.parametrize("verb", ["RECEIVE-FILE", "SEND-FILE"])
def test_a_tree_comes_as_it_is(sites: TwoSites, here: Path, there: Path, verb: str, words: str) -> None:
    owner, source = (sites.second, there) if verb == "RECEIVE-FILE" else (sites.first, here)
    make_tree(owner, source / "tree", 250)
    target = (here if verb == "RECEIVE-FILE" else there) / "copy"
    local, remote = ("copy", "tree") if verb == "RECEIVE-FILE" else ("tree", "copy")
    with session(ask(sites.first, here)) as ftp:
        came_to = copied(ftp, words, verb, local, remote, (sites.second, str(there)))
    assert came_to["word"] == "FINISHED", came_to
    assert (came_to["files"], came_to["failed"], came_to["planned"]) == ("250", "0", "1")
    assert facts_of(target, exact=True) == facts_of(source / "tree", exact=True)
    assert int(came_to["bytes"]) == sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    if sites.first.as_root:
        receiving = sites.first if verb == "RECEIVE-FILE" else sites.second
        assert {path.stat().st_uid for path in target.rglob("*")} == {receiving.people[receiving.first].uid}


@pytest.mark.parametrize("verb", ["RECEIVE-FILE", "SEND-FILE"])
def test_any_name(sites: TwoSites, here: Path, there: Path, verb: str) -> None:
    owner, source = (sites.second, there) if verb == "RECEIVE-FILE" else (sites.first, here)
    (source / "tree").mkdir()
    for number, name in enumerate(_NAMES):
        path = Path(os.fsdecode(os.fsencode(source / "tree") + b"/" + name))
        owner.file(path, b"%d" % number)
    owner.give(source / "tree")
    target = (here if verb == "RECEIVE-FILE" else there) / "it's a copy"
    said = pct_encode(b"it's a copy").replace(b"'", b"%27").decode()
    local, remote = (said, "tree") if verb == "RECEIVE-FILE" else ("tree", said)
    with session(ask(sites.first, here)) as ftp:
        came_to = copied(ftp, "RECURSIVE LOGINS=2", verb, local, remote, (sites.second, str(there)))
    assert came_to["word"] == "FINISHED", came_to
    assert facts_of(target, exact=False) == facts_of(source / "tree", exact=False)


@pytest.mark.parametrize("verb", ["RECEIVE-FILE", "SEND-FILE"])
def test_wildcards_and_placement(sites: TwoSites, here: Path, there: Path, verb: str) -> None:
    owner, source = (sites.second, there) if verb == "RECEIVE-FILE" else (sites.first, here)
    receiver, target = (sites.first, here) if verb == "RECEIVE-FILE" else (sites.second, there)
    (source / "from").mkdir()
    for name in ("run-1.txt", "run-2.txt", "other.txt"):
        owner.file(source / "from" / name, name.encode())
    owner.give(source / "from")
    (target / "into").mkdir()
    receiver.give(target / "into")
    local, remote = ("into", "from/run-*") if verb == "RECEIVE-FILE" else ("from/run-*", "into")
    with session(ask(sites.first, here)) as ftp:
        came_to = copied(ftp, "LOGINS=2", verb, local, remote, (sites.second, str(there)))
        assert came_to["word"] == "FINISHED", came_to
        # Nothing matches, and a directory without RECURSIVE: refused at once, or a copy that fails.
        for wrong in ("from/no-*", "from"):
            ftp.ok("OPTS RCP TREES LOGINS=2")
            grant = ask(sites.second, there, persistent=True)
            places = [place.replace("from/run-*", wrong) for place in (local, remote)]
            reply = ftp.command(f"{verb} {places[0]} {places[1]} {grant.address} {grant.secret}")
            if reply.startswith(b"299"):
                assert wait_for_end(ftp, started(reply)).word == "FAILED"
            else:
                assert reply.startswith(b"550 ")
    assert sorted(path.name for path in (target / "into").iterdir()) == ["run-1.txt", "run-2.txt"]


def test_what_fails_is_named_and_the_rest_is_copied(sites: TwoSites, here: Path, there: Path) -> None:
    if not sites.first.as_root:
        pytest.skip("needs files of somebody else")
    tree = make_tree(sites.second, there / "tree", 40)
    closed = [tree / "sub1" / "deep1" / "file1", tree / "sub5" / "deep2" / "file5"]
    for path in closed:
        os.chown(path, 0, 0)
        path.chmod(0o600)
    with session(ask(sites.first, here)) as ftp:
        came_to = copied(ftp, "RECURSIVE LOGINS=2", "RECEIVE-FILE", "copy", "tree", (sites.second, str(there)))
        assert came_to["word"] == "FAILED", came_to
        assert (came_to["files"], came_to["failed"]) == ("38", "2")
        reply = ftp.command(f"RCP-ERRORS {came_to['id']}")
        ftp.ok(f"RCP-STATUS {came_to['id']}", 299)
    lines = reply.decode().splitlines()
    assert lines[0] == f"299-{came_to['id']}"
    assert lines[-1] == "299 End 0"
    matches = [re.fullmatch(r" source=([^;]*);target=([^;]*);error=([^;]*);", line) for line in lines[1:-1]]
    assert all(matches)
    sources = {unquote_to_bytes(match[1]) for match in matches if match}
    assert {source.rpartition(b"/")[2] for source in sources} == {b"file1", b"file5"}
    assert all(
        b"ermission" in unquote_to_bytes(match[3]) or b"denied" in unquote_to_bytes(match[3])
        for match in matches
        if match
    )
    wanted = facts_of(tree, exact=False)
    for path in closed:
        del wanted[bytes(path.relative_to(tree))]
    assert facts_of(here / "copy", exact=False) == wanted


def test_encryption_is_with_the_session_key_or_not_at_all(sites: TwoSites, here: Path, there: Path) -> None:
    make_tree(sites.second, there / "tree", 30)
    key = {"encryptionKey": base64.b64encode(_KEY).decode(), "encryptionAlgorithm": "AES"}
    with session(ask(sites.first, here, **key)) as ftp:
        ftp.ok("OPTS RCP TREES RECURSIVE ENCRYPT LOGINS=2")
        grant = ask(sites.second, there, persistent=True, **key)
        number = started(ftp.command(f"RECEIVE-FILE copy tree {grant.address} {grant.secret}"))
        came_to = wait_for_end(ftp, number)
        assert came_to.word == "FINISHED", came_to
        assert facts_of(here / "copy", exact=False) == facts_of(there / "tree", exact=False)
    # A session without a key has nothing to encrypt with.
    with session(ask(sites.first, here)) as ftp:
        ftp.ok("OPTS RCP TREES RECURSIVE ENCRYPT LOGINS=2")
        grant = ask(sites.second, there, persistent=True)
        reply = ftp.command(f"RECEIVE-FILE plain tree {grant.address} {grant.secret}")
        if reply.startswith(b"299"):
            assert wait_for_end(ftp, started(reply)).word == "FAILED"
        else:
            assert reply[:1] == b"5"
    assert not (here / "plain").exists() or not list((here / "plain").rglob("*"))


@pytest.mark.parametrize("verb", ["RECEIVE-FILE", "SEND-FILE"])
def test_a_large_file_in_ranges_opens_no_more_sessions_than_were_granted(
    sites: TwoSites, here: Path, there: Path, verb: str
) -> None:
    owner, source = (sites.second, there) if verb == "RECEIVE-FILE" else (sites.first, here)
    target = (here if verb == "RECEIVE-FILE" else there) / "copy"
    with (source / "large").open("wb") as file:
        for _ in range(160):
            file.write(os.urandom(1024 * 1024))
    owner.give(source / "large")
    local, remote = ("copy", "large") if verb == "RECEIVE-FILE" else ("large", "copy")
    before = sites.second.log().count(" session started ")
    with session(ask(sites.first, here)) as ftp:
        came_to = copied(ftp, "LOGINS=4 SESSIONS=4", verb, local, remote, (sites.second, str(there)))
    assert came_to["word"] == "FINISHED", came_to
    assert filecmp.cmp(source / "large", target, shallow=False)
    assert [path.name for path in target.parent.iterdir()] == ["copy"]
    assert 1 <= sites.second.log().count(" session started ") - before <= 4


def test_options_that_are_none(sites: TwoSites, here: Path) -> None:
    with session(ask(sites.first, here)) as ftp:
        for words in ("NOSUCH", "LOGINS=0", "LOGINS=x", "RATE=-1", "RECURSIVE", "TREES TREES"):
            assert ftp.command(f"OPTS RCP {words}")[:3] == b"501", words
        ftp.ok("OPTS RCP TREES RECURSIVE")
        ftp.ok("OPTS RCP")
        assert status(ftp, 1).word == "UNKNOWN"

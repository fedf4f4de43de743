"""SEND-FILE, RECEIVE-FILE, RCP-STATUS and RCP-ABORT as old clients say them, on a node of ours (DATA-PLANE 12).

The other side is once a node of ours, of another site and with another Unix user, and once an upstream node.
"""

from __future__ import annotations

import base64
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from raw_ftp import eventually
from two_sites import PATIENCE, TwoSites, ask, session, started, status, wait_for_end
from uftp_site import Site
from upstream_layers import Layers
from upstream_node import UpstreamNode, upstream_node

CONTENT = os.urandom(1_000_003)
KEYS = {"AES": os.urandom(48), "BLOWFISH": os.urandom(56)}
LAYERS = ["plain", "gzip", "AES", "BLOWFISH"]


class OtherSide(Protocol):
    """The end of a copy that does not run it."""

    root: Path

    def admit(self, layer: str = "plain", streams: int = 1) -> tuple[str, str]:
        """Address and one-time password of a login there, whose base is `root`."""

    def put(self, name: str, content: bytes) -> Path:
        """A file there."""


def members(layer: str) -> dict[str, Any]:
    """What asks an auth server for a session with this layer."""
    if layer in KEYS:
        return {"encryptionKey": base64.b64encode(KEYS[layer]).decode(), "encryptionAlgorithm": layer}
    return {"compress": layer == "gzip"}


class OurSite:
    """A node of ours."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.root = site.directory()

    def admit(self, layer: str = "plain", streams: int = 1) -> tuple[str, str]:
        grant = ask(self.site, self.root, streamCount=streams, **members(layer))
        return grant.address, grant.secret

    def put(self, name: str, content: bytes) -> Path:
        return self.site.file(self.root / name, content)


class OldNode:
    """An upstream node."""

    def __init__(self, node: UpstreamNode) -> None:
        self.node = node
        self.root = node.root

    def admit(self, layer: str = "plain", streams: int = 1) -> tuple[str, str]:
        layers = Layers(compress=layer == "gzip", cipher=layer if layer in KEYS else "", key=KEYS.get(layer, b""))
        return self.node.address, self.node.expect(layers=layers, streams=streams)

    def put(self, name: str, content: bytes) -> Path:
        (self.root / name).write_bytes(content)
        return self.root / name


@pytest.fixture
def old(tmp_path: Path) -> Iterator[OldNode]:
    with upstream_node(tmp_path, host="127.0.0.2") as node:
        yield OldNode(node)


@pytest.fixture(params=["ours", "upstream"])
def other(request: pytest.FixtureRequest, sites: TwoSites) -> OtherSide:
    """The other side of a copy that the first site runs."""
    side: OtherSide = OurSite(sites.second) if request.param == "ours" else request.getfixturevalue("old")
    return side


Copy = Callable[..., tuple[str, dict[str, str]]]


@pytest.fixture
def here(sites: TwoSites) -> Path:
    """A directory at the first site."""
    return sites.first.directory()


@pytest.fixture
def copy(sites: TwoSites, here: Path) -> Copy:
    """Runs a copy at the first site to its end: verb, local, remote, the other side; lines before; what it came to."""

    def run(
        verb: str, local: str, remote: str, other: OtherSide, *before: str, layer: str = "plain", streams: int = 1
    ) -> tuple[str, dict[str, str]]:
        address, secret = other.admit(layer, streams)
        with session(ask(sites.first, here, streamCount=streams, **members(layer))) as ftp:
            for line in before:
                assert ftp.command(line)[:1] in (b"2", b"3")
            number = started(ftp.command(f"{verb} '{local}' '{remote}' '{address}' '{secret}'"))
            came_to = wait_for_end(ftp, number)
        return came_to.word, came_to.facts

    return run


def check_finished(came_to: tuple[str, dict[str, str]], size: int = len(CONTENT)) -> None:
    word, facts = came_to
    assert word == "FINISHED", facts
    assert (int(facts["bytes"]), int(facts["files"])) == (size, 1)


# -- whole files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("layer", LAYERS)
def test_receive(sites: TwoSites, here: Path, other: OtherSide, copy: Copy, layer: str, streams: int) -> None:
    other.put("theirs", CONTENT)
    check_finished(copy("RECEIVE-FILE", "got", "theirs", other, f"NOOP {streams}", layer=layer, streams=streams))
    assert (here / "got").read_bytes() == CONTENT
    if sites.first.as_root:
        assert (here / "got").stat().st_uid == sites.first.people[sites.first.first].uid


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("layer", LAYERS)
def test_send(sites: TwoSites, here: Path, other: OtherSide, copy: Copy, layer: str, streams: int) -> None:
    sites.first.file(here / "ours", CONTENT)
    check_finished(copy("SEND-FILE", "ours", "got", other, f"NOOP {streams}", layer=layer, streams=streams))
    assert (other.root / "got").read_bytes() == CONTENT
    assert [path.name for path in other.root.iterdir()] == ["got"]


@pytest.mark.parametrize("size", [0, 1])
def test_small_files(sites: TwoSites, here: Path, other: OtherSide, copy: Copy, size: int) -> None:
    other.put("theirs", bytes(size))
    sites.first.file(here / "ours", bytes(size))
    check_finished(copy("RECEIVE-FILE", "got", "theirs", other), size)
    check_finished(copy("SEND-FILE", "ours", "got", other), size)
    assert (here / "got").read_bytes() == (other.root / "got").read_bytes() == bytes(size)


def test_longer_files_that_are_there_are_replaced(sites: TwoSites, here: Path, other: OtherSide, copy: Copy) -> None:
    other.put("theirs", CONTENT)
    sites.first.file(here / "there", CONTENT + CONTENT)
    check_finished(copy("RECEIVE-FILE", "there", "theirs", other))
    assert (here / "there").read_bytes() == CONTENT
    sites.first.file(here / "ours", b"short")
    check_finished(copy("SEND-FILE", "ours", "theirs", other), 5)
    assert (other.root / "theirs").read_bytes() == b"short"


# -- ranges -------------------------------------------------------------------------------------------------------

RANGES = [
    (("RANG 1000 3000",), 1000, 3000),
    (("RANG 0 1",), 0, 1),
    ((f"RANG {len(CONTENT) - 5} {len(CONTENT)}",), len(CONTENT) - 5, len(CONTENT)),
    (("ALLO 777",), 0, 777),
    ((f"RANG 0 {len(CONTENT)}",), 0, len(CONTENT)),
]


@pytest.mark.parametrize(
    ("before", "first", "end"), RANGES, ids=lambda value: str(value) if isinstance(value, int) else ""
)
def test_ranges_go_to_the_same_place_of_the_target(
    sites: TwoSites, here: Path, other: OtherSide, copy: Copy, before: tuple[str, ...], first: int, end: int
) -> None:
    old_content = bytes(len(CONTENT) + 100)
    wanted = old_content[:first] + CONTENT[first:end] + old_content[end:]
    other.put("theirs", CONTENT)
    target = sites.first.file(here / "target", old_content)
    check_finished(copy("RECEIVE-FILE", "target", "theirs", other, *before), end - first)
    # ALLO without RANG sets a length only: the file is one of that length then (DATA-PLANE 5.3).
    assert target.read_bytes() == (wanted if before[0].startswith("RANG") else CONTENT[:end])
    sites.first.file(here / "ours", CONTENT)
    other.put("target", old_content)
    check_finished(copy("SEND-FILE", "ours", "target", other, *before), end - first)
    assert (other.root / "target").read_bytes() == (wanted if before[0].startswith("RANG") else CONTENT[:end])


def test_a_range_is_for_one_copy(sites: TwoSites, here: Path, other: OtherSide) -> None:
    other.put("theirs", CONTENT)
    with session(ask(sites.first, here)) as ftp:
        ftp.ok("RANG 10 20", 350)
        for name in ("part", "whole"):
            address, secret = other.admit()
            number = started(ftp.command(f"RECEIVE-FILE {name} theirs {address} {secret}"))
            assert wait_for_end(ftp, number).word == "FINISHED"
    assert (here / "part").read_bytes() == bytes(10) + CONTENT[10:20]
    assert (here / "whole").read_bytes() == CONTENT


def test_a_range_ends_where_the_file_ends(here: Path, other: OtherSide, copy: Copy) -> None:
    """As RETR has it (DATA-PLANE 5.3); the status says how much that was."""
    other.put("theirs", CONTENT)
    came_to = copy("RECEIVE-FILE", "target", "theirs", other, f"RANG 1000 {len(CONTENT) + 1000}")
    check_finished(came_to, len(CONTENT) - 1000)
    assert (here / "target").read_bytes() == bytes(1000) + CONTENT[1000:]


# -- the words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        "{verb} '{local}' '{remote}' '{address}' '{secret}'",
        "{verb} {local} {remote} {address} {secret}",
        '{verb} "{local}" "{remote}" {address} {secret}',
        "{verb}  '{local}'   '{remote}' '{address}' '{secret}' ",
        "{lower} '{local}' '{remote}' '{address}' '{secret}'",
    ],
    ids=["quoted", "bare", "double", "blanks", "lower case"],
)
def test_forms_of_the_command(sites: TwoSites, here: Path, other: OtherSide, form: str) -> None:
    other.put("theirs", CONTENT)
    address, secret = other.admit()
    words = {"verb": "RECEIVE-FILE", "lower": "receive-file", "local": "got", "remote": "theirs"}
    with session(ask(sites.first, here)) as ftp:
        number = started(ftp.command(form.format(**words, address=address, secret=secret)))
        assert wait_for_end(ftp, number).word == "FINISHED"
    assert (here / "got").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["two words", "ünicode", "it's", "a;b=c&d", "50%"])
def test_names(sites: TwoSites, here: Path, other: OtherSide, name: str) -> None:
    other.put(name, CONTENT)
    address, secret = other.admit()
    said = name.replace("'", "'\\''")
    with session(ask(sites.first, here)) as ftp:
        number = started(ftp.command(f"RECEIVE-FILE '{said}' '{said}' '{address}' '{secret}'"))
        came_to = wait_for_end(ftp, number)
        assert came_to.word == "FINISHED", came_to
    assert (here / name).read_bytes() == CONTENT


@pytest.mark.parametrize("verb", ["SEND-FILE", "RECEIVE-FILE"])
def test_what_cannot_be_started(sites: TwoSites, here: Path, other: OtherSide, verb: str) -> None:
    sites.first.file(here / "ours", CONTENT)
    address, secret = other.admit()
    with session(ask(sites.first, here)) as ftp:
        for words in ("", "a b", f"ours got {address}", f"ours got {address} {secret} more"):
            assert ftp.command(f"{verb} {words}".strip())[:4] == b"501 "
        for server in ("nowhere", "127.0.0.2:", ":64434", "127.0.0.2:99999", "127.0.0.2:0", "127.0.0.2:x"):
            assert ftp.command(f"{verb} ours got {server} {secret}")[:3] in (b"501", b"550", b"534")
        if verb == "SEND-FILE":
            assert ftp.command(f"{verb} nosuch got {address} {secret}")[:4] == b"550 "
        else:
            assert ftp.command(f"{verb} nosuch/got ours {address} {secret}")[:1] == b"5"
            assert ftp.command(f"{verb} ../got ours {address} {secret}")[:1] == b"5"
        ftp.ok("PWD", 257)


@pytest.mark.parametrize("verb", ["SEND-FILE", "RECEIVE-FILE"])
def test_a_server_that_is_not_listed_is_not_connected_to(sites: TwoSites, here: Path, verb: str) -> None:
    sites.first.file(here / "ours", CONTENT)
    with socket.create_server(("127.0.0.3", 0)) as listener, session(ask(sites.first, here)) as ftp:
        address = f"127.0.0.3:{listener.getsockname()[1]}"
        reply = ftp.command(f"{verb} 'ours' 'got' '{address}' 'secret'")
        assert reply[:1] == b"5", reply
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


# -- status and abort ---------------------------------------------------------------------------------------------


def test_status_is_in_the_form_of_the_document(sites: TwoSites, here: Path, other: OtherSide) -> None:
    other.put("theirs", CONTENT)
    address, secret = other.admit()
    with session(ask(sites.first, here)) as ftp:
        assert re.search(rb"^ RCP-PROGRESS\r$", ftp.command("FEAT"), re.MULTILINE)
        number = started(ftp.command(f"RECEIVE-FILE got theirs {address} {secret}"))
        assert wait_for_end(ftp, number).word == "FINISHED"
        reply = ftp.command(f"RCP-STATUS {number}")
        assert re.fullmatch(rb"299 FINISHED ([A-Za-z.]+=[^; \r\n]*;)+\r\n", reply)
        assert b"bytes=1000003;" in reply
        assert b"files=1;" in reply
        assert ftp.command(f"RCP-ABORT {number}") == b"299 FINISHED\r\n"
        for wrong in ("", "x", "-1", "1 2 3"):
            assert ftp.command(f"RCP-STATUS {wrong}".strip())[:4] == b"501 "
            assert ftp.command(f"RCP-ABORT {wrong}".strip())[:4] == b"501 "
        assert ftp.command(f"RCP-STATUS {number + 1}") == b"299 UNKNOWN\r\n"
        assert ftp.command("RCP-STATUS 1") == b"299 UNKNOWN\r\n"
    with session(ask(sites.first, here)) as again:
        assert status(again, number).word == "FINISHED"
    with session(ask(sites.second, sites.second.directory())) as stranger:
        assert status(stranger, number).word == "UNKNOWN"


def test_the_copy_goes_on_when_its_session_has_ended(sites: TwoSites, here: Path, other: OtherSide) -> None:
    other.put("theirs", CONTENT)
    address, secret = other.admit()
    with session(ask(sites.first, here)) as ftp:
        number = started(ftp.command(f"RECEIVE-FILE got theirs {address} {secret}"))
        ftp.close()
    with session(ask(sites.first, here)) as again:
        assert wait_for_end(again, number).word == "FINISHED"
    assert (here / "got").read_bytes() == CONTENT


def test_a_password_nobody_expects_fails_the_copy(sites: TwoSites, here: Path, other: OtherSide) -> None:
    address, _ = other.admit()
    with session(ask(sites.first, here)) as ftp:
        number = started(ftp.command(f"RECEIVE-FILE got theirs {address} wrong-secret-of-nobody"))
        came_to = wait_for_end(ftp, number)
    assert came_to.word == "FAILED"
    assert "password" in came_to.facts["error"]
    assert "wrong-secret" not in came_to.facts["error"]
    assert list(here.iterdir()) == []
    assert "wrong-secret" not in sites.first.log()


def test_a_file_that_is_not_there_fails_the_copy(here: Path, other: OtherSide, copy: Copy) -> None:
    word, facts = copy("RECEIVE-FILE", "got", "nosuch", other)
    assert word == "FAILED"
    assert "nosuch" in facts["error"]
    assert list(here.iterdir()) == []


def test_abort_leaves_nothing_under_the_final_name(sites: TwoSites, here: Path) -> None:
    """Of a whole file, in both directions, with a rate that gives time for it."""
    other = OurSite(sites.second)
    other.put("theirs", bytes(64 * 1024 * 1024))
    sites.first.file(here / "ours", bytes(64 * 1024 * 1024))
    for verb, words in (("RECEIVE-FILE", "got theirs"), ("SEND-FILE", "ours got")):
        address, secret = other.admit()
        with session(ask(sites.first, here)) as ftp:
            ftp.ok("OPTS RCP RATE=4194304")
            number = started(ftp.command(f"{verb} {words} {address} {secret}"))
            eventually(lambda: int(status(ftp, number).facts["bytes"]) > 0, PATIENCE, "the first bytes")  # noqa: B023
            assert ftp.command(f"RCP-ABORT {number}") == b"299 ABORTED\r\n"
            assert status(ftp, number).word == "ABORTED"
            assert ftp.command(f"RCP-ABORT {number}") == b"299 ABORTED\r\n"
        assert sorted(path.name for path in here.iterdir()) == ["ours"]
        eventually(lambda: [path.name for path in other.root.iterdir()] == ["theirs"], PATIENCE, "parts there")


def test_what_an_abort_keeps_a_later_copy_goes_on_with(sites: TwoSites, here: Path) -> None:
    size = 160 * 1024 * 1024
    other = OurSite(sites.second)
    source = other.put("theirs", os.urandom(1024 * 1024) * (size // 1024 // 1024))
    with session(ask(sites.first, here)) as ftp:
        address, secret = other.admit()
        ftp.ok("OPTS RCP RESUME RATE=67108864")
        number = started(ftp.command(f"RECEIVE-FILE got theirs {address} {secret}"))
        eventually(lambda: int(status(ftp, number).facts["bytes"]) > size // 2, PATIENCE, "half of the bytes")
        assert ftp.command(f"RCP-ABORT {number} KEEP") == b"299 ABORTED\r\n"
        assert not (here / "got").exists()
        assert [path for path in here.iterdir() if path.name.startswith(".uftp-")]
        address, secret = other.admit()
        ftp.ok("OPTS RCP RESUME")
        number = started(ftp.command(f"RECEIVE-FILE got theirs {address} {secret}"))
        came_to = wait_for_end(ftp, number)
        assert came_to.word == "FINISHED", came_to
    assert (here / "got").read_bytes() == source.read_bytes()
    assert [path.name for path in here.iterdir()] == ["got"]


# -- what upstream gets ---------------------------------------------------------------------------------------------


def test_an_upstream_node_is_spoken_to_as_it_understands(sites: TwoSites, here: Path, old: OldNode, copy: Copy) -> None:
    old.put("theirs", CONTENT)
    check_finished(copy("RECEIVE-FILE", "got", "theirs", old, "RANG 1000 3000"), 2000)
    sites.first.file(here / "ours", CONTENT)
    check_finished(copy("SEND-FILE", "ours", "got", old, "RANG 1000 3000"), 2000)
    ranges = [line for line in old.node.lines if line.startswith("RANG") and line != "RANG 1 0"]
    assert set(ranges) == {"RANG 1000 3000"}  # exclusive ends, for the data and for HASH
    assert not {"SIZE", "APPE", "REST", "RCP-STATUS"} & set(old.node.verbs())
    assert not [line for line in old.node.lines if line == "OPTS" or line.startswith("OPTS MODE")]


def test_one_login_is_enough_for_a_password_that_is_good_for_one(
    sites: TwoSites, here: Path, old: OldNode, copy: Copy
) -> None:
    old.put("theirs", CONTENT)
    check_finished(copy("RECEIVE-FILE", "got", "theirs", old))
    assert old.node.logins == 1

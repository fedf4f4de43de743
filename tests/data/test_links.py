"""Symbolic links as such: LINKS, UNIX.target and SITE SYMLINK (EXTENSIONS section 6), and where a walk has been."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_node import Node
from raw_ftp import RawFtp

from uftp.protocol.command_port import Access
from uftp.protocol.facts import FileInfo, parse_facts

ODD = b" 100%; \n\xff=\\"


@pytest.fixture
def base(shared_node: Node) -> Path:
    base = shared_node.directory()
    shared_node.file(base / "a.txt", b"content")
    for name, target in {b"link": b"a.txt", b"up": b".", b"dangling": ODD, b"out": b"/etc/passwd"}.items():
        os.symlink(target, os.fsencode(base) + b"/" + name)
    return base


@pytest.fixture
def ftp(shared_node: Node, base: Path) -> Iterator[RawFtp]:
    with shared_node.login(file=f"{base}/") as ftp:
        ftp.ok("OPTS NAMES PCT")
        yield ftp


def listed(ftp: RawFtp) -> dict[bytes, FileInfo]:
    lines = ftp.retrieve("MLSD")[1].split(b"\r\n")[:-1]
    found = [parse_facts(line, utc=True) for line in lines]
    return {info.name: info for info in found if info is not None}


def test_links_are_listed_as_such_only_where_that_is_asked_for(ftp: RawFtp) -> None:
    assert b" LINKS\r\n" in ftp.command("FEAT")
    before = listed(ftp)
    assert "dangling" not in before
    assert (before[b"link"].size, before[b"up"].is_dir) == (7, True)
    assert all(info.link is None for info in before.values())
    ftp.ok("OPTS MLST LINKS ON")
    now = listed(ftp)
    assert {name: info.link for name, info in now.items()} == {
        b"a.txt": None,
        b"link": b"a.txt",
        b"up": b".",
        b"dangling": ODD,
        b"out": b"/etc/passwd",
    }
    assert not now[b"up"].is_dir
    facts = ftp.command("MLST link").split(b"\r\n")[1]
    assert facts.startswith(b" ")
    assert b"type=OS.unix=symlink;" in facts
    assert b"UNIX.target=a.txt;" in facts
    assert b"type=file;" in ftp.command("MLST a.txt")
    # Other listings have no way to say it, and go on as they are.
    assert b"dangling" not in ftp.retrieve("NLST")[1]
    ftp.ok("OPTS MLST LINKS OFF")
    assert listed(ftp) == before
    assert b"type=file;" in ftp.command("MLST link")


def test_links_need_names_in_percent_encoding(shared_node: Node, base: Path) -> None:
    with shared_node.login(file=f"{base}/") as ftp:
        assert ftp.command("OPTS MLST LINKS ON")[:3] == b"503"
        assert ftp.command("SITE SYMLINK a.txt b")[:3] == b"503"
        ftp.ok("OPTS NAMES PCT")
        for wrong in ("MAYBE", "", "ON OFF"):
            assert ftp.command(f"OPTS MLST LINKS {wrong}")[:3] == b"501"
        ftp.ok("OPTS MLST LINKS ON")
        ftp.ok("OPTS NAMES RAW")
        assert b"type=file;" in ftp.command("MLST link")


def test_links_are_made(ftp: RawFtp, base: Path) -> None:
    said = b"".join(b"%%%02X" % byte for byte in ODD)
    ftp.ok(b"SITE SYMLINK " + said + b" new")
    assert os.readlink(os.fsencode(base) + b"/new") == ODD
    ftp.ok(b"SITE SYMLINK a.txt " + said)
    assert (base / os.fsdecode(ODD)).read_bytes() == b"content"
    for name in ("a.txt", "link", "dangling", "nosuch/new"):
        assert ftp.command(f"SITE SYMLINK a.txt {name}")[:1] == b"5", name
    for line in ("SITE SYMLINK", "SITE SYMLINK a.txt", "SITE SYMLINK a%00b c"):
        assert ftp.command(line)[:3] == b"501", line
    assert os.readlink(base / "link") == "a.txt"


@pytest.mark.parametrize("fields", [{"includes": ["*"]}, {"access": Access.WRITE}, {"scope": b"a.txt"}])
def test_restricted_sessions_make_no_links_and_see_none_that_lead_out(
    shared_node: Node, base: Path, fields: dict[str, object]
) -> None:
    (base / "abs").symlink_to(base / "a.txt")
    with shared_node.login(file=f"{base}/", **fields) as ftp:
        ftp.ok("OPTS NAMES PCT")
        assert ftp.command("SITE SYMLINK a.txt a.txt/new")[:1] == b"5"
        assert ftp.command("SITE SYMLINK /etc new")[:1] == b"5"
        assert not os.path.lexists(base / "new")
        ftp.ok("OPTS MLST LINKS ON")
        assert not {b"out", b"dangling", b"abs"} & set(listed(ftp))
        assert b"passwd" not in ftp.retrieve("MLSD")[1]


def test_directories_tell_which_one_they_are(ftp: RawFtp, base: Path) -> None:
    assert b"unique=" not in ftp.retrieve("MLSD")[1]
    ftp.ok("OPTS UTC ON")
    (base / "sub").mkdir()
    found = listed(ftp)
    top = parse_facts(ftp.command("MLST .").split(b"\r\n")[1], utc=True)
    assert top is not None
    info = base.stat()
    assert found[b"up"].unique == top.unique == b"%xg%x" % (info.st_dev, info.st_ino)
    assert found[b"sub"].unique not in (None, top.unique)
    assert found[b"a.txt"].unique is None


def test_a_store_takes_the_place_of_a_link_or_goes_where_it_leads(shared_node: Node, base: Path) -> None:
    outside = shared_node.file(shared_node.directory() / "outside", b"old")
    (base / "away").symlink_to(outside)
    with shared_node.login(file=f"{base}/") as ftp:
        ftp.ok("OPTS NAMES PCT")
        assert ftp.store("STOR link", b"followed")[:3] == b"226"
        assert (base / "a.txt").read_bytes() == b"followed"
        assert (base / "link").is_symlink()
        ftp.ok("OPTS LINKS REPLACE")
        assert ftp.store("STOR away", b"replaced")[:3] == b"226"
        assert ftp.store("STOR dangling", b"replaced")[:3] == b"226"
        # A range cannot be written into a link, and the link is no file that could be kept.
        ftp.ok("RANG 1 3", 350)
        with ftp.data():
            assert ftp.command("STOR link")[:1] == b"5"
        ftp.ok("OPTS LINKS FOLLOW")
        assert ftp.store("STOR link", b"again")[:3] == b"226"
        for wrong in ("KEEP", "REPLACE FOLLOW"):
            assert ftp.command(f"OPTS LINKS {wrong}")[:3] == b"501"
    assert outside.read_bytes() == b"old"
    for name in ("away", "dangling"):
        assert not (base / name).is_symlink()
        assert (base / name).read_bytes() == b"replaced"
    assert (base / "a.txt").read_bytes() == b"again"
    assert sorted(os.listdir(base)) == ["a.txt", "away", "dangling", "link", "out", "up"]

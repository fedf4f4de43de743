"""Archive mode on a running node: what is unpacked, what is refused, and that nothing gets outside."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import stat
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from data_node import Node, StartNode
from raw_ftp import RawFtp, eventually

from uftp.protocol.command_port import Access

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "vectors" / "archive.json").read_text())[
    "cases"
]
DONE = b"226 File transfer successful\r\n"


def tree(top: Path) -> dict[str, str]:
    """Files below `top`; links are not followed."""
    return {str(p.relative_to(top)): p.read_text() for p in top.rglob("*") if p.is_file() and not p.is_symlink()}


def tar(*members: tuple[str, bytes | str | None]) -> bytes:
    """An archive: bytes are files, text the target of a link, None a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            else:
                info.type = tarfile.DIRTYPE if content is None else tarfile.SYMTYPE
                info.linkname, info.mode = content or "", 0o755
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def upload(ftp: RawFtp, directory: str, data: bytes) -> bytes:
    """Unpack; the final reply."""
    ftp.ok("TYPE ARCHIVE")
    return ftp.store(f"STOR {directory}", data)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["note"][:30])
def test_vectors(shared_node: Node, case: dict[str, Any]) -> None:
    base = shared_node.directory()
    with shared_node.login(file=f"{base}/") as ftp:
        answer = upload(ftp, ".", zlib.decompress(base64.b64decode(case["zlib_base64"])))
    found = tree(base)
    if case.get("final_reply_code") == 534:
        assert found.pop("later.txt") == "2", "others stop at the first refusal; here the rest is unpacked"
    assert found == case["expect"]
    if "final_reply" in case:
        assert answer == case["final_reply"].encode() + b"\r\n"
    elif "final_reply_code" in case:
        assert answer.startswith(b"%d " % case["final_reply_code"])


def test_the_mode_is_switched_on_and_off(shared_node: Node) -> None:
    base = shared_node.directory()
    (base / "d").mkdir()
    os.chown(base / "d", shared_node.person.uid, shared_node.person.gid)
    archive = tar(("f", b"1"))
    with shared_node.login(file=f"{base}/") as ftp:
        assert b" ARCHIVE\r\n" in ftp.command("FEAT")
        for on, off in (("TYPE ARCHIVE", "TYPE NORMAL"), ("OPTS ARCHIVE true", "OPTS ARCHIVE false")):
            ftp.ok(on)
            for neutral in ("TYPE I", "TYPE A"):
                ftp.ok(neutral)
            assert ftp.store("STOR d", archive) == DONE
            assert ftp.retrieve("RETR d/f")[1] == b"1", "downloads are as ever"
            assert ftp.command("STOR d/f").startswith(b"550 ")
            assert ftp.command("STOR nosuch").startswith(b"550 ")
            ftp.ok(off)
            assert ftp.store("STOR plain", archive) == DONE
            assert (base / "plain").read_bytes() == archive
    assert sorted(p.name for p in base.iterdir()) == ["d", "plain"]


def test_refusals_before_150_leave_the_data_connection(shared_node: Node) -> None:
    base = shared_node.directory()
    with shared_node.login(file=f"{base}/") as ftp, ftp.data() as data:
        ftp.ok("TYPE ARCHIVE")
        assert ftp.command("STOR nosuch").startswith(b"550 ")
        assert ftp.command("STOR .") == b"150 OK\r\n"
        data.sendall(tar(("f", b"1")))
        data.shutdown(socket.SHUT_WR)
        assert ftp.reply() == DONE
    assert tree(base) == {"f": "1"}


def test_modes_and_times(shared_node: Node) -> None:
    base = shared_node.directory()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, mode in (("script", 0o755), ("private", 0o600), ("open", 0o666), ("set", 0o6755), ("closed", 0)):
            info = tarfile.TarInfo(name)
            info.mode, info.mtime, info.uid, info.gid = mode, 1_111_111_111.25, 0, 0
            archive.addfile(info)
        for name, mode in (("shut", 0o500), ("wide", 0o2777)):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, mode
            archive.addfile(info)
    with shared_node.login(file=f"{base}/") as ftp:
        for _ in range(2):
            assert upload(ftp, ".", out.getvalue()) == DONE
    wanted = {"script": 0o755, "private": 0o600, "open": 0o644, "set": 0o755, "closed": 0o600}
    for name, mode in wanted.items():
        found = (base / name).stat()
        assert stat.S_IMODE(found.st_mode) == mode, name
        assert found.st_mtime_ns == 1_111_111_111_250_000_000
        assert found.st_uid == shared_node.person.uid
    assert stat.S_IMODE((base / "shut").stat().st_mode) == 0o700
    assert stat.S_IMODE((base / "wide").stat().st_mode) == 0o755


def test_nothing_leaves_the_target(shared_node: Node) -> None:
    base = shared_node.directory()
    outside = shared_node.directory()
    shared_node.file(outside / "victim", b"as it was")
    inside = base / "in"
    inside.mkdir()
    os.chown(inside, shared_node.person.uid, shared_node.person.gid)
    (inside / "out").symlink_to(outside)
    (inside / "up").symlink_to("..")
    (inside / "link").symlink_to(outside / "victim")
    (inside / "dangling").symlink_to(outside / "new")
    os.mkfifo(inside / "pipe")
    bad = {
        "../escaped": "leads upwards",
        "a/../../escaped": "leads upwards",
        f"{outside}/absolute": "absolute name",
        "out/through": "through a link",
        "out/deep/er": "through a link",
        "up/escaped": "through a link",
        "pipe": "something else",
        "..": "leads upwards",
    }
    for name, reason in bad.items():
        with shared_node.login(file=f"{base}/") as ftp:
            answer = upload(ftp, "in", tar((name, b"evil"), ("good", name.encode())))
        forbidden = "upwards" in reason or "absolute" in reason
        assert answer.startswith(b"534 " if forbidden else b"550 "), answer
        assert b"1 of 2 members not unpacked: " in answer
        assert reason.encode() in answer
        assert (inside / "good").read_bytes() == name.encode()
    # The archive's own links are not there to go through, and links in the way are replaced, not followed.
    with shared_node.login(file=f"{base}/") as ftp:
        answer = upload(ftp, "in", tar(("l", str(outside)), ("l/x", b"evil"), ("link", b"mine"), ("dangling", b"mine")))
    assert b"1 of 4 members not unpacked: l is a link\r\n" in answer
    assert tree(outside) == {"victim": "as it was"}
    assert sorted(p.name for p in base.iterdir()) == ["in"]
    assert (inside / "l" / "x").read_bytes() == b"evil"
    for name in ("link", "dangling"):
        assert not (inside / name).is_symlink()
        assert (inside / name).read_bytes() == b"mine"


def test_hard_links_are_broken_not_written_through(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "one", b"old")
    os.link(base / "one", base / "two")
    with shared_node.login(file=f"{base}/") as ftp:
        assert upload(ftp, ".", tar(("two", b"new"))) == DONE
    assert tree(base) == {"one": "old", "two": "new"}


def test_what_is_in_the_way(shared_node: Node) -> None:
    base = shared_node.directory()
    shared_node.file(base / "file", b"old")
    shared_node.file(base / "readonly", b"old", 0o444)
    (base / "dir").mkdir()
    members = (("file/x", b"1"), ("file", None), ("dir", b"1"), ("readonly", b"new"), ("good", b"1"))
    with shared_node.login(file=f"{base}/") as ftp:
        answer = upload(ftp, ".", tar(*members))
    # The fourth is for others than root only, whom no mode keeps out; here nobody is root.
    assert answer.startswith(b"550 ")
    assert b"4 of 5 members not unpacked: " in answer
    assert b"and 1 more" in answer
    assert tree(base) == {"file": "old", "readonly": "old", "good": "1"}


def test_rules_of_the_session_hold_for_each_member(shared_node: Node) -> None:
    base = shared_node.directory()
    archive = tar(("a.key", b"1"), ("sub/b.key", b"1"), ("sub/c.txt", b"1"))
    with shared_node.login(file=f"{base}/", excludes=("*.key",)) as ftp:
        answer = upload(ftp, ".", archive)
    assert answer.startswith(b"534 ")
    assert b"2 of 3 members not unpacked: " in answer
    assert tree(base) == {"sub/c.txt": "1"}
    with shared_node.login(file=f"{base}/", includes=("sub",)) as ftp:
        assert upload(ftp, ".", tar(("sub/d", b"1"), ("e", b"1"))).startswith(b"534 ")
    assert tree(base) == {"sub/c.txt": "1", "sub/d": "1"}
    with shared_node.login(file=f"{base}/", access=Access.READ) as ftp:
        ftp.ok("TYPE ARCHIVE")
        with ftp.data():
            assert ftp.command("STOR .").startswith(b"534 ")


def test_write_protected_files_are_kept(shared_node: Node) -> None:
    home = shared_node.person.home
    if not shared_node.as_root:
        pytest.skip("the home of whoever runs the tests is left alone")
    (home / ".ssh").mkdir(exist_ok=True)
    os.chown(home / ".ssh", shared_node.person.uid, shared_node.person.gid)
    for target, name in ((str(home), ".ssh/authorized_keys"), (str(home / ".ssh"), "authorized_keys")):
        with shared_node.login(file=f"{target}/") as ftp:
            answer = upload(ftp, ".", tar((name, b"evil")))
        assert answer.startswith(b"534 ")
        assert b"write-protected" in answer
    assert not (home / ".ssh" / "authorized_keys").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", b"nothing came"),
        (b"\x1f\x8b" + bytes(600), b"compressed by gzip"),
        (b"plain text" * 100, b"neither a tar nor a zip archive"),
        (tar(("whole", b"1"), ("cut", b"x" * 5000))[:3000], b"ended in the middle"),
        (tar(("whole", b"1"))[:1024], b"without its end mark"),
    ],
)
def test_damage_ends_it_and_says_so(shared_node: Node, data: bytes, said: bytes) -> None:
    base = shared_node.directory()
    with shared_node.login(file=f"{base}/") as ftp:
        answer = upload(ftp, ".", data)
        assert answer.startswith(b"550 ")
        assert said in answer
        assert tree(base) == ({"whole": "1"} if b"whole" in data else {})
        assert upload(ftp, ".", tar(("next", b"1"))) == DONE
    assert not [p for p in base.iterdir() if p.name.startswith(".uftp")]


def test_what_follows_the_end_is_read_and_dropped(shared_node: Node) -> None:
    base = shared_node.directory()
    with shared_node.login(file=f"{base}/") as ftp:
        assert upload(ftp, ".", tar(("f", b"1")) + os.urandom(3_000_000)) == DONE
    assert tree(base) == {"f": "1"}


def test_an_announced_length_ends_it_on_a_connection_that_stays(shared_node: Node) -> None:
    base = shared_node.directory()
    archive = tar(("f", b"1"))
    with shared_node.login(file=f"{base}/") as ftp:
        ftp.ok("KEEP-ALIVE true")
        ftp.ok("TYPE ARCHIVE")
        with ftp.data() as data:
            for _ in range(2):
                ftp.ok(f"ALLO {len(archive)}")
                assert ftp.command("STOR .") == b"150 OK\r\n"
                data.sendall(archive)
                assert ftp.reply() == DONE
            ftp.ok(f"ALLO {len(archive) + 1}")
            assert ftp.command("STOR .") == b"150 OK\r\n"
            data.sendall(archive)
            data.shutdown(socket.SHUT_WR)
            assert ftp.reply().startswith(b"551 ")


def test_an_abort_leaves_whole_members_and_no_part(shared_node: Node) -> None:
    base = shared_node.directory()
    archive = tar(("whole", b"1"), ("half", bytes(5_000_000)))
    with shared_node.login(file=f"{base}/") as ftp:
        ftp.ok("TYPE ARCHIVE")
        with ftp.data() as data:
            assert ftp.command("STOR .") == b"150 OK\r\n"
            data.sendall(archive[:2_000_000])
            eventually(lambda: (base / "whole").exists())
            assert ftp.command("ABOR").startswith(b"426 ")
            assert ftp.reply().startswith(b"226 ")
        assert tree(base) == {"whole": "1"}
        assert [p.name for p in base.iterdir()] == ["whole"]


def test_a_full_disk_ends_it(start_node: StartNode, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    node = start_node()
    base = node.directory()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size=1m,uid={node.person.uid},mode=755", "none", str(base)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("this system mounts nothing")
    try:
        with node.login(file=f"{base}/") as ftp:
            answer = upload(ftp, ".", tar(("small", b"1"), ("large", bytes(3_000_000)), ("never", b"1")))
            assert answer.startswith(b"552 ")
        assert [p.name for p in base.iterdir()] == ["small"]
    finally:
        # The session that had it open may not have ended yet.
        eventually(lambda: subprocess.run(["umount", str(base)], capture_output=True, check=False).returncode == 0)


def test_many_small_members(shared_node: Node) -> None:
    base = shared_node.directory()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(2000):
            archive.writestr(f"d{number % 7}/f{number}", str(number))
    with shared_node.login(file=f"{base}/") as ftp:
        assert upload(ftp, ".", out.getvalue()) == DONE
    assert len(tree(base)) == 2000
    line = shared_node.wait_log("archive", path=str(base), files=2000)
    assert (line["failed"], line["directories"]) == (0, 0)

"""Restricted sessions stay inside; files the site protects stay as they are, by whatever way they are reached."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from data_node import Node, StartNode
from raw_ftp import RawFtp

from uftp.protocol.command_port import Access

DONE = b"226 File transfer successful\r\n"


def populate(node: Node) -> Path:
    """A base with links that lead out of it, and about in it."""
    top = node.directory()
    for path in ("base", "base/sub", "base/sub/deep", "base2", "outside"):
        (top / path).mkdir()
        os.chown(top / path, node.person.uid, node.person.gid)
    base = top / "base"
    for path in ("a.txt", "b.key", "sub/c.txt", "sub/d.key", "sub/deep/e.txt", "../base2/x.txt", "../outside/y.txt"):
        node.file(base / path, path.encode())
    links = {
        "out.txt": "../outside/y.txt",
        "absolute.txt": f"{top}/outside/y.txt",
        "outdir": "../outside",
        "up": "..",
        "inner.txt": "b.key",
        "sub/back": "..",
        "good.txt": "a.txt",
        "gooddir": "sub",
        "dangling.txt": "nowhere",
        "root.txt": "/",
    }
    for name, target in links.items():
        (base / name).symlink_to(target)
    return base


OUT = ("out.txt", "absolute.txt", "outdir/y.txt", "up/outside/y.txt", "sub/../up/base2/x.txt", "root.txt/etc/passwd")


@pytest.mark.parametrize(
    "fields",
    [{"access": Access.WRITE}, {"includes": ("*.txt",)}, {"excludes": ("*.key",)}, {"includes": ("*",)}],
    ids=str,
)
def test_no_way_out(shared_node: Node, fields: dict[str, Any]) -> None:
    base = populate(shared_node)
    top = base.parent
    before = snapshot(top)
    with shared_node.login(file=f"{base}/", **fields) as ftp, ftp.data():
        for name in (*OUT, "../base2/x.txt", f"{top}/outside/y.txt", "..", "../outside", "outdir", "up"):
            for verb in ("RETR", "STOR", "APPE", "HASH", "SIZE", "MDTM", "MLST", "DELE", "RMD", "STAT F", "CWD"):
                if verb in ("DELE",) and name in ("out.txt", "absolute.txt", "outdir", "up"):
                    continue  # the link itself is the session's own
                answer = ftp.command(f"{verb} {name}")
                assert answer[:1] == b"5", (verb, name, answer)
            assert ftp.command(f"MFMT 20200101000000 {name}")[:1] == b"5"
            assert ftp.command(f"SITE CHMOD 777 {name}")[:1] == b"5"
            assert ftp.command(f"MKD {name}/new")[:1] == b"5"
            for source, target in ((f"{name}/y.txt", "stolen.txt"), ("a.txt", f"{name}/moved.txt")):
                assert rename(ftp, source, target)[:1] == b"5"
        assert snapshot(top) == before
    with shared_node.login(file=f"{base}/", **fields) as ftp:
        for listed in (ftp.retrieve("NLST")[1], ftp.retrieve("NLST .")[1]):
            names = set(listed.decode().split("\r\n"))
            assert not names & {"out.txt", "absolute.txt", "outdir", "up", "root.txt", "dangling.txt"}, names
            assert {"a.txt", "good.txt"} <= names
        status = ftp.command("STAT N .")
        assert b"out" not in status
        assert b"up" not in status


def rename(ftp: RawFtp, source: str, target: str) -> bytes:
    """The reply that decides."""
    answer = ftp.command(f"RNFR {source}")
    return ftp.command(f"RNTO {target}") if answer[:3] == b"350" else answer


def snapshot(top: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (info.st_mode, info.st_mtime_ns, content)
    return found


@pytest.mark.parametrize("fields", [{"includes": ("*.txt",)}, {"excludes": ("*.key",)}], ids=str)
def test_what_is_not_admitted_is_not_there(shared_node: Node, fields: dict[str, Any]) -> None:
    base = populate(shared_node)
    with shared_node.login(file=f"{base}/", **fields) as ftp:
        with ftp.data():
            # By name, through a link in an admitted name, and through directory links.
            for name in ("b.key", "sub/d.key", "inner.txt", "sub/back/b.key", "gooddir/d.key", "sub/back/sub/d.key"):
                for verb in ("RETR", "HASH", "SIZE", "MDTM", "MLST", "STAT F", "STOR", "APPE"):
                    answer = ftp.command(f"{verb} {name}")
                    assert answer[:1] == b"5", (verb, name, answer)
                if name != "inner.txt":  # the link itself is admitted
                    assert rename(ftp, name, "x.txt")[:3] == b"534", name
                    assert ftp.command(f"DELE {name}")[:3] == b"534", name
                assert ftp.command(f"SITE CHMOD 777 {name}")[:1] == b"5", name
            ftp.ok("RNFR a.txt", 350)
            assert ftp.command("RNTO a.key")[:3] == b"534"
            for name in ("new.key", "sub/new.key"):
                assert ftp.command(f"STOR {name}")[:3] == b"534", name
                assert ftp.command(f"MKD {name}")[:3] == b"534", name
        assert ftp.retrieve("RETR good.txt")[1] == b"a.txt"
        assert ftp.retrieve("RETR gooddir/c.txt")[1] == b"sub/c.txt"
        assert ftp.retrieve("RETR sub/deep/e.txt")[1] == b"sub/deep/e.txt"
        ftp.ok("CWD sub")
        for line in ("NLST", "LIST", "MLSD"):
            listed = ftp.retrieve(line)[1]
            assert b"d.key" not in listed, line
            assert b"c.txt" in listed, line
        assert b".key" not in ftp.command("STAT N ..")
    assert (base / "b.key").read_bytes() == b"b.key"


def test_a_start_directory_that_is_excluded_is_said_before_login(shared_node: Node) -> None:
    answer = shared_node.login_fails(file="", excludes=("/*",))
    assert answer == b"530 Not logged in: path is not part of this session\r\n"


def test_a_directory_with_excluded_files_is_not_renamed(shared_node: Node) -> None:
    base = populate(shared_node)
    with shared_node.login(file=f"{base}/", excludes=("sub/d.key",)) as ftp:
        for source in ("sub", "gooddir/../sub"):
            ftp.ok(f"RNFR {source}", 350)
            assert ftp.command("RNTO other")[:3] == b"534"
        ftp.ok("RNFR sub/deep", 350)
        ftp.ok("RNTO deeper")
        assert b"d.key" not in ftp.retrieve("NLST sub")[1]
    assert (base / "deeper" / "e.txt").exists()


@pytest.mark.parametrize("scope", [b"sub", b"sub/deep", b"a.txt"])
def test_scope(shared_node: Node, scope: bytes) -> None:
    base = populate(shared_node)
    with shared_node.login(file=f"{base}/", scope=scope) as ftp:
        listed = ftp.retrieve("NLST")[1].split()
        assert listed == [scope.split(b"/")[0]] or listed == [b"sub", b"gooddir"] or set(listed) <= {b"sub", b"gooddir"}
        for name in ("b.key", "good.txt" if scope != b"a.txt" else "b.key", "sub2", "sub/../b.key", "sub/back/b.key"):
            ftp.data().close()
            assert ftp.command(f"RETR {name}")[:1] == b"5", name
        with ftp.data():
            assert ftp.command("STOR new.txt")[:1] == b"5"
            assert ftp.command("STOR subnew.txt")[:1] == b"5"
        if scope == b"sub":
            assert ftp.retrieve("RETR sub/c.txt")[1] == b"sub/c.txt"
            assert ftp.store("STOR sub/new.txt", b"1") == DONE
        if scope == b"sub/deep":
            assert ftp.retrieve("RETR sub/deep/e.txt")[1] == b"sub/deep/e.txt"
            assert ftp.retrieve("NLST sub")[1] == b"deep\r\n"
        if scope == b"a.txt":
            assert ftp.retrieve("RETR a.txt")[1] == b"a.txt"
            assert ftp.store("STOR a.txt", b"1") == DONE


@pytest.mark.parametrize("scope", [b"sub", b"a.txt", b"sub/deep", b"nowhere", b"nowhere/below"])
def test_a_scope_is_not_left(shared_node: Node, scope: bytes) -> None:
    """By no verb, whatever stands before the name: `..`, links, the other name of a directory, renames."""
    base = populate(shared_node)
    top = base.parent
    before = {name: value for name, value in snapshot(top).items() if not beneath(name, top, scope)}
    names = [*OUT, "b.key", "../base2/x.txt", f"{base}/b.key", "sub/../b.key", "sub/back/b.key", "subx", "a.txtx"]
    names += ["gooddir/../b.key", "inner.txt", "up/base/b.key", "nowhere/../b.key", "sub/deep/../../b.key", "..", "/"]
    names += [f"{scope.decode()}/../b.key", f"{scope.decode()}/../../base2/x.txt", f"{scope.decode()}x"]
    with shared_node.login(file=f"{base}/", scope=scope) as ftp, ftp.data():
        for name in names:
            for verb in ("RETR", "STOR", "APPE", "HASH", "SIZE", "MDTM", "MLST", "DELE", "RMD", "STAT F"):
                answer = ftp.command(f"{verb} {name}")
                assert answer[:1] == b"5", (verb, name, answer)
            assert ftp.command(f"MFMT 20200101000000 {name}")[:1] == b"5", name
            assert ftp.command(f"SITE CHMOD 777 {name}")[:1] == b"5", name
            assert ftp.command(f"MKD {name}/new")[:1] == b"5", name
            for source, target in (
                (name, scope.decode()),
                (name, f"{scope.decode()}/stolen"),
                (scope.decode(), name),
                (f"{scope.decode()}/c.txt", name),
            ):
                assert rename(ftp, source, target)[:1] == b"5", (source, target)
    after = {name: value for name, value in snapshot(top).items() if not beneath(name, top, scope)}
    assert after == before


def beneath(path: str, top: Path, scope: bytes) -> bool:
    inside = f"{top}/base/{scope.decode()}"
    return path == inside or path.startswith(f"{inside}/")


def test_a_link_inside_a_scope_does_not_lead_out_of_it(shared_node: Node) -> None:
    base = populate(shared_node)
    (base / "sub" / "key").symlink_to("../b.key")
    (base / "sub" / "same").symlink_to("c.txt")
    (base / "linked").symlink_to("sub")
    with shared_node.login(file=f"{base}/", scope=b"sub") as ftp:
        listed = set(ftp.retrieve("NLST sub")[1].decode().split())
        assert listed == {"c.txt", "d.key", "deep", "same", "back"}
        assert ftp.retrieve("NLST sub/back")[1] == b"sub\r\n", "the way to the scope, and nothing beside it"
        assert ftp.retrieve("RETR sub/same")[1] == b"sub/c.txt"
        with ftp.data():
            for verb in ("RETR", "STOR", "APPE", "HASH", "MDTM"):
                assert ftp.command(f"{verb} sub/key")[:1] == b"5", verb
    # A scope that is a link itself leads nowhere: it would be whatever the link is made to be later.
    with shared_node.login(file=f"{base}/", scope=b"linked") as ftp, ftp.data():
        for line in ("RETR linked/c.txt", "NLST linked", "STOR linked/new", "CWD linked", "MLST linked/c.txt"):
            assert ftp.command(line)[:1] == b"5", line
    assert (base / "b.key").read_bytes() == b"b.key"


def test_a_scope_may_come_to_be(shared_node: Node) -> None:
    base = populate(shared_node)
    with shared_node.login(file=f"{base}/", scope=b"inbox") as ftp:
        ftp.ok("MKD inbox", 257)
        assert ftp.store("STOR inbox/new.txt", b"1") == DONE
        with ftp.data():
            assert ftp.command("STOR other.txt")[:1] == b"5"
    assert (base / "inbox" / "new.txt").read_bytes() == b"1"


def test_a_scope_of_any_name(shared_node: Node) -> None:
    base = populate(shared_node)
    name = b"a *[b] %41\n\xff"
    (Path(os.fsdecode(os.fsencode(base) + b"/" + name))).write_bytes(b"odd")
    shared_node.file(base / "a xb %41", b"other")
    with shared_node.login(file=f"{base}/", scope=name) as ftp:
        ftp.ok("OPTS NAMES PCT", 200)
        assert ftp.retrieve("RETR a%20*[b]%20%2541%0A%FF")[1] == b"odd"
        with ftp.data():
            assert ftp.command("RETR a%20xb%20%2541")[:1] == b"5"


@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        (Access.NONE, ""),
        (Access.INFO, "info"),
        (Access.READ, "info read"),
        (Access.WRITE, "info read write"),
        (Access.FULL, "info read write full"),
    ],
)
def test_access_levels(shared_node: Node, access: Access, allowed: str) -> None:
    base = populate(shared_node)
    commands = {
        "info": ["PWD", "CWD sub", "CDUP", "LIST", "MLSD", "NLST", "STAT N", "MLST a.txt", "SIZE a.txt", "MDTM a.txt"],
        "read": ["RETR a.txt", "HASH a.txt"],
        "write": ["STOR n.txt", "APPE n.txt", "ALLO 1", "MKD n", "RNFR n", "RNTO m", "SITE CHMOD 700 m"],
        "full": ["DELE a.txt", "RMD m"],
    }
    commands["write"] += ["MFMT 20200101000000 a.txt", "MFF UNIX.mode=600; a.txt"]
    with shared_node.login(file=f"{base}/", access=access) as ftp:
        for level, lines in commands.items():
            for line in lines:
                with ftp.data():
                    answer = ftp.command(line)
                    verb = line.split()[0]
                    denied = f"534 Error processing command '{verb}': Access denied\r\n".encode()
                    if line == "CDUP":
                        assert answer != denied
                    else:
                        assert (answer == denied) == (level not in allowed.split()), (line, answer)
                if answer[:3] == b"150":
                    assert ftp.reply()[:1] in b"25"
        for line in ("NOOP", "SYST", "FEAT", "TYPE I", "REST 0", "RANG 1 0", "OPTS", "KEEP-ALIVE false", "QUIT"):
            assert ftp.command(line)[:1] in b"23", line


# -- files the site protects ----------------------------------------------------------------------------------------


@pytest.fixture
def keys(shared_node: Node, spare_home: Path) -> Path:
    home = spare_home
    (home / ".ssh").mkdir(exist_ok=True)
    shared_node.file(home / ".ssh" / "authorized_keys", b"ssh-ed25519 AAAA me\n", 0o600)
    os.chown(home / ".ssh", shared_node.person.uid, shared_node.person.gid)
    for name, target in {"keys": ".ssh/authorized_keys", "dotssh": ".ssh", "here": "."}.items():
        if not (home / name).is_symlink():
            (home / name).symlink_to(target)
    return home / ".ssh" / "authorized_keys"


def test_protected_files_cannot_be_changed(shared_node: Node, keys: Path) -> None:
    home = keys.parent.parent
    before = keys.read_bytes()
    with shared_node.login(file="") as ftp:
        assert ftp.store("STOR mine", b"ssh-ed25519 BBBB stranger\n") == DONE
        ways = [
            ".ssh/authorized_keys",
            "keys",
            "dotssh/authorized_keys",
            "here/.ssh/authorized_keys",
            "here/dotssh/authorized_keys",
            f"/proc/self/root{keys}",
        ]
        for way in ways:
            with ftp.data():
                for line in (f"STOR {way}", f"APPE {way}", f"MKD {way}"):
                    assert ftp.command(line)[:1] == b"5", line
                ftp.ok("RANG 0 5", 350)
                assert ftp.command(f"STOR {way}")[:1] == b"5"
            for line in (f"MFMT 20200101000000 {way}", f"MFF UNIX.mode=666; {way}", f"SITE CHMOD 666 {way}"):
                assert ftp.command(line)[:3] in (b"534", b"550"), line
            if way == "keys":
                continue  # the link is not the file
            assert ftp.command(f"DELE {way}")[:1] == b"5", way
            assert rename(ftp, "mine", way)[:1] == b"5", way
            assert rename(ftp, way, "gone")[:1] == b"5", way
        ftp.ok("MKD trojan", 257)
        for way in (".ssh", "here/.ssh", f"/proc/self/root{keys.parent}", str(home)):
            assert rename(ftp, way, f"{home.parent}/x")[:1] == b"5", way
            assert rename(ftp, "trojan", way)[:1] == b"5", way
        # They can be read, and other files beside them are free.
        assert ftp.retrieve("RETR .ssh/authorized_keys")[1] == before
        assert ftp.store("STOR .ssh/known_hosts", b"x") == DONE
        ftp.ok("DELE .ssh/known_hosts")
        ftp.ok("RMD trojan")
        ftp.ok("DELE mine")
    assert keys.read_bytes() == before
    assert keys.stat().st_mode & 0o777 == 0o600


def test_a_protected_file_that_is_a_link(shared_node: Node, keys: Path) -> None:
    home = keys.parent.parent
    real = home / "elsewhere"
    keys.rename(real)
    keys.symlink_to(real)
    try:
        with shared_node.login(file="") as ftp, ftp.data():
            for line in ("STOR elsewhere", "APPE elsewhere", "SITE CHMOD 666 elsewhere", "DELE elsewhere"):
                assert ftp.command(line)[:1] == b"5", line
            assert ftp.command("STOR .ssh/authorized_keys")[:1] == b"5"
    finally:
        real.rename(keys)


def test_a_missing_protected_file_is_not_made(shared_node: Node, keys: Path) -> None:
    keys.unlink()
    (keys.parent).rmdir()
    with shared_node.login(file="") as ftp:
        ftp.ok("MKD trojan", 257)
        assert ftp.store("STOR trojan/authorized_keys", b"stranger") == DONE
        ftp.ok("RNFR trojan", 350)
        assert ftp.command("RNTO .ssh")[:3] == b"534"
        ftp.ok("MKD .ssh", 257)
        ftp.ok("RNFR trojan/authorized_keys", 350)
        assert ftp.command("RNTO .ssh/authorized_keys")[:3] == b"534"
        ftp.ok("RNFR trojan/authorized_keys", 350)
        assert ftp.command("RNTO dotssh/authorized_keys")[:3] == b"534"
        ftp.ok("DELE trojan/authorized_keys")
        ftp.ok("RMD trojan")
    assert list(keys.parent.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("lacking", ["openat2", "landlock", "openat2 landlock"])
def test_an_older_kernel(start_node: StartNode, lacking: str) -> None:
    node = start_node(environment={"TEST_WITHOUT": lacking})
    base = populate(node)
    before = snapshot(base.parent)
    for fields in ({"access": Access.WRITE}, {"includes": ("*.txt",)}):
        with node.login(file=f"{base}/", **fields) as ftp:
            for name in OUT:
                with ftp.data():
                    for verb in (
                        "RETR",
                        "STOR",
                        "APPE",
                        "HASH",
                        "SIZE",
                        "MDTM",
                        "MLST",
                        "STAT F",
                        "CWD",
                        "SITE CHMOD 777",
                    ):
                        assert ftp.command(f"{verb} {name}")[:1] == b"5", (verb, name)
                    assert rename(ftp, "a.txt", f"{name}/x.txt")[:1] == b"5"
            names = set(ftp.retrieve("NLST")[1].split())
            assert {b"a.txt", b"sub"} <= names
            assert not names & {b"out.txt", b"absolute.txt", b"outdir", b"up", b"root.txt", b"dangling.txt"}
            assert snapshot(base.parent) == before
            assert ftp.retrieve("RETR sub/c.txt")[1] == b"sub/c.txt"
            for _ in range(2):
                assert ftp.store("STOR sub/n.txt", b"new") == DONE
            assert (base / "sub" / "n.txt").read_bytes() == b"new"
            (base / "sub" / "n.txt").unlink()
            os.utime(base / "sub", ns=(0, before[str(base / "sub")][1]))


@pytest.mark.slow
def test_confined_links(start_node: StartNode) -> None:
    node = start_node(files={"confine_links": True})
    base = populate(node)
    with node.login(file=f"{base}/") as ftp, ftp.data():
        for name in OUT:
            assert ftp.command(f"RETR {name}")[:1] == b"5", name
    with node.login(file=f"{base}/") as ftp:
        assert ftp.retrieve("RETR good.txt")[1] == b"a.txt"
        assert set(ftp.retrieve("NLST")[1].split()) == {
            b"a.txt",
            b"b.key",
            b"sub",
            b"inner.txt",
            b"good.txt",
            b"gooddir",
        }


def test_a_plain_base_follows_links(shared_node: Node) -> None:
    base = populate(shared_node)
    with shared_node.login(file=f"{base}/") as ftp:
        for name in OUT[:3]:
            assert ftp.retrieve(f"RETR {name}")[1] == b"../outside/y.txt"
        assert b"outdir" in ftp.retrieve("NLST")[1]

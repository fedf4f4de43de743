"""The file tree: confined by the kernel, and without its newer calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftpd.session import syscalls
from uftpd.session.filters import Forbidden, PathFilter
from uftpd.session.paths import FileTree, Place


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    (base / "sub").mkdir(parents=True)
    (tmp_path / "base2").mkdir()
    for path in ("base/a.txt", "base/b.key", "base/sub/c.txt", "base2/x.txt"):
        (tmp_path / path).write_text(path)
    for name, target in {
        "out": "../base2",
        "out.txt": "../base2/x.txt",
        "in.txt": "b.key",
        "good.txt": "a.txt",
    }.items():
        (base / name).symlink_to(target)
    (base / "sub" / "up").symlink_to("..")
    (base / "proc").symlink_to("/proc/self/root")
    (base / "loop").symlink_to("loop")
    return base


@pytest.fixture(params=["openat2", "stepwise"])
def tree(request: pytest.FixtureRequest, base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileTree]:
    if request.param == "stepwise":
        monkeypatch.setattr(syscalls, "has_openat2", lambda: False)
    elif not syscalls.has_openat2():
        pytest.skip("this kernel has no openat2")
    made = FileTree(os.fsencode(base), PathFilter(), confined=True)
    yield made
    made.close()


def path(base: Path, name: str) -> bytes:
    return os.fsencode(base) + b"/" + name.encode()


OUTSIDE = ("out/x.txt", "out.txt", "sub/up/out/x.txt", "proc/etc/passwd", "loop", "nosuch", "a.txt/x")


def test_no_link_leaves(tree: FileTree, base: Path) -> None:
    for name in OUTSIDE:
        with pytest.raises(OSError, match=r".") as raised:
            os.close(tree.open_read(path(base, name))[0])
        assert raised.value.errno in (errno.EXDEV, errno.ELOOP, errno.ENOENT, errno.ENOTDIR), name
        with pytest.raises(OSError, match=r"."):
            tree.stat(path(base, name))
    for name in ("out/new", "proc/new", "nosuch/new"):
        with pytest.raises(OSError, match=r"."):
            tree.mkdir(path(base, name))
        with pytest.raises(OSError, match=r"."):
            tree.rename(path(base, "a.txt"), path(base, name))
    fd, info = tree.open_read(path(base, "sub/c.txt"))
    os.close(fd)
    assert info.st_size == len("base/sub/c.txt")


def test_listings_leave_links_out_that_leave(tree: FileTree, base: Path) -> None:
    with tree.scan(os.fsencode(base)) as entries:
        names = {info.name for info in entries}
    assert {b"a.txt", b"b.key", b"sub"} <= names <= {b"a.txt", b"b.key", b"sub", b"in.txt", b"good.txt"}


def test_a_filter_holds_for_what_links_lead_to(tree: FileTree, base: Path) -> None:
    tree.filter = PathFilter.create(start=os.fsencode(base), includes=["*.txt"])
    for name in ("in.txt", "b.key", "sub/up/b.key"):
        with pytest.raises((Forbidden, OSError)):
            os.close(tree.open_read(path(base, name))[0])
        with pytest.raises((Forbidden, OSError)):
            tree.stat(path(base, name))
        with pytest.raises((Forbidden, OSError)):
            tree.place(path(base, name), follow=True)
    with tree.scan(os.fsencode(base)) as entries:
        names = {info.name for info in entries}
    assert {b"a.txt", b"sub"} <= names <= {b"a.txt", b"sub", b"good.txt"}


def test_a_link_to_a_directory_hides_what_is_excluded_there(base: Path) -> None:
    (base / "alias").symlink_to("sub")
    (base / "sub" / "deep").mkdir()
    (base / "sub" / "deep" / "secret").write_text("s")
    start = os.fsencode(base)
    rules = PathFilter.create(start=start, excludes=["sub/c.txt", "sub/deep/secret"])
    tree = FileTree(start, rules, confined=True)
    with tree.scan(path(base, "alias")) as entries:
        assert {entry.name for entry in entries} == {b"deep", b"up"}
    with pytest.raises(Forbidden):
        tree.rename(path(base, "alias/deep"), path(base, "free"))
    assert (base / "sub" / "deep" / "secret").exists()
    tree.close()


def test_the_base_is_no_prefix(tree: FileTree, base: Path) -> None:
    for argument in ("..", "../base2", f"{base}2", "sub/../../base2/x.txt", "/", "/etc"):
        with pytest.raises(Forbidden):
            tree.resolve(argument.encode(), os.fsencode(base))
    assert tree.resolve(b"sub/../a.txt", os.fsencode(base)) == path(base, "a.txt")
    assert tree.resolve(b"/" + b"/" + os.fsencode(base), b"/x") == os.fsencode(base)


def test_the_base_itself_stays(tree: FileTree, base: Path) -> None:
    top = os.fsencode(base)
    for change in (tree.rmdir, tree.unlink):
        with pytest.raises(Forbidden):
            change(top)
    with pytest.raises(Forbidden):
        tree.rename(top, path(base, "sub/x"))
    with pytest.raises(Forbidden):
        tree.rename(path(base, "sub"), top)
    with pytest.raises(FileExistsError):
        tree.mkdir(top)


def test_no_descriptor_is_left(tree: FileTree, base: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    tree.filter = PathFilter.create(start=os.fsencode(base), includes=["*.txt"], protected=[path(base, "a.txt")])
    for name in (*OUTSIDE, "a.txt", "b.key", "in.txt", "sub", "sub/c.txt"):
        for call in (tree.stat, tree.info, tree.is_directory, tree.rmdir, tree.place, tree.set_facts):
            try:
                result = call(path(base, name))
            except (Forbidden, OSError):
                continue
            if isinstance(result, Place):
                os.close(result.directory)
        for left in ("listed", "left alone"):
            try:
                with tree.scan(path(base, name)) as entries:
                    if left == "listed":
                        list(entries)
            except (Forbidden, OSError):
                continue
    assert count() == before


@given(st.binary(max_size=40), st.sampled_from([b"/base", b"/base/sub", b"/base/x y"]))
def test_resolve_never_leaves_the_base(argument: bytes, current: bytes) -> None:
    tree = FileTree.__new__(FileTree)
    tree.base = b"/base"
    try:
        result = tree.resolve(argument, current)
    except (Forbidden, FileNotFoundError):
        return
    assert result == b"/base" or result.startswith(b"/base/")
    assert b"/../" not in result + b"/"


def test_landlock_hides_everything_else(base: Path) -> None:
    if syscalls.landlock_abi() == 0:
        pytest.skip("this kernel has no Landlock")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            tree = FileTree(os.fsencode(base), PathFilter(), confined=True)
            syscalls.no_new_privileges()
            assert tree.confine_process()
            os.close(os.open(base / "a.txt", os.O_RDONLY))
            for outside in (base.parent / "base2" / "x.txt", Path("/etc/passwd"), base.parent):
                try:
                    os.close(os.open(outside, os.O_RDONLY))
                except PermissionError:
                    continue
                raise AssertionError(outside)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_file_system_that_fails_does_not_make_a_listing_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).touch()
    (tmp_path / "nowhere").symlink_to("nothing")

    def failing(entry: os.DirEntry[str], paths: object) -> os.stat_result:
        raise OSError(code, os.strerror(code))

    tree = FileTree(os.fsencode(tmp_path), PathFilter(), confined=False)
    with tree.scan(os.fsencode(tmp_path)) as entries:
        assert sorted(info.name for info in entries) == [b"one", b"two"]
    monkeypatch.setattr(tree, "_stat_entry", failing)
    with tree.scan(os.fsencode(tmp_path)) as entries, pytest.raises(OSError, match=os.strerror(code)):
        list(entries)
    tree.close()

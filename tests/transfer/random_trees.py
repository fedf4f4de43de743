"""Trees of any shape for tests: made on a disk, and looked at again."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from uftp.protocol.names import is_part_name

NANOSECONDS: Final = 10**9
HOLE: Final = 1024 * 1024  # bytes; several blocks of any file system


# Runs that are too long to be shown.
LONG: Final = {"hole": bytes(HOLE), "zeros": bytes(5000), "text": b"x" * 70_000}


@dataclass(frozen=True)
class File:
    """A regular file: runs of bytes, and of nothing."""

    runs: tuple[bytes | str, ...]
    mode: int
    mtime_ns: int

    @property
    def content(self) -> bytes:
        return b"".join(LONG[run] if isinstance(run, str) else run for run in self.runs)


@dataclass(frozen=True)
class Link:
    """A symbolic link; its target need not be there."""

    target: bytes


@dataclass(frozen=True)
class Directory:
    """A directory with what is in it."""

    entries: Mapping[bytes, Node]
    mode: int
    mtime_ns: int


Node = File | Link | Directory


def _is_name(name: bytes) -> bool:
    return name not in (b".", b"..") and not is_part_name(name)


_BYTES = st.integers(min_value=1, max_value=255).filter(lambda byte: byte != 0x2F)
_ODD = [
    *(b" leading", b"trailing ", b"new\nline", b"\r\n", b"\t", b"%41", b"100%", b"a;b=c", b'"', b"a\\b"),
    *(b"\xff\xfe", b"x" * 255, b"\xff" * 255, "\u00fcml\u00e4ut".encode()),
    *(b"*", b"[a]", b"?", b"-rf", b"~", b".hidden", b"..."),
]
names = (st.sampled_from(_ODD) | st.lists(_BYTES, min_size=1, max_size=12).map(bytes)).filter(_is_name)
# Not the very beginning of 1970: a time of zero is one that a server does not know.
_times = st.integers(min_value=1, max_value=2**32 - 1).flatmap(
    lambda seconds: st.integers(min_value=0, max_value=NANOSECONDS - 1).map(lambda part: seconds * NANOSECONDS + part)
)
_runs = st.lists(st.binary(max_size=50) | st.sampled_from(sorted(LONG)), max_size=4).map(tuple)
# What the copying account has to read, it may; all else is as it comes.
files = st.builds(File, runs=_runs, mode=st.sampled_from([0o400, 0o444, 0o600, 0o644, 0o755, 0o777]), mtime_ns=_times)
links = st.builds(Link, target=st.lists(_BYTES | st.just(0x2F), min_size=1, max_size=20).map(bytes))


def directories(entries: st.SearchStrategy[Node], least: int = 0) -> st.SearchStrategy[Directory]:
    """Directories with such entries."""
    return st.builds(
        Directory,
        entries=st.dictionaries(names, entries, min_size=least, max_size=least + 4),
        mode=st.sampled_from([0o500, 0o700, 0o755, 0o777]),
        mtime_ns=_times,
    )


trees = directories(st.recursive(files | links, directories, max_leaves=12), least=2)


def build(top: bytes, tree: Directory) -> None:
    """Make a tree on the disk; `top` must not be there."""
    os.mkdir(top, 0o700)
    for name, node in tree.entries.items():
        path = top + b"/" + name
        match node:
            case Directory():
                build(path, node)
            case Link():
                os.symlink(node.target, path)
            case File():
                _build_file(path, node)
    os.chmod(top, tree.mode)
    os.utime(top, ns=(tree.mtime_ns, tree.mtime_ns))


def _build_file(path: bytes, file: File) -> None:
    with open(path, "wb") as out:
        for run in file.runs:
            if run == "hole":
                out.seek(HOLE, os.SEEK_CUR)
            else:
                out.write(LONG[run] if isinstance(run, str) else run)
        out.truncate(out.tell())
    os.chmod(path, file.mode)
    os.utime(path, ns=(file.mtime_ns, file.mtime_ns))


def look(top: bytes) -> dict[bytes, tuple[object, ...]]:
    """All that a tree on the disk is, by path below its top: kind, content, mode and time."""
    found: dict[bytes, tuple[object, ...]] = {}
    waiting = [b""]
    while waiting:
        relative = waiting.pop()
        path = top + relative
        info = os.lstat(path)
        facts = (stat.S_IMODE(info.st_mode), info.st_mtime_ns)
        if stat.S_ISLNK(info.st_mode):
            found[relative] = ("link", os.readlink(path))
        elif stat.S_ISDIR(info.st_mode):
            found[relative] = ("directory", *facts)
            waiting += [relative + b"/" + name for name in os.listdir(path)]
        else:
            with open(path, "rb") as file:
                found[relative] = ("file", file.read(), *facts)
    return found


def expected(tree: Directory, relative: bytes = b"") -> dict[bytes, tuple[object, ...]]:
    """What `look` says of a tree that was built."""
    found: dict[bytes, tuple[object, ...]] = {relative: ("directory", tree.mode, tree.mtime_ns)}
    for name, node in tree.entries.items():
        path = relative + b"/" + name
        match node:
            case Directory():
                found |= expected(node, path)
            case Link():
                found[path] = ("link", node.target)
            case File():
                found[path] = ("file", node.content, node.mode, node.mtime_ns)
    return found


def holes(top: bytes) -> dict[bytes, int]:
    """How many times `HOLE` files have no blocks for, by path; a few blocks more or less do not count."""
    found: dict[bytes, int] = {}
    for relative, node in look(top).items():
        if node[0] == "file":
            info = os.stat(top + relative)
            empty = (info.st_size - info.st_blocks * 512 + HOLE // 8) // HOLE
            if empty > 0:
                found[relative] = empty
    return found

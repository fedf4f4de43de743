"""Includes, excludes, scope and write protection, as rules over paths."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftpd.session.filters import Forbidden, PathFilter, is_beneath
from uftpd.session.paths import normalise

PARTS = st.sampled_from(["a", "b", "ab", "a.txt", "x.key", "ü", "\udcff"])
PATHS = st.lists(PARTS, max_size=4).map(lambda parts: "/" + "/".join(parts))
PATTERN_PARTS = st.sampled_from(["a", "b", "a*", "*", "*.txt", "?", "[ab]", "x.key", "*.key", "**"])
PATTERNS = st.lists(st.lists(PATTERN_PARTS, min_size=1, max_size=3).map("/".join), max_size=3)


def encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def parents(path: str) -> list[str]:
    """The path and all directories above it."""
    found = [path]
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        found.append(path)
    return found


def matches(pattern: str, path: str) -> bool:
    """What the rules say, put plainly: the path, or a directory above it."""
    return any(fnmatch.fnmatchcase(step, pattern) for step in parents(path))


@given(PATHS, PATTERNS, PATTERNS)
def test_admits_is_what_the_patterns_say(path: str, includes: list[str], excludes: list[str]) -> None:
    rules = PathFilter.create(start=b"/", includes=includes, excludes=excludes)
    if "ü" in path or "\udcff" in path:
        return  # a pattern's `?` stands for a byte here
    expected = not any(matches("/" + p, path) for p in excludes)
    expected = expected and (not includes or any(matches("/" + p, path) for p in includes))
    assert rules.admits(encode(path)) == expected


@given(PATHS, PATTERNS, PATTERNS, st.sampled_from([b"", b"a", b"a/b"]))
def test_the_way_to_what_is_admitted_is_open(path: str, includes: list[str], excludes: list[str], scope: bytes) -> None:
    rules = PathFilter.create(start=b"/", includes=includes, excludes=excludes, scope=scope)
    if rules.admits(encode(path)):
        for step in parents(path):
            assert rules.leads(encode(step)), step
    if not rules.leads(encode(path)):
        assert not rules.admits(encode(path))


@given(PATHS, st.sampled_from([b"a", b"a/b", b"ab"]))
def test_scope_is_a_path_and_no_prefix(path: str, scope: bytes) -> None:
    rules = PathFilter.create(start=b"/", scope=scope)
    raw = encode(path)
    assert rules.restricts
    assert rules.admits(raw) == (raw == b"/" + scope or raw.startswith(b"/" + scope + b"/"))


@given(PATHS, PATHS)
def test_is_beneath(path: str, directory: str) -> None:
    assert is_beneath(encode(path), encode(directory)) == (directory in parents(path))


@pytest.mark.parametrize(
    ("include", "path", "admitted"),
    [
        ("data", b"/base/data", True),
        ("data", b"/base/data/deep/file", True),
        ("data", b"/base/data2", False),
        ("*.txt", b"/base/a.txt", True),
        ("*.txt", b"/base/sub/a.txt", True),
        ("*.txt", b"/base/a.txt.key", False),
        ("/base/sub/*", b"/base/sub/x", True),
        ("/base/sub/*", b"/base/sub", False),
        ("A.TXT", b"/base/a.txt", False),
        ("a[b-d].txt", b"/base/ac.txt", True),
        ("a[!b].txt", b"/base/ab.txt", False),
        ("a.c", b"/base/abc", False),
        ("(a|b)", b"/base/a", False),
        ("", b"/base/a", True),
    ],
)
def test_patterns(include: str, path: bytes, admitted: bool) -> None:
    assert PathFilter.create(start=b"/base", includes=[include] if include else []).admits(path) == admitted


def test_protected_files() -> None:
    rules = PathFilter.create(start=b"/", protected=[b"/home/a/.ssh/authorized_keys"])
    assert not rules.restricts
    rules.check_read(b"/home/a/.ssh/authorized_keys")
    with pytest.raises(Forbidden):
        rules.check_change(b"/home/a/.ssh/authorized_keys")
    rules.check_change(b"/home/a/.ssh")
    rules.check_change(b"/home/a/.ssh/authorized_keys2")
    for path in (b"/", b"/home", b"/home/a", b"/home/a/.ssh", b"/home/a/.ssh/authorized_keys"):
        with pytest.raises(Forbidden):
            rules.check_move(path)
    rules.check_move(b"/home/a/.ss")
    rules.check_move(b"/home/ab")


@pytest.mark.parametrize("pattern", ["/a/b/key", "/a/b?key", "/a/b[!x]key", "/a/?/key", "/a/*.key", "/*/key"])
def test_no_directory_moves_whose_files_may_be_excluded(pattern: str) -> None:
    rules = PathFilter.create(start=b"/a", excludes=[pattern])
    with pytest.raises(Forbidden):
        rules.check_move_tree(b"/a/b")
    PathFilter.create(start=b"/a", excludes=["/a/c/key"]).check_move_tree(b"/a/b")


def test_texts_name_no_pattern() -> None:
    rules = PathFilter.create(start=b"/", includes=["open*"], excludes=["secret*"])
    for check in (rules.check_read, rules.check_enter, rules.check_change, rules.check_move):
        with pytest.raises(Forbidden) as raised:
            check(b"/secret-file")
        assert "secret" not in str(raised.value)


@given(st.binary(max_size=60))
def test_normalise(path: bytes) -> None:
    result = normalise(path)
    assert result.startswith(b"/")
    assert b"//" not in result
    assert not {b".", b".."} & set(result.split(b"/"))
    assert normalise(result) == result
    assert normalise(b"/x/../" + path) == result

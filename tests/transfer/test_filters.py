"""Which files filters take, against a plain statement of the rules; names from lists; moments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uftp.errors import UsageError
from uftp.transfer.filters import Filters, Rule, make_rules, parse_moment, parse_names, read_names
from uftp.transfer.walk import Selection

ALPHABET = "ab.*"

# -- the rules, stated plainly ----------------------------------------------------------------------------------------


def glob(pattern: str, text: str) -> bool:
    """Whether `text` is as `pattern` says, from its first to its last character."""
    if not pattern:
        return not text
    if pattern.startswith("**/"):
        # `glob` is only called where a component begins, or behind a star: see `below`.
        ends = [place + 1 for place, character in enumerate(text) if character == "/"]
        return any(glob(pattern[3:], text[end:]) for end in [0, *ends])
    if pattern.startswith("**"):
        rest = pattern.lstrip("*")
        return any(glob(rest, text[place:]) for place in range(len(text) + 1))
    if pattern[0] == "*":
        for place in range(len(text) + 1):
            if below(pattern[1:], text[place:]):
                return True
            if text[place : place + 1] == "/":
                return False
        return False
    if not text:
        return False
    if pattern[0] == "?":
        return text[0] != "/" and below(pattern[1:], text[1:])
    if pattern[0] != text[0]:
        return False
    return (glob if text[0] == "/" else below)(pattern[1:], text[1:])


def below(pattern: str, text: str) -> bool:
    """As `glob`, within a component: a double star with a slash behind it is only a double star there."""
    if pattern.startswith("**/"):
        rest = pattern[2:]
        return any(below(rest, text[place:]) for place in range(len(text) + 1))
    return glob(pattern, text)


def matches(pattern: str, path: str, *, is_dir: bool) -> bool:
    """Whether a pattern matches a path."""
    if pattern.endswith("/***"):
        top = pattern.removesuffix("/***")
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts))]
        return any(matches(top, one, is_dir=True) for one in [*above, *([path] if is_dir else [])])
    if pattern.endswith("/"):
        return is_dir and matches(pattern.rstrip("/"), path, is_dir=True)
    if pattern.startswith("/"):
        return glob(pattern.lstrip("/"), path)
    parts = path.split("/")
    if "/" not in pattern and "**" not in pattern:
        return glob(pattern, parts[-1])
    return any(glob(pattern, "/".join(parts[start:])) for start in range(len(parts)))


components = st.text(ALPHABET.replace("*", ""), min_size=1, max_size=4)
paths = st.lists(components, min_size=1, max_size=4).map("/".join)
pattern_parts = st.text(ALPHABET + "?", min_size=1, max_size=4).map(lambda text: text.replace("***", "**"))
patterns = st.builds(
    lambda front, parts, end: front + "/".join(parts) + end,
    st.sampled_from(["", "/"]),
    st.lists(pattern_parts, min_size=1, max_size=3),
    st.sampled_from(["", "/", "/***"]),
).filter(lambda text: "****" not in text)


@given(pattern=patterns, path=paths, is_dir=st.booleans())
@example("**/a", "a", False)
@example("a/**/b", "a/b", False)
@example("b**/a", "b/a", False)
@example("/a/***", "a", True)
@example("/a/***", "a", False)
def test_patterns_match_as_the_rules_say(pattern: str, path: str, is_dir: bool) -> None:
    assert Rule(True, pattern).matches(path, is_dir=is_dir) == matches(pattern, path, is_dir=is_dir)


@given(given_rules=st.lists(st.tuples(st.booleans(), patterns), max_size=4), path=paths, is_dir=st.booleans())
def test_the_first_pattern_that_matches_decides(given_rules: list[tuple[bool, str]], path: str, is_dir: bool) -> None:
    filters = Filters(rules=make_rules(given_rules))
    deciding = [include for include, pattern in given_rules if matches(pattern, path, is_dir=is_dir)]
    wanted = deciding[0] if deciding else True
    name = path.encode()
    assert (filters.enters(name) if is_dir else filters.takes_file(name, 0, None)) == wanted
    assert filters.enters(b""), "the top is always entered"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.o", "a/b.o", True),
        ("*.o", "a.o/b", False),
        ("/*.o", "a/b.o", False),
        ("a/b", "x/a/b", True),
        ("a/b", "xa/b", False),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[!a-c]x", "bx", False),
        ("[^a-c]x", "dx", True),
        ("[]x]", "]", True),
        ("[z-a]", "b", False),
        ("a[!b]c", "a/c", False),
        ("[/]", "/", False),
        (r"\*", "*", True),
        (r"\*", "a", False),
        (r"\[a]", "[a]", True),
        ("ä?", "äö", True),
        ("a.c", "abc", False),
        (".*", ".hidden", True),
        ("*", ".hidden", True),
        ("a\n*", "a\nb", True),
        ("/***", "a/b", True),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    assert Rule(True, pattern).matches(path, is_dir=False) == expected


def test_a_name_that_is_not_utf8_has_a_character_for_each_byte() -> None:
    filters = Filters(rules=make_rules([(False, "??")]))
    assert not filters.takes_file(b"\xff\xfe", 0, None)
    assert filters.takes_file("\u00e4".encode(), 0, None)


@pytest.mark.parametrize("pattern", ["", "/", "[a", "[", "[!", "a[]"])
def test_patterns_without_sense_are_refused(pattern: str) -> None:
    with pytest.raises(UsageError):
        Rule(True, pattern)


# -- bounds and lists -------------------------------------------------------------------------------------------------


def test_bounds() -> None:
    filters = Filters(min_size=10, max_size=20, newer_ns=1000)
    assert [size for size in (9, 10, 20, 21) if filters.takes_file(b"a", size, 1001)] == [10, 20]
    assert [time for time in (999, 1000, 1001, None) if filters.takes_file(b"a", 15, time)] == [1001, None]
    assert filters.takes_link(b"a", 1001), "a link has no size"
    assert filters.enters(b"old/and/large")


@given(
    names=st.frozensets(paths.map(str.encode), max_size=5),
    path=paths.map(str.encode),
)
def test_a_list_of_names_takes_them_and_what_is_below(names: frozenset[bytes], path: bytes) -> None:
    filters = Filters(files_from=names)
    listed = any(path == name or path.startswith(name + b"/") for name in names)
    assert filters.takes_file(path, 0, None) == listed
    assert filters.enters(path) == (listed or any(name.startswith(path + b"/") for name in names))


def test_names_are_read_by_lines_or_by_nul(tmp_path: Path) -> None:
    assert parse_names(b"a\n\n./b/c\n/d/\n e \n") == {b"a", b"b/c", b"d", b" e "}
    assert parse_names(b"a\r\nb\r\n") == {b"a", b"b"}
    assert parse_names(b"a\nb\0c\0") == {b"a\nb", b"c"}
    assert parse_names(b"") == frozenset()
    for bad in (b"../a", b"a/../../b", b".."):
        with pytest.raises(UsageError):
            parse_names(bad)
    (tmp_path / "list").write_bytes(b"x\ny")
    assert read_names(str(tmp_path / "list")) == {b"x", b"y"}
    with pytest.raises(UsageError, match="list of names"):
        read_names(str(tmp_path / "nosuch"))


def test_what_a_walk_does_not_meet_is_missing() -> None:
    filters = Filters(rules=make_rules([(False, "no/")]), files_from=frozenset({b"a", b"d/b", b"d/c", b"no/x", b"e"}))
    selection = Selection(filters)
    selection.met(b"a")
    assert selection.enters(b"d")
    selection.met(b"d/b")
    assert not selection.enters(b"no")
    assert selection.missing == {b"d/c", b"e"}


# -- moments ----------------------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=4_000_000_000), st.integers(min_value=0, max_value=999_999_999))
def test_moments_are_exact(seconds: int, nanoseconds: int) -> None:
    from datetime import UTC, datetime

    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    wanted = seconds * 10**9 + nanoseconds
    assert parse_moment(f"{text}.{nanoseconds:09}Z") == wanted
    assert parse_moment(f"{text}.{nanoseconds:09}+00:00") == wanted
    assert parse_moment(f"@{seconds}.{nanoseconds:09}") == wanted


def test_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2026-01-31").touch()
    os.utime(tmp_path / "2026-01-31", ns=(5, 7))
    assert parse_moment("2026-01-31") == 7, "a file comes before a date"
    assert parse_moment("1970-01-02T00:00:00Z") == 86_400 * 10**9
    assert parse_moment("1970-01-01 01:00+01:00") == 0
    for bad in ("", "yesterday", "2026-13-01", "2026-01-01T00:00:00.", "2026-01-01T00:00:00.x", "@", "@-1", "a\0b"):
        with pytest.raises(UsageError, match="neither a file nor a date"):
            parse_moment(bad)

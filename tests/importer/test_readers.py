"""Readers of an upstream installation's files: what they take, with which line, and that nothing upsets them."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftpd.importer.notes import Kind, Notes, Place
from uftpd.importer.oidc import claim_expression
from uftpd.importer.people import convert_map, convert_passwords, parse_map_xml
from uftpd.importer.properties import Properties, Property, parse_properties
from uftpd.importer.shell import parse_shell
from uftpd.importer.sources import Installation, NotFound, read_text

# -- Java properties --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", [("a", "b", 1)]),
        ("a = b ", [("a", "b", 1)]),
        ("a:b", [("a", "b", 1)]),
        ("a b c", [("a", "b c", 1)]),
        ("a\t=\tb", [("a", "b", 1)]),
        ("a", [("a", "", 1)]),
        ("a=", [("a", "", 1)]),
        ("=b", [("", "b", 1)]),
        ("a==b", [("a", "=b", 1)]),
        ("\n# comment\n ! other\n\n  a=b\n", [("a", "b", 5)]),
        ("a=b # no comment", [("a", "b # no comment", 1)]),
        ("a=b\\\n   c\nd=e", [("a", "bc", 1), ("d", "e", 3)]),
        ("a=b\\\r\n\tc\r\nd=e\rf=g", [("a", "bc", 1), ("d", "e", 3), ("f", "g", 4)]),
        ("a=b\\\\\nc=d", [("a", "b\\", 1), ("c", "d", 2)]),
        ("a=b\\", [("a", "b", 1)]),
        ("# comment \\\na=b", [("a", "b", 2)]),
        ("a\\ b\\:c=d", [("a b:c", "d", 1)]),
        (r"a=\u00e4\t\n\x\ud834\udd1e", [("a", "ä\t\nx\U0001d11e", 1)]),
        (r"a=\u00", [("a", "u00", 1)]),
        ("a=1\na=2", [("a", "1", 1), ("a", "2", 2)]),
    ],
)
def test_properties(text: str, expected: list[tuple[str, str, int]]) -> None:
    assert parse_properties(text) == [Property(*found) for found in expected]


def _escaped(text: str) -> str:
    return re.sub(r"([\\=: \t\f#!])", r"\\\1", text).replace("\n", "\\n").replace("\r", "\\r")


_WORD = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.strip)


@given(st.lists(st.tuples(_WORD.filter(bool), _WORD), max_size=5))
def test_what_is_written_is_read(pairs: list[tuple[str, str]]) -> None:
    text = "".join(f"{_escaped(key)} = {_escaped(value)}\n" for key, value in pairs)
    found = parse_properties(text)
    assert [(p.key, p.value) for p in found] == [(key, value.strip()) for key, value in pairs]
    assert [p.line for p in found] == list(range(1, len(pairs) + 1))


@given(st.text())
def test_any_text_is_properties(text: str) -> None:
    lines = len(re.split("\r\n|\r|\n", text))
    assert all(1 <= found.line <= lines for found in parse_properties(text))


def test_properties_know_who_asked() -> None:
    notes = Notes()
    properties = Properties(Path("p"), "a=1\nb=x\na=2\nc=\nd=TRUE\n", notes)
    assert properties.number("a") == 2
    assert str(notes.of(Kind.CHANGED)[0]) == "p:1: a: is set again in line 3, and that counts"
    assert properties.number("b") is None
    assert str(notes.of(Kind.LOST)[0]) == "p:2: b: is no whole number; set it by hand"
    assert properties.get("c") is None
    assert properties.get("none") is None
    assert (properties.flag("d", False), properties.flag("none", True)) == (True, True)
    assert properties.rest() == []
    assert properties.place("d") == Place(Path("p"), 5)


# -- shell ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=b", {"A": "b"}),
        ("export A=b", {"A": "b"}),
        ("  export  A=b  B=c # comment", {"A": "b", "B": "c"}),
        ('A="b c"', {"A": "b c"}),
        ("A='b $c'", {"A": "b $c"}),
        ("A=b#c", {"A": "b#c"}),
        ("#!/bin/bash\n# A=b\n\nB=c", {"B": "c"}),
        ('A=b\nB=$A/c\nC=${A}d\nD="$A $B"', {"A": "b", "B": "b/c", "C": "bd", "D": "b b/c"}),
        ('A=\\$b\nB="\\$c"', {"A": "$b", "B": "$c"}),
        ("A=b\\\nc", {"A": "bc"}),
        ("A=b\nexport A", {"A": "b"}),
        ("A=b\r\nB=c\r\n", {"A": "b", "B": "c"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=*.key:a?[b]", {"A": "*.key:a?[b]"}),
        ("A=", {"A": ""}),
        ('A=""', {"A": ""}),
        ("A=a'b'\"c\"d", {"A": "abcd"}),
    ],
)
def test_assignments(text: str, expected: dict[str, str]) -> None:
    result = parse_shell(text)
    assert {name: found.value for name, found in result.variables.items()} == expected
    assert result.not_understood == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("A=$(hostname)", "A"),
        ("A=`hostname`", "A"),
        ('A="`hostname`"', "A"),
        ("A=$B", "A"),
        ("A=${B:-c}", "A"),
        ("A=$", "A"),
        ("A=~/x", "A"),
        ("A=x:~/x", "A"),
        ('A="open', "A"),
        ("A='open", "A"),
        ("export A=(1 2)", "A"),
        ("A=1; B=2", "A"),
        ("A=1 command", "A"),
        ("if true", "a command"),
        ("source other.conf", "a command"),
        (". other.conf", "a command"),
        ("9A=b", "a command"),
    ],
)
def test_what_only_a_shell_knows(line: str, what: str) -> None:
    result = parse_shell(f"# first\nA=old\n{line}\nZ=z\n")
    assert result.not_understood == [(3, what)]
    assert "Z" in result.variables
    assert ("A" in result.variables) == (what != "A"), "the old value is not taken for the new one"


@given(st.text(st.sampled_from("AB=$'\"\\{}() \n#~export;é\0"), max_size=40) | st.text())
def test_any_text_is_variables_or_lines_not_understood(text: str) -> None:
    result = parse_shell(text)
    lines = text.count("\n") + 1
    assert all(1 <= found.line <= lines for found in result.variables.values())
    assert all(1 <= line <= lines for line, _ in result.not_understood)


# -- expressions of OIDC ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"UID="+email', "UID={email}"),
        ("'UID=' + email + \",O=x\"", "UID={email},O=x"),
        ("preferred_username", "{preferred_username}"),
        ('"user"', "user"),
        ('"{x}"', "{{x}}"),
        ('["hpc", "users"]', ["hpc", "users"]),
        ('[ "a"+b ]', ["a{b}"]),
    ],
)
def test_expressions(text: str, expected: object) -> None:
    assert claim_expression(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a.b", "f(x)", "a ? b : c", '"a" "b"', "a+", "+a", "[]", "[a", "[a,]", "a[0]", '"a', "a,b", "a == b"]
)
def test_what_is_more_than_an_expression(text: str) -> None:
    with pytest.raises(ValueError, match="more than texts"):
        claim_expression(text)


@given(st.text(st.sampled_from("ab'\"+[], {}_.\\"), max_size=20) | st.text())
def test_any_expression_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        claim_expression(text)


# -- map files --------------------------------------------------------------------------------------------------------

XML = """<?xml version="1.0" encoding="ISO-8859-1"?>
<!-- people -->
<fileAttributeSource>
  <entry key="CN=Demo User,O=UNICORE,C=EU">
    <attribute name="role"><value>user</value></attribute>
    <attribute name="xlogin"><value> user1 </value><value>user2 &amp; x</value></attribute>
    <attribute name="empty"/>
  </entry>
  <entry key="CN=Ümit"/>
</fileAttributeSource>
"""


def test_a_map_file_in_xml() -> None:
    assert parse_map_xml(XML) == {
        "CN=Demo User,O=UNICORE,C=EU": {"role": ["user"], "xlogin": ["user1", "user2 & x"], "empty": []},
        "CN=Ümit": {},
    }
    notes = Notes()
    converted = convert_map(Path("m"), XML, "strict", notes)
    assert json.loads(converted)["CN=Ümit"] == {}
    assert list(notes.lines()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<fileAttributeSource>", "line 1: no element found"),
        ("<other/>", "line 1: an element 'other'"),
        ("<fileAttributeSource>\n<attribute name='x'/></fileAttributeSource>", "line 2: an element 'attribute'"),
        ("<fileAttributeSource><entry/></fileAttributeSource>", "line 1: 'key' is missing"),
        ("<fileAttributeSource><entry key='x'><attribute/></entry></fileAttributeSource>", "line 1: 'name' is missing"),
        ("<fileAttributeSource>text</fileAttributeSource>", "line 1: text does not belong"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><fileAttributeSource/>", "line 1: a document type"),
        (
            "<fileAttributeSource><entry key='a'><attribute name='b'><value><c/></value></attribute></entry>",
            "line 1: an",
        ),
    ],
)
def test_what_is_no_map_file(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_map_xml(text)
    notes = Notes()
    assert convert_map(Path("m"), text, "strict", notes) == b"{}\n"
    assert reason in str(notes.of(Kind.LOST)[0])


_NAME = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=10)


@given(st.dictionaries(_NAME, st.dictionaries(_NAME, st.lists(_NAME, max_size=3), max_size=3), max_size=3))
def test_xml_is_read_as_it_was_meant(table: dict[str, dict[str, list[str]]]) -> None:
    def escaped(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")

    def attribute(name: str, values: list[str]) -> str:
        inside = "".join(f"<value>{escaped(value)}</value>" for value in values)
        return f'<attribute name="{escaped(name)}">{inside}</attribute>'

    text = "<fileAttributeSource>"
    for key, attributes in table.items():
        inside = "".join(attribute(name, values) for name, values in attributes.items())
        text += f'<entry key="{escaped(key)}">{inside}</entry>'
    assert parse_map_xml(f"{text}</fileAttributeSource>") == table


@given(st.text() | st.text(st.sampled_from("<>/=\"' fileAttributeSourcentrykyvu&;!x"), max_size=60).map("<".__add__))
def test_any_text_is_a_map_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_map_xml(text)
    assert isinstance(convert_map(Path("m"), text, "strict", Notes()), bytes)
    assert isinstance(convert_map(Path("m"), text, "regexp", Notes()), bytes)


def test_entries_that_would_be_skipped_are_named() -> None:
    text = '{\n  "CN=ok": {},\n  "Joe": {},\n  "CN=(?=x).*": {}\n}\n'
    notes = Notes()
    assert convert_map(Path("m"), text, "strict", notes) == text.encode()
    assert [str(note.place) for note in notes.of(Kind.LOST)] == ["m:3"]
    notes = Notes()
    convert_map(Path("m"), text, "regexp", notes)
    assert [str(note.place) for note in notes.of(Kind.LOST)] == ["m:4"]
    notes = Notes()
    convert_map(Path("m"), '{\n  "a": {},\n}', "strict", notes)
    assert str(notes.of(Kind.LOST)[0]).startswith("m:3: the map file: is not valid JSON")


def test_password_lines_that_are_none_become_comments() -> None:
    notes = Notes()
    text = "# people\nbad:line\nold:7a066bbc4c14cd9d7fb869f8cb3ecee2:09e9:CN=Old\n"
    converted = convert_passwords(Path("p"), text, notes).decode()
    assert converted.splitlines()[1] == "# not understood: bad:line"
    assert str(notes.of(Kind.LOST)[0]) == "p:2: a person: is left out: expected name:hash:salt:DN"
    assert str(notes.of(Kind.CHANGED)[0]).startswith("p: old: kept with a salted MD5")


# -- files ------------------------------------------------------------------------------------------------------------


def test_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    for name in ("conf/a.pem", "conf/b.pem", "b.pem"):
        (tmp_path / name).write_text(name)
    guessed = Installation(None, tmp_path / "conf" / "container.properties")
    assert guessed.find("conf/a.pem") == tmp_path / "conf/a.pem"
    assert guessed.find("a.pem") == tmp_path / "conf/a.pem"
    assert guessed.find("b.pem") == tmp_path / "b.pem"
    assert guessed.find(str(tmp_path / "b.pem")) == tmp_path / "b.pem"
    assert guessed.find("none.pem") == tmp_path / "none.pem"
    assert guessed.matching("conf/*.pem") == [tmp_path / "conf/a.pem", tmp_path / "conf/b.pem"]
    assert guessed.matching(f"{tmp_path}/conf/a*") == [tmp_path / "conf/a.pem"]
    assert guessed.matching("none/*") == []
    named = Installation(tmp_path, Path("/etc/other/container.properties"))
    assert named.find("conf/a.pem") == tmp_path / "conf/a.pem"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not there"):
        read_text(tmp_path / "none")
    with pytest.raises(NotFound, match="is no file"):
        read_text(tmp_path)
    (tmp_path / "latin").write_bytes("Müller".encode("latin-1"))
    assert read_text(tmp_path / "latin") == "Müller"
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfa=b")
    assert read_text(tmp_path / "bom") == "a=b"

"""Map files, rates, and what is selected among a person's attributes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol.dn import canonical
from uftpd.auth.attributes.base import Attributes, Entitlements, collect, entitlements
from uftpd.auth.attributes.map_file import MapFile
from uftpd.auth.attributes.preferences import apply_preferences
from uftpd.auth.attributes.rates import parse_rate
from uftpd.auth.errors import BadRequest, Refused
from uftpd.auth.identity.base import Identity
from uftpd.config.toml import ConfigError

_DEMO = canonical("CN=Demo User, O=UNICORE, C=EU")


def _write(directory: Path, table: object) -> Path:
    path = directory / "map.json"
    path.write_text(table if isinstance(table, str) else json.dumps(table))
    return path


async def test_strict_matching_is_canonical(tmp_path: Path) -> None:
    table = {"c=eu, o=x, cn=other": {"role": "a"}, "CN=demo  user;O=Unicore;C=EU": {"Role": "user"}, "joe": {}}
    source = MapFile(_write(tmp_path, table), "strict")
    assert await source.attributes(_DEMO) == {"role": ("user",)}
    # The order of RDNs is significant.
    assert await source.attributes(canonical("CN=Other,O=X,C=EU")) == {}


async def test_regexp_matching_is_of_the_whole_name_and_in_file_order(tmp_path: Path) -> None:
    table = {"CN=Demo": {"role": "no"}, "CN=Demo.*,O=UNICORE.*": {"role": "yes"}, ".*": {"role": "late"}}
    source = MapFile(_write(tmp_path, table), "regexp")
    assert await source.attributes(_DEMO) == {"role": ("yes",)}
    assert await source.attributes("cn=x") == {"role": ("late",)}


@pytest.mark.parametrize("pattern", ["(", "cn=(?!root).*", r"cn=(.)\1"])
def test_a_pattern_that_cannot_be_used_spoils_the_file(tmp_path: Path, pattern: str) -> None:
    # Left out, it would let a later entry count that may allow more.
    with pytest.raises(ConfigError, match=r"map\.json: .* is no regular expression"):
        MapFile(_write(tmp_path, {pattern: {"role": "banned"}, ".*": {"role": "user"}}), "regexp")


async def test_no_name_holds_up_the_matching(tmp_path: Path) -> None:
    # Python's own matcher would take longer than the universe lasts.
    source = MapFile(_write(tmp_path, {"cn=(a+)+b": {"role": "user"}, ".*": {"role": "late"}}), "regexp")
    assert await source.attributes("cn=" + "a" * 10_000 + "c") == {"role": ("late",)}


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("uftpd.OTHER.xlogin", "a", "no server of that name, there are TEST"),
        ("uftpd.TEST.xlogins", "a", "unknown setting"),
        ("uftpd.TEST.rateLimit", "fast", "is not a rate"),
        ("xlogins", "a", "unknown attribute"),
        ("role", "User", "unknown role"),
    ],
)
async def test_strange_entries_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, attribute: str, value: str, words: str
) -> None:
    MapFile(_write(tmp_path, {_DEMO: {"role": "user", "uftpd.TEST.group": "g"}}), "strict", ["TEST"])
    assert caplog.records == []
    MapFile(_write(tmp_path, {_DEMO: {attribute: value}}), "strict", ["TEST"])
    [facts] = [record.__dict__["facts"] for record in caplog.records]
    assert facts["attribute"] == attribute
    assert words in facts["reason"]


async def test_names_that_occur_twice_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = '{"CN=a": {"role": "user", "role": "admin"}, "CN=b": {}, "CN=b": {"role": "user"}, "cn = B": {}}'
    source = MapFile(_write(tmp_path, text), "strict")
    assert [record.__dict__["facts"]["entry"] for record in caplog.records] == ["role", "CN=b", "cn = B"]
    assert await source.attributes("cn=b") == {}


async def test_known_names_in_any_case_others_as_given(tmp_path: Path) -> None:
    entry = {"XLogin": ["a", "b"], "SUPPLEMENTARYGROUPS": "g", "uftpd.TEST.Group": "x", "Other": "y"}
    source = MapFile(_write(tmp_path, {_DEMO: entry}), "strict")
    assert await source.attributes(_DEMO) == {
        "xlogin": ("a", "b"),
        "supplementaryGroups": ("g",),
        "uftpd.TEST.Group": ("x",),
        "Other": ("y",),
    }


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"CN=a": "x"}', '{"CN=a": {"uid": 5}}', '{"CN=a": {"x": "a\\nb"}}', "<map/>", "[" * 99999]
)
def test_files_that_are_no_map(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"map\.json: "):
        MapFile(_write(tmp_path, text), "strict")


async def test_bad_syntax_keeps_the_old_content(tmp_path: Path) -> None:
    source = MapFile(_write(tmp_path, {_DEMO: {"role": "user"}}), "strict")
    _write(tmp_path, "{")
    assert await source.attributes(_DEMO) == {"role": ("user",)}
    _write(tmp_path, {_DEMO: {"role": "banned"}})
    assert await source.attributes(_DEMO) == {"role": ("banned",)}


class _Fixed:
    def __init__(self, **attributes: tuple[str, ...]) -> None:
        self._attributes = attributes

    async def attributes(self, canonical_dn: str) -> Attributes:
        return self._attributes


class _Broken:
    async def attributes(self, canonical_dn: str) -> Attributes:
        raise OSError("directory service down")


async def test_later_sources_override_and_a_broken_one_is_skipped() -> None:
    identity = Identity("CN=x", "SSHKEY", {"role": ("user",), "xlogin": ("joe",)})
    merged = await collect(identity, [_Fixed(xlogin=("a", "b")), _Broken(), _Fixed(group=("g",))])
    assert merged == {"role": ("user",), "xlogin": ("a", "b"), "group": ("g",)}


async def test_an_identity_without_valid_name_is_refused() -> None:
    with pytest.raises(BadRequest):
        await collect(Identity("joe", "X"), [])


def _granted() -> Entitlements:
    return entitlements(
        {
            "role": ("user", "admin"),
            "xlogin": ("user1", "user2"),
            "group": ("users", "hpc1"),
            "supplementaryGroups": ("project1", "hpc1"),
            "uftpd.TEST.xlogin": ("user8", "user9"),
            "uftpd.A.B.group": ("g",),
        }
    )


def test_first_values_are_the_defaults() -> None:
    granted = _granted()
    assert (granted.role, granted.account, granted.group) == ("user", "user1", "users")
    assert granted.groups == ("users", "hpc1", "project1")
    assert entitlements({}).role == "anonymous"


def test_overrides_by_logical_server() -> None:
    granted = _granted()
    assert granted.account_on("TEST") == "user9"
    assert granted.account_on("OTHER") == "user1"
    assert granted.group_on("A.B", "hpc1") == "g"
    assert granted.group_on("TEST", "project1") == "project1"
    with pytest.raises(BadRequest, match="Requested group <wheel>"):
        granted.group_on("TEST", "wheel")


def test_preferences() -> None:
    granted = apply_preferences(["uid:user2, role:admin", "pgid:project1,supgids:hpc1+users,x:y"], _granted())
    assert (granted.account, granted.role, granted.group) == ("user2", "admin", "project1")
    assert granted.supplementary == ("hpc1", "users")
    for wrong in ("uid:root", "role:x", "group:wheel", "supgids:users+wheel", "uid", "uid:", ":x", ","):
        with pytest.raises(Refused):
            apply_preferences([wrong], _granted())


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1048576", 1048576),
        ("0", 0),
        ("10m", 10 << 20),
        (" 100 gig/sec", 100 << 30),
        ("200M", 200 << 20),
        ("1 K", 1024),
    ],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "1.5G", "100 T", " 100 ", "-1", "x", "٣", "9" * 30])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)


@given(st.text())
def test_rates_raise_only_value_errors(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_rate(text) >= 0

"""Expressions over claims: what they give, and that a claim stays inside its place in a name."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol.dn import canonical, parse_name
from uftpd.auth.identity.base import LoginRefused
from uftpd.auth.identity.claims import ClaimsReader
from uftpd.config.claims import Rule, parse_template
from uftpd.config.login import OidcProvider

CLAIMS: dict[str, Any] = {
    "sub": "f00",
    "email": "joe@example.org",
    "email_verified": True,
    "number": 5,
    "name": "Smith, Joe + Co",
    "groups": ["/hpc/users", "/hpc/project1", "/other/x"],
    "realm_access": {"roles": ["uftp", "offline"]},
    "https://example.org/claims/account": "joe",
    "one": ["single"],
    "none": None,
    "empty": "",
    "line": "a\nb",
    "nested": {"object": {"deep": "value"}},
}


def reader(identity: str = "UID={email}", **settings: Any) -> ClaimsReader:
    return ClaimsReader(
        OidcProvider(identity=identity, issuers=("https://idp.example.org",), audiences=("uftp",), **settings)
    )


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        ("UID={email}", "UID=joe@example.org"),
        ("CN={name},O=Site", "CN=Smith\\, Joe \\+ Co,O=Site"),
        ('CN="{name}",O=Site', 'CN="Smith\\, Joe \\+ Co",O=Site'),
        ("CN={none|empty|missing|sub}", "CN=f00"),
        ("CN={number}+UID={sub}", "CN=5+UID=f00"),
        ("CN={one}", "CN=single"),
        ("CN={nested.object.deep}", "CN=value"),
        ("UID={https://example.org/claims/account}", "UID=joe"),
        ("CN={{{sub}}}", "CN={f00}"),
    ],
)
def test_names(identity: str, name: str) -> None:
    assert reader(identity).name(CLAIMS) == name
    parse_name(name)


@pytest.mark.parametrize("claim", ["missing", "groups", "none", "empty", "line", "nested", "nested.object", "sub.x"])
def test_claims_no_name_is_made_of(claim: str) -> None:
    with pytest.raises(LoginRefused):
        reader(f"CN={{{claim}}}").name(CLAIMS)


@pytest.mark.parametrize(
    "value",
    [
        "x,O=Admin",
        "x+O=Admin",
        "x;O=Admin",
        '"',
        '",O=Admin',
        "\\",
        "\\,",
        "#0c0161",
        " x ",
        "=",
        "x,CN=y,",
        "\uff0cO=x",
    ],
)
@pytest.mark.parametrize("identity", ["CN={v},O=Site", 'CN="{v}",O=Site', "CN=a{v}b,O=Site", "O=Site,CN={v}"])
def test_a_claim_adds_nothing_to_a_name(identity: str, value: str) -> None:
    name = parse_name(reader(identity).name({"v": value}))
    assert len(name.rdns) == 2
    assert sorted(len(rdn) for rdn in name.rdns) == [1, 1]
    assert canonical(name).count("o=site") == 1


@given(st.text(max_size=40) | st.text(st.sampled_from(',+;="\\#<> aO\n\x00\uff0c\u2028')))
def test_any_claim_stays_in_its_place(value: str) -> None:
    for identity in ("CN={v},O=Site", 'CN="{v}",O=Site'):
        with contextlib.suppress(LoginRefused):
            rdns = parse_name(reader(identity).name({"v": value})).rdns
            assert [len(rdn) for rdn in rdns] == [1, 1]
            [[common]] = rdns[:1]
            assert common.text == value
            assert rdns[1][0].text == "Site"


def test_accounts_groups_and_roles() -> None:
    found = reader(
        uid="{https://example.org/claims/account}",
        groups=(Rule(value="{1}", when="groups", match="/hpc/(.+)"), "extra"),
        role=(
            Rule(value="admin", when="realm_access.roles", equals="uftp-admin"),
            Rule(value="user", when="realm_access.roles", equals="uftp"),
        ),
    ).attributes(CLAIMS)
    assert found == {"xlogin": ("joe",), "group": ("users", "project1", "extra"), "role": ("user",)}


@pytest.mark.parametrize(
    ("role", "roles"),
    [
        ("user", ("user",)),
        ("{realm_access.roles}", ()),  # neither word is a role
        ((Rule(value="user", when="email_verified", equals="true"),), ("user",)),
        ((Rule(value="user", when="email_verified", equals="false"),), ()),
        ((Rule(value="user", when="missing"),), ()),
        ((Rule(value="user", when="empty"),), ()),
        ((Rule(value="user", when="email"), Rule(value="admin", when="sub", equals="f00")), ("user", "admin")),
        ((Rule(value="user", when="email"), Rule(value="banned", when="sub", equals="f00")), ("banned",)),
        ((Rule(value="user", when="email", match=".*@example.org"),), ("user",)),
        ((Rule(value="user", when="email", match="example.org"),), ()),  # the whole value
    ],
)
def test_roles(role: Any, roles: tuple[str, ...]) -> None:
    assert reader(role=role).attributes(CLAIMS).get("role", ()) == roles


@pytest.mark.parametrize("value", ["root\n", "a b", "../x", "-x", "x" * 65, "ä", "", "a:b", "a,b"])
def test_what_is_no_account_is_left_out(value: str) -> None:
    assert reader(uid="{v}", groups="{v}").attributes({"v": value}) == {}


def test_two_lists_are_not_multiplied() -> None:
    assert reader(groups="{a}-{b}").attributes({"a": ["x", "y"], "b": ["1", "2"]}) == {}
    assert reader(groups="{a}-{b}").attributes({"a": ["x", "y"], "b": ["1"]}) == {"group": ("x-1", "y-1")}


def test_no_claim_holds_up_a_pattern() -> None:
    rule = Rule(value="{1}", when="v", match="((a+)+)+b")
    assert reader(groups=(rule,)).attributes({"v": ["a" * 1000] * 100}) == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"identity": "joe"}, "identity"),
        ({"identity": "UID=joe"}, "everybody would be the same"),
        ({"identity": "{type}=x"}, "identity"),
        ({"identity": "CN=#{x}"}, "identity"),
        ({"identity": "CN={x"}, "brace"),
        ({"identity": "CN=x}"}, "brace"),
        ({"identity": "CN={}"}, "missing"),
        ({"identity": "CN={a|}"}, "missing"),
        ({"uid": "{"}, "uid"),
        ({"groups": ("{a}", "}")}, "groups"),
        ({"issuers": ()}, "issuers"),
        ({"audiences": ()}, "audiences, clients"),
        ({"issuers": ("http://idp.example.org",)}, "expected https"),
        ({"issuers": ("https://user@idp.example.org",)}, "expected https"),
        ({"issuers": ("https://idp.example.org/?x",)}, "expected https"),
        ({"issuers": ("ftp://idp.example.org/",)}, "expected https"),
        ({"issuers": ("https://[/",)}, "expected https"),
        ({"issuers": ("https://a:b/",)}, "expected https"),
        ({"algorithms": ()}, "algorithms"),
        ({"verify": "userinfo"}, "address"),
        ({"verify": "introspection", "address": "https://a"}, "client_id"),
    ],
)
def test_mistakes_in_settings(settings: dict[str, Any], words: str) -> None:
    usual = {"identity": "UID={email}", "issuers": ("https://idp.example.org",), "audiences": ("uftp",)}
    with pytest.raises(ValueError, match=words):
        OidcProvider(**(usual | settings))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"value": "x", "when": ""}, "when"),
        ({"value": "{", "when": "x"}, "brace"),
        ({"value": "x", "when": "x", "match": "("}, "regular expression"),
        ({"value": "x", "when": "x", "match": "(?=x)"}, "regular expression"),
        ({"value": "x", "when": "x", "match": "y", "equals": "z"}, "either"),
    ],
)
def test_mistakes_in_rules(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Rule(**rule)


@given(st.text(st.sampled_from("{}|ab. ")))
def test_any_text_is_an_expression_or_an_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_template(text)

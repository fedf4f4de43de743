"""X.500 names: the published table of canonical forms, RFC 4514 text, and what any junk may do."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.protocol._errors import ProtocolError
from uftp.protocol.dn import (
    MAX_NAME_CHARACTERS,
    Attribute,
    InvalidName,
    Name,
    canonical,
    format_name,
    parse_name,
    rdn_subset,
    same_rdns,
)

# CONTROL-PLANE 5.9.
CANONICAL = [
    ("CN=Other User, O=Testing", "cn=other user,o=testing"),
    ("CN=Demo  User , O=UNICORE, C=EU", "cn=demo user,o=unicore,c=eu"),
    ("O=UNICORE,CN=Demo User,C=EU", "o=unicore,cn=demo user,c=eu"),
    ("CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN", "cn=anonymous,o=unknown,ou=unknown"),
    ("CN=joe, OU=ssh-local-users", "cn=joe,ou=ssh-local-users"),
    ("UID=Joe@x.org", "uid=joe@x.org"),
    (r"CN=a\, b,O=x", r"cn=a\, b,o=x"),
    ('CN="a, b",O=x', r"cn=a\, b,o=x"),
    ("CN=Straße", "cn=strasse"),
    ("2.5.4.3=joe", "cn=joe"),
    ("S=NRW,CN=x", "st=nrw,cn=x"),
    ("SURNAME=Ö,CN=x", "2.5.4.4=#0c02c396,cn=x"),
    ("CN=a+O=b+C=de", "c=de+cn=a+o=b"),
    ("DC=NET,CN=x", "dc=#16036e6574,cn=x"),
    ("EMAILADDRESS=a@B.de,CN=Q", "1.2.840.113549.1.9.1=#16066140622e6465,cn=q"),
    ("SERIALNUMBER=12,CN=y", "2.5.4.5=#13023132,cn=y"),
]

MORE_CANONICAL = [
    ("cn=a;o=b", "cn=a,o=b"),
    ("oid.2.5.4.3 = a , O = b", "cn=a,o=b"),
    (r"CN=\4a\6F\C3\B6", "cn=joo\u0308"),
    ("2.5.4.3=#0c036A6f65", "cn=joe"),
    (r"CN=\#1", r"cn=\#1"),
    (r"CN=\ a\ ", "cn=a"),
    ("CN=", "cn="),
    ("CN=a=b", "cn=a=b"),
    # A full-width comma must not become a separator.
    ("CN=a\uff0cO=x", r"cn=a\,o=x"),
]


@pytest.mark.parametrize(("text", "expected"), CANONICAL + MORE_CANONICAL)
def test_canonical_form(text: str, expected: str) -> None:
    assert canonical(text) == expected
    assert canonical(expected) == expected
    assert canonical(format_name(parse_name(text))) == expected


@pytest.mark.parametrize(
    "text",
    [
        "joe",
        "",
        " ",
        ",",
        "CN=a,",
        ",CN=a",
        "CN=a,,O=b",
        "CN=a+",
        "=a",
        'CN="a',
        'CN="a"b',
        'CN=a"b',
        "CN=a<b",
        "CN=a\\",
        "CN=a\\x",
        "CN=\\ff",
        "CN=#",
        "CN=#0c0",
        "CN=#0c0561",
        "CN=#0c8161",
        "CN=#0c0161z",
        "CN=#1301ff",
        "XYZ=a",
        "2.5.4.03=a",
        "2=a",
        "CN=a\nb",
        r"CN=a\0Ab",
        "CN=#0c010a",
        "CN=a\x85",
        "CN=\ud800",
        "CN=" + "a" * MAX_NAME_CHARACTERS,
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidName):
        parse_name(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cn = Demo User , o=x", "CN=Demo User,O=x"),
        ('CN="a, b"+UID=1', r"CN=a\, b+UID=1"),
        (r"CN=\ a\ ,O=\#x", r"CN=\ a\ ,O=\#x"),
        (r"CN=\ ", r"CN=\ "),
        ("E=a@b", "1.2.840.113549.1.9.1=a@b"),
        ("1.2.3=#0500", "1.2.3=#0500"),
    ],
)
def test_rfc_4514_text(text: str, expected: str) -> None:
    assert format_name(parse_name(text)) == expected
    assert str(parse_name(expected)) == expected


def test_order_does_not_matter_for_the_command_port() -> None:
    assert same_rdns("CN=Auth,O=UNICORE,C=EU", "c=eu,o=unicore,cn=auth")
    assert same_rdns("CN=a+O=b,C=de", "C=DE,O=b+CN=a")
    assert same_rdns("SERIALNUMBER=aB", "2.5.4.5=#0c026142")
    assert not same_rdns("CN=Auth,O=UNICORE,C=EU", "CN=Auth,O=UNICORE")
    assert not same_rdns("CN=a+O=b", "CN=a,O=b")
    assert not same_rdns("DC=a,DC=a,CN=x", "DC=a,CN=x")


def test_upstreams_lenient_rule() -> None:
    assert rdn_subset("C=EU", "CN=Auth,O=UNICORE,C=eu")
    assert rdn_subset("O=unicore,CN=auth", "CN=Auth,O=UNICORE,C=eu")
    assert not rdn_subset("C=EU,O=other", "CN=Auth,O=UNICORE,C=eu")
    with pytest.raises(InvalidName):
        rdn_subset("", "CN=x")


_OIDS = st.sampled_from(
    ["2.5.4.3", "2.5.4.10", "2.5.4.5", "0.9.2342.19200300.100.1.25", "1.2.840.113549.1.9.1", "1.2.3"]
)
_TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
_ATTRIBUTES = st.builds(Attribute, _OIDS, _TEXTS)
_NAMES = st.lists(st.lists(_ATTRIBUTES, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4).map(
    lambda rdns: Name(tuple(rdns))
)


@given(_NAMES)
def test_text_keeps_the_name(name: Name) -> None:
    assert parse_name(format_name(name)) == name


@given(_NAMES)
def test_the_canonical_form_is_stable(name: Name) -> None:
    assert canonical(canonical(name)) == canonical(name)


@given(_NAMES)
def test_any_order_has_the_same_rdns(name: Name) -> None:
    for rdns in itertools.islice(itertools.permutations(name.rdns), 6):
        assert same_rdns(name, Name(rdns))
        assert rdn_subset(Name(rdns[:1]), name)


@given(st.text(st.sampled_from('CNoO=,;+\\"# <2.5409af\n\u00e4\uff0c\u212b'), max_size=40) | st.text())
def test_junk_gives_a_name_or_the_own_error(text: str) -> None:
    try:
        name = parse_name(text)
    except ProtocolError:
        return
    assert parse_name(format_name(name)) is not None
    assert canonical(canonical(name)) == canonical(name)


@pytest.mark.slow
def test_no_single_character_escapes_stability() -> None:
    characters = (chr(code) for code in range(0xA0, 0x110000) if not 0xD800 <= code < 0xE000)
    for c in characters:
        if unicodedata.normalize("NFKD", c.upper().lower()) != c:
            form = canonical(Name(((Attribute("2.5.4.3", f"a{c}b"),),)))
            assert canonical(form) == form


def test_many_separators_cost_linear_time() -> None:
    with pytest.raises(InvalidName):
        parse_name("," * MAX_NAME_CHARACTERS)
    assert len(parse_name(",".join(["CN=a"] * (MAX_NAME_CHARACTERS // 5))).rdns) == MAX_NAME_CHARACTERS // 5

"""Lines of authorized_keys and of the key file: what is taken, what their options allow, and what any junk may do."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from uftpd.auth.identity.authorized_keys import UnusableKey, parse_line
from uftpd.auth.identity.ssh_keys import parse_key_file, watch_key_file
from uftpd.config.toml import ConfigError


def line(key: Any) -> str:
    """The public half of a private key as OpenSSH writes it."""
    return str(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


ED = ed25519.Ed25519PrivateKey.generate()
ED_LINE = line(ED)
KEYS = [
    ED,
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    ec.generate_private_key(ec.SECP521R1()),
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", ["{}", "  {}  ", "{} a comment with blanks", "restrict {} c", 'no-pty,tunnel="0" {}'])
def test_keys_with_and_without_words_around(key: Any, form: str) -> None:
    found = parse_line(form.format(line(key)))
    assert found.key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() == line(key)
    assert found.admits(ipaddress.ip_address("192.0.2.1"), time.time())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no key"),
        ("ssh-ed25519", "no key"),
        ("ssh-ed25519 AAAA", "broken"),
        ("ssh-ed25519 ü", "broken"),
        ("ssh-rsa BLOB", "broken"),
        ('command="rsync --server" LINE', "option 'command'"),
        ('restrict,command="x" LINE', "option 'command'"),
        ('COMMAND="x" LINE', "option 'command'"),
        ("cert-authority LINE", "option 'cert-authority'"),
        ('cert-authority,principals="joe" LINE', "option 'cert-authority'"),
        ('principals="joe" LINE', "option 'principals'"),
        ("verify-required LINE", "option 'verify-required'"),
        ("some-day-invented LINE", "option 'some-day-invented'"),
        ('from="" LINE', "option 'from'"),
        ("from LINE", "option 'from'"),
        ("from=10.* LINE", "cannot be read"),
        ('from="10.*"x LINE', "cannot be read"),
        ('from="10.* LINE', "no key behind"),
        ("restrict, LINE", "cannot be read"),
        (",restrict LINE", "cannot be read"),
        ("restrict ssh-dss LINE", "no key of a known kind"),
        ('expiry-time="soon" LINE', "expiry-time"),
        ('expiry-time="20301399" LINE', "expiry-time"),
        ('expiry-time="99999999999999Z" LINE', "expiry-time"),
        (f'from="{",".join(["10.*"] * 65)}" LINE', "more than 64 patterns"),
        ("sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t", "no key"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "no key"),
        (f"LINE {'x' * 20_000}", "too long"),
    ],
)
def test_lines_that_are_not_taken(text: str, words: str) -> None:
    text = text.replace("LINE", ED_LINE).replace("BLOB", ED_LINE.split()[1])  # keys are random, test ids are not
    with pytest.raises(UnusableKey, match=words) as caught:
        parse_line(text)
    assert ED_LINE.split()[1] not in str(caught.value)


def test_weak_keys_are_not_taken() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    with pytest.raises(UnusableKey, match="1024 bits"):
        parse_line(line(weak))
    old = dsa.generate_private_key(1024).public_key()
    with pytest.raises(UnusableKey):
        parse_line(f"ssh-dss {old.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()}")


@pytest.mark.parametrize(
    ("patterns", "address", "admitted"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.10", False),
        ("192.0.2.*", "192.0.2.10", True),
        ("192.0.2.?", "192.0.2.1", True),
        ("192.0.2.?", "192.0.2.10", False),
        ("10.*, 192.0.2.*", "192.0.2.1", True),
        ("192.0.2.0/24", "192.0.2.200", True),
        ("192.0.2.0/24", "192.0.3.1", False),
        ("192.0.2.0/24,!192.0.2.7", "192.0.2.7", False),
        ("!192.0.2.7,192.0.2.0/24", "192.0.2.7", False),
        ("!192.0.2.7,192.0.2.0/24", "192.0.2.8", True),
        ("!192.0.2.7", "192.0.2.8", False),  # nothing admits
        ("*", "192.0.2.1", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:DB8::1", "2001:db8::1", True),
        ("2001:db8:*", "2001:db8::1", True),
        ("2001:db8::/32", "192.0.2.1", False),
        ("192.0.2.1/24", "192.0.2.1", False),  # no network: host bits are set
        ("*.example.org", "192.0.2.1", False),  # names are never looked up
        ("localhost", "127.0.0.1", False),
        ("[0-9]*", "192.0.2.1", False),
        ("", "192.0.2.1", False),
        (",", "192.0.2.1", False),
    ],
)
def test_from(patterns: str, address: str, admitted: bool) -> None:
    text = f'from="{patterns}" {ED_LINE}' if patterns else f'from="{patterns}x" {ED_LINE}'
    assert parse_line(text).admits(ipaddress.ip_address(address), 0) is admitted


def test_several_from_must_all_admit() -> None:
    key = parse_line(f'from="192.0.2.*",from="*.1" {ED_LINE}')
    assert key.admits(ipaddress.ip_address("192.0.2.1"), 0)
    assert not key.admits(ipaddress.ip_address("192.0.2.2"), 0)


def test_many_stars_cost_little() -> None:
    key = parse_line(f'from="{"*1" * 2000}" {ED_LINE}')
    assert not key.admits(ipaddress.ip_address("1111:1111:1111:1111:1111:1111:1111:1112"), 0)


@pytest.mark.parametrize(
    ("value", "end"),
    [("20300101Z", 1893456000), ("203001010130Z", 1893461400), ("20300101013015Z", 1893461415)],
)
def test_expiry_time(value: str, end: float) -> None:
    key = parse_line(f'expiry-time="{value}",expiry-time="20400101Z" {ED_LINE}')
    address = ipaddress.ip_address("192.0.2.1")
    assert key.admits(address, end - 1)
    assert not key.admits(address, end)
    local = parse_line(f'expiry-time="{value.removesuffix("Z")}" {ED_LINE}')
    assert local.ends is not None
    assert abs(local.ends - end) <= 14 * 3600


@given(st.text() | st.text(st.sampled_from('from="10.*", restct\\ssh-ed2519AAAAC3Nza\n'), max_size=120))
def test_any_text_is_a_key_or_none(text: str) -> None:
    for candidate in (text, f"{text} {ED_LINE}", f"ssh-rsa {text}"):
        with contextlib.suppress(UnusableKey):
            parse_line(candidate)


# -- the key file -----------------------------------------------------------------------------------------------------


def test_a_key_file() -> None:
    other = line(KEYS[2])
    text = "\n".join(
        [
            "# demouser:comment",
            "",
            f"demouser:{ED_LINE} a comment:CN=Demo User, O=UNICORE, C=EU",
            f" demouser:{other}:CN=Demo User, O=UNICORE, C=EU",
            f'v6:from="2001:db8::/32" {ED_LINE}:CN=Six,O=x',
            f"../x:{ED_LINE}:CN=x",
            f":{ED_LINE}:CN=x",
            f"x:{ED_LINE}:nobody",
            f"x:{ED_LINE}",
            "x:ssh-rsa AAAA:CN=x",
            f'x:command="ls" {ED_LINE}:CN=x',
            f"x:{ED_LINE}:CN=x\x00y",
        ]
    )
    table = parse_key_file(text)
    assert {name: [entry.dn for entry in entries] for name, entries in table.entries.items()} == {
        "demouser": ["CN=Demo User, O=UNICORE, C=EU"] * 2,
        "v6": ["CN=Six,O=x"],
    }
    [six] = table.entries["v6"]
    assert six.key.admits(ipaddress.ip_address("2001:db8::1"), 0)
    assert not six.key.admits(ipaddress.ip_address("192.0.2.1"), 0)
    assert [mistake.partition(":")[0] for mistake in table.mistakes] == [f"line {n}" for n in range(6, 13)]
    assert not any("AAAAC3" in mistake for mistake in table.mistakes)


@given(st.text(st.sampled_from("ab:#=CN \nssh-ed25519,x\x00"), max_size=80))
def test_any_text_is_a_table(text: str) -> None:
    parse_key_file(text)


def test_a_key_that_is_taken_out_no_longer_counts(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"joe:{ED_LINE}:CN=joe\nann:{ED_LINE}:CN=ann\n")
    file = watch_key_file(path)
    assert set(file.current().entries) == {"joe", "ann"}
    (tmp_path / "new").write_text(f"ann:{ED_LINE}:CN=ann\n")
    os.rename(tmp_path / "new", path)
    assert set(file.current().entries) == {"ann"}
    with pytest.raises(ConfigError, match="cannot be read"):
        watch_key_file(tmp_path / "none")

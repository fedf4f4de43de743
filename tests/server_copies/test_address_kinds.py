"""What kind of machine an address leads to: a table of every form, and the standard library as a second opinion."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uftpd.addresses import AddressKind, kind_of

PUBLIC, PRIVATE, LOOPBACK, SPECIAL = AddressKind
IP = ipaddress.ip_address

TABLE = [
    # IPv4
    ("8.8.8.8", PUBLIC),
    ("1.0.0.0", PUBLIC),
    ("223.255.255.255", PUBLIC),
    ("127.0.0.1", LOOPBACK),
    ("127.255.255.254", LOOPBACK),
    ("10.0.0.1", PRIVATE),
    ("10.255.255.255", PRIVATE),
    ("11.0.0.0", PUBLIC),
    ("172.15.255.255", PUBLIC),
    ("172.16.0.0", PRIVATE),
    ("172.31.255.255", PRIVATE),
    ("172.32.0.0", PUBLIC),
    ("192.168.0.1", PRIVATE),
    ("192.169.0.0", PUBLIC),
    ("100.63.255.255", PUBLIC),
    ("100.64.0.0", PRIVATE),
    ("100.127.255.255", PRIVATE),
    ("100.128.0.0", PUBLIC),
    ("0.0.0.0", SPECIAL),
    ("0.1.2.3", SPECIAL),
    ("169.254.169.254", SPECIAL),
    ("192.0.0.1", SPECIAL),
    ("192.0.0.171", SPECIAL),
    ("192.0.1.0", PUBLIC),
    ("192.0.2.1", SPECIAL),
    ("192.88.99.1", SPECIAL),
    ("198.18.0.1", SPECIAL),
    ("198.51.100.1", SPECIAL),
    ("203.0.113.1", SPECIAL),
    ("224.0.0.1", SPECIAL),
    ("239.255.255.255", SPECIAL),
    ("240.0.0.1", SPECIAL),
    ("255.255.255.255", SPECIAL),
    ("100.100.100.200", SPECIAL),
    ("168.63.129.16", SPECIAL),
    ("168.63.129.17", PUBLIC),
    # IPv6
    ("2001:4860:4860::8888", PUBLIC),
    ("2a00::1", PUBLIC),
    ("3ffe::1", PUBLIC),
    ("::", SPECIAL),
    ("::1", LOOPBACK),
    ("::2", SPECIAL),
    ("fe80::1", SPECIAL),
    ("fe80::1%eth0", SPECIAL),
    ("2a00::1%eth0", SPECIAL),
    ("::1%lo", SPECIAL),
    ("febf::1", SPECIAL),
    ("fec0::1", SPECIAL),
    ("fc00::1", PRIVATE),
    ("fdff::1", PRIVATE),
    ("fd00:ec2::254", SPECIAL),
    ("fd20:ce::254", SPECIAL),
    ("ff02::1", SPECIAL),
    ("ff0e::1", SPECIAL),
    ("100::1", SPECIAL),
    ("2001:db8::1", SPECIAL),
    ("3fff::1", SPECIAL),
    ("5f00::1", SPECIAL),
    ("4000::1", SPECIAL),
    # IPv4 inside IPv6
    ("::ffff:127.0.0.1", LOOPBACK),
    ("::ffff:7f00:1", LOOPBACK),
    ("::ffff:10.0.0.1", PRIVATE),
    ("::ffff:169.254.169.254", SPECIAL),
    ("::ffff:8.8.8.8", PUBLIC),
    ("::127.0.0.1", SPECIAL),
    ("::8.8.8.8", SPECIAL),
    ("::ffff:0:127.0.0.1", SPECIAL),
    ("::ffff:0:8.8.8.8", SPECIAL),
    ("64:ff9b::127.0.0.1", SPECIAL),
    ("64:ff9b::10.0.0.1", SPECIAL),
    ("64:ff9b::a9fe:a9fe", SPECIAL),
    ("64:ff9b::8.8.8.8", PUBLIC),
    ("64:ff9b:0:0:1::8.8.8.8", SPECIAL),
    ("64:ff9b:1::8.8.8.8", SPECIAL),
    ("2002:7f00:1::", SPECIAL),
    ("2002:0a00:1::1", SPECIAL),
    ("2002:0808:0808::1", SPECIAL),
    ("2001::1", SPECIAL),
    ("2001:0:7f00:1::", SPECIAL),
    ("2001:0:4136:e378:8000:63bf:80ff:fffe", SPECIAL),
    ("2001:10::1", SPECIAL),
    ("2001:20::1", SPECIAL),
    ("2a00::5efe:10.0.0.1", SPECIAL),
    ("2a00::200:5efe:8.8.8.8", SPECIAL),
]


@pytest.mark.parametrize(("text", "kind"), TABLE, ids=[text for text, _ in TABLE])
def test_the_table(text: str, kind: AddressKind) -> None:
    assert kind_of(IP(text)) is kind


addresses4 = st.ip_addresses(v=4)
# Any 128 bits are seldom special; so addresses are made near the borders of networks, too.
addresses6 = st.one_of(
    st.ip_addresses(v=6),
    st.builds(
        lambda prefix, bits: ipaddress.IPv6Address(int(IP(prefix)) + bits),
        st.sampled_from(["::", "::ffff:0:0", "64:ff9b::", "2001::", "2002::", "fc00::", "fe80::", "ff00::", "2000::"]),
        st.integers(0, 2**33),
    ),
)


@given(addresses4)
@example(IP("127.0.0.1"))
@example(IP("0.0.0.0"))
def test_ipv4_as_the_standard_library_has_it(address: ipaddress.IPv4Address) -> None:
    kind = kind_of(address)
    assert (kind is LOOPBACK) == address.is_loopback
    if kind is PUBLIC:
        assert address.is_global
        assert not (address.is_multicast)
        assert not (address.is_reserved)
        assert not (address.is_unspecified)
        assert not (address.is_link_local)
    elif address.is_global and not address.is_multicast:
        # Versions of Python differ in the first; 6to4's relays and a cloud's own service are no machines to name.
        stricter = ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
        assert any(address in ipaddress.ip_network(network) for network in stricter)
    if kind is PRIVATE:
        assert not address.is_global


@given(addresses6)
@example(IP("::1"))
@example(IP("::ffff:0:1"))
def test_ipv6_as_the_standard_library_has_it(address: ipaddress.IPv6Address) -> None:
    kind = kind_of(address)
    if (inner := address.ipv4_mapped) is not None:
        assert kind is kind_of(inner)
        return
    assert (kind is LOOPBACK) == address.is_loopback
    assert address in ipaddress.ip_network("fc00::/7") or kind is not PRIVATE
    if kind is PUBLIC:
        assert address.sixtofour is None
        assert address.teredo is None
        assert address.is_global
        assert not (address.is_multicast)
        assert not (address.is_link_local)
        assert not (address.is_site_local)
        assert not (address.is_unspecified)
        in_nat64 = address in ipaddress.ip_network("64:ff9b::/96")
        assert address in ipaddress.ip_network("2000::/3") or in_nat64


@given(addresses4)
def test_an_ipv4_address_in_another_form_leads_nowhere_it_does_not(address: ipaddress.IPv4Address) -> None:
    """No way of writing a forbidden address is better than the plain one."""
    number = int(address)
    forms = {
        "mapped": (0xFFFF << 32) | number,
        "compatible": number,
        "translated": (0xFFFF << 48) | number,
        "nat64": int(IP("64:ff9b::")) | number,
        "nat64 of a site": int(IP("64:ff9b:1::")) | number,
        "6to4": (0x2002 << 112) | (number << 80) | 1,
        "teredo server": (0x20010000 << 96) | (number << 64),
        "teredo client": (0x20010000 << 96) | (number ^ 0xFFFF_FFFF),
        "isatap": (0x2A00 << 112) | (0x5EFE << 32) | number,
    }
    plain = kind_of(address)
    for form, value in forms.items():
        kind = kind_of(ipaddress.IPv6Address(value))
        if form == "mapped":
            assert kind is plain
        elif kind is PUBLIC:
            assert form == "nat64"
            assert plain is PUBLIC
        elif (form, number) == ("compatible", 1):
            assert kind is LOOPBACK  # ::1 itself
        else:
            assert kind is SPECIAL

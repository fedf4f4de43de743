"""Which addresses a session is opened for: forms of addresses, names, proxies, and who may say what."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from running_auth import StartAuth

from uftpd.auth import addresses
from uftpd.auth.addresses import MAX_ITEMS, MAX_NAMES, client_addresses, parse_address
from uftpd.auth.errors import BadRequest

PEER = ip_address("198.51.100.9")

LookUp = Callable[..., list[tuple[object, ...]]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A name service of one's own: names, and the addresses each has. Unknown ones do not resolve."""
    known: dict[str, list[str]] = {}

    def look_up(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if name not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in known[name]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8:0:0:1::", "2001:db8:0:0:1::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        ("[::ffff:192.0.2.1]", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]", "fe80::1"),
    ],
)
def test_forms_of_addresses(text: str, address: str) -> None:
    assert str(parse_address(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[::1",
        "::1]",
        "[[::1]]",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.01",
        "1.2.3.4/32",
        "1:2",
        "localhost",
        "٣.1.1.1",
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("192.0.2.1", ["192.0.2.1"]),
        ("192.0.2.1,192.0.2.2", ["192.0.2.1", "192.0.2.2"]),
        (" ,, 192.0.2.1 \t 192.0.2.2 , ", ["192.0.2.1", "192.0.2.2"]),
        ("192.0.2.1 ::ffff:192.0.2.1 [2001:db8::1]", ["192.0.2.1", "2001:db8::1"]),
        ("laptop", ["192.0.2.7", "2001:db8::7"]),
        ("nowhere 192.0.2.1", ["192.0.2.1"]),
        ("192.0.2.1 laptop 192.0.2.9", ["192.0.2.1", "192.0.2.7", "2001:db8::7", "192.0.2.9"]),
        ("many", ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]),
        ("-x 192.0.2.1 a/b a@b ..", ["192.0.2.1"]),
        ("0.0.0.0 224.0.0.1 :: ff02::1 255.255.255.255 127.0.0.1", ["127.0.0.1"]),
    ],
)
async def test_named_addresses(names: dict[str, list[str]], named: str, expected: list[str]) -> None:
    names |= {"laptop": ["192.0.2.7", "2001:db8::7", "192.0.2.7"], "many": [f"192.0.2.{n}" for n in range(1, 20)]}
    assert [str(a) for a in await client_addresses(PEER, None, named)] == expected
    assert [str(a) for a in await client_addresses(PEER, named, None)] == expected


@pytest.mark.parametrize("named", ["", " , ", "nowhere", "0.0.0.0", "bad", "x" * 300, "a..b"])
async def test_none_is_left(names: dict[str, list[str]], named: str) -> None:
    names["bad"] = ["0.0.0.0", "::"]
    with pytest.raises(BadRequest, match="client: none of the addresses"):
        await client_addresses(PEER, None, named)
    with pytest.raises(BadRequest, match="X-UNICORE-Consignor-IP: none of the addresses"):
        await client_addresses(PEER, named, None)


async def test_what_counts() -> None:
    assert await client_addresses(PEER, None, None) == (PEER,)
    assert await client_addresses(PEER, "192.0.2.1", None) == (ip_address("192.0.2.1"),)
    assert await client_addresses(PEER, "192.0.2.1", "192.0.2.2") == (ip_address("192.0.2.2"),)


async def test_numbers_are_bounded(names: dict[str, list[str]]) -> None:
    with pytest.raises(BadRequest, match=f"at most {MAX_ITEMS} addresses"):
        await client_addresses(PEER, None, " ".join(f"192.0.2.{n}" for n in range(MAX_ITEMS + 1)))
    with pytest.raises(BadRequest, match=f"at most {MAX_NAMES} host names"):
        await client_addresses(PEER, None, " ".join(f"host{n}" for n in range(MAX_NAMES + 1)))
    assert await client_addresses(PEER, None, "192.0.2.1 " * 1000) == (ip_address("192.0.2.1"),)


async def test_a_name_service_that_hangs_costs_bounded_time(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    release = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        release.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(addresses, "RESOLVE_SECONDS", 0.0)
    try:
        assert await client_addresses(PEER, None, "slow 192.0.2.1") == (ip_address("192.0.2.1"),)
        with pytest.raises(BadRequest, match="none of the addresses"):
            await client_addresses(PEER, None, "slow slower")
    finally:
        release.set()


@given(st.text(max_size=200))
def test_any_text_gives_addresses_or_a_bad_request(text: str) -> None:
    async def attempt() -> None:
        try:
            found = await client_addresses(PEER, None, text)
        except BadRequest:
            return
        assert found

    with pytest.MonkeyPatch.context() as patch:

        def nobody(*_: object, **__: object) -> list[object]:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")

        patch.setattr(socket, "getaddrinfo", nobody)
        trio.run(attempt)


# -- through the server -----------------------------------------------------------------------------------------------

PROXY = 'trusted_proxies = ["127.0.0.1"]'
FORWARDED = "X-UNICORE-Consignor-IP"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("192.0.2.1", "192.0.2.1,::ffff:192.0.2.1"),
        ("[2001:db8:0:0::1]", "2001:db8::1"),
        ("192.0.2.1, 2001:db8::1", "192.0.2.1,::ffff:192.0.2.1,2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1,::ffff:192.0.2.1"),
    ],
)
async def test_a_trusted_proxy_names_the_client(start_auth: StartAuth, header: str, expected: str) -> None:
    async with start_auth(server=PROXY) as auth:
        reply = await auth.post(headers={FORWARDED: header})
        assert reply.status_code == 200
        assert auth.node.fields[-1]["client-ip"] == expected


async def test_strangers_cannot_name_another(start_auth: StartAuth) -> None:
    async with start_auth(server='trusted_proxies = ["192.0.2.0/24"]') as auth:
        assert (await auth.post(headers={FORWARDED: "192.0.2.1"})).status_code == 200
        assert auth.node.fields[-1]["client-ip"] == "127.0.0.1,::ffff:127.0.0.1"


@pytest.mark.parametrize("values", [["junk..name"], [""], ["192.0.2.1", "192.0.2.66"]])
async def test_a_proxy_that_says_nothing_clear_is_not_taken_for_the_client(
    start_auth: StartAuth, values: list[str]
) -> None:
    async with start_auth(server=PROXY) as auth:
        reply = await auth.post(headers=[(FORWARDED, value) for value in values])
        assert reply.status_code == 400
        assert reply.json()["errorMessage"].startswith(f"{FORWARDED}: none of the addresses")
        assert auth.node.transfers == []
        assert (await auth.info(headers=[(FORWARDED, value) for value in values])).status_code == 200

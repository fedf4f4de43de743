"""Which other machines a site connects to for its users: what is listed, announced or public, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st

from uftp.errors import NetworkError, UFTPError, UsageError
from uftpd import peers
from uftpd.addresses import AddressKind, kind_of
from uftpd.config.copies import Copies
from uftpd.config.peer_entry import parse_entry, parse_host
from uftpd.config.toml import ConfigError
from uftpd.peers import MAX_ADDRESSES, LookUp, PeerRefused, PeerRules, fetch_authorities, system_look_up

NAMES = {
    "public.example.org": ["8.8.8.8", "2a00::1"],
    "other.example.org": ["9.9.9.9"],
    "deep.sub.example.org": ["8.8.4.4"],
    "private.example.org": ["10.3.0.7"],
    "carrier.example.org": ["100.64.0.9"],
    "ula.example.org": ["fd00::7"],
    "loopback.example.org": ["127.0.0.1"],
    "loopback6.example.org": ["::1"],
    "mapped.example.org": ["::ffff:127.0.0.1"],
    "metadata.example.org": ["169.254.169.254"],
    "zone.example.org": ["fe80::1%eth0"],
    "mixed.example.org": ["8.8.8.8", "127.0.0.1"],
    "inner-and-outer.example.org": ["8.8.8.8", "10.3.0.7"],
    "nat64.example.org": ["64:ff9b::10.0.0.1"],
    "6to4.example.org": ["2002:7f00:1::1"],
    "any.example.org": ["0.0.0.0"],
    "empty.example.org": [],
    "many.example.org": [f"8.8.8.{n}" for n in range(1, 60)],
    "localhost": ["127.0.0.1", "::1"],
    "inner": ["10.3.0.8"],
}


class Names:
    """A name service that counts its questions."""

    def __init__(self, table: dict[str, list[str]] | None = None) -> None:
        self.table = NAMES if table is None else table
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        return self.table.get(name, [])


def rules(*allow: str, names: LookUp | None = None, announced: Sequence[str] = (), **settings: object) -> PeerRules:
    return PeerRules(Copies(allow=allow, **settings), announced, names or Names())  # type: ignore[arg-type]


async def admits(found: PeerRules, host: str, port: int = 64434) -> bool:
    try:
        return bool(await found.admit(host, port))
    except PeerRefused:
        return False


# -- by default ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [*NAMES, "8.8.8.8", "10.0.0.1", "127.0.0.1", "::1", "2a00::1", "no.such.host"])
async def test_nobody_is_copied_with_unless_somebody_says_so(host: str) -> None:
    names = Names()
    with pytest.raises(PeerRefused):
        await rules(names=names).admit(host, 64434)
    assert names.asked == [], "nobody can have names looked up that cannot be allowed"


# -- entries ------------------------------------------------------------------------------------------------------

ALLOWED = [
    ("public.example.org", "public.example.org", 1),
    ("PUBLIC.Example.ORG", "public.example.org", 1),
    ("public.example.org", "Public.example.org", 1),
    ("public.example.org:64434", "public.example.org", 64434),
    ("private.example.org", "private.example.org", 1),
    ("carrier.example.org", "carrier.example.org", 1),
    ("ula.example.org", "ula.example.org", 1),
    ("inner-and-outer.example.org", "inner-and-outer.example.org", 1),
    ("inner", "inner", 1),
    ("localhost", "localhost", 1),
    ("localhost:21", "LOCALHOST", 21),
    ("*.example.org", "public.example.org", 1),
    ("*.example.org:21", "deep.sub.example.org", 21),
    ("8.8.8.8", "8.8.8.8", 1),
    ("8.8.8.8:21", "8.8.8.8", 21),
    ("8.8.8.8", "::ffff:8.8.8.8", 1),
    ("127.0.0.1", "127.0.0.1", 1),
    ("127.0.0.1:21", "::ffff:127.0.0.1", 21),
    ("10.3.0.0/16", "10.3.255.255", 1),
    ("10.3.0.0/16:21", "10.3.0.1", 21),
    ("10.3.0.0/16", "inner", 1),
    ("10.3.0.0/16", "private.example.org", 1),
    ("::1", "::1", 1),
    ("[::1]:21", "::1", 21),
    ("[2a00::/16]:21", "2a00::5", 21),
    ("169.254.0.0/16", "metadata.example.org", 1),
]


@pytest.mark.parametrize(("entry", "host", "port"), ALLOWED)
async def test_what_an_entry_allows(entry: str, host: str, port: int) -> None:
    assert await admits(rules(entry), host, port)


REFUSED = [
    ("public.example.org", "other.example.org", 1),
    ("public.example.org", "x.public.example.org", 1),
    ("public.example.org", "8.8.8.8", 1),
    ("public.example.org:64434", "public.example.org", 64435),
    ("8.8.8.8:21", "8.8.8.8", 22),
    ("8.8.8.8", "8.8.8.9", 1),
    ("10.3.0.0/16:21", "10.3.0.1", 22),
    ("10.3.0.0/16", "10.4.0.0", 1),
    ("*.example.org", "example.org", 1),
    ("*.example.org", "badexample.org", 1),
    ("*.sub.example.org", "public.example.org", 1),
    # A domain is no word for our own machines, and no name is for what only this one should reach.
    ("*.example.org", "private.example.org", 1),
    ("*.example.org", "ula.example.org", 1),
    ("*.example.org", "carrier.example.org", 1),
    ("*.example.org", "inner-and-outer.example.org", 1),
    *(
        (entry, host, 1)
        for entry in ("*.example.org", "SAME")
        for host in (
            "loopback.example.org",
            "loopback6.example.org",
            "mapped.example.org",
            "metadata.example.org",
            "zone.example.org",
            "mixed.example.org",
            "nat64.example.org",
            "6to4.example.org",
            "any.example.org",
            "empty.example.org",
            "missing.example.org",
        )
    ),
    ("localhost", "loopback.example.org", 1),
    ("localhost", "127.0.0.1", 1),
    ("10.3.0.0/16", "inner-and-outer.example.org", 1),
    ("127.0.0.1", "mixed.example.org", 1),
    ("0.0.0.0/0", "::1", 1),
    ("::/0", "127.0.0.1", 1),
    ("::/0", "::ffff:127.0.0.1", 1),
]


@pytest.mark.parametrize(("entry", "host", "port"), REFUSED)
async def test_what_it_does_not(entry: str, host: str, port: int) -> None:
    entry = host if entry == "SAME" else entry
    assert not await admits(rules(entry), host, port)


async def test_entries_together_allow_what_none_does_alone() -> None:
    assert await admits(rules("mixed.example.org", "127.0.0.1:21"), "mixed.example.org", 21)
    assert not await admits(rules("mixed.example.org", "127.0.0.1:21"), "mixed.example.org", 22)
    assert await admits(rules("*.example.org", "10.3.0.0/16"), "private.example.org")


async def test_what_is_denied_stays_so() -> None:
    denying = rules("public.example.org", "8.8.0.0/16", "127.0.0.1", deny=("8.8.8.0/24", "127.0.0.0/8"))
    assert not await admits(denying, "public.example.org")
    assert not await admits(denying, "8.8.8.8")
    assert not await admits(denying, "::ffff:8.8.8.8")
    assert not await admits(denying, "127.0.0.1")
    assert await admits(denying, "8.8.4.4")
    with pytest.raises(PeerRefused):
        await rules(deny=("8.8.8.0/24",)).admit_url("https://public.example.org/x")


async def test_copies_can_be_switched_off() -> None:
    off = rules("8.8.8.8", enabled=False)
    with pytest.raises(PeerRefused, match="switched off"):
        await off.admit("8.8.8.8", 64434)
    with pytest.raises(PeerRefused, match="switched off"):
        await off.admit_url("https://8.8.8.8/")


# -- odd notations ------------------------------------------------------------------------------------------------

ODD = [
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "0X7F000001",
    "2130706433",
    "017700000001",
    "127.1",
    "127.0.1",
    "127.0.0.01",
    "127.0.0.1.",
    "127.0.0.0x1",
    "127.0.0.0x",
    "0",
    "0x",
    "00000000.0",
    "1.2.3.4.5",
    "256.0.0.1",
    "127.0.0.1/8",
    " 127.0.0.1",
    "127.0.0.1 ",
    "127.0.0.1\n",
    "127.0.0.1\0",
    "127.0.0.1%00.example.org",
    "127。0。0。1",
    "\uff11\uff12\uff17.0.0.1",
    "①②⑦.0.0.1",
    "٣.٣.٣.٣",
    "public.example.org.",
    ".example.org",
    "public..example.org",
    "-public.example.org",
    "public.example.org-",
    "public example.org",
    "public.example.org:21",
    "user@public.example.org",
    "public.example.org/",
    "public.example.org#",
    "public.example.org?",
    "public\\example.org",
    "münchen.example.org",
    "\uff50ublic.example.org",
    "a" * 64 + ".example.org",
    ".".join(["a" * 60] * 5),
    "[::1]",
    "[127.0.0.1]",
    "::1%lo",
    "::1%1",
    "fe80::1%eth0",
    "2a00::1%eth0",
    "::ffff:127.0.0.1%lo",
    "0:0:0:0:0:0:0:0:1",
    "::1::",
    ":::1",
    "0:0:0:0:0:0:127.1",
    "::ffff:127.1",
    "::0x1",
    "1::2::3",
    "*",
    "*.example.org",
    "",
    ".",
    "%6c%6f%63alhost",
]


@pytest.mark.parametrize("host", ODD)
async def test_odd_notations_are_no_hosts_even_where_everything_is_listed(host: str) -> None:
    names = Names({host: ["8.8.8.8"]})
    everything = rules("0.0.0.0/0", "::/0", "*.example.org", "*.org", names=names)
    with pytest.raises(PeerRefused, match="no host name or address in its usual form"):
        await everything.admit(host, 64434)
    if not set(host) & set("/?#:@["):  # those end the host in a URL
        with pytest.raises(UFTPError):
            await everything.admit_url(f"https://{host}/x")
    assert names.asked == []


@pytest.mark.parametrize(
    ("odd", "usual"),
    [("::FFFF:7F00:0001", "127.0.0.1"), ("0:0:0:0:0:ffff:7f00:1", "127.0.0.1"), ("2A00:0::0001", "2a00::1")],
)
async def test_addresses_in_other_usual_forms_are_the_same_addresses(odd: str, usual: str) -> None:
    assert str(parse_host(odd)) == usual
    assert await rules(usual if ":" not in usual else f"[{usual}]:1").admit(odd, 1) == (usual,)
    assert not await admits(rules("9.9.9.9"), odd, 1)


@given(st.text(max_size=30))
def test_any_text_is_a_host_or_a_clear_error(text: str) -> None:
    try:
        found = parse_host(text)
    except ValueError:
        return
    assert text.isascii()
    if isinstance(found, str):
        # What the system's resolver would take for an address is never left to it.
        with pytest.raises(OSError, match=r"illegal IP address|must be|invalid"):
            socket.inet_aton(found)


@given(st.text(st.sampled_from("0123456789abcdefxX.:[]/*-%"), max_size=24))
def test_any_text_is_an_entry_or_a_clear_error(text: str) -> None:
    try:
        entry = parse_entry(text)
    except ValueError:
        return
    assert (entry.network is None) != (entry.name == "")
    assert entry.port is None or 0 < entry.port < 65536


@given(st.ip_addresses())
async def test_an_address_is_allowed_exactly_where_its_kind_is(address: object) -> None:
    host = str(address)
    kind = kind_of(parse_host(host))  # type: ignore[arg-type]  # an address
    assert not await admits(rules("*.example.org"), host)
    assert await admits(rules(host if ":" not in host else f"[{host}]"), host)
    url = f"https://[{host}]/" if ":" in host else f"https://{host}/"
    if kind is AddressKind.PUBLIC:
        assert await rules().admit_url(url) == (str(parse_host(host)),)
    else:
        with pytest.raises(PeerRefused):
            await rules().admit_url(url)


# -- announced by an auth server ------------------------------------------------------------------------------------


async def test_announced_nodes_are_exactly_these() -> None:
    told = ("public.example.org:64434", "127.0.0.1:64434", "[::1]:64434", "private.example.org:21")
    found = rules(announced=told)
    assert await admits(found, "public.example.org", 64434)
    assert await admits(found, "127.0.0.1", 64434)
    assert await admits(found, "::1", 64434)
    assert await admits(found, "private.example.org", 21)
    for host, port in (("public.example.org", 21), ("127.0.0.1", 22), ("127.0.0.2", 64434), ("8.8.8.8", 64434)):
        assert not await admits(found, host, port)


async def test_a_site_need_not_trust_what_is_announced() -> None:
    untrusting = PeerRules(Copies(announced=False), ["public.example.org:64434"], Names())
    assert not await admits(untrusting, "public.example.org", 64434)


@pytest.mark.parametrize(
    "item", ["10.3.0.0/16:64434", "*.example.org:64434", "public.example.org", "8.8.8.8", "junk junk:64434", ""]
)
async def test_no_more_than_single_servers_can_be_announced(item: str) -> None:
    found = rules(announced=(item, "other.example.org:64434"))
    for host in ("10.3.0.7", "public.example.org", "8.8.8.8"):
        assert not await admits(found, host)
    assert await admits(found, "other.example.org")


async def test_a_list_without_end_is_cut() -> None:
    found = rules(announced=[f"8.8.{n // 256}.{n % 256}:21" for n in range(1000)])
    assert await admits(found, "8.8.0.99", 21)
    assert not await admits(found, "8.8.0.100", 21)


# -- https --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://public.example.org",
        "https://public.example.org/a?b#c",
        "https://PUBLIC.example.org:443/",
        "https://public.example.org:9000/rest/access/X/id",
        "https://8.8.8.8/",
        "https://[2a00::1]/",
        "https://[::ffff:8.8.8.8]/",
        "https://[64:ff9b::8.8.8.8]/",
        "HTTPS://public.example.org/",
    ],
)
async def test_public_servers_by_default(url: str) -> None:
    assert await rules().admit_url(url)


@pytest.mark.parametrize(
    "url",
    [
        *(f"https://{name}/" for name in NAMES if not name.startswith(("public", "other", "deep", "many"))),
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/",
        "https://[64:ff9b::127.0.0.1]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1]/",
        "https://[fe80::1%25eth0]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://[::]/",
        "https://0/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://127.0.0.1./",
        "https://localhost./",
        "https://public.example.org:22/",
        "https://public.example.org:8443/",
        "https://public.example.org:0/",
        "https://missing.example.org/",
    ],
)
async def test_forbidden_urls(url: str) -> None:
    with pytest.raises(PeerRefused):
        await rules().admit_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://public.example.org/",
        "ftp://public.example.org/",
        "file:///etc/passwd",
        "gopher://public.example.org/",
        "//public.example.org/",
        "public.example.org",
        "https:public.example.org",
        "https:///public.example.org",
        "https://",
        "https://:443/",
        "https://user@public.example.org/",
        "https://user:secret@public.example.org/",
        "https://public.example.org@127.0.0.1/",
        "https://public.example.org\\@127.0.0.1/",
        "https://public.example.org/ x",
        "https://public.example.org\t/",
        "https://public.example.org\r\nHost: x/",
        "https://public.example.org:99999/",
        "https://public.example.org:x/",
        "https://user:secret@public.example.org/ x",
        "http://public.example.org/secret",
        "https://[::1/",
        "https://[v1.x]/",
        "",
    ],
)
async def test_what_is_no_https_url(url: str) -> None:
    names = Names()
    with pytest.raises(UsageError) as caught:
        await rules(names=names).admit_url(url)
    assert "secret" not in str(caught.value)
    assert names.asked == []


async def test_listed_servers_have_any_port_and_may_be_private() -> None:
    for allow in ("private.example.org", "private.example.org:8443", "10.3.0.0/16"):
        assert await rules(allow).admit_url("https://private.example.org:8443/") == ("10.3.0.7",)
        assert await rules(allow, https="listed").admit_url("https://private.example.org:8443/") == ("10.3.0.7",)
    with pytest.raises(PeerRefused):
        await rules("private.example.org:8443").admit_url("https://private.example.org/")
    with pytest.raises(PeerRefused):
        await rules(https="listed").admit_url("https://public.example.org/")
    with pytest.raises(PeerRefused, match="switched off"):
        await rules("public.example.org", https="none").admit_url("https://public.example.org/")


async def test_public_addresses_on_the_web_are_none_for_copies() -> None:
    assert not await admits(rules(), "public.example.org", 443)


# -- looked up once -------------------------------------------------------------------------------------------------


async def test_a_name_is_looked_up_once_and_its_addresses_are_the_answer() -> None:
    names = Names()
    assert await rules("public.example.org", names=names).admit("public.example.org", 1) == ("8.8.8.8", "2a00::1")
    assert names.asked == ["public.example.org"]


async def test_a_name_that_changes_its_address_gains_nothing() -> None:
    answers = [["8.8.8.8"], ["127.0.0.1"]]

    async def rebinding(name: str) -> Sequence[str]:
        return answers.pop(0)

    found = rules("rebound.example.org", names=rebinding)
    assert await found.admit("rebound.example.org", 1) == ("8.8.8.8",)
    with pytest.raises(PeerRefused):
        await found.admit("rebound.example.org", 1)
    assert answers == []


async def test_all_addresses_are_checked_though_few_are_tried() -> None:
    found = await rules("many.example.org").admit("many.example.org", 1)
    assert found == tuple(NAMES["many.example.org"][:MAX_ADDRESSES])
    table = {"x.example.org": [*NAMES["many.example.org"], "127.0.0.1"]}
    assert not await admits(rules("x.example.org", names=Names(table)), "x.example.org")


async def test_an_address_found_twice_is_one() -> None:
    names = Names({"x.example.org": ["8.8.8.8", "::ffff:8.8.8.8", "8.8.8.8"]})
    assert await rules("x.example.org", names=names).admit("x.example.org", 1) == ("8.8.8.8",)


async def test_who_is_refused_does_not_learn_why_and_the_log_does() -> None:
    everything = [name for name in NAMES if name.endswith("example.org")]
    told, logged = set(), set()
    for host in [*everything, "missing.example.org"]:
        names = Names({"x.example.org": NAMES.get(host, [])})
        try:
            await rules("*.example.org", names=names).admit("x.example.org", 21)
        except PeerRefused as refusal:
            told.add(str(refusal))
            logged.add(refusal.why)
    assert len(told) == 1
    assert told == {"x.example.org:21: this site allows no copies with it, or there is no such host"}
    assert "127.0.0.1 (loopback) is not listed, or denied" in logged
    assert "the name has no address" in logged


async def test_a_refusal_is_one_line_whatever_was_named() -> None:
    with pytest.raises(PeerRefused) as caught:
        await rules().admit("a\r\n230 welcome\x1b[2J" + "x" * 1000, 21)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


# -- the name service -----------------------------------------------------------------------------------------------


async def test_a_name_service_that_fails_is_worth_another_try() -> None:
    async def failing(name: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    with pytest.raises(NetworkError, match="does not answer"):
        await rules("x.example.org", names=failing).admit("x.example.org", 1)


async def test_a_name_service_that_hangs_costs_bounded_time(autojump_clock: trio.testing.MockClock) -> None:
    async def hanging(name: str) -> Sequence[str]:
        await trio.sleep_forever()
        raise AssertionError

    begin = trio.current_time()
    with pytest.raises(NetworkError, match="does not answer"):
        await rules("x.example.org", names=hanging).admit("x.example.org", 1)
    assert trio.current_time() - begin == peers.LOOK_UP_SECONDS


async def test_the_name_service_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answers(host: bytes, port: None, **named: object) -> list[tuple[object, ...]]:
        asked.append(host)
        if host == b"missing.example.org":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        if host == b"slow.example.org":
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2a00::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    assert await system_look_up("public.example.org") == ["2a00::1", "8.8.8.8"]
    assert await system_look_up("missing.example.org") == ()
    with pytest.raises(socket.gaierror):
        await system_look_up("slow.example.org")
    assert asked[0] == b"public.example.org"


async def test_localhost_is_found() -> None:
    """The real one, without a name service."""
    found = await PeerRules(Copies(allow=("localhost",))).admit("localhost", 1)
    assert set(found) <= {"127.0.0.1", "::1"}
    with pytest.raises(PeerRefused):
        await PeerRules(Copies()).admit_url("https://localhost/")


# -- authorities of https URLs --------------------------------------------------------------------------------------


def test_authorities_are_read_or_the_file_is_named(tmp_path: Path) -> None:
    assert fetch_authorities(Copies()) == ""
    good = tmp_path / "good.pem"
    pem = trustme.CA().cert_pem.bytes().decode()
    good.write_text(f"für unsere Partner\n{pem}", "utf-8")
    assert pem in fetch_authorities(Copies(https_ca=good))
    for name, content, text in (
        ("junk.pem", b"junk", "holds no PEM certificates"),
        ("empty.pem", b"", "is empty"),
        ("binary.pem", bytes(range(256)), "holds no PEM certificates"),
        ("large.pem", pem.encode() * 200, "larger than"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=rf"{name}: {text}"):
            fetch_authorities(Copies(https_ca=tmp_path / name))
    with pytest.raises(ConfigError, match=r"none\.pem: cannot be read: No such file"):
        fetch_authorities(Copies(https_ca=tmp_path / "none.pem"))

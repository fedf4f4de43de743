"""Logging in with an SSH key: which tokens, whose keys, on which servers, and how often nodes are asked."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from made_tokens import forged, made, ssh_token

from uftp.protocol.command_port import RequestRefused
from uftp.protocol.command_replies import UserInfoReply
from uftpd.auth.errors import RequestError
from uftpd.auth.identity import ssh_keys
from uftpd.auth.identity.base import Identity, LoginRefused, read_authorization
from uftpd.auth.identity.jwt import parse_jwt
from uftpd.auth.identity.ssh import SshKeyAuthenticator
from uftpd.auth.identity.throttle import Throttle
from uftpd.auth.nodes.client import NodeUnreachable
from uftpd.auth.nodes.instance import NodeInstance
from uftpd.auth.nodes.registry import LogicalServer, NodeRegistry
from uftpd.config.login import Login, SshLogin

KEY = ed25519.Ed25519PrivateKey.generate()
OTHER = ed25519.Ed25519PrivateKey.generate()
SERVER_DN = "CN=AUTH,O=Site,C=EU"


def line(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


@dataclass
class Instance:
    """An instance of a logical server, with keys by account; `failure` is raised instead of an answer."""

    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failure: Exception | None = None
    hangs: bool = False
    up: bool = True
    left_alone: bool = False
    asked: list[str] = field(default_factory=list)
    renames: dict[str, str] = field(default_factory=dict)

    def is_left_alone(self) -> bool:
        return self.left_alone

    async def user_info(self, account: str) -> UserInfoReply:
        self.asked.append(account)
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if self.failure is not None:
            raise self.failure
        if account not in self.keys:
            raise RequestRefused("500 No such user")
        return UserInfoReply(user=self.renames.get(account, account), accepted_keys=self.keys[account])


class Door:
    """An authenticator with nodes."""

    def __init__(self, *, file: Path | None = None, login: Login | None = None, **settings: Any) -> None:
        self.nodes: dict[str, list[Instance]] = {}
        self._settings = SshLogin(key_file=file, **settings)
        self._login = login or Login()
        self._made: SshKeyAuthenticator | None = None

    def server(self, name: str, *instances: Instance) -> Instance:
        self.nodes[name] = list(instances) or [Instance()]
        return self.nodes[name][0]

    @property
    def authenticator(self) -> SshKeyAuthenticator:
        if self._made is None:
            servers = {
                name: LogicalServer(name, "", cast("list[NodeInstance]", instances))
                for name, instances in self.nodes.items()
            }
            self._made = SshKeyAuthenticator(
                self._settings, NodeRegistry(servers), Throttle(self._login), frozenset({SERVER_DN})
            )
        return self._made

    async def enter(self, token: str, address: str = "192.0.2.1") -> Identity | None:
        credentials = read_authorization(f"Bearer {token}", ipaddress.ip_address(address), "r")
        return await self.authenticator.authenticate(credentials)

    async def is_refused(self, token: str, address: str = "192.0.2.1") -> bool:
        try:
            return await self.enter(token, address) is None
        except LoginRefused:
            return True


def _key_file(directory: Path, *lines: str) -> Path:
    path = directory / "keys"
    path.write_text("".join(f"{text}\n" for text in lines))
    return path


# -- keys of the site's own file --------------------------------------------------------------------------------------


async def test_a_key_of_the_file_makes_the_person_of_its_line(tmp_path: Path) -> None:
    file = _key_file(tmp_path, f"joe:{line(OTHER)}:CN=Joe,O=x", f"joe:{line(KEY)}:CN=Joe at Home,O=x")
    door = Door(file=file, node_keys="off")
    identity = await door.enter(ssh_token(KEY))
    assert identity is not None
    assert (identity.dn, identity.method, identity.attributes) == ("CN=Joe at Home,O=x", "SSHKEY", {})
    assert identity.servers is None
    assert identity.expires is not None
    assert await door.is_refused(ssh_token(KEY, "ann"))
    assert await door.is_refused(ssh_token(ed25519.Ed25519PrivateKey.generate()))
    door = Door(file=file, node_keys="off", key_file_accounts=True)
    identity = await door.enter(ssh_token(KEY))
    assert identity is not None
    assert identity.attributes == {"xlogin": ("joe",), "role": ("user",)}


async def test_a_key_taken_out_of_the_file_opens_nothing(tmp_path: Path) -> None:
    door = Door(file=_key_file(tmp_path, f"joe:{line(KEY)}:CN=Joe"), node_keys="off")
    identity = await door.enter(ssh_token(KEY))
    assert identity is not None
    assert door.authenticator.still_accepts(identity), "for security sessions"
    (tmp_path / "new").write_text(f"joe:{line(OTHER)}:CN=Joe")
    os.rename(tmp_path / "new", tmp_path / "keys")
    assert await door.is_refused(ssh_token(KEY))
    assert not door.authenticator.still_accepts(identity)


async def test_a_login_ends_with_its_key(tmp_path: Path) -> None:
    end = int(time.time()) + 60
    limited = f'expiry-time="{time.strftime("%Y%m%d%H%M%SZ", time.gmtime(end))}" {line(KEY)}'
    by_file = await Door(file=_key_file(tmp_path, f"joe:{limited}:CN=Joe"), node_keys="off").enter(ssh_token(KEY))
    door = Door()
    door.server("A").keys = {"joe": (limited,)}
    by_node = await door.enter(ssh_token(KEY))
    assert by_file is not None
    assert by_node is not None
    assert by_file.expires == by_node.expires == end
    assert door.authenticator.still_accepts(by_node)


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
    ],
)
async def test_all_kinds_of_keys(tmp_path: Path, key: Any) -> None:
    door = Door(file=_key_file(tmp_path, f"joe:{line(key)}:CN=Joe"), node_keys="off")
    assert await door.enter(ssh_token(key))
    assert await door.is_refused(ssh_token(OTHER))


# -- tokens -----------------------------------------------------------------------------------------------------------

REFUSED: list[dict[str, Any]] = [
    {"exp": None},
    {"lifetime": -61},
    {"lifetime": 86400 + 120},
    {"nbf": 2**40},
    {"aud": "CN=Somebody Else"},
    {"aud": []},
    {"aud": SERVER_DN.lower()},
    {"sub": "joe\nuser=root", "iss": "joe\nuser=root"},
    {"sub": "joe\r", "iss": "joe\r"},
    {"sub": "joe\x00", "iss": "joe\x00"},
    {"sub": "../joe", "iss": "../joe"},
    {"sub": "-joe", "iss": "-joe"},
    {"sub": "joe smith", "iss": "joe smith"},
    {"sub": "jöe", "iss": "jöe"},
    {"sub": "j" * 65, "iss": "j" * 65},
    # Not of this kind at all: another method may know them.
    {"sub": "ann"},
    {"iss": "ann"},
    {"iss": None},
    {"sub": None},
    {"sub": None, "iss": None},
    {"sub": "", "iss": ""},
    {"sub": ["joe"], "iss": ["joe"]},
    {"etd": True},
    {"etd": "true"},
    {"etd": "TRUE"},
]


@pytest.mark.parametrize("claims", REFUSED)
async def test_tokens_that_are_refused_have_nobody_asked(claims: dict[str, Any]) -> None:
    door = Door()
    node = door.server("A", Instance({"joe": (line(KEY),), "ann": (line(KEY),)}))
    assert await door.is_refused(ssh_token(KEY, **claims))
    assert node.asked == []
    assert await door.enter(ssh_token(KEY))


@pytest.mark.parametrize(
    "claims", [{}, {"aud": SERVER_DN}, {"aud": ["x", SERVER_DN]}, {"etd": None}, {"etd": False}, {"lifetime": -30}]
)
async def test_tokens_that_are_taken(claims: dict[str, Any]) -> None:
    door = Door()
    door.server("A", Instance({"joe": (line(KEY),)}))
    assert await door.enter(ssh_token(KEY, **claims))


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS512", "RS256", "ES256"])
async def test_no_algorithm_opens_without_the_private_key(algorithm: str) -> None:
    door = Door(login=Login(longest_delay_seconds=0))
    door.server("A", Instance({"joe": (line(KEY),)}))
    good = ssh_token(KEY)
    claims = {"sub": "joe", "iss": "joe", "etd": "false"}
    for secret in (b"x", line(KEY).encode(), KEY.public_key().public_bytes_raw()):
        assert await door.is_refused(forged({"alg": algorithm}, claims | {"exp": _end_of(good)}, secret))


def _end_of(token: str) -> float:
    return float(parse_jwt(token).claims["exp"])


@given(st.text(max_size=80) | st.from_regex(r"[A-Za-z0-9._+/=-]{1,60}", fullmatch=True))
def test_junk_behind_bearer_is_never_a_login(text: str) -> None:
    async def check() -> None:
        door = Door(login=Login(longest_delay_seconds=0))
        door.server("A", Instance({"joe": (line(KEY),)}))
        with contextlib.suppress(LoginRefused):
            assert await door.enter(text) is None

    trio.run(check)


# -- keys the nodes report --------------------------------------------------------------------------------------------


async def test_a_reported_key_counts_for_the_servers_that_report_it() -> None:
    door = Door()
    door.server("A", Instance({"joe": (line(OTHER), line(KEY))}))
    door.server("B", Instance({"joe": (line(KEY),)}))
    door.server("C", Instance({"joe": (line(OTHER),)}))
    door.server("D")
    identity = await door.enter(ssh_token(KEY))
    assert identity is not None
    assert identity.dn == "CN=joe,OU=ssh-local-users"
    assert identity.servers == ("A", "B")
    assert identity.attributes == {"xlogin": ("joe",), "role": ("user",)}
    identity = await door.enter(ssh_token(OTHER))
    assert identity is not None
    assert identity.servers == ("A", "C")


async def test_what_the_site_may_say_otherwise() -> None:
    door = Door(node_keys="all", role="", dn="UID=%s,O=Site")
    door.server("A", Instance({"joe": (line(KEY),)}))
    door.server("B")
    identity = await door.enter(ssh_token(KEY))
    assert identity is not None
    assert (identity.servers, identity.dn, identity.attributes) == (None, "UID=joe,O=Site", {"xlogin": ("joe",)})
    door = Door(node_keys="off")
    node = door.server("A", Instance({"joe": (line(KEY),)}))
    assert await door.is_refused(ssh_token(KEY))
    assert node.asked == []


async def test_options_are_those_of_the_server_that_reports_them() -> None:
    door = Door()
    door.server("A", Instance({"joe": (f'from="192.0.2.*" {line(KEY)}',)}))
    door.server("B", Instance({"joe": (f'command="ls" {line(KEY)}', "junk", f"expired {line(KEY)}")}))
    door.server("C", Instance({"joe": (f'from="198.51.100.*" {line(KEY)}',)}))
    for address, servers in (("192.0.2.7", ("A",)), ("198.51.100.7", ("C",))):
        identity = await door.enter(ssh_token(KEY), address)
        assert identity is not None
        assert identity.servers == servers
    assert await door.is_refused(ssh_token(KEY), "203.0.113.1")


async def test_an_answer_about_another_account_counts_for_nothing() -> None:
    door = Door()
    door.server("A", Instance({"joe": (line(KEY),)}, renames={"joe": "ann"}))
    assert await door.is_refused(ssh_token(KEY))


async def test_one_instance_of_each_server_is_asked_and_another_stands_in() -> None:
    door = Door()
    resting = Instance(left_alone=True)
    broken = Instance(failure=NodeUnreachable("gone"))
    good, spare = Instance({"joe": (line(KEY),)}), Instance()
    door.server("A", resting, broken, good, spare)
    assert await door.enter(ssh_token(KEY))
    assert [len(node.asked) for node in (resting, broken, good, spare)] == [0, 1, 1, 0]


# -- how often --------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


async def test_keys_are_remembered_and_forgotten(clock: trio.testing.MockClock) -> None:
    door = Door()
    node = door.server("A", Instance({"joe": (line(KEY),)}))
    for wait, times in ((0, 1), (599, 1), (2, 2)):
        await trio.sleep(wait)
        assert await door.enter(ssh_token(KEY, lifetime=3600))
        assert len(node.asked) == times


async def test_a_new_key_counts_within_seconds(clock: trio.testing.MockClock) -> None:
    door = Door()
    node = door.server("A", Instance({"joe": (line(OTHER),)}))
    assert await door.enter(ssh_token(OTHER))
    node.keys["joe"] = (line(OTHER), line(KEY))
    assert await door.is_refused(ssh_token(KEY))  # asked a moment ago
    assert len(node.asked) == 1
    await trio.sleep(11)
    assert await door.enter(ssh_token(KEY))
    assert len(node.asked) == 2


async def test_a_node_that_was_down_is_no_lasting_no(clock: trio.testing.MockClock) -> None:
    door = Door()
    node = door.server("A", Instance({"joe": (line(KEY),)}, failure=NodeUnreachable("gone")))
    assert await door.is_refused(ssh_token(KEY))
    node.failure = None
    await trio.sleep(11)
    assert await door.enter(ssh_token(KEY))


async def test_a_server_that_did_not_answer_is_asked_again_for_somebody_who_is_in(
    clock: trio.testing.MockClock,
) -> None:
    door = Door()
    door.server("A", Instance({"joe": (line(KEY),)}))
    late = door.server("B", Instance({"joe": (line(KEY),)}, failure=NodeUnreachable("gone")))
    identity = await door.enter(ssh_token(KEY))
    assert identity is not None
    assert identity.servers == ("A",)
    late.failure = None
    await trio.sleep(11)
    identity = await door.enter(ssh_token(KEY))
    assert identity is not None
    assert identity.servers == ("A", "B")


async def test_a_server_that_hangs_holds_nobody_up_for_long(clock: trio.testing.MockClock) -> None:
    door = Door(node_seconds=5)
    door.server("A", Instance({"joe": (line(KEY),)}))
    hanging = door.server("B", Instance(hangs=True))
    start = trio.current_time()
    for _ in range(5):
        identity = await door.enter(ssh_token(KEY, lifetime=3600))
        assert identity is not None
        assert identity.servers == ("A",)
        await trio.sleep(11)
    assert trio.current_time() - start == 5 + 5 * 11
    assert len(hanging.asked) == 1


async def test_many_logins_of_a_name_at_once_ask_once() -> None:
    door = Door()
    node = door.server("A", Instance({"joe": (line(KEY),)}))
    async with trio.open_nursery() as nursery:
        for _ in range(9):
            nursery.start_soon(door.enter, ssh_token(KEY))
    assert len(node.asked) == 1


async def test_a_cancelled_login_holds_up_nobody() -> None:
    door = Door()
    node = door.server("A", Instance({"joe": (line(KEY),)}))
    with trio.CancelScope() as scope:
        scope.cancel()
        await door.enter(ssh_token(KEY))
    with trio.fail_after(5):
        assert await door.enter(ssh_token(KEY))
    assert len(node.asked) <= 2


async def test_thousands_of_names_have_nodes_asked_a_few_times(clock: trio.testing.MockClock) -> None:
    login = Login(longest_delay_seconds=0)
    door = Door(login=login, lookups_per_minute=50, lookups_per_minute_and_address=20)
    node = door.server("A", Instance({"joe": (line(KEY),)}))
    assert await door.enter(ssh_token(KEY, lifetime=3600), "198.51.100.1")

    async def guess(addresses: list[str], names: int) -> int:
        refused = 0
        for number in range(names):
            try:
                await door.is_refused(ssh_token(OTHER, f"user{number}"), addresses[number % len(addresses)])
            except RequestError as error:
                refused += error.status == 429
        return refused

    assert await guess(["192.0.2.1"], 500) == 480
    assert len(node.asked) == 21
    # From everywhere: what all may ask together is bounded too.
    assert await guess([f"203.0.113.{n}" for n in range(200)], 500) >= 450
    assert len(node.asked) <= 51
    # Who logged in before is not kept out by that.
    node.keys["joe"] = (line(OTHER),)
    await trio.sleep(11)
    assert await door.enter(ssh_token(OTHER, lifetime=3600), "192.0.2.1")
    # And a minute later it starts anew.
    await trio.sleep(60)
    assert await guess(["192.0.2.1"], 30) == 10


async def test_failures_are_slowed_and_a_right_key_is_not(clock: trio.testing.MockClock) -> None:
    door = Door(login=Login(free_failures=3))
    door.server("A", Instance({"joe": (line(KEY),), "ann": (line(OTHER),)}))
    start = trio.current_time()
    for _ in range(3):
        assert await door.is_refused(ssh_token(OTHER))
    assert trio.current_time() == start
    assert await door.is_refused(ssh_token(OTHER))
    assert trio.current_time() > start
    late = trio.current_time()
    # The owner of the key, from the same address and with a known key: at once.
    assert await door.enter(ssh_token(KEY))
    assert await door.enter(ssh_token(OTHER, "ann"))
    assert trio.current_time() == late


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_keys, "MAX_NAMES", 10)
    door = Door(login=Login(longest_delay_seconds=0), lookups_per_minute=1000, lookups_per_minute_and_address=1000)
    door.server("A")
    for number in range(100):
        assert await door.is_refused(made(OTHER, sub=f"u{number}", iss=f"u{number}"))
    source = door.authenticator._nodes
    assert source is not None
    assert len(source._answers) == 10
    assert not source._running

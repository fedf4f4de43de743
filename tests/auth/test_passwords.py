"""The password file, its verification, and what slows guessing."""

from __future__ import annotations

import base64
import ipaddress
import os
from dataclasses import replace
from pathlib import Path

import argon2
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from running_auth import DEMO

from uftpd.auth.errors import RequestError
from uftpd.auth.identity import password as password_module
from uftpd.auth.identity import password_file
from uftpd.auth.identity.base import Credentials, Identity, LoginRefused, read_authorization
from uftpd.auth.identity.password import PasswordFileAuthenticator
from uftpd.auth.identity.password_file import parse_password_file, password_line, verify_password
from uftpd.auth.identity.throttle import MAX_WAITING, Throttle
from uftpd.config.login import Login
from uftpd.config.toml import ConfigError

_LEGACY = "demouser:7a066bbc4c14cd9d7fb869f8cb3ecee2:09e9ba795983c2862d1fa83ad9b28959:CN=Demo User, O=UNICORE, C=EU"
_HERE = ipaddress.ip_address("192.0.2.1")
_CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def _line(name: str, password: str) -> str:
    return f"{name}:{_CHEAP.hash(password)}::CN={name},O=x\n"


def _basic(user: str, password: str, address: str = "192.0.2.1") -> Credentials:
    value = base64.b64encode(f"{user}:{password}".encode()).decode()
    return read_authorization(f"Basic {value}", ipaddress.ip_address(address), "r1")


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_published_line() -> None:
    table = parse_password_file(f"# comment\n\n   {_LEGACY}\n")
    account = table.accounts["demouser"]
    assert account.dn == DEMO
    assert verify_password(account, b"test123", table.decoy)
    assert not verify_password(account, b"test124", table.decoy)


def test_a_printed_line_is_read() -> None:
    line = password_line("joe", "a:b ü", DEMO)
    assert line.startswith("joe:$argon2id$")
    table = parse_password_file(line)
    assert table.mistakes == ()
    assert verify_password(table.accounts["joe"], "a:b ü".encode(), table.decoy)
    assert not verify_password(table.accounts["joe"], b"a:b u", table.decoy)


def test_broken_lines_are_named_and_skipped_and_the_last_of_a_name_wins() -> None:
    good = _line("joe", "first") + _line("joe", "second")
    broken = [
        "x:y",
        ":7a066bbc4c14cd9d7fb869f8cb3ecee2:09:CN=x",
        "x:ABC:09:CN=x",
        "x:7a066bbc4c14cd9d7fb869f8cb3ecee2:09:nobody",
        "x:$argon2id$junk::CN=x",
        "x:$1$salt$abc::CN=x",
        f"x:{_CHEAP.hash('a')}:salt:CN=x",
        "x:$argon2id$v=19$m=99999999,t=1,p=1$c29tZXNhbHQ$" + "A" * 43 + "::CN=x",
    ]
    table = parse_password_file(good + "\n".join(broken))
    assert list(table.accounts) == ["joe"]
    assert verify_password(table.accounts["joe"], b"second", table.decoy)
    assert [mistake.partition(":")[0] for mistake in table.mistakes] == [f"line {n}" for n in range(3, 11)]
    assert not any("7a066" in mistake or "$argon2id$v" in mistake for mistake in table.mistakes)


@given(st.text(st.sampled_from("ab:$#\n argon2id=,v19\x00"), max_size=80))
def test_any_text_is_a_table(text: str) -> None:
    parse_password_file(text)


@pytest.mark.parametrize("name", ["", "a:b", "#a", " a", "a\nb"])
def test_names_that_cannot_stand_in_the_file(name: str) -> None:
    with pytest.raises(ValueError, match="login name"):
        password_line(name, "p", DEMO)


def test_every_check_costs_exactly_one_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[str] = []
    real = argon2.low_level.verify_secret

    def counting(digest: bytes, secret: bytes, kind: argon2.low_level.Type) -> bool:
        costs.append(digest.decode().rsplit("$", 2)[0])
        return real(digest, secret, kind)

    monkeypatch.setattr(argon2.low_level, "verify_secret", counting)
    table = parse_password_file(_line("joe", "p") + _LEGACY)
    for account in (None, table.accounts["joe"], table.accounts["demouser"]):
        verify_password(account, b"p", table.decoy)
    assert costs == ["$argon2id$v=19$m=64,t=1,p=1"] * 3


# -- the authenticator ------------------------------------------------------------------------------------------------


class _Counting:
    """Counts verifications, without changing them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(password_module, "verify_password", self)

    def __call__(self, account: password_file.Account | None, password: bytes, decoy: str) -> bool:
        self.count += 1
        return verify_password(account, password, decoy)


async def test_many_logins_at_once_are_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").write_text(_line("joe", "p"))
    authenticator = PasswordFileAuthenticator(tmp_path / "p", Login())
    counting = _Counting(monkeypatch)
    found: list[Identity | None] = []

    async def login() -> None:
        found.append(await authenticator.authenticate(_basic("joe", "p")))

    async with trio.open_nursery() as nursery:
        for _ in range(9):
            nursery.start_soon(login)
    assert [replace(identity, proof="") for identity in found] == [Identity("CN=joe,O=x", "PASSWORD_FILE")] * 9
    assert counting.count == 1


async def test_a_cancelled_login_does_not_hold_up_the_next(tmp_path: Path) -> None:
    (tmp_path / "p").write_text(_line("joe", "p"))
    authenticator = PasswordFileAuthenticator(tmp_path / "p", Login())
    with trio.CancelScope() as scope:
        scope.cancel()
        await authenticator.authenticate(_basic("joe", "p"))
    with trio.fail_after(5):
        assert await authenticator.authenticate(_basic("joe", "p")) is not None


async def test_a_changed_file_is_in_force_at_once(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text(_line("joe", "old") + _line("ann", "a"))
    authenticator = PasswordFileAuthenticator(path, Login(free_failures=100))
    assert await authenticator.authenticate(_basic("joe", "old"))
    assert await authenticator.authenticate(_basic("ann", "a"))
    (tmp_path / "new").write_text(_line("joe", "new"))
    os.rename(tmp_path / "new", path)
    with pytest.raises(LoginRefused):
        await authenticator.authenticate(_basic("joe", "old"))
    with pytest.raises(LoginRefused):
        await authenticator.authenticate(_basic("ann", "a"))
    assert await authenticator.authenticate(_basic("joe", "new"))
    path.unlink()
    assert await authenticator.authenticate(_basic("joe", "new"))


async def test_a_remembered_password_is_forgotten_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    (tmp_path / "p").write_text(_line("joe", "p"))
    authenticator = PasswordFileAuthenticator(tmp_path / "p", Login(cache_seconds=60))
    counting = _Counting(monkeypatch)
    for wait, expected in ((0, 1), (59, 1), (2, 2)):
        await trio.sleep(wait)
        await authenticator.authenticate(_basic("joe", "p"))
        assert counting.count == expected


async def test_other_schemes_are_not_its_business(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("")
    authenticator = PasswordFileAuthenticator(tmp_path / "p", Login())
    for header in (None, "Bearer abc", ""):
        assert await authenticator.authenticate(read_authorization(header, _HERE, "r")) is None


async def test_the_scheme_is_known_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "p").write_text(_line("joe", "p"))
    authenticator = PasswordFileAuthenticator(tmp_path / "p", Login())
    assert await authenticator.authenticate(read_authorization("bASIC am9lOnA=", _HERE, "r"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        PasswordFileAuthenticator(tmp_path / "none", Login())


# -- slowing ----------------------------------------------------------------------------------------------------------


def _throttle(now: list[float]) -> Throttle:
    settings = Login(
        free_failures=3, free_failures_per_address=10, longest_delay_seconds=4, forget_failures_seconds=300
    )
    return Throttle(settings, lambda: now[0])


def test_failures_of_a_user_slow_that_user_there() -> None:
    throttle = _throttle([0.0])
    assert [throttle.attempt(_HERE, "joe") for _ in range(9)] == [0, 0, 0, 0.25, 0.5, 1, 2, 4, 4]
    assert throttle.attempt(_HERE, "ann") == 0
    assert throttle.attempt(ipaddress.ip_address("192.0.2.2"), "joe") == 0


def test_failures_of_many_users_slow_their_address() -> None:
    throttle = _throttle([0.0])
    delays = [throttle.attempt(_HERE, f"user{n}") for n in range(12)]
    assert delays == [0] * 10 + [0.25, 0.5]


def test_success_and_time_end_the_slowing() -> None:
    now = [0.0]
    throttle = _throttle(now)
    for _ in range(5):
        throttle.attempt(_HERE, "joe")
    throttle.succeeded(_HERE, "joe")
    assert throttle.attempt(_HERE, "joe") == 0
    for _ in range(5):
        throttle.attempt(_HERE, "joe")
    now[0] += 301
    assert throttle.attempt(_HERE, "joe") == 0


def test_success_at_a_login_node_is_never_counted() -> None:
    throttle = _throttle([0.0])
    for number in range(1000):
        assert throttle.attempt(_HERE, f"user{number}") == 0
        throttle.succeeded(_HERE, f"user{number}")


def test_a_whole_network_is_one_ipv6_address() -> None:
    throttle = _throttle([0.0])
    delays = [throttle.attempt(ipaddress.ip_address(f"2001:db8::{n:x}"), "joe") for n in range(5)]
    assert delays == [0, 0, 0, 0.25, 0.5]


async def test_few_logins_of_an_address_wait_at_once(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle(Login())
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_WAITING):
            nursery.start_soon(throttle.wait, _HERE, 4.0)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RequestError, match="Too many failed logins") as caught:
            await throttle.wait(_HERE, 4.0)
        assert caught.value.status == 429
    await throttle.wait(_HERE, 4.0)


async def test_a_client_without_password_is_no_attacker(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    (tmp_path / "p").write_text(_line("joe", "p"))
    authenticator = PasswordFileAuthenticator(tmp_path / "p", Login(free_failures=1))
    start = trio.current_time()
    for _ in range(20):
        with pytest.raises(LoginRefused):
            await authenticator.authenticate(_basic("joe", "None"))
    assert trio.current_time() == start
    for _ in range(3):
        with pytest.raises(LoginRefused):
            await authenticator.authenticate(_basic("joe", "guess"))
    assert trio.current_time() > start


async def test_a_client_without_password_takes_nobodys_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p").write_text(_line("joe", "p"))
    authenticator = PasswordFileAuthenticator(tmp_path / "p", Login())
    monkeypatch.setattr(password_module, "MAX_QUEUED", 0)
    for number in range(40):  # more than are free for one address, and with no thread to be had
        with pytest.raises(LoginRefused):
            await authenticator.authenticate(_basic(f"user{number}", "None"))
    with pytest.raises(ValueError, match="'None' is no password"):
        password_line("joe", "None", "CN=x")


# -- lines of the old form --------------------------------------------------------------------------------------------


async def test_lines_of_the_old_form_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "p"
    path.write_text(f"{_LEGACY}\n{_line('joe', 'p')}")
    authenticator = PasswordFileAuthenticator(path, Login(cache_seconds=0))

    def reported() -> list[tuple[str, object]]:
        found = [(r.getMessage(), r.__dict__["facts"].get("user")) for r in caplog.records if "MD5" in r.getMessage()]
        caplog.clear()
        return found

    assert reported() == [("password lines are salted MD5", None)]
    for _ in range(3):
        assert await authenticator.authenticate(_basic("demouser", "test123"))
        assert await authenticator.authenticate(_basic("joe", "p"))
    assert reported() == [("password line is salted MD5", "demouser")]
    with pytest.raises(LoginRefused):
        await authenticator.authenticate(_basic("demouser", "wrong"))
    assert reported() == []
    (tmp_path / "new").write_text(f"{_LEGACY}\n# changed\n")
    os.rename(tmp_path / "new", path)
    assert await authenticator.authenticate(_basic("demouser", "test123"))
    assert reported() == [("password lines are salted MD5", None), ("password line is salted MD5", "demouser")]


def test_long_names_are_not_kept() -> None:
    throttle = _throttle([0.0])
    delays = [throttle.attempt(_HERE, "j" * 60_000) for _ in range(5)]
    assert delays == [0, 0, 0, 0.25, 0.5]
    assert max(len(user) for _, user in throttle._failures) <= 64
    throttle.succeeded(_HERE, "j" * 60_000)
    assert throttle.attempt(_HERE, "j" * 60_000) == 0

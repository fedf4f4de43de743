"""Which account and groups a session gets, before anything is switched."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from uftpd.session.privileges import LoginRefused, UserPolicy, look_up

ACCOUNTS = {
    "user": pwd.struct_passwd(("user", "x", 1000, 1000, "", "/home/user", "/bin/sh")),
    "toor": pwd.struct_passwd(("toor", "x", 0, 1000, "", "/root", "/bin/sh")),
    "system": pwd.struct_passwd(("system", "x", 499, 499, "", "/", "/bin/sh")),
}
GROUPS = {
    "own": grp.struct_group(("own", "x", 1000, [])),
    "staff": grp.struct_group(("staff", "x", 2000, ["user"])),
    "listed": grp.struct_group(("listed", "x", 3000, ["user"])),  # not in what the system says of the user's groups
    "other": grp.struct_group(("other", "x", 4000, ["somebody"])),
    "root": grp.struct_group(("root", "x", 0, ["user"])),
}
ALL_USERS = UserPolicy(switch=True)


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", ACCOUNTS.__getitem__)
    monkeypatch.setattr(grp, "getgrnam", GROUPS.__getitem__)
    monkeypatch.setattr(os, "getgrouplist", lambda user, gid: [gid, 2000])


@pytest.mark.parametrize(
    ("requested", "primary", "groups"),
    [
        ((), 1000, {1000, 2000}),
        (("DEFAULT_GID",), 1000, {1000, 2000}),
        (("own",), 1000, {1000, 2000}),
        (("staff",), 2000, {1000, 2000}),
        (("staff", "staff"), 2000, {2000}),
        (("staff", "listed"), 2000, {2000, 3000}),
        (("listed", "DEFAULT_GID"), 3000, {3000, 1000, 2000}),
        (("DEFAULT_GID", "listed"), 1000, {1000, 3000}),
    ],
)
def test_groups(requested: tuple[str, ...], primary: int, groups: set[int]) -> None:
    account = look_up("user", requested, ALL_USERS)
    assert (account.uid, account.gid, account.home) == (1000, primary, b"/home/user")
    assert set(account.groups) == groups
    assert len(account.groups) == len(groups)


@pytest.mark.parametrize(
    ("requested", "reason"),
    [
        (("nosuch",), "Attempt to run a task with an unknown primary group: nosuch"),
        (("own", "nosuch"), "Attempt to run a task with an unknown supplementary group: nosuch"),
        (("other",), "The user user is not a member of the group other"),
        (("own", "other"), "The user user is not a member of the group other"),
    ],
)
def test_groups_that_are_refused(requested: tuple[str, ...], reason: str) -> None:
    with pytest.raises(LoginRefused) as raised:
        look_up("user", requested, ALL_USERS)
    assert str(raised.value) == reason


def test_the_check_of_groups_can_be_off() -> None:
    policy = UserPolicy(switch=True, check_groups=False)
    assert look_up("user", ("other",), policy).gid == 4000
    with pytest.raises(LoginRefused, match="unknown primary group"):
        look_up("user", ("nosuch",), policy)


@pytest.mark.parametrize(
    ("user", "policy", "reason"),
    [
        ("root", ALL_USERS, "Attempted to select 'root'"),
        ("toor", ALL_USERS, "Attempted to select 'root'"),
        ("toor", UserPolicy(switch=True, lowest_uid=1), "Attempted to select 'root'"),
        ("nosuch", ALL_USERS, "Attempted to select unknown user 'nosuch'"),
        ("system", ALL_USERS, "User id of 'system' is below the lowest one served here"),
        ("user", UserPolicy(switch=True, deny=frozenset({"user"})), "User 'user' is not served here"),
        ("user", UserPolicy(switch=True, allow=frozenset({"x"})), "User 'user' is not served here"),
        ("toor", UserPolicy(switch=False), "Attempted to select 'root'"),
    ],
)
def test_who_is_refused(user: str, policy: UserPolicy, reason: str) -> None:
    with pytest.raises(LoginRefused) as raised:
        look_up(user, (), policy)
    assert str(raised.value) == reason


def test_without_root_only_ones_own_account(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = UserPolicy(switch=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert look_up("user", ("other",), policy).uid == 1000
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    with pytest.raises(LoginRefused, match="runs without root and cannot act as 'user'"):
        look_up("user", (), policy)


def test_another_spelling_of_a_refused_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACCOUNTS, "USER", ACCOUNTS["user"])  # as directory services may have it
    with pytest.raises(LoginRefused, match="'user' is not served here"):
        look_up("USER", (), UserPolicy(switch=True, deny=frozenset({"user"})))


@pytest.mark.parametrize("check_groups", [True, False])
def test_the_group_of_root_is_not_to_be_had(check_groups: bool) -> None:
    policy = UserPolicy(switch=True, check_groups=check_groups)
    for requested in (("root",), ("own", "root")):
        with pytest.raises(LoginRefused, match="not a member of the group root"):
            look_up("user", requested, policy)

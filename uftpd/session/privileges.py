"""Becoming the user, for good (DESIGN: data node processes; DATA-PLANE 1.8 for groups).

Runs in a freshly forked child, single-threaded. Account and group look-ups happen here, since a directory service
can hang, and only this child hangs with it. What a user must be like is the spawner's policy, not the front's word.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import resource
from dataclasses import dataclass

from uftpd.session import syscalls

_DEFAULT_GROUP = "DEFAULT_GID"


class LoginRefused(Exception):
    """This user, or this group, is not served. The message goes behind `530 Not logged in: `."""


@dataclass(frozen=True, slots=True)
class UserPolicy:
    """Whom the node serves.

    Attributes:
        switch: whether sessions change user; without root they cannot.
        lowest_uid: smaller user ids are refused.
        allow: if not empty, only these accounts.
        deny: never these.
        check_groups: requested groups must be the account's own.
    """

    switch: bool
    lowest_uid: int = 500
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    check_groups: bool = True

    def refuses(self, user: str) -> str | None:
        """Why the name alone is refused, None if it is not."""
        if user == "root":
            return "Attempted to select 'root'"
        if user in self.deny or (self.allow and user not in self.allow):
            return f"User '{user}' is not served here"
        return None


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the operating system, with the groups a session gets."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: bytes


def look_up(user: str, requested_groups: tuple[str, ...], policy: UserPolicy) -> Account:
    """Find the account and the groups for a session.

    Args:
        user: account name.
        requested_groups: primary, then supplementary groups; empty for the account's own.
        policy: whom the node serves.

    Raises:
        LoginRefused: unknown, root or below the bound, not served, or a group that is not the account's.
    """
    if reason := policy.refuses(user):
        raise LoginRefused(reason)
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        raise LoginRefused(f"Attempted to select unknown user '{user}'") from None
    if entry.pw_uid == 0:
        raise LoginRefused("Attempted to select 'root'")
    if reason := policy.refuses(entry.pw_name):  # directory services may take other spellings of a name
        raise LoginRefused(reason)
    if not policy.switch:
        if entry.pw_uid != os.geteuid():
            raise LoginRefused(f"This server runs without root and cannot act as '{user}'")
        return Account(user, entry.pw_uid, os.getegid(), tuple(os.getgroups()), os.fsencode(entry.pw_dir))
    if entry.pw_uid < policy.lowest_uid:
        raise LoginRefused(f"User id of '{user}' is below the lowest one served here")
    primary, supplementary = _groups(entry, requested_groups, policy)
    return Account(user, entry.pw_uid, primary, supplementary, os.fsencode(entry.pw_dir))


def _groups(entry: pwd.struct_passwd, requested: tuple[str, ...], policy: UserPolicy) -> tuple[int, tuple[int, ...]]:
    own = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    if not requested:
        return entry.pw_gid, own
    primary_name, *others = requested
    if not others:
        others = [_DEFAULT_GROUP]
    primary = entry.pw_gid
    if primary_name != _DEFAULT_GROUP:
        primary = _group(primary_name, "primary", entry, own, policy)
    supplementary = [primary]
    for name in others:
        if name == _DEFAULT_GROUP:
            supplementary += own
        else:
            supplementary.append(_group(name, "supplementary", entry, own, policy))
    return primary, tuple(dict.fromkeys(supplementary))


def _group(name: str, which: str, entry: pwd.struct_passwd, own: tuple[int, ...], policy: UserPolicy) -> int:
    try:
        group = grp.getgrnam(name)
    except (KeyError, ValueError):
        raise LoginRefused(f"Attempt to run a task with an unknown {which} group: {name}") from None
    if group.gr_gid == 0 and 0 not in own:
        raise LoginRefused(f"The user {entry.pw_name} is not a member of the group {name}")
    if policy.check_groups and group.gr_gid not in own and entry.pw_name not in group.gr_mem:
        raise LoginRefused(f"The user {entry.pw_name} is not a member of the group {name}")
    return group.gr_gid


def become(account: Account, policy: UserPolicy, umask: int) -> None:
    """Turn this process into one of `account`, so that there is no way back.

    Raises:
        LoginRefused: a step failed, or the way back was still open. The process must end.
    """
    os.umask(umask)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if policy.switch:
        try:
            os.setgroups(account.groups)
            os.setresgid(account.gid, account.gid, account.gid)
            os.setresuid(account.uid, account.uid, account.uid)
        except OSError as error:
            raise LoginRefused(f"Cannot switch to user '{account.name}': {error.strerror}") from error
    if has_capabilities():  # changing from root to a user clears them; a service started with some keeps them
        syscalls.drop_capabilities()
    syscalls.no_new_privileges()
    syscalls.not_dumpable()
    _prove(account, policy)
    for name in set(os.environ) - {"TZ"}:  # the server's zone is that of legacy times
        del os.environ[name]
    os.environ.update(
        HOME=os.fsdecode(account.home), USER=account.name, LOGNAME=account.name, PATH="/usr/bin:/bin", LC_ALL="C.UTF-8"
    )


def _prove(account: Account, policy: UserPolicy) -> None:
    """Check the outcome instead of trusting the steps."""
    ids = {*os.getresuid(), account.uid} if policy.switch else {*os.getresuid()}
    group_ids = {*os.getresgid(), account.gid} if policy.switch else {*os.getresgid()}
    if len(ids) != 1 or len(group_ids) != 1 or 0 in ids:
        raise LoginRefused("Cannot give up the server's rights")
    if policy.switch and set(os.getgroups()) != set(account.groups):
        raise LoginRefused("Cannot give up the server's groups")
    for target in (0, account.uid + 1):
        with contextlib.suppress(OSError):
            os.setuid(target)
            os._exit(70)  # the way back is open: nothing of this process may go on
    if has_capabilities():
        raise LoginRefused("Cannot give up the server's capabilities")


def has_capabilities() -> bool:
    """Whether this process holds any capability, in any of its sets."""
    with open("/proc/self/status", "rb", buffering=0) as status:
        sets = re.findall(rb"^Cap(?:Prm|Eff|Inh|Amb):\s*([0-9a-f]+)$", status.read(), re.MULTILINE)
    return len(sets) < 3 or any(int(held, 16) for held in sets)

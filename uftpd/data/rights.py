"""Giving up the rights a data node was started with, in processes that face the network and serve no user."""

from __future__ import annotations

import os
import pwd

from uftpd.config.data import DataConfig
from uftpd.session import syscalls
from uftpd.session.privileges import Account, UserPolicy, become


def become_service_user(config: DataConfig) -> None:
    """Be the service user from now on, for good; without root, give up what there is to give up."""
    if os.geteuid() != 0:
        syscalls.drop_capabilities()  # such as the one to bind low ports
        syscalls.no_new_privileges()
        syscalls.not_dumpable()
        return
    entry = pwd.getpwnam(config.users.service_user)
    account = Account(entry.pw_name, entry.pw_uid, entry.pw_gid, (entry.pw_gid,), b"/")
    become(account, UserPolicy(switch=True), 0o077)

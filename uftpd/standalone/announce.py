"""What a standalone server prints when it serves: a line for programs, or a text a newcomer can act on."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from uftpd.config.toml import HostPort


def ready_line(auth_url: str, nodes: Mapping[str, HostPort], commands: Mapping[str, HostPort], ca: Path) -> str:
    """The line of `--ready-json`."""
    facts = {
        "auth": auth_url,
        "nodes": {name: str(address) for name, address in nodes.items()},
        "command": {name: str(address) for name, address in commands.items()},
        "ca": str(ca),
        "pid": os.getpid(),
    }
    return json.dumps(facts)


def account_lines(passwords: Mapping[str, str], path: Path, *, new: bool) -> str:
    """Lines about accounts that were made up; a new password is shown this once."""
    if new:
        shown = (f"{name}, password {password}" for name, password in passwords.items())
        return "".join(f"  Account       {text}   (shown once, kept in {path})\n" for text in shown)
    return f"  Account       {', '.join(passwords)}, password in {path}\n"


def banner(
    auth_url: str,
    nodes: Mapping[str, HostPort],
    accounts: str,
    user: str,
    ca: Path,
    log: Path,
    home: str,
) -> str:
    """The text for people.

    Args:
        auth_url: of the auth server.
        nodes: public FTP addresses.
        accounts: lines about the accounts.
        user: a login name for the examples.
        ca: the CA file.
        log: the log file.
        home: a directory for the examples.
    """
    lines = "".join(f"  Data node     {name} at {address}\n" for name, address in nodes.items())
    name = next(iter(nodes))
    url = f"{auth_url}/{name}:"
    options = f"--ca {shlex.quote(str(ca))} -u {shlex.quote(user)} -P"
    return f"""UFTP is running.

  Auth server   {auth_url}
{lines}{accounts}  CA            {ca}
  Log           {log}

Try it from another terminal (it asks for the password):

  uftp info {options} {auth_url}
  uftp ls   {options} {url}{home}/
  uftp cp   {options} FILE {url}{home}/

Ctrl-C ends it.
"""

"""What a standalone server prints when it serves: a line for programs, or a text a newcomer can act on."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uftpd.config.toml import HostPort


@dataclass(frozen=True, slots=True)
class Example:
    """Whose commands are shown.

    Attributes:
        user: a login name.
        home: a directory to work in.
        password_file: holds the password; None: it is asked for.
    """

    user: str
    home: str
    password_file: Path | None


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


def account_lines(passwords: Mapping[str, str], files: Mapping[str, Path], *, new: bool) -> str:
    """Lines about accounts that were made up; new passwords are shown this once."""
    lines = []
    for name, password in passwords.items():
        shown = f"password {password}   (shown once, kept in {files[name]})" if new else f"password in {files[name]}"
        lines.append(f"  Account       {name}, {shown}\n")
    return "".join(lines)


def banner(
    auth_url: str,
    nodes: Mapping[str, HostPort],
    accounts: str,
    example: Example,
    ca: Path,
    log: Path,
) -> str:
    """The text for people.

    Args:
        auth_url: of the auth server.
        nodes: public FTP addresses.
        accounts: lines about the accounts.
        example: whose commands are shown.
        ca: the CA file.
        log: the log file.
    """
    lines = "".join(f"  Data node     {name} at {address}\n" for name, address in nodes.items())
    url = f"{auth_url}/{next(iter(nodes))}:{example.home.rstrip('/')}/"
    words = ["--ca", str(ca), "-u", example.user]
    words += ["--password-file", str(example.password_file)] if example.password_file else ["-P"]
    options = shlex.join(words)
    note = "" if example.password_file else " (it asks for the password)"
    return f"""UFTP is running.

  Auth server   {auth_url}
{lines}{accounts}  CA            {ca}
  Log           {log}

Try it from another terminal{note}:

  uftp info {options} {auth_url}
  uftp ls {options} {shlex.quote(url)}
  uftp cp {options} FILE {shlex.quote(url)}

Ctrl-C ends it.
"""

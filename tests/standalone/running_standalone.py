"""Starts `uftpd standalone` as the program it is, and sees to it that nothing is left of it."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UFTPD = Path(sys.executable).parent / "uftpd"
PASSWORD = "correct horse"
PASSING = "uftp-t"  # begins the names of accounts that other tests make, and remove at any time


def local_account() -> str | None:
    """Whom sessions can run as: as root some ordinary account of this machine, else the current user."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = (entry.pw_name for entry in pwd.getpwall() if 1000 <= entry.pw_uid < 60000)
    return next((name for name in names if not name.startswith(PASSING)), None)


def account() -> str:
    """The account of `local_account`; as root `nobody` if there is no ordinary one."""
    return local_account() or "nobody"


@dataclass
class Standalone:
    """A running tree."""

    process: subprocess.Popen[str]
    ready: Mapping[str, Any]
    state: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def auth(self) -> str:
        return str(self.ready["auth"])

    @property
    def ca(self) -> str:
        return str(self.ready["ca"])

    def log(self) -> str:
        return (self.state / "uftpd.log").read_text()


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    found = [int(child) for child in children]
    return found + [below for child in found for below in descendants(child)]


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int], seconds: float = 30.0) -> list[int]:
    """Those still running after the time is up."""
    deadline = time.monotonic() + seconds
    left = [pid for pid in pids if alive(pid)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [pid for pid in left if alive(pid)]
    return left


@contextmanager
def standalone(state: Path, *options: str, user: str = "joe") -> Iterator[Standalone]:
    """A standalone server on free ports, with one account."""
    mapping = ["--map", f"{user}:{account()}"] if os.geteuid() == 0 else []
    command = [str(UFTPD), "standalone", "--state", str(state), "--ready-json", "--user", f"{user}:{PASSWORD}"]
    command += ["--auth-port", "0", "--ftp-port", "0", "--command-port", "0", *mapping, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    below: list[int] = []
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            assert process.stderr is not None
            raise AssertionError(f"did not start: {process.stderr.read()}")
        below = descendants(process.pid)
        yield Standalone(process, json.loads(line), state)
    finally:
        below += descendants(process.pid)
        process.kill()
        process.communicate()
        left = wait_until_gone(below)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert left == [], "processes were left behind"

"""A PostgreSQL server of the test's own: in a temporary directory, on a Unix socket, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from uftpd.session.syscalls import die_with_parent

_ACCOUNTS = ("postgres", "nobody")  # as root: PostgreSQL refuses to run as root


@dataclass
class Postgres:
    """A running server.

    Attributes:
        directory: data and socket.
        process: the postmaster; ends with whoever started it.
    """

    directory: Path
    process: subprocess.Popen[bytes]
    account: str

    @property
    def url(self) -> str:
        """For `[store]`."""
        return f"postgresql://{self.account}@/postgres?host={self.directory}"


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    return found[-1].parent


def start(directory: Path, account: str) -> subprocess.Popen[bytes]:
    """Start the postmaster and wait until it answers."""
    programs = _programs()
    options = {"listen_addresses": "", "unix_socket_directories": str(directory), "fsync": "off", "max_connections": 40}
    command = [str(programs / "postgres"), "-D", str(directory / "data")]
    command += [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stderr=log,
            stdout=log,
            user=account if os.geteuid() == 0 else None,
            group=pwd.getpwnam(account).pw_gid if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            preexec_fn=lambda: die_with_parent(signal.SIGQUIT),
        )
    ask = [str(programs / "pg_isready"), "-q", "-h", str(directory), "-d", "postgres"]
    while subprocess.run(ask, check=False).returncode:
        if process.poll() is not None:
            raise AssertionError((directory / "log").read_text())
        time.sleep(0.05)
    return process


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> None:
    """End the server; by default without waiting for its clients."""
    process.send_signal(number)
    process.wait(timeout=30)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A fresh server."""
    programs = _programs()
    account = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        account = next(name for name in _ACCOUNTS if any(entry.pw_name == name for entry in pwd.getpwall()))
    # Not below pytest's directories, which only their owner can enter; and the path of a socket must be short.
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        entry = pwd.getpwnam(account)
        os.chown(directory, entry.pw_uid, entry.pw_gid)
        subprocess.run(
            [str(programs / "initdb"), "-D", str(directory / "data"), "-A", "trust", "-N", "-U", account],
            check=True,
            capture_output=True,
            cwd=directory,
            user=account if os.geteuid() == 0 else None,
            group=entry.pw_gid if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
        )
        server = Postgres(directory, start(directory, account), account)
        try:
            yield server
        finally:
            if server.process.poll() is None:
                stop(server.process)
    finally:
        shutil.rmtree(directory, ignore_errors=True)

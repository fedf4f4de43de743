"""An auth server and data nodes, each a process of its own, for benchmarks and tests that end some of them.

The configuration is that of a standalone server, started once for it, with the nodes as instances of one name.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

BIN: Final = Path(sys.executable).parent
PASSWORD: Final = "a password"
NAME: Final = "TEST"
_START_SECONDS: Final = 90.0
_PASSING: Final = "uftp-t"  # begins the names of accounts that tests make, and remove at any time


def account() -> str:
    """Whom sessions run as: as root some ordinary account of this machine, else the current user."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = (entry.pw_name for entry in pwd.getpwall() if 1000 <= entry.pw_uid < 60000)
    return next((name for name in names if not name.startswith(_PASSING)), "nobody")


class Stack:
    """See the module. Use as a context manager.

    Args:
        top: an empty directory for configuration and logs.
        hosts: what clients are told instead of 127.0.0.1, one a node: the addresses of proxies in front of them.
        user: whose files are served, as root; None for some ordinary account.
        login: name to log in with.
        options: further ones of `uftpd standalone`, that its configuration is made with.
        edit_auth: changes the text of the auth server's configuration before it is started.
    """

    def __init__(
        self,
        top: Path,
        hosts: Sequence[str] = ("127.0.0.1",),
        *,
        user: str | None = None,
        login: str = "joe",
        options: Sequence[str] = (),
        edit_auth: Callable[[str], str] = lambda text: text,
    ) -> None:
        self._top = top
        self._hosts = hosts
        self._user = user or account()
        self.login = login
        self._options = options
        self._edit_auth = edit_auth
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ftp: list[tuple[str, int]] = []
        self.url = self.auth_url = ""

    @property
    def ca(self) -> Path:
        """The certificate to trust."""
        return self._top / "state" / "ca.pem"

    def __enter__(self) -> Self:
        self._configure()
        for number in range(len(self._hosts)):
            self.start(f"node{number}")
        self.start("auth")
        return self

    def __exit__(self, *exc: object) -> None:
        for name in list(self._processes):
            self.kill(name)

    def _configure(self) -> None:
        names = [f"node{number}" for number in range(len(self._hosts))]
        mapping = ["--map", f"{self.login}:{self._user}"] if os.geteuid() == 0 else []
        command = [str(BIN / "uftpd"), "standalone", "--state", str(self._top / "state"), "--ready-json", *mapping]
        command += ["--user", f"{self.login}:{PASSWORD}", "--auth-port", "0", "--ftp-port", "0", "--command-port", "0"]
        command += self._options
        for name in names:
            command += ["--node", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            process.terminate()
        self.ftp = [_address(ready["nodes"][name]) for name in names]
        self.auth_url = ready["auth"]
        self.url = f"{self.auth_url}/{NAME}:"
        path = self._top / "state" / "auth" / "auth.toml"
        text = re.split(r"\n\[nodes\.", path.read_text())[0] + f"\n[nodes.{NAME}]\n"
        for name, host in zip(names, self._hosts, strict=True):
            text += f'[[nodes.{NAME}.instances]]\nhost = "{host}"\ncommand = "{ready["command"][name]}"\n'
            # A node that dies takes its object server's port with it for a while, which nothing here needs.
            node = self._top / "state" / "nodes" / name / "data.toml"
            node.write_text(re.sub(r"\n\[objects\]\n(.+\n)*", "\n", node.read_text()))
        path.write_text(self._edit_auth(text.replace("[command_port]\n", "[command_port]\ndown_seconds = 1\n")))
        self._auth = _address(ready["auth"].split("//")[1].split("/")[0])

    def start(self, name: str) -> None:
        """Start `auth` or `nodeN`, and wait until it serves."""
        directory = self._top / "state"
        if name == "auth":
            command = ["auth", "--config", str(directory / "auth" / "auth.toml")]
            place = self._auth
        else:
            command = ["data", "--config", str(directory / "nodes" / name / "data.toml")]
            place = self.ftp[int(name.removeprefix("node"))]
        log_path = self._top / f"{name}.log"
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with log_path.open("ab") as log:
                process = subprocess.Popen([str(BIN / "uftpd"), *command], stdout=log, stderr=log)
            while process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(place, timeout=1):
                    self._processes[name] = process
                    return
                if time.monotonic() > deadline:
                    process.kill()
                    break
                time.sleep(0.02)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not start: {log_path.read_text()[-2000:]}")
            time.sleep(0.1)  # the ports of the one before may not be free yet

    def kill(self, name: str) -> None:
        """End it and all its processes at once, as a power cut would."""
        process = self._processes.pop(name)
        for pid in (process.pid, *descendants(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def log(self, name: str) -> str:
        """What a server has logged so far."""
        return (self._top / f"{name}.log").read_text()

    def pids(self, name: str) -> list[int]:
        """Of a node: the spawner, its front, and its sessions, in the order of their start."""
        process = self._processes[name]
        return [process.pid, *sorted(descendants(process.pid))]


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    found = [int(child) for child in children]
    return found + [below for child in found for below in descendants(child)]

"""Keys made by ssh-keygen and a real ssh-agent, for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_openssh = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("ssh-keygen", "ssh-agent", "ssh-add")),
    reason="needs OpenSSH's programs (openssh-client)",
)


def make_key(path: Path, *options: str, passphrase: str = "") -> Path:
    """A new private key; its public half lies beside, with `.pub`."""
    # One round of bcrypt: how slow a passphrase is to guess is not what is tested.
    rounds = ["-a", "1"] if "-m" not in options else []
    command = ["ssh-keygen", "-q", *options, *rounds, "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def public_line(path: Path) -> str:
    """The public half of a key, as it stands in authorized_keys."""
    return Path(f"{path}.pub").read_text().strip()


@dataclass(frozen=True)
class Agent:
    """A running ssh-agent."""

    socket: Path

    def add(self, key: Path) -> None:
        environment = {"SSH_AUTH_SOCK": str(self.socket), "PATH": os.environ["PATH"]}
        subprocess.run(["ssh-add", "-q", key], env=environment, check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def running_agent(directory: Path) -> Iterator[Agent]:
    """An ssh-agent for the block."""
    socket = directory / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        assert "SSH_AUTH_SOCK" in process.stdout.readline()  # it listens by then
        yield Agent(socket)
    finally:
        process.terminate()
        process.communicate(timeout=30)

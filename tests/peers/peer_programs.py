"""Runs the programs other people wrote, as a person at a shell would, and takes delays and complaints for failures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

# A client that waits, for a reply that does not come or before it tries again, waits for 30 s and more.
_SECONDS = 20.0


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def needed(program: str) -> str:
    """Path of a program; the test is skipped where it is missing."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run(
    *command: str | Path,
    cwd: Path,
    code: int = 0,
    stdin: bytes | None = None,
    **environment: str,
) -> Outcome:
    """Run a program to its end.

    Args:
        command: program and arguments.
        cwd: its directory; the one above is its home, so that settings of the person running the tests do not matter.
        code: the exit code it must have.
        stdin: what it reads.
        environment: further variables.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd.parent), "TZ": "UTC", "LC_ALL": "C.UTF-8", **environment},
        input=b"" if stdin is None else stdin,
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    err = done.stderr.decode("utf-8", "replace")
    assert done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout.decode()}\n{err}"
    return Outcome(done.returncode, done.stdout, err)


def beside_python(program: str) -> str:
    """A console script of the environment the tests run in."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        pytest.skip(f"{program} is not installed")
    return str(path)

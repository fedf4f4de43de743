"""Runs the `uftp` program as a person's shell would, or what it does in this process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from uftp.cli.main import run

_PERSONAL = ("UFTP_", "XDG_", "SSH_AUTH_SOCK", "OIDC_SOCK")

UFTP = Path(sys.executable).parent / "uftp"


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard output by lines."""
        return self.out.decode().splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.lines]

    @property
    def error_lines(self) -> list[str]:
        """Standard error by lines."""
        return self.err.splitlines()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The process's own variables without credentials, and `extra`. Nothing of the person's own is found: no home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PERSONAL)}
    return {**kept, "HOME": "/nonexistent", **(extra or {})}


def uftp(
    *arguments: str | bytes | Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Outcome:
    """Run it to its end."""
    done = subprocess.run(
        [UFTP, *arguments], input=stdin, capture_output=True, env=environment(env), cwd=cwd, timeout=60, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


def uftp_inside(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Outcome:
    """The same without another process, which is what most of the time goes into where little is copied.

    For what a command does; not for how the program starts and ends, and what becomes of its standard input.
    """
    out, err = io.BytesIO(), io.BytesIO()
    with (
        io.TextIOWrapper(out, "utf-8", write_through=True) as stdout,
        io.TextIOWrapper(err, "utf-8", "replace", write_through=True) as stderr,
        mock.patch.dict(os.environ, environment(env), clear=True),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        code = run([str(argument) for argument in arguments])
        return Outcome(code, out.getvalue(), err.getvalue().decode())

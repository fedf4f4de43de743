"""The command line: one module a command, loaded when it is used."""

from __future__ import annotations

import sys


def main() -> int:
    """Entry point of the `uftp` script; returns the exit code."""
    from uftp.cli.main import run

    return run(sys.argv[1:])


__all__ = ["main"]

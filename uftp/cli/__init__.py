"""The command line: one module a command, loaded when it is used."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Entry point of the `uftp` script; returns the exit code."""
    gc.set_threshold(50_000)  # what start-up imports is no garbage
    try:
        from uftp.cli.main import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules are loaded; later it is seen to where it comes
        sys.stderr.write("uftp: interrupted\n")
        return 130
    finally:
        gc.freeze()  # nor is it worth looking for any at the end


__all__ = ["main"]

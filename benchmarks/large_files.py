"""One large file by 1, 2 and 4 sessions, with and without verifying, beside curl with vsftpd and an rsync daemon.

Then the same commands over a round trip of 50 ms: 512 MiB, and 2,000 small files.

    python -m benchmarks.large_files --gib 4
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks import peers
from benchmarks.delaying_proxy import DelayingProxy
from benchmarks.stack import BIN, PASSWORD, Stack

_MIB: Final = 1024 * 1024
_PROXY_HOST: Final = "127.0.0.9"


def _timed(command: list[str], environment: dict[str, str] | None = None) -> float:
    """Seconds of wall clock, the start of the program included."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.decode()[-1000:]}")
    return time.monotonic() - began


def _say(what: str, run: Callable[[], float], amount: float, unit: str) -> None:
    seconds = min(run() for _ in range(2))
    print(f"{what:34} {seconds:7.2f} s {amount / seconds:9.0f} {unit}/s", flush=True)


class _Place:
    """Sources, and targets that are removed before each run."""

    def __init__(self, top: Path, mib: int) -> None:
        self.top = top
        self.file = top / "large"
        self.tree = top / "tree"
        with self.file.open("wb") as file:
            for _ in range(mib // 16):
                file.write(os.urandom(16 * _MIB))
        for number in range(2000):
            path = self.tree / f"d{number % 20}" / f"f{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(4096))
        self.target = top / "out"
        self.target.mkdir()
        self.target.chmod(0o777)

    def empty(self) -> Path:
        """A place to copy to."""
        for old in self.target.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        return self.target / "copy"


def _ours(stack: Stack, place: _Place, *options: str, source: Path, up: bool) -> Callable[[], float]:
    environment = {**os.environ, "XDG_STATE_HOME": str(place.top / "state")}
    command = [str(BIN / "uftp"), "cp", "--ca", str(stack.ca), "-u", f"joe:{PASSWORD}", "-q", "-r", *options]

    def run() -> float:
        target = place.empty()
        ends = [str(source), f"{stack.url}{target}"] if up else [f"{stack.url}{source}", str(target)]
        return _timed([*command, *ends], environment)

    return run


def _on_this_machine(place: _Place, mib: int) -> None:
    (place.top / "stack").mkdir()
    with Stack(place.top / "stack") as stack:
        for sessions in ("1", "2", "4"):
            for options in ((), ("--no-verify",)):
                for up in (False, True):
                    what = f"uftp {'up' if up else 'down'} -t {sessions} {' '.join(options)}"
                    _say(what, _ours(stack, place, "-t", sessions, *options, source=place.file, up=up), mib, "MiB")
    with peers.rsyncd(place.top, place.top) as server:
        url = f"rsync://127.0.0.1:{server.port}/files/large"
        _say("rsync daemon down", lambda: _timed(["rsync", "-W", url, str(place.empty())]), mib, "MiB")
    with peers.vsftpd(place.top, place.top) as server:
        url = f"ftp://127.0.0.1:{server.port}/large"
        _say("curl from vsftpd", lambda: _timed(["curl", "-s", "-o", str(place.empty()), url]), mib, "MiB")


def _far_away(place: _Place) -> None:
    half = place.top / "half"
    with half.open("wb") as file:
        file.write(os.urandom(512 * _MIB))
    (place.top / "far").mkdir()
    with Stack(place.top / "far", [_PROXY_HOST]) as stack:
        port = stack.ftp[0]
        with DelayingProxy((_PROXY_HOST, port[1]), port, round_trip=0.05):
            for up in (False, True):
                direction = "up" if up else "down"
                _say(f"50 ms: {direction}, 512 MiB", _ours(stack, place, source=half, up=up), 512, "MiB")
                _say(f"50 ms: {direction}, 2000 files", _ours(stack, place, source=place.tree, up=up), 2000, "files")


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1)
    parser.add_argument("--far-only", action="store_true", help="only over the long round trip")
    arguments = parser.parse_args()
    mib = int(arguments.gib * 1024) // 16 * 16
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="uftp-large-") as name:
        os.chmod(name, 0o755)
        place = _Place(Path(name), 16 if arguments.far_only else mib)
        if not arguments.far_only:
            _on_this_machine(place, mib)
        _far_away(place)


if __name__ == "__main__":
    main()

"""Copies that something goes wrong under: whatever it is, the same command then ends in an identical copy.

In each round one thing is broken at a random instant of `uftp cp`: the client, a session, the front or all of a data
node, or the auth server is killed, a Ctrl-C is sent, or the connections are reset, half closed or held up. What was
killed on the server's side is started again. If the command claims success, all files must be the same as the sources
at once; otherwise it is repeated until it does. Then nothing else may be left on either side, and of a large file
what the journal had must not have been sent again.

    python -m benchmarks.faults --rounds 300
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.delaying_proxy import DelayingProxy
from benchmarks.stack import BIN, PASSWORD, Stack

_PROXY_HOST: Final = "127.0.0.9"
_PATIENCE: Final = 180.0  # seconds for one run of the command
_REPEATS: Final = 4
_PAUSE: Final = 1.5  # before a repeat: the auth server leaves a node alone for a second that did not answer
_MIB: Final = 1024 * 1024
_RATE: Final = 100 * _MIB  # of large files, so that there is time for something to go wrong
_PIECE: Final = 16 * _MIB


class RoundFailed(AssertionError):
    """A round ended in something else than an identical copy or a named failure."""


@dataclass(frozen=True)
class Data:
    """What is copied.

    Attributes:
        name: of the directory below the source, or the file.
        large: whether it is one large file, at a limited rate.
        seconds: that a copy of it takes.
    """

    name: str
    large: bool
    seconds: float


@dataclass
class Run:
    """One run of the command.

    Attributes:
        code: exit code; negative for a signal.
        summary: the last line of --json, empty if it was killed before.
        errors: standard error.
    """

    code: int
    summary: dict[str, int]
    errors: str


class Faults:
    """A server, data, and rounds.

    Args:
        top: an empty directory, which others can enter.
        seed: of what happens when.
        large_bytes, small_files: sizes of the data.
    """

    def __init__(self, top: Path, *, seed: int, large_bytes: int = 96 * _MIB, small_files: int = 1500) -> None:
        self._top = top
        self._random = random.Random(seed)
        self.server = top / "server"
        self.here = top / "here"
        self.counts: collections.Counter[str] = collections.Counter()
        self.taken_over = 0
        for directory in (self.server, self.here):
            directory.mkdir()
            directory.chmod(0o777)
        self._environment = {**os.environ, "XDG_STATE_HOME": str(top / "state-of-client")}
        self._large_bytes = large_bytes
        self._small_files = small_files
        self.data = self._make_data()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """With the servers running."""
        with Stack(self._top / "stack", [_PROXY_HOST]) as self._stack:
            port = self._stack.ftp[0]
            with DelayingProxy((_PROXY_HOST, port[1]), port) as self._proxy:
                yield

    def _make_data(self) -> list[Data]:
        (self._top / "stack").mkdir()
        source = self._top / "source"
        source.mkdir()
        (source / "large").write_bytes(self._random.randbytes(self._large_bytes))
        for name, count in (("small", self._small_files), ("mixed", self._small_files // 3)):
            self._make_tree(source / name, count)
        for number in range(3):
            (source / "mixed" / f"medium{number}").write_bytes(self._random.randbytes(3 * _MIB + number))
        (source / "mixed" / "sub0" / "big").write_bytes(self._random.randbytes(72 * _MIB))
        return [
            Data("large", True, 0.7 + self._large_bytes / _RATE),
            Data("small", False, 1.2),
            Data("mixed", False, 1.5),
        ]

    def _make_tree(self, top: Path, count: int) -> None:
        for number in range(count):
            directory = top / f"sub{number % 13}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"file {number}").write_bytes(self._random.randbytes(self._random.randrange(9000)))

    # -- rounds -----------------------------------------------------------------------------------------------------

    def round(self, data: Data, *, up: bool, fault: str) -> None:
        """One round.

        Raises:
            RoundFailed: see there.
        """
        name = f"{'up' if up else 'down'} {data.name}, {fault}"
        source = self._top / "source" / data.name
        target = (self.server if up else self.here) / data.name
        for old in target.parent.iterdir():
            remove(old)
        arguments = self._arguments(data, source, target, up=up)
        instant = self._random.uniform(0.2, data.seconds)
        run = self._run(arguments, lambda process: self._inflict(fault, process, instant))
        runs = [run]
        while run.code != 0:
            if len(runs) > _REPEATS:
                raise RoundFailed(f"{name} at {instant:.2f} s: no success after {_REPEATS} repeats: {runs}")
            self._check_is_named(name, run)
            check_is_not_wrong(name, source, target)
            time.sleep(_PAUSE)
            run = self._run(arguments, None)
            runs.append(run)
        found = difference(source, target)
        if found:
            raise RoundFailed(f"{name} at {instant:.2f} s: {found}; {runs}")
        self._check_is_clean(name, target.parent)
        if len(runs) > 1:
            self.counts["repeated"] += 1
            self.taken_over += runs[-1].summary["taken_over"]
            if data.large:
                self._check_only_the_rest(name, runs[-1])
        self.counts[fault] += 1
        self.counts["retries"] += sum(one.summary.get("retries", 0) for one in runs)

    def _arguments(self, data: Data, source: Path, target: Path, *, up: bool) -> list[str]:
        command = [str(BIN / "uftp"), "cp", "--ca", str(self._stack.ca), "-u", f"joe:{PASSWORD}", "--json", "-r"]
        if data.large:
            command += ["--limit-rate", str(_RATE)]
        if up:
            return [*command, str(source), f"{self._stack.url}{target}"]
        return [*command, f"{self._stack.url}{source}", str(target)]

    def _run(self, arguments: list[str], beside: Callable[[subprocess.Popen[bytes]], None] | None) -> Run:
        with subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment
        ) as process:
            thread = threading.Thread(target=beside, args=(process,)) if beside else None
            if thread:
                thread.start()
            try:
                out, errors = process.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                out, errors = process.communicate()
                raise RoundFailed(f"it hangs: {arguments}: {errors.decode()[-2000:]}") from None
            finally:
                if thread:
                    thread.join()
        lines = [json.loads(line) for line in out.splitlines() if line.endswith(b"}")]
        summary = next((line for line in lines if line["type"] == "summary"), {})
        return Run(process.returncode, summary, errors.decode()[-2000:])

    # -- what goes wrong --------------------------------------------------------------------------------------------

    FAULTS: Final = ("client", "interrupt", "session", "front", "node", "auth", "reset", "half-close", "stall")

    def _inflict(self, fault: str, client: subprocess.Popen[bytes], instant: float) -> None:
        time.sleep(instant)
        match fault:
            case "client":
                client.kill()
            case "interrupt":
                client.send_signal(signal.SIGINT)
            case "session" | "front":
                _, front, *sessions = self._stack.pids("node0")
                for pid in sessions if fault == "session" else [front]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            case "node" | "auth":
                name = "node0" if fault == "node" else "auth"
                self._stack.kill(name)
                time.sleep(self._random.uniform(0, 1))
                self._stack.start(name)
            case "stall":
                self._proxy.inflict("stall")
                time.sleep(1)
                self._proxy.go_on()
            case "reset":
                self._proxy.inflict("reset")
            case "half-close":
                self._proxy.inflict("half-close")

    # -- what must hold ---------------------------------------------------------------------------------------------

    def _check_is_named(self, name: str, run: Run) -> None:
        if run.code > 0 and not run.errors.strip():
            raise RoundFailed(f"{name}: exit code {run.code} without a word")
        if run.errors.rstrip().endswith("KeyboardInterrupt"):
            return  # Python itself was interrupted, before the program has begun
        if "internal error" in run.errors or "Traceback" in run.errors:
            raise RoundFailed(f"{name}: {run.errors}")

    def _check_is_clean(self, name: str, directory: Path) -> None:
        parts = list(directory.rglob(".uftp-*"))
        journals = list((self._top / "state-of-client").rglob("*.journal"))
        if parts or journals:
            raise RoundFailed(f"{name}: left behind: {parts} {journals}")

    def _check_only_the_rest(self, name: str, last: Run) -> None:
        sent, known = last.summary["bytes"], last.summary["taken_over"]
        if sent + known != self._large_bytes and last.summary["unchanged"] == 0 and last.summary["retries"] == 0:
            raise RoundFailed(f"{name}: {sent} bytes were sent where {known} were there of {self._large_bytes}")


def remove(path: Path) -> None:
    """Remove a file, or a directory with all it holds; what is not there is no error."""
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _files(top: Path) -> dict[str, Path]:
    if top.is_file():
        return {"": top}
    return {str(path.relative_to(top)): path for path in top.rglob("*") if path.is_file()}


def difference(source: Path, target: Path) -> str:
    """In what two trees differ; empty if in nothing."""
    wanted, there = _files(source), _files(target)
    if wanted.keys() != there.keys():
        return f"only on one side: {sorted(wanted.keys() ^ there.keys())[:5]}"
    bad = [name for name, path in wanted.items() if _digest(path) != _digest(there[name])]
    return f"other content: {bad[:5]}" if bad else ""


def check_is_not_wrong(name: str, source: Path, target: Path) -> None:
    """What has a final name is whole."""
    wanted = _files(source)
    for relative, path in _files(target).items():
        if not path.name.startswith(".uftp-") and _digest(path) != _digest(wanted[relative]):
            raise RoundFailed(f"{name}: {relative!r} has its name and is not whole")


def cases(faults: Faults, seed: int) -> Iterator[tuple[Data, bool, str]]:
    """Every kind of data, direction (whether up) and fault in turn, shuffled, without end."""
    order = random.Random(seed)
    every = [(data, up, fault) for data in faults.data for up in (True, False) for fault in Faults.FAULTS]
    while True:
        yield from order.sample(every, len(every))


def main() -> None:
    """Run rounds, and say how often what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--directory", help="where to work; the default is a memory file system")
    parser.add_argument("--keep-going", action="store_true", help="count failed rounds")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    failed = 0
    with tempfile.TemporaryDirectory(dir=arguments.directory or "/dev/shm", prefix="uftp-faults-") as name:
        os.chmod(name, 0o755)
        faults = Faults(Path(name), seed=arguments.seed)
        with faults.serving():
            rounds = itertools.islice(cases(faults, arguments.seed), arguments.rounds)
            for number, (data, up, fault) in enumerate(rounds, 1):
                began = time.monotonic()
                outcome = "good"
                try:
                    faults.round(data, up=up, fault=fault)
                except RoundFailed as error:
                    failed += 1
                    outcome = f"FAILED: {error}"
                seconds = time.monotonic() - began
                direction = "up" if up else "down"
                print(f"{number}: {direction} {data.name}, {fault}, {seconds:.1f} s: {outcome}", flush=True)
                if failed and not arguments.keep_going:
                    break
    print(dict(faults.counts), f"taken over {faults.taken_over} bytes, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

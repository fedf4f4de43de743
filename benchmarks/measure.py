"""Runs commands and reads what they cost: wall clock, and processor time on both sides.

The processor time of a client is what wait4 says of the ended process: its own and that of the children it waited
for. That of a server is read from /proc/<pid>/stat of every process in its tree, before and after: the process's own
time and that of its ended children which it waited for, so a session process counts whether it has ended or not.
The root of the tree is `benchmarks.reaper`, which waits for those that a server leaves behind.
Its resolution is a clock tick (10 ms), and work the kernel does in soft interrupts is charged to whoever runs then.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLE_SECONDS = 10.0


class CommandFailed(Exception):
    """A client ended with an error; the message holds its last words."""


@dataclass(frozen=True)
class Cost:
    """What one run took, in seconds, and the most memory its client had, in KiB."""

    wall: float
    client_cpu: float
    server_cpu: float
    peak_kib: int = 0


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants that live."""
    found = [pid]
    for parent in found:
        try:
            tasks = os.listdir(f"/proc/{parent}/task")
        except FileNotFoundError:
            continue
        for task in tasks:
            try:
                with open(f"/proc/{parent}/task/{task}/children") as file:
                    found += [int(child) for child in file.read().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def tree_cpu(pid: int) -> float:
    """Seconds of processor time that the tree of `pid` has used, ended descendants included."""
    ticks = 0
    for process in tree(pid):
        try:
            with open(f"/proc/{process}/stat") as file:
                # The name may hold blanks and parentheses; utime, stime, cutime and cstime are fields 14 to 17.
                fields = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def run(argv: Sequence[str], server: int | None, *, env: Mapping[str, str] | None = None) -> Cost:
    """Run a client to its end.

    Args:
        argv: the command.
        server: process id of the server it talks to, None if there is none to measure.
        env: variables to set besides our own.

    Raises:
        CommandFailed: it ended with an error.
    """
    processes = len(tree(server)) if server else 0
    server_before = tree_cpu(server) if server else 0.0
    start = time.perf_counter()
    # The output goes to a file: a pipe could fill up while wait4 waits.
    with open(os.memfd_create("output"), "w+b") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(env or {})}
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it again
        if process.returncode:
            output.seek(0)
            words = output.read()[-500:].decode("utf-8", "replace").strip()
            raise CommandFailed(f"{' '.join(argv)}: exit {process.returncode}: {words}")
    if server:
        _settle(server, processes)
    server_cpu = tree_cpu(server) - server_before if server else 0.0
    return Cost(wall, usage.ru_utime + usage.ru_stime, server_cpu, usage.ru_maxrss)


def _settle(server: int, processes: int) -> None:
    """Wait until the session's processes have ended and been waited for."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while len(tree(server)) > processes and time.monotonic() < deadline:
        time.sleep(0.005)


def median(values: Iterable[float]) -> float:
    """The middle one; nan of none."""
    found = list(values)
    return statistics.median(found) if found else float("nan")


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that at least `percent` of them do not exceed; nan of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns, the first one left-aligned."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:]]))
        if number == 0:
            print("  ".join("-" * width for width in widths))


def machine() -> str:
    """Processor, kernel and Python, in one line."""
    uname = os.uname()
    model = "unknown processor"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{os.cpu_count()} x {model}, {uname.sysname} {uname.release}, Python {platform.python_version()}"

"""Delta sync of one file: identical, 1 % changed, and unrelated; beside rsync.

    python -m benchmarks.delta [--size MIB] [--repeat N] [--directory DIR]

Both ends run on this machine, each in a process of its own, over a loopback connection; files are in memory
(/dev/shm). The times are those of the exchange: sums of the old file, the search in the new one, the new file made.
What `uftp sync` does besides (login, comparing by checksum) is not in them. rsync runs with --no-whole-file, which is
what it does over a network; it makes and compares another checksum of the whole file on the way.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from multiprocessing import Process

from benchmarks.measure import machine, median, print_table
from uftp.streams import Meter, prepare
from uftp.streams.delta import DeltaResult, follow, lead

MIB = 1024 * 1024
CHANGES = 10  # runs of bytes that together are 1 % of the file, and one byte put in


def make_files(directory: str, size: int) -> dict[str, str]:
    """The old file, and new ones by what is done to it."""
    paths = {name: os.path.join(directory, name) for name in ("old", "identical", "1 % changed", "unrelated")}
    chance = random.Random(7)
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(open(path, "w+b")) for name, path in paths.items()}
        for _ in range(size // MIB):
            block = os.urandom(MIB)
            for name in ("old", "identical", "1 % changed"):
                files[name].write(block)
            files["unrelated"].write(os.urandom(MIB))
        run = size // 100 // CHANGES
        for number in range(CHANGES):
            place = number * (size // CHANGES) + chance.randrange(size // CHANGES - run)
            files["1 % changed"].seek(place)
            files["1 % changed"].write(os.urandom(run))
    _insert(paths["1 % changed"], size // 3)
    return paths


def _insert(path: str, place: int) -> None:
    """One byte more, so that nothing behind it stands where it stood."""
    with open(path, "rb") as file, open(path + ".new", "wb") as changed:
        changed.write(file.read(place) + b"+")
        shutil.copyfileobj(file, changed, MIB)
    os.replace(path + ".new", path)


def _follower(connection: socket.socket, old: str, target: str, finer: bool) -> None:
    prepare(connection, 60)
    source = os.open(old, os.O_RDONLY)
    made = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    follow(connection, source, os.fstat(source).st_size, made, Meter(), finer=finer)


def ours(old: str, new: str, target: str, *, finer: bool) -> tuple[float, float]:
    """Seconds, and the share of bytes that moved."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        leader = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
    with leader, connection:
        prepare(leader, 60)
        source = os.open(new, os.O_RDONLY)
        size = os.fstat(source).st_size
        begin = time.perf_counter()
        process = Process(target=_follower, args=(connection, old, target, finer))
        process.start()
        result: DeltaResult = lead(leader, source, size, Meter())
        process.join()
        seconds = time.perf_counter() - begin
        os.close(source)
    subprocess.run(["cmp", new, target], check=True)
    return seconds, result.literal / size


def rsync(old: str, new: str, target: str) -> tuple[float, float]:
    """The same by rsync."""
    shutil.copyfile(old, target)
    begin = time.perf_counter()
    done = subprocess.run(
        ["rsync", "--no-whole-file", "--ignore-times", "--stats", new, target],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - begin
    subprocess.run(["cmp", new, target], check=True)
    literal = next(line for line in done.stdout.splitlines() if line.startswith("Literal data:"))
    return seconds, int(literal.split()[2].replace(",", "")) / os.path.getsize(new)


def main() -> None:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the file; 1024")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs, of which the median counts; 3")
    parser.add_argument("--directory", default="/dev/shm", metavar="DIR", help="where the files are; /dev/shm")
    arguments = parser.parse_args()
    ways: dict[str, Callable[[str, str, str], tuple[float, float]]] = {
        "uftp, fine blocks (our own server)": lambda *paths: ours(*paths, finer=True),
        "uftp, 1000 blocks (other servers)": lambda *paths: ours(*paths, finer=False),
    }
    if shutil.which("rsync"):
        ways["rsync"] = rsync
    rows = []
    with tempfile.TemporaryDirectory(prefix="uftp-delta-", dir=arguments.directory) as directory:
        files = make_files(directory, arguments.size * MIB)
        old = files.pop("old")
        target = os.path.join(directory, "target")
        for case, new in files.items():
            runs: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for _ in range(arguments.repeat):
                for way, run in ways.items():
                    runs[way].append(run(old, new, target))
            for way, found in runs.items():
                seconds = median(seconds for seconds, _ in found)
                rate = arguments.size * MIB / seconds / 1e6
                rows.append([f"{case}: {way}", f"{seconds:.2f}", f"{rate:.0f}", f"{100 * found[0][1]:.2f}"])
    print(f"{machine()}\n{arguments.size} MiB, median of {arguments.repeat}\n")
    print_table(["", "seconds", "MB/s", "moved %"], rows)


if __name__ == "__main__":
    main()

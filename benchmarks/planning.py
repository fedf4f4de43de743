"""Memory of the client while it plans and copies many files: what a file costs, beyond what a copy takes anyway.

    python -m benchmarks.planning [--count 200000] [--directories 200]

The same is done with a tenth of the files: the difference, by file, is what has to be about nothing for trees of any
size. In a dry run nothing but planning is done: a walk through the tree here, or on our server.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import Cost, machine, print_table, run


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200_000, metavar="N", help="files (200000)")
    parser.add_argument("--directories", type=int, default=200, metavar="N", help="that they are in (200)")
    parser.add_argument("--directory", default="/dev/shm", help="where the files are (/dev/shm)")
    parser.add_argument("--account", help="as root: the account our sessions run as")
    parser.add_argument("--dry", action="store_true", help="only plan")
    options = parser.parse_args()
    peers.compile_ours()
    user = peers.account(options.account)
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as name:
        top = Path(name)
        top.chmod(0o755)
        served = top / "served"
        served.mkdir()
        if os.geteuid() == 0:
            os.chown(served, user.pw_uid, user.pw_gid)
        counts = (max(1, options.count // 10), options.count)
        for count in counts:
            _make_tree(top / f"source-{count}", count, max(1, options.directories * count // options.count))
        print(f"{machine()}; {options.count} empty files in {options.directories} directories")
        with peers.standalone(top, user) as server:
            for direction, dry in (("up", True), ("down", True), ("up", False), ("down", False)):
                if options.dry and not dry:
                    continue
                costs = [_copy(direction, dry, count, server, top) for count in counts]
                grown = (costs[1].peak_kib - costs[0].peak_kib) * 1024 / max(1, counts[1] - counts[0])
                rows.append(
                    (
                        f"{direction}, dry run" if dry else direction,
                        f"{costs[0].peak_kib / 1024:.0f}",
                        f"{costs[1].peak_kib / 1024:.0f}",
                        f"{grown:.0f}",
                        f"{counts[1] / costs[1].wall:.0f}",
                    )
                )
    print_table(("what", f"MiB, {counts[0]} files", f"MiB, {counts[1]} files", "bytes a file", "files/s"), rows)


def _make_tree(top: Path, count: int, directories: int) -> None:
    for number in range(directories):
        (top / f"directory-{number:05}").mkdir(parents=True)
    for number in range(count):
        os.close(os.open(top / f"directory-{number % directories:05}" / f"file-{number:07}", os.O_CREAT | os.O_WRONLY))


def _copy(direction: str, dry: bool, count: int, server: peers.Server, top: Path) -> Cost:
    source, there = top / f"source-{count}", top / "served" / "tree"
    back = top / "back"
    up = (f"{source}/", f"{server.auth}:{there}")
    places = up if direction == "up" else (f"{server.auth}:{source}", str(back))
    more = ["--dry-run"] if dry else []
    argv = [peers.program("uftp"), "cp", "-q", "-r", *more, "--ca", server.ca, "-u", peers.USER, *places]
    try:
        return run(argv, server.pid, env={"UFTP_PASSWORD": peers.PASSWORD})
    finally:
        for directory in (there, back):
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()

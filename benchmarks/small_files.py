"""Many small files, files a second: in MODE U, encrypted and not, and with a round trip or more a file as in MODE S.

    python -m benchmarks.small_files [--count 10000] [--size 4096]

Trees are copied by `uftp cp -r` between our own client and server. The time is that of the whole command, login and
all; the processor time a file shows what each side is worth on a machine of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import CommandFailed, Cost, machine, median, print_table, run

MODES: dict[str, tuple[str, ...]] = {
    "MODE U": (),
    "MODE U, one session": ("-t", "1"),
    "MODE U -E, one session": ("-t", "1", "-E"),
    "MODE U -C, one session": ("-t", "1", "-C"),
    "MODE S, one session": ("-t", "1", "--mode", "stream"),
}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_files", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="files (10000)")
    parser.add_argument("--size", type=int, default=4096, metavar="BYTES", help="of each file (4096)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; medians are shown (3)")
    parser.add_argument("--directory", default="/dev/shm", help="where the files are (/dev/shm)")
    parser.add_argument("--account", help="as root: the account our sessions run as")
    options = parser.parse_args()
    peers.compile_ours()
    user = peers.account(options.account)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as name:
        top = Path(name)
        top.chmod(0o755)
        source, served = top / "source", top / "served"
        source.mkdir()
        served.mkdir()
        if os.geteuid() == 0:
            os.chown(served, user.pw_uid, user.pw_gid)
        for number in range(options.count):
            (source / f"file-{number:06}").write_bytes(os.urandom(options.size))
        print(f"{machine()}; {options.count} files of {options.size} bytes, {options.repeat} rounds")
        found: dict[tuple[str, str], list[Cost]] = {}
        with peers.standalone(top, user) as server:
            for _ in range(options.repeat):
                for mode, arguments in MODES.items():
                    _copy(found, mode, arguments, server, source, served, top / "back")
    _report(found, options.count)


def _copy(
    found: dict[tuple[str, str], list[Cost]],
    mode: str,
    arguments: tuple[str, ...],
    server: peers.Server,
    source: Path,
    served: Path,
    back: Path,
) -> None:
    there = f"{server.auth}:{served}/tree"
    steps = {"up": (f"{source}/", there), "down": (there, str(back))}
    try:
        for direction, places in steps.items():
            argv = [peers.program("uftp"), "cp", "-q", "-r", "--ca", server.ca, "-u", peers.USER, *arguments, *places]
            cost = run(argv, server.pid, env={"UFTP_PASSWORD": peers.PASSWORD})
            found.setdefault((mode, direction), []).append(cost)
    except CommandFailed as failure:
        print(f"{mode}: {failure}", file=sys.stderr)
    finally:
        for directory in (served / "tree", back):
            shutil.rmtree(directory, ignore_errors=True)


def _report(found: dict[tuple[str, str], list[Cost]], count: int) -> None:
    rows = []
    for (mode, direction), costs in sorted(found.items(), key=lambda item: item[0][1]):
        rows.append(
            (
                mode,
                direction,
                f"{count / median(cost.wall for cost in costs):.0f}",
                f"{median(cost.client_cpu for cost in costs) / count * 1e6:.0f}",
                f"{median(cost.server_cpu for cost in costs) / count * 1e6:.0f}",
            )
        )
    print_table(("how", "direction", "files/s", "client CPU us", "server CPU us"), rows)


if __name__ == "__main__":
    main()

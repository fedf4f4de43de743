"""Many small files, files a second: ours with and without verification and encryption, beside peers, in one run.

    python -m benchmarks.small_files [--count 10000] [--size 4096] [--quick]

Trees are copied both ways with times and modes kept, each peer by its own means: `uftp cp -r -p`, rsync's daemon with
-a, lftp's mirror with 8 connections to vsftpd, and tar to tar through a socket. The time is that of the whole command,
login and all; "moving" is without what the same command takes for a tree of one file. The processor time a file shows
what each side is worth on a machine of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import CommandFailed, Cost, machine, median, print_table, run

_OURS: dict[str, tuple[str, ...]] = {
    "uftp": (),
    "uftp -t 1": ("-t", "1"),
    "uftp -t 1 --no-verify": ("-t", "1", "--no-verify"),
    "uftp -t 1 -E": ("-t", "1", "-E"),
}
_SLOW: dict[str, tuple[str, ...]] = {
    "uftp -t 1 -C": ("-t", "1", "-C"),
    "uftp -t 1 --mode stream": ("-t", "1", "--mode", "stream"),
}
_REFERENCE = "rsync -a, rsync daemon"


@dataclass(frozen=True)
class Way:
    """One client with its server.

    Attributes:
        commands: of the source tree here, the name it gets on the server, and where it comes back: the command up and
            the one down.
        server: process id to count, 0 for none.
        env: variables for the client.
    """

    commands: Callable[[Path, str, Path], tuple[list[str], list[str]]]
    server: int
    env: Mapping[str, str]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_files", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="files (10000)")
    parser.add_argument("--size", type=int, default=4096, metavar="BYTES", help="of each file (4096)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; medians are shown (3)")
    parser.add_argument("--directory", default="/dev/shm", help="where the files are (/dev/shm)")
    parser.add_argument("--account", help="as root: the account our sessions run as")
    parser.add_argument("--quick", action="store_true", help="one round, without what is slow: under a minute")
    parser.add_argument("--only", action="append", metavar="NAME", help="this row of the table; may be repeated")
    parser.add_argument("--slow", action="store_true", help="compression and MODE S, too")
    options = parser.parse_args()
    repeat = 1 if options.quick else options.repeat
    peers.compile_ours()
    user = peers.account(options.account)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as name, contextlib.ExitStack() as stack:
        top = Path(name)
        top.chmod(0o755)
        served = top / "served"
        served.mkdir()
        if os.geteuid() == 0:
            os.chown(served, user.pw_uid, user.pw_gid)
        sources = {count: _tree(top / f"source-{count}", count, options.size) for count in (1, options.count)}
        print(f"{machine()}; {options.count} files of {options.size} bytes, {repeat} rounds")
        ways = _ways(stack, top, served, user, options.only, slow=options.slow, quick=options.quick)
        found: dict[tuple[str, str, int], list[Cost]] = {}
        for _ in range(repeat):
            for which, way in ways.items():
                for count, source in sources.items():
                    _copy(found, which, way, count, source, served, top / "back")
    _report(found, options.count)


def _tree(path: Path, count: int, size: int) -> Path:
    path.mkdir()
    for number in range(count):
        (path / f"file-{number:06}").write_bytes(os.urandom(size))
    return path


def _ways(
    stack: contextlib.ExitStack,
    top: Path,
    served: Path,
    user: pwd.struct_passwd,
    only: list[str] | None,
    *,
    slow: bool,
    quick: bool,
) -> dict[str, Way]:
    ways: dict[str, Way] = {}
    ours = stack.enter_context(peers.standalone(top, user))
    for name, arguments in ({**_OURS, **_SLOW} if slow else _OURS).items():
        if only is None or name in only:
            ways[name] = Way(_uftp(ours, served, arguments), ours.pid, {"UFTP_PASSWORD": peers.PASSWORD})
    for name, make in (
        (_REFERENCE, _rsync),
        *(() if quick else (("lftp mirror -P 8, vsftpd", _lftp),)),
        ("tar to tar", _tar),
    ):
        if only is not None and name not in only:
            continue
        try:
            ways[name] = stack.enter_context(make(top, served))
        except peers.Missing as missing:
            print(f"{name}: left out: {missing}", file=sys.stderr)
    return ways


def _uftp(
    server: peers.Server, served: Path, arguments: tuple[str, ...]
) -> Callable[[Path, str, Path], tuple[list[str], list[str]]]:
    common = [peers.program("uftp"), "cp", "-q", "-r", "-p", "--ca", server.ca, "-u", peers.USER, *arguments]

    def commands(source: Path, name: str, back: Path) -> tuple[list[str], list[str]]:
        there = f"{server.auth}:{served}/{name}"
        return [*common, f"{source}/", there], [*common, there, str(back)]

    return commands


@contextlib.contextmanager
def _rsync(top: Path, served: Path) -> Iterator[Way]:
    with peers.rsyncd(served, top) as server:

        def commands(source: Path, name: str, back: Path) -> tuple[list[str], list[str]]:
            there = f"rsync://127.0.0.1:{server.port}/files/{name}/"
            rsync = [peers.program("rsync"), "-a", "--whole-file"]
            return [*rsync, f"{source}/", there], [*rsync, there, str(back)]

        yield Way(commands, server.pid, {})


@contextlib.contextmanager
def _lftp(top: Path, served: Path) -> Iterator[Way]:
    program = peers.program("lftp")
    (served / "up").mkdir(exist_ok=True)
    (served / "up").chmod(0o777)
    with peers.vsftpd(served, top) as server:

        def commands(source: Path, name: str, back: Path) -> tuple[list[str], list[str]]:
            lftp = f"set cmd:fail-exit yes; open -u anonymous,x ftp://127.0.0.1:{server.port}; "
            up = f"{lftp} mirror -R -P 8 {source} /up/{name}"
            return [program, "-c", up], [program, "-c", f"{lftp} mirror -P 8 /up/{name} {back}"]

        yield Way(commands, server.pid, {})


@contextlib.contextmanager
def _tar(top: Path, served: Path) -> Iterator[Way]:
    """One pipeline stands for both programs: what goes through a socket, without a name or a right asked for."""
    tar = peers.program("tar")

    def line(source: Path, target: Path) -> list[str]:
        script = (
            "import socket, subprocess, sys\n"
            "a, b = socket.socketpair()\n"
            f"one = subprocess.Popen([{tar!r}, '-cf', '-', '-C', sys.argv[1], '.'], stdout=a)\n"
            f"two = subprocess.Popen([{tar!r}, '-xpf', '-', '-C', sys.argv[2]], stdin=b)\n"
            "a.close(), b.close()\n"
            "sys.exit(one.wait() or two.wait())"
        )
        make = f"import os, sys; os.makedirs(sys.argv[2], exist_ok=True)\n{script}"
        return [sys.executable, "-S", "-c", make, str(source), str(target)]

    def commands(source: Path, name: str, back: Path) -> tuple[list[str], list[str]]:
        return line(source, served / name), line(served / name, back)

    yield Way(commands, 0, {})


def _copy(
    found: dict[tuple[str, str, int], list[Cost]],
    which: str,
    way: Way,
    count: int,
    source: Path,
    served: Path,
    back: Path,
) -> None:
    steps = dict(zip(("up", "down"), way.commands(source, "tree", back), strict=True))
    try:
        for direction, argv in steps.items():
            cost = run(argv, way.server or None, env=way.env)
            found.setdefault((which, direction, count), []).append(cost)
        if len(os.listdir(back)) != count:
            raise CommandFailed(f"{len(os.listdir(back))} of {count} files came back")
    except CommandFailed as failure:
        print(f"{which}: {failure}", file=sys.stderr)
    finally:
        for directory in (served / "tree", served / "up" / "tree", back):
            shutil.rmtree(directory, ignore_errors=True)


def _report(found: dict[tuple[str, str, int], list[Cost]], count: int) -> None:
    rates: dict[tuple[str, str], float] = {}
    rows = []
    for (which, direction, files), costs in sorted(found.items(), key=lambda item: item[0][1]):
        if files != count:
            continue
        one = found.get((which, direction, 1), costs)
        wall = median(cost.wall for cost in costs)
        start = median(cost.wall for cost in one)
        rates[which, direction] = count / wall
        reference = rates.get((_REFERENCE, direction)) or _rate(found, _REFERENCE, direction, count)
        rows.append(
            (
                which,
                direction,
                f"{count / wall:.0f}",
                f"{count / wall / reference:.2f}" if reference else "-",
                f"{start:.2f}",
                f"{count / (wall - start):.0f}" if wall > start else "-",
                f"{_a_file(costs, one, count, lambda cost: cost.client_cpu):.0f}",
                f"{_a_file(costs, one, count, lambda cost: cost.server_cpu):.0f}",
            )
        )
    print_table(
        ("how", "direction", "files/s", "ratio", "one file s", "moving files/s", "client CPU us", "server CPU us"), rows
    )


def _rate(found: dict[tuple[str, str, int], list[Cost]], which: str, direction: str, count: int) -> float:
    costs = found.get((which, direction, count))
    return count / median(cost.wall for cost in costs) if costs else 0.0


def _a_file(costs: list[Cost], one: list[Cost], count: int, of: Callable[[Cost], float]) -> float:
    """Microseconds a file, without what a command costs anyway."""
    return max(0.0, median(map(of, costs)) - median(map(of, one))) / count * 1e6


if __name__ == "__main__":
    main()

"""One large file down and up through several clients and servers, interleaved, medians and ratios.

    python -m benchmarks.throughput [--size 1024] [--repeat 7] [--only NAME]...

Every subject moves the same bytes on loopback between the same directories. Beside the time of the whole command
stands the rate without start-up: the median time of the same command for a file of one byte is taken off, since an
interpreter, a TLS handshake and a password hash cost the same for a byte and for a terabyte.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import CommandFailed, Cost, machine, median, print_table, run
from benchmarks.peers import PASSWORD, USER, Missing, Server

MIB = 1024 * 1024
REFERENCE = "curl, vsftpd"
DIRECTIONS = {
    "null": "down to /dev/null",
    "down": "down to a file",
    "up": "up from a file",
}


@dataclass(frozen=True)
class Place:
    """Where the files are: `served` is what servers show, `local` is the client's."""

    served: Path
    local: Path

    def source(self, direction: str, name: str) -> Path:
        """What is sent."""
        return (self.local if direction == "up" else self.served) / name

    def target(self, direction: str) -> Path:
        """Where it goes."""
        if direction == "null":
            return Path("/dev/null")
        return (self.served / "up" if direction == "up" else self.local) / "target"


Command = Callable[[str, str], list[str]]
"""The command line for a direction and the name of the file to send."""


@dataclass
class Subject:
    """A client with a server."""

    name: str
    server: Server
    command: Command
    env: dict[str, str] = field(default_factory=dict)
    directions: tuple[str, ...] = ("null", "down", "up")
    costs: dict[tuple[str, str], list[Cost]] = field(default_factory=dict)

    def measure(self, direction: str, file: str, place: Place) -> None:
        """Run once, check that all has arrived, and remember what it cost."""
        target = place.target(direction)
        argv = self.command(direction, file)
        cost = run(argv, self.server.pid, env=self.env)
        if direction != "null":
            expected, found = place.source(direction, file).stat().st_size, target.stat().st_size
            if found != expected:
                raise CommandFailed(f"{self.name}: {found} of {expected} bytes arrived")
            target.unlink()
        self.costs.setdefault((direction, file), []).append(cost)


def _bare(place: Place, server: Server) -> Command:
    def command(direction: str, file: str) -> list[str]:
        verb = "put" if direction == "up" else "get"
        source, target = place.source(direction, file), place.target(direction)
        return [sys.executable, "-m", "benchmarks.bare", verb, str(server.port), str(source), str(target)]

    return command


def curl(place: Place, direction: str, file: str, base: str) -> list[str]:
    """curl between `base` and the client's files."""
    argv = [peers.program("curl"), "--silent", "--show-error", "--fail"]
    if direction == "up":
        return [*argv, "-T", str(place.source(direction, file)), f"{base}/up/target"]
    return [*argv, "-o", str(place.target(direction)), f"{base}/{file}"]


def _curl_anonymous(place: Place, server: Server) -> Command:
    return lambda direction, file: curl(place, direction, file, f"ftp://127.0.0.1:{server.port}")


def _curl_with_ours(place: Place, server: Server) -> Command:
    def command(direction: str, file: str) -> list[str]:
        secret = peers.one_time_password(server, f"{place.served}/")
        return curl(place, direction, file, f"ftp://anonymous:{secret}@127.0.0.1:{server.port}")

    return command


def uftp_client(place: Place, server: Server, argv: list[str]) -> Command:
    """`uftp cp` or `pyuftp cp`: `argv` with source and target behind."""

    def command(direction: str, file: str) -> list[str]:
        source, target = str(place.source(direction, file)), str(place.target(direction))
        remote = f"{server.auth}:"
        return [*argv, source, remote + target] if direction == "up" else [*argv, remote + source, target]

    return command


def with_ca(command: Command, server: Server) -> Command:
    """Our client checks the certificate; pyuftp never does."""
    return lambda direction, file: [*command(direction, file), "--ca", server.ca]


@contextlib.contextmanager
def _subjects(place: Place, scratch: Path, user: pwd.struct_passwd, only: list[str]) -> Iterator[list[Subject]]:
    """All subjects this machine has; the others are named on a line each."""
    with contextlib.ExitStack() as stack:
        found: list[Subject] = []
        servers: dict[str, Server | Missing] = {}

        def add(name: str, server: str, start: Callable[[], contextlib.AbstractContextManager[Server]],
                command: Callable[[Server], Command], **env: str) -> None:  # fmt: skip
            if only and not any(word in name for word in (*only, REFERENCE)):
                return
            try:
                if server not in servers:
                    try:
                        servers[server] = stack.enter_context(start())
                    except Missing as missing:
                        servers[server] = missing
                running = servers[server]
                if isinstance(running, Missing):
                    raise running
                found.append(Subject(name, running, command(running), env))
            except Missing as missing:
                print(f"left out: {name}: {missing}", file=sys.stderr)

        def ours() -> contextlib.AbstractContextManager[Server]:
            return peers.standalone(scratch, user)

        def with_ours(*argv: str) -> Callable[[Server], Command]:
            return lambda server: uftp_client(place, server, [peers.program(argv[0]), *argv[1:], "-u",
                                                               f"{USER}:{PASSWORD}"])  # fmt: skip

        add("bare sendfile loop", "bare", peers.bare, lambda server: _bare(place, server))
        add(REFERENCE, "vsftpd", lambda: peers.vsftpd(place.served, scratch), lambda s: _curl_anonymous(place, s))
        add("uftp, uftpd", "uftpd", ours, lambda server: with_ca(with_ours("uftp", "cp")(server), server))
        add("uftp -t 1, uftpd", "uftpd", ours,
            lambda server: with_ca(with_ours("uftp", "cp", "-t", "1")(server), server))  # fmt: skip
        add("pyuftp, uftpd", "uftpd", ours, with_ours("pyuftp", "cp"))
        add("curl, uftpd", "uftpd", ours, lambda server: _curl_with_ours(place, server))
        add("curl, pyftpdlib", "pyftpdlib", lambda: peers.pyftpdlib(place.served), lambda s: _curl_anonymous(place, s))
        yield found


def measure(subjects: list[Subject], place: Place, repeat: int) -> None:
    """Run every subject in every direction it knows, `repeat` times, in turns."""
    broken: set[tuple[str, str]] = set()
    for turn in range(-1, repeat):  # the first round warms caches up and does not count
        for direction in DIRECTIONS:
            for subject in subjects:
                if (subject.name, direction) in broken or direction not in subject.directions:
                    continue
                try:
                    for file in ("byte", "large"):
                        subject.measure(direction, file, place)
                except CommandFailed as failure:
                    broken.add((subject.name, direction))
                    print(f"left out: {subject.name}, {DIRECTIONS[direction]}: {failure}", file=sys.stderr)
                    for file in ("byte", "large"):
                        subject.costs.pop((direction, file), None)
                    place.target(direction).unlink(missing_ok=True) if direction != "null" else None
        if turn < 0:
            for subject in subjects:
                subject.costs.clear()
        print(f"round {turn + 1} of {repeat}", file=sys.stderr)


@dataclass(frozen=True)
class _Row:
    whole: float  # MiB a second of the whole command
    best: float  # the same, of the fastest run
    start: float  # seconds
    moving: float  # MiB a second without start-up
    client_cpu: float  # seconds a GiB, without start-up
    server_cpu: float


def _row(subject: Subject, direction: str, size: int) -> _Row | None:
    large, byte = (subject.costs.get((direction, file), []) for file in ("large", "byte"))
    if not large:
        return None
    wall, start = median(c.wall for c in large), median(c.wall for c in byte)

    def cpu(side: Callable[[Cost], float]) -> float:
        return max(0.0, median(map(side, large)) - median(map(side, byte))) / (size / 1024 / MIB)

    return _Row(size / MIB / wall, size / MIB / min(c.wall for c in large), start, size / MIB / max(wall - start, 1e-9),
                cpu(lambda c: c.client_cpu), cpu(lambda c: c.server_cpu))  # fmt: skip


def report(subjects: list[Subject], size: int, reference_name: str = REFERENCE) -> None:
    """Print a table a direction, ratios to the subject of that name."""
    head = ("client, server", "MiB/s", "ratio", "best", "start-up s", "MiB/s moving", "ratio", "client CPU s/GiB",
            "server CPU s/GiB")  # fmt: skip
    for direction, title in DIRECTIONS.items():
        rows = {subject.name: _row(subject, direction, size) for subject in subjects}
        reference = rows.get(reference_name)
        if not any(rows.values()):
            continue
        print(f"\n{title}")
        print_table(
            head,
            [
                (
                    name,
                    f"{row.whole:.0f}",
                    f"{row.whole / reference.whole:.2f}" if reference else "-",
                    f"{row.best:.0f}",
                    f"{row.start:.3f}",
                    f"{row.moving:.0f}",
                    f"{row.moving / reference.moving:.2f}" if reference else "-",
                    f"{row.client_cpu:.2f}",
                    f"{row.server_cpu:.2f}",
                )
                for name, row in rows.items()
                if row
            ],
        )
    print(f"\nratio: to {reference_name}, of the column before")


def directory_for(size: int) -> str:
    """Memory if there is room for the copies at work, and it is ours to use; else the usual place for such files."""
    shm = "/dev/shm"
    usable = os.path.isdir(shm) and os.access(shm, os.W_OK | os.X_OK)
    return shm if usable and shutil.disk_usage(shm).free > 5 * size else tempfile.gettempdir()


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="size of the file (1024)")
    parser.add_argument("--repeat", type=int, default=7, metavar="N", help="rounds that count (7)")
    parser.add_argument("--directory", help="where the files are; memory, if there is room")
    parser.add_argument("--account", help="as root: the account our sessions run as")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="subjects with this in their name")
    options = parser.parse_args()
    size = options.size * MIB
    directory = options.directory or directory_for(size)
    user = peers.account(options.account)
    peers.compile_ours()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as top:
        os.chmod(top, 0o755)
        place = Place(Path(top) / "served", Path(top) / "local")
        for path in (place.served, place.local, place.served / "up"):
            path.mkdir()
        (place.served / "up").chmod(0o1777)  # every server writes as another user
        for where in (place.served, place.local):
            (where / "byte").write_bytes(b"x")
            with (where / "large").open("wb") as file:
                for _ in range(options.size):
                    file.write(os.urandom(MIB))
        print(f"{machine()}; files in {directory}; {options.size} MiB, median of {options.repeat}")
        scratch = Path(top) / "scratch"
        scratch.mkdir()
        with _subjects(place, scratch, user, options.only) as subjects:
            measure(subjects, place, options.repeat)
            report(subjects, size)


if __name__ == "__main__":
    main()

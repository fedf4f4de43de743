"""Encrypted, compressed and multi-stream transfers of one large file, beside peers that do the same.

    python -m benchmarks.modes [encrypted|compressible|incompressible|streams]... [--size 1024] [--repeat 5]

As `benchmarks.throughput`, which explains the columns. The reference is our own plain transfer in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import random
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import machine
from benchmarks.peers import PASSWORD, USER, Missing, Server
from benchmarks.throughput import (
    MIB,
    Command,
    Place,
    Subject,
    curl,
    directory_for,
    measure,
    report,
    uftp_client,
    with_ca,
)

PLAIN = "uftp"
ALL = ("null", "down", "up")
DOWN = ("null", "down")
Start = Callable[[], contextlib.AbstractContextManager[Server]]


class Table:
    """The subjects of one run; each server is started once, when somebody needs it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.subjects: list[Subject] = []
        self._stack = stack
        self._servers: dict[str, Server | Missing] = {}

    def add(
        self,
        name: str,
        server: str,
        start: Start,
        command: Callable[[Server], Command],
        directions: tuple[str, ...] = ALL,
        **env: str,
    ) -> None:
        """Add a subject, or say on a line why it is left out."""
        try:
            if server not in self._servers:
                try:
                    self._servers[server] = self._stack.enter_context(start())
                except Missing as missing:
                    self._servers[server] = missing
            running = self._servers[server]
            if isinstance(running, Missing):
                raise running
            self.subjects.append(Subject(name, running, command(running), env, directions))
        except Missing as missing:
            print(f"left out: {name}: {missing}", file=sys.stderr)


@contextlib.contextmanager
def _subjects(group: str, place: Place, scratch: Path, user: pwd.struct_passwd) -> Iterator[list[Subject]]:
    with contextlib.ExitStack() as stack:
        table = Table(stack)

        def ours() -> contextlib.AbstractContextManager[Server]:
            return peers.standalone(scratch, user)

        def uftp(*options: str) -> Callable[[Server], Command]:
            argv = [peers.program("uftp"), "cp", *options, "-u", f"{USER}:{PASSWORD}"]
            return lambda server: with_ca(uftp_client(place, server, argv), server)

        def pyuftp(*options: str) -> Callable[[Server], Command]:
            argv = [peers.program("pyuftp"), "cp", *options, "-u", f"{USER}:{PASSWORD}"]
            return lambda server: uftp_client(place, server, argv)

        table.add(PLAIN, "uftpd", ours, uftp())
        if group == "encrypted":
            table.add("uftp -t 1", "uftpd", ours, uftp("-t", "1"))
            table.add("uftp -E", "uftpd", ours, uftp("-E"))
            table.add("uftp -E -t 1", "uftpd", ours, uftp("-E", "-t", "1"))
            table.add("uftp -E -t 4", "uftpd", ours, uftp("-E", "-t", "4"))
            table.add("curl, nginx TLS 1.3", "nginx", lambda: peers.nginx(place.served, scratch), _nginx(place), DOWN)
            tls = lambda: peers.vsftpd_with_tls(place.served, scratch)  # noqa: E731 - as the others
            table.add("curl, vsftpd TLS", "vsftpd", tls, _ftps(place))
            # Its downloads over one encrypted stream are written as they came, not decrypted.
            table.add("pyuftp -E -n 2 (AES)", "uftpd", ours, pyuftp("-E", "-n", "2"),
                      UFTP_ENCRYPTION_ALGORITHM="AES")  # fmt: skip
        elif group == "compressible":
            table.add("uftp -C", "uftpd", ours, uftp("-C"))
            table.add("uftp -C -t 1", "uftpd", ours, uftp("-C", "-t", "1"))
            table.add("uftp -C -t 4", "uftpd", ours, uftp("-C", "-t", "4"))
            table.add("zstd -1 -T2 through a socket", "nothing", peers.bare, _zstd_pipe(place))
            table.add("rsync -z", "rsync", lambda: peers.rsyncd(place.served, scratch), _rsync(place), ("down", "up"))
            table.add("pyuftp -C", "uftpd", ours, pyuftp("-C"))
        elif group == "incompressible":
            table.add("uftp -t 1", "uftpd", ours, uftp("-t", "1"))
            table.add("uftp -C", "uftpd", ours, uftp("-C"))
            table.add("uftp -C -t 1", "uftpd", ours, uftp("-C", "-t", "1"))
            table.add("uftp -C -t 4", "uftpd", ours, uftp("-C", "-t", "4"))
        elif group == "streams":
            legacy = ("--mode", "stream")
            table.add("uftp -t 1", "uftpd", ours, uftp("-t", "1"))
            table.add("uftp -t 1 -n 4, framed", "uftpd", ours, uftp(*legacy, "-t", "1", "-n", "4"))
            table.add("pyuftp -n 4", "uftpd", ours, pyuftp("-n", "4"))
        yield table.subjects


def _nginx(place: Place) -> Callable[[Server], Command]:
    def command(server: Server) -> Command:
        def argv(direction: str, file: str) -> list[str]:
            return [*curl(place, direction, file, f"https://127.0.0.1:{server.port}"), "--insecure"]

        return argv

    return command


def _ftps(place: Place) -> Callable[[Server], Command]:
    def command(server: Server) -> Command:
        def argv(direction: str, file: str) -> list[str]:
            words = curl(place, direction, file, f"ftp://127.0.0.1:{server.port}")
            return [*words, "--insecure", "--ssl-reqd"]

        return argv

    return command


def _rsync(place: Place) -> Callable[[Server], Command]:
    def command(server: Server) -> Command:
        def argv(direction: str, file: str) -> list[str]:
            base = f"rsync://127.0.0.1:{server.port}/files"
            source, target = str(place.source(direction, file)), str(place.target(direction))
            if direction == "up":
                return [peers.program("rsync"), "-z", "--whole-file", source, f"{base}/up/target"]
            return [peers.program("rsync"), "-z", "--whole-file", f"{base}/{file}", target]

        return argv

    return command


def _zstd_pipe(place: Place) -> Callable[[Server], Command]:
    zstd = shlex.quote(peers.program("zstd"))

    def command(server: Server) -> Command:
        def argv(direction: str, file: str) -> list[str]:
            source = shlex.quote(str(place.source(direction, file)))
            target = shlex.quote(str(place.target(direction)))
            relay = f"{shlex.quote(sys.executable)} -m benchmarks.socket_pipe"
            return ["sh", "-c", f"{zstd} -1 -T2 -q -c {source} | {relay} | {zstd} -d -q -c > {target}"]

        return argv

    return command


def _fill(path: Path, size: int, *, compressible: bool) -> None:
    """A file of `size` bytes: noise, or measurements as text, of which zstd -1 makes about a third."""
    with path.open("wb") as file:
        if not compressible:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
            return
        dice = random.Random(1)  # the same text in every run
        lines: list[bytes] = []
        value = 20.0
        for number in range(200_000):
            value += dice.gauss(0, 0.05)
            station, ratio = dice.randrange(40), dice.random()
            lines.append(f"{number:09d},station-{station:02d},{value:.3f},{ratio:.4f},OK\n".encode())
        block = b"".join(lines)
        written = 0
        while written < size:
            # Another tenth of it each time, so that no window holds a whole repetition.
            start = dice.randrange(len(block) // 10)
            piece = block[start : start + min(size - written, len(block) // 2)]
            file.write(piece)
            written += len(piece)


def main() -> None:
    """Measure, and print the tables."""
    groups = ("encrypted", "compressible", "incompressible", "streams")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.modes", description=__doc__.partition("\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(groups)}; all")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="size of the file (1024)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds that count (5)")
    parser.add_argument("--account", help="as root: the account our sessions run as")
    options = parser.parse_args()
    unknown = set(options.groups) - set(groups)
    if unknown:
        parser.error(f"unknown group: {', '.join(sorted(unknown))}")
    size = options.size * MIB
    user = peers.account(options.account)
    peers.compile_ours()
    for group in options.groups or groups:
        directory = directory_for(size)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as top:
            os.chmod(top, 0o755)
            place = Place(Path(top) / "served", Path(top) / "local")
            for path in (place.served, place.local, place.served / "up"):
                path.mkdir()
            (place.served / "up").chmod(0o1777)
            for where in (place.served, place.local):
                (where / "byte").write_bytes(b"x")
                _fill(where / "large", size, compressible=group == "compressible")
            print(f"\n== {group}: {machine()}; files in {directory}; {options.size} MiB, median of {options.repeat}")
            scratch = Path(top) / "scratch"
            scratch.mkdir()
            with _subjects(group, place, scratch, user) as subjects:
                measure(subjects, place, options.repeat)
                report(subjects, size, PLAIN)


if __name__ == "__main__":
    main()

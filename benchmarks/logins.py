"""Logins a second, one after the other and many at once, as plain socket dialogues.

    python -m benchmarks.logins [--count 500] [--at-once 32] [--one-time]

A dialogue is: connect, 220, USER, 331, PASS, 230, QUIT, 221. Latency is from connect to 230. Each of the clients that
run at once is a process of its own that does nothing but these system calls; what they cost is printed, so that one
sees whether the clients or the server were the limit. Our data node gets one persistent secret, or with --one-time a
fresh secret for each login, all announced beforehand on the command port.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import resource
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import machine, percentile, print_table, tree_cpu
from benchmarks.peers import Missing, Server


class LoginFailed(Exception):
    """A server answered something else than it should."""


@dataclass(frozen=True)
class Subject:
    """A server, and the secrets for a number of logins."""

    name: str
    server: Server
    secrets: Callable[[int], Sequence[str]]


@dataclass(frozen=True)
class Result:
    """What many logins took, in seconds."""

    wall: float
    latencies: list[float]
    client_cpu: float
    server_cpu: float


def _expect(connection: socket.socket, code: bytes) -> None:
    line = connection.recv(4096)
    while not line.endswith(b"\n"):
        more = connection.recv(4096)
        if not more:
            break
        line += more
    if not line.startswith(code):
        raise LoginFailed(f"{code.decode()} was due, this came: {line!r}")


def _dialogue(port: int, secret: bytes) -> float:
    """One login and logout; the seconds from connect to 230."""
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _expect(connection, b"220 ")
        connection.sendall(b"USER anonymous\r\n")
        _expect(connection, b"331 ")
        connection.sendall(b"PASS " + secret + b"\r\n")
        _expect(connection, b"230 ")
        took = time.perf_counter() - start
        connection.sendall(b"QUIT\r\n")
        _expect(connection, b"221 ")
    return took


def _client(port: int, words: Sequence[str]) -> tuple[list[float], str]:
    latencies: list[float] = []
    try:
        latencies.extend(_dialogue(port, word.encode()) for word in words)
    except (LoginFailed, OSError) as error:
        return latencies, str(error)
    return latencies, ""


def _log_in(subject: Subject, count: int, at_once: int) -> Result:
    """Run `at_once` client processes, which share `count` logins."""
    words = subject.secrets(count)
    server_before, cpu_before = tree_cpu(subject.server.pid), _children_cpu()
    start_read, start_write = os.pipe()
    readers = []
    for number in range(at_once):
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(start_write)
            os.read(start_read, 1)  # all start together, when this pipe closes
            with open(write, "wb") as out:
                pickle.dump(_client(subject.server.port, words[number::at_once]), out)
            os._exit(0)
        os.close(write)
        readers.append(read)
    os.close(start_read)
    start = time.perf_counter()
    os.close(start_write)
    latencies: list[float] = []
    failures = []
    for read in readers:
        with open(read, "rb") as answer:
            found, failure = pickle.load(answer)
        latencies += found
        failures += [failure] if failure else []
    wall = time.perf_counter() - start
    for _ in readers:
        os.wait()
    if failures:
        raise LoginFailed(f"{len(failures)} clients failed; the first: {failures[0]}")
    return Result(wall, latencies, _children_cpu() - cpu_before, tree_cpu(subject.server.pid) - server_before)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def _subjects(scratch: Path, served: Path, account: str | None, one_time: bool, most: int) -> Iterator[list[Subject]]:
    with contextlib.ExitStack() as stack:
        found: list[Subject] = []
        try:
            user = peers.account(account).pw_name
            node = stack.enter_context(peers.data_node(scratch, sessions=most + 100))

            def announced(count: int) -> Sequence[str]:
                fresh = [secrets.token_hex(16) for _ in range(count if one_time else 1)]
                for secret in fresh:
                    peers.announce(node, user, secret, persistent=not one_time)
                return fresh if one_time else fresh * count

            found.append(Subject("uftpd", node, announced))
        except Missing as missing:
            print(f"left out: uftpd: {missing}", file=sys.stderr)
        others: dict[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
            "vsftpd": lambda: peers.vsftpd(served, scratch),
            "pyftpdlib": lambda: peers.pyftpdlib(served),
        }
        for name, start in others.items():
            try:
                server = stack.enter_context(start())
            except Missing as missing:
                print(f"left out: {name}: {missing}", file=sys.stderr)
            else:
                found.append(Subject(name, server, lambda count: ["someone@example.org"] * count))
        yield found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.logins", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=500, metavar="N", help="logins a run (500)")
    parser.add_argument("--at-once", type=int, default=32, metavar="N", help="clients of the second run (32)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; the latencies of all count (3)")
    parser.add_argument("--one-time", action="store_true", help="a secret for each login, not a persistent one")
    parser.add_argument("--account", help="as root: the account our sessions run as")
    options = parser.parse_args()
    peers.compile_ours()
    with tempfile.TemporaryDirectory(prefix="bench-") as top:
        os.chmod(top, 0o755)
        served = Path(top) / "served"
        served.mkdir()
        print(f"{machine()}; {options.count} logins a run, {options.repeat} rounds")
        with _subjects(Path(top), served, options.account, options.one_time, options.count) as subjects:
            results: dict[tuple[str, int], list[Result]] = {}
            for _ in range(options.repeat):
                for at_once in (1, options.at_once):
                    for subject in subjects:
                        try:
                            result = _log_in(subject, options.count, at_once)
                        except LoginFailed as failure:
                            print(f"{subject.name}, {at_once} at once: {failure}", file=sys.stderr)
                        else:
                            results.setdefault((subject.name, at_once), []).append(result)
            _report(results, options.count)


def _report(results: dict[tuple[str, int], list[Result]], count: int) -> None:
    rows = []
    for (name, at_once), found in sorted(results.items(), key=lambda item: item[0][1]):
        latencies = [latency * 1000 for result in found for latency in result.latencies]
        rates = sorted(count / result.wall for result in found)
        logins = count * len(found)
        rows.append(
            (
                name,
                str(at_once),
                f"{rates[len(rates) // 2]:.0f}",
                f"{percentile(latencies, 50):.1f}",
                f"{percentile(latencies, 99):.1f}",
                f"{max(latencies):.1f}",
                f"{sum(result.client_cpu for result in found) / logins * 1000:.2f}",
                f"{sum(result.server_cpu for result in found) / logins * 1000:.2f}",
            )
        )
    print_table(
        ("server", "at once", "logins/s", "p50 ms", "p99 ms", "max ms", "client CPU ms", "server CPU ms"),
        rows,
    )


if __name__ == "__main__":
    main()

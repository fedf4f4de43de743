"""Copies from node to node beside our client's download of the same files, in one run: one large file, many small ones.

    python -m benchmarks.server_copies [--size MIB] [--count N] [--repeat N] [--quick]

One standalone server with two data nodes, files in memory. "uftp cp" downloads from one node; with RECEIVE-FILE and
SEND-FILE
have the nodes copy the same files between them, and are timed from the command to the first RCP-STATUS that says
FINISHED; "uftp rcp" is that as a person gets it, start and login of the program and waiting included, as "uftp cp" has
them. All verify what they copy, as they do by themselves. After the last round every copy is compared byte by byte.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import filecmp
import json
import os
import shutil
import socket
import ssl
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import CommandFailed, machine, median, print_table, run, tree_cpu
from uftp.protocol.server_copies import CopyWords, format_copy_words, parse_copy_id, parse_copy_status

FROM, TO = "FROM", "TO"
_LOGINS = 16
_POLL_SECONDS = 0.01
_REFERENCE = "uftp cp, download"


class Nodes:
    """The two nodes, asked over HTTPS and FTP.

    Args:
        server: the standalone server.
        served: directory whose files are copied.
    """

    def __init__(self, server: peers.Server, served: Path) -> None:
        self.pid = server.pid
        self.ca = server.ca
        self._auth = server.auth.rpartition("/")[0]
        self._served = served

    def url(self, node: str, path: Path) -> str:
        """Of a file or directory at a node."""
        return f"{self._auth}/{node}:{path}"

    def grant(self, node: str, *, persistent: bool) -> tuple[str, int, str]:
        """Host, port and one-time password of a login."""
        body = json.dumps({"serverPath": f"{self._served}/", "persistent": persistent}).encode()
        login = base64.b64encode(f"{peers.USER}:{peers.PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(f"{self._auth}/{node}", body, headers, method="POST")
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=self.ca)) as reply:
            granted = json.load(reply)
        return granted["serverHost"], int(granted["serverPort"]), granted["secret"]

    def copy(self, verb: str, executing: str, local: Path, other: str, remote: Path, words: CopyWords) -> float:
        """Have one node copy with the other; seconds from the command to the status that says it has finished.

        Raises:
            CommandFailed: it did not.
        """
        there = self.grant(other, persistent=True)
        with _session(*self.grant(executing, persistent=False)) as say:
            say(f"OPTS RCP {format_copy_words(words).decode()}")
            start = time.perf_counter()
            number = parse_copy_id(say(f"{verb} '{local}' '{remote}' '{there[0]}:{there[1]}' '{there[2]}'"))
            while (status := parse_copy_status(say(f"RCP-STATUS {number}")[4:])).word == "RUNNING":
                time.sleep(_POLL_SECONDS)
            seconds = time.perf_counter() - start
        if status.word != "FINISHED" or status.failed:
            raise CommandFailed(f"{verb}: {status}")
        return seconds


@contextlib.contextmanager
def _session(host: str, port: int, secret: str) -> Iterator[Callable[[str], str]]:
    with socket.create_connection((host, port)) as connection, connection.makefile("rwb") as control:

        def say(line: str) -> str:
            control.write(line.encode() + b"\r\n")
            control.flush()
            reply = control.readline().decode()
            if reply[:1] not in ("2", "3"):
                raise CommandFailed(f"{line.partition(' ')[0]}: {reply.strip()}")
            return reply

        control.readline()
        say("USER anonymous")
        say(f"PASS {secret}")
        yield say


@dataclass(frozen=True)
class Way:
    """One way to copy: what does it, from a directory at the one node to one that is not there yet; its seconds."""

    name: str
    copy: Callable[[Path, Path], float]


def _ways(nodes: Nodes, only: list[str] | None) -> list[Way]:
    trees = CopyWords(trees=True, recursive=True, logins=_LOGINS)
    common = ["-q", "-r", "--ca", nodes.ca, "-u", peers.USER]
    env = {"UFTP_PASSWORD": peers.PASSWORD}

    def download(source: Path, target: Path) -> float:
        argv = [peers.program("uftp"), "cp", *common, nodes.url(FROM, source), str(target)]
        return run(argv, None, env=env).wall

    def receive(words: CopyWords) -> Callable[[Path, Path], float]:
        return lambda source, target: nodes.copy("RECEIVE-FILE", TO, target, FROM, source, words)

    def send(source: Path, target: Path) -> float:
        return nodes.copy("SEND-FILE", FROM, source, TO, target, trees)

    def rcp(source: Path, target: Path) -> float:
        argv = [peers.program("uftp"), "rcp", *common, nodes.url(FROM, source), nodes.url(TO, target)]
        return run(argv, None, env=env).wall

    ways = [
        Way(_REFERENCE, download),
        Way("RECEIVE-FILE", receive(trees)),
        Way("RECEIVE-FILE, --no-verify", receive(CopyWords(trees=True, recursive=True, logins=_LOGINS, verify=False))),
        Way("SEND-FILE", send),
        Way("uftp rcp", rcp),
    ]
    return [way for way in ways if not only or way.name in only or way.name == _REFERENCE]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_copies", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=4096, metavar="MIB", help="of the large file (4096)")
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="small files (10000)")
    parser.add_argument("--small", type=int, default=4096, metavar="BYTES", help="of each small file (4096)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; medians are shown (3)")
    parser.add_argument("--directory", default="/dev/shm", help="where the files are (/dev/shm)")
    parser.add_argument("--account", help="as root: the account sessions run as")
    parser.add_argument("--only", action="append", metavar="NAME", help="this row beside the download; repeatable")
    parser.add_argument("--quick", action="store_true", help="one round of 512 MiB and 2000 files")
    options = parser.parse_args()
    if options.quick:
        options.size, options.count, options.repeat = min(options.size, 512), min(options.count, 2000), 1
    peers.compile_ours()
    user = peers.account(options.account)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as name, contextlib.ExitStack() as stack:
        top = Path(name)
        top.chmod(0o755)
        served = top / "served"
        _make_files(served, options.size, options.count, options.small)
        for path in (served, *served.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
        print(
            f"{machine()}; {options.size} MiB in one file, {options.count} files of {options.small} bytes; "
            f"{options.repeat} rounds",
            flush=True,
        )
        server = stack.enter_context(peers.standalone(top, user, ["--node", FROM, "--node", TO]))
        nodes = Nodes(server, served)
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for number in range(options.repeat):
            for what in ("large", "small"):
                for way in _ways(nodes, options.only):
                    _measure(found, nodes, way, served / what, is_last=number == options.repeat - 1)
    _report(found, options.size, options.count)


def _make_files(served: Path, size: int, count: int, small: int) -> None:
    (served / "large").mkdir(parents=True)
    block = os.urandom(2**20)
    with (served / "large" / "file").open("wb") as file:
        for number in range(size):
            file.write(number.to_bytes(8, "big") + block[8:])
    for number in range(count):
        directory = served / "small" / f"sub{number // 1000}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file-{number:06}").write_bytes(os.urandom(small))


def _measure(
    found: dict[tuple[str, str], list[tuple[float, float]]], nodes: Nodes, way: Way, source: Path, *, is_last: bool
) -> None:
    target = source.parent / "copy" if way.name != _REFERENCE else source.parent.parent / "copy"
    before = tree_cpu(nodes.pid)
    seconds = way.copy(source, target)
    cpu = tree_cpu(nodes.pid) - before
    try:
        if is_last:
            _compare(source, target)
    finally:
        shutil.rmtree(target)
    found.setdefault((way.name, source.name), []).append((seconds, cpu))


def _compare(source: Path, target: Path) -> None:
    wanted = {path.relative_to(source) for path in source.rglob("*")}
    there = {path.relative_to(target) for path in target.rglob("*")}
    files = [str(path) for path in wanted if (source / path).is_file()]
    _, differ, strange = filecmp.cmpfiles(source, target, files, shallow=False)
    if wanted != there or differ or strange:
        raise CommandFailed(f"the copy differs: {[*(wanted ^ there), *differ, *strange][:5]}")


def _report(found: dict[tuple[str, str], list[tuple[float, float]]], size: int, count: int) -> None:
    rows = []
    for (name, what), costs in sorted(found.items(), key=lambda item: item[0][1]):
        seconds = median(one for one, _ in costs)
        reference = median(one for one, _ in found[_REFERENCE, what])
        rate = f"{size * 2**20 / seconds / 1e6:.0f} MB/s" if what == "large" else f"{count / seconds:.0f} files/s"
        spread = f"{min(one for one, _ in costs):.2f}-{max(one for one, _ in costs):.2f}"
        cpu = median(one for _, one in costs)
        rows.append((name, what, f"{seconds:.2f}", spread, rate, f"{reference / seconds:.2f}", f"{cpu:.2f}"))
    print_table(("how", "what", "s", "range", "rate", "ratio", "servers' CPU s"), rows)


if __name__ == "__main__":
    main()

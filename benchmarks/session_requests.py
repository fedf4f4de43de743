"""Session requests a second at our auth server, beside what the command port of the data node takes by itself.

    python -m benchmarks.session_requests [--count 600] [--at-once 16] [--store memory|sqlite]

A session request is a POST over HTTPS: who is it, what may they do, have the node expect a secret (a request over TLS
with both certificates), answer with it. Clients are processes of their own, with one kept connection each, or a new one
for each request as pyuftp makes it. They show name and password (verified before and remembered, as for any client that
opens more than one session), or the id of a security session, or both never: the last row asks the node alone.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import ipaddress
import json
import os
import pickle
import secrets
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import trio

from benchmarks import peers
from benchmarks.measure import machine, percentile, print_table, tree_cpu
from uftp.protocol.command_port import TransferRequest
from uftpd.auth.identity.password_file import password_line
from uftpd.auth.nodes.client import CommandPort
from uftpd.config.auth import CommandPortClient, Instance
from uftpd.config.toml import HostPort
from uftpd.pki import Authority

HEADER = "X-UNICORE-SecuritySession"
_HOSTS = ["localhost", "127.0.0.1"]
_DN = "CN=bench,O=benchmark"

NODE = """\
[ftp]
listen = ["127.0.0.1:{ftp}"]
[command_port]
listen = "127.0.0.1:{command}"
certificate = "node.pem"
key = "node.key"
ca = "ca.pem"
acl = "acl"
[limits]
sessions_per_user = 1000000
[users]
lowest_uid = {uid}
"""
AUTH = """\
[server]
listen = ["127.0.0.1:{port}"]
certificate = "auth.pem"
key = "auth.key"
[login]
password_file = "passwords"
[attributes]
map_file = "map.json"
[command_port]
ca = "ca.pem"
[nodes.BENCH]
instances = [{{host = "127.0.0.1", command = "127.0.0.1:{command}"}}]
{store}
"""


@dataclass(frozen=True)
class Site:
    """A running auth server and data node.

    Attributes:
        directory: their files.
        auth, node: roots of their process trees.
        url: of session requests.
        command: the node's command port.
        user: whom sessions would run as.
    """

    directory: Path
    auth: int
    node: int
    url: str
    command: int
    user: str


@dataclass(frozen=True)
class Result:
    """What many requests took, in seconds."""

    wall: float
    latencies: list[float]
    auth_cpu: float
    node_cpu: float


@contextlib.contextmanager
def site(scratch: Path, store: str) -> Iterator[Site]:
    """Both servers, with TLS between them, as a site has them."""
    user = peers.account(None)
    authority_directory = scratch / "private"
    authority_directory.mkdir()
    authority = Authority(authority_directory)
    (scratch / "ca.pem").write_bytes(authority.certificate_path.read_bytes())
    pair = authority.ensure(scratch, "auth", "benchmark auth", _HOSTS)
    authority.ensure(scratch, "node", "benchmark node", _HOSTS)
    (scratch / "acl").write_text(f"{pair.subject}\n")
    (scratch / "passwords").write_text(password_line("bench", "secret", _DN) + "\n")
    (scratch / "map.json").write_text(json.dumps({_DN: {"role": "user", "xlogin": user.pw_name}}))
    ftp, command, port = peers.free_port(), peers.free_port(), peers.free_port()
    kept = '[store]\npath = "store.sqlite"' if store == "sqlite" else ""
    uid = max(1, min(1000, user.pw_uid))
    (scratch / "data.toml").write_text(NODE.format(ftp=ftp, command=command, uid=uid))
    (scratch / "auth.toml").write_text(AUTH.format(port=port, command=command, store=kept))
    uftpd = peers.program("uftpd")
    with (
        peers.serving([uftpd, "data", "--config", str(scratch / "data.toml")], ftp) as node,
        peers.serving([uftpd, "auth", "--config", str(scratch / "auth.toml")], port) as auth,
    ):
        url = f"https://127.0.0.1:{port}/rest/auth/BENCH"
        yield Site(scratch, auth, node, url, command, user.pw_name)


def _login() -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(b"bench:secret").decode()}


class _Client:
    """Asks for sessions over one connection, or a new one each time."""

    def __init__(self, where: Site, headers: dict[str, str], *, keep: bool) -> None:
        parts = urlsplit(where.url)
        self._host, self._port, self._path = parts.hostname or "", parts.port or 0, parts.path
        self._context = ssl.create_default_context(cafile=where.directory / "ca.pem")
        self._headers = {"Content-Type": "application/json", **headers}
        self._keep = keep
        self._connection: http.client.HTTPSConnection | None = None

    def ask(self) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(self._host, self._port, context=self._context, timeout=60)
        self._connection.request("POST", self._path, b'{"serverPath":"/tmp/"}', self._headers)
        reply = self._connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {body[:200]!r}")
        if not self._keep:
            self._connection.close()
            self._connection = None
        return reply


def _over_https(where: Site, headers: dict[str, str], *, keep: bool) -> Callable[[int], list[float]]:
    def work(count: int) -> list[float]:
        client = _Client(where, headers, keep=keep)
        return [_timed(client.ask) for _ in range(count)]

    return work


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _at_the_node(where: Site) -> Callable[[int], list[float]]:
    """The same requests to the node, by what the auth server uses for it, and nothing else."""

    async def run(count: int) -> list[float]:
        directory = where.directory
        settings = CommandPortClient(ca=directory / "ca.pem")
        port = CommandPort(settings, directory / "auth.pem", directory / "auth.key")
        instance = Instance(host="127.0.0.1", command=HostPort("127.0.0.1", where.command))
        latencies = []
        for _ in range(count):
            request = TransferRequest(
                user=where.user,
                secret=secrets.token_hex(16),
                client_ip=(ipaddress.ip_address("127.0.0.1"),),
                file="/tmp/",
            )
            start = time.perf_counter()
            reply = await port.exchange(instance, request)
            latencies.append(time.perf_counter() - start)
            if not reply.startswith(b"OK"):
                raise RuntimeError(reply.decode())
        return latencies

    return lambda count: trio.run(run, count)


def measure(where: Site, work: Callable[[int], list[float]], count: int, at_once: int) -> Result:
    """Have `at_once` processes share `count` requests."""
    auth_before, node_before = tree_cpu(where.auth), tree_cpu(where.node)
    go_read, go_write = os.pipe()
    readers = []
    for number in range(at_once):
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(go_write)
            share = count // at_once + (number < count % at_once)
            os.read(go_read, 1)  # all start together, when this pipe closes
            with open(write, "wb") as out:
                try:
                    answer: object = work(share)
                except Exception as error:
                    answer = f"{type(error).__name__}: {error}"
                pickle.dump(answer, out)
            os._exit(0)
        os.close(write)
        readers.append(read)
    os.close(go_read)
    start = time.perf_counter()
    os.close(go_write)
    answers = []
    for read in readers:
        with open(read, "rb") as answer_file:
            answers.append(pickle.load(answer_file))
    wall = time.perf_counter() - start
    for _ in readers:
        os.wait()
    for answer in answers:
        if isinstance(answer, str):
            raise RuntimeError(answer)
    latencies = [latency for answer in answers for latency in answer]
    return Result(wall, latencies, tree_cpu(where.auth) - auth_before, tree_cpu(where.node) - node_before)


def _report(results: dict[tuple[str, int], list[Result]], count: int) -> None:
    rows = []
    for (name, at_once), found in results.items():
        rates = sorted(count / result.wall for result in found)
        latencies = [latency * 1000 for result in found for latency in result.latencies]
        requests = count * len(found)
        rows.append(
            (
                name,
                str(at_once),
                f"{rates[len(rates) // 2]:.0f}",
                f"{percentile(latencies, 50):.1f}",
                f"{percentile(latencies, 99):.1f}",
                f"{sum(result.auth_cpu for result in found) / requests * 1000:.2f}",
                f"{sum(result.node_cpu for result in found) / requests * 1000:.2f}",
            )
        )
    print_table(("requests", "at once", "a second", "p50 ms", "p99 ms", "auth CPU ms", "node CPU ms"), rows)


def _numbers(text: str) -> Sequence[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.session_requests", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--count", type=int, default=600, metavar="N", help="requests a run (600)")
    parser.add_argument("--at-once", type=_numbers, default=[1, 16], metavar="N,N", help="clients at once (1,16)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds (3)")
    parser.add_argument("--store", choices=("memory", "sqlite"), default="sqlite", help="of the auth server (sqlite)")
    options = parser.parse_args()
    peers.compile_ours()
    with tempfile.TemporaryDirectory(prefix="bench-") as top, site(Path(top), options.store) as where:
        print(f"{machine()}; {options.count} requests a run, {options.repeat} rounds, store: {options.store}")
        session = _Client(where, _login(), keep=False).ask().headers[HEADER]
        subjects = {
            "password": _over_https(where, _login(), keep=True),
            "security session": _over_https(where, {HEADER: session}, keep=True),
            "password, new connections": _over_https(where, _login(), keep=False),
            "the node's command port alone": _at_the_node(where),
        }
        results: dict[tuple[str, int], list[Result]] = {}
        for _ in range(options.repeat):
            for at_once in options.at_once:
                for name, work in subjects.items():
                    results.setdefault((name, at_once), []).append(measure(where, work, options.count, at_once))
        _report(results, options.count)


if __name__ == "__main__":
    main()

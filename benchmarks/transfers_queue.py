"""Submissions of managed transfers a second, and what a long queue costs everything else.

    python -m benchmarks.transfers_queue [--count 400] [--at-once 1,16] [--waiting 1000] [--url ...]

Requests go to our auth server over HTTPS, on kept connections, with the id of a security session; GET /rest/auth,
which has nothing to do with transfers, is the peer in the same run. First the queue is empty but for what is being
submitted, then `--waiting` transfers of several people wait in it, nine tenths of them one person's. The server has
nothing to run, since this program holds the only place of their pair, but looks into its queue as ever. At the end the
queue is emptied as a runner does it, with one claim and one end a transfer.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import random
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from benchmarks import peers
from benchmarks.measure import machine, percentile, print_table
from benchmarks.session_requests import HEADER, Result, Site, measure
from uftpd.auth.identity.password_file import password_line
from uftpd.auth.metrics import Metrics
from uftpd.auth.store.engine import open_store
from uftpd.auth.transfers import queue as transfer_queue
from uftpd.auth.transfers import rows
from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import NewTransfer, Outcome, Place
from uftpd.auth.transfers.sealing import Sealer
from uftpd.config.operating import StoreSettings
from uftpd.config.transfers import Transfers
from uftpd.pki import Authority

_DN = "CN=bench,O=benchmark"
_BODY = json.dumps({"sources": ["BENCH:/data/run*/"], "target": "BENCH:/in/", "options": {"recursive": True}}).encode()
_PLACE = Place(kind="server", text="BENCH:/x", server="BENCH", path=b"/x")
_SETTINGS = Transfers(
    enabled=True,
    key_file=Path("none"),
    active_per_user=64,
    active_per_pair=1000,
    waiting_per_user=1_000_000,
    lease_seconds=3600,
)

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
[store]
{store}
[transfers]
enabled = true
key_file = "transfers.key"
waiting_per_user = 1000000
active = 1
active_per_user = 1
active_per_pair = 1
[nodes.BENCH]
instances = [{{host = "127.0.0.1", command = "127.0.0.1:1"}}]
"""


@dataclass(frozen=True)
class Queue:
    """A running auth server and its store."""

    site: Site
    settings: StoreSettings


@contextlib.contextmanager
def server(scratch: Path, url: str) -> Iterator[Queue]:
    """An auth server that looks after transfers."""
    authority_directory = scratch / "private"
    authority_directory.mkdir()
    authority = Authority(authority_directory)
    (scratch / "ca.pem").write_bytes(authority.certificate_path.read_bytes())
    authority.ensure(scratch, "auth", "benchmark auth", ["localhost", "127.0.0.1"])
    (scratch / "passwords").write_text(password_line("bench", "secret", _DN) + "\n")
    (scratch / "map.json").write_text(json.dumps({_DN: {"role": "user", "xlogin": "nobody"}}))
    port = peers.free_port()
    store = f'url = "{url}"' if url else 'path = "store.sqlite"'
    (scratch / "auth.toml").write_text(AUTH.format(port=port, store=store))
    settings = StoreSettings(url=url) if url else StoreSettings(path=scratch / "store.sqlite")
    with peers.serving([peers.program("uftpd"), "auth", "--config", str(scratch / "auth.toml")], port) as auth:
        yield Queue(Site(scratch, auth, auth, f"https://127.0.0.1:{port}", 0, "nobody"), settings)


class _Client:
    """Asks over one connection, as one who has a security session."""

    def __init__(self, where: Site, session: str) -> None:
        context = ssl.create_default_context(cafile=where.directory / "ca.pem")
        host, _, port = where.url.removeprefix("https://").rpartition(":")
        self._connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
        self._headers = {HEADER: session, "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: bytes | None = None) -> float:
        """Seconds that a request took."""
        start = time.perf_counter()
        self._connection.request(method, path, body, self._headers)
        reply = self._connection.getresponse()
        text = reply.read()
        if reply.status not in (200, 201):
            raise RuntimeError(f"{reply.status}: {text[:200]!r}")
        return time.perf_counter() - start


def _session(where: Site) -> str:
    context = ssl.create_default_context(cafile=where.directory / "ca.pem")
    host, _, port = where.url.removeprefix("https://").rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
    login = base64.b64encode(b"bench:secret").decode()
    connection.request("GET", "/rest/auth", None, {"Authorization": f"Basic {login}"})
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply.headers[HEADER]


def _asking(where: Site, session: str, method: str, path: str, body: bytes | None) -> Callable[[int], list[float]]:
    def work(count: int) -> list[float]:
        client = _Client(where, session)
        return [client.ask(method, path, body) for _ in range(count)]

    return work


async def _fill(settings: StoreSettings, waiting: int) -> None:
    """Let transfers wait, nine of ten of them one person's."""
    store = open_store(settings)
    managed = ManagedTransfers(store, Sealer([bytes(32)]), Metrics(), lambda: _SETTINGS)
    for number in range(waiting):
        person = "cn=many,o=x" if number % 10 else f"cn=p{random.randrange(20)},o=x"
        await managed.submit(NewTransfer(person=person, sources=(_PLACE,), target=_PLACE), {})
    store.close()


def _hold(settings: StoreSettings) -> None:
    """Begin a transfer that never ends, before the server sees it."""
    new = NewTransfer(person="cn=holds,o=x", sources=(_PLACE,), target=_PLACE)
    limits = transfer_queue.Limits(per_person=1, per_pair=1, lease_seconds=3600)
    store = open_store(settings)
    with store.engine.begin() as connection:
        rows.submit(connection, new, "holds", {}, 1, time.time())
        transfer_queue.claim_next(connection, "bench", time.time() + 1, limits)
    store.close()


async def _empty(settings: StoreSettings) -> tuple[int, float, int]:
    """Take all there is as a runner does.

    Returns:
        How many, in how many seconds, and which of them was the first of the last person whose turn it was.
    """
    store = open_store(settings)
    managed = ManagedTransfers(store, Sealer([bytes(32)]), Metrics(), lambda: _SETTINGS)
    start = time.perf_counter()
    done, seen = 0, set()
    latest = 0
    while (claimed := await managed.claim("bench", _SETTINGS)) is not None:
        done += 1
        if claimed.transfer.person not in seen:
            seen.add(claimed.transfer.person)
            latest = done
        await managed.settle(claimed.lease, Outcome.SUCCEEDED)
    seconds = time.perf_counter() - start
    store.close()
    return done, seconds, latest


def _row(name: str, at_once: int, waiting: int, result: Result) -> tuple[str, ...]:
    latencies = [latency * 1000 for latency in result.latencies]
    return (
        name,
        str(at_once),
        str(waiting),
        f"{len(latencies) / result.wall:.0f}",
        f"{percentile(latencies, 50):.1f}",
        f"{percentile(latencies, 99):.1f}",
        f"{result.auth_cpu / len(latencies) * 1000:.2f}",
    )


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transfers_queue", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--count", type=int, default=400, metavar="N", help="requests a run (400)")
    parser.add_argument(
        "--at-once", type=lambda text: [int(n) for n in text.split(",")], default=[1, 16], metavar="N,N",
        help="clients at once (1,16)",
    )  # fmt: skip
    parser.add_argument("--waiting", type=int, default=1000, metavar="N", help="transfers that wait (1000)")
    parser.add_argument("--url", default="", help="postgresql://... instead of SQLite; the database must be empty")
    options = parser.parse_args()
    peers.compile_ours()
    with tempfile.TemporaryDirectory(prefix="bench-") as top, server(Path(top), options.url) as queue:
        kind = "PostgreSQL" if options.url else "SQLite"
        print(f"{machine()}; {options.count} requests a run, store: {kind}")
        session = _session(queue.site)
        subjects = {
            "GET /rest/auth (peer)": ("GET", "/rest/auth", None),
            "POST /rest/transfers": ("POST", "/rest/transfers", _BODY),
            "GET /rest/transfers, 20 of them": ("GET", "/rest/transfers?limit=20", None),
            "the same, active ones only": ("GET", "/rest/transfers?limit=20&state=active", None),
        }
        _hold(queue.settings)
        table = []
        for waiting in (0, options.waiting):
            if waiting:
                trio.run(_fill, queue.settings, waiting)
            for at_once in options.at_once:
                for name, asked in subjects.items():
                    result = measure(queue.site, _asking(queue.site, session, *asked), options.count, at_once)
                    table.append(_row(name, at_once, waiting, result))
        print_table(("requests", "at once", "waiting", "a second", "p50 ms", "p99 ms", "auth CPU ms"), table)
        done, seconds, latest = trio.run(_empty, queue.settings)
    print(f"taken and ended: {done} transfers in {seconds:.2f} s, {done / seconds:.0f} a second")
    print(f"somebody's first transfer was begun at the latest as number {latest}")


if __name__ == "__main__":
    main()

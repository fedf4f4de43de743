"""The object server of a data node beside nginx: one large file by curl and by aria2c, small ones by wrk.

    python -m benchmarks.objects [--size MIB] [--repeat N] [--seconds N]

Both serve the same files over HTTP and over HTTPS, from memory, on loopback; nginx as a site would run it, one worker a
processor, with sendfile. Ours is a whole data node: the secret of a request is looked up, and a process of its own
serves each object as its owner, so the requests for the small file all go to one process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import peers
from benchmarks.measure import Cost, machine, median, print_table, run
from uftp.protocol.command_port import Access, Purpose, TransferRequest, encode_request
from uftp.protocol.command_replies import parse_transfer_reply
from uftpd.pki import Authority

_SMALL = 4096
_SCHEMES = ("http", "https")
_SECRET_SECONDS = 3600.0

NODE = """\
[ftp]
listen = ["127.0.0.1:{ftp}"]
[command_port]
listen = "127.0.0.1:{command}"
plain = true
[objects]
listen = ["127.0.0.1:{http}"]
listen_tls = ["127.0.0.1:{https}"]
certificate = "{certificate}"
key = "{key}"
connections = 256
[users]
lowest_uid = {uid}
"""
NGINX = """\
pid {home}/pid;
error_log {home}/error.log;
worker_processes auto;
events {{}}
http {{
    access_log off;
    client_body_temp_path {home};
    proxy_temp_path {home};
    fastcgi_temp_path {home};
    uwsgi_temp_path {home};
    scgi_temp_path {home};
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{https} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        root {root};
    }}
}}
"""


@dataclass(frozen=True)
class Subject:
    """A server to measure.

    Attributes:
        pid: root of its process tree.
        urls: of the large and of the small file, by scheme.
    """

    name: str
    pid: int
    urls: dict[str, tuple[str, str]]


@dataclass
class Results:
    """What was measured of one subject and scheme."""

    curl: list[Cost] = field(default_factory=list)
    aria2c: list[Cost] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)


@contextlib.contextmanager
def nginx(scratch: Path, files: Path, certificate: Path, key: Path) -> Iterator[Subject]:
    """nginx on both schemes."""
    home = scratch / "nginx"
    home.mkdir()
    ports = {scheme: peers.free_port() for scheme in _SCHEMES}
    config = home / "nginx.conf"
    config.write_text(NGINX.format(home=home, root=files, certificate=certificate, key=key, **ports))
    argv = [peers.program("nginx"), "-p", str(home), "-c", str(config), "-g", "daemon off;"]
    with peers.serving(argv, ports["http"]) as pid:
        urls = {s: (f"{s}://127.0.0.1:{ports[s]}/large", f"{s}://127.0.0.1:{ports[s]}/small") for s in _SCHEMES}
        yield Subject("nginx", pid, urls)


@contextlib.contextmanager
def _ours(scratch: Path, files: Path, certificate: Path, key: Path) -> Iterator[Subject]:
    user = peers.account(None)
    ports = {name: peers.free_port() for name in ("ftp", "command", *_SCHEMES)}
    config = scratch / "data.toml"
    config.write_text(NODE.format(certificate=certificate, key=key, uid=max(1, user.pw_uid), **ports))
    with peers.serving([peers.program("uftpd"), "data", "--config", str(config)], ports["https"]) as pid:
        places = [_announce(ports["command"], user.pw_name, files, name) for name in ("large", "small")]
        base = {scheme: f"{scheme}://127.0.0.1:{ports[scheme]}/o/" for scheme in _SCHEMES}
        urls = {scheme: (base[scheme] + places[0], base[scheme] + places[1]) for scheme in _SCHEMES}
        yield Subject("uftpd", pid, urls)


def _announce(port: int, user: str, files: Path, name: str) -> str:
    secret = secrets.token_urlsafe(24)
    request = TransferRequest(
        user=user,
        secret=secret,
        file=f"{files}/",
        scope=name.encode(),
        access=Access.READ,
        purpose=Purpose.SHARE,
        expires=_SECRET_SECONDS,
        http=True,
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(encode_request(request, extensions=True))
        parse_transfer_reply(b"".join(iter(lambda: connection.recv(4096), b"")))
    return secret


def _curl(url: str) -> list[str]:
    return [peers.program("curl"), "-sS", "-f", "-k", "-L", "-o", os.devnull, url]


def _aria2c(url: str, directory: Path) -> list[str]:
    return [
        peers.program("aria2c"), "-q", "-x8", "-s8", "-k1M", "--file-allocation=none", "--allow-overwrite=true",
        "--check-certificate=false", "-d", str(directory), "-o", "got", url,
    ]  # fmt: skip


def _wrk(url: str, seconds: int) -> float:
    """Requests a second, 64 connections."""
    argv = [peers.program("wrk"), "-t2", "-c64", f"-d{seconds}s", url]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in shown:
        raise RuntimeError(f"not all answers were 200:\n{shown}")
    match = re.search(r"Requests/sec:\s*([0-9.]+)", shown)
    return float(match[1]) if match else float("nan")


def _has(program: str) -> bool:
    try:
        peers.program(program)
    except peers.Missing as missing:
        print(f"left out: {missing}")
        return False
    return True


def measure(subjects: Sequence[Subject], scratch: Path, repeat: int, seconds: int) -> dict[tuple[str, str], Results]:
    """All subjects in turns; one round more, which does not count, warms up."""
    results = {(scheme, subject.name): Results() for scheme in _SCHEMES for subject in subjects}
    tools = {name: _has(name) for name in ("curl", "aria2c", "wrk")}
    for number in range(repeat + 1):
        for scheme in _SCHEMES:
            for subject in subjects:
                large, small = subject.urls[scheme]
                taken = results[scheme, subject.name] if number else Results()
                if tools["curl"]:
                    taken.curl.append(run(_curl(large), subject.pid))
                if tools["aria2c"]:
                    taken.aria2c.append(run(_aria2c(large, scratch), subject.pid))
                    (scratch / "got").unlink()
                if tools["wrk"] and number:
                    taken.requests.append(_wrk(small, seconds))
    return results


def report(results: dict[tuple[str, str], Results], gigabytes: float) -> None:
    """Print the table, ratios to nginx in brackets."""
    rows = []
    for (scheme, name), taken in results.items():
        reference = results.get((scheme, "nginx"), taken)

        def cell(value: float, of: float, digits: int, name: str = name) -> str:
            ratio = f" ({value / of:.2f})" if name != "nginx" and of > 0 else ""
            return f"{value:.{digits}f}{ratio}"

        def speed(costs: Sequence[Cost]) -> float:
            return gigabytes / median(cost.wall for cost in costs)

        rows.append(
            [
                f"{name} {scheme}",
                cell(speed(taken.curl), speed(reference.curl), 2),
                f"{median(cost.server_cpu for cost in taken.curl) / gigabytes:.2f}",
                cell(speed(taken.aria2c), speed(reference.aria2c), 2),
                cell(median(taken.requests), median(reference.requests), 0),
            ]
        )
    print_table(["", "curl GB/s", "server CPU s/GB", "aria2c -x8 GB/s", f"requests/s of {_SMALL} bytes"], rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the large file")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds")
    parser.add_argument("--seconds", type=int, default=3, metavar="N", help="of small requests in each round")
    options = parser.parse_args()
    peers.compile_ours()
    memory = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 3 * options.size << 20 else None
    with tempfile.TemporaryDirectory(dir=memory) as directory, contextlib.ExitStack() as stack:
        scratch = Path(directory)
        scratch.chmod(0o755)
        files = scratch / "files"
        files.mkdir(mode=0o755)
        with (files / "large").open("wb") as file:
            for _ in range(options.size):
                file.write(os.urandom(1 << 20))
        (files / "small").write_bytes(os.urandom(_SMALL))
        (scratch / "tls").mkdir(mode=0o700)
        pair = Authority(scratch / "tls").ensure(scratch / "tls", "server", "benchmark", ["127.0.0.1"])
        certificate, key = pair.certificate, pair.key
        print(f"{machine()}; files in {scratch}")
        subjects = []
        for start in (nginx, _ours):
            try:
                subjects.append(stack.enter_context(start(scratch, files, certificate, key)))
            except peers.Missing as missing:
                print(f"left out: {missing}")
        results = measure(subjects, scratch, options.repeat, options.seconds)
        report(results, options.size * 1048576 / 1e9)


if __name__ == "__main__":
    main()

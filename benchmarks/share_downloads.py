"""Downloads of shares beside nginx: one large file by curl and by aria2c, small ones by wrk, over HTTP and HTTPS.

    python -m benchmarks.share_downloads [--size MIB] [--repeat N] [--seconds N]

Proxied, every byte goes from the data node's session through the auth server; direct, the auth server sends the client
on to the object server of the node (small files it delivers itself all the same). nginx serves the same files from
memory, as a site would run it. The processor time is the auth server's; that of a session comes on top.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import ssl
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks import objects, peers
from benchmarks.measure import machine
from benchmarks.objects import Subject
from uftpd.auth.identity.password_file import password_line
from uftpd.pki import Authority

_SCHEMES = ("http", "https")
_DN = "CN=Bench,O=Bench"

AUTH = """\
[server]
listen = ["127.0.0.1:{port}"]
{transport}
[login]
password_file = "{home}/passwords"
[attributes]
map_file = "{home}/map.json"
[store]
path = "{home}/store.sqlite"
[shares]
servers = []
direct = {direct}
[log]
level = "warning"
[nodes.BENCH]
[[nodes.BENCH.instances]]
host = "127.0.0.1"
command = "127.0.0.1:{command}"
plain = true
"""


@contextlib.contextmanager
def _node(scratch: Path, certificate: Path, key: Path) -> Iterator[int]:
    """A data node with an object server; gives its command port."""
    ports = {name: peers.free_port() for name in ("ftp", "command", *_SCHEMES)}
    config = scratch / "data.toml"
    uid = max(1, peers.account(None).pw_uid)
    limits = "[limits]\nsessions_per_user = 256\nshare_sessions_per_user = 256\n"
    config.write_text(objects.NODE.format(certificate=certificate, key=key, uid=uid, **ports) + limits)
    with peers.serving([peers.program("uftpd"), "data", "--config", str(config)], ports["command"]):
        yield ports["command"]


@contextlib.contextmanager
def _auth(
    scratch: Path, command: int, certificate: Path, key: Path, *, scheme: str, direct: bool
) -> Iterator[tuple[int, str]]:
    """An auth server; gives the root of its process tree, and its address."""
    port = peers.free_port()
    pair = f'certificate = "{certificate}"\nkey = "{key}"'
    transport = "plain_http = true" if scheme == "http" else pair
    config = scratch / f"auth-{scheme}-{direct}.toml"
    config.write_text(
        AUTH.format(port=port, transport=transport, home=scratch, direct=str(direct).lower(), command=command)
    )
    with peers.serving([peers.program("uftpd"), "auth", "--config", str(config)], port) as pid:
        yield pid, f"{scheme}://127.0.0.1:{port}"


def _share(address: str, path: Path) -> str:
    """Share a file with anybody; the way to it on every server of the store."""
    body = {"path": str(path), "user": "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN", "access": "READ"}
    credential = base64.b64encode(f"{peers.USER}:{peers.PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {credential}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/rest/share/BENCH", json.dumps(body).encode(), headers, method="POST")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with urllib.request.urlopen(request, context=context) as response:
        made: str = response.headers["Location"]
    return made.partition("/rest/share/")[2]


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
        (files / "small").write_bytes(os.urandom(4096))
        (scratch / "tls").mkdir(mode=0o700)
        pair = Authority(scratch / "tls").ensure(scratch / "tls", "server", "benchmark", ["127.0.0.1"])
        (scratch / "passwords").write_text(password_line(peers.USER, peers.PASSWORD, _DN) + "\n")
        (scratch / "map.json").write_text(json.dumps({_DN: {"role": "user", "xlogin": peers.account(None).pw_name}}))
        print(f"{machine()}; files in {scratch}")
        subjects = []
        with contextlib.suppress(peers.Missing):
            subjects.append(stack.enter_context(objects.nginx(scratch, files, pair.certificate, pair.key)))
        command = stack.enter_context(_node(scratch, pair.certificate, pair.key))
        ways: list[str] = []
        for name, direct in (("proxied", False), ("direct", True)):
            urls = {}
            pids = []
            for scheme in _SCHEMES:
                pid, address = stack.enter_context(
                    _auth(scratch, command, pair.certificate, pair.key, scheme=scheme, direct=direct)
                )
                pids.append(pid)
                ways = ways or [_share(address, files / file) for file in ("large", "small")]
                urls[scheme] = (f"{address}/rest/access/{ways[0]}", f"{address}/rest/access/{ways[1]}")
            # Each scheme is a server of its own; the processor time is that of the first.
            subjects.append(Subject(name, pids[0], urls))
        results = objects.measure(subjects, scratch, options.repeat, options.seconds)
        objects.report(results, options.size * 1048576 / 1e9)


if __name__ == "__main__":
    main()

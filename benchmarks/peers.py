"""Starts the servers to measure, on loopback with free ports, and ends them. Each as a site would run it.

A server that is not on this machine raises `Missing`, whose message says what is missing.
"""

from __future__ import annotations

import base64
import compileall
import contextlib
import importlib.util
import ipaddress
import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uftp.protocol.command_port import TransferRequest, encode_request
from uftp.protocol.command_replies import parse_transfer_reply

_START_SECONDS = 30.0
_STOP_SECONDS = 15.0
USER, PASSWORD = "bench", "bench-only-password"

VSFTPD = """\
listen=YES
listen_ipv6=NO
listen_address=127.0.0.1
listen_port={port}
background=NO
anonymous_enable=YES
local_enable=NO
no_anon_password=NO
anon_root={root}
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_umask=022
allow_writeable_chroot=YES
pasv_enable=YES
pasv_address=127.0.0.1
use_sendfile=YES
xferlog_enable=NO
max_clients=0
max_per_ip=0
secure_chroot_dir={empty}
{more}"""

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
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        root {root};
    }}
}}
"""

DATA_NODE = """\
[ftp]
listen = ["127.0.0.1:{ftp}"]
[command_port]
listen = "127.0.0.1:{command}"
plain = true
[limits]
sessions_per_user = {sessions}
unproven_per_address = 256
[log]
level = "{level}"
"""


class Missing(Exception):
    """A subject is not on this machine."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        pid: root of its process tree.
        port: where its FTP (or own) protocol is spoken.
        auth: URL of the auth server, of ours only.
        ca: its CA certificate.
        command: command port.
    """

    pid: int
    port: int
    auth: str = ""
    ca: str = ""
    command: int = 0


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def compile_ours() -> None:
    """Compile our packages to bytecode, as an installation does; a source tree may not have it."""
    for package in ("uftp", "uftpd"):
        found = importlib.util.find_spec(package)
        for directory in found.submodule_search_locations or () if found else ():
            compileall.compile_dir(directory, quiet=1)


def program(name: str) -> str:
    """Full path of a program, looked for beside this Python first.

    Raises:
        Missing: there is none.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not found:
        raise Missing(f"{name} is not installed")
    return found


def account(name: str | None = None) -> pwd.struct_passwd:
    """Whom servers that change user run sessions as: `name`, or this user, or for root the first ordinary account.

    Raises:
        Missing: root, and no ordinary account.
    """
    if name:
        return pwd.getpwnam(name)
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    ordinary = [entry for entry in pwd.getpwall() if 1000 <= entry.pw_uid < 60_000]
    if not ordinary:
        raise Missing("as root an ordinary account is needed (--account)")
    return min(ordinary, key=lambda entry: entry.pw_uid)


@contextlib.contextmanager
def _running(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    reaped = [sys.executable, "-m", "benchmarks.reaper", *argv]
    with subprocess.Popen(reaped, text=True, stderr=subprocess.DEVNULL, **options) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_port(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as probe:
            if probe.recv(100).startswith(b"220"):
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise Missing(f"it does not start: {process.args!r}")
        time.sleep(0.02)


@contextlib.contextmanager
def bare() -> Iterator[Server]:
    """The server of `benchmarks.bare`."""
    argv = [sys.executable, "-m", "benchmarks.bare", "serve"]
    with _running(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield Server(process.pid, int(process.stdout.readline()))


@contextlib.contextmanager
def vsftpd(root: Path, scratch: Path) -> Iterator[Server]:
    """vsftpd for anonymous users, its default settings otherwise; `root`/up is writable."""
    path = program("vsftpd")
    port = free_port()
    empty = scratch / "vsftpd-empty"
    empty.mkdir(exist_ok=True)
    more = "" if os.geteuid() == 0 else "run_as_launching_user=YES\n"
    config = scratch / "vsftpd.conf"
    config.write_text(VSFTPD.format(port=port, root=root, empty=empty, more=more))
    with _running([path, str(config)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        _wait_for_port(process, port)
        yield Server(process.pid, port)


def _certificate(scratch: Path) -> tuple[Path, Path]:
    """A self-signed certificate and its key, as the peers want them."""
    certificate, key = scratch / "peer.pem", scratch / "peer.key"
    if not certificate.exists():
        argv = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        argv += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    return certificate, key


@contextlib.contextmanager
def vsftpd_with_tls(root: Path, scratch: Path) -> Iterator[Server]:
    """The same with TLS on control and data connections, which every client must use."""
    path = program("vsftpd")
    certificate, key = _certificate(scratch)
    port = free_port()
    empty = scratch / "vsftpd-empty"
    empty.mkdir(exist_ok=True)
    more = "" if os.geteuid() == 0 else "run_as_launching_user=YES\n"
    more += f"ssl_enable=YES\nallow_anon_ssl=YES\nrsa_cert_file={certificate}\nrsa_private_key_file={key}\n"
    more += "force_anon_data_ssl=YES\nforce_anon_logins_ssl=YES\nrequire_ssl_reuse=NO\nssl_ciphers=HIGH\n"
    config = scratch / "vsftpd-tls.conf"
    config.write_text(VSFTPD.format(port=port, root=root, empty=empty, more=more))
    with _running([path, str(config)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        _wait_for_port(process, port)
        yield Server(process.pid, port)


@contextlib.contextmanager
def nginx(root: Path, scratch: Path) -> Iterator[Server]:
    """nginx with TLS 1.3, one worker a core, files by sendfile where TLS lets it."""
    path = program("nginx")
    certificate, key = _certificate(scratch)
    port = free_port()
    home = scratch / "nginx"
    home.mkdir(exist_ok=True)
    config = home / "nginx.conf"
    config.write_text(NGINX.format(port=port, root=root, home=home, certificate=certificate, key=key))
    argv = [path, "-p", str(home), "-c", str(config), "-g", "daemon off;"]
    with _running(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        _wait_until_listening(process, port)
        yield Server(process.pid, port)


@contextlib.contextmanager
def rsyncd(root: Path, scratch: Path) -> Iterator[Server]:
    """An rsync daemon with one writable module, `files`."""
    path = program("rsync")
    port = free_port()
    config = scratch / "rsyncd.conf"
    owner = pwd.getpwuid(os.geteuid()).pw_name
    config.write_text(f"use chroot = no\nuid = {owner}\n[files]\npath = {root}\nread only = no\n")
    argv = [path, "--daemon", "--no-detach", "--address", "127.0.0.1", "--port", str(port), "--config", str(config)]
    with _running(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        _wait_until_listening(process, port)
        yield Server(process.pid, port)


def _wait_until_listening(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise Missing(f"it does not start: {process.args!r}")
        time.sleep(0.02)


@contextlib.contextmanager
def pyftpdlib(root: Path) -> Iterator[Server]:
    """pyftpdlib's own command: one process, anonymous users may write."""
    if importlib.util.find_spec("pyftpdlib") is None:
        raise Missing("pyftpdlib is not installed")
    port = free_port()
    argv = [sys.executable, "-m", "pyftpdlib", "-i", "127.0.0.1", "-p", str(port), "-d", str(root), "-w"]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with _running(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=quiet) as process:
        _wait_for_port(process, port)
        yield Server(process.pid, port)


@contextlib.contextmanager
def standalone(scratch: Path, user: pwd.struct_passwd, options: Sequence[str] = ()) -> Iterator[Server]:
    """`uftpd standalone`: auth server and data nodes, sessions as `user`; `auth` and `port` are of the first node."""
    password_file = scratch / "password"
    password_file.write_text(PASSWORD)
    password_file.chmod(0o600)
    argv = [
        program("uftpd"), "standalone", "--state", str(scratch / "state"), "--ready-json",
        "--auth-port", "0", "--ftp-port", "0", "--command-port", "0",
        "--user", f"{USER}:@{password_file}", *options,
    ]  # fmt: skip
    if os.geteuid() == 0:
        argv += ["--map", f"{USER}:{user.pw_name}"]
    with _running(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("{"):
            raise Missing("uftpd standalone does not start")
        ready = json.loads(line)
        # --ready-json is the machine's only line; what else comes must not fill the pipe.
        (name, address), *_ = ready["nodes"].items()
        port = int(address.rpartition(":")[2])
        yield Server(process.pid, port, f"{ready['auth']}/{name}", ready["ca"])


@contextlib.contextmanager
def data_node(scratch: Path, *, sessions: int, level: str = "info") -> Iterator[Server]:
    """`uftpd data` alone, with a plain command port on loopback.

    Args:
        scratch: for its configuration.
        sessions: what one account may have at once, announced ones included.
        level: of its log, which goes to a file.
    """
    path = program("uftpd")
    ftp, command = free_port(), free_port()
    config = scratch / "data.toml"
    config.write_text(DATA_NODE.format(ftp=ftp, command=command, sessions=sessions, level=level))
    argv = [path, "data", "--config", str(config)]
    with _running(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        _wait_for_port(process, ftp)
        yield Server(process.pid, ftp, command=command)


@contextlib.contextmanager
def serving(argv: Sequence[str], port: int) -> Iterator[int]:
    """A program that listens on a port of this machine; gives the root of its process tree."""
    with _running(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        _wait_until_listening(process, port)
        yield process.pid


def announce(server: Server, user: str, secret: str, *, persistent: bool) -> None:
    """Tell a data node to expect `secret`, over its plain command port."""
    request = TransferRequest(
        user=user, secret=secret, client_ip=(ipaddress.ip_address("127.0.0.1"),), persistent=persistent
    )
    with socket.create_connection(("127.0.0.1", server.command)) as connection:
        connection.sendall(encode_request(request))
        reply = b"".join(iter(lambda: connection.recv(4096), b""))
    parse_transfer_reply(reply)


def one_time_password(server: Server, directory: str) -> str:
    """A secret for one session in `directory`, from our auth server."""
    body = json.dumps({"serverPath": directory, "persistent": False}).encode()
    credential = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    headers = {
        "Authorization": f"Basic {credential}",
        "Content-Type": "application/json",
        "Accept": "application/json",
    }
    request = urllib.request.Request(server.auth, body, headers, method="POST")
    context = ssl.create_default_context(cafile=server.ca)
    with urllib.request.urlopen(request, context=context) as response:
        secret: str = json.load(response)["secret"]
        return secret

"""A real data node in processes of its own, for tests."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol

import pytest
from raw_ftp import TIMEOUT, RawFtp, eventually

from uftp.protocol.command_port import Request, TransferRequest, encode_request

_RUNNER = Path(__file__).with_name("node_runner.py")
_ACCOUNT = re.compile(r"uftp-t([0-9]+)[a-z][0-9]*")
_account_numbers = itertools.count()
_BAD_EVENTS = ("internal-error", "session-crashed", "front failed", "login failed", "request failed")


@dataclass(frozen=True)
class Person:
    """An account that sessions run as."""

    name: str
    uid: int
    gid: int
    home: Path

    @classmethod
    def find(cls, name: str) -> Person:
        entry = pwd.getpwnam(name)
        return cls(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


class HasSocket(Protocol):
    """A client of any kind."""

    @property
    def socket(self) -> socket.socket: ...


@dataclass
class Node:
    """A running data node.

    Attributes:
        person: whom `login` logs in as.
        root: a directory everybody may enter, for the test's files.
        allowed: log events that a test expects though they are bad in general.
    """

    process: subprocess.Popen[bytes]
    person: Person
    root: Path
    config_path: Path
    log_path: Path
    ftp: tuple[str, int]
    command: tuple[str, int]
    temp: Path
    as_root: bool
    allowed: set[str] = field(default_factory=set)
    used_secrets: list[str] = field(default_factory=list)
    _names: Iterator[int] = field(default_factory=itertools.count)

    # -- processes

    @property
    def pid(self) -> int:
        return self.process.pid

    def processes(self) -> dict[int, list[str]]:
        """Everything this node has started and is not gone: pid to fields of /proc/PID/stat behind the name."""
        found = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                    if fields[3] == str(self.pid) and fields[0] != "Z":  # our session id
                        found[int(entry)] = fields
        return found

    def children(self) -> list[int]:
        return [pid for pid, fields in self.processes().items() if fields[1] == str(self.pid)]

    def front(self) -> int:
        """Process id of the front: the child that has the FTP listener."""
        pids = [int(event["pid"]) for event in self.log("front started")]
        return pids[-1]

    def session_of(self, client: HasSocket) -> int:
        """Process id of the session that serves a connection."""
        if os.geteuid() != 0:
            pytest.skip("the kernel shows open files of protected processes to root only")
        inode = _server_inode(client.socket)
        front = self.front()
        for pid in self.children():
            if pid != front and f"socket:[{inode}]" in descriptors(pid).values():
                return pid
        raise AssertionError("no process has this connection")

    # -- log

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log lines so far, or those of one event."""
        lines = self.log_path.read_text().splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [e for e in events if event is None or e["event"] == event]

    def wait_log(self, event: str, **facts: object) -> dict[str, Any]:
        """Wait for a log line with these facts."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [e for e in self.log(event) if all(e.get(k) == v for k, v in facts.items())]
            return bool(found)

        eventually(there, what=f"log line {event} {facts}")
        return found[0]

    # -- requests

    def ask(self, request: bytes, *, address: tuple[str, int] | None = None) -> bytes:
        """The whole reply of the command port."""
        with socket.create_connection(address or self.command, TIMEOUT) as peer:
            peer.sendall(request)
            reply = b""
            while data := peer.recv(65536):
                reply += data
        return reply

    def request(self, request: Request) -> bytes:
        return self.ask(encode_request(request, extensions=True))

    def expect(self, **fields: Any) -> str:
        """Have the node expect a login, and return the secret."""
        secret = fields.setdefault("secret", secrets.token_hex(12))
        self.used_secrets.append(secret)
        fields.setdefault("user", self.person.name)
        fields.setdefault("file", f"{self.root}/")
        fields.setdefault("client_ip", (ip_address("127.0.0.1"), ip_address("::1")))
        reply = self.request(TransferRequest(**fields))
        assert reply.startswith(b"OK::"), reply
        return str(secret)

    def connect(self, source: str | None = None) -> RawFtp:
        return RawFtp(self.ftp, source)

    def login(self, **fields: Any) -> RawFtp:
        """A session; the fields are those of a transfer request."""
        ftp = self.connect()
        ftp.log_in(self.expect(**fields))
        return ftp

    def login_fails(self, **fields: Any) -> bytes:
        """The reply to a password that is refused."""
        secret = fields.pop("secret", None) or self.expect(**fields)
        with self.connect() as ftp:
            ftp.reply()
            ftp.command("USER anonymous")
            answer = ftp.command(f"PASS {secret}")
            assert ftp.is_closed()
        return answer

    # -- files

    def directory(self) -> Path:
        """A fresh directory of the person's."""
        path = self.root / f"dir{next(self._names)}"
        path.mkdir()
        os.chown(path, self.person.uid, self.person.gid)
        return path

    def file(self, path: Path, content: bytes, mode: int = 0o644) -> Path:
        """A file of the person's."""
        path.write_bytes(content)
        path.chmod(mode)
        os.chown(path, self.person.uid, self.person.gid)
        return path

    # -- ending

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end and that of all its processes; the exit code."""
        code = self.process.wait(TIMEOUT)
        eventually(lambda: not self.processes(), what=f"processes left: {self.processes()}")
        return code

    def stop(self) -> None:
        """End it, and check that it leaves nothing and has said nothing it should not."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)  # sessions a test left open need not keep us
        try:
            self.wait()
        finally:
            for pid in self.processes():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        text = self.log_path.read_text()
        strange = [line for line in text.splitlines() if not line.startswith("{")]
        assert not strange, strange
        bad = [e for e in self.log() if e["event"] in _BAD_EVENTS and e["event"] not in self.allowed]
        assert not bad, bad
        assert "Traceback" not in text or "traceback" in self.allowed, text
        assert not [s for s in self.used_secrets if s in text], "a secret is in the log"
        assert not list(self.temp.iterdir()), "temporary files are left"


def descriptors(pid: int) -> dict[int, str]:
    """Open descriptors of a process, and what they are."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def _server_inode(client: socket.socket) -> str:
    """Inode of the other end of a loopback connection."""
    port, peer = client.getsockname()[1], client.getpeername()[1]
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == peer and int(fields[2].rpartition(":")[2], 16) == port:
                return fields[9]
    raise AssertionError("no such connection")


def toml(sections: dict[str, dict[str, object]]) -> str:
    """Text of a configuration; JSON's literals are TOML's here."""
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def make_config(**sections: dict[str, object]) -> dict[str, dict[str, object]]:
    """The tests' configuration, changed where told. Nothing listens where it says: the sockets are given."""
    config: dict[str, dict[str, object]] = {
        "ftp": {"listen": ["127.0.0.1:0"]},
        "command_port": {"listen": "127.0.0.1:0", "plain": True},
        "limits": {"drain_seconds": 5, "spares": 2},
        "log": {"level": "debug", "format": "json"},
    }
    for section, values in sections.items():
        config[section] = {**config.get(section, {}), **values}
    return config


def listener(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.bind((host, 0))
    bound.listen(128)
    return bound


@contextlib.contextmanager
def running_node(
    person: Person,
    *,
    as_root: bool,
    ftp_host: str = "127.0.0.1",
    environment: dict[str, str] | None = None,
    wait_ready: bool = True,
    prepare: Callable[[Path], object] = lambda root: None,
    **sections: dict[str, object],
) -> Iterator[Node]:
    """A node; when the block ends it is stopped and must leave nothing.

    Args:
        person: see `Node`; not as root, the node runs as this account.
        as_root: whether it serves all users.
        ftp_host: where FTP listens.
        environment: variables for it.
        wait_ready: come back only when it serves; if False, it has no callback to tell so either.
        prepare: called with the directory before the node starts.
        sections: of the configuration.
    """
    root = Path(tempfile.mkdtemp(prefix="uftp-node-"))
    root.chmod(0o755)
    work, temp = root / "work", root / "temp"
    for directory in (work, temp):
        directory.mkdir()
        os.chown(directory, person.uid, person.gid)
    try:
        prepare(root)
        config_path = root / "data.toml"
        config_path.write_text(toml(make_config(**sections)))
        log_path = root / "log"
        ready_read, ready_write = os.pipe()
        with listener(ftp_host) as ftp, listener("127.0.0.1") as command, log_path.open("wb") as log:
            fds = [ready_write, ftp.fileno(), command.fileno()]
            ids = ("-1", "-1") if as_root or os.geteuid() == person.uid else (str(person.uid), str(person.gid))
            process = subprocess.Popen(
                [
                    sys.executable,
                    str(_RUNNER),
                    str(config_path),
                    *ids,
                    str(fds[0] if wait_ready else -1),
                    *map(str, fds[1:]),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                start_new_session=True,
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "TMPDIR": str(temp), "TZ": "UTC", **(environment or {})},
            )
            ftp_address, command_address = ftp.getsockname()[:2], command.getsockname()[:2]
        os.close(ready_write)
        node = Node(process, person, work, config_path, log_path, ftp_address, command_address, temp, as_root)
        try:
            if wait_ready:
                readable, _, _ = select.select([ready_read], [], [], TIMEOUT)
                assert readable, log_path.read_text()
                assert os.read(ready_read, 5) == b"ready", log_path.read_text()
            yield node
        except BaseException:
            with contextlib.suppress(Exception):
                sys.stderr.write(log_path.read_text()[-4000:])
            raise
        finally:
            os.close(ready_read)
            node.stop()
    finally:
        shutil.rmtree(root)


class StartNode(Protocol):
    """Starts a node that ends with the test; takes the arguments of `running_node`."""

    def __call__(self, **arguments: Any) -> Node: ...


# -- accounts -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def made_accounts(letters: str) -> Iterator[tuple[Person, Person]]:
    """Two accounts of the operating system, made for this run and removed after. Needs root.

    Args:
        letters: what their names have in them, for people who look; a number makes them differ from all others.
    """
    _remove_old_accounts()
    homes = Path(tempfile.mkdtemp(prefix="uftp-homes-"))
    homes.chmod(0o755)
    number = next(_account_numbers)  # pairs of several fixtures are there at the same time
    names = [f"uftp-t{os.getpid()}{letter}{number}" for letter in letters]
    try:
        for name in names:
            _account_tool("useradd", "--create-home", "--home-dir", str(homes / name), "--shell", "/bin/sh", name)
            (homes / name).chmod(0o700)
        first, second = (Person.find(name) for name in names)
        yield first, second
    finally:
        for name in names:
            _account_tool("userdel", name)
        shutil.rmtree(homes)


def _account_tool(*command: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        if not any(word in done.stderr for word in ("lock", "used by process")) or time.monotonic() > deadline:
            raise RuntimeError(done.stderr)
        time.sleep(0.05)  # another run of the tests is changing the same files, or a process is just ending


def _remove_old_accounts() -> None:
    """Those of runs that were killed; one that processes of such a run still have is left to a later run."""
    for entry in pwd.getpwall():
        made = _ACCOUNT.fullmatch(entry.pw_name)
        if made is not None and not Path("/proc", made[1]).exists():
            subprocess.run(["userdel", entry.pw_name], capture_output=True, check=False)

"""A UFTP site in processes of its own, as `uftpd standalone` starts it: an auth server, a data node, and people."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_node import Person

_RUNNER = Path(__file__).with_name("site_runner.py")
_SECONDS = 60.0


@dataclass
class Site:
    """A running site.

    Attributes:
        people: who may log in, by login name; without root it is one person under one name.
        auth: URL of the auth server.
        root: a directory everybody may enter, for the tests' files.
        ready: what the server said of itself.
        as_root: whether it changes user.
        pid: of the whole tree's first process.
        allowed: parts of log lines that are expected though they report errors.
    """

    people: dict[str, Person]
    auth: str
    root: Path
    ready: dict[str, Any]
    as_root: bool
    pid: int = 0
    allowed: list[str] = field(default_factory=list)
    _count: int = field(default=0)

    @property
    def first(self) -> str:
        """A login name."""
        return next(iter(self.people))

    def password(self, name: str) -> str:
        return f"secret of {name}"

    def directory(self, name: str | None = None, mode: int = 0o755) -> Path:
        """A fresh directory on the server, of a person's own."""
        self._count += 1
        path = self.root / f"dir{self._count}"
        path.mkdir(mode)
        path.chmod(mode)
        self.give(path, name)
        return path

    def give(self, path: Path, name: str | None = None) -> Path:
        """Make a file or directory a person's."""
        person = self.people[name or self.first]
        os.chown(path, person.uid, person.gid)
        return path

    def file(self, path: Path, content: bytes) -> Path:
        """A file of the first person's."""
        path.write_bytes(content)
        return self.give(path)

    def url(self, path: Path | str) -> str:
        """URL of a file or directory on the data node."""
        return f"{self.auth}/TEST:{path}"

    @property
    def ca(self) -> str:
        """The certificate to trust."""
        return str(self.ready["ca"])

    def log(self) -> str:
        """What it has logged so far."""
        return (Path(self.ca).parent / "uftpd.log").read_text()

    @property
    def ftp(self) -> tuple[str, int]:
        """Where the data node serves FTP."""
        host, _, port = self.ready["nodes"]["TEST"].rpartition(":")
        return host, int(port)


@contextlib.contextmanager
def running_site(
    people: Sequence[Person], *, as_root: bool, options: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> Iterator[Site]:
    """A site; when the block ends it is stopped and must leave nothing.

    Args:
        people: whose accounts it serves; not as root, it runs as the first and serves only that one.
        as_root: whether it serves all.
        options: further ones of `uftpd standalone`.
        variables: further ones of its environment.
    """
    root = Path(tempfile.mkdtemp(prefix="uftp-site-"))
    root.chmod(0o755)
    served = {person.name: person for person in (people if as_root else people[:1])}
    owner = people[0]
    drop = not as_root and os.geteuid() != owner.uid
    state = root / "state"
    state.mkdir(0o700)
    work = root / "work"
    work.mkdir()
    if drop:
        os.chown(state, owner.uid, owner.gid)
    site = Site(served, "", work, {}, as_root)
    command = [sys.executable, str(_RUNNER), *((str(owner.uid), str(owner.gid)) if drop else ("-1", "-1"))]
    command += ["standalone", "--state", str(state), "--ready-json"]
    command += ["--auth-port", "0", "--ftp-port", "0", "--command-port", "0", *options]
    for name in served:
        command += ["--user", f"{name}:{site.password(name)}"]
        if as_root:
            command += ["--map", f"{name}:{name}"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(owner.home), "TZ": "UTC", **(variables or {})}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", env=environment, start_new_session=True
    )
    try:
        site.ready.update(_ready(process))
        site.auth = site.ready["auth"]
        site.pid = process.pid
        yield site
        _stop(process)
        _check_log((state / "uftpd.log").read_text(), site.allowed)
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        shutil.rmtree(root)


def _ready(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    assert process.stderr is not None
    readable, _, _ = select.select([process.stdout], [], [], _SECONDS)
    line = process.stdout.readline() if readable else b""
    assert line, f"did not start: {process.stderr.read().decode() if readable else 'no sign of life'}"
    facts = json.loads(line)
    assert isinstance(facts, dict)
    return facts


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(_SECONDS) == 0
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and _session(pid) == str(process.pid)]
    assert not left, f"processes were left behind: {left}"


def _session(pid: str) -> str | None:
    """The session a process belongs to; None if it is gone or nobody has collected it yet."""
    try:
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[3]


def _check_log(text: str, allowed: Sequence[str]) -> None:
    lines = [line for line in text.splitlines() if not any(part in line for part in allowed)]
    bad = [line for line in lines if " error " in line or "Traceback" in line]
    assert not bad, bad

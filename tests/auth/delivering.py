"""Shares of a real site, fetched by the programs people fetch with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from uftp_site import Site

SECONDS = 60.0
ANYBODY = "CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN"


@dataclass(frozen=True)
class Reply:
    """What curl got.

    Attributes:
        status: of the last reply.
        headers: names in lower case.
        body: as it came.
        code: exit code of curl.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    code: int

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Delivering:
    """A site with sharing.

    Attributes:
        site: auth server and data node.
        work: a directory for what is fetched.
    """

    site: Site
    work: Path
    _count: int = field(default=0)

    @property
    def ca(self) -> str:
        return str(self.site.ready["ca"])

    @property
    def root(self) -> str:
        return self.site.auth.removesuffix("/rest/auth")

    def curl(self, *arguments: str, stdin: bytes | None = None, ok: bool = True) -> Reply:
        """Run curl. The address must be the last argument."""
        self._count += 1
        heads, body = self.work / f"heads{self._count}", self.work / f"body{self._count}"
        command = ["curl", "-sS", "--cacert", self.ca, "--max-time", str(SECONDS), "--path-as-is"]
        command += ["-D", str(heads), "-o", str(body), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=2 * SECONDS, check=False)
        assert not ok or done.returncode == 0, (done.returncode, done.stderr)
        blocks = heads.read_bytes().decode("latin-1").split("\r\n\r\n") if heads.exists() else [""]
        last = [block for block in blocks if block.strip()]
        lines = last[-1].split("\r\n") if last else ["HTTP/1.1 0"]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        content = body.read_bytes() if body.exists() else b""
        return Reply(int(lines[0].split()[1]), headers, content, done.returncode)

    def share(self, path: Path | str, *, person: str | None = None, **fields: object) -> str:
        """Share a path; returns the address of the share."""
        name = person or self.site.first
        text = str(path)
        if Path(text).is_dir() and not text.endswith("/"):
            text += "/"
        body = {"path": text, "user": ANYBODY, "access": "READ"} | fields
        made = self.curl(
            "-u",
            f"{name}:{self.site.password(name)}",
            "-H",
            "Content-Type: application/json",
            "-d",
            json.dumps(body),
            f"{self.root}/rest/share/TEST",
        )
        assert made.status == 201, (made.status, made.body)
        return made.headers["location"].replace("/rest/share/", "/rest/access/")

    def count(self, url: str) -> int:
        """How often a share was used."""
        name = self.site.first
        where = url.replace("/rest/access/", "/rest/share/")
        found = self.curl("-u", f"{name}:{self.site.password(name)}", where).json()
        count = found["share"]["accessCount"]
        assert isinstance(count, int)
        return count

    def gone(self, url: str) -> bool:
        """Whether a share is over."""
        return self.curl("-I", url).status == 404

    def directory(self) -> Path:
        """A fresh directory on the node."""
        return self.site.directory()

    def file(self, path: Path, content: bytes) -> Path:
        """A file on the node, with the directories on the way."""
        missing = [step for step in reversed(path.parents) if not step.exists()]
        for step in missing:
            step.mkdir()
            self.site.give(step)
        return self.site.file(path, content)

    def logged(self, *words: str) -> str:
        """The first line of the log that has all these words; waits for it."""
        log = self.site.root.parent / "state" / "uftpd.log"
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for line in log.read_text().splitlines():
                if all(word in line for word in words):
                    return line
            time.sleep(0.05)
        raise AssertionError(f"no line with {words}")

    def processes(self) -> set[int]:
        """Ids of the site's processes: what descends from its first one."""
        parents = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                    if fields[0] != "Z":
                        parents[int(name)] = int(fields[1])
        found = {int(self.site.ready["pid"])}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def kill_sessions(self) -> None:
        """Kill -9 what serves the files of the first person; at least one process must be there."""
        if not self.site.as_root:
            pytest.skip("only as root can a session be told from the server's other processes")
        uid = str(self.site.people[self.site.first].uid)
        killed = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                status = Path("/proc", str(pid), "status").read_text()
                if next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1] == uid:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        assert killed

"""Two sites that know nothing of each other but that each lets its data node copy from and to the other's.

Each is an auth server and a data node, as `uftpd standalone` starts them; as root the first serves files of one Unix
user and the second those of another. The first is 127.0.0.1, the second 127.0.0.2, so that "the other site" can be said
by an address alone: each is started with `--allow-peer` of the other's. Connections between them come from 127.0.0.1.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import re
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_node import Person, made_accounts
from raw_ftp import RawFtp, eventually
from uftp_site import Site, running_site

FIRST_HOST, SECOND_HOST = "127.0.0.1", "127.0.0.2"
PATIENCE = 30.0  # seconds for a copy to end; far above what any of these takes
_STARTED = re.compile(rb"299 OK transfer-process-ID=([0-9]+)\r\n")
_STATUS = re.compile(rb"299 ([A-Z]+)(?: (.*))?\r\n")


@dataclass(frozen=True)
class Grant:
    """A login at a data node.

    Attributes:
        host, port: of the data node.
        secret: the one-time password.
        key: the session key; empty if none was asked for.
    """

    host: str
    port: int
    secret: str
    key: bytes = b""

    @property
    def address(self) -> str:
        """As the commands take it."""
        return f"{self.host}:{self.port}"


def ask(site: Site, directory: Path | str, user: str | None = None, **members: Any) -> Grant:
    """A one-time password from the site's auth server.

    Args:
        site: which.
        directory: base of the session; all of the file system if empty.
        user: login name, by default the first.
        members: of the request, CONTROL-PLANE 2.1: `persistent`, `streams`, `compress`, `encryptionKey` and so on.
    """
    name = user or site.first
    return ask_at(f"{site.auth}/TEST", site.ca, f"{name}:{site.password(name)}", directory, **members)


def ask_at(url: str, ca: str, login: str, directory: Path | str, **members: Any) -> Grant:
    """The same from the service at `url`, as `NAME:PASSWORD`."""
    body = {"serverPath": f"{directory}/" if directory else "", "persistent": False, **members}
    credential = base64.b64encode(login.encode()).decode()
    headers = {"Authorization": f"Basic {credential}", "Content-Type": "application/json", "Accept": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=ca), timeout=PATIENCE) as reply:
        granted = json.load(reply)
    key = base64.b64decode(members.get("encryptionKey") or "")
    return Grant(granted["serverHost"], int(granted["serverPort"]), granted["secret"], key)


@contextlib.contextmanager
def session(grant: Grant) -> Iterator[RawFtp]:
    """A control connection that has logged in."""
    with RawFtp((grant.host, grant.port)) as ftp:
        ftp.log_in(grant.secret)
        yield ftp


@dataclass(frozen=True)
class Status:
    """What RCP-STATUS says: the word, and its facts as text."""

    word: str
    facts: dict[str, str]


def started(reply: bytes) -> int:
    """The id of a copy that has been started."""
    match = _STARTED.fullmatch(reply)
    assert match, reply
    return int(match[1])


def status(ftp: RawFtp, number: int) -> Status:
    """RCP-STATUS."""
    match = _STATUS.fullmatch(reply := ftp.command(f"RCP-STATUS {number}"))
    assert match, reply
    facts = (match[2] or b"").decode().split(";")
    return Status(match[1].decode(), dict(fact.split("=", 1) for fact in facts if fact.strip()))


def wait_for_end(ftp: RawFtp, number: int) -> Status:
    """What a copy has come to, when it has."""
    found: list[Status] = []

    def over() -> bool:
        found[:] = [status(ftp, number)]
        return found[0].word != "RUNNING"

    eventually(over, PATIENCE, f"the end of copy {number}")
    return found[0]


@dataclass
class TwoSites:
    """Both of them, see the module."""

    first: Site
    second: Site

    def __iter__(self) -> Iterator[Site]:
        return iter((self.first, self.second))


@contextlib.contextmanager
def two_sites(*options: str) -> Iterator[TwoSites]:
    """Start both; when the block ends they are stopped and must leave nothing.

    Args:
        options: further ones of `uftpd standalone`, for both.
    """
    as_root = os.geteuid() == 0
    with ExitStack() as undo:
        own = Person.find(pwd.getpwuid(os.geteuid()).pw_name)
        people = undo.enter_context(made_accounts("xy")) if as_root else (own, own)
        hosts = (FIRST_HOST, SECOND_HOST)
        sites = [
            undo.enter_context(
                running_site([person], as_root=as_root, options=["--host", host, "--allow-peer", other, *options])
            )
            for person, host, other in zip(people, hosts, reversed(hosts), strict=True)
        ]
        yield TwoSites(*sites)

"""What a copy between servers is told: the places, how to copy, who wants to know, and the copy once it runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl, is_url, parse_url
from uftp.client.wording import printable
from uftp.errors import UsageError
from uftp.transfer.copy import Access
from uftp.transfer.options import ByteRange

Way = Literal["receive", "send"]
"""Which side runs a copy: the target's server receives, or the source's sends."""

_HTTPS: Final = re.compile(r"https://[^/]+(/.*)?", re.IGNORECASE | re.DOTALL)
# What people get who are sent a link; the notation of places has a colon behind it.
_LINK: Final = re.compile(r"https://[^/]+(/[^:]*)?/rest/access/[^/:]+/[\w-]+(/[^:]*)?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place on a server that one logs in at.

    Attributes:
        url: where.
        access: who one is there, and how data travels.
    """

    url: RemoteUrl
    access: Access

    def display(self, path: bytes | None = None) -> str:
        """For a person."""
        return self.url.display(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class BarePlace:
    """A path on a server for which somebody has a one-time password already.

    Attributes:
        host, port: its FTP port.
        secret: the password.
        path: there.
        logins: how many logins the password is good for.
    """

    host: str
    port: int
    secret: str = field(repr=False)
    path: bytes
    logins: int = 1

    def display(self, path: bytes | None = None) -> str:
        """For a person."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}:{printable(self.path if path is None else path)}"


@dataclass(frozen=True, slots=True)
class WebPlace:
    """An https URL, of a share for instance."""

    url: str

    def display(self, path: bytes | None = None) -> str:
        """For a person."""
        return printable(self.url if path is None else path)


Source = Place | BarePlace | WebPlace
Target = Place | BarePlace


AccessOf = Callable[[RemoteUrl], Access]


def read_source(text: str, access: AccessOf) -> Place | WebPlace:
    """A source as typed: a place on a server, or any other https URL, that of a share for instance.

    Args:
        text: a URL.
        access: how a server is reached.

    Raises:
        UsageError: nothing can be copied from there.
    """
    if _LINK.fullmatch(text):
        return WebPlace(text)
    try:
        return read_place(text, access)
    except UsageError:
        if "/rest/auth" in text or not _HTTPS.fullmatch(text):
            raise
    if "@" in text.split("/", 3)[2]:
        raise UsageError("the URL has a user name in it: it would be sent to the server that fetches; leave it out")
    return WebPlace(text)


def read_place(text: str, access: AccessOf) -> Place:
    """A place on a server as typed.

    Raises:
        UsageError: it is none, or on a server that has no part in such copies.
    """
    if not is_url(text):
        raise UsageError(f"{text}: not a URL; both sides of such a copy are servers. From and to here copies `uftp cp`")
    url = parse_url(text)
    if url.kind == "ftp":
        raise UsageError(
            f"{url.display()}: a plain FTP server gives no one-time passwords, so no other server can log in there; "
            "`uftp cp` copies by way of this machine"
        )
    return Place(url=url, access=access(url))


@dataclass(frozen=True, slots=True, kw_only=True)
class BetweenOptions:
    """How to copy.

    Attributes:
        recursive: directories with all that is in them.
        preserve: keep times and permission bits.
        verify: compare each file with its source.
        resume: go on where an interrupted copy of the same ended, and keep for that what an interrupt leaves.
        threads: sessions at once; None for what helps.
        byte_range: copy only this part of a file, to the same place of the target.
        limit_rate: bytes per second at most; 0 for no limit.
        send_file: have the source's server run the copy, whatever the target's could do.
        peer_addresses: further addresses from which the server that runs the copy reaches the other one.
        stall_seconds: without a report: how long nothing may change before a copy is taken for dead.
    """

    recursive: bool = False
    preserve: bool = False
    verify: bool = True
    resume: bool = True
    threads: int | None = None
    byte_range: ByteRange | None = None
    limit_rate: int = 0
    send_file: bool = False
    peer_addresses: tuple[str, ...] = ()
    stall_seconds: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy that a server runs.

    Attributes:
        id: its number there.
        host, port: the data node's FTP port, as it was reached.
        at: the place whose server it is.
        source, target: what is copied where.
        way: which of the two runs it.
        tells: whether the server says how it stands, and can end it.
    """

    id: int
    host: str
    port: int
    at: Place
    source: Source
    target: Target
    way: Way
    tells: bool = True

    @property
    def server(self) -> str:
        """Host and port of the node."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def runs_on(self, session: FTPSession) -> bool:
        """Whether this is the node a session is on."""
        return (session.control.host, session.control.port) == (self.host, self.port)

    def to_json(self) -> dict[str, object]:
        """The members of a line of `--json` output."""
        return {
            "type": "copy",
            "id": str(self.id),
            "server": self.server,
            "url": self.at.url.service,
            "source": self.source.display(),
            "target": self.target.display(),
        }


@dataclass(slots=True)
class Listeners:
    """Who is told what happens to copies.

    Attributes:
        started: a server has begun one.
        ended: it is over, with the word of EXTENSIONS 3, or as far as could be seen.
        stopped: somebody has interrupted the wait; what became of the copy, for a person.
    """

    started: Callable[[Copy], None] = lambda copy: None
    ended: Callable[[Copy, str], None] = lambda copy, word: None
    stopped: Callable[[Copy, str], None] = lambda copy, text: None

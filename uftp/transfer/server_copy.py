"""A copy that a server runs itself: with another server, or from an https URL (DATA-PLANE 12, EXTENSIONS 3).

The engine is the one of any copy; only how sessions come about differs: by logging in at addresses that somebody else
has vetted, with a one-time password that is good for so many logins. Runs as the user in a process that has no
terminal and maybe no home directory, and says what happens through its `CopyState` alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from uftp.client.layers import LegacyCipher
from uftp.transfer.options import CopyOptions
from uftp.transfer.results import CopyState, CopySummary

Connect = Callable[[str], Awaitable[tuple[str, ...]]]
"""Asked before each connection of a fetch, redirects included, with the URL: the addresses (IP literals) that may be
connected to for it, at least one. Raises UFTPError if the site does not allow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLogin:
    """The other server, and how it lets us in.

    Attributes:
        addresses: IP literals, vetted, tried in order. Nothing else is connected to.
        port: of its FTP control connection.
        secret: one-time password.
        logins: how many logins it is good for, in all. With one there is one session, and no second try on another.
        key: session key that both servers were given; empty for none.
        cipher: what the key encrypts with where there is no MODE U; empty with a key: MODE U or nothing.
        compress: whether both servers' requests ask for gzip where there is no MODE U; zstd in MODE U.
        streams: data connections of one transfer where there is no MODE U.
        encrypt: whether data moves in MODE U with AES-256-GCM, or not at all. Needs a key.
        zstd: whether records are compressed in MODE U; without MODE U it has no effect.
        name: host and port for messages, as the person named them; by default the first address.
    """

    addresses: tuple[str, ...]
    port: int
    secret: str = field(repr=False)
    logins: int = 1
    key: bytes = field(default=b"", repr=False)
    cipher: LegacyCipher | None = None
    compress: bool = False
    streams: int = 1
    encrypt: bool = False
    zstd: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCopy:
    """What is copied.

    Attributes:
        send: from here to the other server; else the other way.
        local: absolute path here. Of a session confined to its base: `/proc/self/fd/N` of an open source, or
            `/proc/self/fd/N/NAME` of a target, of which no link is followed then.
        remote: path on the other server; from its session's start if it is relative.
        exact: both paths are names of files, as they are: no wildcards, no directories, no "into that directory".
            Otherwise the rules of `cp` hold, for the source's wildcards, too.
        local_name: what messages call `local` instead; None for itself.
        options: how. `byte_range` with `in_place` writes at the same offsets of the target.
        resume: whether a journal is kept, and an interrupted copy of the same gone on with.
    """

    send: bool
    local: bytes
    remote: bytes
    exact: bool = True
    local_name: bytes | None = None
    options: CopyOptions = field(default_factory=CopyOptions)
    resume: bool = False


async def run_server_copy(
    copy: ServerCopy, peer: PeerLogin, state: CopyState, *, keep: Callable[[], bool] = lambda: True
) -> CopySummary:
    """Copy between this server and another one.

    Args:
        copy, peer: what, and with whom.
        state: totals to watch, and who is told of results and notes.
        keep: asked when the copy is cancelled: whether what `resume` could go on with stays. Without `resume` nothing
            ever does.

    Returns:
        What became of each file; failed ones do not raise.

    Raises:
        AuthenticationFailed: the other server does not, or no longer, take the one-time password.
        UFTPError: nothing could be copied: no session, a source that is not there, no encryption to be had.
    """
    raise NotImplementedError


async def run_fetch(
    url: str,
    local: bytes,
    exact: bool,
    options: CopyOptions,
    state: CopyState,
    connect: Connect,
    *,
    local_name: bytes | None = None,
    resume: bool = False,
    keep: Callable[[], bool] = lambda: True,
) -> CopySummary:
    """Fetch an https URL, or what the link of a share leads to.

    Args:
        url: where from.
        local, exact, local_name, resume: as of `ServerCopy`.
        options: how; a directory (of a share) needs `recursive`.
        state, keep: as for `run_server_copy`.
        connect: which addresses may be connected to.

    Returns:
        What became of each file; failed ones do not raise.

    Raises:
        UFTPError: nothing could be fetched.
    """
    raise NotImplementedError

"""A copy that a server runs itself: with another server, or from an https URL (DATA-PLANE 12, EXTENSIONS 3).

The engine is the one of any copy; only how sessions come about differs: by logging in at addresses that somebody else
has vetted, with a one-time password that is good for so many logins. Runs as the user in a process that has no
terminal and maybe no home directory, and says what happens through its `CopyState` alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from uftp.client.control import ControlConnection, open_control
from uftp.client.layers import LegacyCipher
from uftp.client.login import SessionOptions, log_in_on
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl, has_wildcards
from uftp.client.wording import printable
from uftp.errors import AuthenticationFailed, NetworkError, Refused, UFTPError, UsageError
from uftp.transfer import upload_plan
from uftp.transfer.carrying import LoneSource, bring, make_pool, send
from uftp.transfer.download_plan import LoneTarget
from uftp.transfer.local import ExistingFile, NewFile, Target, local_error, open_target
from uftp.transfer.options import CopyOptions
from uftp.transfer.plan import Root
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState, CopySummary, FileResult

_DESCRIPTOR: Final = re.compile(rb"/proc/self/fd/([0-9]{1,9})(?:/([^/]+))?")

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
    options = replace(copy.options, resume=None if copy.resume else False, most_sessions=peer.logins)
    logins = _Logins(peer, copy, options)
    with _Naming(copy.local, copy.local_name).of(state):
        async with make_pool(logins.open, state, options, may_open=logins.may_open) as pool:
            if copy.send:
                await _send(pool, copy, peer, options, state, keep)
            else:
                await _receive(pool, copy, peer, options, state, keep)
    return state.summary()


async def _send(
    pool: SessionPool,
    copy: ServerCopy,
    peer: PeerLogin,
    options: CopyOptions,
    state: CopyState,
    keep: Callable[[], bool],
) -> None:
    url = _place(peer, copy.remote)
    local = _absolute(copy.local)
    if not copy.exact:
        roots = await trio.to_thread.run_sync(upload_plan.find_roots, [local], options, state)
        if roots:
            await send(pool, url, [os.fsdecode(local)], roots, options, state, keep=keep)
        return
    await trio.to_thread.run_sync(_check_source, local)
    root = Root(local, local.rpartition(b"/")[2], False)
    lone = LoneSource(path=local, shown=os.fsdecode(copy.local_name or local))
    await send(pool, url, [lone.shown], [root], options, state, lone=lone, keep=keep)


async def _receive(
    pool: SessionPool,
    copy: ServerCopy,
    peer: PeerLogin,
    options: CopyOptions,
    state: CopyState,
    keep: Callable[[], bool],
) -> None:
    url = _place(peer, copy.remote)
    local = _absolute(copy.local)
    if not copy.exact:
        if has_wildcards(copy.remote):
            async with pool.session() as session:
                itself = await session.stat_or_none(copy.remote)
            if itself is None:
                url = replace(url, pattern=copy.remote)
        await bring(pool, [url], os.fsdecode(local), options, state, keep=keep)
        return
    lone = await trio.to_thread.run_sync(_lone_target, copy, local)
    await bring(pool, [url], lone.shown, options, state, lone=lone, keep=keep)


def _place(peer: PeerLogin, path: bytes) -> RemoteUrl:
    """A path on the other server, for messages as `host:port:path`."""
    return RemoteUrl(kind="auth", service=_name(peer), path=path)


def _name(peer: PeerLogin) -> str:
    if peer.name or not peer.addresses:
        return peer.name
    return f"[{peer.addresses[0]}]:{peer.port}" if ":" in peer.addresses[0] else f"{peer.addresses[0]}:{peer.port}"


def _absolute(path: bytes) -> bytes:
    """A path that cannot be taken for something else, as `-` for standard input."""
    if not path or b"\0" in path:
        raise UsageError(f"{printable(path)}: no file name")
    return path if path.startswith(b"/") else os.path.join(os.getcwdb(), path)


def _check_source(path: bytes) -> None:
    try:
        is_dir = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        raise local_error(error, path, "read it") from error
    if is_dir:
        raise UsageError(f"{printable(path)}: is a directory")


# -- exact targets --------------------------------------------------------------------------------------------------


def _lone_target(copy: ServerCopy, local: bytes) -> LoneTarget:
    """The target of one file.

    Raises:
        UFTPError: it cannot be one.
    """
    byte_range = copy.options.byte_range
    in_place = byte_range is not None and byte_range.in_place
    shown = os.fsdecode(copy.local_name or local)
    given = _DESCRIPTOR.fullmatch(local)
    if given is None:

        def open_it(part: bytes | None = None) -> Target:
            return open_target(local, in_place=in_place, part=part)

        special = os.path.exists(local) and not os.path.isfile(local)
        if special and os.path.isdir(local):
            raise UsageError(f"{printable(local)}: is a directory")
        return LoneTarget(open=open_it, shown=shown, place=local, special=special)
    number, name = int(given[1]), given[2]
    try:
        place = os.readlink(b"/proc/self/fd/%d" % number)
    except OSError as error:
        raise local_error(error, local, "write there") from error
    if name is None:

        def open_this(part: bytes | None = None) -> Target:
            return ExistingFile(local)

        if not in_place:
            raise UsageError(f"{printable(local)}: an open file can only be written in place")
        return LoneTarget(open=open_this, shown=shown, place=place)

    def open_below(part: bytes | None = None) -> Target:
        return ExistingFile(name, number) if in_place else NewFile(number, name, part)

    return LoneTarget(open=open_below, shown=shown, place=os.path.join(place, name))


# -- names in messages ----------------------------------------------------------------------------------------------


class _Naming:
    """Has messages call local files what the person does.

    Args:
        local: what the copy opens.
        shown: what it is called; None for itself.
    """

    def __init__(self, local: bytes, shown: bytes | None) -> None:
        same = 0
        if shown is not None:
            while same < min(len(local), len(shown)) and local[-1 - same] == shown[-1 - same]:
                same += 1
            # At whole names: of /srv/al and /home/al the ends are "/al".
            tail = local[len(local) - same :]
            same = len(tail) - tail.find(b"/") if b"/" in tail else 0
        self._ours = printable(local[: len(local) - same]) if shown is not None else ""
        self._theirs = printable(shown[: len(shown) - same]) if shown is not None else ""

    def text(self, said: str) -> str:
        """`said` in the person's terms."""
        return said.replace(self._ours, self._theirs) if self._ours else said

    def error(self, error: UFTPError) -> UFTPError:
        """The same."""
        error.args = (self.text(str(error)), *error.args[1:])
        return error

    @contextlib.contextmanager
    def of(self, state: CopyState) -> Iterator[None]:
        """For the block: what `state` is told, and what is raised."""
        on_result, on_note = state.on_result, state.on_note

        def result(one: FileResult) -> None:
            error = None if one.error is None else self.error(one.error)
            on_result(replace(one, source=self.text(one.source), target=self.text(one.target), error=error))

        if self._ours:
            state.on_result, state.on_note = result, lambda text: on_note(self.text(text))
        try:
            yield
        except UFTPError as error:
            self.error(error)
            raise
        finally:
            state.on_result, state.on_note = on_result, on_note


# -- sessions -------------------------------------------------------------------------------------------------------


class _Logins:
    """Opens sessions on the other server, as often as its one-time password is good for.

    Args:
        peer: the other server.
        copy, options: of the copy.
    """

    def __init__(self, peer: PeerLogin, copy: ServerCopy, options: CopyOptions) -> None:
        self._peer = peer
        self._left = max(1, peer.logins)
        self._last: FTPSession | None = None
        self._options = SessionOptions(
            # A link that stands in a tree could lead anywhere; one that is named is followed.
            replace_links=not copy.exact,
            encrypt=peer.encrypt,
            legacy_cipher=None if peer.encrypt else peer.cipher,
            streams=max(1, peer.streams),
            key=peer.key,
            compress=peer.compress,
            compress_records=peer.zstd,
            digest=options.verify,
        )

    def may_open(self) -> bool:
        """Whether there is a login left."""
        return self._left > 0

    async def open(self) -> FTPSession:
        """A new session.

        Raises:
            AuthenticationFailed: the password is not taken, or used up.
            UFTPError: no connection, or not as wanted.
        """
        name = _name(self._peer)
        if not self._left:
            lost = "" if self._last is None else f" ({self._last.control.why_broken})"
            raise AuthenticationFailed(
                f"{name}: the session was lost{lost}, and the one-time password is good for no further login"
            )
        self._left -= 1
        try:
            control = await self._connect(name)
        except BaseException:
            self._left += 1  # the other server has not seen the password
            raise
        try:
            session = await log_in_on(control, user="anonymous", password=self._peer.secret, options=self._options)
        except (AuthenticationFailed, Refused) as error:
            # "Session for these credentials is already running": of a password good for one (DATA-PLANE 1.6).
            if isinstance(error, Refused) and "already running" not in str(error):
                raise
            self._left = 0
            raise AuthenticationFailed(
                f"{name}: the other server does not take the one-time password, or no longer: {error}"
            ) from error
        self._last = session
        return session

    async def _connect(self, name: str) -> ControlConnection:
        """Connect to the first address that answers."""
        error: UFTPError = NetworkError(f"{name}: no address that may be connected to")
        for address in self._peer.addresses:
            try:
                return await open_control(
                    address,
                    self._peer.port,
                    name=name,
                    connect_timeout=self._options.connect_timeout,
                    reply_timeout=self._options.reply_timeout,
                )
            except NetworkError as trouble:
                error = trouble
        raise error


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
    tls: ssl.SSLContext | None = None,
) -> CopySummary:
    """Fetch an https URL, or what the link of a share leads to.

    Args:
        url: where from.
        local, exact, local_name, resume: as of `ServerCopy`. Of a confined session `/proc/self/fd/N/NAME`.
        options: how; a directory (of a share) needs `recursive`.
        state, keep: as for `run_server_copy`.
        connect: which addresses may be connected to.
        tls: whom to trust; None for the system's authorities.

    Returns:
        What became of each file; failed ones of a tree do not raise.

    Raises:
        UFTPError: nothing could be fetched.
    """
    from uftp.transfer.url_fetch import Fetch, fetch

    wanted = Fetch(
        url=url,
        local=_absolute(local),
        exact=exact,
        local_name=local_name,
        options=options,
        resume=resume,
        keep=keep,
    )
    with _Naming(local, local_name).of(state):
        await fetch(wanted, state, connect, tls)
    state.completed = True
    return state.summary()

"""Copies from one server to another: the data goes straight from one to the other, and this side only asks for it.

One of the two runs the copy. It logs in at the other one with a one-time password that was asked for on its behalf,
and good for its address only. A server of ours is preferred, at the receiving end first: it copies trees, tries again,
compares, and tells what became of it. Two older servers are told file by file; see `between_old`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final, Self

import trio

from uftp.client import server_copies
from uftp.client.layers import new_key
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl, directory_around, session_directory
from uftp.client.wording import printable
from uftp.errors import Refused, UFTPError, UsageError
from uftp.protocol.server_copies import MAX_LOGINS, CopyWords
from uftp.transfer.between_old import OldServers
from uftp.transfer.between_places import (
    BarePlace,
    BetweenOptions,
    Copy,
    Listeners,
    Place,
    Source,
    Target,
    Way,
    WebPlace,
)
from uftp.transfer.between_sides import Wired, addresses_of
from uftp.transfer.between_watch import Watcher
from uftp.transfer.results import CopyState, CopySummary, FileResult

_ONE_FILE: Final = "only single files"  # so our servers refuse trees where a session is confined to some paths
_START_SECONDS: Final = 60.0  # a server that was asked to begin looks up the other one first


async def copy_between(
    sources: Sequence[Source],
    target: Target,
    *,
    options: BetweenOptions | None = None,
    state: CopyState | None = None,
    listeners: Listeners | None = None,
) -> CopySummary:
    """Copy files and trees from servers to a server, and wait for it. Cancelled, it ends the copy at the server, too.

    Args:
        sources: places with or without wildcards.
        target: as for `copy_files`.
        options: how.
        state: totals to watch while it runs, and who is told of failures.
        listeners: who is told of the copies themselves.

    Returns:
        What became of the files. Success is never said unseen.

    Raises:
        UsageError: places between which nothing can be copied.
        UFTPError: nothing could be copied.
    """
    state = state or CopyState()
    async with _Errands(target, options or BetweenOptions(), state, listeners or Listeners()) as errands:
        await errands.check(sources)
        for number, source in enumerate(sources, 1):
            try:
                await errands.copy(source, last=number == len(sources))
            except UFTPError as error:
                if len(sources) == 1 or isinstance(error, UsageError):
                    raise
                state.files_found += 1
                errands.fail(source, error)
    state.planned = True
    return state.summary()


async def start_between(
    sources: Sequence[Source],
    target: Target,
    *,
    options: BetweenOptions | None = None,
    state: CopyState | None = None,
    listeners: Listeners | None = None,
) -> list[Copy]:
    """As `copy_between`, without waiting: what becomes of the copies is for others to look after.

    Returns:
        What was started, in the order of the sources.

    Raises:
        UFTPError: one could not be started; those before it run, and `listeners` have been told of them.
    """
    options = options or BetweenOptions()
    async with _Errands(target, options, state or CopyState(), listeners or Listeners()) as errands:
        await errands.check(sources)
        return [copy for source in sources for copy in await errands.start(source)]


def as_pattern(url: RemoteUrl) -> bytes:
    """A source as a server takes it that reads wildcards: those that were typed as %XX stand for themselves."""
    if url.pattern is not None:
        return url.pattern
    escaped = b"".join(b"[%c]" % byte if byte in b"*?[" else bytes([byte]) for byte in url.path)
    return escaped or b"."


class _Errands:
    """The copies of one call, one after the other."""

    def __init__(self, target: Target, options: BetweenOptions, state: CopyState, listeners: Listeners) -> None:
        self._target = target
        self._options = options
        self._state = state
        self._listeners = listeners
        self._several = False
        self._key: bytes | None = None
        self._there: Wired | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        with trio.CancelScope(deadline=trio.current_time() + 10, shield=True):
            await self._stack.aclose()

    async def check(self, sources: Sequence[Source]) -> None:
        """Refuse what cannot be meant, before anything is begun.

        Raises:
            UsageError: see there.
        """
        if not sources:
            raise UsageError("nothing to copy")
        self._several = len(sources) > 1
        target, options = self._target, self._options
        if isinstance(target, Place) and target.url.pattern is not None:
            raise UsageError(f"{target.display()}: a target cannot have wildcards; write them as %2A, %3F or %5B")
        for source in sources:
            if isinstance(source, BarePlace | WebPlace) and isinstance(target, BarePlace):
                raise UsageError("neither side is a server one logs in at: one of them has to run the copy")
            if isinstance(source, WebPlace) and options.byte_range is not None:
                raise UsageError("-B copies a part of a file from one UFTP server to another; leave it out for a URL")
        if not self._several:
            return
        if options.byte_range is not None:
            raise UsageError("-B is for one file; name only one source with it")
        if isinstance(target, BarePlace) or any(isinstance(source, BarePlace) for source in sources):
            raise UsageError("a one-time password is good for one copy; copy the sources one by one")
        names = [_base_name(source) for source in sources]
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"two sources would get the name {printable(twice)}; copy them one after the other")
        if not target.url.path.endswith(b"/") and target.url.path:
            info = await (await self._target_side().session()).stat_or_none(target.url.path)
            if info is None or not info.is_dir:
                raise UsageError(
                    f"{target.display()}: several sources need a directory as target; create it, or write it with a "
                    "slash at the end"
                )

    # -- one source ---------------------------------------------------------------------------------------------------

    async def copy(self, source: Source, *, last: bool) -> None:
        """Copy one source, and wait for it.

        Raises:
            UFTPError: it could not be started, or was lost sight of.
        """
        async with self._begun(source) as begun:
            if isinstance(begun, OldServers):
                await begun.copy(last=last)
                return
            copy, side = begun
            watcher = Watcher(copy, side.again, self._state, keep=self._options.resume, last=last)
            try:
                word = await watcher.run(await side.session())
            finally:
                if watcher.stopped is not None:
                    self._listeners.stopped(copy, watcher.stopped)
            self._listeners.ended(copy, word)

    async def start(self, source: Source) -> list[Copy]:
        """Start the copy of one source.

        Raises:
            UFTPError: it could not be started.
        """
        async with self._begun(source) as begun:
            return await begun.start() if isinstance(begun, OldServers) else [begun[0]]

    def fail(self, source: Source, error: UFTPError) -> None:
        """Count a source that could not be copied, one of several."""
        self._state.record(FileResult(source=source.display(), target=self._target.display(), error=error))

    @contextlib.asynccontextmanager
    async def _begun(self, source: Source) -> AsyncIterator[tuple[Copy, Wired] | OldServers]:
        if isinstance(source, WebPlace):
            yield await self._fetch(source)
            return
        here = self._source_side(source) if isinstance(source, Place) else None
        try:
            yield await self._between(source, here)
        finally:
            if here is not None:
                with trio.CancelScope(deadline=trio.current_time() + 10, shield=True):
                    await here.aclose()

    async def _between(self, source: Place | BarePlace, here: Wired | None) -> tuple[Copy, Wired] | OldServers:
        """Begin it in the way both servers are good for."""
        refused: list[UFTPError] = []
        for way in self._ways(source):
            side = self._target_side() if way == "receive" else here
            assert side is not None  # noqa: S101 -- for the type checker: a way needs the side that runs it
            if not server_copies.can_copy_trees(await side.session()):
                continue
            try:
                return await self._start(way, side, source, here), side
            except Refused as error:
                # The other server may be allowed what this one is not.
                refused.append(error)
        if refused:
            raise _all_of(refused)
        way = self._ways(source)[0]
        old = OldServers(
            way,
            source=here or _bare(source),
            target=self._target_side() if isinstance(self._target, Place) else self._target,
            options=self._options,
            state=self._state,
            listeners=self._listeners,
            several=self._several,
        )
        await old.check()
        return old

    def _ways(self, source: Place | BarePlace) -> list[Way]:
        """Who may run it: the first one rather than the second.

        Raises:
            UsageError: nobody.
        """
        ways: list[Way] = []
        # Of a session on a share the auth server decides whom it is for: the one who asks.
        if isinstance(self._target, Place) and not _is_share(source):
            ways.append("receive")
        if isinstance(source, Place) and not _is_share(self._target):
            ways.append("send")
        if not ways:
            raise UsageError(
                "both sides are shares, which are opened for your machine only; copy through it with `uftp cp`"
            )
        return ["send"] if self._options.send_file and "send" in ways else ways

    # -- by a server of ours ------------------------------------------------------------------------------------------

    async def _start(self, way: Way, side: Wired, source: Place | BarePlace, here: Wired | None) -> Copy:
        session = await side.session()
        peer = source if way == "receive" else self._target
        if isinstance(peer, Place):
            other = here if way == "receive" else self._target_side()
            assert other is not None  # noqa: S101 -- for the type checker: a place is wired
            grant = await other.secret(await addresses_of(session, self._options.peer_addresses), persistent=True)
            host, port, secret, logins = grant.hosts[0], grant.port, grant.secret, MAX_LOGINS
            named = peer.url.service  # the same when another node of a group is to go on with the copy
        else:
            host, port, secret, logins = peer.host, peer.port, peer.secret, peer.logins
            named = ""
        part = self._options.byte_range
        exact = part is not None
        while True:
            origin, goal = await self._paths(source, exact=exact)
            words = replace(self._words(side, logins, exact=exact), named=named)
            await server_copies.set_copy_words(session, words)
            if part is not None:
                length = None if part.last is None else part.last - part.first + 1
                await server_copies.set_copy_range(session, part.first, length)
            elif (streams := side.place.access.session.streams) > 1 and session.records is None:
                await server_copies.set_copy_streams(session, streams)
            begin = server_copies.start_receive if way == "receive" else server_copies.start_send
            local, remote = (goal, origin) if way == "receive" else (origin, goal)
            try:
                with trio.CancelScope(deadline=trio.current_time() + _START_SECONDS, shield=True):
                    number = await begin(session, local, remote, host, port, secret)
                    return self._started(session, number, side, source, way)
            except Refused as error:
                if exact or _ONE_FILE not in str(error) or not await self._is_one_file(source, here):
                    raise
                exact = True  # in a session that is confined to some paths that is all there is
                continue
            raise Refused(f"{session.name}: no answer whether the copy was begun; look at the target before you go on")

    async def _is_one_file(self, source: Place | BarePlace, here: Wired | None) -> bool:
        if here is None or not isinstance(source, Place):
            return True  # nobody can look
        if source.url.pattern is not None:
            return False
        info = await (await here.session()).stat_or_none(source.url.path)
        return info is not None and not info.is_dir

    async def _fetch(self, source: WebPlace) -> tuple[Copy, Wired]:
        side = self._target_side()
        session = await side.session()
        if not server_copies.can_fetch(session):
            raise Refused(f"{session.name}: this server fetches no URLs; fetch it here, and copy it with `uftp cp`")
        words = replace(self._words(side, 1, exact=False), encrypt=False, compress=False)
        await server_copies.set_copy_words(session, words)
        with trio.CancelScope(deadline=trio.current_time() + _START_SECONDS, shield=True):
            number = await server_copies.start_fetch(session, self._goal(), source.url)
            return self._started(session, number, side, source, "receive"), side
        raise Refused(f"{session.name}: no answer whether the copy was begun; look at the target before you go on")

    def _started(self, session: FTPSession, number: int, side: Wired, source: Source, way: Way) -> Copy:
        control = session.control
        copy = Copy(
            id=number,
            host=control.host,
            port=control.port,
            at=side.place,
            source=source,
            target=self._target,
            way=way,
        )
        self._state.sessions += 1
        self._listeners.started(copy)
        return copy

    def _words(self, side: Wired, logins: int, *, exact: bool) -> CopyWords:
        options, data = self._options, side.place.access.session
        return CopyWords(
            trees=not exact,
            recursive=options.recursive and not exact,
            preserve=options.preserve,
            # With a cipher of old named, that will do where the other server has no better one: the key sees to it.
            encrypt=data.encrypt and data.legacy_cipher is None,
            compress=data.compress,
            verify=options.verify,
            resume=options.resume and options.byte_range is None,
            logins=logins,
            sessions=options.threads or 0,
            rate=options.limit_rate,
        )

    async def _paths(self, source: Place | BarePlace, *, exact: bool) -> tuple[bytes, bytes]:
        """Source and target as the copy is asked for them: by the rules of `cp`, or as exact names of files."""
        if not exact:
            origin = as_pattern(source.url) if isinstance(source, Place) else source.path
            return origin, self._goal()
        path = source.url.path if isinstance(source, Place) else source.path
        if isinstance(source, Place) and source.url.pattern is not None:
            raise UsageError(f"{source.display()}: -B is for one file; name it without wildcards")
        goal = self._target.url.path if isinstance(self._target, Place) else self._target.path
        if isinstance(self._target, Place) and not goal.endswith(b"/"):
            info = await (await self._target_side().session()).stat_or_none(goal)
            goal += b"/" if info is not None and info.is_dir and goal else b""
        if goal.endswith(b"/") or not goal:
            goal += path.rpartition(b"/")[2]
        return path, goal

    def _goal(self) -> bytes:
        path = self._target.url.path if isinstance(self._target, Place) else self._target.path
        if not path:
            return b"./" if self._several else b"."
        return path + b"/" if self._several and not path.endswith(b"/") else path

    # -- sides --------------------------------------------------------------------------------------------------------

    def _target_side(self) -> Wired:
        target = self._target
        assert isinstance(target, Place)  # noqa: S101 -- for the type checker: nobody asks of a bare one
        if self._there is None:
            directory = directory_around(target.url)
            self._there = Wired(target, directory, writes=True, key=self._key_for(target))
            self._stack.push_async_callback(self._there.aclose)
        return self._there

    def _source_side(self, source: Place) -> Wired:
        return Wired(source, session_directory([source.url]), writes=False, key=self._key_for(source))

    def _key_for(self, place: Place) -> bytes:
        """The key of this call: both servers need the same one, and so the same cipher."""
        if self._key is None:
            self._key = new_key(place.access.session)
        return self._key


def _base_name(source: Source) -> bytes:
    if isinstance(source, WebPlace):
        return source.url.partition("?")[0].rstrip("/").rpartition("/")[2].encode("utf-8", "surrogateescape")
    if isinstance(source, Place):
        return b"" if source.url.pattern is not None else source.url.path.rpartition(b"/")[2]
    return source.path.rpartition(b"/")[2]


def _is_share(place: Place | BarePlace) -> bool:
    return isinstance(place, Place) and place.url.kind == "access"


def _bare(source: Place | BarePlace) -> BarePlace:
    assert isinstance(source, BarePlace)  # noqa: S101 -- for the type checker
    return source


def _all_of(errors: Sequence[UFTPError]) -> UFTPError:
    if len(errors) == 1:
        return errors[0]
    first = errors[0]
    return Refused(f"{first}; and the other way round: {errors[1]}", code=getattr(first, "code", None))

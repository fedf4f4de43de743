"""Copies between servers of which none is ours: file by file, looked after from here (DATA-PLANE 12).

Such a server copies one file at a time and never says what became of it, so this side does the rest: it expands
wildcards, walks trees, makes directories, and watches the target grow. A file goes to a hidden name first and is given
its own one when it is as long as its source and, where both servers compute checksums, equal to it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import trio

from uftp.client import server_copies
from uftp.client.remote import RemoteEntry, Walk, expand, make_directories
from uftp.client.session import FTPSession
from uftp.client.wording import printable
from uftp.errors import NetworkError, NotFound, Refused, TransferFailed, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.protocol.names import part_name
from uftp.transfer.between_places import BarePlace, BetweenOptions, Copy, Listeners, Way
from uftp.transfer.between_sides import Wired, addresses_of
from uftp.transfer.between_watch import Watcher
from uftp.transfer.plan import Root, join, place
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.retrying import may_pass, wait_before

_FIRST_SECONDS: Final = 0.05  # between two looks
_LONGEST_SECONDS: Final = 3.0
_REPLY_SECONDS: Final = 20.0
_START_SECONDS: Final = 60.0
_OUTAGE_TRIES: Final = 20  # about a minute
_LOOKS: Final = 3  # at checksums that differ: the last bytes may be on their way to the disk
_ALGORITHMS: Final = ("BLAKE3", "SHA-512", "SHA-256", "SHA-1", "MD5")


@dataclass(frozen=True, slots=True)
class _File:
    """A file to copy: where it is, where it goes, and its facts."""

    source: bytes
    target: bytes
    info: FileInfo | None


class OldServers:
    """The copy of one source.

    Args:
        way: who is told to run the single copies.
        source, target: the sides; one of them may be bare.
        options, state, listeners: of the call.
        several: whether there are further sources.
    """

    def __init__(
        self,
        way: Way,
        *,
        source: Wired | BarePlace,
        target: Wired | BarePlace,
        options: BetweenOptions,
        state: CopyState,
        listeners: Listeners,
        several: bool,
    ) -> None:
        self._way = way
        self._source = source
        self._target = target
        self._options = options
        self._state = state
        self._listeners = listeners
        self._several = several
        self._tells: bool | None = None  # whether the server reports; nobody knows before it was asked

    async def check(self) -> None:
        """Refuse what such servers cannot do, before anything is begun.

        Raises:
            Refused: see there.
        """
        session = await self._runner().session()
        if not session.dialect.is_uftp:
            raise Refused(f"{session.name}: this server copies nothing to or from other ones")
        if self._options.byte_range is not None:
            # Upstream cuts the target to nothing first, and loses the last byte of the range.
            raise Refused(
                f"{session.name}: -B: this server would spoil the rest of the target; copy through this machine"
            )
        if self._options.limit_rate:
            raise Refused(f"{session.name}: --limit-rate: this server cannot be told how fast to copy")

    # -- the two ways to do it ----------------------------------------------------------------------------------------

    async def copy(self, *, last: bool) -> None:
        """Copy it, and see that it is there.

        Raises:
            UFTPError: nothing could be copied; single failures among several files are only counted.
        """
        source, target = self._source, self._target
        if isinstance(source, BarePlace) or isinstance(target, BarePlace):
            session = await self._runner().session()
            if not server_copies.can_report(session):
                raise Refused(
                    f"{session.name}: this server does not tell what becomes of a copy, and the side of the one-time "
                    "password cannot be looked at; --no-wait starts it, and leaves the looking to you"
                )
            await self._copy_bare()
            return
        named = 0
        async for file in self._files(source, target):
            named += 1
            self._state.files_found += 1
            self._state.bytes_found += file.info.size if file.info is not None else 0
            shown = (source.place.display(file.source), target.place.display(file.target))
            began = trio.current_time()
            try:
                moved = await self._copy_one(source, target, file)
            except UFTPError as error:
                self._state.record(FileResult(source=shown[0], target=shown[1], error=error))
                if isinstance(error, NetworkError):
                    await self._wait_for_servers(source, target)
                continue
            seconds = trio.current_time() - began
            self._state.record(FileResult(source=shown[0], target=shown[1], bytes=moved, seconds=seconds))
        self._state.planned = last

    async def start(self) -> list[Copy]:
        """Start it, under the final names, and leave it alone.

        Raises:
            UFTPError: it could not be started.
        """
        if isinstance(self._source, BarePlace) or isinstance(self._target, BarePlace):
            return [await self._start_bare()]
        copies = []
        async for file in self._files(self._source, self._target):
            copies.append(await self._start_one(file, file.target))  # noqa: PERF401
        return copies

    # -- what there is to do ------------------------------------------------------------------------------------------

    async def _files(self, source: Wired, target: Wired) -> AsyncIterator[_File]:
        """All files, directories for them made on the way."""
        here = await source.session()
        url = source.place.url
        if url.pattern is not None:
            entries = await expand(here, url.pattern, url.path)
        else:
            entries = [RemoteEntry(url.path, b"", await here.stat(url.path))]
        roots, infos = [], {}
        for entry in entries:
            if entry.info.is_dir and not self._options.recursive:
                if url.pattern is None:
                    raise UsageError(f"{url.display()}: is a directory; use -r to copy it with all that is in it")
                self._state.on_note(f"{url.display(entry.path)}: is a directory, left out; use -r to copy it")
                continue
            name = entry.path.rpartition(b"/")[2]
            roots.append(Root(entry.path, b"" if name in (b".", b"..") else name, entry.info.is_dir))
            infos[entry.path] = entry.info
        if not roots:
            return
        goal = target.place.url.path
        info = await (await target.session()).stat_or_none(goal)
        placement = place(
            roots,
            target=goal,
            target_is_dir=info is not None and info.is_dir,
            target_exists=info is not None,
            several=self._several,
        )
        if placement.into_directory and info is None and goal:
            await make_directories(await target.session(), goal.rstrip(b"/"))
        for item in placement.items:
            there = join(goal, item.relative)
            if not item.root.is_dir:
                yield _File(item.root.path, there, infos[item.root.path])
                continue
            async for file in self._tree(source, target, item.root.path, there):
                yield file

    async def _tree(self, source: Wired, target: Wired, top: bytes, there: bytes) -> AsyncIterator[_File]:
        lost: list[bytes] = []

        async def listing(path: bytes) -> list[FileInfo]:
            return await (await source.session()).listdir(path)

        def failed(path: bytes, error: UFTPError) -> None:
            self._state.files_found += 1
            self._state.record(FileResult(source=source.place.display(path), target="", error=error))

        async def make(relative: bytes, path: bytes) -> None:
            try:
                await make_directories(await target.session(), join(there, relative).rstrip(b"/"))
            except UFTPError as error:
                lost.append(relative)
                failed(path, error)

        if there:
            await make(b"", top)
        async for entry in Walk(listing, top, on_error=failed):
            if any(entry.relative.startswith(directory + b"/") or not directory for directory in lost):
                continue  # what it should be in could not be made, and was named
            if entry.info.is_dir:
                await make(entry.relative, entry.path)
            else:
                yield _File(entry.path, join(there, entry.relative), entry.info)

    # -- one file -----------------------------------------------------------------------------------------------------

    async def _copy_one(self, source: Wired, target: Wired, file: _File) -> int:
        """Copy a file and see that it is there; bytes moved.

        Raises:
            UFTPError: it is not, or nobody can tell.
        """
        assert file.info is not None  # noqa: S101 -- for the type checker: all that is listed has facts
        there = await target.session()
        if (old := await there.stat_or_none(file.target)) is not None and old.is_dir:
            raise UsageError(f"{target.place.display(file.target)}: is a directory")
        head, slash, _ = file.target.rpartition(b"/")
        part = head + slash + part_name(secrets.token_bytes(8))
        before = self._state.bytes_done
        copy: Copy | None = None
        try:
            copy = await self._start_one(file, part)
            await self._grown(copy, target, part, file.info.size, before)
            await self._compare(source, target, file, part)
            there = await target.session()
            if self._options.preserve:
                await self._keep_facts(there, part, file)
            with trio.CancelScope(deadline=trio.current_time() + _REPLY_SECONDS, shield=True):
                await there.rename(part, file.target)
                part = b""
        finally:
            if part and copy is not None:
                await self._take_away(copy, target, part)
        self._state.bytes_done = before + file.info.size
        self._listeners.ended(copy, "FINISHED")
        return file.info.size

    async def _start_one(self, file: _File, goal: bytes) -> Copy:
        """Have a file copied to `goal`; each copy needs a password of its own."""
        runner, other = self._runner(), self._other()
        session = await runner.session()
        assert isinstance(other, Wired)  # noqa: S101 -- for the type checker: bare sides are started elsewhere
        client = await addresses_of(session, self._options.peer_addresses)
        attempt = 0
        while True:
            try:
                grant = await other.secret(client, persistent=False)
                break
            except UFTPError as error:
                attempt += 1
                if attempt > 2 or not may_pass(error):
                    raise
                await trio.sleep(wait_before(attempt))
        paths = (file.source, goal)
        return await self._begin(session, grant.hosts[0], grant.port, grant.secret, paths)

    async def _begin(self, session: FTPSession, host: str, port: int, secret: str, paths: tuple[bytes, bytes]) -> Copy:
        runner = self._runner()
        streams = runner.place.access.session.streams
        with trio.CancelScope(deadline=trio.current_time() + _START_SECONDS, shield=True):
            if streams > 1 and session.records is None:
                await server_copies.set_copy_streams(session, streams)
            source, target = paths
            if self._way == "receive":
                number = await server_copies.start_receive(session, target, source, host, port, secret)
            else:
                number = await server_copies.start_send(session, source, target, host, port, secret)
            control = session.control
            ends = [end.place if isinstance(end, Wired) else end for end in (self._source, self._target)]
            copy = Copy(
                id=number,
                host=control.host,
                port=control.port,
                at=runner.place,
                source=ends[0],
                target=ends[1],
                way=self._way,
                tells=server_copies.can_report(session),
            )
            self._state.sessions += 1
            self._listeners.started(copy)
            return copy
        raise NetworkError(f"{session.name}: no answer whether the copy was begun")

    async def _grown(self, copy: Copy, target: Wired, path: bytes, size: int, before: int) -> None:
        """Wait until the target has `size` bytes.

        Raises:
            TransferFailed: the server says that it failed, or it has stopped growing.
        """
        pause, seen, since, failures = _FIRST_SECONDS, -1, trio.current_time(), 0
        while True:
            try:
                over = await self._is_over(copy)
                with trio.CancelScope(deadline=trio.current_time() + _REPLY_SECONDS, shield=True):
                    info = await (await target.session()).stat_or_none(path)
                    failures = 0
                    now = info.size if info is not None else -1
                    self._state.bytes_done = before + max(0, now)
                    if now == size:
                        return
                    if now > size or over:
                        raise TransferFailed(f"{_brought(now)} of {size} bytes arrived; the source may have changed")
                    if now != seen:
                        seen, since, pause = now, trio.current_time(), _FIRST_SECONDS
            except NetworkError:
                failures += 1
                if failures > _OUTAGE_TRIES:
                    raise
            self._check_stall(since, f"{_brought(seen)} of {size} bytes arrived, and then nothing")
            await trio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_SECONDS)

    def _check_stall(self, since: float, what: str) -> None:
        if trio.current_time() - since > self._options.stall_seconds:
            raise TransferFailed(
                f"{what} for {self._options.stall_seconds:.0f} s; servers of this kind do not say why. Can the one "
                "that copies reach the other one, and from an address that is known here (--peer-address)?"
            )

    async def _is_over(self, copy: Copy) -> bool:
        """Whether the server says that the copy has ended well; upstream says nothing.

        Raises:
            TransferFailed: it says that it failed.
        """
        if self._tells is False:
            return False
        try:
            with trio.CancelScope(deadline=trio.current_time() + _REPLY_SECONDS, shield=True):
                status = await server_copies.status(await self._runner().again(copy), copy.id)
                self._tells = True
                if status.word in ("FAILED", "ABORTED"):
                    raise TransferFailed(status.error or f"the server says {status.word}")
                return status.word == "FINISHED"
        except (Refused, NotFound):
            self._tells = False
        return False

    async def _compare(self, source: Wired, target: Wired, file: _File, path: bytes) -> None:
        """Compare a file that has come with its source.

        Raises:
            TransferFailed: they differ.
        """
        if not self._options.verify:
            return
        for look in range(_LOOKS):
            if await self._equal(source, target, file.source, path):
                return
            if look + 1 < _LOOKS:
                await trio.sleep(_LONGEST_SECONDS / 2)
        raise TransferFailed(f"{source.place.display(file.source)}: what arrived is not equal to it")

    async def _equal(self, source: Wired, target: Wired, first: bytes, second: bytes) -> bool:
        """Whether two files have the same checksum; counts what has none."""
        here, there = await source.session(), await target.session()
        algorithm = _common(here, there)
        if algorithm is None:
            self._state.unverified += 1
            return True
        found: list[str] = []

        async def ask(session: FTPSession, path: bytes) -> None:
            found.append((await session.checksum(path, algorithm)).digest)

        await ask(here, first)
        await ask(there, second)
        return found[0] == found[1]

    async def _keep_facts(self, session: FTPSession, path: bytes, file: _File) -> None:
        info = file.info
        assert info is not None  # noqa: S101 -- for the type checker: all that is listed has facts
        mode = info.mode & 0o7777 if info.mode is not None else None
        try:
            await session.set_facts(path, mtime_ns=info.mtime_ns, permissions=mode)
        except (Refused, NotFound) as error:
            self._state.on_note(str(error).replace(printable(path), printable(file.target)))

    async def _take_away(self, copy: Copy, target: Wired, part: bytes) -> None:
        """End a copy if that is possible, and remove what it has left, which is of no use."""
        with trio.CancelScope(deadline=trio.current_time() + _REPLY_SECONDS * 2, shield=True):
            ended = ""
            try:
                if self._tells is not False:
                    ended = await server_copies.abort(await self._runner().again(copy), copy.id)
            except UFTPError:
                pass
            where = target.place.display(part)
            try:
                await (await target.session()).delete(part)
                left = "what it has brought was removed"
            except NotFound:
                left = f"if it brings anything yet, that is {where}"
            except UFTPError as error:
                left = f"{where} is left: {printable(str(error))}"
            if ended in ("ABORTED", "FINISHED", "FAILED"):
                self._listeners.stopped(copy, f"the copy was ended on {copy.server}; {left}")
            else:
                self._listeners.stopped(copy, f"{copy.server} cannot end copies, and may go on for a while; {left}")

    # -- sides that cannot be looked at -------------------------------------------------------------------------------

    async def _start_bare(self) -> Copy:
        source, target = self._source, self._target
        bare = source if isinstance(source, BarePlace) else target
        assert isinstance(bare, BarePlace)  # noqa: S101 -- for the type checker: one of them is
        session = await self._runner().session()
        path = source.path if isinstance(source, BarePlace) else source.place.url.path
        if isinstance(source, Wired) and source.place.url.pattern is not None:
            raise Refused(f"{session.name}: this server copies one file by its name; wildcards need two URLs")
        goal = target.path if isinstance(target, BarePlace) else target.place.url.path
        if isinstance(target, Wired) and goal and not goal.endswith(b"/"):
            info = await session.stat_or_none(goal)
            goal += b"/" if info is not None and info.is_dir else b""
        if goal.endswith(b"/") or not goal:
            goal += path.rpartition(b"/")[2]
        return await self._begin(session, bare.host, bare.port, bare.secret, (path, goal))

    async def _copy_bare(self) -> None:
        copy = await self._start_bare()
        runner = self._runner()
        watcher = Watcher(copy, runner.again, self._state, keep=False, last=True)
        try:
            word = await watcher.run(await runner.session())
        finally:
            if watcher.stopped is not None:
                self._listeners.stopped(copy, watcher.stopped)
        self._listeners.ended(copy, word)

    # -- sides --------------------------------------------------------------------------------------------------------

    def _runner(self) -> Wired:
        side = self._target if self._way == "receive" else self._source
        assert isinstance(side, Wired)  # noqa: S101 -- for the type checker: a bare side runs nothing
        return side

    def _other(self) -> Wired | BarePlace:
        return self._source if self._way == "receive" else self._target

    async def _wait_for_servers(self, source: Wired, target: Wired) -> None:
        """After a lost connection: until both servers answer again, or do not.

        Raises:
            NetworkError: they do not.
        """
        for attempt in range(1, 8):
            try:
                await source.session()
                await target.session()
                return
            except NetworkError:
                if attempt == 7:
                    raise
            await trio.sleep(wait_before(attempt))


def _brought(size: int) -> str:
    return str(size) if size > 0 else "none"


def _common(here: FTPSession, there: FTPSession) -> str | None:
    """The best checksum that both servers compute."""
    both = set(here.dialect.features.hash_algorithms) & set(there.dialect.features.hash_algorithms)
    return next((name for name in _ALGORITHMS if name in both), None)

"""`sync`: one file is made equal to another, moving only what differs where the server can do that.

What was made is compared with the original by digest, always: the protocol itself checks nothing, and some servers
make mistakes. Where the server cannot, or has made one, the whole file is copied.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import trio

from uftp.client.credentials import UsernamePassword
from uftp.client.session import FTPSession
from uftp.client.syncing import Unsuitable, fetch_changes, send_changes
from uftp.client.url import RemoteUrl, directory_around, is_url, parse_url
from uftp.client.wording import printable
from uftp.errors import LocalFileError, NotFound, Refused, TransferFailed, UFTPError, UsageError
from uftp.protocol.facts import FileInfo
from uftp.streams import Cancelled, Meter, PartFile, hash_file
from uftp.transfer.copy import Access, copy_files
from uftp.transfer.local import local_error
from uftp.transfer.options import CopyOptions
from uftp.transfer.plan import join
from uftp.transfer.results import CopyState

TRUSTED: Final = ("BLAKE3", "SHA-256", "SHA-512", "SHA-1", "MD5")  # the first a server has
_FILE: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_TREES: Final = "one of them is a file, and the other one is not"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSummary:
    """What a sync came to.

    Attributes:
        source, target: as the user would write them.
        size: bytes in the file.
        literal: of them, those that moved.
        method: "delta", or "copy" where the whole file moved.
        reason: why it was a copy.
        verified: the digest the two files were compared by; empty after a copy, which has checks of its own.
        seconds: in all.
    """

    source: str
    target: str
    size: int
    literal: int
    method: Literal["delta", "copy"]
    reason: str = ""
    verified: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """The line of `--json` output."""
        return {
            "type": "sync",
            "source": self.source,
            "target": self.target,
            "size": self.size,
            "literal": self.literal,
            "method": self.method,
            "reason": self.reason or None,
            "verified": self.verified or None,
            "seconds": round(self.seconds, 6),
        }


class _Whole(Exception):
    """The file has to be copied as a whole; the message says why."""


async def sync_file(
    source: str, target: str, *, access: Access | None = None, state: CopyState | None = None, preserve: bool = False
) -> SyncSummary:
    """Make `target` equal to `source`; one of them is a file here, the other one on a server.

    Args:
        source: a local path or a URL.
        target: the other kind; a directory means the file of the source's name in it.
        access: credentials and connections.
        state: totals to watch while it runs.
        preserve: give the target time and permission bits of the source.

    Raises:
        UFTPError: it did not work. A target here is then as it was; one on a server may be what the exchange made of
            it if nothing could be compared or copied any more, or if the source changed meanwhile.
    """
    access = access or Access()
    state = state or CopyState()
    if is_url(source) == is_url(target):
        raise UsageError(f"{printable(target)}: one of the two must be on a server, and the other one here")
    url = parse_url(source if is_url(source) else target)
    if url.pattern is not None:
        raise UsageError(f"{url.display()}: sync takes no wildcards; it makes one file equal to another")
    job = _Sync(login_of(access, url), state, url, preserve=preserve)
    if is_url(source):
        return await job.download(os.fsencode(target))
    return await job.upload(os.fsencode(source))


def login_of(access: Access, url: RemoteUrl) -> Access:
    """`access` with the user and password of an FTP URL, for places there that are named without them."""
    if url.password is None:
        return access
    return replace(access, credential=UsernamePassword(url.user or "", url.password))


class _Sync:
    def __init__(self, access: Access, state: CopyState, url: RemoteUrl, *, preserve: bool) -> None:
        # The exchange is for plain connections in stream mode only; copies go as they always do.
        self._access = access
        self._plain = replace(access, session=replace(access.session, mode="stream"))
        self._state = state
        self._url = url
        self._layers = ""
        if access.session.encrypt or access.session.compress:
            self._layers = "the exchange of a sync is neither encrypted nor compressed"
        self._preserve = preserve
        self._counted: int | None = None
        self._began = time.monotonic()

    # -- from here to the server ----------------------------------------------------------------------------------

    async def upload(self, local: bytes) -> SyncSummary:
        """See `sync_file`."""
        if local == b"-":
            raise UsageError("-: sync needs a file; standard input can be copied with cp")
        source, size = _open_source(local)
        try:
            if self._layers:
                return await self._copy(os.fsdecode(local), self._url.display(), self._layers)
            url = self._url
            directory = directory_around(url)
            try:
                async with (
                    self._plain.connector(url, directory, writes=True) as connector,
                    await connector.open() as session,
                ):
                    self._state.sessions += 1
                    remote, info = await _find(session, url, local)
                    url = url.with_path(remote)
                    return await self._send(session, url, info, local, source, size)
            except _Whole as reason:
                return await self._copy(os.fsdecode(local), url.display(), str(reason))
        finally:
            os.close(source)

    async def _send(
        self, session: FTPSession, url: RemoteUrl, info: FileInfo | None, local: bytes, source: int, size: int
    ) -> SyncSummary:
        if info is None:
            raise _Whole("the target was not there")
        self._check_server(session, info)
        if size == 0 or info.size == 0:
            raise _Whole("one of the files is empty")
        before = os.fstat(source)
        with self._metered(size) as meter:
            try:
                result = await send_changes(session, url.path, source, size, meter=meter)
            except Unsuitable as error:
                raise _Whole(str(error)) from error
            except (Refused, NotFound, TransferFailed) as error:
                raise _Whole(_first_line(error)) from error
        after = os.fstat(source)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise TransferFailed(f"{printable(local)}: the file changed while it was synced; sync it again")
        algorithm = await self._compare(session, url.path, source, size)
        if self._preserve:
            await self._set_facts(session, url.path, after)
        return self._summary(os.fsdecode(local), url.display(), size, result.literal, algorithm)

    # -- from the server to here ----------------------------------------------------------------------------------

    async def download(self, target: bytes) -> SyncSummary:
        """See `sync_file`."""
        if target == b"-":
            raise UsageError("-: sync needs a file to compare with; use cat, or cp to standard output")
        url = self._url
        name = url.path.rstrip(b"/").rpartition(b"/")[2]
        path = await trio.to_thread.run_sync(_local_target, target, name)
        if self._layers:
            return await self._copy(url.display(), os.fsdecode(path), self._layers)
        try:
            async with self._plain.connector(url) as connector, await connector.open() as session:
                self._state.sessions += 1
                info = await session.stat(url.path)
                if info.is_dir:
                    raise UsageError(f"{url.display()}: is a directory; {_TREES}")
                self._check_server(session, info)
                return await self._fetch(session, url, info, path)
        except _Whole as reason:
            return await self._copy(url.display(), os.fsdecode(path), str(reason))

    async def _fetch(self, session: FTPSession, url: RemoteUrl, info: FileInfo, path: bytes) -> SyncSummary:
        old, size = _open_old(path)
        try:
            if size == 0 or info.size == 0:
                raise _Whole("one of the files is empty")
            with _new_file(path) as part, self._metered(info.size) as meter:
                try:
                    result = await fetch_changes(session, url.path, old, size, part.fd, new_size=info.size, meter=meter)
                except Unsuitable as error:
                    raise _Whole(str(error)) from error
                except (Refused, NotFound, TransferFailed) as error:
                    raise _Whole(_first_line(error)) from error
                algorithm = await self._compare(session, url.path, part.fd, result.size)
                mode = stat.S_IMODE(os.fstat(old).st_mode) & 0o777
                if self._preserve:
                    mode = mode if info.permissions is None else info.permissions & 0o777
                    os.utime(part.fd, ns=(info.mtime_ns, info.mtime_ns))
                try:
                    await trio.to_thread.run_sync(lambda: part.publish(os.path.basename(path), mode=mode))
                except OSError as error:
                    raise local_error(error, path, "give the file its name") from error
        finally:
            os.close(old)
        return self._summary(url.display(), os.fsdecode(path), result.size, result.literal, algorithm)

    # -- both -----------------------------------------------------------------------------------------------------

    def _check_server(self, session: FTPSession, info: FileInfo) -> None:
        if info.mode is not None and stat.S_IFMT(info.mode) and not stat.S_ISREG(info.mode):
            raise UsageError(f"{self._url.display()}: is no regular file; {_TREES}")
        if not session.dialect.is_uftp:
            raise _Whole("the server has no delta sync")
        if not session.dialect.features.hash_algorithms:
            raise _Whole("the server computes no checksums to compare by")

    @contextlib.contextmanager
    def _metered(self, size: int) -> Iterator[Meter]:
        meter = Meter()
        self._count(size)
        self._state.start(meter)
        try:
            yield meter
        finally:
            self._state.stop(meter)

    def _count(self, size: int) -> None:
        """Add the file to what was found, once."""
        before, self._counted = self._counted, size
        self._state.files_found += 1 if before is None else 0
        self._state.bytes_found += size - (before or 0)

    async def _compare(self, session: FTPSession, path: bytes, fd: int, size: int) -> str:
        """Compare by digest, both computed at once; its name."""
        known = session.dialect.features.hash_algorithms
        algorithm = next((name for name in TRUSTED if name in known), None)
        if algorithm is None or not session.usable:
            raise _Whole("the result could not be compared")
        meter = Meter()
        mine: list[str] = []

        trouble: list[UFTPError] = []

        async def hash_mine() -> None:
            try:
                mine.append(await trio.to_thread.run_sync(lambda: hash_file(fd, 0, size, algorithm, meter)))
            except Cancelled:
                pass
            except OSError as error:
                trouble.append(LocalFileError(f"cannot read the file to compare it: {error.strerror}"))

        theirs = ""
        failure: UFTPError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hash_mine)
            try:
                theirs = (await session.checksum(path, algorithm)).digest
            except UFTPError as error:
                failure = error
            finally:
                # Whoever interrupts this need not wait for the thread; else it goes on to its end.
                meter.cancelled = failure is not None or not theirs
        if trouble:
            raise trouble[0]
        if failure is not None:
            raise _Whole(_first_line(failure)) from failure
        if theirs.lower() != mine[0]:
            raise _Whole("what the sync made was not equal to the original")
        return algorithm

    async def _set_facts(self, session: FTPSession, path: bytes, info: os.stat_result) -> None:
        try:
            permissions = stat.S_IMODE(info.st_mode) & 0o777
            await session.set_facts(path, mtime_ns=info.st_mtime_ns, permissions=permissions)
        except (Refused, NotFound) as error:
            self._state.on_note(f"{self._url.display(path)}: time or mode could not be set: {error}")

    async def _copy(self, source: str, target: str, reason: str) -> SyncSummary:
        options = CopyOptions(preserve=self._preserve)
        state = self._state
        if self._preserve:  # one of many files: what fails is told by the error, and counted by the caller
            state = CopyState(on_note=state.on_note, on_session=state.on_session)
            self._count(0)
        elif self._counted is not None:
            state.files_found -= 1
            state.bytes_found -= self._counted
        summary = await copy_files([source], target, access=self._access, options=options, state=state)
        if self._preserve:
            self._count(summary.bytes)
            self._state.bytes_done += summary.bytes
        summary.raise_for_failures()
        return SyncSummary(
            source=source,
            target=target,
            size=summary.bytes,
            literal=summary.bytes,
            method="copy",
            reason=reason,
            seconds=time.monotonic() - self._began,
        )

    def _summary(self, source: str, target: str, size: int, literal: int, algorithm: str) -> SyncSummary:
        return SyncSummary(
            source=source,
            target=target,
            size=size,
            literal=literal,
            method="delta",
            verified=algorithm,
            seconds=time.monotonic() - self._began,
        )


def _open_source(path: bytes) -> tuple[int, int]:
    try:
        fd = os.open(path, _FILE)
    except OSError as error:
        raise local_error(error, path, "read it") from error
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        kind = "a directory" if stat.S_ISDIR(info.st_mode) else "no regular file"
        raise UsageError(f"{printable(path)}: is {kind}; {_TREES}")
    return fd, info.st_size


def _local_target(target: bytes, name: bytes) -> bytes:
    """The file meant by the target; a link is followed, as it names a file of the user's choice."""
    return os.path.realpath(join(target, name) if os.path.isdir(target) or target.endswith(b"/") else target)


def _open_old(path: bytes) -> tuple[int, int]:
    try:
        fd = os.open(path, _FILE)
    except FileNotFoundError:
        raise _Whole("the target was not there") from None
    except OSError as error:
        raise local_error(error, path, "read it") from error
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise _Whole("the target is no regular file")
    return fd, info.st_size


def _new_file(path: bytes) -> PartFile:
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return PartFile.create(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise local_error(error, path, "write there") from error


async def _find(session: FTPSession, url: RemoteUrl, local: bytes) -> tuple[bytes, FileInfo | None]:
    """The file meant by the target, and what is there now."""
    info = await session.stat_or_none(url.path)
    if info is not None and info.is_dir:
        path = join(url.path, os.path.basename(local))
        info = await session.stat_or_none(path)
        if info is not None and info.is_dir:
            raise UsageError(f"{url.display(path)}: is a directory; {_TREES}")
        return path, info
    if info is None and url.path.endswith(b"/"):
        raise NotFound(f"{url.display()}: no such directory; create it with mkdir")
    return url.path, info


def _first_line(error: UFTPError) -> str:
    return str(error).partition("\n")[0]

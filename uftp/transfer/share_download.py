"""Fetches by HTTP: a large file by several ranges at once, what a link shares, a directory as a tree.

No file has its name before all of it is there, and agrees with the digest that the server names, if it does. A file
that the server can serve in parts, and name the version of, is kept as a part when the command is interrupted, and the
same command goes on with it. Its part is locked: a second run of the same has one of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from uftp.client.share_link import Entry, ShareClient
from uftp.client.wording import printable
from uftp.errors import LocalFileError, NetworkError, PeerBrokeProtocol, Refused, TransferFailed, UFTPError
from uftp.protocol.http_digests import WANTED, WANTED_OLD, find_digest
from uftp.streams import Meter, RateLimit
from uftp.streams.partfile import PartFile
from uftp.transfer import http_answers
from uftp.transfer.http_part import HttpPart, Place, agrees, mode_there
from uftp.transfer.rate import RateShares
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.retrying import wait_before
from uftp.transfer.share_pieces import Memory, Pieces, Remembered, Run

if TYPE_CHECKING:
    import httpx2

CONNECTIONS: Final = 4
SPLIT_BYTES: Final = 32 * 1024 * 1024
TREE_CONNECTIONS: Final = 6
MAX_DEPTH: Final = 128

_NOTE_SECONDS: Final = 2.0
_TRIES: Final = 5  # of a connection that brought nothing
_STRONG: Final = '"'


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """How much at once, and how patiently.

    Attributes:
        connections: for one large file.
        resume: go on with what an interrupted run has left.
        retries: further tries of a connection that broke.
        keep: asked when a file is not fetched to its end: whether what is there of it stays for a later run.
        verify: compare with the digest that the server names, if it does.
        preserve: keep the time of the last change, if the server tells it.
        limit_rate: bytes a second for all connections together; 0 for no limit.
    """

    connections: int = CONNECTIONS
    resume: bool = True
    retries: int = _TRIES
    keep: Callable[[], bool] = lambda: True
    verify: bool = True
    preserve: bool = False
    limit_rate: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFile:
    """A file that is fetched.

    Attributes:
        url: where from.
        size: bytes; None if not known.
        ranged: whether to ask for ranges.
        shown: the URL as it may be shown.
    """

    url: str
    size: int | None = None
    ranged: bool = True
    shown: str = ""


class ShareDownload:
    """One download.

    Args:
        client: fetches.
        state: totals to watch, and who is told of results.
        options: how much at once.
    """

    def __init__(self, client: ShareClient, state: CopyState, options: FetchOptions) -> None:
        self._client = client
        self._state = state
        self._options = options
        self._limit = state.limit = RateShares(options.limit_rate)

    # -- one file ---------------------------------------------------------------------------------------------------

    async def file(
        self, entry: Entry, directory: int, name: bytes, *, shown: str, open_answer: httpx2.Response | None = None
    ) -> None:
        """Fetch a shared file.

        Args:
            entry: what and from where.
            directory: descriptor of the directory to put it into.
            name: it is to have there.
            shown: the target as the user would write it.
            open_answer: the answer to a GET with the content, on a server that cannot be asked twice.

        Raises:
            UFTPError: it is not there under its name then.
        """
        wanted = HttpFile(url=entry.link.url, size=entry.size, ranged=bool(entry.size))
        place = Place(directory=directory, name=name, shown=shown, key=_key(shown))
        await self.fetch(wanted, place, open_answer)

    async def fetch(self, file: HttpFile, place: Place, open_answer: httpx2.Response | None = None) -> bool:
        """Fetch a file.

        Args:
            file: what.
            place: where to.
            open_answer: as of `file`.

        Returns:
            Whether it was compared with a digest of the server's.

        Raises:
            UFTPError: it is not there under its name then.
        """
        self._state.files_found += 1
        self._state.bytes_found += file.size or 0
        meter, begin = Meter(), time.monotonic()
        self._state.start(meter, place.shown)
        try:
            if open_answer is not None:
                compared = await self._whole(open_answer, file, place, meter)
            else:
                compared = await self._by_ranges(file, place, meter)
        except OSError as error:
            raise LocalFileError(f"{place.shown}: {error.strerror}") from error
        finally:
            meter.cancelled = True  # whatever waits in a thread
            self._state.stop(meter)
        seconds = time.monotonic() - begin
        source = file.shown or file.url
        self._state.record(FileResult(source=source, target=place.shown, bytes=meter.moved, seconds=seconds))
        return compared

    def _found(self, file: HttpFile, size: int | None) -> None:
        """Count the bytes of a file whose size was not known before."""
        if file.size is None and size is not None:
            self._state.bytes_found += size

    async def _whole(self, response: httpx2.Response, file: HttpFile, place: Place, meter: Meter) -> bool:
        """The content of one answer, from its first byte to its last."""
        self._found(file, http_answers.length(response))
        with self._limit.share() as limit, await trio.to_thread.run_sync(PartFile.create, place.directory) as part:

            async def take(block: bytes) -> bool:
                await trio.to_thread.run_sync(_write, part.fd, block, meter.moved)
                meter.moved += len(block)
                await _spend(limit, len(block), meter)
                return True

            meter.moved = 0
            await http_answers.each_block(response, take)
            http_answers.check_length(response, meter.moved)
            compared = await self._finished(response, part.fd, meter.moved, file, whole=True)
            if not compared and not http_answers.shows_its_end(response):
                raise TransferFailed(f"{file.shown or file.url}: the server does not say where the file ends")
            mode = mode_there(place)
            await trio.to_thread.run_sync(lambda: part.publish(place.name, mode=mode))
        return compared

    async def _finished(self, response: httpx2.Response, fd: int, size: int, file: HttpFile, *, whole: bool) -> bool:
        """Compare what has come with what the server says of it; whether it says anything.

        Raises:
            TransferFailed: they differ.
        """
        wanted = find_digest(http_answers.joined(response), whole=whole) if self._options.verify else None
        if wanted is not None and not await agrees(fd, size, wanted):
            raise _Wrong(
                f"{file.shown or file.url}: what has arrived does not agree with the server's {wanted.algorithm}"
            )
        changed_ns = http_answers.last_modified(response) if self._options.preserve else None
        if changed_ns is not None:
            os.utime(fd, ns=(changed_ns, changed_ns))
        return wanted is not None

    async def _by_ranges(self, file: HttpFile, place: Place, meter: Meter) -> bool:
        part = await trio.to_thread.run_sync(lambda: HttpPart.open(file.url, place, resume=self._options.resume))
        try:
            return await self._patiently(file, place, part, meter)
        finally:
            part.close()

    async def _patiently(self, file: HttpFile, place: Place, part: HttpPart, meter: Meter) -> bool:
        changes = broken = 0
        while True:
            try:
                return await self._attempt(file, place, part, meter)
            except _NoRanges:
                file = replace(file, ranged=False)
            except _Changed:
                # Another version, or a server that cannot go on: from the beginning, a few times.
                await trio.to_thread.run_sync(part.forget)
                changes += 1
                if changes > 2:
                    raise TransferFailed(f"{file.shown or file.url}: the file changes all the time") from None
            except (_BrokenWhole, _Wrong) as error:
                await trio.to_thread.run_sync(part.forget)
                broken += 1
                if broken > self._options.retries:
                    raise error.plain() from error
                meter.moved = 0
                self._state.retries += 1
                await trio.sleep(wait_before(broken))

    async def _attempt(self, file: HttpFile, place: Place, part: HttpPart, meter: Meter) -> bool:
        remembered = part.remembered
        start = _first_gap(remembered) if remembered is not None else 0
        headers = {"Want-Repr-Digest": WANTED, "Want-Digest": WANTED_OLD} if self._options.verify else {}
        if file.ranged:
            headers["Range"] = f"bytes={start}-"
        if remembered is not None:
            headers["If-Match"] = remembered.etag
        async with self._answer(file, headers) as response:
            etag = response.headers.get("ETag", "")
            total = http_answers.total(response)
            if response.status_code != 206 or total is None or not etag.startswith(_STRONG):
                if response.status_code == 206 and (start or total is None):
                    raise _Changed
                if response.status_code == 206 and not http_answers.has_everything(response):
                    raise _NoRanges  # ranges as long as the server likes, of a version that it does not name
                try:
                    return await self._whole(response, file, place, meter)
                except NetworkError as error:
                    raise _BrokenWhole(str(error)) from error
            if remembered is not None and (etag, total) != (remembered.etag, remembered.size):
                raise _Changed
            if http_answers.start(response) != start:
                raise PeerBrokeProtocol(f"{file.shown or file.url}: another range came than was asked for")
            self._found(file, total)
            pieces = Pieces(total, remembered.done if remembered is not None else ())
            if remembered is not None:
                self._state.taken_over += pieces.moved
            try:
                await self._fetch_pieces(file, response, etag, pieces, part, meter)
                compared = await self._finished(response, part.fd, total, file, whole=False)
            except (_Wrong, _Changed):
                raise
            except BaseException:
                if self._options.keep():
                    part.keep(Remembered(etag, total, tuple(pieces.done())))
                raise
            await trio.to_thread.run_sync(part.publish)
            return compared

    async def _fetch_pieces(
        self, file: HttpFile, response: httpx2.Response, etag: str, pieces: Pieces, part: HttpPart, meter: Meter
    ) -> None:
        fetch = _Fetch(self._client, file, etag, pieces, part.fd, meter, self._options, self._limit)
        try:
            async with trio.open_nursery() as nursery:
                if part.memory is not None:
                    nursery.start_soon(self._note, part.memory, etag, pieces)
                await fetch.all(response)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _note(self, memory: Memory, etag: str, pieces: Pieces) -> None:
        while True:
            await trio.sleep(_NOTE_SECONDS)
            found = Remembered(etag, pieces.size, tuple(pieces.done()))
            await trio.to_thread.run_sync(memory.save, found)

    @contextlib.asynccontextmanager
    async def _answer(self, file: HttpFile, headers: dict[str, str]) -> AsyncIterator[httpx2.Response]:
        """The answer to a GET; one that does not come is asked for again."""
        async with contextlib.AsyncExitStack() as stack:
            attempt = 0
            while True:
                asked = self._client.get(file.url, headers, accepted=(200, 206, 412, 416))
                try:
                    response = await stack.enter_async_context(asked)
                    break
                except NetworkError:
                    attempt += 1
                    if attempt > self._options.retries:
                        raise
                self._state.retries += 1
                await trio.sleep(wait_before(attempt))
            if response.status_code == 416 and "If-Match" not in headers:
                raise _NoRanges
            if response.status_code in (412, 416):
                raise _Changed
            yield response

    # -- a tree -----------------------------------------------------------------------------------------------------

    async def tree(self, top: Entry, entries: tuple[Entry, ...], directory: int, *, shown: str, at_once: int) -> None:
        """Fetch all that is in a directory. A failed file does not stop the others.

        Args:
            top: the directory.
            entries: what is in it.
            directory: descriptor of the directory here.
            shown: that directory as the user would write it.
            at_once: files that are fetched at the same time.
        """
        send, receive = trio.open_memory_channel[_Job](0)
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(self._work, receive.clone())
            receive.close()
            async with send:
                await self._walk(send, entries, directory, shown, 0)
        self._state.planned = True

    async def _walk(
        self, jobs: trio.MemorySendChannel[_Job], entries: tuple[Entry, ...], directory: int, shown: str, depth: int
    ) -> None:
        for entry in entries:
            name = f"{shown.rstrip('/')}/{os.fsdecode(entry.name)}"
            if not entry.directory:
                await jobs.send(_Job(entry, os.dup(directory), name))
                continue
            try:
                if depth >= MAX_DEPTH:
                    raise Refused(f"{name}: too deep")
                below = await trio.to_thread.run_sync(_enter, directory, entry.name)
                try:
                    inner = await self._client.entries(entry.link)
                    await self._walk(jobs, inner, below, name, depth + 1)
                finally:
                    os.close(below)
            except OSError as error:
                self._failed(entry, name, LocalFileError(f"{name}: {error.strerror}"))
            except UFTPError as error:
                self._failed(entry, name, error)

    async def _work(self, jobs: trio.MemoryReceiveChannel[_Job]) -> None:
        async with jobs:
            async for job in jobs:
                try:
                    await self._fetch(job)
                except UFTPError as error:
                    self._failed(job.entry, job.shown, error)
                finally:
                    os.close(job.directory)

    async def _fetch(self, job: _Job) -> None:
        if job.entry.size is not None:
            await self.file(job.entry, job.directory, job.entry.name, shown=job.shown)
            return
        async with self._client.get(job.entry.link.url, accepted=(200,)) as response:
            await self.file(job.entry, job.directory, job.entry.name, shown=job.shown, open_answer=response)

    def _failed(self, entry: Entry, shown: str, error: UFTPError) -> None:
        self._state.record(FileResult(source=entry.link.url, target=shown, error=error))


@dataclass(frozen=True, slots=True)
class _Job:
    entry: Entry
    directory: int
    shown: str


class _Changed(Exception):
    """The server has another version than the part is of."""


class _NoRanges(Exception):
    """There is no byte that a range could begin with: the file is empty, or comes as a whole only."""


class _Wrong(TransferFailed):
    """What has come does not agree with what the server says of it."""

    def plain(self) -> UFTPError:
        """For the caller."""
        return TransferFailed(str(self))


class _BrokenWhole(NetworkError):
    """An answer that cannot be gone on with broke off."""

    def plain(self) -> UFTPError:
        """For the caller."""
        return NetworkError(str(self))


class _Fetch:
    """Several connections that fetch the runs of one file."""

    def __init__(
        self,
        client: ShareClient,
        file: HttpFile,
        etag: str,
        pieces: Pieces,
        fd: int,
        meter: Meter,
        options: FetchOptions,
        limit: RateShares,
    ) -> None:
        self._client = client
        self._file = file
        self._limit = limit
        self._etag = etag
        self._pieces = pieces
        self._fd = fd
        self._meter = meter
        self._options = options
        self._before = pieces.moved

    async def all(self, response: httpx2.Response) -> None:
        """Fetch everything; the first connection is open already, at the first byte that is missing."""
        first = self._pieces.take()
        if first is None:
            return
        large = self._pieces.size - self._before >= SPLIT_BYTES
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._connection, first, response)
            for _ in range(self._options.connections - 1 if large else 0):
                run = self._pieces.take()
                if run is not None:
                    nursery.start_soon(self._connection, run, None)
        if not self._pieces.is_whole:
            raise PeerBrokeProtocol(f"{self._file.shown or self._file.url}: bytes are missing")

    async def _connection(self, run: Run | None, response: httpx2.Response | None) -> None:
        failures = 0
        while run is not None:
            position = run.position
            try:
                if response is not None:
                    await self._receive(run, response)
                else:
                    await self._request(run)
            except NetworkError:
                failures = failures + 1 if run.position == position else 1
                if failures > self._options.retries:
                    raise
                await trio.sleep(min(0.25 * 2.0**failures, 30.0))
            finally:
                self._pieces.give_back(run)
            response = None
            run = self._pieces.take()

    async def _request(self, run: Run) -> None:
        headers = {"Range": f"bytes={run.position}-{run.end - 1}", "If-Match": self._etag}
        async with self._client.get(self._file.url, headers, accepted=(200, 206, 412, 416)) as response:
            there = response.headers.get("ETag", ""), http_answers.total(response), http_answers.start(response)
            if response.status_code != 206 or there != (self._etag, self._pieces.size, run.position):
                raise _Changed
            await self._receive(run, response)

    async def _receive(self, run: Run, response: httpx2.Response) -> None:
        with self._limit.share() as limit:

            async def take(block: bytes) -> bool:
                wanted = block[: run.left]
                await trio.to_thread.run_sync(_write, self._fd, wanted, run.position)
                run.position += len(wanted)
                self._meter.moved = self._pieces.moved - self._before
                if run.left > 0:
                    await _spend(limit, len(wanted), self._meter)
                return run.left > 0

            await http_answers.each_block(response, take)
        if run.left > 0:
            shown = self._file.shown or self._file.url
            raise NetworkError(f"{shown}: the connection ended before all bytes were there")


def _write(fd: int, block: bytes, position: int) -> None:
    rest = memoryview(block)
    while rest:
        count = os.pwrite(fd, rest, position)
        rest, position = rest[count:], position + count


def _key(shown: str) -> bytes:
    return os.fsencode(os.path.abspath(shown))


async def _spend(limit: RateLimit | None, count: int, meter: Meter) -> None:
    """Wait until so many bytes fit the rate."""
    if limit is not None:
        await trio.to_thread.run_sync(limit.spend, count, meter, abandon_on_cancel=True)


def _first_gap(remembered: Remembered) -> int:
    pieces = Pieces(remembered.size, remembered.done)
    run = pieces.take()
    return run.position if run is not None else 0


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended it: of several failures one of ours; cancellation is told before all."""
    found: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop()
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
        else:
            found.append(error)
    for kind in (trio.Cancelled, _Changed, UFTPError, OSError):
        for error in found:
            if isinstance(error, kind):
                return error
    return found[0]


def _enter(directory: int, name: bytes) -> int:
    """Make a directory if it is missing, and open it; a link is not followed."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=directory)
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OSError(errno.ENOTDIR, "a file or a link is in the way of this directory") from None
        raise


def open_target(path: bytes, *, make: bool) -> int:
    """A descriptor of a directory named by the user, whose links are followed.

    Raises:
        LocalFileError: it is none, or cannot be made.
    """
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LocalFileError(f"{printable(path)}: {error.strerror}") from error

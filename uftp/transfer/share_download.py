"""Fetches what a link shares by HTTP: a large file by several ranges at once, a directory as a tree.

No file has its name before all of it is there. A file that the server can serve in parts, and name the version of,
is kept as a part when the command is interrupted, and the same command goes on with it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from uftp.client.share_link import Entry, ShareClient, ShareLink
from uftp.client.wording import printable
from uftp.errors import LocalFileError, NetworkError, PeerBrokeProtocol, Refused, TransferFailed, UFTPError
from uftp.protocol.names import part_name
from uftp.streams import Meter
from uftp.streams.partfile import PartFile
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.share_pieces import Memory, Pieces, Remembered, Run

if TYPE_CHECKING:
    import httpx2

CONNECTIONS: Final = 4
SPLIT_BYTES: Final = 32 * 1024 * 1024
TREE_CONNECTIONS: Final = 6
MAX_DEPTH: Final = 128

_BLOCK_BYTES: Final = 1 << 20
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
    """

    connections: int = CONNECTIONS
    resume: bool = True
    retries: int = _TRIES


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

    # -- one file ---------------------------------------------------------------------------------------------------

    async def file(
        self, entry: Entry, directory: int, name: bytes, *, shown: str, open_answer: httpx2.Response | None = None
    ) -> None:
        """Fetch a file.

        Args:
            entry: what and from where.
            directory: descriptor of the directory to put it into.
            name: it is to have there.
            shown: the target as the user would write it.
            open_answer: the answer to a GET with the content, on a server that cannot be asked twice.

        Raises:
            UFTPError: it is not there under its name then.
        """
        self._state.files_found += 1
        self._state.bytes_found += entry.size or 0
        meter, begin = Meter(), time.monotonic()
        self._state.start(meter, shown)
        try:
            if open_answer is not None:
                await self._whole(open_answer, directory, name, meter)
            else:
                await self._by_ranges(entry, directory, name, shown, meter)
        except OSError as error:
            raise LocalFileError(f"{shown}: {error.strerror}") from error
        finally:
            self._state.stop(meter)
        seconds = time.monotonic() - begin
        self._state.record(FileResult(source=entry.link.url, target=shown, bytes=meter.moved, seconds=seconds))

    async def _whole(self, response: httpx2.Response, directory: int, name: bytes, meter: Meter) -> None:
        """The content of one answer, from its first byte to its last."""
        with await trio.to_thread.run_sync(PartFile.create, directory) as part:
            position = 0
            async for block in _blocks(response):
                await trio.to_thread.run_sync(_write, part.fd, block, position)
                position += len(block)
                meter.moved = position
            _check_length(response, position)
            await trio.to_thread.run_sync(part.publish, name)

    async def _by_ranges(self, entry: Entry, directory: int, name: bytes, shown: str, meter: Meter) -> None:
        digest = _digest(entry.link.url, shown)
        memory, part = Memory(digest.hex()), part_name(digest[:8])
        if not self._options.resume:
            memory.forget()
        remembered = await trio.to_thread.run_sync(memory.load)
        tries = 0
        while True:
            try:
                await self._attempt(entry, directory, name, part, memory, remembered, meter)
            except _Changed:
                # Another version, or a server that cannot go on: from the beginning, a few times.
                await trio.to_thread.run_sync(memory.forget)
                remembered = None
                tries += 1
                if tries > 2:
                    raise TransferFailed(f"{entry.link.url}: the file changes all the time") from None
            else:
                return

    async def _attempt(
        self,
        entry: Entry,
        directory: int,
        name: bytes,
        part: bytes,
        memory: Memory,
        remembered: Remembered | None,
        meter: Meter,
    ) -> None:
        if remembered is not None and not _has_part(directory, part, remembered):
            remembered = None
        start = _first_gap(remembered) if remembered is not None else 0
        headers = {"Range": f"bytes={start}-"} if entry.size else {}
        if remembered is not None:
            headers["If-Match"] = remembered.etag
        async with self._answer(entry.link, headers) as response:
            etag = response.headers.get("ETag", "")
            total = _total(response)
            if response.status_code != 206 or total is None or not etag.startswith(_STRONG):
                if response.status_code == 206 and (start or total is None):
                    raise _Changed
                await self._whole(response, directory, name, meter)
                return
            if remembered is not None and (etag, total) != (remembered.etag, remembered.size):
                raise _Changed
            pieces = Pieces(total, remembered.done if remembered is not None else ())
            if remembered is not None:
                self._state.taken_over += pieces.moved
            with _open_part(directory, part, new=remembered is None) as fd:
                fetch = _Fetch(self._client, entry.link, etag, pieces, fd, meter, self._options)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._note, memory, etag, pieces)
                        await fetch.all(response)
                        nursery.cancel_scope.cancel()
                except BaseExceptionGroup as group:
                    raise _first(group) from None
                finally:
                    if not pieces.is_whole:
                        memory.save(Remembered(etag, total, tuple(pieces.done())))
                os.close(os.dup(fd))  # a full disk may only be told now
            os.rename(part, name, src_dir_fd=directory, dst_dir_fd=directory)
            await trio.to_thread.run_sync(memory.forget)

    async def _note(self, memory: Memory, etag: str, pieces: Pieces) -> None:
        while True:
            await trio.sleep(_NOTE_SECONDS)
            found = Remembered(etag, pieces.size, tuple(pieces.done()))
            await trio.to_thread.run_sync(memory.save, found)

    @contextlib.asynccontextmanager
    async def _answer(self, link: ShareLink, headers: dict[str, str]) -> AsyncIterator[httpx2.Response]:
        async with self._client.get(link.url, headers, accepted=(200, 206, 412, 416)) as response:
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


class _Fetch:
    """Several connections that fetch the runs of one file."""

    def __init__(
        self,
        client: ShareClient,
        link: ShareLink,
        etag: str,
        pieces: Pieces,
        fd: int,
        meter: Meter,
        options: FetchOptions,
    ) -> None:
        self._client = client
        self._link = link
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
            raise PeerBrokeProtocol(f"{self._link.url}: bytes are missing")

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
        async with self._client.get(self._link.url, headers, accepted=(200, 206, 412, 416)) as response:
            there = response.headers.get("ETag", ""), _total(response), _start(response)
            if response.status_code != 206 or there != (self._etag, self._pieces.size, run.position):
                raise _Changed
            await self._receive(run, response)

    async def _receive(self, run: Run, response: httpx2.Response) -> None:
        async for block in _blocks(response):
            wanted = block[: run.left]
            await trio.to_thread.run_sync(_write, self._fd, wanted, run.position)
            run.position += len(wanted)
            self._meter.moved = self._pieces.moved - self._before
            if run.left <= 0:
                return
        if run.left > 0:
            raise NetworkError(f"{self._link.url}: the connection ended before all bytes were there")


async def _blocks(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The content in blocks of a size worth a thread.

    Raises:
        NetworkError: the connection broke.
    """
    import httpx2

    from uftp.client.http_errors import network_error

    try:
        async with contextlib.aclosing(response.aiter_raw(_BLOCK_BYTES)) as chunks:
            async for chunk in chunks:
                yield chunk
    except httpx2.RemoteProtocolError as error:
        url = str(response.url).partition("?")[0]
        raise NetworkError(f"{url}: the connection ended before all bytes were there") from error
    except httpx2.HTTPError as error:
        raise network_error(error, str(response.url).partition("?")[0]) from error


def _write(fd: int, block: bytes, position: int) -> None:
    rest = memoryview(block)
    while rest:
        count = os.pwrite(fd, rest, position)
        rest, position = rest[count:], position + count


def _total(response: httpx2.Response) -> int | None:
    """The size of the whole file that a 206 is part of."""
    text = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _start(response: httpx2.Response) -> int | None:
    text = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _check_length(response: httpx2.Response, received: int) -> None:
    text = response.headers.get("Content-Length", "")
    if text.isdigit() and int(text) != received:
        raise TransferFailed(f"{response.url}: {received} bytes came of {text}")


def _digest(url: str, target: str) -> bytes:
    """Stands for what is fetched, and whereto."""
    return hashlib.sha256(os.fsencode(f"{url}\0{os.path.abspath(target)}".replace("\0", "\n"))).digest()


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


def _has_part(directory: int, part: bytes, remembered: Remembered) -> bool:
    try:
        info = os.stat(part, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return info.st_size >= max((end for _, end in remembered.done), default=0) and info.st_uid == os.geteuid()


@contextlib.contextmanager
def _open_part(directory: int, part: bytes, *, new: bool) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(part, flags | (os.O_TRUNC if new else 0), 0o666, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


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

"""A shared directory as one archive, packed while it is sent.

Small files come in batches over a lane, many on the way at once; large ones one at a time over a flow. What is in
memory is one batch, one block, and the listings of the directories on the way down. Links are not followed, nor packed;
what is no file or directory is left out. If anything that was listed cannot be read, the stream breaks off: an archive
that came to its end is whole. Of a file that grows meanwhile it has a beginning, as of any file that is being written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Final

import trio

from uftp.errors import TransferFailed, UFTPError
from uftp.protocol.facts import FileInfo
from uftpd.auth.pages.views import Kind
from uftpd.auth.shares.body import Sink
from uftpd.auth.shares.entrance import Visit
from uftpd.auth.shares.listing import kind_of, visible_entries
from uftpd.auth.shares.objects import SMALL_BYTES, Objects, Reader
from uftpd.auth.shares.packing import Packer, TarPacker, ZipPacker
from uftpd.auth.shares.presentation import disposition

_BATCH_FILES: Final = 32
_BATCH_BYTES: Final = 2 * 1024 * 1024
_GATHERED: Final = 256 * 1024  # bytes before they are sent
_DEEPEST: Final = 200

Produce = Callable[[Sink], Awaitable[None]]


async def archive_reply(objects: Objects, visit: Visit, info: FileInfo, kind: str) -> tuple[Produce, dict[str, str]]:
    """What sends a directory as `zip` or `tar`, and the headers of the reply; `info` is of the directory.

    Raises:
        RequestError: the directory cannot be listed.
    """
    entries, complete = await objects.listing(visit, links=True)
    if not complete:
        raise TooManyEntries
    packer: Packer = ZipPacker() if kind == "zip" else TarPacker()
    name = visit.name or b"share"
    headers = {
        "Content-Type": packer.media_type,
        "Content-Disposition": disposition(name + b"." + kind.encode()),
        "Cache-Control": "private, no-store",
        "Vary": "Accept",
    }
    return _Archive(objects, visit, info, packer, name, visible_entries(entries)).send, headers


class TooManyEntries(TransferFailed):
    """A directory has more entries than are held in memory."""

    def __init__(self) -> None:
        super().__init__("a directory has too many entries for an archive")


class _Archive:
    def __init__(
        self, objects: Objects, visit: Visit, info: FileInfo, packer: Packer, name: bytes, entries: list[FileInfo]
    ) -> None:
        self._objects = objects
        self._visit = visit
        self._packer = packer
        self._top = info
        self._name = name
        self._entries = entries
        self._gathered = bytearray()

    async def send(self, sink: Sink) -> None:
        """Send the whole archive.

        Raises:
            UFTPError, RequestError: something of it cannot be sent.
        """
        async with self._objects.reader(self._visit) as reader:
            self._gathered += self._packer.directory(self._name, *_facts(self._top, 0o755))
            # Directories are taken depth first; of each level what is left to do is kept.
            levels: list[tuple[bytes, Iterator[FileInfo]]] = []
            levels.append((b"", await self._pack_files(sink, reader, b"", self._entries)))
            self._entries = []
            while levels:
                prefix, rest = levels[-1]
                directory = next(rest, None)
                if directory is None:
                    levels.pop()
                    continue
                if len(levels) > _DEEPEST:
                    raise TransferFailed("directories are nested too deep for an archive")
                below = prefix + directory.name + b"/"
                await self._put(sink, self._packer.directory(self._name + b"/" + below[:-1], *_facts(directory, 0o755)))
                entries, complete = await self._objects.listing(self._visit, self._path(below[:-1]), links=True)
                if not complete:
                    raise TooManyEntries
                levels.append((below, await self._pack_files(sink, reader, below, visible_entries(entries))))
            for block in self._packer.close():
                await self._put(sink, block)
            await self._flush(sink)

    async def _pack_files(
        self, sink: Sink, reader: Reader, prefix: bytes, entries: list[FileInfo]
    ) -> Iterator[FileInfo]:
        """Pack the files of a directory; returns the directories in it."""
        entries.sort(key=lambda info: info.name)
        batch: list[FileInfo] = []
        size = 0
        for info in entries:
            if kind_of(info) is not Kind.FILE:
                continue
            if info.size >= SMALL_BYTES:
                await self._pack_batch(sink, prefix, batch)
                batch, size = [], 0
                await self._pack_large(sink, reader, prefix, info)
                continue
            batch.append(info)
            size += info.size
            if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
                await self._pack_batch(sink, prefix, batch)
                batch, size = [], 0
        await self._pack_batch(sink, prefix, batch)
        return iter([info for info in entries if info.is_dir])

    async def _pack_batch(self, sink: Sink, prefix: bytes, batch: list[FileInfo]) -> None:
        contents: list[bytes | None] = [None] * len(batch)
        failures: list[Exception] = []

        async def fetch(number: int, path: bytes) -> None:
            try:
                file = await self._objects.small(self._visit, path)
            except Exception as error:
                failures.append(error)
                nursery.cancel_scope.cancel()
                return
            contents[number] = None if file is None else file.content

        async with trio.open_nursery() as nursery:
            for number, info in enumerate(batch):
                nursery.start_soon(fetch, number, self._path(prefix + info.name))
        if failures:
            raise failures[0]
        for info, content in zip(batch, contents, strict=True):
            if content is None:
                raise TransferFailed("a file vanished or grew much while the archive was made")
            head = self._begin(prefix, replace(info, size=len(content)))
            await self._put(sink, head + self._packer.data(content) + self._packer.end())

    async def _pack_large(self, sink: Sink, reader: Reader, prefix: bytes, info: FileInfo) -> None:
        await self._put(sink, self._begin(prefix, info))
        await self._flush(sink)

        async def put(block: bytes) -> None:
            if packed := self._packer.data(block):
                await sink.put(packed)

        try:
            await reader.copy(self._path(prefix + info.name), 0, info.size, put)
        except UFTPError as error:
            raise TransferFailed(f"a file changed or vanished while the archive was made: {error}") from error
        await self._put(sink, self._packer.end())

    def _begin(self, prefix: bytes, info: FileInfo) -> bytes:
        return self._packer.begin(self._name + b"/" + prefix + info.name, info.size, *_facts(info, 0o644))

    def _path(self, below: bytes) -> bytes:
        return b"/".join((*self._visit.parts, below)) if below else b"/".join(self._visit.parts)

    async def _put(self, sink: Sink, data: bytes) -> None:
        self._gathered += data
        if len(self._gathered) >= _GATHERED:
            await self._flush(sink)

    async def _flush(self, sink: Sink) -> None:
        if self._gathered:
            data, self._gathered = bytes(self._gathered), bytearray()
            await sink.put(data)


def _facts(info: FileInfo, permissions: int) -> tuple[int, int]:
    known = info.permissions
    return info.mtime_ns // 1_000_000_000, permissions if known is None else known

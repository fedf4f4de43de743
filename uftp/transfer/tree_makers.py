"""The work for the files of a sync, in either direction."""

from __future__ import annotations

import os
import stat
from typing import Protocol

from uftp.client.dialect import Dialect
from uftp.client.listings import Entry
from uftp.client.url import RemoteUrl
from uftp.protocol.facts import FileInfo
from uftp.transfer.batch import Batch, Queue, SmallFile
from uftp.transfer.deltas import Deltas
from uftp.transfer.download import Download
from uftp.transfer.local import LocalTree, Target
from uftp.transfer.options import CopyOptions
from uftp.transfer.plan import join
from uftp.transfer.results import CopyState
from uftp.transfer.upload import Upload


class Maker(Protocol):
    """Makes the work for files of one direction.

    Attributes:
        deltas: sees to files that are sent as changes; None if none are.
    """

    deltas: Deltas | None

    async def offer(self, queue: Queue, relative: bytes, entry: Entry, replaced: Entry | None) -> None:
        """Have one file copied.

        Raises:
            UFTPError: it cannot be.
        """

    async def offer_small(self, queue: Queue, directory: bytes, files: list[SmallFile], *, fresh: bool) -> None:
        """Have small files of one directory copied; `fresh` is one that the sync has made."""


class UploadMaker:
    """From a local tree to a server.

    Args:
        local: top of the local tree.
        url: top of the tree on the server.
        options, state: of the copy.
        dialect: of the server.
        deltas: see `Maker`.
    """

    def __init__(
        self,
        local: bytes,
        url: RemoteUrl,
        options: CopyOptions,
        state: CopyState,
        dialect: Dialect,
        deltas: Deltas | None,
    ) -> None:
        self._local = local
        self._url = url
        self._options = options
        self._state = state
        self._dialect = dialect
        self.deltas = deltas

    def _task(self, relative: bytes, size: int, replaced: Entry | None) -> Upload:
        path, remote = join(self._local, relative), join(self._url.path, relative)
        return Upload(
            path,
            remote,
            None if replaced is None else _info(replaced),
            self._options,
            self._state,
            source=os.fsdecode(path),
            target=self._url.display(remote),
            dialect=self._dialect,
            size=size,
        )

    async def offer(self, queue: Queue, relative: bytes, entry: Entry, replaced: Entry | None) -> None:
        await queue.offer(self._task(relative, entry.size, replaced))

    async def offer_small(self, queue: Queue, directory: bytes, files: list[SmallFile], *, fresh: bool) -> None:
        def task(file: SmallFile) -> Upload:
            return self._task(join(directory, file.name), file.size, None)

        source, target = join(self._local, directory), join(self._url.path, directory)
        await queue.offer_batch(Batch(source, target, files, upload=True, fresh=fresh, task=task))


class DownloadMaker:
    """From a server to a local tree.

    Args:
        local: top of the local tree.
        url: top of the tree on the server.
        options: of the copy.
        dialect: of the server.
        deltas: see `Maker`.
    """

    def __init__(
        self, local: bytes, url: RemoteUrl, options: CopyOptions, dialect: Dialect, deltas: Deltas | None
    ) -> None:
        self._local = local
        self._url = url
        self._options = options
        self._tree = LocalTree(local)
        self._ranges = dialect.has_ranges or dialect.has_restart
        self.deltas = deltas

    def _task(self, relative: bytes, info: FileInfo) -> Download:
        path = join(self._url.path, relative)

        def open_it(part: bytes | None = None) -> Target:
            return self._tree.open_file(relative, part=part)

        return Download(
            path,
            info,
            self._options,
            open_it,
            source=self._url.display(path),
            target=os.fsdecode(join(self._local, relative)),
            ranges=self._ranges,
        )

    async def offer(self, queue: Queue, relative: bytes, entry: Entry, replaced: Entry | None) -> None:
        await queue.offer(self._task(relative, _info(entry)))

    async def offer_small(self, queue: Queue, directory: bytes, files: list[SmallFile], *, fresh: bool) -> None:
        def task(file: SmallFile) -> Download:
            entry = Entry(file.name, "file", file.size, file.mtime_ns, file.permissions)
            return self._task(join(directory, file.name), _info(entry))

        def open_directory() -> int:
            with self._tree.directory(directory) as fd:
                return os.dup(fd)

        source, target = join(self._url.path, directory), join(self._local, directory)
        batch = Batch(source, target, files, upload=False, fresh=fresh, task=task, open_directory=open_directory)
        await queue.offer_batch(batch)


def _info(entry: Entry) -> FileInfo:
    return FileInfo(
        name=entry.name,
        size=entry.size,
        mtime_ns=entry.mtime_ns or 0,
        mode=None if entry.permissions is None else stat.S_IFREG | entry.permissions,
    )

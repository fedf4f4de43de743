"""The files an object server has open: each is opened once and stays the one that was meant, whatever takes its name.

A program that fetches a file in pieces over several connections must not get pieces of two files. Beneath a shared
directory there may be many files; those not asked for longest are closed.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import trio

from uftpd.session.object_answer import ServedFile
from uftpd.session.paths import FileTree

_MOST: Final = 64  # open files that nobody reads just now


@dataclass(slots=True)
class OpenFile:
    """A file.

    Attributes:
        descriptor: to read from.
        served: its name and type.
        readers: requests that it is being sent for.
    """

    descriptor: int
    served: ServedFile
    readers: int = 0


class OpenFiles:
    """See the module.

    Args:
        tree: what they are opened in; decides what may be.
    """

    def __init__(self, tree: FileTree) -> None:
        self._tree = tree
        self._files: OrderedDict[bytes, OpenFile] = OrderedDict()

    @contextlib.asynccontextmanager
    async def reading(self, path: bytes) -> AsyncIterator[OpenFile]:
        """The file at `path`, open until the end of the block at least.

        Raises:
            OSError: there is none; `IsADirectoryError` if there is a directory.
            Forbidden: it is not to be had here.
        """
        found = self._files.get(path) or await self._open(path)
        self._files.move_to_end(path)
        found.readers += 1
        try:
            yield found
        finally:
            found.readers -= 1
            self._close_some()

    async def _open(self, path: bytes) -> OpenFile:
        descriptor, _ = await trio.to_thread.run_sync(self._tree.open_read, path)
        if (other := self._files.get(path)) is not None:  # two requests came together
            os.close(descriptor)
            return other
        found = self._files[path] = OpenFile(descriptor, ServedFile.at(path))
        return found

    def _close_some(self) -> None:
        unread = [path for path, file in self._files.items() if not file.readers]
        for path in unread[: max(0, len(unread) - _MOST)]:
            os.close(self._files.pop(path).descriptor)

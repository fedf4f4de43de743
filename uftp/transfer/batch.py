"""Small files of one directory, as the planner hands them on: too many for an object each with a life of its own.

A batch goes to one session in MODE U as a whole (EXTENSIONS 1, pipelining). Where that cannot be, and for files the
batch could not carry, `Batch.task` makes the task that carries one of them alone.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from uftp.errors import UFTPError
from uftp.transfer.plan import join
from uftp.transfer.task import FileTask

SMALL: Final = 1024 * 1024  # bytes up to which a file is carried in a batch; above it a round trip is a small part
MOST_FILES: Final = 512  # in a batch: what several sessions share out, and what a lost connection sends back


class SmallFile(NamedTuple):
    """A regular file of at most `SMALL` bytes.

    Attributes:
        name: in its directory; the same on both sides.
        size: bytes, as it was listed; it may have changed since.
        mtime_ns: time of its last change, nanoseconds since 1970; None if the listing did not say.
        permissions: the nine bits of `rwxrwxrwx`; None if the listing did not say.
    """

    name: bytes
    size: int
    mtime_ns: int | None
    permissions: int | None


@dataclass(slots=True, eq=False)
class Batch:
    """Small files of one directory.

    Attributes:
        source_directory: where they are: a local path for an upload, a path in the session for a download.
        target_directory: where they go; it is there.
        files: at most `MOST_FILES`.
        upload: to the server, or from it.
        fresh: the target directory was made by this copy, so that no file is replaced.
        task: makes the task that carries one of them alone; cheap, and does not block.
        open_directory: opens the directory on this side, under the plan's rules on links; blocks. Raises OSError. None:
            by its path, links followed.
    """

    source_directory: bytes
    target_directory: bytes
    files: list[SmallFile]
    upload: bool
    fresh: bool
    task: Callable[[SmallFile], FileTask]
    open_directory: Callable[[], int] | None = None

    def shown(self, file: SmallFile) -> tuple[str, str]:
        """Source and target of one of them, as the user would write them."""
        try:
            task = self.task(file)
        except UFTPError:
            return os.fsdecode(join(self.source_directory, file.name)), ""
        return task.source, task.target

    @property
    def size(self) -> int:
        """Bytes of all of them together, as listed."""
        return sum(file.size for file in self.files)


class Queue(Protocol):
    """What a plan is given to put its work into. Both wait while enough is queued."""

    async def offer(self, task: FileTask, /) -> None:
        """Have one file copied."""

    async def offer_batch(self, batch: Batch, /) -> None:
        """Have small files copied; of each the result is recorded."""


Plan = Callable[[Queue], Awaitable[None]]

"""Going on with a copy that was interrupted: between the scheduler and the journal.

Large files are copied into a part file whose name follows from what is copied where, so that a later run of the same
copy finds it; ranges that the journal has are not sent again, once the last of them have been compared. Files that
were done are looked up in the target's directory and left.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import trio

from uftp.client.many import checksum_many
from uftp.client.session import FTPSession
from uftp.client.wording import printable
from uftp.errors import UFTPError
from uftp.protocol.names import part_name
from uftp.streams import hash_file
from uftp.transfer.batch import Batch, SmallFile
from uftp.transfer.journal import DoneRange, Journal, done_key, file_key, journal_directory
from uftp.transfer.local import Source
from uftp.transfer.options import CopyOptions
from uftp.transfer.pieces import Piece
from uftp.transfer.plan import join
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState
from uftp.transfer.task import FileTask
from uftp.transfer.verify import best_algorithm

_FLUSH_SECONDS: Final = 2.0  # what a kill can cost
_FLUSH_BYTES: Final = 64 * 1024 * 1024  # as soon as so much has come, but not more often than:
_LEAST_SECONDS: Final = 0.5
_TICK_SECONDS: Final = 0.25
_CLOSING_SECONDS: Final = 10.0  # for the last record of an interrupted copy
_LARGEST_ADOPTED: Final = 1 << 40


@contextlib.asynccontextmanager
async def keeping_journal(
    pool: SessionPool,
    state: CopyState,
    options: CopyOptions,
    *,
    sources: Sequence[str],
    target: str,
    target_exists: bool = True,
    top: bytes | None = None,
    keep: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Resuming | None]:
    """What the block's copy goes on with, and notes; None if there is no journal, which stops no copy.

    Args:
        pool, state, options: of the copy.
        sources, target: URLs, and absolute paths.
        target_exists: whether the target is there.
        top: as for `Resuming`.
        keep: asked when the copy ends early: whether its journal and its parts stay.
    """
    directory = journal_directory()
    journal = None
    if directory is not None and options.resume is not False and not options.dry_run:
        identity = [os.fsencode(part) for part in (*sources, target, _what_counts(options))]
        about: dict[str, object] = {"sources": [printable(source) for source in sources], "target": printable(target)}
        about["target_exists"] = target_exists

        def open_it(directory: Path = directory) -> Journal | None:
            try:
                return Journal.open(directory, identity, about)
            except OSError:
                return None

        journal = await trio.to_thread.run_sync(open_it)
    if journal is None:
        yield None
        return
    resuming = Resuming(journal, pool, state, options, top=top, keep=keep)
    complete = False
    try:
        yield resuming
        complete = not state.files_failed
    except UFTPError:
        complete = not journal.has_records and not state.files_done
        raise
    finally:
        with trio.move_on_after(_CLOSING_SECONDS, shield=True):
            await resuming.close(complete=complete or not keep())


def _what_counts(options: CopyOptions) -> str:
    """Options with which the same command makes other files."""
    return repr((options.recursive, options.preserve, options.byte_range, options.links))


class _Found(NamedTuple):
    """What is in the target's directory. `changed_ns` is the time of its last change of any kind, known here only."""

    name: bytes
    is_dir: bool
    size: int
    mtime_ns: int | None
    changed_ns: int


class Resuming:
    """See the module.

    Args:
        journal: locked by this process.
        pool, state, options: of the copy.
        top: a directory here that small files go to, whose file system is synced for them; None for uploads.
        keep: whether parts are left for a later run, asked when this one ends early.
    """

    def __init__(
        self,
        journal: Journal,
        pool: SessionPool,
        state: CopyState,
        options: CopyOptions,
        *,
        top: bytes | None,
        keep: Callable[[], bool] = lambda: True,
    ) -> None:
        self.keep = keep
        self._journal = journal
        self._pool = pool
        self._state = state
        self._options = options
        self._top = top
        self._keys: dict[FileTask, bytes] = {}
        self._flushed = time.monotonic()
        self._broken = False
        self._listed: tuple[bytes, dict[bytes, _Found]] | None = None

    @property
    def begun(self) -> bool:
        """Whether an interrupted run of this copy has found no target, so that what is there now is its own."""
        return self._journal.was_there and self._journal.about.get("target_exists") is False

    # -- large files ------------------------------------------------------------------------------------------------

    async def take_up(self, task: FileTask) -> list[tuple[int, int]]:
        """Have `task` kept, and find what there is of it.

        Returns:
            Offset and length of the ranges that need not be sent again.
        """
        key = file_key(task.source.encode("utf-8", "surrogateescape"), task.place())
        try:
            fingerprint = await self._pool.call(task.fingerprint)
            # Of this journal alone: another copy to the same place would put its own bytes, and its end, into one part.
            part = part_name(hashlib.blake2b(self._journal.salt + key + fingerprint, digest_size=8).digest())
            directory, slash, _ = task.place().rpartition(b"/")
            path = directory + slash + part
            ranges = await self._known(task, key, fingerprint, part, path)
        except UFTPError:
            return []  # whatever it is, copying the file will say so
        task.part_name = part
        self._keys[task] = key
        if not ranges:
            self._journal.begin(key, fingerprint, path)
            if self._options.resume and task.length and task.length < _LARGEST_ADOPTED:
                adopted = await self._adopt(task, part)
                if adopted:
                    ranges = [DoneRange(0, adopted, b"")]
                    self._journal.note_range(key, ranges[0], task.sync)
        self._state.taken_over += sum(done.length for done in ranges)
        return [(done.offset, done.length) for done in ranges]

    async def _known(self, task: FileTask, key: bytes, fingerprint: bytes, part: bytes, path: bytes) -> list[DoneRange]:
        old = self._journal.unfinished.pop(key, None)
        if old is None or not old.ranges:
            return []
        if old.fingerprint == fingerprint and old.part == path:
            if await self._pool.call(lambda session: task.holds(session, part, old.ranges)):
                return old.ranges
            why = "what was there of it is not what was copied"
        else:
            why = "the source has changed"
        self._state.on_note(f"{printable(task.target)}: {why}; it is copied from its beginning")
        self._journal.end(key)
        name = old.part.rpartition(b"/")[2]
        await self._pool.call(lambda session: task.remove_part(session, name))
        return []

    async def _adopt(self, task: FileTask, part: bytes) -> int:
        try:
            return await self._pool.call(lambda session: task.adopt(session, part))
        except UFTPError:
            return 0

    def note_range(self, task: FileTask, piece: Piece, digest: bytes) -> None:
        """A piece of a kept task has arrived, and agrees."""
        key = self._keys.get(task)
        if key is not None and piece.length:
            self._journal.note_range(key, DoneRange(piece.offset, piece.length, digest), task.sync)

    def note_end(self, task: FileTask) -> None:
        """A task is done, or has failed in a way that leaves nothing to go on with."""
        key = self._keys.pop(task, None)
        if key is not None:
            self._journal.end(key)
        if task.error is None:
            identity = task.identity()
            if identity is not None:
                place = task.place()
                self._journal.note_done(lambda: (done_key(place, identity),))

    # -- files that are done ----------------------------------------------------------------------------------------

    def note_batch(self, batch: Batch, files: Sequence[SmallFile]) -> None:
        """Files of a batch are done."""
        self._journal.note_done(lambda: _keys_of(batch, files))

    async def is_done(self, task: FileTask) -> bool:
        """Whether an earlier run has copied this file, as it is now, and it is still there."""
        if not self._journal.knows_done_files:
            return False
        identity = await trio.to_thread.run_sync(task.identity)
        done_at = None if identity is None else self._journal.done_at(done_key(task.place(), identity))
        if done_at is None:
            return False
        try:
            return await self._pool.call(lambda session: task.is_there(session, done_at))
        except UFTPError:
            return False

    async def not_done(self, batch: Batch) -> list[SmallFile]:
        """The files of a batch that have to be copied."""
        taken_as_done = bool(self._options.resume and self._options.preserve)
        if batch.fresh or not (self._journal.knows_done_files or taken_as_done):
            return batch.files
        known = [self._journal.done_at(key) for key in _keys_of(batch, batch.files)]
        if not taken_as_done and all(done_at is None for done_at in known):
            return batch.files
        there = await self._entries(batch)
        same: set[bytes] = set()
        unsure: list[SmallFile] = []
        for file, done_at in zip(batch.files, known, strict=True):
            found = there.get(file.name)
            if found is None or found.is_dir or found.size != file.size or (done_at is None and not taken_as_done):
                continue
            if self._options.preserve:
                if found.mtime_ns == file.mtime_ns:
                    same.add(file.name)
            elif batch.upload:
                unsure.append(file)  # the server's clock is another one: only contents tell
            elif done_at is not None and found.changed_ns <= done_at:
                same.add(file.name)
        if unsure:
            same |= await self._equal(batch, unsure)
        return [file for file in batch.files if file.name not in same]

    async def _equal(self, batch: Batch, files: Sequence[SmallFile]) -> set[bytes]:
        """The files of an upload whose targets have the same bytes; none where the server computes no checksums."""
        targets = [join(batch.target_directory, file.name) for file in files]
        theirs: list[str | UFTPError] = []

        async def ask(session: FTPSession) -> str | None:
            algorithm = best_algorithm(session.dialect.features)
            if algorithm is not None:
                theirs.clear()
                await checksum_many(session, targets, algorithm, theirs)
            return algorithm

        try:
            algorithm = await self._pool.call(ask)
        except UFTPError:
            return set()
        if algorithm is None:
            return set()
        ours = await trio.to_thread.run_sync(_digests, batch.source_directory, files, algorithm)
        return {file.name for file, our, their in zip(files, ours, theirs, strict=True) if our and our == their}

    async def _entries(self, batch: Batch) -> dict[bytes, _Found]:
        """What is in the target's directory; the batches of one directory come one after the other."""
        directory = batch.target_directory
        if self._listed is not None and self._listed[0] == directory:
            return self._listed[1]
        try:
            if batch.upload:
                listed = await self._pool.call(lambda session: session.listdir(directory))
                entries = [_Found(entry.name, entry.is_dir, entry.size, entry.mtime_ns, 0) for entry in listed]
            else:
                entries = await trio.to_thread.run_sync(_scan, directory)
        except (UFTPError, OSError):
            entries = []
        self._listed = directory, {entry.name: entry for entry in entries}
        return self._listed[1]

    # -- the journal's own life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Record what arrives, until cancelled."""
        while True:
            await trio.sleep(_TICK_SECONDS)
            waited = time.monotonic() - self._flushed
            enough = waited >= _LEAST_SECONDS and self._journal.pending_bytes >= _FLUSH_BYTES
            if enough or (waited >= _FLUSH_SECONDS and self._journal.has_pending):
                await self.flush()

    async def flush(self) -> None:
        """Record what has arrived."""
        self._flushed = time.monotonic()
        if self._broken:
            return
        try:
            await trio.to_thread.run_sync(self._journal.flush, self._sync_small)
        except OSError as error:
            self._broken = True
            self._state.on_note(f"the journal cannot be written ({error.strerror}); an interrupted copy starts over")
        self._flushed = time.monotonic()

    def _sync_small(self) -> None:
        if self._top is not None:
            sync_file_system(self._top)

    async def close(self, *, complete: bool) -> None:
        """All is copied, or not: then the journal stays."""
        if not complete:
            await self.flush()
        await trio.to_thread.run_sync(lambda: self._journal.close(remove=complete))


def _keys_of(batch: Batch, files: Iterable[SmallFile]) -> list[bytes]:
    directory = batch.target_directory
    return [done_key(join(directory, file.name), b"%d %d" % (file.size, file.mtime_ns or 0)) for file in files]


def _digests(directory: bytes, files: Sequence[SmallFile], algorithm: str) -> list[str]:
    found = []
    for file in files:
        try:
            with contextlib.closing(Source.open(join(directory, file.name))) as source:
                found.append(hash_file(source.fd, 0, file.size, algorithm))
        except OSError:
            found.append("")
    return found


def _scan(directory: bytes) -> list[_Found]:
    found = []
    with os.scandir(directory or b".") as entries:
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            is_file = stat.S_ISREG(info.st_mode)
            found.append(_Found(entry.name, not is_file, info.st_size, info.st_mtime_ns, info.st_ctime_ns))
    return found


def sync_file_system(path: bytes) -> None:
    """Put on the disk what was written to the file system of `path`.

    Raises:
        OSError: it failed.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)

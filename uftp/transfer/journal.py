"""What a copy has done, kept on disk while it runs, so that the same command goes on where a killed one stopped.

One file a copy, in `$XDG_STATE_HOME/uftp/copies`, named by a digest of what is copied where. It is only appended to:
records with a checksum each, so that a torn end is noticed and cut off. A process holds a lock on it; a second one of
the same copy works without a journal. When all is copied the file is removed.

A range counts as done only when its bytes are on the disk, and the record of it is, too. Syncing is done in batches
and beside the transfers; what was not recorded is copied again. Of small files a digest of name, size and time is
kept, for a million of them, and when that was: a file here that was touched later is not what was copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from uftp.client.wording import printable

KEY_BYTES: Final = 8
_DONE_BYTES: Final = 16
_MOST_DONE: Final = 1_000_000  # 16 MB of digests; files beyond are copied again
_MOST_BYTES: Final = 256 * 1024 * 1024
_SWEEP_SECONDS: Final = 30 * 24 * 3600  # journals nobody came back to
_HEAD: Final = struct.Struct(">cI")
_SUM: Final = struct.Struct(">I")
_RANGE: Final = struct.Struct(">8sQQ32s")
_TIME: Final = struct.Struct(">q")
_VERSION: Final = 1
_LOOKED_AT: Final = 256 * 1024 * 1024  # bytes of a part file that are compared again before a copy goes on


class DoneRange(NamedTuple):
    """A range of a file that has arrived.

    Attributes:
        offset, length: in bytes.
        digest: BLAKE3 of it, 32 bytes; empty if it is not known.
    """

    offset: int
    length: int
    digest: bytes


@dataclass(slots=True)
class Unfinished:
    """A file that an earlier run has begun.

    Attributes:
        fingerprint: of the source as it was then.
        part: path of the part file.
        ranges: that are there, in the order in which they came.
    """

    fingerprint: bytes
    part: bytes
    ranges: list[DoneRange] = field(default_factory=list)


def file_key(source: bytes, target: bytes) -> bytes:
    """What a journal calls a file that is copied in ranges."""
    return hashlib.blake2b(source + b"\0" + target, digest_size=KEY_BYTES).digest()


def done_key(target: bytes, identity: bytes) -> bytes:
    """What a journal keeps of a file that is done: `identity` is its source's size and time."""
    return hashlib.blake2b(target + b"\0" + identity, digest_size=_DONE_BYTES).digest()


def latest(ranges: Sequence[DoneRange]) -> list[DoneRange]:
    """The ranges that are looked at before a copy goes on: the last that came, as whatever went wrong came then."""
    chosen: list[DoneRange] = []
    for done in reversed(ranges):
        if chosen and sum(each.length for each in chosen) + done.length > _LOOKED_AT:
            break
        chosen.append(done)
    return chosen


def journal_directory() -> Path | None:
    """Where journals are; None where there is neither XDG_STATE_HOME nor a home directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        return Path(state) / "uftp" / "copies"
    home = os.environ.get("HOME", "")
    return Path(home) / ".local" / "state" / "uftp" / "copies" if os.path.isabs(home) and os.path.isdir(home) else None


class Journal:
    """See the module. All methods block on the disk for short only, but `flush`; they may be called from any thread.

    Attributes:
        unfinished: files of an earlier run, by `file_key`.
        was_there: whether there was an earlier run.
        about: what it noted of itself at its beginning, or this run did; with a `salt`, that no other journal has.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.unfinished: dict[bytes, Unfinished] = {}
        self._path = path
        self._fd = fd
        self._done: dict[bytes, int] = {}
        self._done_at = 0
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._begun: dict[bytes, bytes] = {}  # records that come before the first range of a file
        self._ranges: list[tuple[bytes, DoneRange]] = []
        self._syncs: dict[bytes, Callable[[], None]] = {}
        self._small: list[Callable[[], Iterable[bytes]]] = []
        self._ended: list[bytes] = []
        self._kept = 0
        self._recorded = False
        self.about: dict[str, object] = {}
        self._size = self._load()
        self.was_there = self._size > 0

    # -- opening and reading ----------------------------------------------------------------------------------------

    @classmethod
    def open(cls, directory: Path, identity: Sequence[bytes], about: dict[str, object]) -> Journal | None:
        """The journal of the copy with this identity; None if another process has it.

        Args:
            directory: where journals are; made if missing.
            identity: what makes it this copy.
            about: for people who look at the file, and for cleaning up.

        Raises:
            OSError: it cannot be written.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = hashlib.blake2b(b"\0".join(b"%d:%b" % (len(part), part) for part in identity), digest_size=16)
        path = directory / f"{name.hexdigest()}.journal"
        fd = _open_locked(path)
        if fd is None:
            return None
        try:
            journal = cls(path, fd)
            if not journal.was_there:
                journal.about = {"version": _VERSION, "salt": secrets.token_hex(8), **about}
                journal._append(_record(b"H", json.dumps(journal.about).encode()), sync=False)
        except BaseException:
            os.close(fd)
            raise
        sweep(directory)
        return journal

    @classmethod
    def reopen(cls, path: Path) -> Journal | None:
        """The journal at `path` as it is; None if a running copy has it, or it cannot be read."""
        try:
            fd = _open_locked(path, os.O_RDWR)
        except OSError:
            return None
        return None if fd is None else cls(path, fd)

    def _load(self) -> int:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            data = file.read(_MOST_BYTES)
        good = 0
        for kind, payload, end in _records(data):
            if kind == b"H":
                self.about = json.loads(payload)
            if self.about.get("version") != _VERSION:
                break
            self._take(kind, payload)
            good = end
        os.ftruncate(self._fd, good)
        os.lseek(self._fd, good, os.SEEK_SET)
        return good

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == b"D":
            for start in range(0, len(payload), _DONE_BYTES):
                self._done[payload[start : start + _DONE_BYTES]] = self._done_at
        elif kind == b"T":
            (self._done_at,) = _TIME.unpack(payload)
        elif kind == b"U":
            key, length = payload[:KEY_BYTES], payload[KEY_BYTES]
            body = payload[KEY_BYTES + 1 :]
            self.unfinished[key] = Unfinished(body[:length], body[length:])
        elif kind == b"R":
            key, offset, size, digest = _RANGE.unpack(payload)
            if key in self.unfinished:
                known = b"" if digest == bytes(32) else digest
                self.unfinished[key].ranges.append(DoneRange(offset, size, known))
        elif kind == b"E":
            self.unfinished.pop(payload, None)

    @property
    def has_records(self) -> bool:
        """Whether there is anything to go on with."""
        return bool(self._done or self.unfinished or self._recorded)

    @property
    def knows_done_files(self) -> bool:
        """Whether an earlier run has brought files to their end."""
        return bool(self._done)

    def is_done(self, key: bytes) -> bool:
        """Whether an earlier run has brought the file with this `done_key` to its end."""
        return key in self._done

    def done_at(self, key: bytes) -> int | None:
        """When that was at the latest, in nanoseconds since 1970 by the clock here; None if it was not."""
        return self._done.get(key)

    @property
    def salt(self) -> bytes:
        """What makes names of this journal's that no copy with another one gives."""
        return str(self.about.get("salt", "")).encode()

    # -- writing ----------------------------------------------------------------------------------------------------

    def begin(self, key: bytes, fingerprint: bytes, part: bytes) -> None:
        """A file is copied in ranges from now on."""
        with self._lock:
            self._begun[key] = _record(b"U", key + bytes([len(fingerprint)]) + fingerprint + part)

    def note_range(self, key: bytes, done: DoneRange, sync: Callable[[], None]) -> None:
        """A range has arrived; it is recorded at the next `flush`, behind `sync`, which puts it on the disk."""
        with self._lock:
            self._ranges.append((key, done))
            self._syncs[key] = sync

    def note_done(self, keys: Callable[[], Iterable[bytes]]) -> None:
        """Files are done; `keys` is asked for their `done_key`s at the next `flush`."""
        with self._lock:
            if self._kept < _MOST_DONE:
                self._small.append(keys)

    def end(self, key: bytes) -> None:
        """A file copied in ranges is done, or starts over."""
        with self._lock:
            self._syncs.pop(key, None)
            self._ranges = [item for item in self._ranges if item[0] != key]
            if self._begun.pop(key, None) is None:
                self._ended.append(_record(b"E", key))

    @property
    def pending_bytes(self) -> int:
        """Bytes in ranges that are not recorded yet."""
        with self._lock:
            return sum(done.length for _, done in self._ranges)

    @property
    def has_pending(self) -> bool:
        """Whether there is anything to record."""
        with self._lock:
            return bool(self._ranges or self._small or self._ended)

    def flush(self, sync_small: Callable[[], None] = lambda: None) -> None:
        """Put what has arrived on the disk, and then record it. Takes as long as the disk needs.

        Args:
            sync_small: puts the small files on the disk that were done before.

        Raises:
            OSError: the journal cannot be written.
        """
        with self._flushing:
            with self._lock:
                ranges, self._ranges = self._ranges, []
                syncs, self._syncs = self._syncs, {}
                small, self._small = self._small, []
                ended, self._ended = self._ended, []
            done_at = time.time_ns()
            failed = set()
            for key, sync in syncs.items():
                try:
                    sync()
                except OSError:
                    failed.add(key)  # what is not on the disk is copied again
            digests = b"".join(key for keys in small for key in keys())
            if digests:
                try:
                    sync_small()
                except OSError:
                    digests = b""
            self._kept += len(digests) // _DONE_BYTES
            with self._lock:
                lines = [*ended, _record(b"T", _TIME.pack(done_at)), _record(b"D", digests)] if digests else ended
                for key, done in ranges:
                    if key not in failed:
                        begun = self._begun.pop(key, None)
                        if begun is not None:
                            lines.append(begun)
                        digest = done.digest or bytes(32)
                        lines.append(_record(b"R", _RANGE.pack(key, done.offset, done.length, digest)))
            if lines and self._size < _MOST_BYTES:
                self._recorded = True
                self._append(b"".join(lines))

    def _append(self, data: bytes, *, sync: bool = True) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        if sync:
            os.fdatasync(self._fd)
        self._size += len(data)

    # -- closing ----------------------------------------------------------------------------------------------------

    def close(self, *, remove: bool) -> None:
        """Give it back; `remove` it if there is nothing to go on with. May be called more than once."""
        if self._fd < 0:
            return
        if remove:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._fd)
        self._fd = -1


@contextlib.contextmanager
def left_behind(target: str) -> Iterator[list[bytes]]:
    """The part files that interrupted copies to `target`, or to something below it, have left, as journals name them.

    No copy goes on with them meanwhile; after the block their journals are gone, but not after an error in it.
    """
    found = []
    directory = journal_directory()
    shown = printable(target).rstrip("/")
    with contextlib.ExitStack() as stack:
        for path in sorted(directory.glob("*.journal")) if directory is not None else ():
            journal = Journal.reopen(path)
            if journal is not None:
                stack.callback(journal.close, remove=False)
                its = str(journal.about.get("target", "")).rstrip("/")
                if its == shown or its.startswith(shown + "/"):
                    found.append(journal)
        yield [old.part for journal in found for old in journal.unfinished.values()]
        for journal in found:
            journal.close(remove=True)


def _open_locked(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int | None:
    while True:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        try:
            same = os.path.samestat(os.fstat(fd), os.stat(path))
        except FileNotFoundError:
            same = False
        if same:
            return fd
        os.close(fd)  # the one that had the lock has removed it


def _record(kind: bytes, payload: bytes) -> bytes:
    body = _HEAD.pack(kind, len(payload)) + payload
    return body + _SUM.pack(zlib.crc32(body))


def _records(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """The whole records from the beginning on: kind, payload, and where each ends."""
    start = 0
    while start + _HEAD.size + _SUM.size <= len(data):
        kind, length = _HEAD.unpack_from(data, start)
        end = start + _HEAD.size + length + _SUM.size
        body = data[start : end - _SUM.size]
        if end > len(data) or _SUM.unpack_from(data, end - _SUM.size)[0] != zlib.crc32(body):
            return
        if not _is_well_formed(kind, body[_HEAD.size :]):
            return
        yield kind, body[_HEAD.size :], end
        start = end


def _is_well_formed(kind: bytes, payload: bytes) -> bool:
    match kind:
        case b"H":
            return payload.startswith(b"{")
        case b"D":
            return len(payload) % _DONE_BYTES == 0
        case b"U":
            return len(payload) > KEY_BYTES and len(payload) > KEY_BYTES + payload[KEY_BYTES]
        case b"R":
            return len(payload) == _RANGE.size
        case b"T":
            return len(payload) == _TIME.size
        case b"E":
            return len(payload) == KEY_BYTES
    return False


def sweep(directory: Path) -> None:
    """Remove journals that nobody has come back to for a month."""
    with contextlib.suppress(OSError):
        for path in directory.glob("*.journal"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _SWEEP_SECONDS:
                    path.unlink()

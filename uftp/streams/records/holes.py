"""Runs of zeros in files that take no space: finding them when sending, keeping them when receiving."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final, Literal, NamedTuple

SHORTEST: Final = 64 * 1024  # a shorter run is sent as it is: a record and a system call cost as much
_ZEROS: Final = bytes(1024 * 1024)
_KEEP_SIZE: Final = 0x01  # <linux/falloc.h>
_PUNCH_HOLE: Final = 0x02


class Extent(NamedTuple):
    """A part of a file."""

    kind: Literal["data", "hole"]
    offset: int
    length: int


def extents(source: int, offset: int, length: int) -> Iterator[Extent]:
    """Cut a range of the file `source` into data and holes, as the file system knows them. Moves the file position.

    What cannot be examined, or ends before the range does, comes out as data: reading it tells.
    """
    end = offset + length
    if not stat.S_ISREG(os.fstat(source).st_mode):
        yield Extent("data", offset, length)
        return
    while offset < end:
        hole_end = min(_next_data(source, offset, end), end)
        if hole_end - offset >= SHORTEST:
            yield Extent("hole", offset, hole_end - offset)
            offset = hole_end
            continue
        # From one byte on: a file that changes between two looks must not keep us at its place.
        data_end = _data_end(source, min(hole_end + 1, end), end)
        yield Extent("data", offset, data_end - offset)
        offset = data_end


def _data_end(source: int, offset: int, end: int) -> int:
    """Where the next hole worth the name begins, from `offset` on."""
    while offset < end:
        hole = _seek(source, offset, os.SEEK_HOLE)
        if hole is None or hole >= end:
            return end
        after = min(_next_data(source, hole, end), end)
        if after - hole >= SHORTEST:
            return hole
        # Nothing but a short hole, or one that is data by the time of the second look.
        offset = max(after, hole + 1)
    return end


def _next_data(source: int, offset: int, end: int) -> int:
    """Where data begins from `offset` on. A hole at the end of the file is no longer than the file."""
    found = _seek(source, offset, os.SEEK_DATA)
    if found is not None:
        return found
    size = os.fstat(source).st_size
    return max(offset, min(size, end))


def _seek(source: int, offset: int, what: int) -> int | None:
    try:
        return os.lseek(source, offset, what)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        return offset if what == os.SEEK_DATA else None  # a file system that does not know: all is data


class HoleWriter:
    """Keeps holes in a file being received.

    Args:
        target: descriptor of the file.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        info = os.fstat(target)
        self._regular = stat.S_ISREG(info.st_mode)
        # There every write goes to the end, wherever that is by now.
        self._appending = bool(fcntl.fcntl(target, fcntl.F_GETFL) & os.O_APPEND)

    def write(self, offset: int, length: int, wrote: Callable[[int], None]) -> None:
        """Make `length` bytes from `offset` read as zeros, without space where that can be.

        Args:
            offset, length: bytes.
            wrote: told, piece by piece, how many bytes are done. What it raises ends the work: zeros that must be
                written out may take long, and a peer names any number of them in a few bytes.

        Raises:
            OSError: writing failed.
        """
        if not self._regular:
            wrote(length)  # /dev/null
            return
        if self._appending:
            self._write_zeros(offset, length, wrote)
            return
        end = offset + length
        old = os.fstat(self._target).st_size
        inside = max(0, min(end, old) - offset)
        if inside:
            self._clear(offset, inside, wrote)
        if end > old:
            # One byte, and not a truncate: another session may be writing beyond, and a size read before is old.
            os.pwrite(self._target, _ZEROS[:1], end - 1)
            wrote(length - inside)

    def _clear(self, offset: int, length: int, wrote: Callable[[int], None]) -> None:
        if _punch(self._target, offset, length):
            wrote(length)
        else:
            self._write_zeros(offset, length, wrote)

    def _write_zeros(self, offset: int, length: int, wrote: Callable[[int], None]) -> None:
        zeros = memoryview(_ZEROS)
        while length > 0:
            count = os.pwrite(self._target, zeros[: min(length, len(zeros))], offset)
            wrote(count)
            offset += count
            length -= count


@cache
def _fallocate() -> ctypes._NamedFuncPointer | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        function.restype = ctypes.c_int
    return function


def _punch(target: int, offset: int, length: int) -> bool:
    """Whether the file system has made it a hole."""
    function = _fallocate()
    return function is not None and function(target, _PUNCH_HOLE | _KEEP_SIZE, offset, length) == 0

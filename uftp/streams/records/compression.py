"""zstd for records: what pays is compressed, what does not goes raw, and a run of the latter ends trying for a while.

Compressing happens in a small pool of threads where there is enough for them; records keep their order.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import zstandard

from uftp.protocol.records import RecordError, content_size

SMALLEST: Final = 256  # bytes; below it a frame's own bytes eat what it saves
_MOST_THREADS: Final = 4  # a session is one of many
_SAMPLE: Final = 64 * 1024  # of a large record, tried first
_WORTH: Final = 0.96  # of the content, at most: less is not worth the receiver's time
_GIVE_UP_AFTER: Final = 3  # records in a row that did not shrink
_FIRST_PAUSE: Final = 8  # records that are then not tried, twice as many each time, up to:
_LONGEST_PAUSE: Final = 64


class Compressor:
    """The compressing side of one connection.

    Args:
        level: of zstd.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._local = threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self._in_vain = 0
        self._pause = _FIRST_PAUSE
        self._paused = 0
        self.threads = max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0))))

    @property
    def pausing(self) -> bool:
        """Whether the next record goes raw untried. Whoever then sends it so calls `skipped`."""
        return self._paused > 0

    def skipped(self) -> None:
        """A record went raw untried."""
        self._paused = max(0, self._paused - 1)

    def compress(self, content: memoryview | bytes) -> bytes | None:
        """One zstd frame of `content`, or None if that does not pay. From any thread."""
        size = len(content)
        if size < SMALLEST:
            return None
        compressor: zstandard.ZstdCompressor | None = getattr(self._local, "compressor", None)
        if compressor is None:
            # Content size yes, checksum no: the tag or the digest finds what a checksum would.
            compressor = zstandard.ZstdCompressor(level=self._level, write_content_size=True, write_checksum=False)
            self._local.compressor = compressor
        if size >= 4 * _SAMPLE and len(compressor.compress(content[:_SAMPLE])) > _SAMPLE * _WORTH:
            return None
        frame = compressor.compress(content)
        return frame if len(frame) <= size * _WORTH else None

    def submit(self, content: memoryview) -> Future[bytes | None]:
        """`compress` in the pool. `content` must stay as it is until the result is there."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="zstd")
        return self._pool.submit(self.compress, content)

    def learn(self, size: int, shrunk: bool) -> None:
        """How a record came out, in order: decides about those to come."""
        if shrunk:
            self._in_vain = 0
            self._pause = _FIRST_PAUSE
        elif size >= SMALLEST:
            self._in_vain += 1
            if self._in_vain >= _GIVE_UP_AFTER:
                self._paused = self._pause
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                self._in_vain = _GIVE_UP_AFTER - 1  # after the pause one more in vain is enough

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


class Decompressor:
    """The other side."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor()

    def decompress(self, frame: memoryview) -> bytes:
        """The content of one frame, which states its size; no more than that is ever made.

        Raises:
            RecordError: not exactly one such frame, or one that does not decode.
        """
        size = content_size(frame)
        try:
            content = self._zstd.decompress(frame, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise RecordError(f"a zstd frame that does not decode: {error}") from None
        if len(content) != size:
            raise RecordError(f"a zstd frame of {len(content)} bytes that states {size}")
        return content

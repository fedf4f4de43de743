"""Digests of files, and of ranges of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Final, Protocol

import blake3

from uftp.streams._meter import Meter
from uftp.streams.pump import BLOCK, Cancelled


class Digest(Protocol):
    """What every hash object here can do."""

    def update(self, data: memoryview, /) -> object:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Lower-case hex of all bytes so far."""


def _hashlib(name: str) -> Callable[[], Digest]:
    # MD5 and SHA-1 find transmission errors and match what old peers compute; they guard nothing.
    return lambda: hashlib.new(name, usedforsecurity=False)


_ALGORITHMS: Final[dict[str, Callable[[], Digest]]] = {
    "MD5": _hashlib("md5"),
    "SHA-1": _hashlib("sha1"),
    "SHA-256": _hashlib("sha256"),
    "SHA-512": _hashlib("sha512"),
    "BLAKE3": blake3.blake3,
}


def new_digest(algorithm: str) -> Digest:
    """A hash object for a name as FEAT spells it.

    Raises:
        KeyError: an unknown name.
    """
    return _ALGORITHMS[algorithm]()


def hash_file(source: int, offset: int, length: int, algorithm: str, meter: Meter | None = None) -> str:
    """Hex digest of `length` bytes of the file `source` from `offset`, or of what is there if it ends before.

    Raises:
        KeyError: an unknown algorithm.
        Cancelled: the meter was cancelled.
        OSError: reading failed.
    """
    digest = new_digest(algorithm)
    meter = meter or Meter()
    buffer = memoryview(bytearray(BLOCK))
    while length > 0:
        if meter.cancelled:
            raise Cancelled
        count = os.preadv(source, [buffer[: min(BLOCK, length)]], offset)
        if count == 0:
            break
        digest.update(buffer[:count])
        offset += count
        length -= count
        meter.moved += count
    return digest.hexdigest()

"""Comparing what moved with its source by checksums of the server, where the transfer itself carries no digest.

MODE U's DIGEST covers each transfer, and each range of a file. Old servers have HASH at best (DATA-PLANE 10): the
server computes its digest while this side computes its own.
"""

from __future__ import annotations

from typing import Final

import trio

from uftp.client.session import FTPSession
from uftp.errors import LocalFileError, NotFound, Refused, UFTPError
from uftp.protocol.features import Features
from uftp.streams import Meter
from uftp.streams.digest import hash_file

_UNKNOWN_COMMAND: Final = (502, 504)
# The first that the server has: for what both can compute fast, and then for what finds more.
_PREFERENCE: Final = ("BLAKE3", "SHA-256", "SHA-512", "SHA-1", "MD5")


def best_algorithm(features: Features) -> str | None:
    """What to compare by with a server; None if it computes no checksums."""
    return next((name for name in _PREFERENCE if name in features.hash_algorithms), None)


async def agrees(
    session: FTPSession, path: bytes, offset: int, length: int, *, local: int, local_offset: int | None = None
) -> bool | None:
    """Whether a range of a file on the server has the same bytes as one here.

    Args:
        session: which is busy meanwhile.
        path: on the server.
        offset, length: the range in bytes.
        local: descriptor of the file here; must stay open meanwhile.
        local_offset: where the range begins here; None for the same place.

    Returns:
        None if the server computes no checksums.

    Raises:
        LocalFileError: the file here cannot be read.
        UFTPError: the server, or the connection.
    """
    algorithm = best_algorithm(session.dialect.features)
    if algorithm is None:
        return None
    start = offset if local_offset is None else local_offset
    meter = Meter()
    ours: list[str] = []
    failures: list[Exception] = []

    def compute() -> None:
        try:
            ours.append(hash_file(local, start, length, algorithm, meter))
        except Exception as error:
            failures.append(error)

    async def compute_here() -> None:
        await trio.to_thread.run_sync(compute)

    theirs = ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute_here)
        try:
            theirs = (await session.checksum(path, algorithm, offset=offset, length=length)).digest
        except UFTPError as error:
            failures.insert(0, error)
        finally:
            meter.cancelled = meter.cancelled or not theirs  # the thread must not outlive the descriptor
    if failures and isinstance(failures[0], OSError):
        raise LocalFileError(f"the file here cannot be read again: {failures[0].strerror}") from failures[0]
    if failures and isinstance(failures[0], Refused | NotFound) and failures[0].code in _UNKNOWN_COMMAND:
        return None  # it lists what it has not
    if failures:
        raise failures[0]
    return theirs == ours[0]

"""`cp -a`: archives from here, unpacked on the server."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence

import trio

from uftp.client.archive import store_archive
from uftp.client.session import FTPSession
from uftp.client.url import RemoteUrl
from uftp.errors import NotFound, Refused, UFTPError, UsageError
from uftp.streams import Meter
from uftp.transfer.local import Source, local_error
from uftp.transfer.pool import SessionPool
from uftp.transfer.results import CopyState, FileResult

_STANDARD_INPUT = 0


async def upload_archives(pool: SessionPool, url: RemoteUrl, sources: Sequence[bytes], state: CopyState) -> None:
    """Send each archive to be unpacked into the directory `url`, one after the other.

    Results and failures go to `state`.

    Raises:
        NotFound, Refused: there is no such directory.
        UsageError: standard input, which is no file, is named twice.
    """
    if sources.count(b"-") > 1:
        raise UsageError("-: standard input can be read once only")
    directory = url.path.rstrip(b"/") or url.path
    async with pool.session() as session:
        try:
            info = await session.stat(directory)
        except NotFound as error:
            raise NotFound(f"{url.display()}: no such directory; create it with mkdir", code=error.code) from error
        if not info.is_dir:
            raise Refused(f"{url.display()}: is no directory; an archive is unpacked into one")
    state.files_found += len(sources)
    for source in sources:
        shown = os.fsdecode(source)
        meter = Meter()
        failure: UFTPError | None = None
        began = time.monotonic()
        state.start(meter)
        try:
            async with pool.session() as session:
                await _upload(session, directory, source, meter, state)
        except UFTPError as error:
            failure = error
        finally:
            state.stop(meter)
        seconds = time.monotonic() - began
        state.record(FileResult(source=shown, target=url.display(), bytes=meter.moved, seconds=seconds, error=failure))
        if failure is not None and pool.failed:
            raise failure
    state.planned = True


async def _upload(session: FTPSession, directory: bytes, path: bytes, meter: Meter, state: CopyState) -> None:
    try:
        source = await trio.to_thread.run_sync(_open, path)
    except OSError as error:
        raise local_error(error, path, "read it") from error
    with contextlib.closing(source):
        if source.size is None and source.parallel:
            raise UsageError(f"{os.fsdecode(path)}: has no end, so it is no archive")
        state.bytes_found += source.size or 0
        await store_archive(session, directory, source.sender(0, source.size), length=source.size, meter=meter)


def _open(path: bytes) -> Source:
    return Source(_STANDARD_INPUT, owned=False) if path == b"-" else Source.open(path)

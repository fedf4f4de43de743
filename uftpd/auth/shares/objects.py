"""What a share leads to, as its data node has it: looks, small files, listings, and large files in blocks.

Small requests go over lanes, large files over flows (`pool`); a node without MODE U is asked over plain sessions. A
session that turns out to have ended while it was idle is replaced once. What the node refuses becomes an error reply.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio

from uftp.errors import NetworkError, NotFound, Refused, UFTPError
from uftp.protocol.facts import FileInfo
from uftp.streams import Incoming, Meter
from uftpd.auth.errors import RequestError
from uftpd.auth.shares.entrance import Visit
from uftpd.auth.shares.failures import as_request_error
from uftpd.auth.shares.flow import Flow
from uftpd.auth.shares.lane import MAX_LISTING_BYTES, Lane, SmallFile, entries_of
from uftpd.auth.shares.pool import Plain, Pool

SMALL_BYTES: Final = 128 * 1024  # a file below this size is fetched in one go, without asking for its size before
_MOST_HINTS: Final = 20_000

T = TypeVar("T")
Put = Callable[[bytes], Awaitable[None]]


class Reader:
    """Reads one file; see `Objects.reader`."""

    def __init__(self, flow: Flow | Plain) -> None:
        self._flow = flow

    async def copy(self, path: bytes, offset: int, length: int, put: Put) -> None:
        """Hand a part of a file on, block by block.

        Args:
            path: the file.
            offset: first byte.
            length: bytes; none is no error.
            put: takes a block; the next one is read when it has returned.

        Raises:
            UFTPError: not all of it came, or the node does not say that it was right.
        """
        if not length:
            return
        if isinstance(self._flow, Plain):
            await self._copy_plain(self._flow, path, offset, length, put)
            return
        download = await self._flow.open(path, offset, length)
        try:
            while download.left:
                await put(await download.take())
            await download.finish()
        finally:
            download.close()

    async def _copy_plain(self, plain: Plain, path: bytes, offset: int, length: int, put: Put) -> None:
        def receive(incoming: Incoming, most: int | None, meter: Meter) -> int:
            return incoming.to_chunks(lambda block: trio.from_thread.run(put, bytes(block)), most, meter)

        try:
            moved = await plain.session.retrieve(path, receive, offset=offset, length=length)
        except BaseException:
            plain.close()
            raise
        if moved != length:
            plain.close()
            raise NetworkError(f"{moved} of {length} bytes came")


class Objects:
    """See the module."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._large: OrderedDict[tuple[str, bytes], bool] = OrderedDict()

    async def stat(self, visit: Visit, path: bytes | None = None) -> FileInfo:
        """What is known of the object of a visit, or of another one there.

        Raises:
            RequestError: nothing, or there is no way to it now.
        """
        found = visit.path if path is None else path
        info = await self._ask(visit, lambda lane: lane.stat(found), lambda plain: plain.session.stat(found))
        self._remember(visit, found, large=info.is_dir or info.size >= SMALL_BYTES)
        return info

    async def small(self, visit: Visit, path: bytes | None = None) -> SmallFile | None:
        """A whole file, if it is small; None if it is not, or no file, or does not look so.

        Raises:
            RequestError: there is no way to it now.
        """
        found = visit.path if path is None else path
        if self._large.get((visit.share.id, found), False):
            return None
        try:
            lane = await self.pool.lane(visit.server, visit.share, visit.rate)
            if lane is None:
                return None
            try:
                file = await lane.fetch(found, SMALL_BYTES)
            except NetworkError:
                lane = await self.pool.lane(visit.server, visit.share, visit.rate)
                if lane is None:
                    return None
                file = await lane.fetch(found, SMALL_BYTES)
        except (NotFound, Refused):
            return None  # `stat` tells why
        except UFTPError as error:
            raise as_request_error(error) from error
        if not file.whole:
            self._remember(visit, found, large=True)
            return None
        return file

    async def beginning(self, visit: Visit, path: bytes, limit: int) -> SmallFile | None:
        """The first bytes of a file; None if it cannot be read."""
        try:
            return await self._ask(visit, lambda lane: lane.fetch(path, limit), _no_beginning)
        except RequestError:
            return None

    async def listing(
        self, visit: Visit, path: bytes | None = None, *, limit: int = MAX_LISTING_BYTES, links: bool = False
    ) -> tuple[list[FileInfo], bool]:
        """The entries of a directory, and whether these are all.

        Args:
            visit: to the share.
            path: the directory; None for that of the visit.
            limit: bytes of the listing to read at most.
            links: whether symbolic links are listed as such, and not as what they point to.

        Raises:
            RequestError: it cannot be listed, or the node cannot list links.
        """
        found = visit.path if path is None else path

        async def by_lane(lane: Lane) -> tuple[list[FileInfo], bool]:
            text, whole = await lane.listing(found, limit, links=links)
            if not whole:
                text = text[: text.rfind(b"\r\n") + 2]
            return entries_of(text), whole

        async def plainly(plain: Plain) -> tuple[list[FileInfo], bool]:
            return await plain.session.listdir(found, links=links), True

        return await self._ask(visit, by_lane, plainly)

    @asynccontextmanager
    async def reader(self, visit: Visit) -> AsyncIterator[Reader]:
        """A way to read large files, for one request.

        Raises:
            RequestError: there is none now.
        """
        async with self.pool.flow(visit.server, visit.share, visit.rate) as flow:
            yield Reader(flow)

    async def _ask(
        self, visit: Visit, by_lane: Callable[[Lane], Awaitable[T]], plainly: Callable[[Plain], Awaitable[T]]
    ) -> T:
        try:
            lane = await self.pool.lane(visit.server, visit.share, visit.rate)
            if lane is None:
                async with self.pool.flow(visit.server, visit.share, visit.rate) as flow:
                    assert isinstance(flow, Plain)  # noqa: S101 - a node that has MODE U gives a lane
                    return await plainly(flow)
            try:
                return await by_lane(lane)
            except NetworkError:
                lane = await self.pool.lane(visit.server, visit.share, visit.rate)
                if lane is None:
                    raise
                return await by_lane(lane)
        except UFTPError as error:
            raise as_request_error(error) from error

    def _remember(self, visit: Visit, path: bytes, *, large: bool) -> None:
        """Only saves a request in vain: what is wrong in it costs time, and nothing else."""
        key = (visit.share.id, path)
        if not large:
            self._large.pop(key, None)
            return
        self._large[key] = True
        while len(self._large) > _MOST_HINTS:
            self._large.popitem(last=False)


async def _no_beginning(plain: Plain) -> SmallFile:
    raise NotFound(f"{plain.session.name}: no MODE U")

"""PUT of /rest/access/{server}/{id}[/{path}]: one file, which has its name when all of it is there (CONTROL-PLANE 4.5).

The body goes to the node block by block as it comes. A node of ours keeps nothing of a file that did not come whole; on
others a shared directory takes a part file, which is renamed at the end. A body that ends before its length, or without
its last chunk, is no whole file.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from uftp.errors import NotFound as NothingThere
from uftp.errors import UFTPError
from uftp.protocol.facts import FileInfo
from uftp.protocol.http_ranges import Representation
from uftp.streams import Meter, Outgoing
from uftpd.auth.edge import context_of
from uftpd.auth.errors import BadRequest, NotAllowed, NotFound, RequestError
from uftpd.auth.services import Services
from uftpd.auth.shares.entrance import Entrance, Visit
from uftpd.auth.shares.failures import as_request_error
from uftpd.auth.shares.flow import Flow
from uftpd.auth.shares.grants import Wanted
from uftpd.auth.shares.model import NO_SUCH_SHARE, ShareAccess
from uftpd.auth.shares.objects import Objects
from uftpd.auth.shares.pool import Plain
from uftpd.auth.shares.representation import may_write, version_of

_BLOCK = 1024 * 1024
_CONDITIONS = ("if-match", "if-none-match", "if-unmodified-since")
_BODY_STALL_SECONDS = 60.0


class _BodyBroken(Exception):
    """The client went away, or its body did not come to its end."""


class Upload:
    """The handler."""

    def __init__(self, services: Services, entrance: Entrance, objects: Objects) -> None:
        self._services = services
        self._entrance = entrance
        self._objects = objects
        self._writing: dict[tuple[str, bytes], _Turn] = {}

    async def put(self, request: Request) -> Response:
        """PUT."""
        context = context_of(request)
        context.outcome = "upload refused"
        visit = await self._entrance.admit(request)
        if visit.share.access < ShareAccess.WRITE or not self._services.config.shares.allow_write:
            raise NotAllowed("This share is for reading only")
        if visit.slash or (visit.share.directory and not visit.parts):
            raise RequestError("A directory cannot be written; PUT a name below it", status=409)
        if "content-range" in request.headers:
            raise BadRequest("Content-Range has no meaning for PUT here")
        if request.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise RequestError("Files are stored as they come, without an encoding", status=415)
        conditions = {name: ", ".join(found) for name in _CONDITIONS if (found := request.headers.getlist(name))}
        # Of two writers with conditions, or of two of one file, the second one sees what the first has made.
        async with self._turn((visit.share.id, visit.path)):
            if await self._services.grants.get(visit.share.id, visit.share.server) is None:
                raise NotFound(NO_SUCH_SHARE)  # withdrawn while this one waited
            there = await self._there(visit)
            if there is not None and there.is_dir:
                raise RequestError("There is a directory of that name", status=409)
            version = None if there is None else self._version(visit, there)
            if not may_write(conditions, version):
                raise RequestError("The file is not the version the request is about", status=412)
            claim = await self._services.grants.claim(visit.share, visit.holder, Wanted(part="PUT"))
            try:
                context.becomes_transfer()
                with self._services.deliveries.running(visit.share.id) as scope:
                    stored = await self._store(request, visit)
                if scope.cancelled_caught:
                    raise NotFound("The share was withdrawn")
            except _BodyBroken:
                context.outcome = "upload cut off by the client"
                raise BadRequest("The body ended early; nothing was stored", headers={"Connection": "close"}) from None
            except UFTPError as error:
                context.outcome = "upload failed"
                context.facts["reason"] = str(error)
                raise self._closing(as_request_error(error)) from error
            except BaseException:
                context.outcome = "upload failed"
                raise
            else:
                await claim.settle()
            finally:
                await claim.release()
        context.outcome = "stored"
        context.facts["bytes"] = stored
        self._services.grants.record_access(visit.share)
        return Response(None, 201 if there is None else 204)

    @staticmethod
    def _closing(error: RequestError) -> RequestError:
        # What is left of the body would be taken for the next request.
        error.headers["Connection"] = "close"
        return error

    def _version(self, visit: Visit, info: FileInfo) -> Representation:
        return version_of(visit.share.id.encode(), visit.path, info.size, info.mtime_ns)

    async def _there(self, visit: Visit) -> FileInfo | None:
        try:
            return await self._objects.stat(visit)
        except NotFound:
            return None

    async def _store(self, request: Request, visit: Visit) -> int:
        length = _length(request)
        async with (
            aclosing(_blocks(request)) as blocks,
            self._objects.pool.flow(visit.server, visit.share, visit.rate, write=True) as flow,
        ):
            if isinstance(flow, Flow):
                return await flow.store(visit.path, blocks, length)
            return await _store_plain(flow, visit, blocks, length)

    def _turn(self, key: tuple[str, bytes]) -> _Turn:
        return self._writing.setdefault(key, _Turn(self._writing, key)).wanted()


class _Turn:
    """A lock for one file, forgotten when nobody wants it."""

    def __init__(self, all_turns: dict[tuple[str, bytes], _Turn], key: tuple[str, bytes]) -> None:
        self._all = all_turns
        self._key = key
        self._lock = trio.Lock()
        self._users = 0

    def wanted(self) -> _Turn:
        """Count one more who wants it."""
        self._users += 1
        return self

    async def __aenter__(self) -> None:
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *exc: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            self._all.pop(self._key, None)


def _length(request: Request) -> int | None:
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequest("Content-Length: not a number")
    return int(text)


async def _blocks(request: Request) -> AsyncGenerator[bytes, None]:
    """The body in blocks of a size that is worth a record.

    Raises:
        _BodyBroken: it did not come to its end.
    """
    gathered: list[bytes] = []
    size = 0
    try:
        while True:
            with trio.fail_after(_BODY_STALL_SECONDS):
                message = await request.receive()
            if message["type"] == "http.disconnect":
                raise _BodyBroken
            body = message.get("body", b"")
            if body:
                gathered.append(body)
                size += len(body)
            more = message.get("more_body", False)
            if size and (size >= _BLOCK or not more):
                yield b"".join(gathered)
                gathered, size = [], 0
            if not more:
                return
    except (ClientDisconnect, trio.TooSlowError):
        raise _BodyBroken from None


async def _store_plain(plain: Plain, visit: Visit, blocks: AsyncIterator[bytes], length: int | None) -> int:
    """On a node without MODE U. Its sessions use threads, and so does what comes to them."""
    session = plain.session
    whole = session.dialect.stores_atomically or not visit.share.directory
    directory = visit.path.rpartition(b"/")[0]
    part = b"/".join(piece for piece in (directory, b".uftp-%s.part" % secrets.token_hex(8).encode()) if piece)
    target = visit.path if whole else part

    async def next_block() -> bytes | None:
        return await anext(blocks, None)

    def send(outgoing: Outgoing, meter: Meter) -> None:
        while (block := trio.from_thread.run(next_block)) is not None:
            outgoing.from_bytes(block, meter)

    try:
        stored = await session.store(target, send, length=length)
    except BaseException:
        plain.close()
        raise
    if not whole:
        try:
            await session.rename(part, visit.path)
        except BaseException:
            await _remove(plain, part)
            raise
    return stored


async def _remove(plain: Plain, path: bytes) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
        try:
            await plain.session.delete(path)
        except (NothingThere, UFTPError):
            plain.close()

"""The object server: a process that serves one object over HTTP, as the user it belongs to (EXTENSIONS section 7).

The object is a file, or what is beneath a directory; which, is the scope of the request, and the kernel keeps this
process to it. A file is opened once and stays the one that was meant, whatever takes its name. The front hands
connections over with the bytes it has read; from then on they are ours, for as many requests as the client has for
this object. A connection whose next request is for another object goes back to the front.

After the secret has ended no download begins, but for those of a client that has one running already: programs fetch
a file in pieces. The process ends when the front has no more connections for it and all it has are done.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import socket
import stat
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from uftpd.session import messages, object_messages, process
from uftpd.session.filters import Forbidden, PathFilter
from uftpd.session.messages import Drain, Failed, ObjectSettings, Rate, Ready, SessionSettings
from uftpd.session.object_answer import Answer, answer, representation
from uftpd.session.object_connection import close_politely, receive
from uftpd.session.object_files import OpenFile, OpenFiles
from uftpd.session.object_messages import Connection, Idle
from uftpd.session.object_request import BadRequest, HeadReader, ObjectRequest, parse_head, plain_answer
from uftpd.session.object_sending import Broken, Sender
from uftpd.session.paths import FileTree
from uftpd.session.privileges import Account, LoginRefused, UserPolicy, become, look_up
from uftpd.session.report_socket import Reporter

_NOT_THERE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV}
)


async def run(channel: socket.socket, report: socket.socket, user: str, policy: UserPolicy) -> None:
    """Be the object server. Until the user is settled nothing else runs in this process, so what blocks may block.

    Args:
        channel: brings connections.
        report: to the front; the settings are its first message.
        user: the account, as the spawner was told and has checked it against its limits.
        policy: whom this node serves.
    """
    reporter = Reporter(report)
    try:
        settings = messages.decode_to_session(report.recv(messages.MAX_MESSAGE))
        if not isinstance(settings, ObjectSettings) or settings.session.user != user:
            raise LoginRefused("internal error")
        account = look_up(user, settings.session.groups, policy)
        become(account, policy, settings.session.umask)
        tree, path = open_object(settings.session, account)
        if tree.confined and not tree.confine_process():
            reporter.log("no-landlock", level="debug")
    except (LoginRefused, Forbidden) as error:
        reporter.send(Failed(reason=str(error)))
        return
    except (OSError, msgspec.MsgspecError) as error:
        reporter.send(Failed(reason=f"Cannot open the directory: {getattr(error, 'strerror', error)}"))
        return
    reporter.send(Ready())
    try:
        await ObjectServer(settings, tree, path, reporter).serve(channel, report)
    except BaseException:
        reporter.log("session-crashed", level="error", traceback=traceback.format_exc())
        raise


def open_object(settings: SessionSettings, account: Account) -> tuple[FileTree, bytes]:
    """The files that are served, and the path of the object among them. Runs as the user.

    A directory may be named by a link, as sessions may begin in one. Only the user's own link counts, or root's: where
    others can write, they could put one in the place of what was shared.

    Raises:
        OSError: the directory above is not there, or not for this user.
    """
    tree, start = process.open_tree(settings, account)
    path = start.rstrip(b"/") + b"/" + settings.scope
    if settings.includes or settings.excludes or (target := _own_link(path, account.uid)) is None:
        return tree, path
    tree.close()
    return FileTree(target, PathFilter(), confined=True), target


def _own_link(path: bytes, uid: int) -> bytes | None:
    """The directory that a link of this user leads to."""
    try:
        link = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        info = os.fstat(link)
        if not stat.S_ISLNK(info.st_mode) or info.st_uid not in (0, uid):
            return None
        target = os.path.realpath(os.path.join(os.path.dirname(path), os.readlink(b"", dir_fd=link)))
    finally:
        os.close(link)
    return target if os.path.isdir(target) else None


class ObjectServer:
    """See the module.

    Args:
        settings: what is served, to whom, for how long.
        tree: the files.
        path: of the object in the tree.
        reporter: takes log lines.
    """

    def __init__(self, settings: ObjectSettings, tree: FileTree, path: bytes, reporter: Reporter) -> None:
        self._settings = settings
        self._path = path
        self._reporter = reporter
        self._own_rate = settings.session.rate
        self._user_rate = 0
        self._sender = Sender(settings.stall_seconds, self._rate)
        self._files = OpenFiles(tree)
        self._is_directory = False
        self._connections = 0
        self._sending = 0
        self._expires = 0.0
        self._draining = False
        self._channel_ended = False
        self._changed = trio.Event()  # connections, or whether there can be more
        self._waiting: set[trio.CancelScope] = set()  # of connections between two requests

    def _rate(self) -> int:
        rates = [rate for rate in (self._own_rate, self._user_rate) if rate > 0]
        return min(rates, default=0)

    # -- life -------------------------------------------------------------------------------------------------------

    async def serve(self, channel: socket.socket, report: socket.socket) -> None:
        """Serve until there is nothing more to do."""
        began = trio.current_time()
        self._expires = began + self._settings.expires
        channel.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen_to_front, trio.socket.from_stdlib_socket(report.dup()), nursery)
            nursery.start_soon(self._take_connections, channel, nursery)
            with trio.move_on_at(self._expires + self._settings.longest_seconds):
                await self._until_done(channel)
            self._reporter.log("object-server-ended", seconds=round(trio.current_time() - began, 3))
            nursery.cancel_scope.cancel()

    async def _until_done(self, channel: socket.socket) -> None:
        asked = False
        while not (self._channel_ended and self._connections == 0):
            idle = self._connections == 0 and not asked
            self._changed = trio.Event()
            with trio.move_on_after(self._settings.idle_seconds if idle else float("inf")) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught:
                # The front answers by closing the channel; what it has sent before is served still.
                with contextlib.suppress(OSError):
                    object_messages.send(channel, Idle())
                    asked = True

    async def _listen_to_front(self, report: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        """Do what the front says, until it is gone; then drain."""
        seconds = self._settings.session.drain_seconds
        while True:
            try:
                data = await report.recv(messages.MAX_MESSAGE)
            except OSError:
                data = b""
            match messages.decode_to_session(data) if data else None:
                case Drain(seconds=seconds):
                    nursery.start_soon(self._drain, seconds, nursery)
                case Rate(rate=rate):
                    self._user_rate = rate
                case _:
                    break
        await self._drain(seconds, nursery)

    async def _drain(self, seconds: float, nursery: trio.Nursery) -> None:
        if self._draining:
            return
        self._draining = True
        self._channel_ended = True
        self._changed.set()
        for scope in self._waiting:
            scope.cancel()
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()

    async def _take_connections(self, channel: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(channel)
            try:
                message, connection = object_messages.receive(channel)
            except BlockingIOError:
                continue
            except OSError:
                message, connection = None, None
            if not isinstance(message, Connection) or connection is None:
                self._channel_ended = True
                self._changed.set()
                return
            self._connections += 1
            self._changed.set()
            nursery.start_soon(self._connection, connection, message, channel)

    # -- connections ------------------------------------------------------------------------------------------------

    async def _connection(self, connection: socket.socket, arrival: Connection, channel: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await self._requests(connection, arrival, channel)
        except BadRequest as error:
            await self._refuse(connection, error.status)
        except Broken:
            pass
        finally:
            connection.close()
            self._connections -= 1
            self._changed.set()

    async def _requests(self, connection: socket.socket, arrival: Connection, channel: socket.socket) -> None:
        """Serve one request after the other.

        Raises:
            BadRequest: one that is none.
            Broken: in the middle of an answer.
        """
        if self._connections > self._settings.connections:
            await self._refuse(connection, 503)
            return
        reader = HeadReader(arrival.received)
        while (head := await self._next_head(connection, reader)) is not None:
            request = parse_head(head)
            digest = hashlib.sha256(request.secret.encode("utf-8", "surrogateescape")).digest()
            if not hmac.compare_digest(digest, self._settings.digest):
                back = Connection(peer=arrival.peer, received=head + reader.rest)
                with contextlib.suppress(OSError):  # the client will ask again
                    object_messages.send(channel, back, connection)
                return
            if not await self._request(connection, request, arrival.peer):
                break
        await close_politely(connection)

    async def _next_head(self, connection: socket.socket, reader: HeadReader) -> bytes | None:
        """The head of the next request; None if the client, or the time to wait for it, has ended."""
        begun = bool(reader.rest)
        while (head := reader.next_head()) is None:
            if self._draining:
                return None
            # Once a request has begun, its head has a time to arrive; each byte does not begin it anew.
            with trio.move_on_after(self._settings.head_seconds if begun else self._settings.idle_seconds) as waiting:
                self._waiting.add(waiting)
                try:
                    data = await self._receive_head(connection, reader) if begun else await receive(connection)
                finally:
                    self._waiting.discard(waiting)
            if waiting.cancelled_caught:
                if begun and not self._draining:
                    raise BadRequest(408)
                return None
            if begun:
                return data or None
            if not data:
                return None
            begun = True
            reader.receive_data(data)
        return head

    async def _receive_head(self, connection: socket.socket, reader: HeadReader) -> bytes:
        while (head := reader.next_head()) is None:
            data = await receive(connection)
            if not data:
                return b""
            reader.receive_data(data)
        return head

    async def _request(self, connection: socket.socket, request: ObjectRequest, peer: str) -> bool:
        """Serve one request; whether the connection goes on.

        Raises:
            Broken: it is in the middle of an answer.
        """
        if self._draining or (trio.current_time() >= self._expires and not self._sending):
            await self._answer_plainly(connection, request, 503 if self._draining else 404, close=True)
            return False
        record = _Record(time.monotonic())
        try:
            async with self._opened(request) as file:
                record.path = file.served.path
                there = representation(os.fstat(file.descriptor))
                reply = answer(request, file.served, there, int(time.time()), keep_alive=request.keep_alive)
                record.status, record.size = reply.status, reply.length
                with self._counted(reply):
                    await self._sender.send(connection, file.descriptor, reply, record.sent)
            record.result = "ok"
        except _Missing as missing:
            record.status, record.result = missing.status, "ok"
            await self._answer_plainly(connection, request, missing.status, close=not request.keep_alive)
        except Broken as error:
            record.result = str(error)
            raise
        except OSError as error:
            record.result = error.strerror or "error"
            raise Broken(record.result) from error
        except trio.Cancelled:
            record.result = "ended by the server"
            raise
        finally:
            self._log(request, record, peer)
        return request.keep_alive

    @contextlib.contextmanager
    def _counted(self, reply: Answer) -> Iterator[None]:
        if not reply.length:
            yield
            return
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1

    async def _refuse(self, connection: socket.socket, status: int) -> None:
        await self._answer_plainly(connection, None, status, close=True)
        await close_politely(connection)

    async def _answer_plainly(
        self, connection: socket.socket, request: ObjectRequest | None, status: int, *, close: bool
    ) -> None:
        text = plain_answer(status, with_body=request is None or request.method != "HEAD", close=close)
        with contextlib.suppress(Broken):
            await self._sender.send_bytes(connection, text)

    def _log(self, request: ObjectRequest, record: _Record, peer: str) -> None:
        self._reporter.log(
            "object",
            verb=request.method,
            path=(record.path or self._path).decode("utf-8", "surrogateescape"),
            peer=peer,
            status=record.status,
            size=record.size,
            bytes=record.sent[0],
            seconds=round(time.monotonic() - record.began, 4),
            result=record.result,
        )

    # -- the object -------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _opened(self, request: ObjectRequest) -> AsyncIterator[OpenFile]:
        """The file a request means. A shared file has only this one, whatever name a program puts behind the secret."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                file = await self._find(request, stack)
            except (OSError, Forbidden) as error:
                raise _Missing(_status(error)) from error
            yield file

    async def _find(self, request: ObjectRequest, stack: contextlib.AsyncExitStack) -> OpenFile:
        if not self._is_directory:
            try:
                return await stack.enter_async_context(self._files.reading(self._path))
            except IsADirectoryError:
                self._is_directory = True
        if not request.below:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return await stack.enter_async_context(self._files.reading(b"/".join((self._path, *request.below))))


@dataclass(slots=True)
class _Record:
    """What is logged of a request."""

    began: float
    path: bytes = b""
    status: int = 0
    size: int = 0
    sent: list[int] = field(default_factory=lambda: [0])
    result: str = "closed"


class _Missing(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _status(error: OSError | Forbidden) -> int:
    """What may not be read looks as what is not there; a file system that fails may be tried again."""
    if isinstance(error, OSError) and error.errno not in _NOT_THERE and not isinstance(error, PermissionError):
        return 503
    return 404

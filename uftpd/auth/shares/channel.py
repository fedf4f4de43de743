"""A session on a data node as this server's own, and the one data connection in MODE U that it keeps open.

Both ends of what is relayed here are sockets. So, unlike in the rest of the project, nothing runs in threads: the event
loop waits for the node and for the client, a slow client holds no thread, and a small file costs no hop between two.

DIGEST and SPARSE are not asked for: the bytes go on through TCP to somebody who compares nothing, and hashing costs
more than moving them.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import Final

import trio

from uftp.client.record_mode import request_lines
from uftp.client.session import FTPSession
from uftp.client.wording import printable, server_said
from uftp.errors import NetworkError, PeerBrokeProtocol, Refused
from uftp.protocol import ProtocolError
from uftp.protocol.record_mode import RecordOptions, parse_agreed
from uftp.protocol.records import HEADER_BYTES, Header, check_header, unpack_header
from uftp.streams import Link, StreamError
from uftp.streams.records import say_hello

OPTIONS: Final = RecordOptions(facts=True)


class Channel:
    """MODE U on a session that is logged in outside of it.

    Attributes:
        session: for commands that move no data; its dialogue must be idle then.
    """

    def __init__(self, session: FTPSession, link: Link) -> None:
        self.session = session
        self._link = link
        self._transfers = 0
        connection = link.connections[0]
        connection.setblocking(False)
        self.data = trio.socket.from_stdlib_socket(connection)

    @classmethod
    async def open(cls, session: FTPSession) -> Channel:
        """Enter MODE U and connect.

        Raises:
            Refused: the node has no MODE U with facts; the session goes on without.
            NetworkError, PeerBrokeProtocol: the session is of no use.
        """
        features = session.dialect.features
        if "MODE U" not in features or "MODE U FACTS" not in features:
            raise Refused(f"{session.name}: no MODE U")
        async with session.control.dialogue():
            replies = await session.control.commands(request_lines(OPTIONS))
            for reply in replies:
                if not reply.is_success:
                    raise PeerBrokeProtocol(f"{session.name}: MODE U: {server_said(reply)}")
            try:
                agreed, salt = parse_agreed(replies[-1].text)
            except ProtocolError as error:
                raise PeerBrokeProtocol(f"{session.name}: MODE U: {printable(str(error))}") from error
            if agreed != OPTIONS:
                raise PeerBrokeProtocol(f"{session.name}: MODE U: the node agreed to something else")
            link = await session.open_data()
            try:
                say_hello(link.connections[0], b"", salt)
                return cls(session, link)
            except (StreamError, OSError) as error:
                link.close()
                raise NetworkError(f"{session.name}: the data connection broke: {error}") from error

    @property
    def usable(self) -> bool:
        """Whether both connections are open, as far as this end knows: an idle one may just have been closed."""
        if not self.session.usable or self.data.fileno() < 0:
            return False
        for connection in (self.data, self.session.control.socket):
            try:
                # Between two exchanges nothing is due on either: bytes are a farewell, an end is an end.
                with socket.socket(fileno=socket.dup(connection.fileno())) as probe:
                    probe.setblocking(False)
                    probe.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            except OSError:
                return False
            return False
        return True

    def count(self) -> int:
        """The number of the transfer whose command is about to be sent."""
        self._transfers += 1
        return self._transfers

    def close(self) -> None:
        """Close both connections at once; what is under way ends in NetworkError on both sides."""
        self.session.control.break_off("closed")
        if self.data.fileno() >= 0:
            trio.lowlevel.notify_closing(self.data)
            with contextlib.suppress(OSError):
                # A reset, so that the node never takes a cut upload for a whole one.
                self.data.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.data.close()

    async def receive_exactly(self, count: int) -> bytes:
        """The next so many bytes of the data connection.

        Raises:
            NetworkError: it ended, or broke.
        """
        data = await self.receive_some(count)
        if len(data) == count:
            return data
        whole = bytearray(data)
        while len(whole) < count:
            whole += await self.receive_some(count - len(whole))
        return bytes(whole)

    async def receive_some(self, most: int) -> bytes:
        """Bytes of the data connection, at least one.

        Raises:
            NetworkError: it ended, or broke.
        """
        try:
            data = await self.data.recv(most)
        except (OSError, trio.ClosedResourceError) as error:
            raise NetworkError(f"{self.session.name}: the data connection broke: {_reason(error)}") from error
        if not data:
            raise NetworkError(f"{self.session.name}: the node closed the data connection")
        return data

    async def receive_header(self, number: int) -> Header:
        """The next record's header, which must be one of this transfer.

        Raises:
            NetworkError: the connection ended.
            PeerBrokeProtocol: a record that must not be.
        """
        return self.read_header(await self.receive_exactly(HEADER_BYTES), 0, number)

    def read_header(self, buffer: bytes | bytearray, offset: int, number: int) -> Header:
        """As `receive_header`, for bytes that are here."""
        header = unpack_header(buffer, offset)
        try:
            check_header(header, OPTIONS, number)
        except ProtocolError as error:
            raise PeerBrokeProtocol(f"{self.session.name}: {error}") from error
        return header

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send on the data connection.

        Raises:
            NetworkError: it broke.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[await self.data.send(view) :]
        except (OSError, trio.ClosedResourceError) as error:
            raise NetworkError(f"{self.session.name}: the data connection broke: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or errno.errorcode.get(error.errno or 0, "network error")
    return "closed"

"""Data connections when the system is short of something."""

from __future__ import annotations

import errno
import os
import socket

import pytest
import trio

from uftpd.session import data_connection
from uftpd.session.data_connection import DataConnections, DataSettings

SETTINGS = DataSettings("127.0.0.1", "127.0.0.1", "", "", 1.0, 5.0)


class ShortOfDescriptors:
    """A listener that fails to accept, and then does."""

    def __init__(self, real: trio.socket.SocketType) -> None:
        self._real = real
        self.failures = 2

    async def accept(self) -> tuple[trio.socket.SocketType, object]:
        if self.failures:
            self.failures -= 1
            await trio.lowlevel.checkpoint()
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        return await self._real.accept()

    def getsockname(self) -> tuple[str, int]:
        host, port = self._real.getsockname()
        return host, port

    def close(self) -> None:
        self._real.close()


async def test_a_session_outlives_a_shortage_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    listen = data_connection._listener
    monkeypatch.setattr(data_connection, "_listener", lambda host, port: ShortOfDescriptors(listen(host, port)))

    async def want_port() -> int:
        return 0

    async def return_port(port: int, busy: bool) -> None:
        pass

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            connections = DataConnections(SETTINGS, nursery, want_port, return_port)
            port = await connections.listen()
            with socket.create_connection(("127.0.0.1", port)):
                assert (await connections.link(5)).connections[0].getsockname()[1] == port
            await connections.close()


async def test_a_hello_that_comes_when_the_port_is_given_up_ends_nothing_else() -> None:
    async def want_port() -> int:
        return 0

    async def return_port(port: int, busy: bool) -> None:
        pass

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            connections = DataConnections(SETTINGS, nursery, want_port, return_port)

            async def greet(connection: trio.socket.SocketType) -> bytes:
                await connection.recv(5)
                connections.give_up()  # the next EPSV, in the same step of the event loop
                return b"nonce"

            connections.greeter = greet
            port = await connections.listen()
            with trio.socket.socket() as client:
                await client.connect(("127.0.0.1", port))
                await client.send(b"hello")
                assert await client.recv(1) == b"", "it is turned away"
            assert connections.connection is None
            assert connections.nonce == b""
            await connections.close()

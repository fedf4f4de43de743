"""The control connection of the client against servers that keep it waiting."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock

from uftp.client.control import ControlConnection
from uftp.errors import PeerBrokeProtocol, TimedOut
from uftp.protocol.replies import MAX_REPLY_LINE_BYTES

TIMEOUT = 10.0  # seconds of the virtual clock


async def test_a_reply_that_drips_in_single_bytes_does_not_hold_the_client(autojump_clock: MockClock) -> None:
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    control = ControlConnection(trio.SocketStream(ours), "server", TIMEOUT)

    async def drip() -> None:
        while True:
            await theirs.send(b"2")
            await trio.sleep(TIMEOUT * 0.9)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with trio.fail_after(TIMEOUT * 3), pytest.raises(TimedOut):
            await control.receive()
        nursery.cancel_scope.cancel()
    await control.aclose()
    theirs.close()


async def test_lines_of_a_long_reply_are_signs_of_life(autojump_clock: MockClock) -> None:
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    control = ControlConnection(trio.SocketStream(ours), "server", TIMEOUT)

    async def still_busy() -> None:
        for line in (b"213-\r\n", b"213-\r\n", b"213 done\r\n"):
            await trio.sleep(TIMEOUT * 0.9)
            await theirs.send(line)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(still_busy)
        assert (await control.receive()).text == "done"
    await control.aclose()
    theirs.close()


async def test_a_line_without_an_end_is_not_collected(autojump_clock: MockClock) -> None:
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    control = ControlConnection(trio.SocketStream(ours), "server", TIMEOUT)
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while sent < 100 * MAX_REPLY_LINE_BYTES:
            sent += await theirs.send(b"2" * 4096)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        with pytest.raises(PeerBrokeProtocol, match="line longer"):
            await control.receive()
        nursery.cancel_scope.cancel()
    assert sent < 50 * MAX_REPLY_LINE_BYTES  # some of it is in the socket
    await control.aclose()
    theirs.close()

"""Data connections: connecting, and running a pump in a thread so that cancelling always works."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import trio

from uftp.errors import NetworkError, TimedOut
from uftp.streams import Meter, prepare

T = TypeVar("T")

_GRACE_SECONDS: Final = 0.5


class Receive(Protocol):
    """Takes bytes from a data connection to wherever they belong, in a thread; returns how many came.

    `length` is the most to take, None for all until the peer closes.
    """

    def __call__(self, connection: socket.socket, length: int | None, meter: Meter, /) -> int: ...


class Send(Protocol):
    """Sends the bytes of one transfer, in a thread; raises if it cannot send them all."""

    def __call__(self, connection: socket.socket, meter: Meter, /) -> None: ...


async def connect_data(
    address: tuple[str, int], family: socket.AddressFamily, *, connect_timeout: float, stall_timeout: float
) -> socket.socket:
    """Connect, and prepare the socket for a pump.

    Raises:
        NetworkError, TimedOut: no connection.
    """
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        host, port = address
        name = f"{host}:{port}"
        try:
            with trio.fail_after(connect_timeout):
                await trio.socket.from_stdlib_socket(connection).connect(address)
        except trio.TooSlowError:
            raise TimedOut(
                f"{name}: no data connection within {connect_timeout:.0f} seconds; does a firewall block this port?"
            ) from None
        except OSError as error:
            raise NetworkError(f"{name}: no data connection: {error.strerror or error}") from error
        prepare(connection, stall_timeout)
    except BaseException:
        connection.close()
        raise
    return connection


async def run_pump(connection: socket.socket, meter: Meter, pump: Callable[[], T], *, sending: bool) -> T:
    """Run `pump` in a thread. If the caller is cancelled the pump is stopped, and waited for.

    Args:
        connection: the socket it works on; after a failure the caller closes it by `abort`.
        meter: its stop switch.
        pump: the work.
        sending: whether data flows to the peer. A sender is given a moment to stop by itself: a shutdown of an idle
            connection would look to the peer like a proper end of data.

    Raises:
        Whatever the pump raises.
        trio.Cancelled: after the thread has ended.
    """
    result: list[T] = []
    failure: list[BaseException] = []
    ended = trio.Event()

    def run() -> None:
        try:
            result.append(pump())
        except BaseException as error:
            failure.append(error)

    async def stop_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            meter.cancelled = True
            with trio.CancelScope(shield=True):
                if sending:
                    with trio.move_on_after(_GRACE_SECONDS):
                        await ended.wait()
                if not ended.is_set():
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_when_cancelled)
        await trio.lowlevel.checkpoint()  # so that the watch is on before the thread starts
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(run)
            ended.set()
        nursery.cancel_scope.cancel()
    await trio.lowlevel.checkpoint_if_cancelled()
    if failure:
        raise failure[0]
    return result[0]


def abort(connection: socket.socket) -> None:
    """Close with a reset and drop what is not sent, so that the peer never takes it for a proper end of data."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def at_end(connection: socket.socket, seconds: float = 10.0) -> bool:
    """Whether the peer sends nothing more, in a thread: False if another byte comes.

    A peer that neither sends nor closes within `seconds` is taken to be done.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if not poll.poll(seconds * 1000):
        return True
    try:
        return connection.recv(1) == b""
    except OSError:
        return True  # a reset behind the last byte that was announced loses nothing

"""Data connections: connecting, and running a pump in a thread so that cancelling always works."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import trio

from uftp.errors import NetworkError, TimedOut
from uftp.streams import Incoming, Link, Meter, Outgoing, prepare

T = TypeVar("T")

_GRACE_SECONDS: Final = 0.5


class Receive(Protocol):
    """Takes the bytes of one transfer to wherever they belong, in a thread; returns how many came.

    `length` is the most to take, None for all there are.
    """

    def __call__(self, incoming: Incoming, length: int | None, meter: Meter, /) -> int: ...


class Send(Protocol):
    """Sends the bytes of one transfer, in a thread; raises if it cannot send them all."""

    def __call__(self, outgoing: Outgoing, meter: Meter, /) -> None: ...


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


async def run_pump(link: Link, meter: Meter, pump: Callable[[], T], *, sending: bool) -> T:
    """Run `pump` in a thread. If the caller is cancelled the pump is stopped, and waited for.

    Args:
        link: the connections it works on; after a failure the caller resets them.
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
                        link.shutdown()

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

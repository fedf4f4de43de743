"""Both ends of data connections with layers, for tests."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from uftp.streams import Incoming, Layers, Link, Meter, Outgoing, prepare

PATIENCE = 20.0  # seconds; nothing waits that long unless it is about to fail
KEYS = {"AES": bytes(range(48)), "BLOWFISH": bytes(range(100, 156))}


def layers(cipher: str = "", *, compress: bool = False, pads_always: bool = True) -> Layers:
    """Layers with the tests' key."""
    return Layers(compress, cipher, KEYS.get(cipher, b""), pads_always=pads_always)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, fit for pumps."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        prepare(end, PATIENCE)
    return near, far


class Ends:
    """Data connections of one transfer, seen from both sides. Use as a context manager."""

    def __init__(self, agreed: Layers, streams: int) -> None:
        pairs = [tcp_pair() for _ in range(streams)]
        self.near = Link([near for near, _ in pairs], agreed, framed=streams > 1)
        self.far = Link([far for _, far in pairs], agreed, framed=streams > 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.near.close()
        self.far.close()


def exchange(
    agreed: Layers, streams: int, send: Callable[[Outgoing], None], receive: Callable[[Incoming], object]
) -> object:
    """Send in a thread and receive in this one; what `receive` returns, after `send` has ended."""
    with Ends(agreed, streams) as ends, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, ends.near.outgoing())
        try:
            result = receive(ends.far.incoming())
        except BaseException:
            ends.near.shutdown()
            raise
        sending.result()
        return result


def wire_of(agreed: Layers, streams: int, payload: bytes) -> list[bytes]:
    """What travels on each connection for a file of this content."""
    with Ends(agreed, streams) as ends, ThreadPoolExecutor(streams + 1) as pool, tempfile.TemporaryFile() as file:
        file.write(payload)
        file.flush()

        def send() -> None:
            outgoing = ends.near.outgoing()
            outgoing.from_file(file.fileno(), 0, len(payload), Meter())
            outgoing.end()

        sending = pool.submit(send)
        reading = [pool.submit(_all_of, connection) for connection in ends.far.connections]
        sending.result()
        return [one.result() for one in reading]


def received(agreed: Layers, wires: list[bytes], length: int | None, *, end: bool = True) -> tuple[bytes, bool]:
    """What a receiver makes of bytes on each connection, and whether nothing came behind.

    Args:
        agreed: layers.
        wires: on each connection.
        length: as announced.
        end: whether the connections end behind them.
    """
    with Ends(agreed, len(wires)) as ends, ThreadPoolExecutor(len(wires)) as pool:

        def feed(connection: socket.socket, wire: bytes) -> None:
            try:
                connection.sendall(wire)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the receiver has had enough

        feeding = [pool.submit(feed, *one) for one in zip(ends.near.connections, wires, strict=True)]
        try:
            target = os.memfd_create("target")
            try:
                incoming = ends.far.incoming()
                count = incoming.to_file(target, 0, length, Meter())
                whole = incoming.finish() if incoming.marked else True
                data = os.pread(target, 1 << 30, 0)
                assert len(data) == count
                return data, whole
            finally:
                os.close(target)
        finally:
            ends.far.shutdown()
            for one in feeding:
                one.result()


def _all_of(connection: socket.socket) -> bytes:
    chunks = []
    while chunk := connection.recv(1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)

"""A proxy for FTP control and data connections that delays what passes, or breaks it.

It listens on a loopback address of its own, with the server's port, so that a client that is told this address finds
the data ports at the same place: for each 229 reply it opens the port that the reply names.

    python -m benchmarks.delaying_proxy 127.0.0.9:2121 127.0.0.1:2121 --round-trip 0.05
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Self

_BLOCK: Final = 256 * 1024
_HELD: Final = 256 * 1024 * 1024  # bytes on their way in one direction: more than any line here holds
_PORT = re.compile(rb"\b229 [^\r\n]*\(\|\|\|([0-9]{1,5})\|\)")
_TAIL: Final = 256  # of a reply that may go on in the next block
_RESET: Final = struct.pack("ii", 1, 0)

Fault = Literal["reset", "half-close", "stall"]


@dataclass(eq=False)
class _Pair:
    """A connection through the proxy."""

    client: socket.socket
    server: socket.socket
    control: bool
    moving: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.moving.set()


class _Held:
    """What is on its way in one direction, bounded in bytes: blocks are of any size."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()

    def put(self, due: float, data: bytes) -> None:
        """Add a block that arrives at `due`; waits while the line is full."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < _HELD)
            self._bytes += len(data)
            self._blocks.append((due, data))
            self._changed.notify_all()

    def get(self) -> tuple[float, bytes]:
        """The oldest block, when there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._blocks)
            return self._blocks.popleft()

    def gone(self, size: int) -> None:
        """So many bytes have arrived."""
        with self._changed:
            self._bytes -= size
            self._changed.notify_all()


class DelayingProxy:
    """See the module. Use as a context manager.

    Args:
        listen: address and port clients are told.
        server: address and port of the server behind.
        round_trip: seconds added to each round trip.

    Attributes:
        up, down: bytes that have passed on data connections.
    """

    def __init__(self, listen: tuple[str, int], server: tuple[str, int], *, round_trip: float = 0.0) -> None:
        self.up = self.down = 0
        self._host = listen[0]
        self._server = server
        self._delay = round_trip / 2
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._listener = self._listen(listen[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed = True
        self._listener.close()
        self.inflict("reset")

    def inflict(self, fault: Fault) -> None:
        """Break, or hold up, every connection there is; new ones pass."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            if fault == "stall":
                pair.moving.clear()
                continue
            for end in (pair.client, pair.server):
                with contextlib.suppress(OSError):
                    if fault == "reset":
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    # Wakes the threads that wait on it; they close it.
                    end.shutdown(socket.SHUT_RDWR if fault == "reset" else socket.SHUT_WR)
            pair.moving.set()

    def go_on(self) -> None:
        """End a stall."""
        with self._lock:
            for pair in self._pairs:
                pair.moving.set()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server((self._host, port), backlog=64)
        listener.settimeout(0.2 if port == self._server[1] else 30)
        return listener

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._join, args=(client, self._server[1], True), daemon=True).start()

    def _accept_data(self, listener: socket.socket, port: int) -> None:
        with listener, contextlib.suppress(OSError):
            client, _ = listener.accept()
            self._join(client, port, False)

    def _join(self, client: socket.socket, port: int, control: bool) -> None:
        client.settimeout(None)
        # The client thinks it is connected; what it sends at once should arrive a round trip and a half after it began.
        time.sleep(2 * self._delay)
        try:
            server = socket.create_connection((self._server[0], port), timeout=20)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        server.settimeout(None)
        pair = _Pair(client, server, control)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._pairs.add(pair)
        up = threading.Thread(target=self._pass, args=(pair, client, server, self._count_up), daemon=True)
        up.start()
        self._pass(pair, server, client, self._count_down)
        up.join()
        with self._lock:
            self._pairs.discard(pair)
        client.close()
        server.close()

    def _count_up(self, count: int) -> None:
        self.up += count

    def _count_down(self, count: int) -> None:
        self.down += count

    def _pass(self, pair: _Pair, source: socket.socket, target: socket.socket, count: Callable[[int], None]) -> None:
        """One direction, to its end. With a delay a second thread takes what is due."""
        if self._delay:
            held = _Held()
            sender = threading.Thread(target=self._send_later, args=(pair, held, target), daemon=True)
            sender.start()
        tail = b""
        while True:
            try:
                data = source.recv(_BLOCK)
            except OSError:
                data = b""
            if pair.control and source is pair.server and data:
                tail = self._open_ports(tail + data)
            elif not pair.control:
                count(len(data))
            if self._delay:
                held.put(time.monotonic() + self._delay, data)
                if not data:
                    sender.join()
                    return
            elif not self._send(pair, target, data):
                return

    def _send_later(self, pair: _Pair, held: _Held, target: socket.socket) -> None:
        going = True
        while True:
            due, data = held.get()
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            going = going and self._send(pair, target, data)
            held.gone(len(data))
            if not data:
                return

    def _send(self, pair: _Pair, target: socket.socket, data: bytes) -> bool:
        """Whether the direction goes on."""
        pair.moving.wait()
        try:
            if data:
                target.sendall(data)
            else:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (pair.client, pair.server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            return False
        return bool(data)

    def _open_ports(self, text: bytes) -> bytes:
        """Open the data ports that replies name; the rest may be the beginning of one."""
        end = 0
        for match in _PORT.finditer(text):
            end = match.end()
            port = int(match[1])
            with contextlib.suppress(OSError):
                listener = self._listen(port)
                threading.Thread(target=self._accept_data, args=(listener, port), daemon=True).start()
        return text[max(end, len(text) - _TAIL) :]


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("listen", type=_address)
    parser.add_argument("server", type=_address)
    parser.add_argument("--round-trip", type=float, default=0.05, help="seconds")
    arguments = parser.parse_args()
    with DelayingProxy(arguments.listen, arguments.server, round_trip=arguments.round_trip):
        print("ready", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()

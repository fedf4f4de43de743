"""Standard input to standard output, through a TCP connection on loopback: a pipe that costs what a network does."""

from __future__ import annotations

import os
import socket
import threading

_BLOCK = 1024 * 1024


def main() -> None:
    """Move bytes until the end of the input."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver = listener.accept()[0]

    def send() -> None:
        while block := os.read(0, _BLOCK):
            sender.sendall(block)
        sender.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    buffer = memoryview(bytearray(_BLOCK))
    while count := receiver.recv_into(buffer):
        view = buffer[:count]
        while view:
            view = view[os.write(1, view) :]
    thread.join()


if __name__ == "__main__":
    main()

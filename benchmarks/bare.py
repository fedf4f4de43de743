"""The least a transfer can be: one process sends by sendfile, another receives into one buffer. No protocol.

python -m benchmarks.bare serve                     prints its port, serves until its input ends
python -m benchmarks.bare get PORT SOURCE TARGET    TARGET /dev/null: received into the buffer and dropped
python -m benchmarks.bare put PORT SOURCE TARGET
"""

from __future__ import annotations

import os
import select
import socket
import sys

_BLOCK = 1024 * 1024
_SEND_BLOCK = 8 * 1024 * 1024


def _send(connection: socket.socket, path: str) -> None:
    with open(path, "rb") as source:
        size, offset = os.fstat(source.fileno()).st_size, 0
        while offset < size:
            offset += os.sendfile(connection.fileno(), source.fileno(), offset, min(_SEND_BLOCK, size - offset))
    connection.shutdown(socket.SHUT_WR)


def _receive(connection: socket.socket, path: str) -> None:
    buffer = memoryview(bytearray(_BLOCK))
    if path == "/dev/null":
        while connection.recv_into(buffer):
            pass
        return
    target, offset = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644), 0
    while count := connection.recv_into(buffer):
        block = buffer[:count]
        while block:
            written = os.pwrite(target, block, offset)
            offset += written
            block = block[written:]
    os.close(target)


def _serve() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            readable, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in readable:
                return
            connection, _ = listener.accept()
            with connection:
                verb, path = connection.recv(4096).decode().rstrip("\n").split(" ", 1)
                connection.sendall(b"+")
                if verb == "get":
                    _send(connection, path)
                else:
                    _receive(connection, path)
                    connection.sendall(b"+")


def _client(verb: str, port: str, source: str, target: str) -> None:
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        connection.sendall(f"{verb} {source if verb == 'get' else target}\n".encode())
        connection.recv(1)
        if verb == "get":
            _receive(connection, target)
        else:
            _send(connection, source)
            connection.recv(1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve()
    else:
        _client(*sys.argv[1:])

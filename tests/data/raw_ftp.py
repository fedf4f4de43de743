"""A small FTP client that shows a server's exact bytes, for tests."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

TIMEOUT = 20.0  # seconds; far above what any exchange takes, so a hang becomes a failure


def eventually(condition: Callable[[], object], seconds: float = TIMEOUT, what: str = "") -> None:
    """Wait for a condition that nothing announces."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true in {seconds} s: {what or condition}")
        time.sleep(0.005)


def read_all(data: socket.socket) -> bytes:
    """Everything until the peer closes; the socket is closed."""
    with data:
        chunks = []
        while chunk := data.recv(1 << 20):
            chunks.append(chunk)
    return b"".join(chunks)


class RawFtp:
    """A control connection. Replies are the exact bytes, all lines of one reply together."""

    def __init__(self, address: tuple[str, int], source: str | None = None) -> None:
        self.socket = socket.create_connection(address, TIMEOUT, (source, 0) if source else None)
        self.host = address[0]
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, line: str | bytes) -> None:
        """Send a command line, without waiting."""
        self.socket.sendall((line.encode() if isinstance(line, str) else line) + b"\r\n")

    def line(self) -> bytes:
        """The next line with its end; empty at the end of the connection."""
        while b"\n" not in self._buffer:
            data = self.socket.recv(65536)
            if not data:
                rest, self._buffer = self._buffer, b""
                return rest
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    def reply(self) -> bytes:
        """The next reply; empty at the end of the connection."""
        first = line = self.line()
        whole = first
        if first[3:4] == b"-":
            while not (line.startswith(first[:3] + b" ")):
                line = self.line()
                if not line:
                    break
                whole += line
        return whole

    def command(self, line: str | bytes) -> bytes:
        """Send a command and return its reply."""
        self.send(line)
        return self.reply()

    def ok(self, line: str | bytes, code: int = 200) -> bytes:
        """A command whose reply must have this code."""
        answer = self.command(line)
        assert answer.startswith(b"%d" % code), (line, answer)
        return answer

    def log_in(self, secret: str) -> None:
        """The usual dialogue."""
        assert self.reply().startswith(b"220 UFTPD "), "no greeting"
        assert self.command("USER anonymous") == b"331 Please specify the password\r\n"
        assert self.command(f"PASS {secret}") == b"230 Login successful\r\n"

    def passive(self) -> int:
        """EPSV; the port."""
        match = re.fullmatch(
            rb"229 Entering Extended Passive Mode \(\|\|\|([0-9]+)\|\)\r\n", answer := self.command("EPSV")
        )
        assert match, answer
        return int(match[1])

    def data(self) -> socket.socket:
        """EPSV, and the connection."""
        return socket.create_connection((self.host, self.passive()), TIMEOUT)

    def retrieve(self, line: str | bytes) -> tuple[bytes, bytes]:
        """A transfer towards us: the 150 reply and the data. The final reply must be the usual one."""
        data = self.data()
        first = self.command(line)
        assert first.startswith(b"150 "), first
        got = read_all(data)
        assert (final := self.reply()) == b"226 File transfer successful\r\n", final
        return first, got

    def store(self, line: str | bytes, content: bytes) -> bytes:
        """A transfer towards the server, ended by closing; the final reply."""
        with self.data() as data:
            first = self.command(line)
            assert first == b"150 OK\r\n", first
            data.sendall(content)
        return self.reply()

    def is_closed(self) -> bool:
        """Whether the server closes now; waits for it."""
        try:
            return self.line() == b""
        except ConnectionResetError:
            return True

"""A data node as upstream's: the FTP side of the published exchanges, with their defects, on a real directory.

It plays either part in a copy between servers (DATA-PLANE 12). As the *other side* it is a server for sessions that
somebody opens with a secret (`upstream_session`). As the *executing side* it takes SEND-FILE and RECEIVE-FILE, and runs
them as upstream does (`upstream_errand`).
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from upstream_errand import Errand
from upstream_layers import Layers
from upstream_session import Request, Session

SECONDS: Final = 30.0


class UpstreamNode:
    """A running one; use `upstream_node`.

    Attributes:
        root: its files.
        host, port: where it serves FTP.
        lines: all commands of all sessions, without secrets.
        logins: how many sessions there have been.
        errands: copies it was told to do.
    """

    def __init__(self, root: Path, host: str = "127.0.0.1") -> None:
        self.root = root
        self.host = host
        self.lines: list[str] = []
        self.logins = 0
        self.errands: list[Errand] = []
        self._requests: dict[str, Request] = {}
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._ids = itertools.count(4711)
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self.spawn(self._accept)

    @property
    def address(self) -> str:
        """As the commands take it."""
        return f"{self.host}:{self.port}"

    def expect(self, *, layers: Layers | None = None, streams: int = 1, persistent: bool = False) -> str:
        """A secret for a session."""
        secret = secrets.token_hex(12)
        self._requests[secret] = Request(self.root, layers or Layers(), streams, persistent)
        return secret

    def verbs(self) -> list[str]:
        """Of all commands so far."""
        return [line.partition(" ")[0] for line in self.lines]

    def begin(self, errand: Errand, run: Callable[[Errand], None]) -> int:
        """Do a copy in the background; its process id."""
        self.errands.append(errand)
        self.spawn(run, errand)
        return next(self._ids)

    def stop(self) -> None:
        """End it; whatever is still connected is cut off."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(SECONDS)
            assert not thread.is_alive(), "a thread hangs"

    @contextlib.contextmanager
    def kept(self, connection: socket.socket) -> Iterator[socket.socket]:
        """Known to `stop` for the block, and closed at its end."""
        connection.settimeout(SECONDS)
        self._open.add(connection)
        try:
            with connection:
                yield connection
        finally:
            self._open.discard(connection)

    def spawn(self, job: Callable[..., None], *arguments: Any) -> None:
        """Run something in a thread that `stop` waits for."""
        thread = threading.Thread(target=job, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with self.kept(connection), contextlib.suppress(OSError), connection.makefile("rwb") as control:

            def say(text: str) -> None:
                control.write(text.encode("utf-8", "surrogateescape") + b"\n")
                control.flush()

            def line() -> str:
                return control.readline().decode("utf-8", "surrogateescape").strip()

            say("220 UFTPD 3.5.3, https://www.unicore.eu")
            if line() != "USER anonymous":
                say("500 Protocol error")
                return
            say("331 Please specify the password")
            secret = line().partition(" ")[2]
            request = self._requests.get(secret)
            if request is None:
                say("530 Not logged in: no matching transfer request found")
                return
            if not request.persistent:
                del self._requests[secret]
            self.logins += 1
            say("230 Login successful")
            with contextlib.closing(Session(self, request, say)) as session:
                while raw := control.readline():
                    text = raw.decode("utf-8", "surrogateescape").strip()
                    if text.upper() in ("QUIT", "BYE"):
                        return  # without a word
                    if text:
                        self.lines.append(text if "-FILE " not in text else text.rpartition(" ")[0])
                        session.serve(text)


@contextlib.contextmanager
def upstream_node(root: Path, host: str = "127.0.0.1") -> Iterator[UpstreamNode]:
    """One for the block, with its files in `root`."""
    node = UpstreamNode(root, host)
    try:
        yield node
    finally:
        node.stop()

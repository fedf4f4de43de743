"""How an upstream node runs a copy between servers, as the executing side (DATA-PLANE 12).

It logs in at the other server, opens its connections, asks for a range with an inclusive end (so that one byte is
lost), or with one number where there is no end (which servers refuse: the copy dies), sends without finishing gzip or
cipher, and closes. It does not wait for the final reply, and tells nobody how it went. What it receives into is cut to
nothing first, also for a range.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from upstream_layers import Layers

_SECONDS: Final = 30.0


@dataclass
class Errand:
    """A copy a node was told to do.

    Attributes:
        verb: SEND-FILE or RECEIVE-FILE.
        said: commands, with the first line of the reply to each.
        failure: what ended it; empty if it got to its end.
        over: it has ended.
    """

    verb: str
    said: list[tuple[str, str]] = field(default_factory=list)
    failure: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        """Until it has ended."""
        assert self.over.wait(_SECONDS), f"it does not end: {self.said}"


@dataclass(frozen=True)
class Task:
    """What the command said, and the session before it."""

    send: bool
    local: Path
    remote: str
    server: tuple[str, int]
    secret: str
    offset: int
    length: int
    streams: int


def run_errand(
    errand: Errand,
    task: Task,
    layers: Layers,
    kept: Callable[[socket.socket], AbstractContextManager[socket.socket]],
) -> None:
    """Do the copy, and note in `errand` what happened.

    Args:
        errand: to note it in.
        task: what to do.
        layers: of this session, which the other one is taken to have, too.
        kept: closes a connection at the end of a block, or when the node ends.
    """
    try:
        with ExitStack() as undo:
            connection = undo.enter_context(kept(socket.create_connection(task.server, _SECONDS)))
            control = undo.enter_context(connection.makefile("rwb"))
            _Conversation(errand, control.write, control.flush, control.readline).copy(task, layers, undo)
    except (OSError, EOFError, ValueError) as error:
        errand.failure = str(error) or type(error).__name__
    finally:
        errand.over.set()


class _Conversation:
    def __init__(
        self,
        errand: Errand,
        write: Callable[[bytes], object],
        flush: Callable[[], None],
        readline: Callable[[], bytes],
    ) -> None:
        self._errand = errand
        self._write = write
        self._flush = flush
        self._readline = readline

    def _reply(self) -> str:
        line = self._readline().decode().strip()
        if not line:
            raise EOFError("the other server has closed")
        return line

    def _say(self, line: str, wanted: str) -> str:
        self._write(f"{line}\n".encode())
        self._flush()
        reply = self._reply()
        self._errand.said.append((line if not line.startswith("PASS") else "PASS", reply))
        if not re.match(wanted, reply):
            raise ValueError(reply)
        return reply

    def copy(self, task: Task, layers: Layers, undo: ExitStack) -> None:
        """Everything, from the greeting on."""
        if not self._reply().startswith("220"):
            raise ValueError("no greeting")
        self._say("USER anonymous", "331")
        self._say(f"PASS {task.secret}", "230")
        streams = task.streams
        if streams > 1:
            reply = self._say(f"NOOP {streams}", "22[23]")
            streams = int(reply.split()[2])
        connections = [undo.enter_context(self._connect(task.server[0])) for _ in range(streams)]
        if task.length >= 0:
            self._say(f"RANG {task.offset} {task.offset + task.length - 1}", "350")
        elif task.offset:
            self._say(f"RANG {task.offset}", "350")
        if streams == 1:
            self._say("NOOP 1", "222")
        if task.send:
            self._send(task, layers, connections)
        else:
            self._receive(task, layers, connections)

    def _connect(self, host: str) -> socket.socket:
        reply = self._say("PASV", "227")
        numbers = [int(number) for number in re.findall(r"[0-9]+", reply)[-2:]]
        return socket.create_connection((host, numbers[0] * 256 + numbers[1]), _SECONDS)

    def _send(self, task: Task, layers: Layers, connections: list[socket.socket]) -> None:
        self._say(f"STOR {task.remote}", "150")
        payload = task.local.read_bytes()[task.offset :]
        payload = payload if task.length < 0 else payload[: task.length]
        # A server that stops at the length it was told may reset the connection. Nobody here would notice.
        with contextlib.suppress(OSError):
            for connection, wire in zip(
                connections, layers.wires(payload, len(connections), finish=False), strict=True
            ):
                connection.sendall(wire)

    def _receive(self, task: Task, layers: Layers, connections: list[socket.socket]) -> None:
        with task.local.open("wb") as file:
            self._say(f"RETR {task.remote}", "150")
            wires = [b"".join(iter(lambda one=one: one.recv(1 << 20), b"")) for one in connections]  # type: ignore[misc]
            file.seek(task.offset)
            file.write(layers.payload(wires))

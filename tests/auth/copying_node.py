"""A data node that runs copies as a test tells it to: command port and control connections are real, files are not.

Each copy that is started takes the next script: what RCP-STATUS says, call by call, the last for ever, and which files
failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from fake_node import FakeNode

from uftp.protocol.command_replies import PingReply
from uftp.protocol.server_copies import (
    CopyError,
    CopyStatus,
    CopyWords,
    format_copy_error,
    format_copy_status,
    parse_abort_arguments,
    parse_copy_arguments,
    parse_copy_words,
    parse_errors_arguments,
)

FEATURES = ("UTC", "NAMES PCT", "RCP-PROGRESS", "RCP-TREES", "RCP-FETCH", "MODE U CRYPT AES-256-GCM")

DONE = CopyStatus(word="FINISHED", bytes=10, total=10, files=1, found=1, planned=True, seconds=0.5)
RUNNING = CopyStatus(word="RUNNING", bytes=4, total=10, found=1, rate=100)


def broken(error: str = "the data connection broke") -> CopyStatus:
    """A copy of which nothing came."""
    return CopyStatus(word="FAILED", error=error)


@dataclass
class Script:
    """What becomes of a copy, and what was asked of it.

    Attributes:
        says: what RCP-STATUS says, call by call.
        errors: files that fail.
        refusal: the reply that it is not started with.
    """

    says: list[CopyStatus] = field(default_factory=lambda: [DONE])
    errors: list[CopyError] = field(default_factory=list)
    refusal: str = ""
    verb: str = ""
    words: tuple[bytes, ...] = ()
    how: CopyWords = field(default_factory=CopyWords)
    aborted: list[bool] = field(default_factory=list)

    def status(self) -> CopyStatus:
        """What it says now."""
        return self.says.pop(0) if len(self.says) > 1 else self.says[0]


@dataclass
class CopyNode(FakeNode):
    """A data node for tests of managed transfers.

    Attributes:
        scripts: of the copies to come; any further one succeeds at once.
        copies: those that were started, by id.
        files: `dir` or `file` by path, for MLST.
        logins: so many control connections have logged in.
        gone: control connections are refused.
    """

    ping: PingReply = field(default_factory=lambda: PingReply(version="1.0.0", max_sessions=16, features=FEATURES))
    scripts: deque[Script] = field(default_factory=deque)
    copies: dict[int, Script] = field(default_factory=dict)
    files: dict[bytes, str] = field(default_factory=dict)
    logins: int = 0
    gone: bool = False
    listens: bool = True
    connections: list[trio.SocketStream] = field(default_factory=list)
    _next: int = 1000

    @property
    def last(self) -> Script:
        """The copy that was started last."""
        return self.copies[max(self.copies)]

    def forget(self) -> None:
        """As after a restart: copies and sessions are gone."""
        self.copies.clear()
        self.break_connections()

    def break_connections(self) -> None:
        """Cut all control connections."""
        for stream in self.connections:
            trio.lowlevel.notify_closing(stream.socket)
            stream.socket.close()
        self.connections.clear()

    async def serve_ftp(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Control connections, on a free port of loopback."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.ftp_port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._control, listeners)

    async def _control(self, stream: trio.SocketStream) -> None:
        if self.gone:
            await stream.aclose()
            return
        self.connections.append(stream)
        session = _Session(self)
        rest = bytearray()
        try:
            await stream.send_all(b"220 UFTPD 1.0.0, for tests\r\n")
            while data := await stream.receive_some(4096):
                rest += data
                while b"\n" in rest:
                    line, _, behind = bytes(rest).partition(b"\n")
                    rest[:] = behind
                    reply = session.answer(line.rstrip(b"\r"))
                    if reply:
                        await stream.send_all(reply + b"\r\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return
        finally:
            if stream in self.connections:
                self.connections.remove(stream)
                await stream.aclose()

    def start(self, verb: str, argument: bytes, how: CopyWords) -> bytes:
        """The reply to a command that starts a copy."""
        words = parse_copy_arguments(argument, pct=True, count=2 if verb == "RCP-FETCH" else 4)
        script = self.scripts.popleft() if self.scripts else Script()
        script.verb, script.words, script.how = verb, words, how
        if script.refusal:
            return script.refusal.encode()
        self._next += 1
        self.copies[self._next] = script
        return b"299 OK transfer-process-ID=%d" % self._next


class _Session:
    """A control connection."""

    def __init__(self, node: CopyNode) -> None:
        self._node = node
        self._how = CopyWords()

    def answer(self, line: bytes) -> bytes:
        """The reply to a line."""
        verb, _, argument = line.partition(b" ")
        match verb.decode():
            case "USER":
                return b"331 Password"
            case "PASS":
                if argument.decode() not in {request.secret for request in self._node.transfers}:
                    return b"530 Invalid"
                self._node.logins += 1
                return b"230 Hello"
            case "FEAT":
                lines = b"".join(b" " + feature.encode() + b"\r\n" for feature in self._node.ping.features)
                return b"211-Features:\r\n MLST type*;size*;modify*;\r\n" + lines + b"211 End"
            case "OPTS" if argument.startswith(b"RCP"):
                self._how = parse_copy_words(argument[3:])
                return b"200 OK"
            case "OPTS":
                return b"200 OK"
            case "MLST":
                kind = self._node.files.get(argument.rstrip(b"/") or b"/")
                if kind is None:
                    return b"550 No such file"
                return (
                    b"250-Facts\r\n type="
                    + kind.encode()
                    + b";size=0;modify=20260101000000; "
                    + argument
                    + b"\r\n250 End"
                )
            case "SEND-FILE" | "RECEIVE-FILE" | "RCP-FETCH" as start:
                return self._node.start(start, argument, self._how)
            case _:
                return self._about(verb, argument)

    def _about(self, verb: bytes, argument: bytes) -> bytes:
        if verb == b"RCP-STATUS":
            script = self._node.copies.get(int(argument))
            status = script.status() if script is not None else CopyStatus(word="UNKNOWN")
            return b"299 " + format_copy_status(status)
        if verb == b"RCP-ABORT":
            number, keep = parse_abort_arguments(argument)
            script = self._node.copies.get(number)
            if script is None:
                return b"299 UNKNOWN"
            if script.says[0].is_final:
                return f"299 {script.says[0].word}".encode()
            script.aborted.append(keep)
            script.says[:] = [CopyStatus(word="ABORTED")]
            return b"299 ABORTED"
        if verb == b"RCP-ERRORS":
            number, first = parse_errors_arguments(argument)
            script = self._node.copies.get(number)
            if script is None:
                return b"550 No such copy"
            page = script.errors[first : first + 200]
            following = first + 200 if len(script.errors) > first + 200 else 0
            lines = b"".join(format_copy_error(error) + b"\r\n" for error in page)
            return b"299-%d\r\n" % number + lines + b"299 End %d" % following
        return b"500 Unknown"


@asynccontextmanager
async def serving_ftp(*nodes: CopyNode) -> AsyncIterator[None]:
    """Control connections of some nodes, for the block."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.serve_ftp)
        yield
        nursery.cancel_scope.cancel()

"""A session's end of its report socket: what it tells the front, what it asks, and what it is told.

The messages are those of `uftpd.session.messages`.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import trio

from uftpd.session import copy_messages, messages
from uftpd.session.copy_messages import CopyAnswer
from uftpd.session.messages import Drain, Port, Rate, Record, ReturnPort, Transfers, WantPort
from uftpd.session.replies import CommandError

if TYPE_CHECKING:
    from uftpd.session.control import ControlConnection
    from uftpd.session.state import Session

Fields = Mapping[str, str | float]

_RETRY_SECONDS: Final = 0.05
_FRONT_GONE: Final = "This server is being restarted, try again later"


class Reporter:
    """Sends to the front. Lines are dropped, and counted, rather than waited for."""

    def __init__(self, report: socket.socket) -> None:
        self._report = report
        self._dropped = 0
        self.front_gone = False
        """Whether nobody is there any more to take messages."""

    def send(self, message: messages.FromSession) -> bool:
        """Send one message; whether the front has it."""
        try:
            self._report.send(messages.encode(message), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            self.front_gone = True
            return False
        return True

    def log(self, event: str, *, level: str = "info", **fields: str | float) -> None:
        """Have the front write a log line. From any thread."""
        if self._dropped:
            fields = {**fields, "lines_dropped": self._dropped}
        sent = self.send(Record(level=level, event=event, fields=_sayable(fields)))
        self._dropped = 0 if sent else self._dropped + 1

    def log_transfers(
        self, before: Mapping[str, str], rows: Sequence[tuple[str, int, float]], behind: Mapping[str, str | bool]
    ) -> None:
        """Have the front write usage lines, all in one message; see `Transfers`. From any thread.

        Together they must fit a message (`uftpd.session.messages.MAX_MESSAGE`), or none is written.
        """
        if self._dropped:
            self.log("log lines dropped", level="warning")
        names = tuple((path if path.isascii() else said(path), size, seconds) for path, size, seconds in rows)
        if not self.send(Transfers(before=dict(before), rows=names, behind=dict(behind))):
            self._dropped += len(rows)


def _sayable(fields: Fields) -> dict[str, str | int | float | bool]:
    return {key: said(value) if isinstance(value, str) else value for key, value in fields.items()}


def said(text: str) -> str:
    """`text` with the bytes of a file name that are not UTF-8 spelled out: messages are Unicode."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Front:
    """The front's side of the report socket."""

    def __init__(self, report: trio.socket.SocketType, reporter: Reporter) -> None:
        self._report = report
        self._reporter = reporter
        self._waiting: deque[_PortWait] = deque()
        self._questions: dict[int, _Question] = {}
        self._asked = 0
        self._gone = False

    async def listen(
        self, session: Session, loop: ControlConnection, nursery: trio.Nursery, drain_seconds: float
    ) -> None:
        """Do what the front says, until it is gone; then drain."""
        while True:
            try:
                data = await self._report.recv(messages.MAX_MESSAGE)
            except OSError:
                data = b""
            if not data:
                break
            match messages.decode_to_session(data):
                case Drain(seconds=seconds):
                    nursery.start_soon(loop.drain, seconds)
                case Rate(rate=rate):
                    session.user_rate = rate
                    session.apply_rate()
                case Port(port=port):
                    self._got_port(port)
                case CopyAnswer() as answer:
                    if (question := self._questions.pop(answer.number, None)) is not None:
                        question.answer(answer)
                case _:
                    break
        self._gone = True
        while self._waiting:
            self._got_port(0)
        while self._questions:
            self._questions.popitem()[1].answer(None)
        nursery.start_soon(loop.drain, drain_seconds)

    async def ask(self, question: Callable[[int], copy_messages.FromSession]) -> CopyAnswer:
        """Ask about copies between servers.

        Args:
            question: makes the message from the number it is to have.

        Raises:
            CommandError: the front is gone, or says no.
        """
        self._asked += 1
        waiting = _Question()
        self._questions[self._asked] = waiting
        if self._gone or not self._reporter.send(question(self._asked)):
            self._questions.pop(self._asked, None)
            raise CommandError(500, _FRONT_GONE, passing=True)
        await waiting.answered.wait()
        answer = waiting.result
        if answer is None:
            raise CommandError(500, _FRONT_GONE, passing=True)
        if answer.code:
            raise CommandError(answer.code, answer.reason, passing=answer.passing)
        return answer

    def _got_port(self, port: int) -> None:
        if not self._waiting:
            return
        wait = self._waiting.popleft()
        if wait.abandoned and port:
            self._reporter.send(ReturnPort(port=port))
        wait.port = port
        wait.arrived.set()

    async def want_port(self) -> int:
        """A port of the range, 0 if none came free."""
        if self._gone or not self._reporter.send(WantPort()):
            return 0
        wait = _PortWait()
        self._waiting.append(wait)
        try:
            await wait.arrived.wait()
        except trio.Cancelled:
            # If the answer is still to come, whoever takes it gives the port back.
            wait.abandoned = True
            if wait.port:
                self._reporter.send(ReturnPort(port=wait.port))
            raise
        return wait.port

    async def return_port(self, port: int, busy: bool) -> None:
        """Hand a port back. A front that does not listen just now must learn of it still: others may wait."""
        while not self._reporter.send(ReturnPort(port=port, busy=busy)) and not self._gone:  # noqa: ASYNC110 - nothing tells
            await trio.sleep(_RETRY_SECONDS)


class _PortWait:
    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.port = 0
        self.abandoned = False


class _Question:
    def __init__(self) -> None:
        self.answered = trio.Event()
        self.result: CopyAnswer | None = None

    def answer(self, result: CopyAnswer | None) -> None:
        self.result = result
        self.answered.set()

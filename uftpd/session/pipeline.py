"""Serves runs of command lines in MODE U from a thread (EXTENSIONS section 1, pipelining).

Many small files must not cost a hop between threads each: while lines that need no event loop are queued, one thread
serves them in order, moves their bytes, and gathers replies and records. Both are sent before anything that may wait
for the client, and when no further line is there:

- replies before any byte of a data connection is sent or waited for, since the client may wait for a 150;
- gathered records before records are waited for, since the client may wait for a file before it sends the next;
- both before waiting for lines.

So whenever this side waits, the client has all that it could be waiting for. The one thing held back is the 226 of a
download, and the replies behind it, until its last record is with the kernel: what then fails to go out is no success.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from uftp.protocol.records import binding
from uftp.protocol.replies import Reply, reply
from uftp.streams import Cancelled, Meter, StreamError
from uftp.streams.records import NotAuthentic
from uftpd.session.data_connection import NoDataConnection
from uftpd.session.dispatch import command_of, failure, refusal
from uftpd.session.line_queue import Line, LineQueue
from uftpd.session.record_mode import RecordConnection, RecordMode
from uftpd.session.record_transfers import Exchange
from uftpd.session.replies import error_reply
from uftpd.session.state import Job, Session
from uftpd.session.table import Command
from uftpd.session.transfers import DONE

_LINGER_SECONDS: Final = 0.05  # for the next line, before the thread is given back
_SEND_SECONDS: Final = 120.0  # a client that takes no reply for so long is gone
_USAGE_COST: Final = 400  # bytes a usage line takes in a message, but for the path
_MOST_USAGE: Final = 48 * 1024  # bytes of them in one message, which may hold 192 KiB
_GATHERED_REPLIES: Final = 32 * 1024
_ABORTED: Final = reply(426, "Transfer aborted")
_LOST: Final = reply(426, "The data connection broke before the last bytes were sent")
_NO_CONNECTION: Final = NoDataConnection(
    "no data connection: EPSV or PASV must come first, and the client must connect"
)
_UPLOADS: Final = ("STOR", "APPE")
_LISTINGS: Final = ("LIST", "NLST", "MLSD")
# Beside transfers and commands on files: these only touch the session's state.
_QUICK: Final = frozenset({"ALLO", "PWD", "XPWD", "RANG", "REST", "RNFR", "STRU", "SYST"})


class ClientGone(Exception):
    """The control connection broke or ended; there is nobody left to tell."""


class Replies:
    """Replies on their way to the client, gathered. For the one thread that serves.

    Args:
        connection: the control connection, non-blocking.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._gathered = bytearray()

    def close(self) -> None:
        """Give the connection back; the client keeps its own end open."""
        self._connection.close()

    def add(self, answer: Reply) -> None:
        """Send later.

        Raises:
            ClientGone: the client does not take it.
        """
        self._gathered += answer.encode()
        if len(self._gathered) >= _GATHERED_REPLIES:
            self.flush()

    def flush(self) -> None:
        """Send what is gathered.

        Raises:
            ClientGone: the client does not take it.
        """
        if not self._gathered:
            return
        view = memoryview(bytes(self._gathered))
        self._gathered.clear()
        deadline = time.monotonic() + _SEND_SECONDS
        try:
            while view:
                try:
                    view = view[self._connection.send(view) :]
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(self._connection, select.POLLOUT)
                    left = deadline - time.monotonic()
                    if left <= 0 or not poll.poll(left * 1000):
                        raise ClientGone from None
        except OSError as error:
            raise ClientGone from error


@dataclass(frozen=True, slots=True)
class _Held:
    """A reply that waits for records to be sent.

    Attributes:
        due: the reply goes once so many bytes are sent.
        if_lost: what is said instead if they cannot be.
    """

    answer: Reply
    due: int
    if_lost: Reply


class Pipeline:
    """See the module.

    Args:
        session: whose lines they are, in MODE U.
        lines: to serve.
        replies: gets the answers.
        is_over: whether to take no further line.
        on_stop: called from any thread when a job is stopped: to end it by force if it does not end soon.
        on_taken: called from the thread when a line has been taken.

    Attributes:
        mode: whose transfers these are; another MODE U needs another pipeline.
    """

    def __init__(
        self,
        session: Session,
        lines: LineQueue,
        replies: Replies,
        *,
        is_over: Callable[[], bool],
        on_stop: Callable[[Job], None],
        on_taken: Callable[[], None],
    ) -> None:
        assert session.record_mode is not None  # noqa: S101 - the caller looked
        self._session = session
        self.mode: RecordMode = session.record_mode
        self._lines = lines
        self._replies = replies
        self._is_over = is_over
        self._on_stop = on_stop
        self._on_taken = on_taken
        self._connection: RecordConnection | None = None
        self._held: deque[_Held] = deque()
        self._usage: list[tuple[str, dict[str, str | float]]] = []
        self._usage_size = 0

    @staticmethod
    def serves(line: Line) -> bool:
        """Whether a line is one for a pipeline."""
        command = command_of(line)
        if line.verb == "STAT" and not line.argument.strip():
            return False  # about the session
        return command is None or bool(command.records or command.files) or line.verb in _QUICK

    def run(self) -> None:
        """Serve lines until there are none, or one comes that is not for a pipeline. Blocks.

        Raises:
            ClientGone: nobody is left to answer.
        """
        self._connection = self._attached()
        try:
            while (line := self._lines.take_if(self._takes, _LINGER_SECONDS, self._before_waiting)) is not None:
                self._on_taken()
                self._serve(line)
            self.flush()
        finally:
            self._write_usage()

    def _attached(self) -> RecordConnection | None:
        data = self._session.data
        if data.connection is None:
            self.mode.detach()
            return None
        # The hooks are this object's, which lives as long as the mode: the connection keeps them.
        return self.mode.attach(
            data.connection,
            data.nonce,
            self._session.limits.stall_seconds,
            before_reading=self.flush,
            before_writing=self._replies.flush,
        )

    def _takes(self, line: Line) -> bool:
        if self._is_over() or self._session.quitting or not self.serves(line):
            return False
        # A connection that the client is yet to make is waited for on the event loop.
        command = command_of(line)
        return command is None or not command.records or line.aborted or not self._session.data.is_accepting

    def _before_waiting(self) -> None:
        self.flush()
        self._write_usage()

    def flush(self) -> None:
        """Send all that is gathered.

        Raises:
            ClientGone: the client does not take it.
        """
        if self._connection is not None and not self._connection.writer.broken:
            try:
                self._connection.writer.flush()
            except StreamError:
                self._drop_connection()
        self._release()
        self._replies.flush()

    def _say(self, answer: Reply, *, download: bool = False) -> None:
        """Answer, once all is sent that the answer says is sent."""
        connection = self._connection
        self._release()
        if connection is None or not (self._held or (download and connection.writer.said > connection.writer.sent)):
            self._replies.add(answer)
            return
        due = connection.writer.said if download else 0
        self._held.append(_Held(answer, due, _LOST if download else answer))

    def _release(self) -> None:
        """Let replies go whose records are sent, or never will be."""
        if self._connection is None:
            return
        writer = self._connection.writer
        while self._held and (writer.broken or self._held[0].due <= writer.sent):
            held = self._held.popleft()
            self._replies.add(held.answer if held.due <= writer.sent else held.if_lost)

    def _serve(self, line: Line) -> None:
        command = command_of(line)
        refused = refusal(self._session, line, command)
        if command is not None and command.records:
            self._transfer(line, command, refused)
        elif refused is not None or command is None:
            self._say(refused or reply(502, "Command not implemented."))
        else:
            self._say(self._simple(line, command))

    def _simple(self, line: Line, command: Command) -> Reply:
        handler = command.files or command.quick
        assert handler is not None  # noqa: S101 - `serves` has looked
        try:
            return handler(self._session, line.argument)
        except Exception as error:
            return failure(self._session, line.verb, error)

    # -- transfers --------------------------------------------------------------------------------------------------

    def _transfer(self, line: Line, command: Command, refused: Reply | None) -> None:
        session = self._session
        if self._connection is None:
            self._connection = self._attached()  # the client has connected since this run began
        connection = self._connection
        self.mode.number += 1
        wanted = session.take_range()
        if connection is None or connection.is_broken():
            self._say(refused or (_ABORTED if line.aborted else failure(session, line.verb, _NO_CONNECTION)))
            return
        bound = binding(line.text, wanted.offset, wanted.length) if self.mode.options.crypt else b""
        job = self._job(line.verb)
        exchange = Exchange(session, connection, self.mode.number, bound, wanted, job, self._say)
        session.job = job
        try:
            if line.aborted:
                refused = refused or _ABORTED
                self._on_stop(job)  # its records may be due, and its client may be silent
            answer = refused or self._attempt(line, command, exchange)
            self._say(answer, download=answer is DONE and line.verb not in _UPLOADS)
            if line.verb in _UPLOADS:
                self._read_on(exchange)
        finally:
            session.job = None
        if connection.is_broken():
            self._drop_connection()

    def _job(self, verb: str) -> Job:
        meter, connection = Meter(), self._connection

        def stop() -> None:
            meter.cancelled = True
            if connection is not None:
                connection.reader.wake()
            self._on_stop(job)

        job = Job(verb, meter, stop)
        return job

    def _attempt(self, line: Line, command: Command, exchange: Exchange) -> Reply:
        """Run the handler: the final reply."""
        assert command.records is not None  # noqa: S101 - the caller looked
        result = "ended"
        try:
            command.records(exchange, line.argument)
            result = "ok"
        except ClientGone:
            raise
        except Exception as error:
            answer = failure(self._session, line.verb, error)
            if exchange.outgoing is not None:
                exchange.outgoing.abort(_reason(line.verb, error))
            if isinstance(error, NotAuthentic):
                self._session.quitting = True
            result = "aborted" if isinstance(error, Cancelled) else str(answer.code)
            return answer
        finally:
            if line.verb not in _LISTINGS:
                self._log(line.verb, exchange, result)
        return DONE

    def _read_on(self, exchange: Exchange) -> None:
        """To the end of an upload's sequence, whatever has become of it: the next one begins behind."""
        connection = self._connection
        if connection is None or connection.reader.broken or (exchange.incoming and exchange.incoming.ended):
            return
        try:
            # Not cancelled by an ABOR, but cut short some time after it: the next transfer needs its beginning.
            exchange.receive().discard(Meter())
        except NotAuthentic as error:
            self._session.quitting = True
            self._say(failure(self._session, "", error))
        except StreamError:
            connection.reader.broken = True

    def _drop_connection(self) -> None:
        self._release()
        self._connection = None
        self.mode.detach()
        self._session.data.finish(drain=False)

    def _log(self, verb: str, exchange: Exchange, result: str) -> None:
        options, incoming = self.mode.options, exchange.incoming
        seconds = time.monotonic() - exchange.started if exchange.started else 0.0
        moved = exchange.job.meter.moved
        facts: dict[str, str | float] = {
            "verb": verb,
            "path": os.fsdecode(exchange.path),
            "bytes": moved,
            "seconds": round(seconds, 6),
            "rate": round(moved / seconds) if seconds else 0,
            "result": result,
            "how": exchange.how,
            "mode": "U",
            "crypt": options.crypt,
            "compress": options.compress,
            "verified": incoming is not None and incoming.verified,
        }
        self._usage.append(("transfer", facts))
        self._usage_size += _USAGE_COST + 4 * len(exchange.path)  # a byte that is not UTF-8 takes four
        if self._usage_size >= _MOST_USAGE:
            self._write_usage()

    def _write_usage(self) -> None:
        usage, self._usage, self._usage_size = self._usage, [], 0
        if usage:
            self._session.log_together(usage)


def _reason(verb: str, error: Exception) -> str:
    answer = error_reply(verb, error, record_mode=True)
    return "internal error" if answer is None else answer.first

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

import time
from collections.abc import Callable
from typing import Final

from uftp.protocol.records import binding
from uftp.protocol.replies import Reply, reply
from uftp.streams import Cancelled, Meter, StreamError
from uftp.streams.records import NotAuthentic
from uftpd.session.answers import LOST, Answers, ClientGone
from uftpd.session.data_connection import NoDataConnection
from uftpd.session.dispatch import command_of, failure, refusal
from uftpd.session.line_queue import Line, LineQueue
from uftpd.session.record_mode import RecordConnection, RecordMode
from uftpd.session.record_transfers import Exchange
from uftpd.session.replies import error_reply
from uftpd.session.small_files import SmallFiles
from uftpd.session.state import Job, Session
from uftpd.session.table import Command
from uftpd.session.transfers import DONE
from uftpd.session.usage import Usage

_LINGER_SECONDS: Final = 0.05  # for the next line, before the thread is given back
_MOST_IN_RUN: Final = 128  # lines taken at once: they no longer count as unread
_ABORTED: Final = reply(426, "Transfer aborted")
_DONE: Final = DONE.encode()
_NO_CONNECTION: Final = NoDataConnection(
    "no data connection: EPSV or PASV must come first, and the client must connect"
)
_UPLOADS: Final = ("STOR", "APPE")
_LISTINGS: Final = ("LIST", "NLST", "MLSD")
# Beside transfers and commands on files: these only touch the session's state.
_QUICK: Final = frozenset({"ALLO", "PWD", "XPWD", "RANG", "REST", "RNFR", "STRU", "SYST"})


class Pipeline:
    """See the module.

    Args:
        session: whose lines they are, in MODE U.
        lines: to serve.
        answers: takes the replies.
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
        answers: Answers,
        *,
        is_over: Callable[[], bool],
        on_stop: Callable[[Job], None],
        on_taken: Callable[[], None],
    ) -> None:
        assert session.record_mode is not None  # noqa: S101 - the caller looked
        self._session = session
        self.mode: RecordMode = session.record_mode
        self._lines = lines
        self._answers = answers
        self._is_over = is_over
        self._on_stop = on_stop
        self._on_taken = on_taken
        self._connection: RecordConnection | None = None
        self._usage = Usage(session, self.mode.options)
        self._small = SmallFiles(session, self.mode, answers, self._usage, before_waiting=self.flush)

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
            while True:
                if self._serve_run():
                    continue
                line = self._lines.take_if(self._takes, _LINGER_SECONDS, self._before_waiting)
                if line is None:
                    break
                self._on_taken()
                self._serve(line)
            self.flush()
        finally:
            self._usage.write()

    def _attached(self) -> RecordConnection | None:
        data = self._session.data
        if data.connection is None:
            self.mode.detach()
            self._answers.writer = None
            return None
        # The hooks are this object's, which lives as long as the mode: the connection keeps them.
        connection = self.mode.attach(
            data.connection,
            data.nonce,
            self._session.limits.stall_seconds,
            before_reading=self.flush,
            before_writing=self._answers.send,
        )
        self._answers.writer = connection.writer
        return connection

    def _takes(self, line: Line) -> bool:
        if self._is_over() or self._session.quitting or not self.serves(line):
            return False
        # A connection that the client is yet to make is waited for on the event loop.
        command = command_of(line)
        return command is None or not command.records or line.aborted or not self._session.data.is_accepting

    def _before_waiting(self) -> None:
        self.flush()
        self._usage.write()

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
        self._answers.release()
        self._answers.send()

    def _say(self, answer: Reply) -> None:
        self._answers.release()
        self._answers.say(answer.encode())

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

    def _serve_run(self) -> bool:
        """Serve small files, of which there is a run of lines, on the short way; whether there was any."""
        session, connection = self._session, self._connection
        if connection is None or session.data.is_accepting or session.quitting or self._is_over():
            return False
        verbs = self._small.verbs(connection)
        if not verbs:
            return False
        run = self._lines.take_run(verbs, _MOST_IN_RUN)
        if not run:
            return False
        session.job = job = self._job(run[0].verb)
        served = 0
        try:
            served = self._small.serve(run, connection, job.meter)
        finally:
            session.job = None
            self._lines.give_back(run[served:])
        if connection.is_broken():
            self._drop_connection()
        if served:
            self._on_taken()
        return served > 0

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
            if answer is DONE and line.verb not in _UPLOADS:
                self._answers.release()
                self._answers.say_when_sent(_DONE, LOST)
            else:
                self._say(answer)
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
        self._answers.release()
        self._connection = self._answers.writer = None
        self._answers.release()
        self.mode.detach()
        self._session.data.finish(drain=False)

    def _log(self, verb: str, exchange: Exchange, result: str) -> None:
        incoming = exchange.incoming
        self._usage.add(
            verb,
            exchange.path,
            exchange.job.meter.moved,
            time.monotonic() - exchange.started if exchange.started else 0.0,
            result,
            exchange.how,
            incoming is not None and incoming.verified,
        )


def _reason(verb: str, error: Exception) -> str:
    answer = error_reply(verb, error, record_mode=True)
    return "internal error" if answer is None else answer.first

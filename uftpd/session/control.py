"""The control connection of a session: reads commands, runs them in order, sends replies.

Commands are read while one runs, so that ABOR and STAT act at once; a client that sends faster than it is served is
not read further. The session ends with QUIT, the client's end of file, idleness, or draining.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

import trio

from uftp.protocol import LineTooLong
from uftp.protocol.lines import LineReader
from uftp.protocol.replies import Reply, multi_line, reply
from uftp.streams import Cancelled, Meter
from uftpd.session.answers import Answers, ClientGone
from uftpd.session.dispatch import command_of, failure, refusal
from uftpd.session.line_queue import Line, LineQueue
from uftpd.session.pipeline import Pipeline
from uftpd.session.state import Job, Session
from uftpd.session.table import Command, Hashing
from uftpd.session.transfers import Client, in_thread, pumped, running

_MAX_WAITING_BYTES: Final = 64 * 1024  # of lines received and not yet served
_SILENT_SECONDS: Final = 5.0  # the bytes of a client that is gone may take so long to come, one after the other
_SEND_SECONDS: Final = 120.0  # a client that takes no reply for so long is gone
_HASH_SIGN_OF_LIFE_SECONDS: Final = 30.0
# Between the pieces of a large file, or before its part file is renamed or removed, a client is not idle.
_DRAIN_PAUSE_SECONDS: Final = 2.0
_RECORD_SECONDS: Final = 10.0  # how long a stopped transfer in MODE U may take to reach the end of its record
_ABORTED: Final = reply(426, "Transfer aborted")
_AT_ONCE: Final = frozenset({"ABOR", "STAT", "QUIT", "BYE"})  # may act before their turn


class ControlConnection:
    """See the module.

    Args:
        session: what commands act on.
        connection: the control connection, logged in.
        received: bytes that came behind the password.
    """

    def __init__(self, session: Session, connection: trio.socket.SocketType, received: bytes) -> None:
        self._session = session
        self._connection = connection
        self._reader = LineReader(max_bytes=session.limits.line_bytes, telnet=True)
        self._reader.receive_data(received)
        self._client = Client(self.send, self._end_is_meant)
        self._send_lock = trio.Lock()
        self._lines = LineQueue()
        self._changed = trio.Event()
        self._ended = False
        self._said_goodbye = False
        self._verbs: set[str] = set()  # of all commands so far
        self._draining = False
        self._drained = False
        self._active_at = trio.current_time()
        self._nursery: trio.Nursery | None = None
        self._full = False
        self._pipeline: Pipeline | None = None
        self._answers: Answers | None = None

    async def run(self) -> None:
        """Serve until the session ends."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._session.on_job = self._job_began
            nursery.start_soon(self._read)
            try:
                with contextlib.suppress(ClientGone):
                    await self._serve()
                nursery.cancel_scope.cancel()
            finally:
                if self._answers is not None:
                    self._answers.close()

    async def drain(self, seconds: float) -> None:
        """Let the client finish what it is at, for `seconds` at most; the session ends once it pauses."""
        self._draining = True
        self._wake()
        await trio.sleep(seconds)
        self._drained = True
        self._wake()
        if self._session.job is not None:
            self._session.job.stop()
        self._expect_nobody()

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        with contextlib.suppress(ClientGone, OSError):
            await self._take_lines()
            while data := await self._connection.recv(16384):
                self._reader.receive_data(data)
                await self._take_lines()
        self._ended = True
        if (job := self._session.job) is not None and not self._said_goodbye:
            if self._will_be_told_apart(job) and self._nursery is not None:
                self._nursery.start_soon(self._stop_once_silent, job)
            else:
                job.stop()
        self._session.data.ask_no_more()
        if self._session.record_mode is not None:
            self._session.data.break_off()  # nobody is left who could end a sequence properly
        self._expect_nobody()
        self._wake()

    def _will_be_told_apart(self, job: Job) -> bool:
        """Whether this is an upload, outside MODE U, that goes on when its control connection has ended.

        Of one whose length is known the last byte says that it is whole. Upstream nodes that copy to this one close all
        connections behind that byte (DATA-PLANE 12), and some of it may
        not have been read yet. If the client was killed, the data connection ends early.
        """
        known = job.total is not None or self._is_upstream_copy()
        return job.verb == "STOR" and known and self._session.record_mode is None

    def _is_upstream_copy(self) -> bool:
        """Whether the client is an upstream node that was told SEND-FILE (DATA-PLANE 12).

        It announces no length and closes everything behind the last byte, just as a killed client does. No other known
        client comes with these commands alone; all others ask for a TYPE, for features, or what there is already.
        """
        return self._verbs in ({"PASV", "NOOP", "STOR"}, {"PASV", "NOOP", "RANG", "STOR"})

    async def _stop_once_silent(self, job: Job) -> None:
        """What is on its way still comes soon; a client that is gone sends nothing more."""
        seen = -1
        while self._session.job is job and job.meter.moved != seen:
            seen = job.meter.moved
            await trio.sleep(_SILENT_SECONDS)
        if self._session.job is job:
            job.stop()

    def _expect_nobody(self) -> None:
        """In MODE U lines wait for the client to connect: no longer."""
        if self._session.record_mode is not None and self._session.data.is_accepting:
            self._session.data.give_up()

    async def _take_lines(self) -> None:
        while True:
            try:
                texts = self._reader.next_lines()
            except LineTooLong:
                self._queue([Line(b"", too_long=True)])
            else:
                if not texts:
                    return
                await self._take_texts(texts)
            while self._lines.waiting_bytes > _MAX_WAITING_BYTES and not self._draining:
                self._full = True
                await self._changed.wait()
                self._full = False

    async def _take_texts(self, texts: list[bytes]) -> None:
        """Queue what waits for its turn, all at once: small files come by the hundred."""
        lines: list[Line] = []
        for text in texts:
            if not text or text.isspace():
                continue
            line = Line(text)
            if line.verb in _AT_ONCE:
                self._queue(lines)
                lines = []
                await self._take_line(line)
            else:
                lines.append(line)
        self._queue(lines)

    async def _take_line(self, line: Line) -> None:
        job = self._session.job
        # In MODE U replies come in the order of the commands.
        at_once = job is not None and not self._lines and self._session.record_mode is None
        if line.verb == "ABOR":
            self._lines.abort()
            if job is not None:
                job.aborted = True
                job.stop()
        elif line.verb == "STAT" and at_once:
            await self._execute(line)
            return
        elif line.verb in ("QUIT", "BYE") and at_once:
            # The transfer goes on (RFC 959, QUIT); some clients close its connection only after this answer.
            self._said_goodbye = True
            await self._execute(line)
            return
        self._queue([line])

    def _queue(self, lines: list[Line]) -> None:
        if not lines:
            return
        if self._draining and self._lines.waiting_bytes > _MAX_WAITING_BYTES:
            # A client at work sends no such floods. Reading goes on, for ABOR.
            self._drained = True
            self._lines.clear()
        if self._drained:
            return  # nothing that comes now will be served; ABOR has acted already
        self._lines.put_many(lines)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self._lines.wake()

    # -- serving ----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while not self._session.quitting:
            with trio.CancelScope() as idle:
                while not self._lines and not self._ended and not self._drained:
                    patience = _DRAIN_PAUSE_SECONDS if self._draining else self._session.limits.idle_seconds
                    idle.deadline = self._active_at + patience
                    await self._changed.wait()
            if idle.cancelled_caught and not self._draining:
                await self.send(reply(421, "Nothing came for too long, closing the control connection"))
                return
            if self._drained or idle.cancelled_caught:
                await self.send(reply(421, "The server is shutting down, closing the control connection"))
                return
            if not self._lines:
                return
            if self._session.record_mode is not None and (first := self._lines.first()) and Pipeline.serves(first):
                await self._serve_pipelined(first)
            else:
                line = self._lines.take()
                self._wake()
                await self._execute(line)
            self._active_at = trio.current_time()

    async def _serve_pipelined(self, first: Line) -> None:
        """Serve what there is for a thread of its own."""
        session = self._session
        command = command_of(first)
        if command is not None and command.records and not first.aborted and session.data.is_accepting:
            with trio.CancelScope() as scope:
                session.job = Job("EPSV", Meter(), scope.cancel)
                await session.data.settled()
            session.job = None
        if self._pipeline is None or self._pipeline.mode is not session.record_mode:
            self._pipeline = self._new_pipeline()
        with trio.CancelScope(shield=True):
            await in_thread(self._pipeline.run)

    def _new_pipeline(self) -> Pipeline:
        token = trio.lowlevel.current_trio_token()

        def on_taken() -> None:
            if self._full and self._lines.waiting_bytes <= _MAX_WAITING_BYTES:
                token.run_sync_soon(self._wake, idempotent=True)

        if self._answers is None:
            # Another object for the same socket, since trio's own has no blocking calls.
            self._answers = Answers(socket.socket(fileno=os.dup(self._connection.fileno())))
        return Pipeline(
            self._session,
            self._lines,
            self._answers,
            is_over=lambda: self._drained,
            on_stop=lambda job: token.run_sync_soon(self._end_by_force, job),
            on_taken=on_taken,
        )

    def _end_by_force(self, job: Job) -> None:
        """Give a stopped transfer in MODE U some time to reach the end of its record, and then no more."""

        async def end() -> None:
            await trio.sleep(_RECORD_SECONDS)
            if self._session.job is job:
                self._session.data.break_off()

        if self._nursery is not None:
            self._nursery.start_soon(end)

    def _job_began(self) -> None:
        """A STAT that came so close behind its command that it was queued is for that command, too."""
        first = self._lines.first()
        if first is not None and first.verb == "STAT" and self._session.record_mode is None and self._nursery:
            self._nursery.start_soon(self._answer_early, self._lines.take())
            self._wake()

    async def _answer_early(self, line: Line) -> None:
        with contextlib.suppress(ClientGone):
            await self._execute(line)

    async def _execute(self, line: Line) -> None:
        command = command_of(line)
        self._verbs.add(line.verb)
        answer = refusal(self._session, line, command)
        if answer is None and command is not None:
            if line.aborted and command.moving:
                self._session.take_range()  # it was meant for this command, not for the next one
                answer = _ABORTED
            else:
                answer = await self._run(line.verb, line.argument, command)
        if answer is not None:
            await self.send(answer)

    async def _run(self, verb: str, argument: bytes, command: Command) -> Reply | None:
        """Run a handler; the reply still to be sent, if any."""
        session = self._session
        try:
            if verb == "STAT" and not argument.strip():
                return self._status()
            if command.quick:
                return command.quick(session, argument)
            if command.files:
                handler = command.files
                return await in_thread(lambda: handler(session, argument))
            if command.asking:
                return await command.asking(session, argument)
            if command.hashing:
                return await self._hash(argument, command.hashing)
            if command.moving:
                await command.moving(session, argument, self._client)
            return None
        except ClientGone:
            raise
        except Cancelled:
            return self._stopped(verb)
        except Exception as error:
            return failure(session, verb, error)

    def _stopped(self, verb: str) -> Reply | None:
        if self._ended:
            return None
        if self._drained:
            return reply(551, f"Error processing command '{verb}': the server is shutting down")
        return _ABORTED

    async def _hash(self, argument: bytes, handler: Hashing) -> Reply:
        session = self._session
        signs_of_life = 0

        async def say_so() -> None:
            nonlocal signs_of_life
            while True:
                await trio.sleep(_HASH_SIGN_OF_LIFE_SECONDS)
                signs_of_life += 1
                await self._send_bytes(b"213-\r\n")

        try:
            async with running(session, "HASH") as job, trio.open_nursery() as nursery:
                nursery.start_soon(say_so)
                answer = await pumped(session, job, lambda: handler(session, argument, job.meter), uses_data=False)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # A nursery wraps what comes out of it; here at most the handler and the sender can fail.
            error = group.exceptions[0]
            session.quitting = session.quitting or signs_of_life > 0  # a 213- cannot be followed by an error
            raise error from None
        return answer

    def _status(self) -> Reply:
        session = self._session
        job = session.job
        mode = "S" if session.record_mode is None else "U"
        lines = [f" Logged in as {session.user}".encode(), f" TYPE I, MODE {mode}, STRU F".encode()]
        if job is not None:
            of = "" if job.total is None else f" of {job.total}"
            lines.append(f" {job.verb} in progress: {job.meter.moved}{of} bytes".encode())
        elif session.data.is_open:
            lines.append(b" Data connection open")
        return multi_line(211, "Status of the UFTP server:", lines, "End of status")

    # -- sending ----------------------------------------------------------------------------------------------------

    async def send(self, answer: Reply) -> None:
        """Send a reply.

        Raises:
            ClientGone: the client does not take it.
        """
        await self._send_bytes(answer.encode())

    async def _send_bytes(self, data: bytes) -> None:
        try:
            with trio.fail_after(_SEND_SECONDS):
                async with self._send_lock:
                    view = memoryview(data)
                    while view:
                        view = view[await self._connection.send(view) :]
        except (OSError, trio.TooSlowError) as error:
            self._ended = True
            raise ClientGone from error

    def _end_is_meant(self) -> bool:
        """Whether the end of data whose length was not announced is the end of the file."""
        return self._is_upstream_copy() or self._is_connected()

    def _is_connected(self) -> bool:
        """Whether the client's end is open, asked of the kernel: the reader may not have noticed yet."""
        if self._ended:
            return False
        fd = socket.socket(fileno=self._connection.fileno())
        try:
            return bool(fd.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            fd.detach()

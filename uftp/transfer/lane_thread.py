"""Batches of small files over one session in MODE U, in one thread (EXTENSIONS 1, pipelining).

No event loop, no thread hop and no task a file: one loop fills the window of commands, gathers the records of uploads,
takes replies and records by the hundred, and gives files their names; it waits for both connections at once, so it can
never wait for the server while that waits for it. Only files that are one record go this way. What is unusual but
harmless (a sparse file, one that has grown) is put aside for the general way; whatever breaks a connection ends the
session, since a new one costs little, and what was under way is known.

A downloaded file is held in memory until the server has said that it was all. That is bounded: by what the listing said
of the files under way, and by giving up the hold on any that is announced as larger.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from uftp.client.record_pipeline import WINDOW_BYTES
from uftp.client.wording import printable, refusal, server_said
from uftp.errors import NetworkError, PeerBrokeProtocol, TimedOut, TransferFailed, UFTPError
from uftp.protocol import ProtocolError
from uftp.protocol.facts import format_kept, parse_kept
from uftp.protocol.records import binding
from uftp.protocol.replies import reply
from uftp.streams import Cancelled, Garbled, Meter, StreamError
from uftp.streams.folder import Folder
from uftp.streams.records import LARGEST_FILE, SMALL_FILE, Aborted, NotAuthentic
from uftp.transfer.batch import Batch, SmallFile
from uftp.transfer.local import local_error
from uftp.transfer.plan import join

if TYPE_CHECKING:
    from uftp.client.record_mode import RecordConnection, RecordMode
    from uftp.client.session import FTPSession

_LEAST_ROOM: Final = WINDOW_BYTES // 4  # lines go out in bunches: a system call each would cost more than they do
_MOST_UNDER_WAY: Final = 2048  # files
_MOST_HELD: Final = 8 * 1024 * 1024  # bytes of downloads under way, as listed
_LARGEST_HELD: Final = 4 * 1024 * 1024  # bytes of a file that was listed as small, and has grown
_RECEIVE: Final = 64 * 1024
_MOST_LINE: Final = 16 * 1024  # bytes of a reply
_REPORT_SECONDS: Final = 0.05  # the event loop hears of files that are done so often
_REPORT_FILES: Final = 512
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Rest(NamedTuple):
    """A file that the lane has not carried.

    Attributes:
        batch, file: which.
        error: why it failed; None if it was not begun, or was lost with a connection that broke under another one.
    """

    batch: Batch
    file: SmallFile
    error: UFTPError | None


class _NoDataConnection(NetworkError):
    """The server says 425."""


_HOLE: Final = bytes(SMALL_FILE)  # no shorter one travels as such


class _Exchange:
    """A command under way."""

    __slots__ = (
        "announced",
        "answered",
        "aside",
        "batch",
        "begun",
        "carried",
        "content",
        "cost",
        "error",
        "facts",
        "file",
        "line",
        "number",
    )

    def __init__(self, batch: Batch, file: SmallFile, number: int, line: bytes) -> None:
        self.batch = batch
        self.file = file  # of an upload, its size is what was read
        self.number = number
        self.line = line
        self.cost = len(line) + 2
        self.begun = False  # 150 came
        self.announced = 0
        self.carried = False  # its records came, to the last one
        self.aside = False  # it is for the general way
        self.answered = False  # the final reply came
        self.content: bytes | None = None
        self.facts = b""
        self.error: UFTPError | None = None


class LaneThread:
    """See the module. For one run; `run` in a thread, `stop` and `take_done` on the event loop.

    Args:
        session: usable, in MODE U, all replies read, nobody else's meanwhile.
        mode, connection: its.
        supply: gives batches, from this thread; None if there is none now.
        preserve: whether files keep times and permission bits.
        meter: counts bytes of files that are whole.
        on_done: told of files that are whole; on the event loop.

    Attributes:
        rest: what was not carried.
        aside: what is for the general way, and was not begun.
        lost: why the session is of no use; None if it is.
    """

    def __init__(
        self,
        session: FTPSession,
        mode: RecordMode,
        connection: RecordConnection,
        supply: Callable[[], Batch | None],
        *,
        preserve: bool,
        meter: Meter,
        on_done: Callable[[Batch, list[SmallFile]], None],
    ) -> None:
        self.rest: list[Rest] = []
        self.aside: list[tuple[Batch, SmallFile]] = []
        self.lost: UFTPError | None = None
        self._session = session
        self._mode = mode
        self._reader = connection.reader
        self._writer = connection.writer
        self._control = socket.socket(fileno=os.dup(session.control.socket.fileno()))
        self._data = connection.connection
        self._supply: Callable[[], Batch | None] | None = supply
        self._preserve = preserve
        self._meter = meter
        self._on_done = on_done
        self._token = trio.lowlevel.current_trio_token()
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop_meter = Meter()  # for the steps that block
        # Files still to begin, and where they are.
        self._batch: Batch | None = None
        self._place = 0
        self._prefix = b""
        self._folder: Folder | None = None
        self._folder_of: Batch | None = None
        # Commands under way, in order: those that wait for a final reply, and downloads that wait for their records.
        self._due: deque[_Exchange] = deque()
        self._arriving: deque[_Exchange] = deque()
        self._unanswered = 0
        self._held = 0
        self._suspect: _Exchange | None = None  # what is being looked at
        self._progress = False  # whether any file has come to its end, good or bad
        self._lines: list[bytes] = []
        self._output = memoryview(b"")
        self._sending = False  # whether gathered records wait for the kernel
        self._input = b""
        self._astray = False  # whether a reply was not understood, or ends the session
        # Files that are done, and not yet reported.
        self._done_of: Batch | None = None
        self._done: list[SmallFile] = []
        self._reports: deque[tuple[Batch, list[SmallFile]]] = deque()
        self._reported_at = time.monotonic()

    # -- on the event loop ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have the thread give up; the session is of no use then."""
        self._stop_meter.cancelled = True
        os.eventfd_write(self._alarm, 1)
        self._reader.wake()

    def take_done(self) -> None:
        """Report what is done."""
        while self._reports:
            self._on_done(*self._reports.popleft())

    def close(self) -> None:
        """Release what it holds. After the thread."""
        self._control.close()
        os.close(self._alarm)

    # -- the thread -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Carry all there is. What failed is in `rest`; nothing is raised but what nobody foresaw."""
        try:
            self._work()
        except UFTPError as error:
            self._lose(error)
        except Cancelled:
            self._lose(NetworkError(f"{self._session.name}: given up"))
        except NotAuthentic:
            self._lose(PeerBrokeProtocol("what came is not what was sent; somebody may be changing the traffic"))
        except Garbled as error:
            self._lose(PeerBrokeProtocol(f"{self._session.name}: {printable(str(error))}"))
        except StreamError as error:
            self._lose(NetworkError(f"{self._session.name}: the data connection broke: {error}".rstrip(": ")))
        except OSError as error:  # of the control connection, or of waiting: files' own are seen to where they arise
            self._lose(NetworkError(f"{self._session.name}: the connection broke: {error.strerror or error}"))
        finally:
            self._leave()
            self._report()

    def _work(self) -> None:
        while True:
            if self._stop_meter.cancelled:
                raise Cancelled
            moved = self._fill()
            moved = self._send() or moved
            moved = self._take_replies() or moved
            moved = self._take_records() or moved
            if time.monotonic() - self._reported_at > _REPORT_SECONDS:
                self._report_soon()
            if moved:
                continue
            if not self._due and not self._arriving and not self._output and not self._sending:
                if not self._more():
                    return
                continue
            self._wait()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._alarm, select.POLLIN)
        poll.register(self._control, select.POLLIN | (select.POLLOUT if self._output else 0))
        events = (select.POLLIN if self._reader.room else 0) | (select.POLLOUT if self._sending else 0)
        poll.register(self._data, events)
        moving = self._sending or self._output or any(one.begun and not one.carried for one in self._arriving)
        seconds = self._session.stall_timeout if moving else self._session.final_timeout
        if not poll.poll(seconds * 1000):
            raise TimedOut(f"{self._session.name}: nothing moved for {seconds:.0f} seconds")

    def _lose(self, error: UFTPError) -> None:
        """The session is lost, through one of the files under way: the others may be begun again."""
        self.lost = error
        suspect = self._suspect
        if not self._stop_meter.cancelled:
            self._salvage()
        under_way = {one.number: one for one in (*self._due, *self._arriving) if not one.aside}
        if not isinstance(error, PeerBrokeProtocol) or suspect is None or suspect.number not in under_way:
            # Replies of some that were done may be lost with it. So the first one is to blame only if it stood at the
            # beginning; else it will, the next time.
            suspect = None if self._progress else min(under_way.values(), key=lambda one: one.number, default=None)
            if isinstance(error, _NoDataConnection):
                # Lost before the one that it is said of: by what the server was sending then.
                suspect = next((one for one in self._arriving if not one.carried), suspect)
        for one in under_way.values():
            if one.error is None and one is suspect and not self._stop_meter.cancelled:
                one.error = self._named(one, error)
            self.rest.append(Rest(one.batch, one.file, one.error))
        self._due.clear()
        self._arriving.clear()
        if self._batch is not None:
            self.rest += [Rest(self._batch, file, None) for file in self._batch.files[self._place :]]
            self._batch = None

    def _salvage(self) -> None:
        """Take what has come before the connections broke: the one that breaks first tells nothing of the other."""
        for take in (self._take_replies, self._take_records, self._take_replies):
            with contextlib.suppress(UFTPError, StreamError, OSError):
                while take():
                    pass

    def _named(self, one: _Exchange, error: UFTPError) -> UFTPError:
        kind = type(error) if isinstance(error, PeerBrokeProtocol | TimedOut) else NetworkError
        return kind(f"{printable(self._remote(one.batch, one.file))}: {error}")

    # -- commands ---------------------------------------------------------------------------------------------------

    def _more(self) -> bool:
        """Whether there is a file to begin."""
        while self._batch is None or self._place >= len(self._batch.files):
            batch = None if self._supply is None else self._supply()
            if batch is None:
                self._supply = None
                self._batch = None
                return False
            self._batch, self._place = batch, 0
            remote = batch.target_directory if batch.upload else batch.source_directory
            verb = b"STOR " if batch.upload else b"RETR "
            # A name alone would be looked for in the session's directory, as a path that is empty.
            self._prefix = verb + (self._session.wire(join(remote, b"x"))[:-1])
        return True

    def _fill(self) -> bool:
        """Begin files as there is room; whether there was."""
        if self._output or self._sending:
            return False
        if self._due and WINDOW_BYTES - self._unanswered < _LEAST_ROOM:
            return False
        while len(self._due) < _MOST_UNDER_WAY and not self._writer.full and self._more():
            batch = self._batch
            assert batch is not None  # noqa: S101 - there is more
            file = batch.files[self._place]
            try:
                line = self._prefix + self._session.wire(file.name)
            except UFTPError as error:
                self._place += 1
                self.rest.append(Rest(batch, file, error))
                continue
            if self._unanswered and self._unanswered + len(line) + 2 > WINDOW_BYTES:
                break
            if batch.upload:
                self._place += 1
                self._begin_upload(batch, file, line)
                continue
            if self._held and self._held + file.size > _MOST_HELD:
                break
            self._place += 1
            self._held += file.size
            self._begin(_Exchange(batch, file, self._mode.transfers + 1, line))
        if self._lines:
            self._output = memoryview(b"".join(self._lines))
            self._lines.clear()
        return bool(self._output)

    def _begin(self, one: _Exchange) -> None:
        self._mode.transfers = one.number
        self._unanswered += one.cost
        self._due.append(one)
        self._lines.append(one.line)
        self._lines.append(b"\r\n")

    def _begin_upload(self, batch: Batch, file: SmallFile, line: bytes) -> None:
        number = self._mode.transfers + 1
        try:
            folder = self._enter(batch)
            fd = os.open(file.name, _READ, dir_fd=folder.directory)
            try:
                info = os.fstat(fd)
                size = info.st_size
                if (
                    not stat.S_ISREG(info.st_mode)
                    or size > LARGEST_FILE
                    or (size >= SMALL_FILE and info.st_blocks * 512 < size)  # its holes should travel as such
                ):
                    self.aside.append((batch, file))
                    return
                facts = format_kept(info.st_mtime_ns, stat.S_IMODE(info.st_mode) & 0o777) if self._preserve else b""
                bound = binding(line, 0, None) if self._mode.options.crypt else b""
                if not self._writer.put_file(number, bound, fd, size, facts):
                    self.aside.append((batch, file))  # it changes just now
                    return
            finally:
                os.close(fd)
        except OSError as error:
            path = join(batch.source_directory, file.name)
            self.rest.append(Rest(batch, file, local_error(error, path, "read it")))
            return
        self._sending = True
        self._begin(_Exchange(batch, file if size == file.size else file._replace(size=size), number, line))

    def _send(self) -> bool:
        moved = False
        if self._output:
            try:
                self._output = self._output[self._control.send(self._output) :]
                moved = True
            except BlockingIOError:
                pass
        if self._sending:
            before = self._writer.sent
            self._sending = not self._writer.send_some()
            moved = moved or self._writer.sent != before
        return moved

    # -- replies ----------------------------------------------------------------------------------------------------

    def _take_replies(self) -> bool:
        if self._astray:
            return False
        try:
            data = self._control.recv(_RECEIVE)
        except BlockingIOError:
            return False
        if not data:
            raise NetworkError(f"{self._session.name}: the server closed the connection")
        lines = (self._input + data).split(b"\r\n")
        self._input = lines.pop()
        if len(self._input) > _MOST_LINE:
            raise PeerBrokeProtocol(f"{self._session.name}: the server sent a line that is too long")
        # Behind one that ends the session nobody knows to which file a reply belongs: none is believed any more.
        self._astray = True
        for line in lines:
            if not self._due:
                raise PeerBrokeProtocol(f"{self._session.name}: a reply to nothing: {printable(line[:80])}")
            self._suspect = one = self._due[0]
            if line[:1] == b"1" and line[3:4] == b" ":
                if one.begun:
                    raise self._out_of_turn(line)
                one.begun = True
                if not one.batch.upload:
                    self._announced(one, line)
                    self._arriving.append(one)
                continue
            if line[:4] != b"226 " and not (line[:1] == b"2" and line[3:4] == b" "):
                self._refused(one, line)
            elif not one.begun:
                raise self._out_of_turn(line)
            self._due.popleft()
            self._unanswered -= one.cost
            one.answered = True
            if one.batch.upload or one.carried or not one.begun:
                self._settle(one)
        self._suspect = None
        self._astray = False
        return True

    def _announced(self, one: _Exchange, line: bytes) -> None:
        words = line.split(b" ", 4)
        if len(words) < 4 or words[1] != b"OK" or words[3] != b"bytes" or not words[2].isdigit() or len(words[2]) > 19:
            raise PeerBrokeProtocol(f"{self._session.name}: no length announced: {printable(line[:80])}")
        one.announced = int(words[2])

    def _out_of_turn(self, line: bytes) -> PeerBrokeProtocol:
        return PeerBrokeProtocol(f"{self._session.name}: {printable(line[:80])} comes out of turn")

    def _refused(self, one: _Exchange, line: bytes) -> None:
        if not line[:3].isdigit() or line[3:4] != b" ":
            raise PeerBrokeProtocol(f"{self._session.name}: the server sent no FTP reply: {printable(line[:80])}")
        said = reply(int(line[:3]), line[4:])
        if said.code == 425:
            raise _NoDataConnection(f"{self._session.name}: {server_said(said)}")
        if said.code == 421:
            raise NetworkError(f"{self._session.name}: {server_said(said)}")
        if one.error is not None:
            return
        path = self._remote(one.batch, one.file)
        if one.begun:
            why = f"{printable(path)}: the transfer failed: {server_said(said)}"
            one.error = TransferFailed(why, code=said.code)
        else:
            one.error = refusal(said, path, "write it" if one.batch.upload else "read it")

    # -- records ----------------------------------------------------------------------------------------------------

    def _take_records(self) -> bool:
        moved = bool(self._arriving) and self._take_arrived()
        if not self._reader.room:
            return moved
        try:
            came = self._reader.top_up()
        except StreamError:
            if self._due or self._arriving or self._sending:
                raise
            return moved  # the server has ended a connection that nobody needs; the next one who does will see
        return (came and (self._take_arrived() or True)) or moved

    def _take_arrived(self) -> bool:
        arriving, reader, crypt = self._arriving, self._reader, self._mode.options.crypt
        moved = False
        while arriving:
            one = arriving[0]
            taken = reader.take_file(one.number, binding(one.line, 0, None) if crypt else b"")
            if taken is not None:
                content, one.facts = taken
                if len(content) != one.announced:
                    one.error = one.error or self._length_is_wrong(one, len(content))
                elif one.error is None:
                    one.content = bytes(content)
            elif self.lost is not None or reader.awaits_file(one.number):
                return moved
            else:
                self._suspect = one
                self._take_slowly(one)
                self._suspect = None
            arriving.popleft()
            one.carried = moved = True
            if one.answered:
                self._settle(one)
        return moved

    def _take_slowly(self, one: _Exchange) -> None:
        """A sequence that is not one plain record, or that something is wrong with."""
        incoming = self._reader.begin(one.number, binding(one.line, 0, None))
        content = bytearray()

        def take(block: memoryview) -> None:
            content.extend(block)

        try:
            if one.announced > _LARGEST_HELD:
                self.aside.append((one.batch, one.file))
                one.aside = True
                incoming.discard(self._stop_meter)
                return
            moved = incoming.to_chunks(take, one.announced, self._stop_meter)
            if moved != one.announced or not incoming.finish():
                one.error = one.error or self._length_is_wrong(one, moved)
            elif one.error is None and _HOLE in content:
                self.aside.append((one.batch, one.file))  # what came as holes should stay such here
                one.aside = True
            else:
                one.content, one.facts = bytes(content), incoming.facts
        except (Aborted, Garbled) as error:
            if self._reader.broken:
                raise
            path = printable(self._remote(one.batch, one.file))
            one.error = one.error or TransferFailed(f"{path}: the transfer failed: {printable(str(error))}")
        if not incoming.ended:
            incoming.discard(self._stop_meter)

    def _length_is_wrong(self, one: _Exchange, moved: int) -> TransferFailed:
        path = printable(self._remote(one.batch, one.file))
        return TransferFailed(f"{path}: {one.announced} bytes were announced, and {moved} came")

    # -- files ------------------------------------------------------------------------------------------------------

    def _settle(self, one: _Exchange) -> None:
        """All of it is known."""
        self._progress = True
        batch, file = one.batch, one.file
        if batch.upload:
            if one.error is None:
                self._finish(batch, file)
            else:
                self.rest.append(Rest(batch, file, one.error))
            return
        self._held -= file.size
        if one.aside:
            return
        content = one.content
        error = one.error
        if error is None and content is not None:
            try:
                self._give_name(batch, file, content, one.facts)
            except ProtocolError as broken:
                error = PeerBrokeProtocol(f"{self._session.name}: the server sent {printable(str(broken))}")
            except OSError as broken:
                error = local_error(broken, join(batch.target_directory, file.name), "write it")
            else:
                self._finish(batch, file if len(content) == file.size else file._replace(size=len(content)))
                return
        self.rest.append(Rest(batch, file, error))

    def _give_name(self, batch: Batch, file: SmallFile, content: bytes, facts: bytes) -> None:
        mtime_ns = permissions = None
        if self._preserve:
            # What came with the file itself is newer, and more exact, than what a listing said.
            mtime_ns, permissions = parse_kept(facts) if facts else (None, None)
            mtime_ns = mtime_ns or file.mtime_ns or None
            permissions = file.permissions if permissions is None else permissions
            permissions = None if permissions is None else permissions & 0o777
        self._enter(batch).put(file.name, content, mtime_ns=mtime_ns, permissions=permissions, replace=True)

    def _finish(self, batch: Batch, file: SmallFile) -> None:
        self._meter.moved += file.size
        if batch is not self._done_of or len(self._done) >= _REPORT_FILES:
            self._report()
            self._done_of = batch
        self._done.append(file)

    def _report(self) -> None:
        if self._done_of is not None and self._done:
            self._reports.append((self._done_of, self._done))
            self._done = []

    def _report_soon(self) -> None:
        self._reported_at = time.monotonic()
        self._report()
        if self._reports:
            self._token.run_sync_soon(self.take_done, idempotent=True)

    # -- places -----------------------------------------------------------------------------------------------------

    def _enter(self, batch: Batch) -> Folder:
        """The directory of a batch on this side."""
        if batch is self._folder_of and self._folder is not None:
            return self._folder
        self._leave()
        if batch.open_directory is not None:
            directory = batch.open_directory()
        else:
            path = batch.source_directory if batch.upload else batch.target_directory
            directory = os.open(path or b".", _DIRECTORY)
        self._folder, self._folder_of = Folder(directory), batch
        return self._folder

    def _leave(self) -> None:
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    @staticmethod
    def _remote(batch: Batch, file: SmallFile) -> bytes:
        return join(batch.target_directory if batch.upload else batch.source_directory, file.name)

"""RETR and STOR of small files in MODE U on a short way, for runs of lines (EXTENSIONS section 1, pipelining).

What `record_transfers` does for any file, with no object a file and few system calls: the directory of a run is opened
once, a file is one record, read or written in one piece. It is only for the plain case, and decided before anything is
said or taken: a file that is not regular or not small, a name that rules of the site are about, a record that is not
there as a whole or is wrong, an error of the file system of any kind, and the line is served on the general way, which
knows what to do and what to say. So nothing ever fails here.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import Final

from uftp.protocol import ProtocolError
from uftp.protocol.facts import format_kept, parse_kept
from uftp.protocol.names import pct_decode
from uftp.protocol.ranges import WHOLE_FILE
from uftp.protocol.records import binding
from uftp.protocol.replies import reply
from uftp.streams import Meter, StreamError
from uftp.streams.folder import Folder
from uftp.streams.records import SMALL_FILE
from uftpd.session.answers import LOST, Answers
from uftpd.session.filters import Forbidden
from uftpd.session.line_queue import Line
from uftpd.session.record_mode import RecordConnection, RecordMode
from uftpd.session.state import Session
from uftpd.session.store import is_replaceable, sweep_once
from uftpd.session.table import COMMANDS
from uftpd.session.transfers import DONE
from uftpd.session.usage import Usage

_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_DONE: Final = DONE.encode()
_STORED: Final = reply(150, "OK").encode() + _DONE
_NO_NAMES: Final = frozenset((b"", b".", b".."))
_A_MOMENT: Final = 2  # milliseconds in which a client that does not wait for our 150 has the next record on its way


class SmallFiles:
    """See the module. For the thread of a pipeline.

    Args:
        session: whose files they are.
        mode: its MODE U.
        answers: takes replies.
        usage: takes usage lines.
        before_waiting: sends what the client may be waiting for.
    """

    def __init__(
        self,
        session: Session,
        mode: RecordMode,
        answers: Answers,
        usage: Usage,
        *,
        before_waiting: Callable[[], None],
    ) -> None:
        self._session = session
        self._mode = mode
        self._answers = answers
        self._usage = usage
        self._before_waiting = before_waiting
        self._named: bytes | None = None  # the directory at hand, as the client names it
        self._path = b""  # what that means, with a slash behind
        self._folder: Folder | None = None
        self._apart = _NO_NAMES  # names in it that rules are about
        self._names_in_use = False  # whether a name in it was, so that others may be

    def verbs(self, connection: RecordConnection) -> tuple[str, ...]:
        """The commands that may go this way, as the session is now."""
        session, options = self._session, self._mode.options
        if options.compress or session.rate.rate or session.range != WHOLE_FILE or connection.is_broken():
            return ()
        if session.tree.filter.restricts:
            return ()
        verbs = [] if COMMANDS["RETR"].right > session.access else ["RETR"]
        if not (
            session.archive
            or session.tree.confined  # such a process may not be allowed to link a nameless file
            or session.durability != "rename"
            or COMMANDS["STOR"].right > session.access
        ):
            verbs.append("STOR")
        return tuple(verbs)

    def serve(self, lines: list[Line], connection: RecordConnection, meter: Meter) -> int:
        """Serve lines of one verb, of those in `verbs`, in order, up to one that is for the general way.

        Args:
            lines: not aborted when they were taken.
            connection: in use.
            meter: cancelled when no more is to be begun.

        Returns:
            How many are served. Of the next one nothing has been said or taken.

        Raises:
            ClientGone: nobody is left to answer.
        """
        one = self._retrieve if lines[0].verb == "RETR" else self._store
        served = 0
        try:
            for line in lines:
                if meter.cancelled or line.aborted or not one(line, connection):
                    break
                served += 1
                if connection.reader.broken or connection.writer.broken:
                    break
        finally:
            self._leave()
        return served

    # -- places -----------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Let go of the directory: the next run looks again where its name leads."""
        if self._folder is not None:
            self._folder.close()
            self._folder = None
        self._named = None

    def _enter(self, argument: bytes, *, write: bool) -> bytes | None:
        """Have the directory of `argument` open; the name in it, None if it is not for here."""
        if argument[:1].isspace() or argument[-1:].isspace():
            return None
        if self._session.pct and b"%" in argument:
            argument = pct_decode(argument)
        directory, slash, name = argument.rpartition(b"/")
        directory += slash
        if directory != self._named and not self._change_to(directory, write=write):
            return None
        return None if name in self._apart or b"\0" in name else name

    def _change_to(self, directory: bytes, *, write: bool) -> bool:
        self._leave()
        session = self._session
        tree = session.tree
        try:
            path = tree.resolve(directory, session.current)
            fd = tree.open_directory(path)
        except (Forbidden, OSError):
            return False
        self._folder = Folder(fd)
        self._named = directory
        self._path = path.rstrip(b"/") + b"/"
        self._apart = _NO_NAMES
        self._names_in_use = False
        if write:
            self._apart |= tree.protected_in(path, fd)
            sweep_once(session.swept, path, fd)
        return True

    # -- transfers --------------------------------------------------------------------------------------------------

    def _bound(self, line: Line) -> bytes:
        return binding(line.text, 0, None) if self._mode.options.crypt else b""

    def _retrieve(self, line: Line, connection: RecordConnection) -> bool:
        name = self._enter(line.argument, write=False)
        if name is None or self._folder is None:
            return False
        started = time.monotonic()
        writer, number = connection.writer, self._mode.number + 1
        flags = _READ | os.O_NOFOLLOW if self._session.tree.confined else _READ
        try:
            fd = os.open(name, flags, dir_fd=self._folder.directory)
            try:
                info = os.fstat(fd)
                size = info.st_size
                if size >= SMALL_FILE or not stat.S_ISREG(info.st_mode):
                    return False
                facts = format_kept(info.st_mtime_ns, stat.S_IMODE(info.st_mode))
                if not writer.put_file(number, self._bound(line), fd, size, facts):
                    return False
            finally:
                os.close(fd)
        except OSError:
            return False
        self._mode.number = number
        answers = self._answers
        answers.say(b"150 OK %d bytes available for reading.\r\n" % size)
        answers.say_when_sent(_DONE, LOST)
        self._usage.add("RETR", self._path + name, size, time.monotonic() - started, "ok", "", False)
        try:
            sent = writer.send_if_full()
        except StreamError:
            sent = True  # what is lost with the connection is said to be
        if sent:
            answers.release()
        return True

    def _store(self, line: Line, connection: RecordConnection) -> bool:
        name = self._enter(line.argument, write=True)
        if name is None or self._folder is None:
            return False
        started = time.monotonic()
        replace, mode = False, None
        if self._names_in_use and (present := self._present(name)) is not None:
            if not self._may_be_replaced(name, present):
                return False
            replace, mode = True, stat.S_IMODE(present.st_mode)
        reader, number = connection.reader, self._mode.number + 1
        bound = self._bound(line)
        taken = reader.take_file(number, bound)
        if taken is None:
            if not self._wait_a_moment(connection) or (taken := reader.take_file(number, bound)) is None:
                return False
            started = time.monotonic()
        content, facts = taken
        try:
            mtime_ns, permissions = parse_kept(facts) if facts else (None, None)
            self._folder.put(
                name,
                content,
                mtime_ns=mtime_ns,
                permissions=mode if permissions is None else permissions,
                replace=replace,
            )
        except FileExistsError:
            reader.give_back_file()
            if self._names_in_use:
                return False
            self._names_in_use = True  # the next ones are looked at first
            return self._store(line, connection)
        except (OSError, ProtocolError):
            reader.give_back_file()
            return False
        self._mode.number = number
        self._answers.release()
        self._answers.say(_STORED)
        self._usage.add(
            "STOR", self._path + name, len(content), time.monotonic() - started, "ok", "part", self._mode.options.digest
        )
        return True

    def _wait_a_moment(self, connection: RecordConnection) -> bool:
        """Whether more has come from a client that sends ahead of our replies, as it should."""
        try:
            if connection.reader.top_up():
                return True
            self._before_waiting()
            return not connection.is_broken() and connection.reader.top_up(_A_MOMENT)
        except (StreamError, OSError):
            return False

    def _present(self, name: bytes) -> os.stat_result | None:
        assert self._folder is not None  # noqa: S101 - entered before
        try:
            return os.stat(name, dir_fd=self._folder.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError:
            return None  # the attempt to make it will tell

    def _may_be_replaced(self, name: bytes, present: os.stat_result) -> bool:
        assert self._folder is not None  # noqa: S101 - entered before
        if not is_replaceable(present):
            return False
        try:
            # A file that may not be written may not be replaced either, though the directory would allow it.
            os.close(os.open(name, _WRITE, dir_fd=self._folder.directory))
        except OSError:
            return False
        return True

"""The front's child processes: started by way of the spawner, and listened to until they are gone.

What their messages mean is not known here; `uftpd.data.sessions` and `uftpd.data.copies` do.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from uftp.protocol.command_port import Purpose, TransferRequest
from uftpd.data import spawn_messages
from uftpd.data.spawn_messages import Exited, FromSpawner, Kill, Spawn
from uftpd.events import EventLog
from uftpd.session import messages
from uftpd.session.messages import (
    CopySettings,
    Failed,
    FromSession,
    KeyFileRequest,
    KeyFiles,
    ObjectSettings,
    Ready,
    SessionSettings,
    ToSession,
    report_pair,
)

_log = EventLog("session")

_START_SECONDS: Final = 10.0


class SessionRefused(Exception):
    """The process did not come to be; the message is for the client, behind `530 Not logged in: `.

    Attributes:
        code: the reply code, where it is no login.
    """

    def __init__(self, reason: str, code: int = 530) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a child is to do.

    Attributes:
        id: names the child.
        kind: of job.
        user: as whom.
        first: its settings: the first message it gets.
        purpose: which limit it counts towards.
        request: what it follows from; None for what no auth server asked for in so many words.
    """

    id: str
    kind: messages.Kind
    user: str
    first: SessionSettings | ObjectSettings | CopySettings | KeyFileRequest
    purpose: Purpose = Purpose.LOGIN
    request: TransferRequest | None = None


class Child:
    """One child process, as the front knows it."""

    def __init__(self, job: Job, report: trio.socket.SocketType) -> None:
        self.id = job.id
        self.kind = job.kind
        self.user = job.user
        self.request = job.request
        self.report = report
        self.outcome: Ready | Failed | KeyFiles | None = None
        self.decided = trio.Event()
        self.end_reason = "the session process ended"
        self.exited = trio.Event()

    @property
    def request_id(self) -> str:
        """Names the request in the logs of both servers."""
        return self.request.request_id if self.request is not None else ""

    def decide(self, outcome: Ready | Failed | KeyFiles) -> None:
        """The first word counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.decided.set()

    def tell(self, message: ToSession) -> None:
        """Send to the child; one that does not listen loses it."""
        try:
            self.report._sock.send(messages.encode(message), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # type: ignore[attr-defined]
        except OSError:
            _log("message not taken", level="warning", session=self.id)


async def _receive(report: trio.socket.SocketType) -> bytes:
    """The next message of a child, empty when there is none to come."""
    try:
        return await report.recv(messages.MAX_MESSAGE)
    except ConnectionResetError:
        # It ended with a message of ours unread, which the kernel tells before it hands over the child's last words.
        return await report.recv(messages.MAX_MESSAGE)


class Children:
    """See the module.

    Args:
        spawner: socket to it.
        on_message: takes each message of a child.
        on_end: told of each child that is gone, when it has been heard to its end.

    Attributes:
        nursery: to listen in; set while the front serves.
    """

    def __init__(
        self,
        spawner: socket.socket,
        on_message: Callable[[Child, FromSession], None],
        on_end: Callable[[Child], None],
    ) -> None:
        self.nursery: trio.Nursery | None = None
        self._spawner = trio.socket.from_stdlib_socket(spawner)
        self._spawner_lock = trio.Lock()
        self._by_id: dict[str, Child] = {}
        self._on_message = on_message
        self._on_end = on_end

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._by_id)

    def get(self, child_id: str) -> Child | None:
        """The child of this id."""
        return self._by_id.get(child_id)

    def all(self) -> list[Child]:
        """Those there are."""
        return list(self._by_id.values())

    # -- the spawner ------------------------------------------------------------------------------------------------

    async def next_word(self) -> FromSpawner | None:
        """What the spawner says next; None when it is gone."""
        try:
            data = await self._spawner.recv(spawn_messages.MAX_MESSAGE)
        except ConnectionResetError:  # it went without reading our last word
            return None
        return spawn_messages.decode_from_spawner(data) if data else None

    def exited(self, exited: Exited) -> Child | None:
        """The spawner's word of an end; the child, if it is still known."""
        child = self._by_id.get(exited.id)
        if child is not None:
            child.end_reason = exited.refused or child.end_reason
            child.exited.set()
        return child

    async def kill(self, child_id: str) -> None:
        """End a child at once."""
        await self._tell_spawner(Kill(id=child_id))

    async def _tell_spawner(self, message: Spawn | Kill, *sockets: socket.socket) -> None:
        fds = array.array("i", [s.fileno() for s in sockets])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if sockets else []
        async with self._spawner_lock:
            await self._spawner.sendmsg([spawn_messages.encode(message)], ancillary)

    # -- a child ----------------------------------------------------------------------------------------------------

    async def spawn(self, job: Job, *sockets: socket.socket) -> Child:
        """Have a process started for a job, and given `sockets`.

        Raises:
            SessionRefused: there will be none.
        """
        if self.nursery is None:
            raise SessionRefused("the server is starting")
        try:
            mine, theirs = report_pair()
        except OSError as error:
            raise SessionRefused(f"Cannot start a process: {error.strerror}") from error
        mine.send(messages.encode(job.first))
        child = Child(job, trio.socket.from_stdlib_socket(mine))
        self._by_id[job.id] = child  # first: the spawner's word of its end may come at once
        self.nursery.start_soon(self._listen, child)
        try:
            message = Spawn(id=job.id, kind=job.kind, user=job.user, purpose=job.purpose)
            await self._tell_spawner(message, *sockets, theirs)
        except BaseException:
            child.exited.set()  # there never was one
            raise
        finally:
            theirs.close()
        return child

    async def outcome(self, child: Child, seconds: float = _START_SECONDS) -> Ready | KeyFiles:
        """What a child says once it is settled; one that takes too long is killed.

        Raises:
            SessionRefused: it did not come to be.
        """
        with trio.move_on_after(seconds, shield=True):  # half-started sessions would be nobody's
            await child.decided.wait()
        if child.outcome is None:
            child.decide(Failed(reason="looking up the account took too long"))
            with trio.move_on_after(_START_SECONDS, shield=True):
                await self.kill(child.id)
        assert child.outcome is not None  # noqa: S101 - decided above
        if isinstance(child.outcome, Failed):
            raise SessionRefused(child.outcome.reason, child.outcome.code)
        return child.outcome

    async def _listen(self, child: Child) -> None:
        try:
            while data := await _receive(child.report):
                message = messages.decode_from_session(data)
                if isinstance(message, Ready | Failed | KeyFiles):
                    child.decide(message)
                else:
                    self._on_message(child, message)
        except OSError:
            pass  # the process is gone; the spawner tells how
        except (msgspec.MsgspecError, OutOfPlace) as error:
            _log("session broke its protocol", level="error", session=child.id, error=str(error))
            await self.kill(child.id)
        finally:
            child.report.close()
        # Only now: what it had to say, its outcome or a wish for a port, may be read after the word of its end.
        await child.exited.wait()
        child.decide(Failed(reason=child.end_reason))
        del self._by_id[child.id]
        self._on_end(child)


class OutOfPlace(Exception):
    """A message that a child of this kind must not send."""

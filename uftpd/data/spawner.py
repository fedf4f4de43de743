"""The spawner: the parent of all processes of a data node (DESIGN: data node, processes).

A plain poll loop in one thread, which forks: the front, and one child for each job the front asks for. It is the only
process that can change user, and it never holds a secret or a key, so that no child inherits one: what a session is
about goes from the front to the child directly. What it reads are short messages of its own front, and it checks
the user list and the session limits itself.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from uftp.protocol.command_port import Purpose
from uftpd.config.data import DataConfig, checked
from uftpd.config.toml import ConfigError, load
from uftpd.data import systemd
from uftpd.data.relay_processes import Relays
from uftpd.data.spawn_messages import (
    MAX_MESSAGE,
    DrainAll,
    Exited,
    FromSpawner,
    Inherited,
    Kill,
    Reload,
    Spawn,
    decode_from_front,
    encode,
)
from uftpd.events import EventLog, configure
from uftpd.session import child as session_child
from uftpd.session import messages as session_messages
from uftpd.session.privileges import UserPolicy

_log = EventLog("spawner")

_FRONT_RESTART_SECONDS: Final = 1.0  # a front that dies at once is not started in a tight loop
_GRACE_SECONDS: Final = 5.0  # after the drain deadline, before children are killed
_INHERITED_PER_MESSAGE: Final = 4  # account names have up to 256 characters, of four bytes at worst
_SPARE_RETRY_SECONDS: Final = 1.0  # after a fork that failed
# Kinds of children that a user has a limited number of, each with the descriptors it is given.
_COUNTED: Final = {"session": 2, "object": 2, "copy": 1}
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Spare:
    """A process forked ahead of its job."""

    pid: int
    pidfd: int
    channel: socket.socket


@dataclass(frozen=True, slots=True)
class Child:
    """A process at work for the front."""

    id: str
    user: str
    kind: str
    pid: int
    pidfd: int
    purpose: Purpose = Purpose.LOGIN


def user_policy(config: DataConfig) -> UserPolicy:
    """Whom this node serves; only root can change user."""
    users = config.users
    return UserPolicy(
        switch=os.geteuid() == 0,
        lowest_uid=users.lowest_uid,
        allow=frozenset(users.allow),
        deny=frozenset(users.deny),
        check_groups=users.check_groups,
    )


def inherited(children: Iterable[Child]) -> Iterator[Inherited]:
    """What a new front is to know of running children, in messages of a size it takes."""
    rest = deque(child for child in children if child.kind in _COUNTED)
    while rest:
        some = [rest.popleft() for _ in range(min(len(rest), _INHERITED_PER_MESSAGE))]
        yield Inherited(sessions={child.id: (child.user, child.purpose) for child in some})


class Spawner:
    """See the module.

    Args:
        config: of this node.
        config_path: read again on SIGHUP; None if there is no file.
        run_front: body of the front process; gets its end of the spawner socket.
        to_close: listeners, which session processes must not have. They are kept open here for the next front.
        ready: called once front and relays serve.
        run_relay: body of a relay process, which gets a descriptor to say on that it serves, and returns its exit code;
            None: there is no HTTPS.
    """

    def __init__(
        self,
        config: DataConfig,
        config_path: Path | None,
        run_front: Callable[[DataConfig, socket.socket, Callable[[], None]], None],
        to_close: Sequence[socket.socket],
        ready: Callable[[], None] | None = None,
        run_relay: Callable[[DataConfig, int], int] | None = None,
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._policy = user_policy(config)
        self._run_front = run_front
        self._listeners = to_close
        self._ready = ready
        self._run_relay = run_relay
        self._children: dict[int, Child] = {}  # by pidfd
        self._spares: deque[Spare] = deque()
        self._no_spares_until = 0.0
        self._front: tuple[int, int] | None = None  # pid, pidfd
        self._front_socket: socket.socket | None = None
        self._front_started = 0.0
        self._restart_at: float | None = None
        self._ready_pipe = -1
        self._served = False  # whether any front has come so far
        self._announced = False  # whether all has been there once that is needed
        self._to_front: deque[bytes] = deque()  # what it has not taken yet: at most a message a child
        self._deadline: float | None = None
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._relays = Relays(self._poll, self._start_relay)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until drained.

        Returns:
            Exit code: 0; 1 if sessions had to be killed, or if the front never came to serve.
        """
        # A session costs descriptors here too, more than the usual 1024.
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        _clean_environment()
        session_child.preload_name_services()
        session_child.rehearse()  # before our signal handlers: it has its own
        for number in (*_STOP_SIGNALS, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        self._poll.register(self._wakeup_read, select.POLLIN)
        gc.collect()
        gc.freeze()  # children never touch, and so never copy, what is there now
        self._start_front()
        self._relays.start(self._relay_count())
        killed = False
        while self._front is not None or self._children or self._relays or self._deadline is None:
            ready = self._poll.poll(0 if self._wants_spare() else self._timeout())
            for fd, events in ready:
                self._handle(fd, events)
            if not ready and self._wants_spare():  # only while nobody waits
                self._add_spare()
            now = time.monotonic()
            if self._restart_at is not None and now >= self._restart_at:
                self._restart_front()
            if self._relays.due is not None and now >= self._relays.due:
                self._relays.start(self._relay_count())
            if self._deadline is not None and now >= self._deadline:
                killed = self._kill_all() or killed
                self._deadline = now + _GRACE_SECONDS
        _log("stopped", killed=killed)
        return 1 if killed or not self._announced else 0

    def _timeout(self) -> float | None:
        times = [at for at in (self._restart_at, self._relays.due, self._deadline) if at is not None]
        return max(0.0, (min(times) - time.monotonic()) * 1000) if times else None

    def _handle(self, fd: int, events: int) -> None:
        if fd == self._wakeup_read:
            for number in os.read(fd, 64):
                self._signalled(number)
        elif self._front_socket is not None and fd == self._front_socket.fileno():
            if events & select.POLLOUT:
                self._send_to_front()
            if events & ~select.POLLOUT and self._front_socket is not None:
                self._take_message(self._front_socket)
        elif self._front is not None and fd == self._front[1]:
            self._front_died()
        elif fd == self._ready_pipe:
            self._front_ready()
        elif fd in self._children:
            self._child_exited(self._children[fd])
        elif self._relays.handle(fd):
            if self._relays.failed and not self._announced and self._deadline is None:
                self._deadline = time.monotonic()  # the certificate cannot be used: trying again will not help
                self._dismiss_spares()
            self._announce()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif self._deadline is None:
            _log("draining", seconds=self._config.limits.drain_seconds, sessions=len(self._children))
            systemd.notify("STOPPING=1")
            self._dismiss_spares()
            self._restart_at = None
            self._deadline = time.monotonic() + self._config.limits.drain_seconds + _GRACE_SECONDS
            for listener in self._listeners:
                listener.close()  # once the front has closed its own, clients are refused rather than kept waiting
            self._relays.retire()
            self._tell_front(DrainAll())
        else:
            self._deadline = time.monotonic()

    def _reload(self) -> None:
        if self._config_path is None:
            return
        try:
            config = checked(load(self._config_path, DataConfig), self._config_path)
        except ConfigError as error:
            _log("configuration not reloaded", level="error", reason=str(error))
            return
        configure(config.log.level, config.log.format)
        self._config = config
        self._policy = user_policy(config)
        self._dismiss_spares()  # they know the old policy
        self._tell_front(Reload())
        self._relays.renew(self._relay_count())
        _log("configuration reloaded")

    def _kill_all(self) -> bool:
        """Whether there was anything to kill."""
        for child in self._children.values():
            _log("child killed", level="warning", session=child.id, user=child.user)
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        self._relays.kill()
        if self._front is not None:
            signal.pidfd_send_signal(self._front[1], signal.SIGKILL)
        return bool(self._children)

    # -- the front --------------------------------------------------------------------------------------------------

    def _restart_front(self) -> None:
        self._restart_at = None
        try:
            self._start_front()
        except OSError as error:
            _log("front not started", level="error", reason=error.strerror)
            self._restart_at = time.monotonic() + _FRONT_RESTART_SECONDS

    def _start_front(self) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)

        def be_front() -> None:
            mine.close()
            os.close(ready_read)
            self._be_front(theirs, ready_write)

        try:
            pid, pidfd = self._fork_watched(be_front)
        except BaseException:
            mine.close()
            os.close(ready_read)
            raise
        finally:
            theirs.close()
            os.close(ready_write)
        self._front, self._front_socket, self._front_started = (pid, pidfd), mine, time.monotonic()
        self._ready_pipe = ready_read
        for fd in (mine.fileno(), pidfd, ready_read):
            self._poll.register(fd, select.POLLIN)
        for message in inherited(self._children.values()):
            self._tell_front(message)
        _log("front started", pid=pid)

    def _be_front(self, mine: socket.socket, ready_write: int) -> None:
        """The front process; never returns."""
        status = 70
        try:
            for fd in [*self._children, *self._relays.descriptors(), *(spare.pidfd for spare in self._spares)]:
                os.close(fd)
            for spare in self._spares:
                spare.channel.close()
            os.close(self._wakeup_read)
            os.close(self._wakeup_write)

            def say_ready() -> None:
                os.write(ready_write, b"1")
                os.close(ready_write)

            self._run_front(self._config, mine, say_ready)
            status = 0
        except ConfigError as error:
            _log("front failed", level="error", reason=str(error))
        except BaseException as error:
            _log("front failed", level="error", traceback="".join(traceback.format_exception(error)))
        finally:
            os._exit(status)

    def _front_ready(self) -> None:
        said_so = os.read(self._ready_pipe, 1)  # nothing, if the front ended before
        self._poll.unregister(self._ready_pipe)
        os.close(self._ready_pipe)
        self._ready_pipe = -1
        self._served = self._served or bool(said_so)
        self._announce()

    def _announce(self) -> None:
        """Say once that everything serves."""
        if self._announced or not self._served or not self._relays.ready:
            return
        self._announced = True
        if self._ready is not None:
            self._ready()
        systemd.notify("READY=1")

    def _front_died(self) -> None:
        assert self._front is not None  # noqa: S101 - its pidfd was polled
        pid, pidfd = self._front
        _, status = os.waitpid(pid, 0)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        if self._front_socket is not None:
            self._drop_front_socket(self._front_socket)
        self._front = None
        if self._deadline is None:
            _log("front died", level="error", status=status)
            if not self._served:
                self._deadline = time.monotonic()  # the configuration cannot be served: trying again will not help
                self._dismiss_spares()
                return
            self._restart_at = max(time.monotonic(), self._front_started + _FRONT_RESTART_SECONDS)

    def _drop_front_socket(self, front: socket.socket) -> None:
        self._poll.unregister(front.fileno())
        front.close()
        self._front_socket = None
        self._to_front.clear()

    def _tell_front(self, message: FromSpawner) -> None:
        if self._front_socket is not None:
            self._to_front.append(encode(message))
            self._send_to_front()

    def _send_to_front(self) -> None:
        """Send what it takes now: a front that hangs must not keep us from signals and exits."""
        front = self._front_socket
        if front is None:
            return
        try:
            while self._to_front:
                front.send(self._to_front[0], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
                self._to_front.popleft()
        except BlockingIOError:
            self._poll.modify(front.fileno(), select.POLLIN | select.POLLOUT)
            return
        except OSError:  # a front that is gone shows elsewhere
            self._to_front.clear()
        self._poll.modify(front.fileno(), select.POLLIN)

    def _take_message(self, front: socket.socket) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(front, MAX_MESSAGE, 2)
        except ConnectionResetError:  # it died with our messages unread
            data, fds = b"", []
        try:
            if not data:
                self._drop_front_socket(front)
                return
            match decode_from_front(data):
                case Spawn() as spawn:
                    self._spawn(spawn, fds)
                case Kill(id=wanted):
                    self._kill(wanted)
        except msgspec.MsgspecError as error:
            _log("front broke its protocol", level="error", error=str(error))
        finally:
            for fd in fds:
                os.close(fd)

    # -- relays -----------------------------------------------------------------------------------------------------

    def _relay_count(self) -> int:
        if self._run_relay is None:
            return 0
        return self._config.objects.relays or os.cpu_count() or 1

    def _start_relay(self, ready: int) -> tuple[int, int]:
        def be_relay() -> None:
            status = 70
            try:
                if self._run_relay is not None:
                    status = self._run_relay(self._config, ready)
            finally:
                os._exit(status)

        return self._fork_watched(be_relay)

    # -- children ---------------------------------------------------------------------------------------------------

    def _spawn(self, spawn: Spawn, fds: list[int]) -> None:
        if refused := self._refuses(spawn, fds):
            _log("child refused", level="warning", session=spawn.id, user=spawn.user, reason=refused)
            self._tell_front(Exited(id=spawn.id, refused=refused))
            return
        try:
            self._hand_out(spawn, fds)
        except OSError as error:
            _log("child not started", level="error", session=spawn.id, reason=error.strerror)
            self._tell_front(Exited(id=spawn.id, refused=f"Cannot start a process: {error.strerror}"))

    def _hand_out(self, spawn: Spawn, fds: list[int]) -> None:
        """Give the job to a spare, or to a process forked for it."""
        job = session_messages.encode(session_messages.Job(kind=spawn.kind, user=spawn.user))
        while True:
            spare = self._spares.popleft() if self._spares else None
            worker = spare or self._fork_child()
            with worker.channel:
                try:
                    socket.send_fds(worker.channel, [job], fds, socket.MSG_NOSIGNAL)
                except OSError:
                    worker.channel.close()  # should it still wait for its job
                    os.waitpid(worker.pid, 0)
                    os.close(worker.pidfd)
                    if spare is None:
                        raise
                    continue  # this spare has died; another one will do
            self._children[worker.pidfd] = Child(
                spawn.id, spawn.user, spawn.kind, worker.pid, worker.pidfd, spawn.purpose
            )
            self._poll.register(worker.pidfd, select.POLLIN)
            return

    def _refuses(self, spawn: Spawn, fds: list[int]) -> str | None:
        if len(fds) != _COUNTED.get(spawn.kind, 1):
            return "internal error"
        if self._deadline is not None:
            return "The server is shutting down"
        if reason := self._policy.refuses(spawn.user):
            return reason
        limits = self._config.limits
        account = (spawn.user, spawn.purpose)
        running = sum((c.user, c.purpose) == account for c in self._children.values() if c.kind in _COUNTED)
        if len(self._children) >= limits.sessions:
            return f"Too many sessions on this server - limit is {limits.sessions}"
        most = limits.per_user(spawn.purpose)
        if spawn.kind in _COUNTED and running >= most:
            return f"Too many active sessions for '{spawn.user}' - server limit is {most}"
        return None

    def _wants_spare(self) -> bool:
        busy = len(self._children) + len(self._spares)
        limits = self._config.limits
        if time.monotonic() < self._no_spares_until:
            return False
        return self._deadline is None and len(self._spares) < min(limits.spares, limits.sessions - busy)

    def _dismiss_spares(self) -> None:
        while self._spares:
            spare = self._spares.popleft()
            spare.channel.close()  # tells it that there is no job
            os.waitpid(spare.pid, 0)
            os.close(spare.pidfd)

    def _add_spare(self) -> None:
        try:
            self._spares.append(self._fork_child())
        except OSError as error:
            _log("no spare process", level="warning", reason=error.strerror)
            self._no_spares_until = time.monotonic() + _SPARE_RETRY_SECONDS

    def _fork_child(self) -> Spare:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid, pidfd = self._fork_watched(lambda: self._be_child(theirs.detach()))
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        return Spare(pid, pidfd, mine)

    def _be_child(self, channel: int) -> None:
        """A spare child; never returns."""
        status = 70
        try:
            session_child.run(channel, self._policy)
            status = 0
        except BaseException:
            status = 71  # the process has told the front what happened
        finally:
            os._exit(status)

    def _fork_watched(self, be_child: Callable[[], None]) -> tuple[int, int]:
        """Fork; `be_child` never returns in the child. Pid and pidfd of it.

        Raises:
            OSError: there is no child.
        """
        pid = self._fork()
        if pid == 0:
            be_child()
        try:
            return pid, os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)  # not waited for yet, so the pid is still its own
            os.waitpid(pid, 0)
            raise

    def _fork(self) -> int:
        if threading.active_count() != 1 or len(os.listdir("/proc/self/task")) != 1:
            raise RuntimeError("the spawner must have one thread")
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
        return pid

    def _child_exited(self, child: Child) -> None:
        ended, status = os.waitpid(child.pid, os.WNOHANG)
        if not ended:
            return  # the word was of another that had this descriptor before
        self._poll.unregister(child.pidfd)
        os.close(child.pidfd)
        del self._children[child.pidfd]
        if status:
            _log("child failed", level="warning", session=child.id, user=child.user, status=status)
        self._tell_front(Exited(id=child.id, status=status))

    def _kill(self, wanted: str) -> None:
        for child in self._children.values():
            if child.id == wanted:
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def _clean_environment() -> None:
    """Leave nothing to inherit but what processes of the service need."""
    keep = ("PATH", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "NOTIFY_SOCKET", "TMPDIR")
    for name in set(os.environ) - {*keep}:
        del os.environ[name]

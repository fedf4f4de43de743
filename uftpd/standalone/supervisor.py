"""The processes of a standalone server: started together, watched, and ended together, whatever ends one of them.

Each server is forked into a process group of its own, so that Ctrl-C at a terminal reaches only this process, which
then ends the others in order. If this process is killed, the kernel tells its children to stop. Grandchildren that
lose their parent come to this process, which does not end before all of them have.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from uftpd.config.toml import ConfigError
from uftpd.session.syscalls import die_with_parent

START_SECONDS = 30.0
STOP_SECONDS = 15.0  # longer than the servers' own drain time
KILL_SECONDS = 5.0

_PR_SET_CHILD_SUBREAPER = 36
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READY = b"R"

# What a server process does: it gets a function to call once it serves, and returns its exit code.
Body = Callable[[Callable[[], None]], int]


class StartFailed(Exception):
    """A server did not come up; the message is for the person who started it."""


@dataclass(slots=True)
class Server:
    """One server process.

    Attributes:
        name: for messages.
        body: what it runs.
        pid: 0 once it has ended.
        pipe: it writes a byte here when it is ready, or why it cannot be.
        go: it waits for a byte from here before it begins.
    """

    name: str
    body: Body
    pid: int = 0
    pipe: int = -1
    go: int = -1
    ready: bool = False
    said: bytes = b""


class Supervisor:
    """Runs some servers as one.

    Args:
        in_child: called in each new process first, to let go of what is not its business.
        log: descriptor that takes the standard error of the servers.
    """

    def __init__(self, in_child: Callable[[], None], log: int) -> None:
        self._in_child = in_child
        self._log = log
        self._servers: list[Server] = []
        self._stopping = False
        self._wakeup, self._wakeup_write = socket.socketpair()
        for end in (self._wakeup, self._wakeup_write):
            end.setblocking(False)

    def run(self, servers: Sequence[Server], prepare: Callable[[], None], when_ready: Callable[[], None]) -> int:
        """Start the servers, wait until all are ready, then until one ends or a signal comes.

        Args:
            servers: what to run.
            prepare: called when all have been forked, before any of them goes on: what is read or made here (passwords,
                keys) is in this process only.
            when_ready: called once all of them serve.

        Returns:
            The exit code: 0 if a signal ended it and all went well.

        Raises:
            StartFailed: a server did not come up, or ended on its own; the others have been ended.
            ConfigError: from `prepare`.
        """
        self._servers = list(servers)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        try:
            for server in self._servers:
                self._start(server)
            prepare()
            for server in self._servers:
                self._let_go_on(server)
            if self._wait_until_ready():
                when_ready()
                self._wait_for_the_end()
        finally:
            clean = self._stop_all()
            signal.set_wakeup_fd(-1)
        return 0 if clean else 1

    # -- starting -----------------------------------------------------------------------------------------------------

    def _start(self, server: Server) -> None:
        server.pipe, write = os.pipe2(os.O_CLOEXEC)
        wait_here, server.go = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # No signal may meet the child while it still has our handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        server.pid = os.fork()
        if server.pid == 0:
            self._be_server(server, parent, write, wait_here)
        with contextlib.suppress(OSError):
            os.setpgid(server.pid, server.pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(write)
        os.close(wait_here)

    def _let_go_on(self, server: Server) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died already; its other pipe says why
            os.write(server.go, _READY)
        os.close(server.go)
        server.go = -1

    def _be_server(self, server: Server, parent: int, write: int, wait_here: int) -> NoReturn:
        code = 70
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            die_with_parent(signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(code)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._wakeup.close()
            self._wakeup_write.close()
            for other in self._servers:
                for descriptor in (other.pipe, other.go):
                    if descriptor >= 0:
                        os.close(descriptor)
            with open(os.devnull, "rb") as nothing:
                os.dup2(nothing.fileno(), 0)
            os.dup2(self._log, 1)
            os.dup2(self._log, 2)
            os.close(self._log)
            self._in_child()
            if os.read(wait_here, 1) != _READY:
                os._exit(0)  # it was not to be
            os.close(wait_here)

            def ready() -> None:
                os.write(write, _READY)
                os.close(write)

            code = server.body(ready)
        except ConfigError as error:
            with contextlib.suppress(OSError):
                os.write(write, str(error).encode())
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException as error:
            traceback.print_exc()
            with contextlib.suppress(OSError):
                os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)

    def _wait_until_ready(self) -> bool:
        """Whether all came up; False if a signal told us to stop before."""
        deadline = time.monotonic() + START_SECONDS
        while waiting := [server for server in self._servers if not server.ready]:
            left = deadline - time.monotonic()
            if left <= 0:
                raise StartFailed(f"{waiting[0].name} did not become ready within {START_SECONDS:g} s")
            pipes = [server.pipe for server in waiting]
            readable, _, _ = select.select([self._wakeup.fileno(), *pipes], [], [], left)
            if self._wakeup.fileno() in readable and self._take_signals():
                return False
            for server in waiting:
                if server.pipe in readable:
                    self._hear(server)
        return True

    def _hear(self, server: Server) -> None:
        data = os.read(server.pipe, 4096)
        if data == _READY and not server.said:
            server.ready = True
            os.close(server.pipe)
            server.pipe = -1
        elif data:
            server.said += data
        else:
            reason = server.said.decode("utf-8", "replace") or "it ended without a word"
            raise StartFailed(f"{server.name} could not be started: {reason}")

    # -- running and ending -------------------------------------------------------------------------------------------

    def _wait_for_the_end(self) -> None:
        while True:
            select.select([self._wakeup], [], [])
            if self._take_signals():
                return
            ended = [server for server in self._servers if not server.pid]
            if ended:
                raise StartFailed(f"{ended[0].name} ended unexpectedly, so everything has been stopped")

    def _take_signals(self) -> bool:
        """Whether one of them tells us to stop; children that have ended are noted."""
        numbers: bytes = b""
        with contextlib.suppress(BlockingIOError):
            numbers = self._wakeup.recv(4096)
        self._reap()
        return any(number in _STOP_SIGNALS for number in numbers)

    def _reap(self) -> bool:
        """Collect what has ended; whether any child, own or inherited, is left."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            for server in self._servers:
                if server.pid == pid:
                    server.pid = 0

    def _stop_all(self) -> bool:
        """End everything below us: politely, then by force. Returns whether no force was needed."""
        for server in self._servers:
            for descriptor in (server.pipe, server.go):
                if descriptor >= 0:
                    os.close(descriptor)
            server.pipe = server.go = -1
            if server.pid:
                os.kill(server.pid, signal.SIGTERM)
        if self._wait_for_children(STOP_SECONDS):
            return True
        for pid in _descendants():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._wait_for_children(KILL_SECONDS)
        return False

    def _wait_for_children(self, seconds: float) -> bool:
        """Whether all ended in time; a second stop signal means that time is up."""
        deadline = time.monotonic() + seconds
        while self._reap():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            readable, _, _ = select.select([self._wakeup], [], [], left)
            if readable and self._take_signals():
                return False
        return True


def _descendants() -> list[int]:
    """All processes below this one, parents before their children."""
    found: list[int] = []
    queue = [os.getpid()]
    while queue:
        pid = queue.pop()
        try:
            with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
                children = [int(child) for child in file.read().split()]
        except OSError:
            continue
        found += children
        queue += children
    return found

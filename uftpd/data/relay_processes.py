"""The spawner's books of relays: how many there are, which of them are new, which have been told to end.

A relay reads the key with the rights the node was started with, and gives these up; so a new certificate comes with new
relays. They take the place of the others when all of them serve; if they cannot, the others stay.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from uftpd.events import EventLog

_log = EventLog("spawner")

_RESTART_SECONDS: Final = 1.0  # relays that die at once are not started in a tight loop


@dataclass(slots=True)
class _Relay:
    """A process.

    Attributes:
        ready_pipe: brings a byte when it serves; -1 after that, or if it ended without.
        serves: whether it has said so.
        generation: grows with each reload.
        retiring: told to end with its connections.
    """

    pid: int
    pidfd: int
    ready_pipe: int
    generation: int
    serves: bool = False
    retiring: bool = False


class Relays:
    """See the module.

    Args:
        poll: of the spawner; ours are registered there.
        fork: starts a relay that says on the descriptor it gets that it serves; its pid and pidfd.

    Attributes:
        due: when to call `start` again, on the monotonic clock; None: there is no need.
        failed: whether one ended before it served, other than after a reload.
    """

    def __init__(self, poll: select.poll, fork: Callable[[int], tuple[int, int]]) -> None:
        self.due: float | None = None
        self.failed = False
        self._poll = poll
        self._fork = fork
        self._relays: dict[int, _Relay] = {}  # by pidfd
        self._generation = 0
        self._newest = 0
        self._wanted = 0

    def __len__(self) -> int:
        return len(self._relays)

    @property
    def ready(self) -> bool:
        """Whether all that are meant to be there serve."""
        present = self._present()
        return len(present) >= self._wanted and all(relay.serves for relay in present)

    def descriptors(self) -> Iterator[int]:
        """What other processes must not keep open."""
        for relay in self._relays.values():
            yield relay.pidfd
            if relay.ready_pipe >= 0:
                yield relay.ready_pipe

    def start(self, wanted: int) -> None:
        """Start as many as are missing."""
        self.due = None
        self._wanted = wanted
        try:
            for _ in range(wanted - len(self._present())):
                self._start_one()
        except OSError as error:
            _log("relay not started", level="error", reason=error.strerror)
            self.due = time.monotonic() + _RESTART_SECONDS

    def renew(self, wanted: int) -> None:
        """Start others in place of those there are, which go on until all the new ones serve."""
        self._newest += 1  # never one that some relay still has
        self._generation = self._newest
        self.start(wanted)

    def retire(self) -> None:
        """Have all of them end with their connections."""
        self.due = None
        self._wanted = 0
        for relay in self._relays.values():
            self._retire(relay)

    def kill(self) -> None:
        """End all of them now."""
        for relay in self._relays.values():
            signal.pidfd_send_signal(relay.pidfd, signal.SIGKILL)

    def handle(self, fd: int) -> bool:
        """Take what the poll told of a descriptor; whether it is one of ours."""
        relay = self._relays.get(fd)
        if relay is not None:
            self._ended(relay)
            return True
        for relay in self._relays.values():
            if fd == relay.ready_pipe:
                self._heard(relay)
                return True
        return False

    def _present(self) -> list[_Relay]:
        return [r for r in self._relays.values() if r.generation == self._generation and not r.retiring]

    def _start_one(self) -> None:
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        try:
            pid, pidfd = self._fork(ready_write)
        except BaseException:
            os.close(ready_read)
            raise
        finally:
            os.close(ready_write)
        self._relays[pidfd] = _Relay(pid, pidfd, ready_read, self._generation)
        for fd in (pidfd, ready_read):
            self._poll.register(fd, select.POLLIN)

    def _heard(self, relay: _Relay) -> None:
        relay.serves = bool(os.read(relay.ready_pipe, 1))  # nothing, if it ended before: its pidfd tells the rest
        self._close_pipe(relay)
        if relay.serves and self.ready:
            for other in self._relays.values():
                if other.generation != self._generation:
                    self._retire(other)

    def _close_pipe(self, relay: _Relay) -> None:
        self._poll.unregister(relay.ready_pipe)
        os.close(relay.ready_pipe)
        relay.ready_pipe = -1

    def _retire(self, relay: _Relay) -> None:
        if not relay.retiring:
            relay.retiring = True
            signal.pidfd_send_signal(relay.pidfd, signal.SIGTERM)

    def _ended(self, relay: _Relay) -> None:
        ended, status = os.waitpid(relay.pid, os.WNOHANG)
        if not ended:
            return  # the word was of another that had this descriptor before
        if relay.ready_pipe >= 0:
            self._close_pipe(relay)
        self._poll.unregister(relay.pidfd)
        os.close(relay.pidfd)
        del self._relays[relay.pidfd]
        if relay.retiring:
            return
        _log("relay died", level="error", status=status)
        there = [other for other in self._relays.values() if other.serves and not other.retiring]
        others = [other for other in there if other.generation < relay.generation]
        if relay.serves or not others:
            self.failed = self.failed or not relay.serves
            self.due = time.monotonic() + _RESTART_SECONDS
            return
        # What the reload brought cannot be used: the old ones stay, and are the present generation again.
        _log("TLS of the object server stays as it was", level="warning")
        for new in self._present():
            self._retire(new)
        self._generation = max(other.generation for other in others)

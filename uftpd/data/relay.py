"""TLS relays: processes that end HTTPS for the object server, hold its key, and have no user's rights.

A relay accepts, shakes hands, and gives the front one end of a socket pair, which is to it what a plain connection is;
from then on it copies between the two. It does not look at what it copies. Several of them accept from the same
listeners, so that all processors encrypt. Each is one thread with an epoll loop and takes a bounded turn with each
connection: what a slow client does not take is at most one block here, and waits in its object server beyond that.

A relay is not told of a new certificate: the spawner starts others, and has the old ones end when their connections
do (SIGTERM).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from uftp.streams import enable_keepalive
from uftpd.config.data import DataConfig, Objects
from uftpd.config.toml import ConfigError
from uftpd.data.certificates import load_pair
from uftpd.data.rights import become_service_user
from uftpd.events import EventLog
from uftpd.session import object_messages, syscalls
from uftpd.session.object_messages import Connection

_log = EventLog("relay")

_BLOCK: Final = 256 * 1024  # bytes taken from an object server at once
_TURN: Final = 1024 * 1024  # bytes a connection may move before the next one is looked at
_RECORD: Final = 16 * 1024
_PAIR_BUFFER: Final = 1024 * 1024
_LINGER_SECONDS: Final = 2.0
_SWEEP_SECONDS: Final = 0.5
_PAUSE_SECONDS: Final = 1.0  # without accepting, when there are no descriptors
_NOTHING: Final = memoryview(b"")


def tls_context(objects: Objects) -> ssl.SSLContext:
    """TLS for browsers: 1.2 and 1.3, resumed by tickets, HTTP/1.1 only.

    Raises:
        ConfigError: certificate or key are missing or do not fit.
    """
    if objects.certificate is None or objects.key is None:
        raise ConfigError("objects.certificate, objects.key: required for objects.listen_tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    load_pair(context, objects.certificate, objects.key)
    return context


def run(
    config: DataConfig, listeners: Sequence[socket.socket], channel: socket.socket, ready: int, spawner: int
) -> None:
    """Be a relay, until told to end or the spawner is gone.

    Args:
        config: of the node.
        listeners: for HTTPS.
        channel: to the front, whichever it is; shared with the other relays.
        ready: descriptor that takes a byte when this one serves.
        spawner: process id of the parent.

    Raises:
        ConfigError: the certificate cannot be used.
    """
    context = tls_context(config.objects)  # with the rights the node was started with: the key is nobody else's
    _close_all_but(*(listener.fileno() for listener in listeners), channel.fileno(), ready)
    become_service_user(config)
    syscalls.die_with_parent(signal.SIGTERM)  # a change of user clears it
    if os.getppid() != spawner:
        return
    relay = Relay(config, listeners, channel, context)
    os.write(ready, b"1")
    os.close(ready)
    relay.run()


def _close_all_but(*kept: int) -> None:
    previous = 2  # the log goes to standard error
    for fd in sorted({*kept, os.sysconf("SC_OPEN_MAX")}):
        os.closerange(previous + 1, fd)
        previous = fd


class _Joint:
    """A client's TLS connection, and the plain one it is joined to once hands are shaken.

    Attributes:
        out: taken from the object server and not yet by the client.
        inward: the other way round.
        deadline: when it ends if nothing moves.
    """

    __slots__ = ("deadline", "inward", "lingers", "out", "out_ended", "peer", "plain", "tls", "wants_write", "watched")

    def __init__(self, tls: ssl.SSLSocket, peer: str, deadline: float) -> None:
        self.tls = tls
        self.plain: socket.socket | None = None
        self.peer = peer
        self.deadline = deadline
        self.out = _NOTHING
        self.inward = b""
        self.out_ended = False
        self.lingers = False
        self.wants_write = False
        self.watched: dict[int, int] = {}


class _Over(Exception):
    """This connection has come to its end."""


class Relay:
    """See the module.

    Args:
        config: limits and times.
        listeners: for HTTPS.
        channel: to the front.
        context: certificate and key.
    """

    def __init__(
        self, config: DataConfig, listeners: Sequence[socket.socket], channel: socket.socket, context: ssl.SSLContext
    ) -> None:
        self._objects = config.objects
        self._limits = config.limits
        # The object server, which has a limit of its own, shall be the one that says so in the log.
        self._stall_seconds = 1.25 * config.objects.stall_seconds + 1
        self._listeners = {listener.fileno(): listener for listener in listeners}
        for listener in listeners:
            listener.setblocking(False)  # another relay may be quicker
        self._accepting: set[int] = set()
        self._channel = channel
        self._context = context
        self._epoll = select.epoll()
        self._joints: dict[int, _Joint] = {}  # by both of its descriptors
        self._all: set[_Joint] = set()
        self._greeted: Counter[str] = Counter()  # handshakes under way, by address
        self._block = bytearray(_BLOCK)
        self._paused_until = 0.0
        self._stopping = False
        self._swept = time.monotonic()

    def run(self) -> None:
        """Relay until SIGTERM has come and all connections have ended."""
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGTERM, self._stop)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        self._epoll.register(wakeup_read, select.EPOLLIN)
        while self._all or not self._stopping:
            self._watch_listeners()
            for fd, _ in self._epoll.poll(_SWEEP_SECONDS):
                if fd == wakeup_read:
                    os.read(wakeup_read, 64)
                elif fd in self._listeners:
                    self._accept(self._listeners[fd])
                elif (joint := self._joints.get(fd)) is not None:
                    self._serve(joint)
            if time.monotonic() - self._swept >= _SWEEP_SECONDS:
                self._sweep()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _sweep(self) -> None:
        self._swept = now = time.monotonic()
        # A wake-up that went to a relay which then stopped accepting reaches nobody else.
        for fd in list(self._accepting):
            self._accept(self._listeners[fd])
        for joint in list(self._all):
            if now >= joint.deadline or (self._stopping and joint.plain is None):
                self._end(joint)

    # -- new connections ----------------------------------------------------------------------------------------------

    def _watch_listeners(self) -> None:
        """Accept, or do not: it depends on how many connections there are, and on whether we shall end."""
        full = len(self._all) >= self._objects.relay_connections or sum(self._greeted.values()) >= self._limits.unproven
        wanted = set() if self._stopping or full or time.monotonic() < self._paused_until else set(self._listeners)
        for fd in self._accepting - wanted:
            self._epoll.unregister(fd)
        for fd in wanted - self._accepting:
            # Exclusive, and one connection a turn: so those that come together spread over the relays.
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._accepting = wanted
        if self._stopping and self._listeners:
            for listener in self._listeners.values():
                listener.close()
            self._listeners = {}

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            _log("connection not accepted", level="warning", reason=error.strerror)
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            return
        peer = address[0].partition("%")[0]
        if self._greeted[peer] >= self._limits.unproven_per_address:
            connection.close()
            return
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            enable_keepalive(connection)
            tls = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError:
            connection.close()
            return
        joint = _Joint(tls, peer, time.monotonic() + self._objects.head_seconds)
        self._greeted[peer] += 1
        self._all.add(joint)
        self._joints[tls.fileno()] = joint
        self._serve(joint)

    def _greet(self, joint: _Joint) -> None:
        """Go on with the handshake; when it is done, tell the front of the connection."""
        joint.tls.do_handshake()
        mine, theirs = socket.socketpair()
        with theirs:
            for end in (mine, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PAIR_BUFFER)
                end.setblocking(False)
            joint.plain = mine
            self._joints[mine.fileno()] = joint
            self._no_longer_greets(joint)
            joint.deadline = float("inf")
            try:
                object_messages.send(self._channel, Connection(peer=joint.peer, received=b""), theirs)
            except OSError as error:
                _log("connection not taken", level="warning", peer=joint.peer, reason=error.strerror)
                raise _Over from error

    def _no_longer_greets(self, joint: _Joint) -> None:
        self._greeted[joint.peer] -= 1
        if self._greeted[joint.peer] <= 0:
            del self._greeted[joint.peer]

    # -- moving -------------------------------------------------------------------------------------------------------

    def _serve(self, joint: _Joint) -> None:
        """A turn with one connection."""
        joint.wants_write = False
        try:
            if joint.plain is None:
                self._greet(joint)
            if joint.plain is not None:
                self._move_out(joint, joint.plain)
                self._move_in(joint, joint.plain)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            joint.wants_write = True
        except (OSError, _Over):
            self._end(joint)
            return
        self._watch(joint)

    def _move_out(self, joint: _Joint, plain: socket.socket) -> None:
        """From the object server to the client."""
        left = _TURN
        try:
            while left > 0 and not joint.out_ended:
                if not joint.out:
                    count = plain.recv_into(self._block)
                    joint.out_ended = count == 0
                    joint.out = memoryview(self._block)[:count]
                while joint.out:
                    sent = joint.tls.send(joint.out)  # a record a call
                    joint.out = joint.out[sent:]
                    left -= sent
        except BlockingIOError:
            pass  # the object server has nothing more now
        except ssl.SSLWantWriteError:
            joint.wants_write = True
        finally:
            moved = left < _TURN
            if joint.out and joint.out.obj is self._block:
                joint.out = memoryview(bytes(joint.out))  # the block is for all
            if not joint.lingers:
                if not joint.out:
                    joint.deadline = float("inf")  # it waits for the object server, which has limits of its own
                elif moved or joint.deadline == float("inf"):
                    joint.deadline = time.monotonic() + self._stall_seconds
        if joint.out_ended and not joint.out and not joint.lingers:
            joint.lingers = True
            joint.deadline = time.monotonic() + _LINGER_SECONDS
            with contextlib.suppress(ssl.SSLWantReadError):
                joint.tls.unwrap()  # says that this is the end; the client's own word of it is not waited for
            socket.socket.shutdown(joint.tls, socket.SHUT_WR)

    def _move_in(self, joint: _Joint, plain: socket.socket) -> None:
        """From the client to the object server: requests."""
        for _ in range(_TURN // _RECORD):
            if joint.inward:
                try:
                    joint.inward = joint.inward[plain.send(joint.inward, socket.MSG_NOSIGNAL) :]
                except BlockingIOError:
                    return
                if joint.inward:
                    return
            data = joint.tls.recv(_RECORD)
            if not data:
                raise _Over  # a client that has gone wants no answer
            if not joint.lingers:
                joint.inward = data

    def _watch(self, joint: _Joint) -> None:
        """Wait for what this connection can go on with."""
        tls = 0 if joint.inward else select.EPOLLIN
        if joint.out or joint.wants_write:
            tls |= select.EPOLLOUT
        self._wait(joint, joint.tls.fileno(), tls)
        if joint.plain is not None:
            plain = 0 if joint.out or joint.out_ended else select.EPOLLIN
            if joint.inward:
                plain |= select.EPOLLOUT
            self._wait(joint, joint.plain.fileno(), plain)

    def _wait(self, joint: _Joint, fd: int, events: int) -> None:
        # Without any event the kernel still tells of errors and hang-ups, again and again.
        now = joint.watched.get(fd, 0)
        if now == events:
            return
        if not events:
            self._epoll.unregister(fd)
        elif now:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        joint.watched[fd] = events

    def _end(self, joint: _Joint) -> None:
        self._all.discard(joint)
        if joint.plain is None:
            self._no_longer_greets(joint)
        for connection in (joint.tls, joint.plain):
            if connection is not None:
                del self._joints[connection.fileno()]
                connection.close()  # and so out of the epoll set


def be_relay(body: Callable[[], None]) -> int:
    """Run `body`, a relay; the exit code. What keeps it from running is logged."""
    try:
        body()
    except ConfigError as error:
        _log("relay failed", level="error", reason=str(error))
        return 78
    except Exception as error:
        _log("relay failed", level="error", error=repr(error))
        return 70
    return 0

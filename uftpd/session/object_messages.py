"""What front and object server say to each other over the channel of connections, beside the report socket.

One SOCK_SEQPACKET message each, of at most `MAX_HANDOVER`. The front hands over connections; the object server hands
back one whose next request is for another object, and says when it has nothing to do. The front closes the channel
when it has no more for it: what is queued then is served still.
"""

from __future__ import annotations

import array
import socket
from typing import Final

import msgspec

MAX_HANDOVER: Final = 64 * 1024  # a head, and what one receive may bring behind it
_MAX_FDS: Final = 1


class Connection(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A connection, whose socket travels with this.

    Attributes:
        peer: address of the client.
        received: bytes of it that have been read and not been served: a whole head first.
    """

    peer: str
    received: bytes


class Idle(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """No connection is left: if the front has none either, this process ends."""


Handover = Connection | Idle

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Handover] = msgspec.msgpack.Decoder(Handover)


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """A channel: the front's end and the object server's, neither of them blocking."""
    front, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (front, server):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_HANDOVER)
        end.setblocking(False)
    return front, server


def send(channel: socket.socket, message: Handover, connection: socket.socket | None = None) -> None:
    """Send without waiting.

    Raises:
        BlockingIOError: the other end is behind.
        OSError: it is gone.
    """
    fds = array.array("i", [connection.fileno()] if connection is not None else [])
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if connection is not None else []
    channel.sendmsg([_encoder.encode(message)], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(channel: socket.socket) -> tuple[Handover | None, socket.socket | None]:
    """The next message, with its connection; None at the end of the channel.

    Raises:
        BlockingIOError: there is none yet.
        OSError: the channel is broken.
        msgspec.MsgspecError: not in the table.
    """
    data, fds, _, _ = socket.recv_fds(channel, MAX_HANDOVER, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
    connection = socket.socket(fileno=fds[0]) if fds else None
    try:
        message = _decoder.decode(data) if data else None
        if isinstance(message, Connection) != (connection is not None):
            raise msgspec.ValidationError("a connection and its socket go together")
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return message, connection

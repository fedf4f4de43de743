"""What front and spawner may say to each other: one SOCK_SEQPACKET message each, with descriptors where noted.

The spawner reads nothing else, and these are small: it never sees a secret, a key, a path or a byte of a client.
"""

from __future__ import annotations

from typing import Final

import msgspec

from uftp.protocol.command_port import Purpose
from uftpd.session.messages import Kind

MAX_MESSAGE: Final = 8192


class _Message(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    pass


class Spawn(_Message, frozen=True):
    """Fork a child for one job of one user. Descriptors: control connection (of sessions) or channel of
    connections (of object servers), of copies neither; report socket."""

    id: str
    kind: Kind
    user: str
    purpose: Purpose = Purpose.LOGIN


class Kill(_Message, frozen=True):
    """End a child at once."""

    id: str


class Exited(_Message, frozen=True):
    """A child is gone, or there never was one: `refused` says why."""

    id: str
    status: int = 0
    refused: str = ""


class Inherited(_Message, frozen=True):
    """To a front that replaces a dead one: sessions, object servers and copies that still run, by id, with their users
    and what they are for.
    """

    sessions: dict[str, tuple[str, Purpose]]


class DrainAll(_Message, frozen=True):
    """Take no more logins, let sessions drain, and exit."""


class Reload(_Message, frozen=True):
    """Read the configuration again."""


FromFront = Spawn | Kill
FromSpawner = Exited | Inherited | DrainAll | Reload

_encoder = msgspec.msgpack.Encoder()
_from_front: msgspec.msgpack.Decoder[FromFront] = msgspec.msgpack.Decoder(FromFront)
_from_spawner: msgspec.msgpack.Decoder[FromSpawner] = msgspec.msgpack.Decoder(FromSpawner)


def encode(message: FromFront | FromSpawner) -> bytes:
    """The bytes of a message."""
    return _encoder.encode(message)


def decode_from_front(data: bytes) -> FromFront:
    """Read the front's message.

    Raises:
        msgspec.MsgspecError: not in the table.
    """
    return _from_front.decode(data)


def decode_from_spawner(data: bytes) -> FromSpawner:
    """Read the spawner's message.

    Raises:
        msgspec.MsgspecError: not in the table.
    """
    return _from_spawner.decode(data)

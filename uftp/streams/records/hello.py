"""The client's first bytes on a data connection in MODE U."""

from __future__ import annotations

import secrets
import socket

from uftp.protocol.record_mode import NONCE_BYTES, ConnectionKeys, derive_keys, make_hello
from uftp.streams._meter import Meter
from uftp.streams.pump import send_bytes


def say_hello(connection: socket.socket, session_key: bytes, salt: bytes) -> ConnectionKeys:
    """Prove on a new data connection that it is this session's.

    Args:
        connection: connected and blocking.
        session_key: as carried in the transfer request, decoded; empty without CRYPT.
        salt: of the last reply to `MODE U`.

    Returns:
        The keys of the connection, for `RecordWriter` and `RecordReader`. Without CRYPT they are not used.

    Raises:
        StreamError: the connection, see `uftp.streams.pump`.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    send_bytes(make_hello(session_key, salt, nonce), connection, Meter())
    return derive_keys(session_key, salt, nonce)

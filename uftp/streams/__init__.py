"""Moves bytes between files and sockets: the pumps, digests and part files. One engine for client and server."""

from uftp.streams._meter import Meter, RateLimit
from uftp.streams.digest import Digest, hash_file, new_digest
from uftp.streams.flow import Incoming, Outgoing, PlainIncoming, PlainOutgoing
from uftp.streams.link import NO_LAYERS, Layers, Link
from uftp.streams.partfile import Durability, PartFile, sweep_leftovers
from uftp.streams.pump import (
    BLOCK,
    Cancelled,
    ConnectionBroken,
    Garbled,
    SourceEnded,
    Stalled,
    StreamError,
    enable_keepalive,
    finish_sending,
    prepare,
    receive_bytes,
    receive_chunks,
    receive_file,
    receive_nowhere,
    send_bytes,
    send_file,
)

__all__ = [
    "BLOCK",
    "NO_LAYERS",
    "Cancelled",
    "ConnectionBroken",
    "Digest",
    "Durability",
    "Garbled",
    "Incoming",
    "Layers",
    "Link",
    "Meter",
    "Outgoing",
    "PartFile",
    "PlainIncoming",
    "PlainOutgoing",
    "RateLimit",
    "SourceEnded",
    "Stalled",
    "StreamError",
    "enable_keepalive",
    "finish_sending",
    "hash_file",
    "new_digest",
    "prepare",
    "receive_bytes",
    "receive_chunks",
    "receive_file",
    "receive_nowhere",
    "send_bytes",
    "send_file",
    "sweep_leftovers",
]

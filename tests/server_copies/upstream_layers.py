"""What data connections of servers without MODE U carry: frames of several streams, gzip, ciphers (DATA-PLANE 6 to 8).

Whole payloads at once, for peers in tests. Senders may leave streams unfinished, as upstream does; readers take what
upstream takes.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass

from uftp.protocol.jparss import HEADER_BYTES, MAX_BLOCK, chunk_lengths, pack_header
from uftp.protocol.legacy_ciphers import Decryptor, Encryptor, padding_length

_BLOCKS = {"AES": 16, "BLOWFISH": 8}


@dataclass(frozen=True)
class Layers:
    """What all data connections of a session carry.

    Attributes:
        compress: gzip, a stream of its own on each connection.
        cipher: AES or BLOWFISH; empty: none.
        key: for it.
    """

    compress: bool = False
    cipher: str = ""
    key: bytes = b""

    def wires(self, payload: bytes, streams: int, *, finish: bool) -> list[bytes]:
        """The bytes for each of `streams` connections.

        Args:
            payload: the file.
            streams: without frames if 1.
            finish: end gzip and cipher as their formats want it; else what they hold back never comes.
        """
        parts = _frames(payload, streams) if streams > 1 else [[payload] if payload else []]
        return [self._wire(part, flush=streams > 1, finish=finish) for part in parts]

    def _wire(self, chunks: list[bytes], *, flush: bool, finish: bool) -> bytes:
        data = b"".join(chunks)
        if self.compress:
            packer = zlib.compressobj(wbits=31)
            packed = [packer.compress(chunk) + (packer.flush(zlib.Z_SYNC_FLUSH) if flush else b"") for chunk in chunks]
            data = b"".join(packed) + (packer.flush() if finish else b"")
        if not self.cipher:
            return data
        encryptor = Encryptor(self.cipher, self.key)
        return encryptor.update(data) + (encryptor.finish() if finish else b"")

    def payload(self, wires: list[bytes]) -> bytes:
        """What a reader has of such connections; ends that are missing are not missed."""
        opened = [self._opened(wire, padded=len(wires) == 1) for wire in wires]
        return opened[0] if len(opened) == 1 else _unframed(opened)

    def _opened(self, wire: bytes, *, padded: bool) -> bytes:
        if self.cipher and wire:
            size = _BLOCKS[self.cipher]
            wire = Decryptor(self.cipher, self.key).update(wire[: len(wire) // size * size])
            if padded and not self.compress and wire:
                wire = wire[: -padding_length(wire[-size:], size)]
        return zlib.decompressobj(wbits=31).decompress(wire) if self.compress and wire else wire


def is_whole_gzip(wire: bytes) -> bool:
    """Whether it ends with its trailer."""
    try:
        gzip.decompress(wire)
    except EOFError:
        return False
    return True


def _frames(payload: bytes, streams: int) -> list[list[bytes]]:
    wires: list[list[bytes]] = [[] for _ in range(streams)]
    for sequence, start in enumerate(range(0, len(payload), MAX_BLOCK)):
        block = payload[start : start + MAX_BLOCK]
        at = 0
        for stream, length in enumerate(chunk_lengths(len(block), streams)):
            wires[stream].append(pack_header(stream, sequence, len(block), length) + block[at : at + length])
            at += length
    return wires


def _unframed(wires: list[bytes]) -> bytes:
    found = []
    places = [0] * len(wires)
    while all(place + HEADER_BYTES <= len(wire) for place, wire in zip(places, wires, strict=True)):
        for stream, wire in enumerate(wires):
            magic, number, _, _, length = struct.unpack_from(">HHIII", wire, places[stream])
            if (magic, number) != (0xCEBF, stream):
                raise ValueError(f"stream {stream}: no header at {places[stream]}")
            start = places[stream] + HEADER_BYTES
            found.append(wire[start : start + length])
            places[stream] = start + length
    return b"".join(found)

"""What the object server answers to a request for a file, sans I/O: headers, and which bytes of the file go where.

The headers are such that a browser stores the file and never shows it as a page of ours: it is somebody's upload.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import secrets
import urllib.parse
from dataclasses import dataclass
from typing import Final

from uftp.protocol.http_ranges import Representation, content_range, decide, format_date
from uftpd.session.object_request import ObjectRequest, status_line

# Not the system's table: a process that is confined to its object cannot read it.
_TYPES: Final = mimetypes.MimeTypes(filenames=())
_PACKED: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_SAFETY: Final = (
    "X-Content-Type-Options: nosniff\r\n"
    "Content-Security-Policy: default-src 'none'; sandbox\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Cache-Control: private\r\n"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the file, and what is sent in front of them."""

    before: bytes
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: of it.
        pieces: what to send in this order; the head of the answer is in front of the first.
        after: sent last.
    """

    status: int
    pieces: tuple[Piece, ...]
    after: bytes = b""

    @property
    def length(self) -> int:
        """Bytes of the file that go out."""
        return sum(piece.length for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class ServedFile:
    """A file as it is offered.

    Attributes:
        path: where it is, for the log.
        kind: media type.
        disposition: the value of Content-Disposition.
    """

    path: bytes
    kind: str
    disposition: str

    @classmethod
    def at(cls, path: bytes) -> ServedFile:
        """The file at an absolute path, whose last step may be any bytes."""
        name = path.rpartition(b"/")[2]
        return cls(path, media_type(name), content_disposition(name))


def media_type(name: bytes) -> str:
    """By the extension; of the contents nothing is known."""
    kind, packed = _TYPES.guess_type(name.decode("utf-8", "replace"), strict=True)
    if packed is not None:
        return _PACKED.get(packed, "application/octet-stream")
    return kind or "application/octet-stream"


def content_disposition(name: bytes) -> str:
    """Store it under `name` (RFC 6266): an ASCII form for old programs, and the whole name for others."""
    text = name.decode("utf-8", "replace")
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in text)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{urllib.parse.quote(text, safe='')}"


def representation(info: os.stat_result) -> Representation:
    """Size, time and tag. The tag changes with the content and with the file, and says nothing of either."""
    facts = f"{info.st_ino} {info.st_size} {info.st_mtime_ns}".encode()
    return Representation(
        info.st_size, info.st_mtime_ns // 10**9, f'"{hashlib.blake2b(facts, digest_size=12).hexdigest()}"'
    )


def answer(request: ObjectRequest, file: ServedFile, there: Representation, now: int, *, keep_alive: bool) -> Answer:
    """Answer a request for `file`.

    Args:
        request: what is asked.
        file: its name and type.
        there: its present state.
        now: seconds since 1970.
        keep_alive: whether the connection goes on after it.
    """
    decision = decide(request.method, request.headers, there, now)
    connection = "keep-alive" if keep_alive else "close"
    fields = (
        f"Date: {format_date(now)}\r\nLast-Modified: {format_date(there.mtime)}\r\nETag: {there.etag}\r\n"
        f"Accept-Ranges: bytes\r\nConnection: {connection}\r\n{_SAFETY}"
    )
    described = f"Content-Type: {file.kind}\r\nContent-Disposition: {file.disposition}\r\n"
    pieces: tuple[Piece, ...] = ()
    after = b""
    length = 0
    match decision.status:
        case 200:
            fields += described
            length = there.size
            pieces = (Piece(b"", 0, there.size),)
        case 206 if len(decision.ranges) == 1:
            first, length = decision.ranges[0]
            fields += described + f"Content-Range: {content_range(first, length, there.size)}\r\n"
            pieces = (Piece(b"", first, length),)
        case 206:
            pieces, after, boundary = _several(decision.ranges, file, there.size)
            length = sum(len(piece.before) + piece.length for piece in pieces) + len(after)
            fields += f"Content-Type: multipart/byteranges; boundary={boundary}\r\n"
            fields += f"Content-Disposition: {file.disposition}\r\n"
        case 416:
            fields += f"Content-Range: bytes */{there.size}\r\n"
    if decision.status != 304:
        fields += f"Content-Length: {length}\r\n"
    head = status_line(decision.status) + fields.encode() + b"\r\n"
    if request.method == "HEAD" or not pieces:
        return Answer(decision.status, (Piece(head, 0, 0),))
    first_piece = Piece(head + pieces[0].before, pieces[0].offset, pieces[0].length)
    return Answer(decision.status, (first_piece, *pieces[1:]), after)


def _several(ranges: tuple[tuple[int, int], ...], file: ServedFile, size: int) -> tuple[tuple[Piece, ...], bytes, str]:
    boundary = secrets.token_hex(16)
    pieces = []
    for first, length in ranges:
        head = (
            f"\r\n--{boundary}\r\nContent-Type: {file.kind}\r\n"
            f"Content-Range: {content_range(first, length, size)}\r\n\r\n"
        )
        pieces.append(Piece(head.encode(), first, length))
    return tuple(pieces), f"\r\n--{boundary}--\r\n".encode(), boundary

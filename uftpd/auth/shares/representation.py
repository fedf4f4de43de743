"""Which version of a file it is, what a write makes depend on that, and several parts of it in one reply.

What a read depends on is `uftp.protocol.http_ranges`. The tag of a version is made of its size, its time of change to
the nanosecond, and a salt: it tells as much about changes as these two do, and nothing about the file to others.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Mapping, Sequence

from uftp.protocol.http_ranges import Representation, content_range, parse_date

NANOSECONDS = 1_000_000_000

_TAG = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*"')


def version_of(salt: bytes, identity: bytes, size: int, mtime_ns: int) -> Representation:
    """The version of a file.

    Args:
        salt: of the share.
        identity: what the file is beside its content, such as its path.
        size: bytes.
        mtime_ns: time of change, nanoseconds since the epoch.
    """
    text = b"%d %d " % (size, mtime_ns)
    digest = hashlib.blake2b(text + identity, key=salt[:64], digest_size=12).hexdigest()
    return Representation(size, mtime_ns // NANOSECONDS, f'"{digest}"')


def is_settled(mtime_ns: int) -> bool:
    """Whether a later change of the file would show in its time.

    A file system that counts whole seconds could hold two versions of the last one under one tag.
    """
    return bool(mtime_ns % NANOSECONDS) or time.time_ns() - mtime_ns > 2 * NANOSECONDS


def may_write(headers: Mapping[str, str], there: Representation | None) -> bool:
    """Whether the conditions of a PUT hold (RFC 9110 section 13.2.2); else it is 412.

    Args:
        headers: names in lower case; of a repeated one, the values joined with commas.
        there: what it would replace; None for nothing.
    """
    if (match := headers.get("if-match")) is not None:
        if not _lists(match, there):
            return False
    elif (since := parse_date(headers.get("if-unmodified-since"))) is not None and (
        there is None or there.mtime > since
    ):
        return False
    none_match = headers.get("if-none-match")
    return none_match is None or not _lists(none_match.replace("W/", ""), there)


def _lists(header: str, there: Representation | None) -> bool:
    if there is None:
        return False
    return header.strip() == "*" or any(found[0] == there.etag for found in _TAG.finditer(header))


class Multipart:
    """The body of a 206 with several parts (RFC 9110 section 14.6).

    Args:
        parts: first byte and length of each.
        size: of the whole file.
        media_type: of the file.
    """

    def __init__(self, parts: Sequence[tuple[int, int]], size: int, media_type: str) -> None:
        self._boundary = secrets.token_hex(16)
        self.heads = tuple(
            f"\r\n--{self._boundary}\r\nContent-Type: {media_type}\r\n"
            f"Content-Range: {content_range(first, length, size)}\r\n\r\n".encode("latin-1")
            for first, length in parts
        )
        self.closing = f"\r\n--{self._boundary}--\r\n".encode()
        self.length = sum(length for _, length in parts) + sum(map(len, self.heads)) + len(self.closing)

    @property
    def media_type(self) -> str:
        """Of the whole body."""
        return f"multipart/byteranges; boundary={self._boundary}"

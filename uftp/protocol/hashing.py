"""HASH replies (DATA-PLANE section 10)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from uftp.protocol._errors import ProtocolError
from uftp.protocol.features import HASH_ALGORITHMS
from uftp.protocol.replies import Reply

_REPLY = re.compile(r"(\S+) ([0-9]{1,40})-(-?[0-9]{1,40}) ([0-9A-Fa-f]+) (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FileHash:
    """A digest of (a range of) a file, as a server told it.

    Attributes:
        algorithm: name as in FEAT.
        first, last: the range hashed, both inclusive, as echoed; last is 0 for an empty file.
        digest: lower-case hex.
        path: the file, as the server names it.
    """

    algorithm: str
    first: int
    last: int
    digest: str
    path: str


def find_algorithm(name: str) -> str | None:
    """The FEAT spelling of an algorithm named in any case, with or without dash; None if unknown."""
    plain = name.upper().replace("-", "").replace("_", "")
    return next((known for known in HASH_ALGORITHMS if known.replace("-", "") == plain), None)


def format_hash(algorithm: str, offset: int, length: int, digest: str) -> str:
    """The words of a 213 reply before the path; `length` as set on the control connection, even if larger."""
    # An empty file is echoed 0-0 and an empty range at an offset n as n-(n-1), as upstream does.
    last = offset + length - 1 if offset or length else 0
    return f"{algorithm} {offset}-{last} {digest} "


def parse_hash(received: Reply) -> FileHash:
    """Read the last line of a HASH reply.

    Raises:
        ProtocolError: no such reply.
    """
    match = _REPLY.fullmatch(received.text) if received.code == 213 else None
    if not match:
        raise ProtocolError(f"no HASH reply: {received.code} {received.text}")
    return FileHash(match[1].upper(), int(match[2]), int(match[3]), match[4].lower(), match[5])

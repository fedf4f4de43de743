"""Digests that HTTP servers send along: which of them span a whole file, and what they say.

Repr-Digest and Content-Digest (RFC 9530), the older Digest (RFC 3230) and Content-MD5 (RFC 1864), and X-Goog-Hash of a
large object store.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

WANTED: Final = "sha-256=10, sha-512=5, md5=1"
"""What to ask for in Want-Repr-Digest, and in Want-Digest's own notation in `WANTED_OLD`."""
WANTED_OLD: Final = "sha-256;q=1, sha-512;q=0.5, md5;q=0.1"

HttpAlgorithm = Literal["SHA-256", "SHA-512", "MD5"]

# The best first: all of them find errors, and the first is the quickest that also guards.
_ALGORITHMS: Final[tuple[tuple[str, HttpAlgorithm, int], ...]] = (
    ("sha-256", "SHA-256", 32),
    ("sha-512", "SHA-512", 64),
    ("md5", "MD5", 16),
)
_LONGEST: Final = 4096  # of a field; what is longer has something else in it
_MEMBER: Final = re.compile(r"\s*([A-Za-z0-9*_.-]{1,32})\s*=\s*(:?)([A-Za-z0-9+/_-]{1,128}={0,2})(:?)\s*(?:;[^,]*)?")


@dataclass(frozen=True, slots=True)
class HttpDigest:
    """What a server says of a file.

    Attributes:
        algorithm: as FEAT spells it.
        hex: lower case.
    """

    algorithm: HttpAlgorithm
    hex: str


def find_digest(headers: Mapping[str, str], *, whole: bool) -> HttpDigest | None:
    """The best digest of a whole file in the header of an answer; None if there is none that makes sense.

    Args:
        headers: by name in lower case, several fields of a name joined by commas.
        whole: whether the answer has all of the file, and not a range: else what speaks of its content says nothing.
    """
    found: dict[str, str] = {}
    fields = ["repr-digest", "digest", "x-goog-hash", *(["content-digest"] if whole else [])]
    for name in reversed(fields):  # the first of them wins
        found |= _members(headers.get(name, ""))
    if whole and (content := headers.get("content-md5", "").strip()):
        found.setdefault("md5", content)
    for name, algorithm, length in _ALGORITHMS:
        raw = _decoded(found[name]) if name in found else b""
        if len(raw) == length:
            return HttpDigest(algorithm, raw.hex())
    return None


def _members(field: str) -> dict[str, str]:
    """Names in lower case, and what stands behind `=`, between the colons of RFC 8941 or without them."""
    found = {}
    if len(field) <= _LONGEST:
        for member in field.split(","):
            match = _MEMBER.fullmatch(member)
            if match and match[2] == match[4]:
                found[match[1].lower()] = match[3]
    return found


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""

"""File names on the control connection and in listings. Names are bytes: any that a Unix file can have.

Without NAMES PCT a name is all that follows the first blank, and names with control characters cannot be said. With
it every path has `%`, bytes up to 0x20 and bytes from 0x7F as %XX (EXTENSIONS section 5).
"""

from __future__ import annotations

import re

_ESCAPED = re.compile(rb"[\x00-\x20%\x7f-\xff]")
_SEQUENCE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_PART = re.compile(rb"\.uftp-[0-9a-f]{16}\.part")


def pct_encode(name: bytes) -> bytes:
    """`name` for a session with NAMES PCT."""
    return _ESCAPED.sub(lambda match: b"%%%02X" % match[0][0], name)


def pct_decode(text: bytes) -> bytes:
    """The name behind `text`; a `%` that starts no sequence stands for itself."""
    return _SEQUENCE.sub(lambda match: bytes([int(match[1], 16)]), text)


def is_sayable(name: bytes) -> bool:
    """Whether `name` can stand in a line without NAMES PCT: legacy listings leave others out."""
    return not _CONTROL.search(name)


def quote(path: bytes) -> bytes:
    """`path` in the quotes of a 257 reply (RFC 959 appendix II): a quote inside is doubled."""
    return b'"' + path.replace(b'"', b'""') + b'"'


def unquote(text: bytes) -> bytes:
    """The path in a 257 reply; without quotes, the text itself."""
    if not text.startswith(b'"'):
        return text
    end = 1
    while (end := text.find(b'"', end)) >= 0 and text[end + 1 : end + 2] == b'"':
        end += 2
    return text[1 : end if end >= 0 else None].replace(b'""', b'"')


def part_name(token: bytes) -> bytes:
    """The hidden name a file has until it is whole, from 8 random bytes."""
    return b".uftp-" + token.hex().encode() + b".part"


def is_part_name(name: bytes) -> bool:
    """Whether `name` is that of an unfinished upload or download; listings leave these out."""
    return _PART.fullmatch(name) is not None

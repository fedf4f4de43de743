"""What a GET or HEAD of a stored object is answered: conditions and ranges (RFC 9110 sections 13 and 14), sans I/O.

For whoever serves files over HTTP. A header that is malformed counts as absent, as the RFC wants; a list of ranges
that asks for more than the whole object, or for too many pieces, is answered with the whole object.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_RANGES = 64  # pieces in one answer; download programs ask for one, PDF viewers for a dozen
_MAX_HEADER = 4096  # characters of a Range header; longer ones are no browser's

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(.+)", re.IGNORECASE | re.ASCII | re.DOTALL)
_SPEC = re.compile(r"([0-9]{0,18})[ \t]*-[ \t]*([0-9]{0,18})", re.ASCII)
_TAG = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*"')


@dataclass(frozen=True, slots=True)
class Representation:
    """What there is of an object just now.

    Attributes:
        size: bytes.
        mtime: time of last change, whole seconds since 1970.
        etag: strong entity tag, with its quotation marks.
    """

    size: int
    mtime: int
    etag: str


@dataclass(frozen=True, slots=True)
class Decision:
    """How to answer.

    Attributes:
        status: 200, 206, 304, 412 or 416.
        ranges: for 206, first byte and length of each piece, in the order asked for.
    """

    status: int
    ranges: tuple[tuple[int, int], ...] = ()


def decide(method: str, headers: Mapping[str, str], there: Representation, now: int) -> Decision:
    """Evaluate the conditions of a request in the order of RFC 9110 section 13.2.2, then its ranges.

    Args:
        method: GET or HEAD; only GET has ranges.
        headers: names in lower case; of a repeated one, the values joined with commas.
        there: what the request is about.
        now: whole seconds since 1970.
    """
    if_match, if_none_match = headers.get("if-match"), headers.get("if-none-match")
    if if_match is not None:
        if not _lists(if_match, there.etag, strong=True):
            return Decision(412)
    elif (since := parse_date(headers.get("if-unmodified-since"))) is not None and there.mtime > since:
        return Decision(412)
    if if_none_match is not None:
        if _lists(if_none_match, there.etag, strong=False):
            return Decision(304)
    elif (since := parse_date(headers.get("if-modified-since"))) is not None and there.mtime <= since:
        return Decision(304)
    wanted = headers.get("range")
    if method != "GET" or wanted is None or not _is_current(headers.get("if-range"), there, now):
        return Decision(200)
    return _decide_ranges(wanted, there.size)


def _lists(header: str, etag: str, *, strong: bool) -> bool:
    if header.strip() == "*":
        return True
    tags = (match[0] for match in _TAG.finditer(header))
    return any(tag == etag if strong else tag.removeprefix("W/") == etag for tag in tags)


def _is_current(if_range: str | None, there: Representation, now: int) -> bool:
    """Whether the client's copy is of what is there (RFC 9110 section 13.1.5)."""
    if if_range is None:
        return True
    text = if_range.strip()
    if text.startswith(('"', "W/")):
        return text == there.etag
    # A date names one content only if that was not made in the second the date was given out.
    return parse_date(text) == there.mtime and there.mtime < now


def _decide_ranges(header: str, size: int) -> Decision:
    match = _RANGE.fullmatch(header.strip()) if len(header) <= _MAX_HEADER else None
    if match is None:
        return Decision(200)
    ranges = []
    for item in match[1].split(","):
        if not item.strip():
            continue
        spec = _SPEC.fullmatch(item.strip())
        if spec is None or not (spec[1] or spec[2]) or (spec[1] and spec[2] and int(spec[1]) > int(spec[2])):
            return Decision(200)
        if not spec[1]:
            first = max(0, size - int(spec[2]))
            end = size
        else:
            first = int(spec[1])
            end = min(size, int(spec[2]) + 1) if spec[2] else size
        if first < end:
            ranges.append((first, end - first))
    if not ranges:
        return Decision(416)
    # Overlaps let a small request ask for many times the object.
    if len(ranges) > MAX_RANGES or (len(ranges) > 1 and sum(length for _, length in ranges) > size):
        return Decision(200)
    return Decision(206, tuple(ranges))


def parse_date(text: str | None) -> int | None:
    """Seconds since 1970 of an HTTP date in any of its three forms (RFC 9110 section 5.6.7); None if it is none."""
    if text is None or len(text) > 64:
        return None
    try:
        parsed = email.utils.parsedate_tz(text.strip())
        return None if parsed is None else int(email.utils.mktime_tz(parsed))
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def format_date(seconds: int) -> str:
    """An HTTP date. Times before 1970, or after the year 9999, are told as the nearest there is."""
    return email.utils.formatdate(min(max(seconds, 0), 253402300799), usegmt=True)


def content_range(first: int, length: int, size: int) -> str:
    """The value of Content-Range for one piece."""
    return f"bytes {first}-{first + length - 1}/{size}"

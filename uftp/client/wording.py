"""Errors in words a person can use, and names that are safe to print."""

from __future__ import annotations

import os
import re

from uftp.errors import NetworkError, NotFound, Refused, UFTPError
from uftp.protocol.replies import Reply

_PREFIX = re.compile(r"^Error processing command '[A-Z-]*': ")  # UFTP servers name the command; people did not type it
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MISSING = re.compile(
    r"no such|not found|not exist|cannot be accessed|failed to open file|no file|not a directory", re.IGNORECASE
)
_IN_THE_WAY = re.compile(r"(file|directory|already) exists|is a directory|not empty", re.IGNORECASE)
_DENIED = re.compile(r"permission|denied|forbidden|not allowed|privilege|read-only", re.IGNORECASE)


def is_about_a_missing_file(text: str) -> bool:
    """Whether a server's text says that something is not there: codes are not enough (upstream answers 500)."""
    return _MISSING.search(text) is not None


def printable(name: bytes | str) -> str:
    """A file name or a server's text for messages: control characters as \\xNN, so no terminal obeys them."""
    text = os.fsdecode(name)
    text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    return text.encode("utf-8", "backslashreplace").decode() if not text.isascii() else text


def server_said(reply: Reply) -> str:
    """A server's reply, for a message."""
    return f"the server said {reply.code} {printable(_PREFIX.sub('', reply.text)).strip()}"


def is_about_rights(text: str) -> bool:
    """Whether a server's text says that rights are missing."""
    return _DENIED.search(text) is not None


def refusal(reply: Reply, path: bytes | None, action: str) -> UFTPError:
    """The error for a reply that is not the one wanted.

    Args:
        reply: what the server said.
        path: the file concerned, if one.
        action: what was tried, as "list" or "create the directory".
    """
    subject = f"{printable(path)}: " if path is not None else ""
    said = server_said(reply)
    if reply.code == 421:
        return NetworkError(f"{subject}cannot {action}: {said}; try again later")
    if _DENIED.search(reply.text) or reply.code in (530, 534, 553):
        return Refused(f"{subject}cannot {action}: {said}; check the rights on it", code=reply.code)
    if _IN_THE_WAY.search(reply.text):
        return Refused(f"{subject}cannot {action}: {said}", code=reply.code)
    if reply.code == 550 or is_about_a_missing_file(reply.text):
        return NotFound(f"{subject}cannot {action}: {said}", code=reply.code)
    return Refused(f"{subject}cannot {action}: {said}", code=reply.code)

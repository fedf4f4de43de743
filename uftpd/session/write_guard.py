"""Keeps a process from writing files that the site protects, whoever in it opens them.

Sessions check each path before they act on it. The copy engine, which is the client's, knows no such rule; so where it
writes trees, its process is watched by the interpreter: what would give a protected file another content fails. The
engine means no harm and is no adversary; the names, which come from another server, may be.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

_WRITING: Final = os.O_WRONLY | os.O_RDWR


def guard(protected: frozenset[bytes]) -> None:
    """From now on, fail to open the files of these real paths for writing, and to give others their names.

    It cannot be taken back, and holds for all threads.
    """
    names = {os.path.basename(path) for path in protected}
    if not names:
        return

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("os.rename", "os.link"):
            path, directory = arguments[1], arguments[3]
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            path, directory = arguments[0], None
        else:
            return
        if not isinstance(path, str | bytes):
            return  # a descriptor, which was opened under a name
        raw = os.fsencode(path)
        if os.path.basename(raw) not in names:
            return
        # What is opened by a descriptor's directory is told without that: it could be any.
        somewhere = event == "open" and not raw.startswith(b"/")
        if somewhere or _real(raw, directory) in protected:
            raise PermissionError(errno.EACCES, "file is write-protected by the site")

    sys.addaudithook(watch)


def _real(path: bytes, directory: object) -> bytes:
    """Where a name really stands; a link of that name is replaced, not followed, so it counts itself."""
    above, name = os.path.split(path)
    if isinstance(directory, int) and directory >= 0:
        start = os.readlink(b"/proc/self/fd/%d" % directory)
        return os.path.join(os.path.realpath(os.path.join(start, above)), name)
    return os.path.join(os.path.realpath(above or b"."), name)

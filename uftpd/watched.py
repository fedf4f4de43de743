"""A file that is read again when it changes: the password file, the map file.

A look costs one stat. A change that cannot be read or understood is logged once, and the old content stays in force.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from uftpd.config.toml import ConfigError
from uftpd.events import EventLog

_log = EventLog("files")

T = TypeVar("T")

MAX_FILE_BYTES = 64 * 1024 * 1024  # hundreds of thousands of users; a device or a log would be larger

# Inode and change time too: an editor's rename and a change within the clock's granularity are changes.
_Signature = tuple[int, int, int, int, int]


_UNREADABLE: _Signature = (0, 0, 0, 0, 0)


class WatchedFile(Generic[T]):
    """The parsed content of a file, as of now.

    Attributes:
        generation: grows by one each time new content is taken over.
    """

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        """Read the file for the first time.

        Args:
            path: the file, UTF-8 text.
            parse: turns its text into a value; raises ValueError if the text as a whole is unusable.

        Raises:
            ConfigError: it cannot be read or parsed.
        """
        self._path = path
        self._parse = parse
        self.generation = 1
        try:
            self._signature, data = _read(path)
            self._value = parse(_decode(data))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error

    def current(self) -> T:
        """The content, read again if the file has changed since the last call."""
        try:
            if _signature(os.stat(self._path)) == self._signature:
                return self._value
            self._signature, data = _read(self._path)
            self._value = self._parse(_decode(data))
        except OSError as error:
            if self._signature != _UNREADABLE:
                self._complain(error.strerror or "cannot be read")
            self._signature = _UNREADABLE
        except ValueError as error:
            self._complain(str(error))
        else:
            self.generation += 1
            _log("file read again", file=str(self._path))
        return self._value

    def _complain(self, reason: str) -> None:
        _log("file not taken over", level=logging.ERROR, file=str(self._path), reason=reason)


def _read(path: Path) -> tuple[_Signature, bytes]:
    with path.open("rb") as file:
        return _signature(os.fstat(file.fileno())), file.read(MAX_FILE_BYTES + 1)


def _decode(data: bytes) -> str:
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None


def _signature(status: os.stat_result) -> _Signature:
    return status.st_ino, status.st_dev, status.st_mtime_ns, status.st_ctime_ns, status.st_size

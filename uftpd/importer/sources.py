"""Files of an upstream installation: reading them, and finding those that settings name by relative paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uftpd.config.toml import ConfigError

MAX_BYTES = 64 * 1024 * 1024  # what the servers take for a password or map file


class NotFound(Exception):
    """A file that a setting names is not there, or cannot be read; the message says why."""


def read(path: Path) -> bytes:
    """The content of a file.

    Raises:
        NotFound: it cannot be read, is too large, or is no file.
    """
    try:
        if not path.is_file():
            raise NotFound("is not there" if not path.exists() else "is no file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotFound(f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise NotFound(f"is larger than {MAX_BYTES} bytes")
    return data


def read_text(path: Path) -> str:
    """The same, as text: UTF-8, or else Latin-1, which older Java writes.

    Raises:
        NotFound: as `read`.
    """
    data = read(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_named(path: Path) -> str:
    """The text of a file that the command line names.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return read_text(path)
    except NotFound as error:
        raise ConfigError(f"{path}: {error}") from error


class Installation:
    """Where relative paths lead: upstream counts them from the directory it was started in.

    Args:
        named: that directory, if it was told.
        file: the configuration file; without better knowledge the directory above its own, then its own.
    """

    def __init__(self, named: Path | None, file: Path) -> None:
        directory = file.absolute().parent
        self._roots: Sequence[Path] = [named] if named is not None else [directory.parent, directory]

    def find(self, text: str) -> Path:
        """The path a setting means; where nothing is found, the one it most likely meant."""
        path = Path(text).expanduser()
        candidates = [path] if path.is_absolute() else [root / path for root in self._roots]
        return next((found for found in candidates if found.exists()), candidates[0])

    def matching(self, pattern: str) -> list[Path]:
        """The files that a path with wild cards means."""
        for root in [Path("/")] if pattern.startswith("/") else self._roots:
            try:
                found = sorted(path for path in root.glob(pattern.lstrip("/")) if path.is_file())
            except (ValueError, OSError, NotImplementedError):
                found = []
            if found:
                return found
        return []

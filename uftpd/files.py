"""Files of the servers: whether one can be read, and writing those that others must not see, or not half written."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from uftpd.config.toml import ConfigError


def check_readable(path: Path) -> None:
    """Whether a file that a configuration names can be read.

    Raises:
        ConfigError: it cannot; says which and why.
    """
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def write_private(path: Path, data: bytes, *, mode: int = 0o600, replace: bool = True) -> None:
    """Write a file as a whole; it has its mode from the first moment, whatever the umask.

    Args:
        path: of the file.
        data: its content.
        mode: its permissions.
        replace: whether a file of that name gives way.

    Raises:
        FileExistsError: there is one, and it does not give way.
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            os.rename(temporary, path)
        else:
            os.link(temporary, path)
            os.unlink(temporary)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise

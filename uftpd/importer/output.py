"""The files an import writes: collected first, then written all together or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from uftpd.config.toml import ConfigError
from uftpd.files import write_private

_PUBLIC, _SECRET = 0o644, 0o600


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    mode: int


class Output:
    """Files by name, for one directory."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def add(self, name: str, data: bytes) -> str:
        """A file that everybody may read. Returns its name, for the setting that names it."""
        self._files[name] = _File(data, _PUBLIC)
        return name

    def add_secret(self, name: str, data: bytes) -> str:
        """A file for its owner alone. Returns its name, for the setting that names it."""
        self._files[name] = _File(data, _SECRET)
        return name

    def add_toml(self, name: str, table: Mapping[str, Any], comment: str) -> None:
        """A configuration file; empty tables are left out."""
        shown = "".join(c if c.isprintable() else "?" for c in comment)
        filled = {key: value for key, value in table.items() if value}
        self.add(name, f"# {shown}\n\n{tomli_w.dumps(filled)}".encode())

    def names(self) -> list[str]:
        """The names of all files."""
        return sorted(self._files)

    def secrets(self) -> list[str]:
        """The names of those for their owner alone."""
        return [name for name in self.names() if self._files[name].mode == _SECRET]

    def write(self, directory: Path, *, force: bool) -> None:
        """Write all files.

        Args:
            directory: is made if it is missing.
            force: replace files that are there.

        Raises:
            ConfigError: a file is there already and nothing was written, or one could not be written.
        """
        there = [name for name in self.names() if (directory / name).exists() or (directory / name).is_symlink()]
        if there and not force:
            raise ConfigError(f"{directory}: {', '.join(there)}: there already, nothing was written; --force replaces")
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            for name, file in self._files.items():
                write_private(directory / name, file.data, mode=file.mode, replace=force)
        except OSError as error:
            raise ConfigError(f"{directory}: cannot be written: {error.strerror}") from error

"""The import as a whole: read, convert, write, and check what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from uftpd.check import Checked, check_file
from uftpd.importer.auth_server import convert_auth
from uftpd.importer.data_node import convert_data
from uftpd.importer.notes import Notes
from uftpd.importer.output import Output
from uftpd.importer.sources import Installation, read_named


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of an import.

    Attributes:
        written: files, by name.
        secrets: those of them for their owner alone.
        notes: what there is to say.
        checks: of each configuration file that was written.
    """

    written: list[str]
    secrets: list[str]
    notes: Notes
    checks: dict[Path, Checked]


def run_import(
    auth: Path | None, data: Path | None, into: Path, *, root: Path | None = None, force: bool = False
) -> Imported:
    """Import an auth server's configuration, a data node's, or both.

    Args:
        auth: an upstream container.properties.
        data: an upstream uftpd.conf.
        into: directory for the files; made if it is missing.
        root: where relative paths in them count from; None: it is guessed from where they are.
        force: replace files that are there.

    Raises:
        ConfigError: a file cannot be read or written, or is there already.
    """
    notes, output = Notes(), Output()
    if auth is not None:
        convert_auth(auth, read_named(auth), Installation(root, auth), output, notes)
    if data is not None:
        convert_data(data, read_named(data), Installation(root, data), output, notes)
    output.write(into, force=force)
    files = [into / name for name in output.names() if name.endswith(".toml")]
    return Imported(output.names(), output.secrets(), notes, {file: check_file(file) for file in files})

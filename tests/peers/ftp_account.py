"""What a person with a one-time password for plain FTP tools has: an address, the password, and directories."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from data_node import Node

# Every byte value, line ends of all kinds and Telnet's IAC, in a size that is no multiple of anything.
BINARY = random.Random(5).randbytes(300_001) + b"\r\n\n\r\xff\xf4\xff\xff\x00" + bytes(range(256))
LARGE = random.Random(6).randbytes(5_000_003)


@dataclass(frozen=True)
class FtpAccount:
    """See the module.

    Attributes:
        node: the data node.
        host, port: where it serves FTP.
        password: may be used many times.
        remote: the session's base directory.
        local: the client's directory.
    """

    node: Node
    host: str
    port: int
    password: str
    remote: Path
    local: Path

    @classmethod
    def open(cls, node: Node, local: Path) -> FtpAccount:
        """An account with directories of its own."""
        remote = node.directory()
        local.mkdir()
        password = node.expect(persistent=True, file=f"{remote}/")
        return cls(node, *node.ftp, password, remote, local)

    @property
    def url(self) -> str:
        """For curl and wget; a path follows."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ftp://anonymous:{self.password}@{host}:{self.port}/"

    def there(self, name: str, content: bytes = BINARY) -> Path:
        """Put a file on the server, with its directories."""
        path = self.remote / name
        for parent in reversed(path.relative_to(self.remote).parents):
            directory = self.remote / parent
            if not directory.exists():
                directory.mkdir()
                os.chown(directory, self.node.person.uid, self.node.person.gid)
        return self.node.file(path, content)

    def here(self, name: str, content: bytes = BINARY) -> Path:
        """Put a file into the client's directory, with its directories."""
        path = self.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def tree(root: Path) -> dict[str, bytes | None]:
    """All files below a directory with their content, and directories, as None."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }

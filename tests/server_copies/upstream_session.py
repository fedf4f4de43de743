"""A session at an upstream node: its commands, their replies to the letter, and what is wrong with them.

Control lines end in a bare LF. RANG is exclusive and wants two numbers. EPSV takes its one connection before anything
else is read. With several streams nothing that is sent is ever finished. SIZE and RCP-STATUS always fail.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import localtime, strftime
from typing import TYPE_CHECKING, Final

from upstream_errand import Errand, Task, run_errand
from upstream_layers import Layers

if TYPE_CHECKING:
    from upstream_node import UpstreamNode

MAX_STREAMS: Final = 4
_SECONDS: Final = 30.0
_BLOCK: Final = 1024 * 1024
_FEATURES: Final = """211-Features:
 PASV
 EPSV
 RANG STREAM
 REST STREAMMFMT
 MLSD
 MLST
 APPE
 MFF Modify;UNIX.mode;KEEP-ALIVE
 ARCHIVE
 UTF-8{crypted}
 HASH MD5*;SHA-1;SHA-256;SHA-512
211 END"""


@dataclass(frozen=True)
class Request:
    """What a secret opens: a directory, and what data connections carry."""

    base: Path
    layers: Layers
    streams: int
    persistent: bool


class _Failed(Exception):
    """Code and text of an error reply."""


class Session:
    """See the module.

    Args:
        node: whose session it is.
        request: what its secret opened.
        say: sends a line.
    """

    def __init__(self, node: UpstreamNode, request: Request, say: Callable[[str], None]) -> None:
        self._node = node
        self._request = request
        self._say = say
        self._here = request.base
        self._connections: list[socket.socket] = []
        self._expected = request.streams
        self._streams = request.streams
        self._renamed: Path | None = None
        self._algorithm = "MD5"
        self._reset_range()

    def close(self) -> None:
        """End its data connections."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._expected = 1

    def serve(self, line: str) -> None:
        """Do what a line says."""
        verb, _, argument = line.partition(" ")
        verb = verb.upper()
        command = getattr(self, "_" + verb.lower().replace("-", "_"), None)
        if command is None:
            self._say("502 Command not implemented.")
            return
        try:
            command(argument.strip())
        except _Failed as failed:
            code, text = failed.args
            self._say(f"{code} Error processing command '{verb}': {text}")
        except OSError as error:
            self.close()
            self._say(f"500 Error processing command '{verb}': {error}")

    def _path(self, argument: str) -> Path:
        path = Path(os.path.normpath(self._here / argument))
        if not str(path).startswith(str(self._request.base)):
            raise _Failed(534, f"Forbidden: {path} not in {self._request.base}")
        return path

    def _file(self, argument: str) -> Path:
        path = self._path(argument)
        if not path.exists():
            raise _Failed(550, "Directory/file does not exist or cannot be accessed!")
        return path

    # -- small commands

    def _syst(self, argument: str) -> None:
        self._say("215 Unix Type: L8")

    def _feat(self, argument: str) -> None:
        cipher = self._request.layers.cipher
        self._say(_FEATURES.format(crypted=f"\n CRYPTED-{cipher}" if cipher else ""))

    def _noop(self, argument: str) -> None:
        if not argument.isdigit():
            self._say("200 OK")
            return
        self._streams = self._expected = min(int(argument), MAX_STREAMS)
        code = 222 if int(argument) <= MAX_STREAMS else 223
        self._say(f"{code} Opening {self._streams} data connections")

    def _type(self, argument: str) -> None:
        self._say("200 OK")

    def _opts(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        if name.upper() not in ("HASH", "BUFFER_SIZE", "RATE_LIMIT", "KEEP_ALIVE", "SENDFILE_ENABLED") or not value:
            raise _Failed(500, f"No such option {name}")
        if name.upper() == "HASH":
            self._algorithm = value.upper()
        self._say(f"200 {name.upper()}={value}")

    def _pwd(self, argument: str) -> None:
        self._say(f'257 "{self._here}"')

    def _cwd(self, argument: str) -> None:
        if not self._file(argument).is_dir():
            raise _Failed(550, "Not a directory")
        self._here = self._path(argument)
        self._say("200 OK")

    def _mkd(self, argument: str) -> None:
        path = self._path(argument)
        path.mkdir()
        self._say(f'257 "{path}" directory created')

    def _dele(self, argument: str) -> None:
        self._file(argument).unlink()
        self._say("200 OK")

    def _rmd(self, argument: str) -> None:
        self._file(argument).rmdir()
        self._say("200 OK")

    def _rnfr(self, argument: str) -> None:
        self._renamed = self._path(argument)
        self._say("350 File action OK Please send rename-to")

    def _rnto(self, argument: str) -> None:
        assert self._renamed is not None
        self._renamed.rename(self._path(argument))
        self._say("200 OK")

    def _size(self, argument: str) -> None:
        self._file(argument)
        raise _Failed(500, "name 'size' is not defined")

    def _facts(self, path: Path) -> str:
        found = path.stat()
        kind = "dir" if path.is_dir() else "file"
        modified = strftime("%Y%m%d%H%M%S", localtime(found.st_mtime))
        perm = "lwe" if kind == "dir" else "rw"
        return (
            f" size={found.st_size};modify={modified};type={kind};perm={perm};UNIX.mode={found.st_mode:o}; {path.name}"
        )

    def _mlst(self, argument: str) -> None:
        try:
            path = self._file(argument or ".")
        except _Failed:
            self.close()  # upstream does, and clients must know
            raise
        self._say(f"250- Listing {path}\n{self._facts(path)}\n250 End")

    def _stat(self, argument: str) -> None:
        option, _, name = argument.partition(" ")
        path = self._file(name or ".")
        found = sorted(path.iterdir()) if option == "N" and path.is_dir() else [path]
        lines = [
            f" {'d' if one.is_dir() else '-'}rw- {one.stat().st_size} {int(one.stat().st_mtime) * 1000} {one.name}"
            for one in found
        ]
        self._say("\n".join(["211- Sending file list", *lines, "211 End of file list"]))

    def _hash(self, argument: str) -> None:
        path = self._file(argument)
        data = path.read_bytes()[self._offset :]
        length = self._length if self._ranged else len(data)
        digest = hashlib.new(self._algorithm.replace("-", "").lower(), data[:length]).hexdigest()
        first, last = self._offset, max(0, self._offset + length - 1)
        self._reset_range()
        self._say(f"213 {self._algorithm} {first}-{last} {digest} {path}")

    def _mfmt(self, argument: str) -> None:
        stamp, _, name = argument.partition(" ")
        if " " in name:
            raise _Failed(500, "Too many values to unpack")
        self._file(name)
        self._say(f"213 Modify={stamp}; {name}")

    # -- ranges

    def _reset_range(self) -> None:
        self._offset, self._length, self._ranged = 0, -1, False

    def _rang(self, argument: str) -> None:
        words = argument.split()
        if len(words) < 2 or not all(word.lstrip("-").isdigit() for word in words):
            raise _Failed(501, "Wrong parameter count")
        first, end = int(words[0]), int(words[1])
        if (first, end) == (1, 0):
            self._reset_range()
            self._say("350 Resetting range")
            return
        self._offset, self._length, self._ranged = first, end - first, True
        self._say(f"350 Restarting at {first}. End byte range at {end}")

    def _rest(self, argument: str) -> None:
        self._offset, self._ranged = int(argument), False
        self._say(f"350 Restarting at {argument}.")

    def _allo(self, argument: str) -> None:
        self._length = int(argument)
        if not self._ranged:
            self._offset = 0
        self._say(f"200 OK Will read up to {argument} bytes from data connection.")

    # -- data connections

    def _epsv(self, argument: str) -> None:
        self._listen(lambda port: f"229 Entering Extended Passive Mode (|||{port}|)")

    def _pasv(self, argument: str) -> None:
        host = self._node.host.replace(".", ",")
        self._listen(lambda port: f"227 Entering Passive Mode ({host},{port // 256},{port % 256})")

    def _listen(self, reply: Callable[[int], str]) -> None:
        if self._connections and len(self._connections) == self._expected:
            self.close()
            self._streams = 1
        with socket.create_server((self._node.host, 0)) as listener:
            listener.settimeout(_SECONDS)
            self._say(reply(listener.getsockname()[1]))
            connection, _ = listener.accept()  # nothing else is read meanwhile
        connection.settimeout(_SECONDS)
        self._connections.append(connection)

    def _retr(self, argument: str) -> None:
        path = self._file(argument)
        size = path.stat().st_size
        length = self._length if self._ranged else size - self._offset
        offset = self._offset
        self._reset_range()
        self._say(f"150 OK {length} bytes available for reading.")
        self._need_connections()
        payload = path.read_bytes()[offset:][: max(0, length)]
        streams = len(self._connections)
        wires = self._request.layers.wires(payload, streams, finish=streams == 1)
        send_all(self._connections, wires)
        self.close()
        self._say("226 File transfer successful")

    def _stor(self, argument: str) -> None:
        path = self._path(argument)
        offset, length, ranged = self._offset, self._length, self._ranged
        self._reset_range()
        with path.open("r+b" if path.exists() else "w+b") as file:
            if not ranged:
                file.truncate(0)
            self._say("150 OK")
            self._need_connections()
            payload = self._request.layers.payload(receive_all(self._connections))
            self.close()
            file.seek(offset)
            file.write(payload if length < 0 or self._request.layers.cipher else payload[:length])
        self._say("226 File transfer successful")

    def _need_connections(self) -> None:
        if not self._connections:
            raise _Failed(500, "'NoneType' object has no attribute 'write'")

    # -- copies between servers

    def _send_file(self, argument: str) -> None:
        self._errand("SEND-FILE", argument)

    def _receive_file(self, argument: str) -> None:
        self._errand("RECEIVE-FILE", argument)

    def _errand(self, verb: str, argument: str) -> None:
        words = shlex.split(argument)
        if len(words) != 4:
            raise _Failed(501, "Wrong parameter count")
        local, remote, server, secret = words
        path = self._path(local) if verb == "RECEIVE-FILE" else self._file(local)
        host, _, port = server.partition(":")
        task = Task(
            verb == "SEND-FILE", path, remote, (host, int(port)), secret, self._offset, self._length, self._streams
        )
        self._reset_range()
        layers, kept = self._request.layers, self._node.kept
        number = self._node.begin(Errand(verb), lambda errand: run_errand(errand, task, layers, kept))
        self._say(f"299 OK transfer-process-ID={number}")

    def _rcp_status(self, argument: str) -> None:
        raise _Failed(500, "'str' object cannot be interpreted as an integer")

    _rcp_abort = _rcp_status


def send_all(connections: list[socket.socket], wires: list[bytes]) -> None:
    """Send each its bytes, a piece each by turns, since a reader may want them so; then no more."""
    for start in range(0, max(map(len, wires)), _BLOCK):
        for connection, wire in zip(connections, wires, strict=True):
            connection.sendall(wire[start : start + _BLOCK])
    for connection in connections:
        connection.shutdown(socket.SHUT_WR)


def receive_all(connections: list[socket.socket]) -> list[bytes]:
    """What comes on each until its end, read by turns."""
    found = [bytearray() for _ in connections]
    left = dict(enumerate(connections))
    while left:
        for number, connection in list(left.items()):
            chunk = connection.recv(_BLOCK)
            found[number] += chunk
            if not chunk:
                del left[number]
    return [bytes(one) for one in found]

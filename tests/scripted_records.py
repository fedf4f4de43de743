"""A server in MODE U that keeps its files in memory and does what a test tells it: what no real one does on demand.

One thread serves one session, strictly in order, on blocking sockets: the simplest server a client has to get along
with. Actions replace what it does at a command; they have the control connection, the two directions of the data
connection, and its bare socket.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from uftp.protocol.names import pct_decode
from uftp.protocol.record_mode import (
    HELLO_BYTES,
    HelloChecker,
    HelloRefused,
    RecordOptions,
    derive_keys,
    format_agreed,
    parse_options,
)
from uftp.protocol.records import binding
from uftp.streams import Meter, StreamError, prepare
from uftp.streams.records import Aborted, RecordReader, RecordWriter

FEATURES: Final = (
    "UTC",
    "NAMES PCT",
    "EPSV",
    "RANG STREAM",
    "REST STREAM",
    "SIZE",
    "MLST size*;modify*;type*;",
    "MLSD",
    "MFF x;",
    "MODE U",
    "MODE U CRYPT AES-256-GCM",
    "MODE U COMPRESS ZSTD",
    "MODE U DIGEST BLAKE3",
    "MODE U SPARSE",
    "MODE U FACTS",
)


_TRANSFERS: Final = ("RETR", "STOR", "APPE", "MLSD")


class RecordDialogue:
    """One session, as an action sees it.

    Attributes:
        files: by path as the client wrote it.
        number: of the transfer whose command came last.
        offset, length: set for it.
        line: its command.
        options: of MODE U; None outside.
        data: the bare data connection.
    """

    def __init__(self, control: socket.socket, server: RecordServer) -> None:
        self.server = server
        self.files = server.files
        self.number = 0
        self.offset = 0
        self.length: int | None = None
        self.line = b""
        self.options: RecordOptions | None = None
        self.data: socket.socket | None = None
        self._chosen = RecordOptions()
        self._control = control
        self._input = control.makefile("rb")
        self._listener: socket.socket | None = None
        self._checker: HelloChecker | None = None
        self._salt = b""
        self._renamed = b""
        self._reader: RecordReader | None = None
        self._writer: RecordWriter | None = None

    def say(self, text: str) -> None:
        """Send a reply, or anything else."""
        self._control.sendall(text.encode("latin-1") + b"\r\n")

    def hang_up(self) -> None:
        """Close the control connection."""
        self._control.shutdown(socket.SHUT_RDWR)

    def close_data(self) -> None:
        """Close the data connection."""
        if self.data is not None:
            self.data.close()
            self.data = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def reader(self) -> RecordReader:
        """What the client sends; waits for the data connection."""
        self._connect()
        assert self._reader is not None
        return self._reader

    @property
    def writer(self) -> RecordWriter:
        """What the client gets; waits for the data connection."""
        self._connect()
        assert self._writer is not None
        return self._writer

    @property
    def binding(self) -> bytes:
        """Of the command at hand."""
        return binding(self.line, self.offset, self.length)

    def name(self, argument: str) -> bytes:
        """A path of a command."""
        return pct_decode(argument.encode("latin-1"))

    def _connect(self) -> None:
        if self.data is not None:
            return
        assert self._listener is not None
        assert self._checker is not None
        assert self.options is not None
        listener, self._listener = self._listener, None
        with listener:
            self.data, _ = listener.accept()
        prepare(self.data, 20)
        hello = self.data.recv(HELLO_BYTES, socket.MSG_WAITALL)
        keys = derive_keys(self.server.key if self.options.crypt else b"", self._salt, self._checker.check(hello))
        self._reader = RecordReader(self.data, self.options, keys.client_to_server)
        self._writer = RecordWriter(self.data, self.options, keys.server_to_client)
        self.server.connections += 1

    # -- commands ---------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Until the client leaves."""
        try:
            self.say("220 UFTPD 9.9.9, test")
            while raw := self._input.readline():
                self.line = raw.rstrip(b"\r\n")
                text = self.line.decode("latin-1")
                self.server.lines.append(text)
                verb, _, argument = text.partition(" ")
                verb = verb.upper()
                if verb in _TRANSFERS:
                    self.number += 1
                action = self.server.actions.get(verb) or _ACTIONS.get(verb)
                if action is None:
                    self.say("502 Command not implemented.")
                elif verb in _TRANSFERS and self.options is not None and self.data is None and self._listener is None:
                    self.say("425 no data connection")
                else:
                    self._act(action, argument)
                if verb in _TRANSFERS:
                    self.offset, self.length = 0, None
        except (OSError, StreamError, HelloRefused):
            pass  # the client has left, or is none of ours
        finally:
            self.close_data()
            if self._listener is not None:
                self._listener.close()
            self._input.close()
            self._control.close()

    def _act(self, action: Action, argument: str) -> None:
        try:
            action(self, argument)
        except StreamError:  # the client has closed the data connection
            self.close_data()
            self.say("426 the data connection broke")

    def enter(self, argument: str) -> None:
        """MODE."""
        self.close_data()
        if argument.strip().upper() == "S":
            self.options = None
            self.say("200 MODE S")
            return
        self.options = self._chosen
        self.number = 0
        self._salt = secrets.token_bytes(32)
        self._checker = HelloChecker(self.server.key if self.options.crypt else b"", self._salt)
        self.say(f"200 {format_agreed(self.options, self._salt)}")

    def choose(self, argument: str) -> None:
        """OPTS."""
        if argument.upper().startswith("MODE U"):
            self._chosen = parse_options(argument[6:])
        self.say("200 OK")

    def listen(self, argument: str) -> None:
        """EPSV."""
        self.close_data()
        if self._listener is not None:
            self._listener.close()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.say(f"229 Entering Extended Passive Mode (|||{self._listener.getsockname()[1]}|)")

    def set_range(self, argument: str) -> None:
        """RANG and REST."""
        words = [int(word) for word in argument.split()]
        self.offset = words[0]
        self.length = words[1] - words[0] if len(words) == 2 else None
        self.say("350 OK")

    def allocate(self, argument: str) -> None:
        """ALLO."""
        self.length = int(argument)
        self.say("200 OK")

    def retrieve(self, argument: str) -> None:
        """RETR, as it should be."""
        content = self.files.get(self.name(argument))
        if content is None:
            self.say("550 no such file")
            return
        end = None if self.length is None else self.offset + self.length
        part = content[self.offset : end]
        self.say(f"150 OK {len(part)} bytes available for reading.")
        outgoing = self.writer.begin(self.number, self.binding)
        outgoing.from_bytes(part, Meter())
        outgoing.end(b"modify=20210203040506.5;UNIX.mode=100640;")
        self.writer.flush()
        self.say("226 File transfer successful")

    def store(self, argument: str) -> None:
        """STOR and APPE, as they should be."""
        name = self.name(argument)
        if name.startswith(b"/forbidden"):
            self.say("553 no")
            self._discard()
            return
        self.say("150 OK")
        incoming = self.reader.begin(self.number, self.binding)
        received = bytearray()
        try:
            incoming.to_chunks(received.extend, None, Meter())
            incoming.finish()
        except Aborted as error:
            self.say(f"426 {error}")
            return
        old = self.files.get(name, b"")
        if self.line.startswith(b"APPE"):
            self.files[name] = old + received
        elif self.offset:
            self.files[name] = old[: self.offset] + received + old[self.offset + len(received) :]
        else:
            self.files[name] = bytes(received)
        self.server.facts[name] = incoming.facts
        self.say("226 File transfer successful")

    def _discard(self) -> None:
        self.reader.begin(self.number, self.binding).discard(Meter())

    def rename_from(self, argument: str) -> None:
        """RNFR."""
        self._renamed = self.name(argument)
        self.say("350 OK")

    def rename_to(self, argument: str) -> None:
        """RNTO."""
        if self._renamed in self.files:
            self.files[self.name(argument)] = self.files.pop(self._renamed)
        self.say("250 OK")

    def list_directory(self, argument: str) -> None:
        """MLSD of the one directory there is."""
        self.say("150 OK")
        outgoing = self.writer.begin(self.number, self.binding, facts=False)
        for name, content in self.files.items():
            base = name.rpartition(b"/")[2]
            outgoing.from_bytes(b"type=file;size=%d;modify=20210203040506; %b\r\n" % (len(content), base), Meter())
        outgoing.end()
        self.writer.flush()
        self.say("226 done")


Action = Callable[[RecordDialogue, str], None]


def reply(text: str) -> Action:
    """Answer, and no more."""
    return lambda dialogue, argument: dialogue.say(text)


_ACTIONS: Mapping[str, Action] = {
    "USER": reply("331 Please specify the password"),
    "PASS": reply("230 Login successful"),
    "TYPE": reply("200 OK"),
    "PWD": reply('257 "/"'),
    "MFF": reply("213 OK"),
    "RNFR": RecordDialogue.rename_from,
    "RNTO": RecordDialogue.rename_to,
    "DELE": reply("250 OK"),
    "ABOR": reply("226 nothing to abort"),
    "MLST": reply("250-\r\n size=1000;modify=20210203040506;type=file; x\r\n250 End"),
    "MODE": RecordDialogue.enter,
    "OPTS": RecordDialogue.choose,
    "EPSV": RecordDialogue.listen,
    "RANG": RecordDialogue.set_range,
    "REST": RecordDialogue.set_range,
    "ALLO": RecordDialogue.allocate,
    "RETR": RecordDialogue.retrieve,
    "STOR": RecordDialogue.store,
    "APPE": RecordDialogue.store,
    "MLSD": RecordDialogue.list_directory,
}


@dataclass
class RecordServer:
    """A running one.

    Attributes:
        port: on 127.0.0.1.
        key: of all sessions; empty for none.
        actions: what it does, by verb; may be changed while it runs.
        files: by path.
        facts: that came with stored files, by path.
        lines: all commands of all sessions.
        connections: data connections so far.
        sockets: control connections that were accepted.
    """

    key: bytes = b""
    port: int = 0
    actions: dict[str, Action] = field(default_factory=dict)
    files: dict[bytes, bytes] = field(default_factory=dict)
    facts: dict[bytes, bytes] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    connections: int = 0
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its URL."""
        return f"ftp://anonymous:x@127.0.0.1:{self.port}"


@contextlib.contextmanager
def record_server(
    actions: Mapping[str, Action] | None = None,
    *,
    key: bytes = b"",
    features: tuple[str, ...] = FEATURES,
    files: Mapping[bytes, bytes] | None = None,
) -> Iterator[RecordServer]:
    """A server for the block."""
    feat = "211-Features:\r\n" + "".join(f" {line}\r\n" for line in features) + "211 END"
    server = RecordServer(key, actions={"FEAT": reply(feat), **(actions or {})}, files=dict(files or {}))
    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))
    server.port = listener.getsockname()[1]

    def accept() -> None:
        while True:
            try:
                control, _ = listener.accept()
            except OSError:
                return
            control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.sockets.append(control)
            threads.append(threading.Thread(target=RecordDialogue(control, server).serve))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for control in server.sockets:
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

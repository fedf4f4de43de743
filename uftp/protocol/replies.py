"""Replies of the control connection (RFC 959 section 4.2): bytes to values, values to bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from uftp.protocol._errors import LineTooLong, ProtocolError
from uftp.protocol.lines import LineReader

MAX_REPLY_BYTES = 16 * 1024 * 1024  # STAT of a directory comes as one reply
MAX_REPLY_LINE_BYTES = 64 * 1024

_FIRST_LINE = re.compile(rb"([1-9][0-9][0-9])([ -]|$)")
_GREETING_VERSION = re.compile(r"UFTPD ([0-9]+(?:\.[0-9]+)*),")


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. `lines` are without their ends; the first and last without the code, others as they came."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def text(self) -> str:
        """The last line, for people and logs."""
        return self.lines[-1].decode("utf-8", "surrogateescape")

    @property
    def first(self) -> str:
        """The first line's text."""
        return self.lines[0].decode("utf-8", "surrogateescape")

    @property
    def inner(self) -> tuple[bytes, ...]:
        """The lines between the first and the last one."""
        return self.lines[1:-1]

    @property
    def is_preliminary(self) -> bool:
        """1yz: another reply follows."""
        return self.code < 200

    @property
    def is_success(self) -> bool:
        """2yz."""
        return 200 <= self.code < 300

    @property
    def is_intermediate(self) -> bool:
        """3yz: go on with the next command."""
        return 300 <= self.code < 400

    def encode(self) -> bytes:
        """The reply as sent, CRLF at every line."""
        if len(self.lines) == 1:
            return b"%d %s\r\n" % (self.code, self.lines[0])
        out = bytearray(b"%d-%s\r\n" % (self.code, self.lines[0]))
        for line in self.inner:
            out += line + b"\r\n"
        out += b"%d %s\r\n" % (self.code, self.lines[-1])
        return bytes(out)


def reply(code: int, text: str | bytes) -> Reply:
    """A reply of one line. Line breaks in `text` become blanks: they would start another reply."""
    return Reply(code, (_one_line(text),))


def multi_line(code: int, first: str | bytes, inner: list[bytes], last: str | bytes) -> Reply:
    """A reply of several lines. Every inner line must start with a blank, so that none looks like the last one."""
    return Reply(code, (_one_line(first), *map(_one_line, inner), _one_line(last)))


def _one_line(text: str | bytes) -> bytes:
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return raw.replace(b"\r", b" ").replace(b"\n", b" ")


class ReplyReader:
    """Collects replies from the bytes of a server, ours or any other."""

    def __init__(self, max_bytes: int = MAX_REPLY_BYTES) -> None:
        self._reader = LineReader(max_bytes=MAX_REPLY_LINE_BYTES)
        self._max_bytes = max_bytes
        self._code = b""
        self._lines: list[bytes] = []
        self._size = 0

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the server."""
        self._reader.receive_data(data)

    def next_reply(self) -> Reply | None:
        """The next whole reply, or None until more bytes are in.

        Raises:
            ProtocolError: a line that is no reply, or a reply above the limit. The connection is of no further use.
        """
        while True:
            try:
                line = self._reader.next_line()
            except LineTooLong as error:
                raise ProtocolError(f"the server sent a {error}") from None
            if line is None:
                if self._reader.is_too_long:
                    raise ProtocolError(f"the server sent a line longer than {MAX_REPLY_LINE_BYTES} bytes")
                return None
            if (done := self._take(line)) is not None:
                return done

    def _take(self, line: bytes) -> Reply | None:
        if not self._lines:
            if not line.strip():
                return None  # an empty line between replies: some servers end listings so
            if not (match := _FIRST_LINE.match(line)):
                raise ProtocolError(f"the server sent no FTP reply: {line[:80]!r}")
            if match[2] != b"-":
                return Reply(int(match[1]), (line[4:],))
            self._code = match[1]
            self._lines = [line[4:]]
            self._size = 0
            return None
        self._size += len(line) + 2  # the line's end counts, or empty lines would come for ever
        if self._size > self._max_bytes:
            raise ProtocolError(f"the server sent a reply longer than {self._max_bytes} bytes")
        if line == self._code or line.startswith(self._code + b" "):
            done = Reply(int(self._code), (*self._lines, line[4:]))
            self._lines = []
            return done
        self._lines.append(line)
        return None


def greeting(version: str, text: str) -> Reply:
    """The 220 greeting; legacy clients read a dotted number before the comma (EXTENSIONS section 8)."""
    return reply(220, f"UFTPD {version}, {text}")


def greeting_version(received: Reply) -> str | None:
    """The version a UFTP server greets with, None for any other server."""
    match = _GREETING_VERSION.match(received.first)
    return match[1] if match else None

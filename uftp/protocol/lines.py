"""Lines of the control connection: bytes in, lines out (DATA-PLANE section 0, RFC 959 section 5.3).

Both ends take CRLF and bare LF. A server also drops Telnet sequences, which `ftplib` and others send around ABOR.
"""

from __future__ import annotations

from uftp.protocol._errors import LineTooLong

MAX_LINE_BYTES = 16 * 1024  # PATH_MAX is 4096; %XX triples it, a verb and two paths come on top

_IAC = 0xFF
_WILL, _DONT = 0xFB, 0xFE  # IAC WILL/WONT/DO/DONT carry an option byte


class LineReader:
    """Cuts a byte stream into lines, in linear time however the bytes arrive.

    Args:
        max_bytes: longest line taken. A longer one is dropped to its end and raises once.
        telnet: drop Telnet sequences. IAC IAC stands for one byte 0xFF, as does an IAC before a byte that is no
            Telnet command: clients send file names with that byte unescaped.
    """

    def __init__(self, *, max_bytes: int = MAX_LINE_BYTES, telnet: bool = False) -> None:
        self._max_bytes = max_bytes
        self._telnet = telnet
        self._buffer = bytearray()
        self._searched = 0
        self._skipping = False

    def __len__(self) -> int:
        """Bytes received and not yet returned as lines."""
        return len(self._buffer)

    @property
    def is_too_long(self) -> bool:
        """Whether the line under way is above the limit by now; its end may never come."""
        return self._skipping

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._buffer += data

    def next_line(self) -> bytes | None:
        """The next line without its end, or None until more bytes are in.

        Raises:
            LineTooLong: a line above the limit, once; call again for the next one.
        """
        end = self._buffer.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._buffer)
            if len(self._buffer) > self._max_bytes:
                self._buffer.clear()
                self._searched = 0
                self._skipping = True
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        if self._skipping or len(line) > self._max_bytes:
            self._skipping = False
            raise LineTooLong(f"line longer than {self._max_bytes} bytes")
        line = line.removesuffix(b"\r")
        return strip_telnet(line) if self._telnet and _IAC in line else line

    def next_lines(self) -> list[bytes]:
        """Whole lines that are in, as `next_line` gives them, many at once; none only if there is none.

        Raises:
            LineTooLong: as `next_line`, if that is the next one.
        """
        end = self._buffer.rfind(b"\n", self._searched)
        if end < 0 or end > self._max_bytes or self._skipping or (self._telnet and _IAC in self._buffer):
            line = self.next_line()
            return [] if line is None else [line]
        lines = bytes(self._buffer[:end]).split(b"\n")
        del self._buffer[: end + 1]
        self._searched = 0
        return [line[:-1] if line[-1:] == b"\r" else line for line in lines]

    def take_rest(self) -> bytes:
        """Hand over what has been received and not been returned, and forget it."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return rest


def strip_telnet(line: bytes) -> bytes:
    """`line` without Telnet commands (RFC 854): IAC IP, IAC DM and the option negotiations."""
    out = bytearray()
    position = 0
    while position < len(line):
        byte = line[position]
        following = line[position + 1] if position + 1 < len(line) else None
        if byte != _IAC or following is None or following < 0xF0:
            # 0xF2 is Telnet's Data Mark: the byte after IAC, or alone where the IAC went as urgent data.
            if not (byte == 0xF2 and not out):
                out.append(byte)
            position += 1
        elif following == _IAC:
            out.append(_IAC)
            position += 2
        else:
            position += 3 if _WILL <= following <= _DONT else 2
    return bytes(out)


def split_command(line: bytes) -> tuple[str, bytes]:
    """Verb in upper case, and argument: all behind the first blank, trailing blanks kept.

    Examples:
        >>> split_command(b"retr  two blanks ")
        ('RETR', b' two blanks ')
        >>> split_command(b"NOOP")
        ('NOOP', b'')
    """
    verb, _, argument = line.partition(b" ")
    return verb.decode("ascii", "replace").upper(), argument

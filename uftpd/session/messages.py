"""What a session process and the front may say to each other, over the session's report socket.

One SOCK_SEQPACKET message each, of at most `MAX_MESSAGE`. The unions below are the whole table: anything else does
not decode. The front sends `SessionSettings` first, before the process exists: so the spawner, whose memory every
later session is forked from, never sees what a session is about. End of file means drain.
"""

from __future__ import annotations

import socket
from typing import Final, Literal

import msgspec

from uftpd.session import copy_messages
from uftpd.session.copy_messages import CopyOrder

MAX_MESSAGE: Final = 192 * 1024


class _Message(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    pass


Kind = Literal["session", "user-info", "object", "copy"]


class Job(_Message, frozen=True):
    """What a child is for: the spawner's one message to it. Descriptors: control connection (sessions), report."""

    kind: Kind
    user: str


class SessionSettings(_Message, frozen=True):
    """Everything a login session is to know.

    Attributes:
        session_id: stands in every log line of the session.
        user, groups: account, and groups asked for (DATA-PLANE 1.8).
        file: session directory as in the request (DATA-PLANE 3.1).
        received: bytes the client sent behind its password.
        peer, local: addresses of the control connection, without ports.
        port_range: whether ports of data connections come from the front.
        key, algorithm: session key as in the request, and the legacy cipher it is for outside MODE U; empty without.
        cipher_allowed: whether that cipher may carry data.
        compress: legacy gzip outside MODE U.
        streams: data connections a transfer may have.
        copies, fetches: whether there are copies between servers, and from URLs.
    """

    session_id: str
    user: str
    groups: tuple[str, ...] = ()
    file: str = ""
    access: int = 4
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    scope: bytes = b""
    rate: int = 0
    received: bytes = b""
    peer: str = ""
    local: str = ""
    advertise: str = ""
    port_range: str = ""
    port_wait_seconds: float = 10.0
    line_bytes: int = 16384
    idle_seconds: float = 7200.0
    data_connect_seconds: float = 30.0
    stall_seconds: float = 300.0
    drain_seconds: float = 30.0
    durability: str = "rename"
    umask: int = 0o022
    confine_links: bool = False
    write_protected: tuple[str, ...] = ()
    utc_times: bool = False
    key: bytes = b""
    algorithm: str = ""
    cipher_allowed: bool = True
    compress: bool = False
    streams: int = 1
    copies: bool = False
    fetches: bool = False

    def __repr__(self) -> str:
        return f"SessionSettings({self.session_id!r}, user={self.user!r})"  # a key must not get into a traceback


class ObjectSettings(_Message, frozen=True):
    """Everything an object server is to know.

    Attributes:
        session: as whom, and where the object is; what concerns FTP alone is not looked at.
        digest: SHA-256 of the secret: requests with another one are not for this process.
        expires: seconds until the secret ends; what has begun may go on.
        connections, head_seconds, idle_seconds, stall_seconds, longest_seconds: see `uftpd.config.data.Objects`.
    """

    session: SessionSettings
    digest: bytes
    expires: float
    connections: int = 64
    head_seconds: float = 15.0
    idle_seconds: float = 30.0
    stall_seconds: float = 120.0
    longest_seconds: float = 86400.0


class CopySettings(_Message, frozen=True):
    """Everything the process of a copy between servers is to know.

    Attributes:
        session: as whom, and which files; what concerns FTP alone is not looked at.
        order: what is to be copied.
        addresses: of the other server, vetted; nothing else is connected to. Empty for a URL.
        user_rate: the share it has of its user's rate, bytes a second; 0 for no limit.
        authorities: PEM certificates that https URLs are trusted by, beside the system's.
    """

    session: SessionSettings
    order: CopyOrder
    addresses: tuple[str, ...] = ()
    user_rate: int = 0
    authorities: str = ""


class KeyFileRequest(_Message, frozen=True):
    """A user-info read: which files below the home to look for accepted keys in."""

    user: str
    key_files: tuple[str, ...]


# -- from the session ---------------------------------------------------------------------------------------------


class Ready(_Message, frozen=True):
    """The process runs as the user, the directory is there; it now answers the client."""


class Failed(_Message, frozen=True):
    """There will be no session, or no copy; the front answers the client with this code and reason."""

    reason: str
    code: int = 530


class Record(_Message, frozen=True):
    """A line for the log."""

    level: str
    event: str
    fields: dict[str, str | int | float | bool] = {}


class Transfers(_Message, frozen=True):
    """Usage lines of transfers that differ in little: a line each for the log, but not a table of facts each.

    Attributes:
        before: facts of all of them, that stand first.
        rows: of each its path, its bytes, and the seconds it took.
        behind: facts of all of them, that stand last.
    """

    before: dict[str, str]
    rows: tuple[tuple[str, int, float], ...]
    behind: dict[str, str | bool]


class WantPort(_Message, frozen=True):
    """A port of the range, please. Answered by `Port`, in the order asked over all sessions."""


class ReturnPort(_Message, frozen=True):
    """The port is no longer listened on; `busy`: somebody else on this machine holds it."""

    port: int
    busy: bool = False


class KeyFiles(_Message, frozen=True):
    """Result of a user-info read."""

    home: str
    keys: tuple[str, ...]
    status: str


FromSession = (
    Ready
    | Failed
    | Record
    | Transfers
    | WantPort
    | ReturnPort
    | KeyFiles
    | copy_messages.FromSession
    | copy_messages.FromCopy
)


# -- to the session -----------------------------------------------------------------------------------------------


class Drain(_Message, frozen=True):
    """Take no more commands; a running transfer may go on for this long."""

    seconds: float


class Rate(_Message, frozen=True):
    """This session's share of its user's rate, bytes a second; 0 for no limit."""

    rate: int


class Port(_Message, frozen=True):
    """A port to listen on, or 0: none came free in time."""

    port: int


ToSession = (
    SessionSettings
    | ObjectSettings
    | CopySettings
    | KeyFileRequest
    | Drain
    | Rate
    | Port
    | copy_messages.CopyAnswer
    | copy_messages.Addresses
    | copy_messages.EndCopy
)

_encoder = msgspec.msgpack.Encoder()
_from_session: msgspec.msgpack.Decoder[FromSession] = msgspec.msgpack.Decoder(FromSession)
_job: msgspec.msgpack.Decoder[Job] = msgspec.msgpack.Decoder(Job)
_to_session: msgspec.msgpack.Decoder[ToSession] = msgspec.msgpack.Decoder(ToSession)


def encode(message: FromSession | ToSession | Job) -> bytes:
    """The bytes of a message."""
    return _encoder.encode(message)


def decode_from_session(data: bytes) -> FromSession:
    """Read a session's message.

    Raises:
        msgspec.MsgspecError: not in the table.
    """
    return _from_session.decode(data)


def decode_to_session(data: bytes) -> ToSession:
    """Read the front's message.

    Raises:
        msgspec.MsgspecError: not in the table.
    """
    return _to_session.decode(data)


def decode_job(data: bytes) -> Job:
    """Read the spawner's message.

    Raises:
        msgspec.MsgspecError: not a job.
    """
    return _job.decode(data)


def report_pair() -> tuple[socket.socket, socket.socket]:
    """A report socket: the front's end and the session's."""
    front, session = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (front, session):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_MESSAGE)
    return front, session

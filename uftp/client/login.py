"""Opening an FTP session: connect, greeting, login, what the server can, and the options both ends agree on."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from uftp.client.control import ControlConnection, open_control
from uftp.client.dialect import Dialect
from uftp.client.layers import LegacyCipher, buffer_bytes_of, layers_of
from uftp.client.session import FTPSession
from uftp.client.wording import is_about_a_missing_file, is_about_rights, printable
from uftp.errors import AuthenticationFailed, NetworkError, NotFound, PeerBrokeProtocol, Refused, TimedOut, UsageError
from uftp.protocol.features import Features
from uftp.protocol.names import unquote
from uftp.protocol.replies import Reply, greeting_version
from uftp.streams import NO_LAYERS

if TYPE_CHECKING:
    from uftp.client.record_mode import RecordMode
    from uftp.protocol.record_mode import RecordOptions

_LINE_BREAKS: Final = ("\r", "\n", "\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How FTP sessions behave. All times in seconds.

    Attributes:
        family: AF_INET or AF_INET6 to use only that; AF_UNSPEC for both.
        connect_timeout: for each connection.
        reply_timeout: longest silence while a reply is due.
        final_timeout: longest silence after the last byte of a transfer, and during HASH.
        stall_timeout: longest time a transfer may move no byte.
        replace_links: whether a file that is stored takes the place of a symbolic link of its name, where the server
            can do so, instead of going where the link leads.
        server_options: OPTS to set after login, name to value (existing clients take them from UFTP_OPTIONS).
        required_features: FEAT lines that must be there: told by the auth server over HTTPS, so that nobody on the
            wire can talk the session down.
        mode: "auto" uses MODE U where the server has it; "stream" never does.
        encrypt: whether data may move encrypted only.
        legacy_cipher: what encrypts where there is no MODE U; None for an error there.
        streams: data connections of one transfer where there is no MODE U.
        key: session key, as asked for from the auth server: data moves encrypted, or not at all. Empty for none.
        compress: whether data is compressed on the way.
        compress_records: whether it is in MODE U, and only there: outside of it both requests must have asked for it.
        digest: whether transfers in MODE U carry digests that both ends compare.
        compression_level: of zstd in MODE U, 1 to 19; None for the usual one.
    """

    family: socket.AddressFamily = socket.AF_UNSPEC
    connect_timeout: float = 30.0
    reply_timeout: float = 60.0
    final_timeout: float = 600.0
    stall_timeout: float = 300.0
    replace_links: bool = False
    server_options: Mapping[str, str] = field(default_factory=dict)
    required_features: Sequence[str] = ()
    mode: Literal["auto", "stream"] = "auto"
    encrypt: bool = False
    legacy_cipher: LegacyCipher | None = None
    streams: int = 1
    key: bytes = field(default=b"", repr=False)
    compress: bool = False
    compress_records: bool = False
    compression_level: int | None = None
    digest: bool = True


@contextlib.asynccontextmanager
async def open_ftp_session(
    host: str, port: int, *, user: str, password: str, options: SessionOptions | None = None
) -> AsyncIterator[FTPSession]:
    """An FTP session for the block.

    Args:
        host, port: the server.
        user: `anonymous` for UFTP servers.
        password: for UFTP servers the one-time secret.
        options: see there.

    Raises:
        AuthenticationFailed: the login is refused.
        NetworkError, PeerBrokeProtocol, Refused: see `uftp.errors`.
    """
    session = await log_in(host, port, user=user, password=password, options=options)
    try:
        yield session
    finally:
        await session.aclose()


async def log_in(
    host: str, port: int, *, user: str, password: str, options: SessionOptions | None = None
) -> FTPSession:
    """Like `open_ftp_session`; the caller closes the session."""
    options = options or SessionOptions()
    _check(host, user, password, options)
    control = await open_control(
        host, port, family=options.family, connect_timeout=options.connect_timeout, reply_timeout=options.reply_timeout
    )
    return await log_in_on(control, user=user, password=password, options=options)


async def log_in_on(control: ControlConnection, *, user: str, password: str, options: SessionOptions) -> FTPSession:
    """Like `log_in`, on a connection that has just been made; it is closed after an error."""
    try:
        _check(control.name, user, password, options)
        ahead = await _send_ahead(control, user, password, options)
        greeting = await _greet(control)
        await _authenticate(ahead, user, password)
        dialect = await _learn(ahead, greeting, options)
        records = await _agree(ahead, dialect, options)
        layers, streams = (NO_LAYERS, 1) if records is not None else layers_of(control.name, dialect, options)
        start = await _start_directory(control) if dialect.kind == "other" else b""
    except BaseException:
        control.break_off("login failed")
        raise
    return FTPSession(
        control,
        dialect,
        records=records,
        layers=layers,
        streams=streams,
        buffer_bytes=buffer_bytes_of(options),
        start_directory=start,
        connect_timeout=options.connect_timeout,
        stall_timeout=options.stall_timeout,
        final_timeout=options.final_timeout,
    )


def _check(name: str, user: str, password: str, options: SessionOptions) -> None:
    """Refuse what needs no server to be known as wrong."""
    if options.encrypt and not options.key:
        raise UsageError(f"{name}: encryption needs the session key that an auth server passes on")
    if any(character in user + password for character in _LINE_BREAKS):
        raise AuthenticationFailed("user name or password has a line break in it")


class _Ahead:
    """Commands of which the first were sent before anything was answered; the replies come in order."""

    def __init__(self, control: ControlConnection, sent: Sequence[bytes] = ()) -> None:
        self.control = control
        self.name = control.name
        self._sent = deque(sent)

    async def command(self, line: bytes, *, shown: bytes | None = None) -> Reply:
        """As `ControlConnection.command`."""
        if self._sent and self._sent[0] == line:
            self._sent.popleft()
            return await self.control.receive()
        await self.take_back()
        return await self.control.command(line, shown=shown)

    async def commands(self, lines: Sequence[bytes]) -> list[Reply]:
        """As `ControlConnection.commands`."""
        if list(self._sent) != list(lines):
            await self.take_back()
            return await self.control.commands(lines)
        return [await self.command(line) for line in lines]

    async def take_back(self) -> None:
        """What was sent was no good: have it answered, and leave the mode it may have led to."""
        if self._sent:
            for _ in self._sent:
                await self.control.receive()
            self._sent.clear()
            await self.control.command(b"MODE S")


async def _send_ahead(control: ControlConnection, user: str, password: str, options: SessionOptions) -> _Ahead:
    """To a server of our own, known as such from the auth server, all of the login goes in one flight.

    Its answers are looked at as if it had not: what it says of itself must still be what it was said to be.
    """
    promised = Features.parse([feature.encode() for feature in options.required_features])
    if Dialect.of(None, promised).kind != "ours" or options.server_options:
        return _Ahead(control)
    secret = password.encode("utf-8", "surrogateescape")
    first = [b"USER " + user.encode("utf-8", "surrogateescape"), b"PASS " + secret, b"FEAT"]
    try:
        lines, _ = _lines_for_ours(promised, options)
    except Refused:
        lines = []  # the server itself will be asked
    everything = [*first, *lines]
    shown = [first[0], b"PASS ...", *everything[2:]]
    await control.send(b"\r\n".join(everything), shown=b"\r\n".join(shown))
    return _Ahead(control, everything)


async def _greet(control: ControlConnection) -> Reply:
    greeting = await control.receive()
    while greeting.is_preliminary:
        greeting = await control.receive()
    if not greeting.is_success:
        said = f"{greeting.code} {printable(greeting.text)}"
        raise NetworkError(f"{control.name}: the server lets nobody in now: {said}; try again later")
    return greeting


async def _authenticate(control: _Ahead, user: str, password: str) -> None:
    reply = await control.command(b"USER " + user.encode("utf-8", "surrogateescape"))
    if reply.code in (331, 332):
        secret = password.encode("utf-8", "surrogateescape")
        reply = await control.command(b"PASS " + secret, shown=b"PASS ...")
    if reply.is_success:
        return
    said = f"the server said {reply.code} {printable(reply.text).replace(password or chr(0), '...')}"
    if reply.code == 421:
        raise NetworkError(f"{control.name}: cannot log in: {said}; try again later")
    if "session directory" in reply.text and is_about_rights(reply.text):
        raise Refused(f"{control.name}: no session: {said}; check the rights on the directory", code=reply.code)
    if is_about_a_missing_file(reply.text):
        raise NotFound(f"{control.name}: no session: {said}; does the directory exist there?", code=reply.code)
    if reply.code == 530 or reply.is_intermediate:
        raise AuthenticationFailed(f"{control.name}: login refused: {said}")
    raise Refused(f"{control.name}: cannot log in: {said}", code=reply.code)


async def _learn(control: _Ahead, greeting: Reply, options: SessionOptions) -> Dialect:
    version = greeting_version(greeting)
    try:
        reply = await control.command(b"FEAT")
    except NetworkError as error:
        if version is None or isinstance(error, TimedOut):
            raise
        # Upstream closes without a word if it cannot set the session up (DATA-PLANE 13.3).
        raise NotFound(
            f"{control.name}: the server ended the session right after the login; does the directory exist there?"
        ) from error
    features = Features.parse(reply.inner if reply.code == 211 else ())
    missing = [name for name in options.required_features if not _lists(features, name)]
    if missing:
        raise PeerBrokeProtocol(
            f"{control.name}: the server hides what the auth server promised ({', '.join(map(printable, missing))}); "
            "somebody may be changing the traffic"
        )
    return Dialect.of(version, features)


def _lists(features: Features, promised: str) -> bool:
    word, _, rest = promised.partition(" ")
    return rest in features.hash_algorithms if word == "HASH" else promised in features


async def _agree(control: _Ahead, dialect: Dialect, options: SessionOptions) -> RecordMode | None:
    """Set what makes names, times and bytes exact. Failures that only lose comfort are ignored."""
    records = None
    if dialect.kind == "ours":
        records = await _agree_with_ours(control, dialect, options)
    elif dialect.kind == "other":
        reply = await control.command(b"TYPE I")
        if not reply.is_success:
            raise Refused(f"{control.name}: the server does no binary transfers: {reply.code}", code=reply.code)
        if "UTF8" in dialect.features:
            await control.command(b"OPTS UTF8 ON")
        if any(line.startswith("MLST ") and "UNIX.MODE" in line for line in dialect.features.lines):
            await control.command(b"OPTS MLST type;perm;size;modify;UNIX.mode;")  # the mode is often off at first
    for name, value in options.server_options.items():
        option = f"OPTS {name} {value}"
        if any(character in option for character in _LINE_BREAKS):
            raise Refused(f"{printable(option)}: an option cannot have line breaks")
        reply = await control.command(option.encode("utf-8", "surrogateescape"))
        if not reply.is_success:
            raise Refused(f"{control.name}: {printable(option)}: {reply.code} {printable(reply.text)}", code=reply.code)
    return records


def _lines_for_ours(features: Features, options: SessionOptions) -> tuple[list[bytes], RecordOptions | None]:
    """UTC, any name, and MODE U, all asked for in one go: a session costs no more round trips for it.

    Raises:
        Refused: see `record_mode.choose_options`.
    """
    lines = [b"OPTS UTC ON", b"OPTS NAMES PCT"]
    if options.replace_links and "LINKS" in features:
        lines.append(b"OPTS LINKS REPLACE")
    if options.mode == "stream" or "MODE U" not in features:
        return lines, None
    from uftp.client import record_mode

    compressed = options.compress or options.compress_records
    level = (options.compression_level or record_mode.DEFAULT_LEVEL) if compressed else None
    wanted = record_mode.choose_options(features, key=options.key, level=level, digest=options.digest)
    return [*lines, *record_mode.request_lines(wanted)], wanted


async def _agree_with_ours(control: _Ahead, dialect: Dialect, options: SessionOptions) -> RecordMode | None:
    lines, wanted = _lines_for_ours(dialect.features, options)
    replies = await control.commands(lines)
    records = None
    if wanted is not None:
        from uftp.client import record_mode

        *replies, chosen, entered = replies
        try:
            records = record_mode.RecordMode.agreed(wanted, options.key, (chosen, entered))
        except Refused as error:
            if options.key:
                raise Refused(f"{control.name}: no encryption: {error}", code=error.code) from error
            if entered.is_success:
                await control.command(b"MODE S")  # it took the line, but not the options
    for line, reply in zip(lines, replies, strict=False):
        if not reply.is_success:
            raise PeerBrokeProtocol(f"{control.name}: {line.decode()} is in FEAT, but answered {reply.code}")
    return records


async def _start_directory(control: ControlConnection) -> bytes:
    """Where the login starts: listings by CWD must find back (LIST takes no name safely)."""
    reply = await control.command(b"PWD")
    return unquote(reply.lines[-1]) if reply.code == 257 else b"/"

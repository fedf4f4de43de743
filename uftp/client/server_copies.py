"""Copies between servers, as asked for on a session of the server that runs them (DATA-PLANE 12, EXTENSIONS 3).

The session only starts, watches and ends a copy: it may be closed while the copy runs, and another session of the
same user on the same server can go on watching.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from uftp.client.moving import range_line
from uftp.client.session import FTPSession
from uftp.client.wording import printable, refusal
from uftp.errors import NotFound, PeerBrokeProtocol, Refused
from uftp.protocol import ProtocolError
from uftp.protocol.replies import Reply
from uftp.protocol.server_copies import (
    CopyError,
    CopyStatus,
    CopyWords,
    format_copy_arguments,
    format_copy_words,
    format_host_port,
    parse_abort_answer,
    parse_copy_error,
    parse_copy_id,
    parse_copy_status,
    parse_errors_end,
)

R = TypeVar("R")
A = TypeVar("A")

_DONE: Final = 299
_NOT_WITH: Final = "this site allows no copies"
_ABORT_SECONDS: Final = 120.0  # the copy removes what it has not finished, and a file system may be slow


def can_report(session: FTPSession) -> bool:
    """Whether the server tells what becomes of copies: RCP-PROGRESS. Others answer RCP-STATUS with an error."""
    return "RCP-PROGRESS" in session.dialect.features


def can_copy_trees(session: FTPSession) -> bool:
    """Whether the server takes words on how to copy, keeps errors by file, and ends copies so that they can go on."""
    return "RCP-TREES" in session.dialect.features


def can_fetch(session: FTPSession) -> bool:
    """Whether the server fetches https URLs."""
    return "RCP-FETCH" in session.dialect.features


async def set_copy_words(session: FTPSession, words: CopyWords) -> None:
    """Say how the copies are done that this session starts from now on (OPTS RCP).

    Raises:
        Refused: the server does not know one of the words, or none at all; nothing changes.
    """
    line = b"OPTS RCP " + format_copy_words(words)
    await _ask(session, line.rstrip(), 200, None, "choose how it is copied")


async def set_copy_range(session: FTPSession, offset: int, length: int | None) -> None:
    """Have the next copy move only a part of the file, and write it at the same place of the target (RANG).

    Args:
        session: on the server that runs the copy.
        offset: first byte.
        length: bytes from there; None to the end.

    Raises:
        Refused: the server cannot.
    """
    await _ask(session, range_line(session.dialect, offset, length), 350, None, "set the range")


async def set_copy_streams(session: FTPSession, streams: int) -> None:
    """Have copies of this session use so many connections at once, where the other server has no MODE U (NOOP).

    Raises:
        Refused: the server does not grant as many.
    """
    reply = await _command(session, b"NOOP %d" % streams, None)
    if not reply.is_success:
        raise refusal(reply, None, f"use {streams} streams")


async def start_send(session: FTPSession, local: bytes, remote: bytes, host: str, port: int, secret: str) -> int:
    """Have the server send its `local` to `remote` of another one (SEND-FILE).

    Args:
        session: on the server that runs the copy.
        local: what to copy; with wildcards only under TREES.
        remote: where to, on the other server.
        host, port: the other server's FTP port. The server of `session` decides whether it connects there.
        secret: one-time password for the other server, good for as many logins as LOGINS says.

    Returns:
        The id of the copy.

    Raises:
        NotFound: no such file.
        Refused: no right to it, or the other server is none this one copies with, or it knows no such command.
        PeerBrokeProtocol: a reply that holds no id.
    """
    return await _start(session, b"SEND-FILE", local, remote, host, port, secret, "send it to the other server")


async def start_receive(session: FTPSession, local: bytes, remote: bytes, host: str, port: int, secret: str) -> int:
    """Have the server fetch `remote` of another one as its `local` (RECEIVE-FILE); else as `start_send`."""
    return await _start(session, b"RECEIVE-FILE", local, remote, host, port, secret, "fetch it from the other server")


async def start_fetch(session: FTPSession, local: bytes, url: str) -> int:
    """Have the server fetch an https URL or share link as its `local` (RCP-FETCH).

    Returns:
        The id of the copy.

    Raises:
        Refused: it fetches nothing, or not from there.
        NotFound: no directory for `local`.
    """
    line = _line(session, b"RCP-FETCH", local, url.encode("utf-8", "surrogateescape"))
    # A link is as good as a password.
    shown = _line(session, b"RCP-FETCH", local, b"...")
    return _id(session, await _ask(session, line, _DONE, local, "fetch it", shown=shown, hidden=url))


async def status(session: FTPSession, copy: int) -> CopyStatus:
    """What is known of a copy (RCP-STATUS). UNKNOWN is an answer, too: forgotten after an hour, or somebody else's.

    Raises:
        Refused: the server cannot tell; upstream never can (DATA-PLANE 12).
    """
    reply = await _ask(session, b"RCP-STATUS %d" % copy, _DONE, None, "tell how the copy stands")
    return _read(session, parse_copy_status, reply.text)


async def abort(session: FTPSession, copy: int, *, keep: bool = False) -> str:
    """End a copy, and wait until it has ended (RCP-ABORT).

    Args:
        session: of the user who started the copy.
        copy: its id.
        keep: whether what a later copy can go on with is left; only where `can_copy_trees` says so.

    Returns:
        ABORTED, or what it was already: FINISHED, FAILED, UNKNOWN.

    Raises:
        Refused: the server cannot end copies.
    """
    line = b"RCP-ABORT %d%s" % (copy, b" KEEP" if keep else b"")
    reply = await _ask(session, line, _DONE, None, "end the copy", silence=_ABORT_SECONDS)
    return _read(session, parse_abort_answer, reply.text)


async def errors(session: FTPSession, copy: int, first: int = 0) -> tuple[list[CopyError], int]:
    """Which files of a copy failed (RCP-ERRORS), at most 200 a call.

    Args:
        session: of the user who started the copy.
        copy: its id.
        first: where to begin, in the order of the failures.

    Returns:
        The failures, and where to begin next; 0 if these are all there are for now.

    Raises:
        Refused: the server keeps no such list, or knows no such copy.
    """
    reply = await _ask(session, b"RCP-ERRORS %d %d" % (copy, first), _DONE, None, "list what failed")
    following = _read(session, parse_errors_end, reply.text)
    found = [_read(session, parse_copy_error, line) for line in reply.inner if line.strip()]
    if following and following <= first:
        raise PeerBrokeProtocol(f"{session.name}: a list of failures that leads back to {following}")
    return found, following


async def _start(
    session: FTPSession, verb: bytes, local: bytes, remote: bytes, host: str, port: int, secret: str, action: str
) -> int:
    try:
        place = format_host_port(host, port)
    except UnicodeEncodeError as error:
        raise PeerBrokeProtocol(f"{printable(host)}: not the name of a host") from error
    password = secret.encode("utf-8", "surrogateescape")
    line = _line(session, verb, local, remote, place, password)
    shown = _line(session, verb, local, remote, place, b"...")
    try:
        return _id(session, await _ask(session, line, _DONE, local, action, shown=shown, hidden=secret))
    except Refused as error:
        if _NOT_WITH in str(error):
            raise Refused(
                f"{session.name}: its site allows no copies with {place.decode()}, or knows no such host; those who "
                "run it can allow them",
                code=error.code,
            ) from error
        raise


def _line(session: FTPSession, verb: bytes, *words: bytes) -> bytes:
    try:
        return verb + b" " + format_copy_arguments(words, pct=session.dialect.kind == "ours")
    except ProtocolError as error:
        raise Refused(f"{printable(words[0])}: {error}") from error


def _id(session: FTPSession, reply: Reply) -> int:
    return _read(session, parse_copy_id, reply.text)


async def _ask(
    session: FTPSession,
    line: bytes,
    code: int,
    path: bytes | None,
    action: str,
    *,
    shown: bytes | None = None,
    silence: float | None = None,
    hidden: str = "",
) -> Reply:
    reply = await _command(session, line, shown, silence)
    if hidden:
        # Servers repeat a command that they do not take.
        secret = hidden.encode("utf-8", "surrogateescape")
        reply = Reply(reply.code, tuple(line.replace(secret, b"...") for line in reply.lines))
    if reply.code == code:
        return reply
    if reply.is_success or reply.is_preliminary:
        raise PeerBrokeProtocol(f"{session.name}: {reply.code} {printable(reply.text)} to {printable(line[:10])}")
    error = refusal(reply, path, action)
    if path is None and isinstance(error, NotFound):
        raise Refused(str(error), code=reply.code)  # "no such word" is about no file
    raise error


async def _command(session: FTPSession, line: bytes, shown: bytes | None, silence: float | None = None) -> Reply:
    async with session.control.dialogue():
        return await session.control.command(line, shown=shown, silence=silence)


def _read(session: FTPSession, parse: Callable[[A], R], value: A) -> R:
    try:
        return parse(value)
    except ProtocolError as error:
        raise PeerBrokeProtocol(f"{session.name}: {printable(str(error))}") from error

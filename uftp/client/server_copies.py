"""Copies between servers, as asked for on a session of the server that runs them (DATA-PLANE 12, EXTENSIONS 3).

The session only starts, watches and ends a copy: it may be closed while the copy runs, and another session of the
same user on the same server can go on watching.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uftp.client.session import FTPSession

if TYPE_CHECKING:
    from uftp.protocol.server_copies import CopyError, CopyStatus, CopyWords


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
    raise NotImplementedError


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
    raise NotImplementedError


async def start_receive(session: FTPSession, local: bytes, remote: bytes, host: str, port: int, secret: str) -> int:
    """Have the server fetch `remote` of another one as its `local` (RECEIVE-FILE); else as `start_send`."""
    raise NotImplementedError


async def start_fetch(session: FTPSession, local: bytes, url: str) -> int:
    """Have the server fetch an https URL or share link as its `local` (RCP-FETCH).

    Returns:
        The id of the copy.

    Raises:
        Refused: it fetches nothing, or not from there.
        NotFound: no directory for `local`.
    """
    raise NotImplementedError


async def status(session: FTPSession, copy: int) -> CopyStatus:
    """What is known of a copy (RCP-STATUS). UNKNOWN is an answer, too: forgotten after an hour, or somebody else's.

    Raises:
        Refused: the server cannot tell; upstream never can (DATA-PLANE 12).
    """
    raise NotImplementedError


async def abort(session: FTPSession, copy: int, *, keep: bool = False) -> str:
    """End a copy, and wait until it has ended (RCP-ABORT).

    Args:
        session: of the user who started the copy.
        copy: its id.
        keep: whether what a later copy can go on with is left.

    Returns:
        ABORTED, or what it was already: FINISHED, FAILED, UNKNOWN.

    Raises:
        Refused: the server cannot end copies.
    """
    raise NotImplementedError


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
    raise NotImplementedError

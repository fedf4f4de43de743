"""Many small commands in one go: changes of files, and checksums of many, several to a round trip.

Only UFTP servers of ours are sent commands ahead of their replies; to others they go one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from uftp.client.ahead import ask_many
from uftp.client.session import FTPSession
from uftp.client.wording import refusal
from uftp.errors import NotFound, PeerBrokeProtocol, Refused, UFTPError
from uftp.protocol import ProtocolError
from uftp.protocol.facts import format_kept
from uftp.protocol.hashing import find_algorithm, parse_hash
from uftp.protocol.replies import Reply

# Well below what a server keeps of lines it has not served (EXTENSIONS section 1, "Pipelining").
_BYTES_AHEAD: Final = 32 * 1024
_LINES_AHEAD: Final = 128


class Change(NamedTuple):
    """A command that changes one file or directory.

    Attributes:
        line: without line end.
        path: what it is about, for messages.
        action: in words, for messages.
        codes: of replies that mean it is done.
    """

    line: bytes
    path: bytes
    action: str
    codes: tuple[int, ...]


def make_directory(session: FTPSession, path: bytes) -> Change:
    """MKD."""
    return Change(b"MKD " + session.wire(path), path, "create the directory", (257,))


def remove_directory(session: FTPSession, path: bytes) -> Change:
    """RMD, of an empty directory."""
    return Change(b"RMD " + session.wire(path), path, "remove the directory", (200, 250))


def remove_file(session: FTPSession, path: bytes) -> Change:
    """DELE, of a file or a link."""
    return Change(b"DELE " + session.wire(path), path, "remove the file", (200, 250))


def make_link(session: FTPSession, target: bytes, path: bytes) -> Change:
    """SITE SYMLINK (EXTENSIONS section 6).

    Raises:
        Refused: the server makes no links.
    """
    return Change(session.symlink_line(target, path), path, "make the link", (200, 250))


def set_facts(session: FTPSession, path: bytes, mtime_ns: int | None, permissions: int | None) -> Change:
    """MFF, on our own servers."""
    facts = format_kept(mtime_ns, permissions)
    return Change(b"MFF " + facts + b" " + session.wire(path), path, "set time and mode", (213,))


async def change_many(session: FTPSession, changes: Sequence[Change], outcomes: list[UFTPError | None]) -> None:
    """Run changes in order; one that is refused does not stop the others.

    Args:
        session: a usable session.
        changes: what to do.
        outcomes: gets one for each as it is known: None if it is done. Whatever happens, those that have none are the
            ones whose fate is unknown.

    Raises:
        NetworkError, PeerBrokeProtocol: the session is lost.
    """
    lines = [change.line for change in changes]
    await ask_many(session, lines, lambda place, reply: outcomes.append(_outcome(session, changes[place], reply)))


def _outcome(session: FTPSession, change: Change, reply: Reply) -> UFTPError | None:
    if reply.code in change.codes:
        return None
    if reply.is_preliminary:
        raise PeerBrokeProtocol(f"{session.name}: {reply.code} to {change.line[:4].decode()}")
    return refusal(reply, change.path, change.action)


def _portions(session: FTPSession, changes: Sequence[Change]) -> Iterator[list[Change]]:
    portion: list[Change] = []
    size = 0
    for change in changes:
        if portion and (
            session.dialect.kind != "ours" or len(portion) >= _LINES_AHEAD or size + len(change.line) > _BYTES_AHEAD
        ):
            yield portion
            portion, size = [], 0
        portion.append(change)
        size += len(change.line) + 2
    if portion:
        yield portion


async def checksum_many(
    session: FTPSession, paths: Sequence[bytes], algorithm: str, digests: list[str | UFTPError]
) -> None:
    """Digests of whole files, as the server computes them.

    Args:
        session: a usable session.
        paths: the files.
        algorithm: as FEAT spells it.
        digests: gets one for each as it comes, in hex, or why there is none.

    Raises:
        NetworkError, PeerBrokeProtocol: the session is lost.
        Refused: the server does not know the algorithm.
    """
    if session.dialect.kind != "ours":
        for path in paths:
            try:
                digests.append((await session.checksum(path, algorithm)).digest)
            except (Refused, NotFound) as error:
                digests.append(error)
        return
    async with session.control.dialogue():
        chosen = await session.control.command(f"OPTS HASH {algorithm}".encode())
        if chosen.code != 200:
            raise refusal(chosen, None, "choose the checksum")
        asked = [Change(b"HASH " + session.wire(path), path, "compute the checksum", (213,)) for path in paths]
        for some in _portions(session, asked):
            await session.control.send(b"\r\n".join(one.line for one in some))
            for one in some:
                reply = await session.control.receive(session.final_timeout)
                problem = _outcome(session, one, reply)
                digests.append(_digest(session, reply, algorithm) if problem is None else problem)


def _digest(session: FTPSession, reply: Reply, algorithm: str) -> str:
    try:
        found = parse_hash(reply)
    except ProtocolError as error:
        raise PeerBrokeProtocol(f"{session.name}: the server sent {error}") from error
    if find_algorithm(found.algorithm) != algorithm or not re.fullmatch(r"[0-9A-Fa-f]+", found.digest):
        raise PeerBrokeProtocol(f"{session.name}: asked for {algorithm}, the server computed {found.algorithm}")
    return found.digest.lower()

"""Short commands sent ahead of their replies, to servers that take them so: many directories cost few round trips.

At most so many bytes are unanswered as the extensions allow (section 1, pipelining), so that neither end waits for the
other for good. Other servers get one line at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from uftp.client.session import FTPSession
from uftp.client.wording import refusal
from uftp.errors import PeerBrokeProtocol, UFTPError
from uftp.protocol.facts import FileInfo, format_kept
from uftp.protocol.replies import Reply

_WINDOW_BYTES: Final = 32 * 1024

Answered = Callable[[int, Reply], None]
Outcome = Callable[[int, UFTPError | None], None]


async def ask_many(session: FTPSession, lines: Sequence[bytes], answered: Answered) -> None:
    """Send `lines`, and tell `answered` of the reply to each, by its place, in order.

    Raises:
        NetworkError, PeerBrokeProtocol: the session is lost; what was not answered may have been done or not.
    """
    window = _WINDOW_BYTES if session.dialect.kind == "ours" else 1
    sent, done, unanswered = 0, 0, 0
    async with session.control.dialogue():
        while done < len(lines):
            going: list[bytes] = []
            while sent < len(lines) and (not unanswered or unanswered + len(lines[sent]) + 2 <= window):
                going.append(lines[sent])
                unanswered += len(lines[sent]) + 2
                sent += 1
            if going:
                await session.control.send(b"\r\n".join(going))
            for reply in await session.control.receive_some():
                if done == sent or reply.is_preliminary:
                    raise PeerBrokeProtocol(f"{session.name}: {reply.code} comes out of turn")
                unanswered -= len(lines[done]) + 2
                done += 1
                answered(done - 1, reply)


async def make_directories(session: FTPSession, paths: Sequence[bytes], outcome: Outcome) -> None:
    """MKD of many; `outcome` is told of each, None for one that is made. Parents stand before what is in them.

    Raises:
        NetworkError, PeerBrokeProtocol: as `ask_many`.
    """
    await _change_many(session, [(path, b"MKD ") for path in paths], 257, "create the directory", outcome)


async def set_facts(
    session: FTPSession, facts: Sequence[tuple[bytes, int | None, int | None]], outcome: Outcome
) -> None:
    """Times and permission bits of many files or directories, given as (path, mtime_ns, permissions).

    Raises:
        NetworkError, PeerBrokeProtocol: as `ask_many`.
    """
    if session.dialect.kind != "ours":
        for place, (path, mtime_ns, permissions) in enumerate(facts):
            try:
                await session.set_facts(path, mtime_ns=mtime_ns, permissions=permissions)
            except UFTPError as error:
                if not session.usable:
                    raise
                outcome(place, error)
            else:
                outcome(place, None)
        return
    commands = [(path, b"MFF " + format_kept(mtime_ns, permissions) + b" ") for path, mtime_ns, permissions in facts]
    await _change_many(session, commands, 213, "set time and mode", outcome)


async def look_at_many(
    session: FTPSession, paths: Sequence[bytes], found: Callable[[int, FileInfo | UFTPError], None]
) -> None:
    """What many paths are; links are told as such where the server can.

    Raises:
        NetworkError, PeerBrokeProtocol: as `ask_many`.
    """
    if session.dialect.kind != "ours":
        for place, path in enumerate(paths):
            try:
                found(place, await session.stat(path))
            except UFTPError as error:
                if not session.usable:
                    raise
                found(place, error)
        return

    def answered(place: int, reply: Reply) -> None:
        if reply.code == 250:
            found(place, session.facts_in(reply))
        else:
            found(place, refusal(reply, paths[place], "look at it"))

    await session.show_links(session.dialect.has_links)
    await ask_many(session, [b"MLST " + session.wire(path) for path in paths], answered)


async def make_links(session: FTPSession, links: Sequence[tuple[bytes, bytes]], outcome: Outcome) -> None:
    """Symbolic links, given as (path, target); nothing may be there.

    Raises:
        Refused: the server makes none.
        NetworkError, PeerBrokeProtocol: as `ask_many`.
    """
    lines = [session.symlink_line(target, path) for path, target in links]

    def answered(place: int, reply: Reply) -> None:
        outcome(place, None if reply.code in (200, 250) else refusal(reply, links[place][0], "make the link"))

    await ask_many(session, lines, answered)


async def _change_many(
    session: FTPSession, commands: Sequence[tuple[bytes, bytes]], code: int, action: str, outcome: Outcome
) -> None:
    lines: list[bytes] = []
    places: list[int] = []
    for place, (path, command) in enumerate(commands):
        try:
            lines.append(command + session.wire(path))
        except UFTPError as error:  # a name that cannot be said to this server
            outcome(place, error)
        else:
            places.append(place)

    def answered(number: int, reply: Reply) -> None:
        place = places[number]
        outcome(place, None if reply.code == code else refusal(reply, commands[place][0], action))

    await ask_many(session, lines, answered)

"""Commands on files that need no data connection. They block, and run in a worker thread each.

Each takes the session and the argument, and returns the reply; errors of the operating system pass through.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import replace

from uftp.protocol import ProtocolError
from uftp.protocol.facts import FactChange, FileInfo, format_facts, format_stat, format_time, parse_mff, parse_time
from uftp.protocol.hashing import format_hash
from uftp.protocol.names import is_sayable, pct_decode, quote
from uftp.protocol.replies import Reply, multi_line, reply
from uftp.streams import Meter, hash_file
from uftpd.session.paths import split
from uftpd.session.replies import NOT_THERE, OK, CommandError
from uftpd.session.state import Session

_MODE = re.compile(rb"[0-7]{1,4}")


def change_directory(session: Session, argument: bytes) -> Reply:
    """CWD."""
    path = session.path(argument)
    try:
        session.tree.is_directory(path)
    except OSError as error:
        raise CommandError(550, f"Can't cwd to directory: {error.strerror}") from error
    session.current = path
    return OK


def change_directory_up(session: Session, argument: bytes) -> Reply:
    """CDUP."""
    if session.current == session.tree.base:
        raise CommandError(534, "Can't cd up, already at base directory")
    path = split(session.current)[0]
    session.tree.is_directory(path)
    session.current = path
    return OK


def make_directory(session: Session, argument: bytes) -> Reply:
    """MKD."""
    path = session.path(argument)
    session.tree.mkdir(path)
    return reply(257, quote(session.say(path)) + b" directory created")


def remove_directory(session: Session, argument: bytes) -> Reply:
    """RMD: empty ones only."""
    session.tree.rmdir(session.path(argument))
    return OK


def delete(session: Session, argument: bytes) -> Reply:
    """DELE."""
    session.tree.unlink(session.path(argument))
    return OK


def rename_to(session: Session, argument: bytes) -> Reply:
    """RNTO; the name of RNFR is good once."""
    source, session.rename_from = session.rename_from, None
    if source is None:
        raise CommandError(503, "RNFR must come first")
    session.tree.rename(source, session.path(argument))
    return OK


def size(session: Session, argument: bytes) -> Reply:
    """SIZE of a regular file (RFC 3659 section 4), whatever the type."""
    info = session.tree.stat(session.path(argument))
    if not stat.S_ISREG(info.st_mode):
        raise CommandError(550, "Not a regular file")
    return reply(213, str(info.st_size))


def modification_time(session: Session, argument: bytes) -> Reply:
    """MDTM (RFC 3659 section 3), always UTC."""
    info = session.tree.stat(session.path(argument))
    return reply(213, format_time(info.st_mtime_ns, utc=True, fraction=session.utc))


def file_status(session: Session, argument: bytes) -> Reply:
    """STAT N/F in UFTP's form, `STAT <path>` for other clients (DATA-PLANE 4.2)."""
    option, _, name = argument.partition(b" ")
    if option == b"":
        raise CommandError(501, "Argument missing")
    if len(option) > 1 or option.upper() not in (b"N", b"F"):
        option, name = b"N", argument
    path = session.path(name if name.strip() else b".")
    try:
        # The capital N alone lists a directory; anything else describes it.
        info = session.tree.info(path)
        if option == b"N" and info.is_dir:
            with session.tree.scan(path) as entries:
                lines = [format_stat(entry) for entry in _sayable(session, entries)]
        else:
            lines = [format_stat(entry) for entry in _sayable(session, iter((info,)))]
    except FileNotFoundError:
        raise CommandError(500, NOT_THERE) from None
    return multi_line(211, " Sending file list", lines, "End of file list")


def machine_status(session: Session, argument: bytes) -> Reply:
    """MLST: exactly three lines, since the Python clients count on it."""
    path = session.path(argument if argument.strip() else b".")
    info = session.tree.info(path, links=session.links, unique=session.utc)
    line = b" " + facts_line(session, info, utc=session.facts_utc)
    return multi_line(250, b" Listing " + session.say(path), [line], "End")


def facts_line(session: Session, info: FileInfo, *, utc: bool, type_first: bool = False) -> bytes:
    """A line of MLST or MLSD without its end."""
    facts = format_facts(info, utc=utc, fraction=session.utc, type_first=type_first)
    return facts.encode() + b" " + session.say(info.name)


def named(session: Session, info: FileInfo) -> FileInfo:
    """`info` with its name as it stands in listings."""
    return replace(info, name=session.say(info.name)) if session.pct else info


def _sayable(session: Session, entries: Iterator[FileInfo]) -> Iterator[FileInfo]:
    """Entries with their names as the client can take them; without NAMES PCT some cannot be said."""
    hidden = 0
    for info in entries:
        if session.pct:
            yield named(session, info)
        elif is_sayable(info.name):
            yield info
        else:
            hidden += 1
    if hidden:
        session.log("names-hidden", level="warning", count=hidden)


def set_time(session: Session, argument: bytes) -> Reply:
    """MFMT: time of last change."""
    text, _, name = argument.strip().partition(b" ")
    if not name:
        raise CommandError(501, "Time and path are needed")
    session.tree.set_facts(session.path(name), mtime_ns=parse_time(text, utc=session.facts_utc))
    return reply(213, b"Modify=" + text + b"; " + name)


def set_facts(session: Session, argument: bytes) -> Reply:
    """MFF: time of last change and permission bits."""
    facts, _, name = argument.strip().partition(b" ")
    if not name:
        raise CommandError(501, "Facts and path are needed")
    try:
        change = parse_mff(facts, utc=session.facts_utc)
    except ProtocolError as error:
        raise CommandError(500, str(error)) from None
    _apply(session, session.path(name), change)
    return reply(213, facts + b" " + name)


def _apply(session: Session, path: bytes, change: FactChange) -> None:
    session.tree.set_facts(path, mtime_ns=change.mtime_ns, permissions=change.permissions)


def site(session: Session, argument: bytes) -> Reply:
    """SITE CHMOD, and SITE SYMLINK (EXTENSIONS section 6)."""
    command, _, rest = argument.strip().partition(b" ")
    if command.upper() == b"SYMLINK":
        return make_link(session, rest)
    mode, _, name = rest.strip().partition(b" ")
    if command.upper() != b"CHMOD":
        raise CommandError(502, "Command not implemented.")
    if not _MODE.fullmatch(mode) or not name:
        raise CommandError(501, "SITE CHMOD <octal mode> <path>")
    session.tree.set_facts(session.path(name), permissions=int(mode, 8))
    return OK


def make_link(session: Session, argument: bytes) -> Reply:
    """SITE SYMLINK: a symbolic link; its target is any text, and nothing may have its name."""
    target, _, name = argument.strip().partition(b" ")
    if not session.pct:
        raise CommandError(503, "OPTS NAMES PCT must come first")  # else a blank could stand in either
    if not target or not name:
        raise CommandError(501, "SITE SYMLINK <target> <name>")
    text = pct_decode(target)
    if b"\0" in text:
        raise CommandError(501, "No link can have such a target")
    session.tree.symlink(text, session.path(name))
    return OK


def hash_of(session: Session, argument: bytes, meter: Meter) -> Reply:
    """HASH of the current range of a file (DATA-PLANE section 10)."""
    taken = session.take_range()
    path = session.path(argument)
    fd, info = session.tree.open_read(path)
    try:
        available = taken.readable(info.st_size)
        digest = hash_file(fd, taken.offset, available, session.hash_algorithm, meter)
    finally:
        os.close(fd)
    length = taken.expected_length if taken.ranged else None
    # The length as set is echoed even where the file is shorter.
    words = format_hash(session.hash_algorithm, taken.offset, available if length is None else length, digest)
    return reply(213, words.encode() + session.say(path))

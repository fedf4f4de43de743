"""Many directories listed at once, for walks: in MODE U all of them under way together, elsewhere one by one.

A listing is kept as the text the server sent, a fraction of what an object a file would take, and read piece by piece.
"""

from __future__ import annotations

import functools
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

from uftp.client import moving
from uftp.client.session import FTPSession
from uftp.client.wording import printable
from uftp.errors import PeerBrokeProtocol, UFTPError
from uftp.protocol import ProtocolError
from uftp.protocol.facts import NANOSECONDS, FileInfo, parse_facts, parse_time
from uftp.protocol.names import is_part_name, pct_decode
from uftp.streams import StreamError

Kind = Literal["file", "directory", "link", "special"]

_SECOND_DIGITS: Final = 9
# Our own server's lines as they usually are; others go the way of `parse_facts`.
_USUAL = re.compile(
    rb"type=(file|dir);size=([0-9]{1,19});modify=([0-9]{12})([0-5][0-9])(?:\.([0-9]{1,9}))?;"
    rb"perm=[a-z]*;UNIX\.mode=([0-7]{1,7});(?:unique=([0-9a-z]{1,40});)? ([^\r\n]+)\r?"
)


class Entry(NamedTuple):
    """What a listing says of one name.

    Attributes:
        name: in its directory.
        kind: what it is; a link only where links are listed as such.
        size: bytes.
        mtime_ns: nanoseconds since 1970; None if not said.
        permissions: the nine bits of `rwxrwxrwx`; None if not said.
        link: what a link points to.
        unique: see `FileInfo`.
    """

    name: bytes
    kind: Kind
    size: int
    mtime_ns: int | None
    permissions: int | None
    link: bytes | None = None
    unique: bytes | None = None

    @classmethod
    def of(cls, info: FileInfo) -> Entry:
        """From the facts of one file."""
        kind: Kind = "file"
        if info.link is not None:
            kind = "link"
        elif info.is_dir:
            kind = "directory"
        elif info.mode is not None and stat.S_IFMT(info.mode) not in (0, stat.S_IFREG):
            kind = "special"
        permissions = None if info.permissions is None else info.permissions & 0o777
        return cls(info.name, kind, info.size, info.mtime_ns or None, permissions, info.link, info.unique)


class Listing:
    """The entries of a directory, read once, unfinished transfers left out.

    Args:
        server: for messages.
        data: MLSD lines with names in percent-encoding, or what another listing gave.
    """

    def __init__(self, server: str, data: bytearray | list[FileInfo]) -> None:
        self._server = server
        self._data = data

    @property
    def size(self) -> int:
        """Roughly the memory it takes, in bytes."""
        return len(self._data) if isinstance(self._data, bytearray) else 500 * len(self._data)

    def entries(self) -> Iterator[Entry]:
        """One after the other.

        Raises:
            PeerBrokeProtocol: a line that makes no sense, or a name that could lead elsewhere.
        """
        found = map(Entry.of, self._data) if isinstance(self._data, list) else self._parsed(self._data)
        for entry in found:
            name = entry.name
            if b"/" in name or b"\0" in name or name in (b"", b".."):
                raise PeerBrokeProtocol(f"{self._server}: unsafe file name in a listing: {printable(name)}")
            if name != b"." and not (name.startswith(b".uftp-") and is_part_name(name)):
                yield entry

    def _parsed(self, data: bytearray) -> Iterator[Entry]:
        start = 0
        size = len(data)
        while start < size:
            end = data.find(b"\n", start)
            end = size if end < 0 else end
            line = bytes(data[start:end])
            start = end + 1
            if match := _USUAL.fullmatch(line):
                kind, length, minute, second, fraction, mode_text, unique, name = match.groups()
                if b"%" in name:
                    name = pct_decode(name)
                mode = int(mode_text, 8)
                mtime_ns = self._minute(minute) + int(second) * NANOSECONDS
                if fraction:
                    mtime_ns += int(fraction.ljust(_SECOND_DIGITS, b"0"))
                if kind == b"dir":
                    yield Entry(name, "directory", 0, mtime_ns, mode & 0o777, None, unique)
                else:
                    regular = mode & 0o170000 in (0, stat.S_IFREG)
                    yield Entry(name, "file" if regular else "special", int(length), mtime_ns, mode & 0o777)
            elif line.strip():
                try:
                    info = parse_facts(line.removesuffix(b"\r"), utc=True)
                except ProtocolError as error:
                    raise PeerBrokeProtocol(f"{self._server}: the server sent {printable(str(error))}") from error
                if info is not None:
                    entry = Entry.of(info)
                    yield entry._replace(name=pct_decode(entry.name))

    def _minute(self, text: bytes) -> int:
        try:
            return _minute(text)
        except ProtocolError as error:
            raise PeerBrokeProtocol(f"{self._server}: the server sent {printable(str(error))}") from error


@functools.lru_cache(maxsize=4096)
def _minute(text: bytes) -> int:
    """Nanoseconds since 1970 at the start of a minute, YYYYMMDDHHMM: the files of a tree share few of them."""
    return parse_time(text + b"00", utc=True)


Took = Callable[[bytes, Listing | UFTPError], None]


async def list_many(
    session: FTPSession, supply: Callable[[], Iterable[bytes]], took: Took, *, links: bool
) -> list[bytes]:
    """List directories, commands ahead of their replies where the server takes them so.

    Args:
        session: nobody else's meanwhile; it may not be usable afterwards.
        supply: called when there is room: the next directories, none for the end.
        took: told on the event loop of each directory's listing, or why there is none.
        links: whether symbolic links are listed as such; the server has to be able to.

    Returns:
        Directories that were not listed because the connection was lost under another one.

    Raises:
        UFTPError: the session cannot list at all; what `supply` gave first, and `took` was not told of, is not listed.
    """
    await session.show_links(links)
    if session.records is None:
        while paths := list(supply()):
            for place, path in enumerate(paths):
                try:
                    took(path, Listing(session.name, await session.listdir(path, links=links)))
                except UFTPError as error:
                    took(path, error)
                    if not session.usable:
                        return paths[place + 1 :]
        return []
    return await _list_in_pipeline(session, supply, took)


async def _list_in_pipeline(session: FTPSession, supply: Callable[[], Iterable[bytes]], took: Took) -> list[bytes]:
    from uftp.client.record_transfers import Retrieval, Transfer

    under_way: dict[Transfer, bytearray] = {}

    def listing(path: bytes) -> Transfer:
        text = bytearray()

        def keep(block: memoryview) -> None:
            if len(text) + len(block) > moving.MAX_LISTING_BYTES:
                raise StreamError(f"the listing has more than {moving.MAX_LISTING_BYTES} bytes")
            text.extend(block)

        transfer = Retrieval(
            line=b"MLSD " + session.wire(path),
            path=path,
            action="list it",
            listing=True,
            receive=lambda incoming, length, meter: incoming.to_chunks(keep, length, meter),
        )
        under_way[transfer] = text
        return transfer

    def done(transfer: Transfer) -> None:
        text = under_way.pop(transfer)
        took(transfer.path, transfer.error or Listing(session.name, text))

    left = await session.pipeline(lambda: [listing(path) for path in supply()], done)
    return [transfer.path for transfer in left]

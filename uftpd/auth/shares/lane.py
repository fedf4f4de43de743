"""Many small requests over one session on a data node: looks at files, small files whole, listings.

Commands go out as they come, ahead of the replies to others (EXTENSIONS 1, pipelining); one task reads replies, another
records. What is asked for here is held in memory, so each answer has a limit; large files take `flow`.

A lane that meets anything out of turn is closed, and all that was under way fails with NetworkError: whoever asked may
ask again on another one.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from uftp.client.wording import printable, refusal
from uftp.errors import NetworkError, PeerBrokeProtocol, Refused, TransferFailed, UFTPError
from uftp.protocol import ProtocolError
from uftp.protocol.facts import FileInfo, parse_facts
from uftp.protocol.names import pct_decode
from uftp.protocol.ranges import rang_command
from uftp.protocol.records import ABORT, END, HEADER_BYTES, unpack_trailer
from uftp.protocol.replies import Reply
from uftpd.auth.shares.announced import announced_length
from uftpd.auth.shares.channel import Channel

ANSWER_SECONDS: Final = 60.0  # for one look or small file; file systems of clusters hang now and then
_WINDOW_BYTES: Final = 48 * 1024  # of commands that are not answered (EXTENSIONS 1)
_RECEIVE_BYTES: Final = 256 * 1024
MAX_LISTING_BYTES: Final = 64 * 1024 * 1024  # about 700,000 entries


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file, or its beginning.

    Attributes:
        content: its first bytes.
        mtime_ns: as it was when the node opened the file.
        whole: whether that is all of it.
    """

    content: bytes
    mtime_ns: int
    whole: bool


@dataclass(slots=True, eq=False)
class _Asked:
    """One command, and what has come of it."""

    line: bytes
    path: bytes
    action: str
    prelude: bytes = b""
    number: int = 0  # of its transfer; 0 for a command without one
    facts_due: bool = False
    limit: int = 0
    over: trio.Event = field(default_factory=trio.Event)
    placed: bool = False
    announcement: Reply | None = None
    final: Reply | None = None
    content: bytearray = field(default_factory=bytearray)
    cut: bool = False  # there was more than `limit`
    ended: bool = False
    facts: bytes = b""
    aborted: bool = False
    error: UFTPError | None = None

    @property
    def cost(self) -> int:
        return len(self.line) + len(self.prelude) + 4


class Lane:
    """See the module. `run` must be running while it is used.

    Attributes:
        busy: how many requests are under way.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._session = channel.session
        self._due: deque[_Asked] = deque()
        self._transfers: deque[_Asked] = deque()
        self._unsent = bytearray()
        self._wanted = trio.Event()
        self._room = trio.Event()
        self._unanswered = 0
        self._failure: UFTPError | None = None
        self.busy = 0

    @property
    def usable(self) -> bool:
        """Whether it takes requests."""
        return self._failure is None

    async def run(self) -> None:
        """Serve until the lane is closed or breaks."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._read_records, nursery.cancel_scope)
                await self._read_replies()
                nursery.cancel_scope.cancel()
        finally:
            self.close()

    def close(self, error: UFTPError | None = None) -> None:
        """End it; what is under way fails."""
        if self._failure is None:
            self._failure = error or NetworkError(f"{self._session.name}: the session is closed")
        self._channel.close()
        for asked in {*self._due, *self._transfers}:
            asked.error = asked.error or self._failure
            asked.over.set()
        self._due.clear()
        self._transfers.clear()
        self._room.set()
        self._wanted.set()

    # -- requests ---------------------------------------------------------------------------------------------------

    async def stat(self, path: bytes) -> FileInfo:
        """What is known of a file or directory.

        Raises:
            NotFound, Refused: the node says no.
            NetworkError, PeerBrokeProtocol: the lane broke.
        """
        asked = await self._ask(_Asked(b"MLST " + self._session.wire(path), path, "look at it"))
        final = asked.final
        if final is None or not final.inner:
            raise PeerBrokeProtocol(f"{self._session.name}: an MLST reply without facts")
        facts = (
            final.inner[0]
            .lstrip()
            .partition(b" ")[0]
            .replace(b"type=cdir", b"type=dir")
            .replace(b"type=pdir", b"type=dir")
        )
        try:
            info = parse_facts(facts + b" x", utc=True)
        except ProtocolError as error:
            raise PeerBrokeProtocol(f"{self._session.name}: {printable(str(error))}") from error
        if info is None:
            raise PeerBrokeProtocol(f"{self._session.name}: no facts: {printable(final.inner[0])}")
        return replace(info, name=path.rstrip(b"/").rpartition(b"/")[2] or b"/")

    async def fetch(self, path: bytes, limit: int) -> SmallFile:
        """The first `limit` bytes of a file, all of it if it has fewer.

        Raises:
            NotFound, Refused: the node says no.
            TransferFailed: it could not be read to its end.
            NetworkError, PeerBrokeProtocol: the lane broke.
        """
        asked = await self._ask(
            _Asked(
                b"RETR " + self._session.wire(path),
                path,
                "read it",
                prelude=rang_command(0, limit).encode(),
                facts_due=True,
                limit=limit,
            ),
            transfer=True,
        )
        content = bytes(asked.content)
        try:
            found = parse_facts(asked.facts + b" x", utc=True) if asked.facts else None
        except ProtocolError as error:
            raise PeerBrokeProtocol(f"{self._session.name}: {printable(str(error))}") from error
        return SmallFile(content, found.mtime_ns if found is not None else 0, len(content) < limit)

    async def listing(self, path: bytes, limit: int = MAX_LISTING_BYTES, *, links: bool = False) -> tuple[bytes, bool]:
        """The MLSD lines of a directory, and whether that is all of it; `entries_of` reads them.

        Args:
            path: the directory.
            limit: bytes to take at most.
            links: whether symbolic links are listed as such, and not as what they point to.

        Raises:
            NotFound, Refused: the node says no, or cannot list links.
            TransferFailed: it could not be read to its end.
            NetworkError, PeerBrokeProtocol: the lane broke.
        """
        asked = _Asked(b"MLSD " + self._session.wire(path), path, "list it", limit=limit)
        if not links:
            await self._ask(asked, transfer=True)
        elif not self._session.dialect.has_links:
            raise Refused(f"{self._session.name}: the node does not tell links from what they point to")
        else:
            # Nothing comes between the three, so that nobody else's listing is meant.
            before, after = (_Asked(b"OPTS MLST LINKS " + word, path, "list it") for word in (b"ON", b"OFF"))
            await self._ask(asked, transfer=True, before=before, after=after)
            if before.error is not None:
                raise before.error
        return bytes(asked.content), not asked.cut

    async def _ask(
        self, asked: _Asked, *, transfer: bool = False, before: _Asked | None = None, after: _Asked | None = None
    ) -> _Asked:
        while self._failure is None and self._unanswered and self._unanswered + asked.cost > _WINDOW_BYTES:
            room = self._room = trio.Event()
            await room.wait()
        if self._failure is not None:
            raise self._failure
        if transfer:
            asked.number = self._channel.count()
            self._transfers.append(asked)
        for one in (before, asked, after):
            if one is not None:
                self._due.append(one)
                self._unanswered += one.cost
                if one.prelude:
                    self._unsent += one.prelude + b"\r\n"
                self._unsent += one.line + b"\r\n"
        self._wanted.set()
        self.busy += 1
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await asked.over.wait()
        except trio.TooSlowError:
            self.close(NetworkError(f"{self._session.name}: no answer within {ANSWER_SECONDS:.0f} seconds"))
        finally:
            self.busy -= 1
        if asked.error is not None:
            raise asked.error
        return asked

    # -- the wire ---------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while self._failure is None:
            if not self._unsent:
                self._wanted = trio.Event()
                await self._wanted.wait()
                continue
            lines = bytes(self._unsent[:-2])
            self._unsent.clear()
            try:
                await self._session.control.send(lines)
            except UFTPError as error:
                self.close(error)

    async def _read_replies(self) -> None:
        try:
            while self._failure is None:
                for reply in await self._session.control.receive_some(math.inf):
                    self._take_reply(reply)
        except UFTPError as error:
            self.close(error)

    def _take_reply(self, reply: Reply) -> None:
        if not self._due:
            raise NetworkError(f"{self._session.name}: {reply.code} {printable(reply.text)}")
        asked = self._due[0]
        if asked.prelude and not asked.placed:
            if reply.code != 350:  # without its range a command would bring a file of any size
                raise PeerBrokeProtocol(f"{self._session.name}: {reply.code} {printable(reply.text)} to RANG")
            asked.placed = True
            return
        if reply.is_preliminary:
            if not asked.number or asked.announcement is not None:
                raise PeerBrokeProtocol(f"{self._session.name}: {reply.code} {printable(reply.text)} comes out of turn")
            asked.announcement = reply
            return
        self._due.popleft()
        self._unanswered -= asked.cost
        self._room.set()
        if reply.code == 421 or (asked.number and reply.is_success and asked.announcement is None):
            raise NetworkError(f"{self._session.name}: {reply.code} {printable(reply.text)}")
        asked.final = reply
        if not reply.is_success:
            if asked.announcement is None:
                asked.error = refusal(reply, asked.path, asked.action)
                if asked.number:
                    self._transfers.remove(asked)
                    asked.number = 0
            else:
                asked.error = TransferFailed(f"{printable(asked.path)}: {reply.code} {printable(reply.text)}")
        self._settle(asked)

    async def _read_records(self, scope: trio.CancelScope) -> None:
        try:
            buffer = bytearray()
            while self._failure is None:
                buffer += await self._channel.receive_some(_RECEIVE_BYTES)
                used = 0
                while (step := self._take_record(buffer, used)) > 0:
                    used += step
                del buffer[:used]
        except UFTPError as error:
            self.close(error)
            scope.cancel()

    def _take_record(self, buffer: bytearray, at: int) -> int:
        """Take the record at `at`, if it is there whole.

        Returns:
            The bytes it took.
        """
        if len(buffer) - at < HEADER_BYTES:
            return 0
        # A refused transfer has no records, and its reply may still be on its way: the first that was not is meant.
        number = int.from_bytes(buffer[at + 4 : at + 8], "big")
        asked = next((one for one in self._transfers if one.number == number and not one.ended), None)
        if asked is None:
            raise PeerBrokeProtocol(f"{self._session.name}: a record of transfer {number}, which is not under way")
        header = self._channel.read_header(buffer, at, number)
        end = at + HEADER_BYTES + header.length
        if len(buffer) < end:
            return 0
        payload = memoryview(buffer)[at + HEADER_BYTES : end]
        try:
            if header.flags & ABORT:
                asked.aborted = asked.ended = True
            else:
                self._keep(asked, payload, last=bool(header.flags & END))
        finally:
            payload.release()
        if asked.ended:
            self._settle(asked)
        return HEADER_BYTES + header.length

    def _keep(self, asked: _Asked, payload: memoryview, *, last: bool) -> None:
        length = len(payload)
        if last:
            asked.ended = True
            try:
                trailer = unpack_trailer(payload, facts=asked.facts_due, digest=False)
            except ProtocolError as error:
                raise PeerBrokeProtocol(f"{self._session.name}: {error}") from error
            asked.facts = trailer.facts or b""
            length -= trailer.length
        room = asked.limit - len(asked.content)
        if length > room:
            if asked.facts_due:
                raise PeerBrokeProtocol(f"{self._session.name}: more bytes than were asked for")
            asked.cut = True
        asked.content += payload[: min(length, room)]

    def _settle(self, asked: _Asked) -> None:
        """See whether reply and records are both there."""
        if asked.final is None or (asked.announcement is not None and not asked.ended):
            return
        if asked.number:
            self._transfers.remove(asked)
        if asked.error is None and asked.announcement is not None:
            if asked.aborted:
                asked.error = TransferFailed(f"{printable(asked.path)}: the node gave the transfer up")
            elif asked.facts_due and announced_length(asked.announcement) != len(asked.content):
                raise PeerBrokeProtocol(f"{self._session.name}: not the bytes that were announced")
        asked.over.set()


def entries_of(listing: bytes) -> list[FileInfo]:
    """The entries of a directory, from its MLSD lines in NAMES PCT; without the directory itself.

    Raises:
        PeerBrokeProtocol: a line that cannot be read, or a name that could lead elsewhere.
    """
    entries = []
    for line in listing.split(b"\r\n"):
        if not line:
            continue
        try:
            info = parse_facts(line, utc=True)
        except ProtocolError as error:
            raise PeerBrokeProtocol(f"the node sent {printable(str(error))}") from error
        if info is None:
            continue
        name = pct_decode(info.name)
        if name in (b"", b"..") or b"/" in name or b"\0" in name:
            raise PeerBrokeProtocol(f"unsafe file name in a listing: {printable(name)}")
        if name != b".":
            entries.append(replace(info, name=name))
    return entries

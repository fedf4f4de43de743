"""An FTP session: listings, facts and changes of files. Moving their bytes is in `moving`.

Paths are bytes: absolute, or relative to where the session starts; empty for that directory itself.

After an error the server answered, the session goes on. After a broken or stalled connection, a cancellation or a
reply out of turn it is closed, and every further call raises NetworkError.
"""

from __future__ import annotations

import re
import stat as stat_bits
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Self, TypeVar

from uftp.client import moving
from uftp.client.control import ControlConnection
from uftp.client.data import Receive, Send
from uftp.client.dialect import Dialect
from uftp.client.layers import BUFFER_BYTES
from uftp.client.wording import printable, refusal
from uftp.errors import NotFound, PeerBrokeProtocol, Refused, UFTPError
from uftp.protocol import ProtocolError
from uftp.protocol.facts import FileInfo, format_time, parse_facts, parse_list, parse_stat, parse_time
from uftp.protocol.hashing import FileHash, find_algorithm, parse_hash
from uftp.protocol.names import is_sayable, pct_decode, pct_encode
from uftp.protocol.ranges import RESET_COMMAND
from uftp.protocol.replies import Reply
from uftp.streams import NO_LAYERS, Layers, Link, Meter

if TYPE_CHECKING:
    from uftp.client.record_mode import RecordMode
    from uftp.client.record_pipeline import Supply
    from uftp.client.record_transfers import Transfer

A = TypeVar("A")
R = TypeVar("R")

_OWN_DIRECTORY = re.compile(rb"type=[cp]dir", re.IGNORECASE)


class FTPSession:
    """A logged-in session; see `uftp.client.login.open_ftp_session`.

    Attributes:
        dialect: what the server is and can.
        records: MODE U as agreed with the server; None where transfers go by MODE S.
        layers: on data connections outside MODE U.
        streams: how many of them a transfer has.
        buffer_bytes: how much an upstream server reads at once.
        connect_timeout, stall_timeout, final_timeout: as in `SessionOptions`.
    """

    def __init__(
        self,
        control: ControlConnection,
        dialect: Dialect,
        *,
        records: RecordMode | None = None,
        layers: Layers = NO_LAYERS,
        streams: int = 1,
        buffer_bytes: int = BUFFER_BYTES,
        start_directory: bytes = b"",
        connect_timeout: float,
        stall_timeout: float,
        final_timeout: float,
    ) -> None:
        self.control = control
        self.dialect = dialect
        self.records = records
        self.layers = layers
        self.streams = streams
        self.buffer_bytes = buffer_bytes
        if records is not None:
            control.when_broken = records.drop
        self.connect_timeout = connect_timeout
        self.stall_timeout = stall_timeout
        self.final_timeout = final_timeout
        self._start_directory = start_directory
        self._data_ports = moving.DataPorts()
        self._links_shown = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @property
    def name(self) -> str:
        """Host and port."""
        return self.control.name

    @property
    def usable(self) -> bool:
        """Whether further calls make sense."""
        return self.control.usable

    @property
    def round_trip(self) -> float | None:
        """Seconds that the quickest reply to a command has taken; None before there was one."""
        return self.control.round_trip

    def describe(self) -> str:
        """For a person: what protects and packs the data of this session."""
        if self.records is not None:
            return self.records.describe()
        parts = ["MODE S", self.layers.cipher or "not encrypted"]
        if self.layers.compress:
            parts.append("gzip")
        if self.streams > 1:
            parts.append(f"{self.streams} streams")
        return ", ".join(parts)

    async def aclose(self) -> None:
        """Close the session. Never fails, and does not wait for the server."""
        await self.control.aclose()

    # -- files ----------------------------------------------------------------------------------------------------

    async def show_links(self, shown: bool) -> None:
        """Have the server list symbolic links as such, or as what they point to (EXTENSIONS section 6).

        Raises:
            Refused: it cannot.
        """
        if shown == self._links_shown:
            return
        if not self.dialect.has_links:
            raise Refused(f"{self.name}: the server does not tell links from what they point to")
        async with self.control.dialogue():
            line = b"OPTS MLST LINKS ON" if shown else b"OPTS MLST LINKS OFF"
            await self._expect(line, (200,), None, "choose how links are listed")
        self._links_shown = shown

    async def listdir(self, path: bytes, *, links: bool = False) -> list[FileInfo]:
        """The entries of a directory, in the server's order.

        Args:
            path: the directory.
            links: whether symbolic links are listed as such, and not as what they point to.

        Raises:
            NotFound, Refused: no such directory, or no right to list it; or the server cannot list links as such.
            PeerBrokeProtocol: a listing that makes no sense, or has unsafe names.
        """
        await self.show_links(links)
        if self.records is not None:
            from uftp.client import record_moving

            limit = moving.MAX_LISTING_BYTES
            data = await record_moving.fetch_listing(self, b"MLSD " + self.wire(path), path, limit=limit)
            return self._checked([self._facts(line) for line in _lines(data)])
        async with self.control.dialogue():
            match self.dialect.listing:
                case "MLSD":
                    data = await moving.fetch_listing(self, b"MLSD " + self.wire(path), path)
                    entries = [self._facts(line) for line in _lines(data)]
                case "STAT":
                    reply = await self._expect(b"STAT N " + self.wire(path), (211, 212, 213), path, "list")
                    entries = [_read(parse_stat, line) for line in reply.inner if line.strip()]
                case _:
                    entries = await self._list_by_change_of_directory(path)
        return self._checked(entries)

    def _checked(self, entries: Iterable[FileInfo | None]) -> list[FileInfo]:
        """The entries of a listing but for the directory itself; a name that could lead elsewhere is an error."""
        entries = list(entries)
        for entry in entries:
            if entry is not None and (b"/" in entry.name or b"\0" in entry.name or entry.name in (b"", b"..")):
                raise PeerBrokeProtocol(f"{self.name}: unsafe file name in a listing: {printable(entry.name)}")
        return [entry for entry in entries if entry is not None and entry.name != b"."]

    async def stat(self, path: bytes, *, links: bool = False) -> FileInfo:
        """What is known of one file or directory; `name` is the last component of `path`.

        Args:
            path: which.
            links: whether of a symbolic link, and not of what it points to.

        Raises:
            NotFound, Refused: no such file, or no right to look; or the server cannot tell links.
        """
        await self.show_links(links)
        async with self.control.dialogue():
            if self.dialect.kind == "upstream":
                info = await self._stat_upstream(path)
            elif "MLST" in self.dialect.features or "MLSD" in self.dialect.features:
                reply = await self._expect(b"MLST " + self.wire(path), (250,), path, "look at it")
                info = self.facts_in(reply)
            else:
                info = await self._stat_by_size(path)
        return replace(info, name=path.rstrip(b"/").rpartition(b"/")[2] or b"/")

    async def stat_or_none(self, path: bytes) -> FileInfo | None:
        """Like `stat`; None if there is no such file."""
        try:
            return await self.stat(path)
        except NotFound:
            return None

    async def size(self, path: bytes) -> int:
        """Bytes in a file.

        Raises:
            NotFound, Refused: no such file, or no right to look.
        """
        if not self.dialect.has_size:
            return (await self.stat(path)).size
        async with self.control.dialogue():
            reply = await self._expect(b"SIZE " + self.wire(path), (213,), path, "ask for the size")
        if not re.fullmatch(r"[0-9]{1,19}", reply.text.strip()):
            raise PeerBrokeProtocol(f"{self.name}: no size: {printable(reply.text)}")
        return int(reply.text)

    async def checksum(
        self, path: bytes, algorithm: str | None = None, *, offset: int = 0, length: int | None = None
    ) -> FileHash:
        """The digest of a file, or a range of it, as the server computes it.

        Args:
            path: the file.
            algorithm: MD5, SHA-1, SHA-256, SHA-512 or BLAKE3 in any spelling; None for the server's choice.
            offset, length: the range in bytes; None to the end.

        Raises:
            Refused: the server does not know HASH, or this algorithm.
            NotFound: no such file.
        """
        known = self.dialect.features.hash_algorithms
        if not known:
            raise Refused(f"{printable(path)}: the server computes no checksums")
        chosen = None if algorithm is None else find_algorithm(algorithm)
        if algorithm is not None and chosen not in known:
            raise Refused(f"{printable(algorithm)}: the server has no such checksum, only {', '.join(known)}")
        async with self.control.dialogue():
            if chosen is not None:
                await self._expect(f"OPTS HASH {chosen}".encode(), (200,), None, "choose the checksum")
            if offset or length is not None:
                await self._expect(moving.range_line(self.dialect, offset, length), (350,), path, "set the range")
            elif self.dialect.kind == "upstream":
                await self._expect(RESET_COMMAND.encode(), (350,), path, "reset the range")
            line = b"HASH " + self.wire(path)
            reply = await self._expect(line, (213,), path, "compute the checksum", silence=self.final_timeout)
            result = _read(parse_hash, reply)
        if chosen is not None and find_algorithm(result.algorithm) != chosen:
            raise PeerBrokeProtocol(f"{self.name}: asked for {chosen}, the server computed {result.algorithm}")
        return replace(result, path=self._unwire(result.path.encode("utf-8", "surrogateescape")))

    # -- changes --------------------------------------------------------------------------------------------------

    async def mkdir(self, path: bytes) -> None:
        """Create a directory.

        Raises:
            Refused, NotFound: the server says no.
        """
        async with self.control.dialogue():
            await self._expect(b"MKD " + self.wire(path), (257,), path, "create the directory")

    async def rmdir(self, path: bytes) -> None:
        """Remove an empty directory."""
        async with self.control.dialogue():
            await self._expect(b"RMD " + self.wire(path), (200, 250), path, "remove the directory")

    async def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link (EXTENSIONS section 6).

        Args:
            target: what it points to, as it will stand in the link.
            path: its name; nothing may be there.

        Raises:
            Refused, NotFound: the server cannot, or says no.
        """
        async with self.control.dialogue():
            await self._expect(self.symlink_line(target, path), (200, 250), path, "make the link")

    def symlink_line(self, target: bytes, path: bytes) -> bytes:
        """The command that `symlink` sends.

        Raises:
            Refused: the server makes no links.
        """
        if not self.dialect.has_links:
            raise Refused(f"{printable(path)}: the server makes no symbolic links")
        return b"SITE SYMLINK " + pct_encode(target) + b" " + self.wire(path)

    async def delete(self, path: bytes) -> None:
        """Remove a file."""
        async with self.control.dialogue():
            await self._expect(b"DELE " + self.wire(path), (200, 250), path, "remove the file")

    async def rename(self, source: bytes, target: bytes) -> None:
        """Rename, replacing a file of the new name where the server's system does so."""
        lines = [b"RNFR " + self.wire(source), b"RNTO " + self.wire(target)]
        action = f"give it the name {printable(target)}"
        async with self.control.dialogue():
            if self.dialect.kind == "ours":
                begun, done = await self.control.commands(lines)  # refusing the first one, it refuses the second, too
                self._expected(begun, lines[0], (350,), source, "rename it")
                self._expected(done, lines[1], (200, 250), source, action)
                return
            await self._expect(lines[0], (350,), source, "rename it")
            # Some servers look for the source only now.
            await self._expect(lines[1], (200, 250), source, action)

    async def set_facts(self, path: bytes, *, mtime_ns: int | None = None, permissions: int | None = None) -> None:
        """Set time and permission bits; None leaves one as it is.

        Raises:
            Refused: the server cannot, or says no.
        """
        async with self.control.dialogue():
            if self.dialect.kind == "ours":
                facts = "" if mtime_ns is None else f"Modify={self._time(mtime_ns)};"
                facts += "" if permissions is None else f"UNIX.mode={permissions:o};"
                if facts:
                    await self._expect(f"MFF {facts} ".encode() + self.wire(path), (213,), path, "set time and mode")
                return
            try:
                if permissions is not None:
                    await self._set_mode(path, permissions)
            finally:
                # A server that sets no modes may set times.
                if mtime_ns is not None and self.usable:
                    await self._set_time(path, mtime_ns)

    async def _set_time(self, path: bytes, mtime_ns: int) -> None:
        # vsftpd and others without MFMT take the time as an argument of MDTM.
        verb = "MFMT" if "MFMT" in self.dialect.features else "MDTM"
        if verb == "MDTM" and self.dialect.is_uftp:
            raise Refused(f"{printable(path)}: the server cannot set times")
        await self._expect(f"{verb} {self._time(mtime_ns)} ".encode() + self.wire(path), (213,), path, "set the time")

    async def _set_mode(self, path: bytes, permissions: int) -> None:
        if "MFF" in self.dialect.features:
            line = f"MFF UNIX.mode={permissions:o}; ".encode()
        elif not self.dialect.is_uftp:
            line = f"SITE CHMOD {permissions:o} ".encode()
        else:
            raise Refused(f"{printable(path)}: the server cannot set modes")
        await self._expect(line + self.wire(path), (200, 213, 250), path, "set the mode")

    # -- transfers ------------------------------------------------------------------------------------------------

    async def retrieve(
        self,
        path: bytes,
        receive: Receive,
        *,
        offset: int = 0,
        length: int | None = None,
        expected: int | None = None,
        meter: Meter | None = None,
    ) -> int:
        """Fetch a file, or a range of it; see `moving.retrieve`."""
        if self.records is not None:
            from uftp.client import record_moving

            wanted = record_moving.retrieval(self, path, receive, offset=offset, length=length, meter=meter)
            return await record_moving.run(self, wanted)
        return await moving.retrieve(
            self, path, receive, offset=offset, length=length, expected=expected, meter=meter or Meter()
        )

    async def store(
        self,
        path: bytes,
        send: Send,
        *,
        length: int | None = None,
        offset: int | None = None,
        append: bool = False,
        meter: Meter | None = None,
    ) -> int:
        """Store a file, write into one, or append; see `moving.store`."""
        if self.records is not None:
            from uftp.client import record_moving

            given = record_moving.storage(self, path, send, total=length, offset=offset, append=append, meter=meter)
            return await record_moving.run(self, given)
        return await moving.store(self, path, send, length=length, offset=offset, append=append, meter=meter or Meter())

    async def pipeline(self, supply: Supply, done: Callable[[Transfer], None]) -> list[Transfer]:
        """Run many transfers, commands ahead of their replies; in MODE U only. See `record_moving.run_many`."""
        from uftp.client import record_moving

        return await record_moving.run_many(self, supply, done)

    async def open_data(self, prelude: Iterable[bytes] = ()) -> Link:
        """Send `prelude`, the commands that set the range, and open a data connection (inside a dialogue)."""
        return await self._data_ports.open(self, list(prelude))

    # -- the wire -------------------------------------------------------------------------------------------------

    def wire(self, path: bytes) -> bytes:
        """`path` as this server reads it.

        Raises:
            Refused: the name cannot be said to this server.
        """
        path = path or b"."
        if self.dialect.kind == "ours":
            return pct_encode(path)
        if not is_sayable(path):
            raise Refused(f"{printable(path)}: this server takes no names with control characters")
        if self.dialect.kind == "upstream" and path != path.rstrip():
            raise Refused(f"{printable(path)}: this server takes no names with blanks at the end")
        # A blank or a dash in front would be eaten, or taken for an option.
        return b"./" + path if path[:1] in (b" ", b"-", b"\t") else path

    def _unwire(self, name: bytes) -> str:
        raw = pct_decode(name) if self.dialect.kind == "ours" else name
        return raw.decode("utf-8", "surrogateescape")

    def _time(self, mtime_ns: int) -> str:
        return format_time(mtime_ns, utc=self.dialect.utc, fraction=self.dialect.fractions)

    async def _expect(
        self, line: bytes, codes: tuple[int, ...], path: bytes | None, action: str, *, silence: float | None = None
    ) -> Reply:
        return self._expected(await self.control.command(line, silence=silence), line, codes, path, action)

    def _expected(self, reply: Reply, line: bytes, codes: tuple[int, ...], path: bytes | None, action: str) -> Reply:
        if reply.code in codes:
            return reply
        if reply.is_preliminary:
            raise PeerBrokeProtocol(f"{self.name}: {reply.code} {printable(reply.text)} to {printable(line[:4])}")
        raise refusal(reply, path, action)

    def _facts(self, line: bytes) -> FileInfo | None:
        info = _read(lambda text: parse_facts(text, utc=True), line)  # MLSD is UTC everywhere it is used
        if info is not None and self.dialect.kind == "ours" and b"%" in info.name:
            return replace(info, name=pct_decode(info.name))
        return info

    def facts_in(self, reply: Reply) -> FileInfo:
        """What a reply to MLST says; its name is of no use.

        Raises:
            PeerBrokeProtocol: nothing, or what makes no sense.
        """
        if not reply.inner:
            raise PeerBrokeProtocol(f"{self.name}: an MLST reply without facts")
        return self._own_facts(reply.inner[0])

    def _own_facts(self, line: bytes) -> FileInfo:
        # The name in it may be missing (of a root), a path or a base name; a directory may call itself cdir.
        facts = _OWN_DIRECTORY.sub(b"type=dir", line.lstrip().partition(b" ")[0])
        info = _read(lambda text: parse_facts(text, utc=self.dialect.utc), facts + b" x")
        if info is None:
            raise PeerBrokeProtocol(f"{self.name}: no facts: {printable(line)}")
        return info

    async def _stat_upstream(self, path: bytes) -> FileInfo:
        reply = await self._expect(b"STAT F " + self.wire(path), (211, 212, 213), path, "look at it")
        lines = [line for line in reply.inner if line.strip()]
        if not lines:
            raise PeerBrokeProtocol(f"{self.name}: an empty STAT reply")
        info = _read(parse_stat, lines[0])
        if "MLST" in self.dialect.features:
            facts = await self.control.command(b"MLST " + self.wire(path))
            if facts.code == 250 and facts.inner:
                # STAT's time is exact, MLST's depends on the server's zone.
                return replace(info, mode=self._own_facts(facts.inner[0]).mode)
        return info

    async def _stat_by_size(self, path: bytes) -> FileInfo:
        """For servers without MLST: a file has a size, a directory can be entered."""
        reply = await self.control.command(b"SIZE " + self.wire(path))
        if reply.code == 213 and reply.text.strip().isdigit():
            changed = await self.control.command(b"MDTM " + self.wire(path))
            mtime = 0
            if changed.code == 213:
                mtime = _read(lambda text: parse_time(text, utc=True), changed.lines[-1].strip())
            return FileInfo(name=b"", size=int(reply.text), mtime_ns=mtime)
        entered = await self.control.command(b"CWD " + self.wire(path))
        if not entered.is_success:
            raise refusal(reply, path, "look at it")
        await self._expect(b"CWD " + self.wire(self._start_directory), (200, 250), path, "go back")
        return FileInfo(name=b"", size=0, mtime_ns=0, is_dir=True, mode=stat_bits.S_IFDIR | 0o755)

    async def _list_by_change_of_directory(self, path: bytes) -> list[FileInfo | None]:
        """LIST without a name: servers expand wildcards and options in it."""
        await self._expect(b"CWD " + self.wire(path), (200, 250), path, "list it")
        try:
            data = await moving.fetch_listing(self, b"LIST -a", path)
            entries: list[FileInfo | None] = []
            for line in _lines(data):
                info = _read(lambda text: parse_list(text, now=time.time()), line)
                if info is not None and line.startswith(b"l"):
                    info = await self._follow(info)
                entries.append(info)
        except UFTPError:
            if self.usable:
                await self.control.command(b"CWD " + self.wire(self._start_directory))
            raise
        await self._expect(b"CWD " + self.wire(self._start_directory), (200, 250), path, "go back")
        return entries

    async def _follow(self, link: FileInfo) -> FileInfo | None:
        """What a link points to, in the directory the session is in; None for a dangling one."""
        reply = await self.control.command(b"SIZE " + self.wire(link.name))
        if reply.code == 213 and reply.text.strip().isdigit():
            return replace(link, size=int(reply.text), mode=None)
        entered = await self.control.command(b"CWD " + self.wire(link.name))
        if not entered.is_success:
            return None
        await self._expect(b"CDUP", (200, 250), link.name, "go back")
        return replace(link, is_dir=True, size=0, mode=None)


def _lines(data: bytes) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in data.split(b"\n") if line.strip()]


def _read(parse: Callable[[A], R], value: A) -> R:
    """Parse what the server sent; what cannot be read is the server's fault."""
    try:
        return parse(value)
    except ProtocolError as error:
        raise PeerBrokeProtocol(f"the server sent {printable(str(error))}") from error

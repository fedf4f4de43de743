"""A walk through a tree on a server, in portions: many directories are listed at once, ahead of the transfers.

The walk goes deep before it goes wide, a window of directories at a time: what waits is a small part of any tree, and
listings that are not read yet are kept as text, and bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from typing import Final, NamedTuple

from uftp.client.listings import Entry, Listing, list_many
from uftp.client.remote import MAX_DEPTH
from uftp.client.wording import printable
from uftp.errors import Refused, TimedOut, UFTPError, UsageError
from uftp.transfer.batch import SmallFile
from uftp.transfer.options import Links
from uftp.transfer.plan import join
from uftp.transfer.pool import SessionPool
from uftp.transfer.retrying import may_pass
from uftp.transfer.walk import (
    GROUP_ENTRIES,
    GROUP_PORTIONS,
    PORTION_ENTRIES,
    KeptLink,
    Lost,
    Portion,
    Selection,
    Subdirectory,
)

_WINDOW_DIRECTORIES: Final = 256  # listed in one go
_WINDOW_BYTES: Final = 8 * 1024 * 1024  # of listings that are not read yet; one alone may be larger
_AT_ONCE: Final = 32  # directories given to the session together


class _Way(NamedTuple):
    """The directories from one up to the top, by what the server says they are."""

    unique: bytes | None
    above: _Way | None
    depth: int

    def holds(self, unique: bytes) -> bool:
        way: _Way | None = self
        while way is not None:
            if way.unique == unique:
                return True
            way = way.above
        return False


class _Waiting(NamedTuple):
    path: bytes
    relative: bytes
    way: _Way
    failed: int  # times that its listing was lost with a session


class RemoteWalk:
    """All that is in a directory on the server, and below it; parents first.

    Args:
        pool: lends sessions.
        top: the directory.
        unique: which one it is, if the server said so.
        links: whether symbolic links below it are followed, kept or left out; the server must be able to tell them.
        selection: what belongs to the copy.
        lost: see there.
        retries: times that a directory is listed again whose listing was lost with its session.
    """

    def __init__(
        self,
        pool: SessionPool,
        top: bytes,
        unique: bytes | None,
        *,
        links: Links,
        selection: Selection,
        lost: Lost,
        retries: int,
    ) -> None:
        self._pool = pool
        self._links = links
        self._selection = selection
        self._lost = lost
        self._retries = retries
        self._waiting = [_Waiting(top, b"", _Way(unique, None, 0), 0)]
        self._listed: deque[tuple[_Waiting, Listing | UFTPError]] = deque()
        self._unread = 0
        self._reading: tuple[_Waiting, Iterator[Entry], int] | None = None

    async def next_group(self) -> list[Portion]:
        """The next portions, some thousand entries; none at the end. One call at a time."""
        portions: list[Portion] = []
        entries = 0
        while entries < GROUP_ENTRIES and len(portions) < GROUP_PORTIONS:
            if self._reading is None:
                if not self._listed:
                    if portions or not self._waiting:
                        break
                    await self._list_some()
                    continue
                here, outcome = self._listed.popleft()
                if isinstance(outcome, UFTPError):
                    portions.append(Portion(here.path, here.relative, failures=[(b"", outcome)]))
                    continue
                self._reading = here, outcome.entries(), outcome.size
            portion, read = self._read(*self._reading)
            portions.append(portion)
            entries += read
        return portions

    # -- listing ----------------------------------------------------------------------------------------------------

    async def _list_some(self) -> None:
        """List the directories whose turn it is, a window of them."""
        given: dict[bytes, _Waiting] = {}
        begun = 0

        def supply() -> list[bytes]:
            nonlocal begun
            paths: list[bytes] = []
            while self._waiting and len(paths) < _AT_ONCE:
                if begun >= _WINDOW_DIRECTORIES or (begun and self._unread >= _WINDOW_BYTES):
                    break
                here = self._waiting.pop()
                if here.path in given or self._lost(here.relative):  # a server may name one twice
                    continue
                given[here.path] = here
                begun += 1
                paths.append(here.path)
            return paths

        def took(path: bytes, outcome: Listing | UFTPError) -> None:
            here = given.pop(path)
            if isinstance(outcome, Listing):
                self._unread += outcome.size
                self._listed.append((here, outcome))
            else:
                self._failed(here, outcome)

        trouble: UFTPError | None = None
        try:
            async with self._pool.session() as session:
                await list_many(session, supply, took, links=self._links != "follow")
        except UFTPError as error:
            trouble = error
            if not given:
                supply()  # there is no session: that is the answer for these
        for here in reversed(given.values()):
            if trouble is None:
                self._waiting.append(here)  # lost with the connection under another one
            else:
                self._failed(here, trouble)

    def _failed(self, here: _Waiting, error: UFTPError) -> None:
        # A directory that is not listed is all that is in it: one lost session is not worth that.
        # But a server that has said nothing for minutes will not soon.
        passing = may_pass(error) and not isinstance(error, TimedOut)
        if passing and here.failed < self._retries and not self._pool.failed:
            self._waiting.append(here._replace(failed=here.failed + 1))
        else:
            self._listed.append((here, error))

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read(self, here: _Waiting, entries: Iterator[Entry], size: int) -> tuple[Portion, int]:
        portion = Portion(here.path, here.relative)
        found: list[Entry] = []
        try:
            found += islice(entries, PORTION_ENTRIES)
            ended = len(found) < PORTION_ENTRIES
        except UFTPError as error:
            portion.failures.append((b"", error))
            found.clear()  # a server that says one thing that makes no sense is not believed the rest
            ended = True
        if ended:
            self._reading = None
            self._unread -= size
        found.sort(key=itemgetter(0))
        below: list[_Waiting] = []
        for entry in found:
            self._sort_in(entry, here, portion, below)
        self._waiting += reversed(below)
        return portion, len(found)

    def _sort_in(self, entry: Entry, here: _Waiting, portion: Portion, below: list[_Waiting]) -> None:
        name = entry.name
        relative = here.relative + b"/" + name if here.relative else name
        selection = self._selection
        if entry.kind == "file":
            selection.met(relative)
            if selection.filters.takes_file(relative, entry.size, entry.mtime_ns):
                portion.files.append(SmallFile(name, entry.size, entry.mtime_ns, entry.permissions))
        elif entry.kind == "directory":
            if not selection.enters(relative):
                return
            path = join(here.path, name)
            if entry.unique is not None and here.way.holds(entry.unique):
                error: UFTPError = UsageError(f"{printable(path)}: a link leads back up; left out")
                portion.failures.append((name, error))
                return
            if here.way.depth >= MAX_DEPTH:
                error = Refused(f"{printable(path)}: too deep; is a link leading upwards?")
                portion.failures.append((name, error))
                return
            portion.directories.append(Subdirectory(name, entry.mtime_ns, entry.permissions))
            below.append(_Waiting(path, relative, _Way(entry.unique, here.way, here.way.depth + 1), 0))
        elif entry.kind == "link":
            selection.met(relative)
            if not selection.filters.takes_link(relative, entry.mtime_ns):
                return
            if self._links == "keep" and entry.link:
                portion.links.append(KeptLink(name, entry.link, entry.mtime_ns))
            else:
                portion.left_out.append((name, "is a link, left out"))
        else:
            selection.met(relative)
            if selection.filters.takes_link(relative, entry.mtime_ns):
                portion.left_out.append((name, "is neither a file nor a directory, left out"))

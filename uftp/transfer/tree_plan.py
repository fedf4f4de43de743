"""The plan of a sync of trees: both are walked side by side, and what differs is offered to the workers.

A window of directories is listed at a time, on both sides, so that little is kept however large the trees are. What
must not happen before everything else has succeeded is noted here, and done later by `uftp.transfer.tree_sync`:
removing what the source does not have, and what stands in the way of a file, directory or link of another kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import BinaryIO, Final, Literal, NamedTuple

import trio

from uftp.client.listings import Entry
from uftp.client.remote import MAX_DEPTH
from uftp.errors import Refused, UFTPError, UsageError
from uftp.transfer.batch import MOST_FILES, SMALL, Queue, SmallFile
from uftp.transfer.filters import Filters
from uftp.transfer.options import Links
from uftp.transfer.plan import join
from uftp.transfer.results import CopyState, FileResult
from uftp.transfer.sync_comparison import Comparison
from uftp.transfer.tree_makers import Maker
from uftp.transfer.tree_sides import Facts, Side

_WINDOW: Final = 64  # directories listed at once
_NOWHERE: Final = Entry(b"", "directory", 0, None, None)

Hold = Literal["extra", "in the way"]


class Pair(NamedTuple):
    """A directory of the source and its like at the target.

    Attributes:
        relative: place in both trees.
        source: its facts.
        target: its facts there; None if it is not there, or was not before the sync.
        above: marks of the directories it is in, of the source, against links that lead back up.
    """

    relative: bytes
    source: Entry
    target: Entry | None
    above: frozenset[bytes]


class Replacement(NamedTuple):
    """Something of the source whose place was taken by a thing of another kind.

    Attributes:
        relative, entry: what.
        above: as in `Pair`.
    """

    relative: bytes
    entry: Entry
    above: frozenset[bytes]


class Notes:
    """Places noted for later, on disk: there may be as many as files."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self.count = 0

    def add(self, mark: bytes, relative: bytes) -> None:
        """Note a place with a mark of one byte."""
        if self._file is None:
            self._file = TemporaryFile()  # noqa: SIM115 -- closed with the object
        self._file.write(mark + relative + b"\0")
        self.count += 1

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        if self._file is None:
            return
        self._file.seek(0)
        rest = b""
        while block := self._file.read(1024 * 1024):
            *records, rest = (rest + block).split(b"\0")
            yield from ((record[:1], record[1:]) for record in records)

    def close(self) -> None:
        """Forget them."""
        if self._file is not None:
            self._file.close()


@dataclass(slots=True)
class Later:
    """What waits until all else has succeeded.

    Attributes:
        extra: of the target, not in the source: files (mark `f`) and directories (mark `d`).
        in_the_way: of the target, where the source has something of another kind; marks as for `extra`.
        replacements: of the source, what comes in place of those.
        changed: directories whose times have to be set, as something in them was made, replaced or removed.
        incomplete: a directory could not be listed, so that nobody knows what is too much.
    """

    extra: Notes = field(default_factory=Notes)
    in_the_way: Notes = field(default_factory=Notes)
    replacements: list[Replacement] = field(default_factory=list)
    changed: dict[bytes, Facts] = field(default_factory=dict)
    incomplete: bool = False

    def close(self) -> None:
        """Forget all of it."""
        self.extra.close()
        self.in_the_way.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What the plan needs to know; see `uftp.transfer.tree_sync.TreeSyncOptions`."""

    filters: Filters
    links: Links
    comparison: Comparison
    algorithm: str | None
    delete: bool
    delete_excluded: bool
    refuse_empty: bool
    dry_run: bool
    _protecting: Filters = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rules = () if self.delete_excluded else self.filters.rules
        protecting = Filters(rules=rules, files_from=self.filters.files_from)
        object.__setattr__(self, "_protecting", protecting)

    def protects(self, relative: bytes, entry: Entry) -> bool:
        """Whether a thing of the target is out of the sync's hands: left out by a pattern, or not in the list of names.

        Bounds of size and time choose what is copied, and protect nothing: as with rsync.
        """
        if entry.kind == "directory":
            return not self._protecting.enters(relative)
        return not self._protecting.takes_link(relative, None)


class TreePlan:
    """Offers the files that differ; see the module.

    Args:
        source, target: the trees.
        maker: makes the work.
        options: what to do.
        state: counts and reports.
        later: takes what has to wait.
        start: where to begin.
        replacements: of the source, what comes in place of things that were in the way and are gone.
    """

    def __init__(
        self,
        source: Side,
        target: Side,
        maker: Maker,
        options: PlanOptions,
        state: CopyState,
        later: Later,
        start: Iterable[Pair],
        replacements: Sequence[Replacement] = (),
    ) -> None:
        self._source = source
        self._target = target
        self._maker = maker
        self._options = options
        self._state = state
        self._later = later
        self._waiting = list(start)
        self._replacements = replacements

    async def __call__(self, queue: Queue) -> None:
        for relative, entry, above in self._replacements:
            step = _Directory(Pair(relative.rpartition(b"/")[0], _NOWHERE, None, above))
            if entry.kind == "directory":
                step.directories.append((entry, None))
            elif entry.kind == "link":
                step.links.append(entry)
            else:
                step.files.append((entry, None))
            await self._make([step])
            await self._offer_files(queue, step)
        while self._waiting:
            window, self._waiting = self._waiting[-_WINDOW:], self._waiting[:-_WINDOW]
            there = [pair.relative for pair in window if pair.target is not None]
            sources = await self._source.entries([pair.relative for pair in window])
            targets = dict(zip(there, await self._target.entries(there), strict=True))
            steps: list[_Directory] = []
            for pair, entries in zip(window, sources, strict=True):
                present = targets.get(pair.relative, ())
                if isinstance(entries, UFTPError) or isinstance(present, UFTPError):
                    self._cannot_list(pair.relative, entries, present)
                    continue
                if not pair.relative and present and not entries and self._options.refuse_empty:
                    raise self._is_empty()
                step = _Directory(pair)
                self._merge(step, entries, present)
                steps.append(step)
            await self._look_inside(steps)
            await self._make(steps)
            for step in steps:
                await self._offer(queue, step)

    def _cannot_list(
        self, relative: bytes, entries: Sequence[Entry] | UFTPError, present: Sequence[Entry] | UFTPError
    ) -> None:
        error = entries if isinstance(entries, UFTPError) else present
        self._later.incomplete = True
        self._fail(relative, error if isinstance(error, UFTPError) else Refused("no listing"))

    def _is_empty(self) -> UsageError:
        """An empty source is more often a mistake, an unmounted disk for instance, than a wish to remove everything."""
        return UsageError(
            f"{self._source.display(b'')}: is empty, and --delete would remove everything in "
            f"{self._target.display(b'')}; add --force if that is meant"
        )

    def _fail(self, relative: bytes, error: UFTPError) -> None:
        self._state.record(
            FileResult(source=self._source.display(relative), target=self._target.display(relative), error=error)
        )

    # -- comparing ----------------------------------------------------------------------------------------------------

    def _merge(self, step: _Directory, entries: Sequence[Entry], present: Sequence[Entry]) -> None:
        at_target = {entry.name: entry for entry in present}
        for entry in entries:
            self._decide(step, entry, at_target.pop(entry.name, None))
        for entry in at_target.values():
            if not self._options.protects(join(step.pair.relative, entry.name), entry):
                self._note(self._later.extra, step, entry)

    def _note(self, notes: Notes, step: _Directory, entry: Entry) -> None:
        if self._options.delete:
            notes.add(b"d" if entry.kind == "directory" else b"f", join(step.pair.relative, entry.name))
            step.changed = True

    def _decide(self, step: _Directory, entry: Entry, there: Entry | None) -> None:
        relative = join(step.pair.relative, entry.name)
        filters = self._options.filters
        if entry.kind == "special":
            self._state.on_note(f"{self._source.display(relative)}: neither a file nor a directory, left out")
            return
        if entry.kind == "directory":
            taken = filters.enters(relative)
        elif entry.kind == "link":
            taken = filters.takes_link(relative, entry.mtime_ns)
        else:
            taken = filters.takes_file(relative, entry.size, entry.mtime_ns)
        if not taken:
            if there is not None and self._options.delete_excluded and not self._options.protects(relative, there):
                self._note(self._later.extra, step, there)
            return
        if there is not None and there.kind != entry.kind:
            self._is_in_the_way(step, relative, entry, there)
        elif entry.kind == "directory":
            step.directories.append((entry, there))
        elif entry.kind == "link":
            if there is None or there.link != entry.link:
                step.links.append(entry)
            else:
                self._state.files_unchanged += 1
        else:
            self._compare(step, entry, there)

    def _compare(self, step: _Directory, entry: Entry, there: Entry | None) -> None:
        if there is None:
            step.files.append((entry, None))
            return
        match self._options.comparison.judge(entry, there):
            case "differs":
                step.files.append((entry, there))
            case "look":
                step.unsure.append((entry, there))
            case "same":
                self._is_same(step, entry, there)
            case "newer":
                self._state.files_unchanged += 1

    def _is_same(self, step: _Directory, entry: Entry, there: Entry) -> None:
        self._state.files_unchanged += 1
        step.same.append((entry, there))

    def _is_in_the_way(self, step: _Directory, relative: bytes, entry: Entry, there: Entry) -> None:
        if not self._options.delete:
            self._fail(
                relative,
                Refused(
                    f"{self._target.display(relative)}: is a {there.kind} there, and a "
                    f"{entry.kind} in the source; with --delete it is replaced"
                ),
            )
            return
        self._note(self._later.in_the_way, step, there)
        self._later.replacements.append(Replacement(relative, entry, step.inside))

    async def _look_inside(self, steps: Sequence[_Directory]) -> None:
        """Compare by digest what only its content can tell."""
        algorithm = self._options.algorithm
        unsure = [(step, entry, there) for step in steps for entry, there in step.unsure]
        if not unsure or algorithm is None:
            return
        names = [join(step.pair.relative, entry.name) for step, entry, _ in unsure]
        found: list[Sequence[str | UFTPError]] = [(), ()]
        failure: list[UFTPError] = []

        async def ask(side: Side, place: int) -> None:
            try:
                found[place] = await side.digests(names, algorithm)
            except UFTPError as error:
                failure.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, self._source, 0)
            nursery.start_soon(ask, self._target, 1)
        if failure:
            raise failure[0]
        for (step, entry, there), one, other in zip(unsure, *found, strict=True):
            # Where one cannot be read the copy finds out, and says so.
            if isinstance(one, str) and one == other:
                self._is_same(step, entry, there)
            else:
                step.files.append((entry, there))

    # -- doing ----------------------------------------------------------------------------------------------------

    async def _make(self, steps: Sequence[_Directory]) -> None:
        """Directories and links of the window, and what unchanged files lack."""
        new = [(step, entry) for step in steps for entry, there in step.directories if there is None]
        links = [(step, entry) for step in steps for entry in step.links]
        failed: set[bytes] = set()
        places = [join(step.pair.relative, entry.name) for step, entry in new]
        if not self._options.dry_run and places:
            for place, outcome in zip(places, await self._target.make_directories(places), strict=True):
                if outcome is not None:
                    failed.add(place)
                    self._fail(place, outcome)
        for new_place in places:
            if new_place not in failed:
                self._report("mkdir", new_place)
        if links:
            await self._make_links(links)
        for step in steps:
            for entry, there in step.directories:
                relative = join(step.pair.relative, entry.name)
                if relative not in failed:
                    self._descend(step, relative, entry, there)

    async def _make_links(self, links: Sequence[tuple[_Directory, Entry]]) -> None:
        wanted = [(join(step.pair.relative, entry.name), entry.link or b"") for step, entry in links]
        self._state.files_found += len(wanted)
        outcomes = [None] * len(wanted) if self._options.dry_run else await self._target.make_links(wanted)
        for (place, _), outcome in zip(wanted, outcomes, strict=True):
            if outcome is None:
                self._report("link", place)
            else:
                self._fail(place, outcome)

    def _descend(self, step: _Directory, relative: bytes, entry: Entry, there: Entry | None) -> None:
        if entry.unique is not None and entry.unique in step.inside:
            self._fail(relative, Refused(f"{self._source.display(relative)}: a link leads back up; left out"))
        elif relative.count(b"/") >= MAX_DEPTH:
            self._later.incomplete = True
            self._fail(relative, Refused(f"{self._source.display(relative)}: too deep; is a link leading upwards?"))
        else:
            self._waiting.append(Pair(relative, entry, there, step.inside))

    def _report(self, action: Literal["mkdir", "link"], relative: bytes) -> None:
        source, target = self._source.display(relative), self._target.display(relative)
        self._state.record(FileResult(source=source, target=target, action=action))

    async def _offer(self, queue: Queue, step: _Directory) -> None:
        await self._offer_files(queue, step)
        await self._set_modes(step)
        if step.needs_facts:
            relative, facts = step.pair.relative, step.pair.source
            self._later.changed[relative] = Facts(relative, facts.mtime_ns, facts.permissions)

    async def _offer_files(self, queue: Queue, step: _Directory) -> None:
        relative = step.pair.relative
        fresh = step.pair.target is None
        small: list[SmallFile] = []
        for entry, there in step.files:
            place = join(relative, entry.name)
            if self._options.dry_run:
                self._state.files_found += 1
                self._state.bytes_found += entry.size
                source, target = self._source.display(place), self._target.display(place)
                self._state.record(FileResult(source=source, target=target, bytes=entry.size))
                self._state.bytes_done += entry.size
            elif there is not None and await self._is_for_delta(place, entry, there):
                continue
            elif entry.size <= SMALL:
                small.append(SmallFile(entry.name, entry.size, entry.mtime_ns, entry.permissions))
                if len(small) == MOST_FILES:
                    await self._maker.offer_small(queue, relative, small, fresh=fresh)
                    small = []
            else:
                try:
                    await self._maker.offer(queue, place, entry, there)
                except UFTPError as error:
                    self._fail(place, error)
        if small:
            await self._maker.offer_small(queue, relative, small, fresh=fresh)

    async def _is_for_delta(self, relative: bytes, entry: Entry, there: Entry) -> bool:
        deltas = self._maker.deltas
        return deltas is not None and await deltas.takes(relative, entry, there)

    async def _set_modes(self, step: _Directory) -> None:
        """What files have whose content is the same, but not all of their facts."""
        if self._options.dry_run:
            return
        wanted = []
        by_content = self._options.comparison.checksum
        for entry, other in step.same:
            mode = entry.permissions if None not in (entry.permissions, other.permissions) else None
            mode = None if mode == other.permissions else mode
            mtime_ns = entry.mtime_ns if by_content and entry.mtime_ns != other.mtime_ns else None
            if mode is not None or mtime_ns is not None:
                wanted.append(Facts(join(step.pair.relative, entry.name), mtime_ns, mode))
        if wanted:
            for one, outcome in zip(wanted, await self._target.set_facts(wanted), strict=True):
                if outcome is not None:
                    self._state.on_note(f"{self._target.display(one.relative)}: time or mode not set: {outcome}")


class _Directory:
    """One directory of the window: what was found out about it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.inside = pair.above | {pair.source.unique} if pair.source.unique is not None else pair.above
        self.files: list[tuple[Entry, Entry | None]] = []
        self.unsure: list[tuple[Entry, Entry]] = []
        self.same: list[tuple[Entry, Entry]] = []
        self.links: list[Entry] = []
        self.directories: list[tuple[Entry, Entry | None]] = []
        self.changed = False

    @property
    def needs_facts(self) -> bool:
        """Whether its own time or mode will not be right without being set."""
        there, source = self.pair.target, self.pair.source
        touched = self.changed or self.files or self.links or any(other is None for _, other in self.directories)
        if touched or there is None:
            return True
        return (there.mtime_ns, there.permissions) != (source.mtime_ns, source.permissions)

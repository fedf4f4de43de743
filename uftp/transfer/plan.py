"""From sources and target to what goes where: the rules of `cp`, for both directions.

- A target that is a directory, or ends with a slash, gets each source under its own name.
- Several sources need a target that is a directory.
- With -r, a single directory to a name that does not exist becomes the directory of that name. A source directory
  written with a slash at its end means what is in it, not itself.
- Two sources that would get the same name are refused before anything is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from uftp.client.wording import printable
from uftp.errors import UsageError


@dataclass(frozen=True, slots=True)
class Root:
    """A source the user has named, or one that his pattern has matched.

    Attributes:
        path: where it is.
        name: base name; empty where what is in a directory is meant, not the directory itself.
        is_dir: whether it is a directory.
    """

    path: bytes
    name: bytes
    is_dir: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """A root and where it goes.

    Attributes:
        root: the source.
        relative: place below the target directory; empty for the target itself.
    """

    root: Root
    relative: bytes


@dataclass(frozen=True, slots=True)
class Placement:
    """Where all roots go.

    Attributes:
        into_directory: whether the target is a directory that holds them; otherwise it is the one root's new name.
        items: in order.
    """

    into_directory: bool
    items: tuple[Placed, ...]


def place(
    roots: Sequence[Root], *, target: bytes, target_is_dir: bool, target_exists: bool, several: bool = False
) -> Placement:
    """Decide what goes where.

    Args:
        roots: the sources, at least one.
        target: as named, for the slash at its end and for messages.
        target_is_dir: whether it is there and a directory.
        target_exists: whether it is there.
        several: whether more than one source was named, of which some may be missing from `roots`: a slip in one name
            shall not have the other one replace a file.

    Raises:
        UsageError: several sources and no directory, a directory onto a file, or two sources for one name.
    """
    shown = printable(target)
    if target_is_dir or target.endswith(b"/") or target == b"":
        placement = Placement(True, tuple(Placed(root, root.name) for root in roots))
    elif several or len(roots) > 1:
        raise UsageError(
            f"{shown}: several sources need a directory as target; create it, or write it with a slash at the end"
        )
    elif roots[0].is_dir:
        if target_exists:
            raise UsageError(f"{shown}: a directory cannot be copied onto a file")
        placement = Placement(True, (Placed(roots[0], b""),))
    else:
        placement = Placement(False, (Placed(roots[0], b""),))
    _refuse_conflicts(placement.items, shown)
    return placement


def place_exactly(root: Root) -> Placement:
    """One file to exactly the name that was given, be it what it is."""
    return Placement(False, (Placed(root, b""),))


def _refuse_conflicts(items: Iterable[Placed], target: str) -> None:
    taken: dict[bytes, Root] = {}
    for item in items:
        # What is in a directory could collide with anything else that goes to the same place.
        clashing = (
            taken.get(item.relative)
            or taken.get(b"")
            or (next(iter(taken.values()), None) if not item.relative else None)
        )
        if clashing is not None:
            raise UsageError(
                f"{target}: {printable(clashing.path)} and {printable(item.root.path)} could get the same name there; "
                "copy them one after the other, or to different directories"
            )
        taken[item.relative] = item.root


def join(directory: bytes, name: bytes) -> bytes:
    """`name` below `directory`; either may be empty."""
    if not directory or not name:
        return directory or name
    return directory + name if directory.endswith(b"/") else directory + b"/" + name

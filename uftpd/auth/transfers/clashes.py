"""Places that cannot be copied together: what would be written over each other, or copied into itself without an end.

The sources of a transfer are copied by one copy each, of which none knows of the others; so what `cp` refuses when it
plans (`uftp.transfer.plan`) is refused here. By the paths alone: what wildcards match is known when it begins, and a
symbolic link can hide where a directory really is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from uftp.client.remote import matches
from uftp.client.url import has_wildcards
from uftp.client.wording import printable
from uftpd.auth.errors import BadRequest
from uftpd.auth.transfers.model import Place

_SHOWN: Final = 200
ONE_BY_ONE: Final = "submit a transfer for each, with a target of its own"


def check_names(sources: Sequence[Place]) -> None:
    """Whether all sources have names of their own, so far as that can be told now.

    Raises:
        BadRequest: two have the same.
    """
    if len(sources) < 2:
        return
    if any(_is_content(place) for place in sources):
        raise BadRequest(f"sources: what is in a directory could be named as another source; {ONE_BY_ONE}")
    name = same_name(_name(place) for place in sources if not is_pattern(place))
    if name:
        raise BadRequest(f"sources: two are called '{printable(name)[:_SHOWN]}'; {ONE_BY_ONE}")


def check_loops(sources: Sequence[Place], target: Place) -> None:
    """Whether a directory would be copied into itself, which has no end.

    Raises:
        BadRequest: it would.
    """
    for place in sources:
        if place.kind == target.kind and place.end == target.end and _holds(place, target.path):
            raise BadRequest(f"target: it is '{place.text[:_SHOWN]}' itself, or inside of it; a copy would have no end")


def same_name(names: Iterable[bytes]) -> bytes:
    """A name that is there twice; empty if there is none, or for names that nobody knows."""
    seen: set[bytes] = set()
    for name in names:
        if name and name in seen:
            return name
        seen.add(name)
    return b""


def is_pattern(place: Place) -> bool:
    """Whether it may be several files."""
    return place.pattern is not None and has_wildcards(place.pattern)


def _is_content(place: Place) -> bool:
    if place.kind == "web":
        return False
    last = place.path.rpartition(b"/")[2]
    return last in (b"", b".", b"..")


def _name(place: Place) -> bytes:
    path = unquote_to_bytes(urlsplit(place.service).path) if place.kind == "web" else place.path
    return path.rpartition(b"/")[2]


def _holds(place: Place, target: bytes) -> bool:
    """Whether a directory of this path, if it is one, holds a target."""
    if place.path.startswith(b"/") != target.startswith(b"/"):
        return False  # who knows where a home directory is
    pattern = place.pattern if place.pattern is not None and is_pattern(place) else None
    above, below = _components(place.path if pattern is None else pattern), _components(target)
    if len(above) > len(below) or b".." in above or b".." in below:
        return False  # of a link, that is anywhere
    if pattern is None:
        return below[: len(above)] == above
    return all(matches(name, part) for name, part in zip(below, above, strict=False))


def _components(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]

"""Deciding once what is to be called what, so that each further attempt writes to the same places.

The rules are those of `cp` (`uftp.transfer.plan`), and they look at whether the target is there: a first attempt that
makes it would have the second one write into it instead. So before the first attempt the two sides are looked at, and
what is decided is written in a way that leaves nothing open: a slash at the end of a directory that things go into, and
one at the end of a source directory whose content is meant.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from uftp.client.remote import expand
from uftp.client.session import FTPSession
from uftp.client.wording import printable
from uftp.errors import NotFound, UFTPError
from uftpd.auth.transfers.clashes import ONE_BY_ONE, is_pattern, same_name
from uftpd.auth.transfers.endings import Ending, ForGood
from uftpd.auth.transfers.model import Place, Transfer
from uftpd.auth.transfers.sides import Side

_WILDCARDS: Final = {byte: b"[" + bytes([byte]) + b"]" for byte in b"*?["}


@dataclass(frozen=True, slots=True)
class Placement:
    """Paths as they are said to the node that runs the copy.

    Attributes:
        sources: with wildcards; what stands for itself is in brackets. Of an https URL the URL.
        target: ends with a slash if things go into it.
    """

    sources: tuple[bytes, ...]
    target: bytes


def encode_placement(placement: Placement) -> dict[str, Any]:
    """For keeping as JSON. Only the first source can differ from what was submitted."""
    return {"source": placement.sources[0].decode("latin-1"), "target": placement.target.decode("latin-1")}


def decode_placement(transfer: Transfer, document: object) -> Placement | None:
    """What `encode_placement` gave; None if it is something else."""
    if not isinstance(document, dict):
        return None
    source, target = document.get("source"), document.get("target")
    if not isinstance(source, str) or not isinstance(target, str):
        return None
    others = tuple(said(each) for each in transfer.sources[1:])
    return Placement((source.encode("latin-1"), *others), target.encode("latin-1"))


def said(place: Place) -> bytes:
    """A source as it is said to a node."""
    if place.kind == "web":
        return place.service.encode()
    return place.pattern if place.pattern is not None else escaped(place.path)


def escaped(path: bytes) -> bytes:
    """A pattern that only this path matches."""
    return b"".join(_WILDCARDS.get(byte, bytes([byte])) for byte in path)


def dump(**facts: Any) -> str:
    """What a drive keeps, as text."""
    return json.dumps(facts)


def load(text: str) -> dict[str, Any]:
    """What `dump` gave; empty for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


async def place(transfer: Transfer, source: Side | None, target: Side) -> Placement:
    """Decide; what cannot be looked at now is left to the node.

    Args:
        transfer: that begins.
        source: side of the sources; None for https URLs.
        target: side of the target.

    Raises:
        ForGood: wildcards of two sources match files of one name.
    """
    sources = tuple(said(each) for each in transfer.sources)
    if source is not None and len(sources) > 1 and any(map(is_pattern, transfer.sources)):
        await _check_names(transfer.sources, source)
    path = transfer.target.path
    if path.endswith(b"/") or not path:
        return Placement(sources, path or b"./")
    if len(sources) > 1:
        return Placement(sources, path + b"/")
    found = await _type(target, path)
    if found == "dir":
        return Placement(sources, path + b"/")
    first = transfer.sources[0]
    if found is None and source is not None and transfer.options.recursive and not is_pattern(first):
        if sources[0].endswith(b"/"):
            return Placement(sources, path + b"/")
        if await _type(source, first.path) == "dir":
            return Placement((sources[0] + b"/",), path + b"/")
    return Placement(sources, path)


async def _check_names(sources: Sequence[Place], side: Side) -> None:
    """Each source is copied for itself, so nobody else would notice."""
    names: list[bytes] = []
    try:
        async with side.looking() as session:
            for each in sources:
                if each.pattern is None:
                    names.append(each.path.rpartition(b"/")[2])
                    continue
                with contextlib.suppress(NotFound):  # its own copy says so
                    names += {
                        entry.relative.rpartition(b"/")[2] for entry in await expand(session, each.pattern, each.path)
                    }
    except (Ending, UFTPError):
        return  # as with all that cannot be looked at: what is there to copy is tried
    if name := same_name(names):
        raise ForGood(f"Several of the sources are called '{printable(name)}'; {ONE_BY_ONE}")


async def _type(side: Side, path: bytes) -> str | None:
    """`dir`, `file`, None if there is nothing; `unknown` if that cannot be found out."""
    try:
        async with side.looking() as session:
            return await _look(session, path)
    except (Ending, UFTPError):
        return "unknown"


async def _look(session: FTPSession, path: bytes) -> str | None:
    info = await session.stat_or_none(path)
    if info is None:
        return None
    return "dir" if info.is_dir else "file"

"""Whether a file of the source and the one of its name at the target are the same, as far as listings tell.

Times of the two sides differ in how precise they are: file systems have nanoseconds, our servers pass them on, other
servers tell seconds, upstream ones milliseconds, and listings of the kind of `ls -l` minutes, or days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from uftp.client.listings import Entry

_UNITS: Final = (1_000_000_000, 1_000_000, 1_000, 100)  # nanoseconds in a second and so on; the last is that of NTFS
_MINUTE: Final = 60 * _UNITS[0]
_DAY: Final = 86_400 * _UNITS[0]

Verdict = Literal["same", "differs", "newer", "look"]


def same_time(one: int, other: int, *, rough: bool = False) -> bool:
    """Whether two times are the same at the precision of the coarser one, in nanoseconds since 1970.

    Args:
        one, other: the times.
        rough: one of them comes from a listing that shows minutes, or for older files days only.
    """
    if one == other:
        return True
    if rough:
        return abs(one - other) < (_MINUTE if one % _DAY and other % _DAY else _DAY)
    for unit in _UNITS:
        if one % unit == 0 or other % unit == 0:
            return one // unit == other // unit
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How files are compared.

    Attributes:
        checksum: by what is in them, whatever their times.
        size_only: by size alone.
        update: leave targets that are newer than their source.
        rough: see `same_time`.
        times_kept: whether the target gets the times of its source. Else a target of the same size that is newer is
            taken for the same.
    """

    checksum: bool = False
    size_only: bool = False
    update: bool = False
    rough: bool = False
    times_kept: bool = True

    def judge(self, source: Entry, target: Entry) -> Verdict:
        """What the facts say; "newer" is the target, "look" means that only the contents can tell."""
        before, after = source.mtime_ns, target.mtime_ns
        same = later = False
        if before is not None and after is not None:
            same = same_time(before, after, rough=self.rough)
            later = after > before and not same
        if self.update and later:
            return "newer"
        if source.size != target.size:
            return "differs"
        if self.size_only:
            return "same"
        if self.checksum:
            return "look"
        return "same" if same or (later and not self.times_kept) else "differs"

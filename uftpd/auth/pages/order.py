"""The order of a directory's entries, as the query of its address asks: `?sort=size&order=desc&page=2`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

if TYPE_CHECKING:
    from uftpd.auth.pages.views import Entry

PAGE_ENTRIES = 1000
"""Lines on one page: some 300 KiB of HTML, which a phone still scrolls."""

_KEYS = ("name", "size", "modified")
_MAX_PAGE = 1_000_000
_DIGITS = re.compile(r"([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Order:
    """How entries are sorted, and which part of them is shown.

    Attributes:
        key: `name`, `size` or `modified`.
        descending: whether the largest comes first.
        page: from 1.
    """

    key: str = "name"
    descending: bool = False
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Order:
        """What a query asks for; what it does not say, or says wrongly, is as for an empty one."""
        key = query.get("sort", "")
        page = query.get("page", "")
        return cls(
            key=key if key in _KEYS else "name",
            descending=query.get("order", "") == "desc",
            page=max(1, min(int(page), _MAX_PAGE)) if re.fullmatch("[0-9]{1,7}", page, re.ASCII) else 1,
        )

    def query(self) -> str:
        """The query that asks for it, with its `?`; a bare `?` for the usual order."""
        words: dict[str, str] = {}
        if self.key != "name" or self.descending:
            words = {"sort": self.key, "order": "desc" if self.descending else "asc"}
        if self.page > 1:
            words["page"] = str(self.page)
        return f"?{urlencode(words)}" if words else "?"

    def by(self, key: str) -> Order:
        """The order behind the head of a column: that column, or the other way round if it is that already."""
        if key == self.key:
            return replace(self, descending=not self.descending, page=1)
        return Order(key, descending=key != "name")  # the largest, the newest: what people look for

    def at(self, page: int) -> Order:
        """The same order, another page of it."""
        return replace(self, page=page)

    def sorted(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries in this order, directories first."""
        # Two stable sorts: equal sizes and times stay in the order of their names.
        found = sorted(entries, key=lambda entry: natural(entry.name), reverse=self.descending and self.key == "name")
        if self.key == "size":
            found.sort(key=lambda entry: -1 if entry.size is None else entry.size, reverse=self.descending)
        elif self.key == "modified":
            found.sort(
                key=lambda entry: float("-inf") if entry.modified is None else entry.modified, reverse=self.descending
            )
        found.sort(key=lambda entry: entry.kind.value != "directory")
        return found


BY_NAME = Order()


def natural(name: str) -> tuple[str | int, ...]:
    """Sorts `run2` before `run10`, and `A` beside `a`."""
    # Text and numbers take turns, so that like is compared with like.
    return tuple(int(part) if place % 2 else part for place, part in enumerate(_DIGITS.split(name.casefold())))

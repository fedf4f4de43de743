"""What the front knows of copies between servers: who has which, how they stand, which files failed.

Bounded in every direction, since users fill it: the outcome of a copy is known for an hour, of each user's latest
copies, and of failed files so much as fits.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from uftp.protocol.server_copies import MAX_ERRORS, MAX_ID, CopyWord
from uftpd.session.copy_messages import CopyFacts, CopyFailure

KEPT_SECONDS: Final = 3600.0  # EXTENSIONS 3
_ENDED_PER_USER: Final = 1000  # half a kilobyte each
_FAILURES_PER_COPY: Final = 10_000
_FAILURE_BYTES_PER_COPY: Final = 2 * 1024 * 1024
_FAILURE_BYTES_PER_USER: Final = 8 * 1024 * 1024
_PAGE_BYTES: Final = 96 * 1024  # an answer must fit into a message
_OVERHEAD: Final = 100  # bytes, of objects


@dataclass(slots=True)
class Book:
    """One copy.

    Attributes:
        id: what the client calls it.
        user: whose it is; nobody else learns that it exists.
        child: the process.
        word, facts, error: how it stands.
        abort_wanted: whether its user has ended it.
        ended_at: on the clock of the books; None while it runs.
        gone: set when its process is gone.
    """

    id: int
    user: str
    child: str
    word: CopyWord = "RUNNING"
    facts: CopyFacts = CopyFacts()  # noqa: RUF009 - frozen
    error: str = ""
    abort_wanted: bool = False
    ended_at: float | None = None
    gone: trio.Event = field(default_factory=trio.Event)
    failures: list[CopyFailure] = field(default_factory=list)
    failure_bytes: int = 0

    def page(self, first: int) -> tuple[tuple[CopyFailure, ...], int]:
        """Failures from number `first` on, so many as one answer holds, and the number of the next; 0: no more."""
        found: list[CopyFailure] = []
        size = 0
        for failure in self.failures[first : first + MAX_ERRORS]:
            size += _size(failure)
            if found and size > _PAGE_BYTES:
                break
            found.append(failure)
        following = first + len(found)
        return tuple(found), following if following < len(self.failures) else 0


class CopyBooks:
    """See the module.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._books: dict[int, Book] = {}
        self._by_child: dict[str, Book] = {}
        self._ended: defaultdict[str, list[Book]] = defaultdict(list)  # by user, in the order they ended
        self._failure_bytes: defaultdict[str, int] = defaultdict(int)

    def __len__(self) -> int:
        """How many copies are known."""
        return len(self._books)

    def open(self, user: str, child: str) -> Book:
        """A new copy of `user`, in the process `child`."""
        self.sweep()
        while (copy_id := secrets.randbelow(MAX_ID) + 1) in self._books:
            pass
        book = Book(copy_id, user, child)
        self._books[copy_id] = self._by_child[child] = book
        return book

    def drop(self, book: Book) -> None:
        """There never was such a copy."""
        self._by_child.pop(book.child, None)
        self._forget(book)

    def find(self, copy_id: int, user: str) -> Book | None:
        """The copy of this id, if it is known and this user's."""
        self.sweep()
        book = self._books.get(copy_id)
        return book if book is not None and book.user == user else None

    def of_child(self, child: str) -> Book | None:
        """The copy that a process makes."""
        return self._by_child.get(child)

    def fail(self, book: Book, failures: Sequence[CopyFailure]) -> None:
        """Note files that failed, while there is room; their number is told in the facts."""
        for failure in failures:
            size = _size(failure)
            if len(book.failures) >= _FAILURES_PER_COPY or book.failure_bytes + size > _FAILURE_BYTES_PER_COPY:
                break
            book.failures.append(failure)
            book.failure_bytes += size
            self._failure_bytes[book.user] += size
        for old in self._ended.get(book.user, ()):
            if self._failure_bytes[book.user] <= _FAILURE_BYTES_PER_USER:
                break
            self._forget_failures(old)

    def end(self, book: Book, word: CopyWord, facts: CopyFacts, error: str) -> None:
        """A copy has ended; the first word about it counts."""
        if book.ended_at is not None:
            return
        book.word, book.facts, book.error = word, facts, error
        book.ended_at = self._clock()
        ended = self._ended[book.user]
        ended.append(book)
        if len(ended) > _ENDED_PER_USER:
            self._forget(ended[0])

    def left(self, book: Book) -> None:
        """Its process is gone."""
        self._by_child.pop(book.child, None)
        book.gone.set()

    def sweep(self) -> None:
        """Forget what ended too long ago."""
        before = self._clock() - KEPT_SECONDS
        for user in list(self._ended):
            for book in list(self._ended[user]):
                if book.ended_at is None or book.ended_at > before:
                    break
                self._forget(book)

    def _forget(self, book: Book) -> None:
        self._forget_failures(book)
        self._books.pop(book.id, None)
        ended = self._ended.get(book.user, [])
        if book in ended:
            ended.remove(book)
        if not ended:
            self._ended.pop(book.user, None)

    def _forget_failures(self, book: Book) -> None:
        self._failure_bytes[book.user] -= book.failure_bytes
        if self._failure_bytes[book.user] <= 0:
            del self._failure_bytes[book.user]
        book.failures, book.failure_bytes = [], 0


def _size(failure: CopyFailure) -> int:
    return len(failure.source) + len(failure.target) + 4 * len(failure.error) + _OVERHEAD

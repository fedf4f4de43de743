"""What the front remembers of copies between servers: for whom, how long, and how much of it."""

from __future__ import annotations

from uftp.protocol.server_copies import MAX_ERRORS
from uftpd.data.copy_books import KEPT_SECONDS, CopyBooks
from uftpd.session.copy_messages import CopyFacts, CopyFailure


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def failures(count: int, size: int = 10) -> list[CopyFailure]:
    return [CopyFailure(b"%d" % n, b"t" * size, "no") for n in range(count)]


def test_a_copy_is_known_to_its_user_alone() -> None:
    books = CopyBooks(Clock())
    book = books.open("alice", "c1")
    assert books.find(book.id, "alice") is book
    assert books.find(book.id, "bob") is None
    assert books.find(book.id + 1, "alice") is None
    assert books.of_child("c1") is book


def test_ids_are_no_process_ids_and_fit_where_those_do() -> None:
    books = CopyBooks(Clock())
    ids = [books.open("alice", f"c{n}").id for n in range(500)]
    assert len(set(ids)) == 500
    assert all(0 < copy_id < 2**63 for copy_id in ids)
    assert sum(copy_id > 2**32 for copy_id in ids) > 490, "ids can be guessed"


def test_the_first_word_on_the_end_counts_and_is_kept_for_an_hour() -> None:
    clock = Clock()
    books = CopyBooks(clock)
    book = books.open("alice", "c1")
    clock.now = 10_000.0  # running copies are never forgotten
    assert books.find(book.id, "alice") is book
    books.end(book, "FINISHED", CopyFacts(bytes=5), "")
    books.end(book, "FAILED", CopyFacts(), "the process of the copy ended")
    books.left(book)
    assert (book.word, book.facts.bytes, book.error) == ("FINISHED", 5, "")
    clock.now += KEPT_SECONDS - 1
    assert books.find(book.id, "alice") is book
    clock.now += 2
    assert books.find(book.id, "alice") is None
    assert len(books) == 0


def test_pages_of_failures() -> None:
    books = CopyBooks(Clock())
    book = books.open("alice", "c1")
    books.fail(book, failures(450))
    first, following = book.page(0)
    assert (len(first), following) == (MAX_ERRORS, MAX_ERRORS)
    second, following = book.page(following)
    third, last = book.page(following)
    assert last == 0
    assert [f.source for f in (*first, *second, *third)] == [b"%d" % n for n in range(450)]
    assert book.page(450) == ((), 0)
    assert book.page(2**62) == ((), 0)


def test_a_page_fits_into_a_message_and_always_goes_on() -> None:
    books = CopyBooks(Clock())
    book = books.open("alice", "c1")
    books.fail(book, failures(100, size=8192))
    seen = 0
    following = 0
    while True:
        page, following = book.page(following)
        assert page
        assert sum(len(failure.target) for failure in page) < 128 * 1024
        seen += len(page)
        if not following:
            break
    assert seen == 100


def test_failures_are_bounded_for_a_copy_and_for_a_user() -> None:
    books = CopyBooks(Clock())
    many = books.open("alice", "c0")
    books.fail(many, failures(20_000, size=1))
    assert len(many.failures) == 10_000
    books.end(many, "FAILED", CopyFacts(failed=20_000), "no")
    ended = []
    for n in range(20):
        book = books.open("alice", f"c{n + 1}")
        books.fail(book, failures(500, size=4096))
        books.end(book, "FAILED", CopyFacts(failed=500), "no")
        ended.append(book)
    assert sum(book.failure_bytes for book in (many, *ended)) < 12 * 1024 * 1024
    assert ended[-1].failures, "the latest are kept"
    assert not many.failures, "the oldest go first"
    assert books.find(many.id, "alice") is many, "how it ended is still known"


def test_the_number_of_ended_copies_is_bounded_for_a_user() -> None:
    books = CopyBooks(Clock())
    other = books.open("bob", "other")
    books.end(other, "FINISHED", CopyFacts(), "")
    first = books.open("alice", "first")
    books.end(first, "FINISHED", CopyFacts(), "")
    for n in range(1200):
        books.end(books.open("alice", f"c{n}"), "FINISHED", CopyFacts(), "")
    assert books.find(first.id, "alice") is None
    assert books.find(other.id, "bob") is other
    assert len(books) <= 1001


def test_a_copy_that_never_began_leaves_nothing() -> None:
    books = CopyBooks(Clock())
    book = books.open("alice", "c1")
    books.drop(book)
    assert books.find(book.id, "alice") is None
    assert books.of_child("c1") is None
    assert len(books) == 0

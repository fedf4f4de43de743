"""How many sessions: what `uftp.transfer.growth` decides, for any course of things."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from uftp.transfer.growth import Growth, Seen

seen = st.builds(
    Seen,
    rate=st.floats(-10, 1e12),
    workers=st.integers(1, 10),
    sessions=st.integers(0, 10),
    waiting=st.integers(0, 3),
    most=st.integers(1, 10),
    capped=st.booleans(),
    busy=st.floats(0, 1),
)


def run(rate_of: Callable[[int], float], *, workers: int = 1, most: int = 8, intervals: int = 60) -> int:
    """Workers after so many intervals, where sessions are there at once."""
    growth = Growth()
    for _ in range(intervals):
        growth, more = growth.after(
            Seen(rate=rate_of(workers), workers=workers, sessions=workers, waiting=100, most=most)
        )
        workers += more
    return workers


@given(st.lists(seen, max_size=30))
def test_nothing_is_added_beyond_a_limit_or_without_work(course: list[Seen]) -> None:
    growth = Growth()
    for one in course:
        growth, more = growth.after(one)
        if more:
            assert one.workers < one.most
            assert one.waiting
            assert not one.capped
            assert one.sessions >= one.workers
            assert one.rate > 0


@given(st.lists(seen, max_size=30))
def test_after_each_addition_a_whole_interval_is_seen(course: list[Seen]) -> None:
    growth = Growth()
    added = False
    for one in course:
        growth, more = growth.after(one)
        assert not (added and more)
        added = more


@given(st.lists(seen, max_size=40))
def test_each_addition_but_the_first_has_followed_a_growth_of_the_rate(course: list[Seen]) -> None:
    growth = Growth()
    last: float | None = None
    for one in course:
        growth, more = growth.after(one)
        if more:
            assert last is None or one.rate >= last * 1.1
            last = one.rate


@given(st.integers(1, 8), st.integers(1, 8), st.floats(1, 1e9))
def test_a_line_that_each_session_has_its_share_of_gets_all_there_may_be(begin: int, most: int, each: float) -> None:
    # The eighth session adds a seventh.
    assert run(lambda workers: each * workers, workers=begin, most=most) == max(begin, most)


@given(st.integers(1, 6), st.floats(1, 1e9))
def test_a_line_that_is_full_gets_one_to_try(begin: int, rate: float) -> None:
    assert run(lambda workers: rate, workers=begin) == begin + 1


@given(st.integers(2, 6))
def test_it_stops_soon_after_the_line_is_full(full: int) -> None:
    assert run(lambda workers: min(workers, full) * 1e6) == full + 1


def test_a_busy_processor_gets_no_more() -> None:
    growth = Growth()
    for _ in range(5):
        growth, more = growth.after(Seen(rate=1e9, workers=2, sessions=2, waiting=9, most=8, busy=0.5))
        assert not more

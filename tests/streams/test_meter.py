"""Rates, under a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uftp.streams import Meter, RateLimit


class _Clock:
    """Time that passes only in sleep."""

    def __init__(self, meter: Meter | None = None, cancel_at: float | None = None) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []
        self._meter, self._cancel_at = meter, cancel_at

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.sleeps.append(seconds)
        self.now += seconds
        if self._meter is not None and self._cancel_at is not None and self.now >= self._cancel_at:
            self._meter.cancelled = True


@given(
    st.integers(min_value=1, max_value=10**10),
    st.lists(st.integers(min_value=1, max_value=10**7), min_size=1, max_size=5),
)
def test_no_more_than_an_eighth_of_a_second_is_saved_up(rate: int, counts: list[int]) -> None:
    counts = [min(count, rate * 100) for count in counts]
    clock = _Clock()
    limit = RateLimit(rate, clock=clock, sleep=clock.sleep)
    clock.now += 1000  # a long pause earns nothing more
    start = clock.now
    for count in counts:
        limit.spend(count, Meter())
    due = sum(counts) / rate
    assert due - 0.126 <= clock.now - start <= due + 0.001


def test_a_sleeper_notices_a_cancel_within_a_quarter_of_a_second() -> None:
    meter = Meter()
    clock = _Clock(meter, cancel_at=101.0)
    RateLimit(1, clock=clock, sleep=clock.sleep).spend(1_000_000, meter)
    assert clock.now <= 101.25
    assert max(clock.sleeps) <= 0.25


def test_no_rate_is_no_limit() -> None:
    clock = _Clock()
    limit = RateLimit(0, clock=clock, sleep=clock.sleep)
    limit.spend(10**12, Meter())
    assert clock.sleeps == []
    assert limit.block_size(1 << 20) == 1 << 20


def test_a_rate_may_change_while_a_transfer_runs() -> None:
    clock = _Clock()
    limit = RateLimit(1000, clock=clock, sleep=clock.sleep)
    limit.spend(1000, Meter())
    assert clock.now == pytest.approx(101)
    limit.rate = 100
    limit.spend(1000, Meter())
    assert clock.now == pytest.approx(111)
    limit.rate = 0
    limit.spend(10**9, Meter())
    assert clock.now == pytest.approx(111)


@pytest.mark.parametrize(("rate", "size"), [(1, 1024), (16_384, 1024), (160_000, 10_000), (10**12, 1 << 20)])
def test_blocks_are_small_where_the_rate_is(rate: int, size: int) -> None:
    assert RateLimit(rate).block_size(1 << 20) == size

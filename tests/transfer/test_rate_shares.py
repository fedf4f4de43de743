"""One rate for all transfers of a copy, which may change while they run."""

from __future__ import annotations

from uftp.transfer.rate import RateShares


def test_those_under_way_share_the_rate() -> None:
    shares = RateShares(100)
    with shares.share() as first:
        assert first is not None
        assert first.rate == 100
        with shares.share() as second:
            assert second is not None
            assert (first.rate, second.rate) == (50, 50)
            shares.change(30)
            assert (first.rate, second.rate) == (15, 15)
        assert first.rate == 30
        shares.change(0)
        assert first.rate == 30, "no rate is not a rate of nothing"
    with shares.share() as later:
        assert later is not None
        assert later.rate == 30


def test_without_a_rate_from_the_start_there_is_none() -> None:
    shares = RateShares(0)
    shares.change(5)
    with shares.share() as share:
        assert share is None

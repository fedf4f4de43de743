"""The pool of data ports: nobody gets a port that is held, and none is lost."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from uftpd.config.toml import PortRange
from uftpd.data.ports import PortPool

SESSIONS = {f"{user}{n}": user for user in "abc" for n in range(3)}
WAIT = 10.0


class Pool(RuleBasedStateMachine):
    """Sessions ask, get, return, find ports busy and go, in any order."""

    @initialize(size=st.integers(1, 5), per_user=st.integers(1, 4))
    def make(self, size: int, per_user: int) -> None:
        self.now = 100.0
        self.ports = set(range(5000, 5000 + size))
        self.per_user = max(1, min(per_user, size // 2))
        self.pool = PortPool(PortRange(5000, 4999 + size), per_user, WAIT, lambda: self.now)
        self.held: dict[int, str] = {}
        self.waiting: Counter[str] = Counter()
        self.refused = 0

    @rule(session=st.sampled_from(sorted(SESSIONS)))
    def want(self, session: str) -> None:
        taken = self.pool.want(session, SESSIONS[session])
        assert taken or self.waiting[session] >= 8
        self.waiting[session] += taken

    @rule(data=st.data(), busy=st.booleans())
    def give_back(self, data: st.DataObject, busy: bool) -> None:
        if self.held:
            port = data.draw(st.sampled_from(sorted(self.held)))
            self.pool.give_back("somebody else", port, busy=False)
            self.pool.give_back(self.held.pop(port), port, busy=busy)

    @rule(session=st.sampled_from(sorted(SESSIONS)))
    def end(self, session: str) -> None:
        self.pool.forget(session)
        self.waiting[session] = 0
        self.held = {port: holder for port, holder in self.held.items() if holder != session}

    @rule(seconds=st.sampled_from([0.1, 1.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def grant(self) -> None:
        for session, port in self.pool.grants():
            assert self.waiting[session] > 0
            self.waiting[session] -= 1
            if port:
                assert port in self.ports
                assert port not in self.held
                self.held[port] = session
        if sum(self.waiting.values()):
            change = self.pool.next_change()
            assert change is not None
            assert change > self.now, "nobody waits beyond his time"
        else:
            assert self.pool.next_change() is None

    @invariant()
    def shares_are_fair(self) -> None:
        if hasattr(self, "held"):
            by_user = Counter(SESSIONS[session] for session in self.held.values())
            assert all(count <= self.per_user for count in by_user.values())

    def teardown(self) -> None:
        if not hasattr(self, "held"):
            return
        for session in SESSIONS:
            self.pool.forget(session)
        self.now += 100
        got = set()
        for n in range(len(self.ports)):
            self.pool.want(f"x{n}", f"user{n}")
        got = {port for _, port in self.pool.grants()}
        assert got == self.ports, "no port is lost"


TestPool = pytest.mark.slow(Pool.TestCase)


def test_first_come_first_served() -> None:
    pool = PortPool(PortRange(7000, 7000), 5, WAIT, lambda: 0.0)
    for session in ("1", "2", "3"):
        pool.want(session, session)
    assert pool.grants() == [("1", 7000)]
    pool.give_back("1", 7000, busy=False)
    pool.want("1", "1")
    assert pool.grants() == [("2", 7000)]
    pool.forget("2")
    assert pool.grants() == [("3", 7000)]

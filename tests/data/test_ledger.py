"""The ledger of expected logins: its books always balance, whatever happens in which order."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from uftp.protocol.command_port import Purpose, RequestRefused, TransferRequest
from uftpd.data.ledger import Ledger, LoginError

HERE = ip_address("127.0.0.1")
LIMITS = {Purpose.LOGIN: 3, Purpose.SHARE: 2, Purpose.COPY: 1}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_request(secret: str, **fields: object) -> TransferRequest:
    values = {"user": "alice", "secret": secret, "client_ip": (HERE,), **fields}
    return TransferRequest(**values)  # type: ignore[arg-type]


class Books(RuleBasedStateMachine):
    """Announce, log in, end and wait in any order."""

    secrets = Bundle("secrets")
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.ledger = Ledger(LIMITS, self.clock)
        self.running: dict[str, tuple[str, Purpose]] = {}
        self.used: Counter[str] = Counter()
        self.requests: dict[str, TransferRequest] = {}
        self.count = 0

    @rule(
        target=secrets,
        user=st.sampled_from(["alice", "bob"]),
        purpose=st.sampled_from(Purpose),
        persistent=st.booleans(),
        max_logins=st.none() | st.integers(1, 3),
        expires=st.none() | st.sampled_from([1.0, 10.0, 1e9]),
    )
    def announce(
        self, user: str, purpose: Purpose, persistent: bool, max_logins: int | None, expires: float | None
    ) -> object:
        self.count += 1
        secret = f"secret-{self.count}"
        request = make_request(
            secret, user=user, purpose=purpose, persistent=persistent, max_logins=max_logins, expires=expires
        )
        try:
            self.ledger.add(request)
        except RequestRefused:
            return multiple()  # the account is full
        self.requests[secret] = request
        with pytest.raises(RequestRefused, match="Duplicate"):
            self.ledger.add(request)
        return secret

    @rule(target=sessions, secret=secrets)
    def log_in(self, secret: str) -> object:
        self.count += 1
        session = f"session-{self.count}"
        try:
            request = self.ledger.claim(secret, HERE, session)
        except LoginError:
            return multiple()
        assert request.secret == ""
        self.used[secret] += 1
        announced = self.requests[secret]
        assert self.used[secret] <= (announced.max_logins or (10**9 if announced.persistent else 1))
        self.running[session] = (request.user, request.purpose)
        return session

    @rule(secret=secrets)
    def log_in_from_elsewhere(self, secret: str) -> None:
        with pytest.raises(LoginError):
            self.ledger.claim(secret, ip_address("192.0.2.1"), "never")

    @rule(session=consumes(sessions))
    def end(self, session: str) -> None:
        self.ledger.end(session)
        self.running.pop(session, None)
        self.ledger.end(session)  # the news may come twice

    @rule(seconds=st.sampled_from([0.5, 5.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.ledger.sweep()

    @invariant()
    def slots_are_within_limits_and_cover_all_sessions(self) -> None:
        slots = self.ledger._slots
        sessions = Counter(self.running.values())
        for account, count in slots.items():
            assert 0 < count <= LIMITS[account[1]]
        for account, count in sessions.items():
            assert slots[account] >= count
        for user in ("alice", "bob"):
            expected = sorted(s for s, (owner, _) in self.running.items() if owner == user)
            assert sorted(self.ledger.active(user)) == expected

    def teardown(self) -> None:
        for session in self.running:
            self.ledger.end(session)
        self.clock.now += 1e10
        self.ledger.sweep()
        assert not self.ledger._slots
        assert not self.ledger._expected
        assert not self.ledger._sessions


TestBooks = pytest.mark.slow(Books.TestCase)


def test_a_secret_is_not_kept() -> None:
    ledger = Ledger(LIMITS, Clock())
    ledger.add(make_request("very-secret"))
    ledger.claim("very-secret", HERE, "1")
    assert "very-secret" not in repr(ledger.__dict__)
    assert "very-secret" not in repr([entry.request for entry in ledger._expected.values()])


def test_sessions_of_a_front_before_count() -> None:
    ledger = Ledger(LIMITS, Clock())
    ledger.inherit({"a": ("alice", Purpose.LOGIN), "b": ("alice", Purpose.LOGIN)})
    ledger.inherit({"c": ("bob", Purpose.LOGIN), "d": ("alice", Purpose.COPY)})
    with pytest.raises(RequestRefused, match="server limit is 1"):
        ledger.add(make_request("0", purpose=Purpose.COPY))
    ledger.add(make_request("1"))
    with pytest.raises(RequestRefused, match="Too many"):
        ledger.add(make_request("2"))
    ledger.end("a")
    ledger.add(make_request("2"))
    ledger.end("a")
    with pytest.raises(RequestRefused, match="Too many"):
        ledger.add(make_request("3"))
    ledger.end("d")
    ledger.add(make_request("4", purpose=Purpose.COPY))


def test_a_persistent_secret_outlives_its_time_while_it_is_used() -> None:
    clock = Clock()
    ledger = Ledger(LIMITS, clock)
    ledger.add(make_request("1", persistent=True))
    ledger.claim("1", HERE, "a")
    clock.now += 10_000
    ledger.sweep()
    ledger.claim("1", HERE, "b")
    ledger.end("a")
    ledger.end("b")
    with pytest.raises(LoginError) as raised:
        ledger.claim("1", HERE, "c")
    assert raised.value.code == 530


def test_a_persistent_secret_can_be_used_again_within_its_time() -> None:
    clock = Clock()
    ledger = Ledger(LIMITS, clock)
    ledger.add(make_request("1", persistent=True))
    for n in range(5):
        ledger.claim("1", HERE, f"{n}")
        ledger.end(f"{n}")
        clock.now += 50
        ledger.sweep()
    clock.now += 50
    ledger.sweep()
    with pytest.raises(LoginError):
        ledger.claim("1", HERE, "late")


def test_outstanding_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uftpd.data.ledger._MOST_EXPECTED", 3)
    clock = Clock()
    ledger = Ledger(LIMITS, clock)
    for n in range(3):
        ledger.add(make_request(f"{n}", user=f"user{n}"))
    with pytest.raises(RequestRefused, match="Too many outstanding"):
        ledger.add(make_request("4", user="user4"))
    clock.now += 10_000
    ledger.add(make_request("4", user="user4"))


# -- access over HTTP -------------------------------------------------------------------------------------------------


def announce_object(ledger: Ledger, secret: str = "1", **fields: object) -> None:
    fields = {"http": True, "scope": b"x", "purpose": Purpose.SHARE, "expires": 100.0, **fields}
    ledger.add(make_request(secret, **fields))


def is_open(ledger: Ledger, secret: str = "1") -> bool:
    try:
        ledger.claim_object(secret, HERE)
    except LoginError:
        return False
    return True


def test_an_object_is_open_until_its_time_ends() -> None:
    clock = Clock()
    ledger = Ledger(LIMITS, clock)
    announce_object(ledger)
    for number in range(4):  # its server may end between two requests
        claim = ledger.claim_object("1", HERE)
        assert claim.seconds == 100 - 20 * number
        assert not claim.request.secret
        ledger.begin_object(claim, f"{number}")
        ledger.end(f"{number}")
        clock.now += 20
        ledger.sweep()
    clock.now += 20
    assert not is_open(ledger)
    ledger.sweep()
    assert not is_open(ledger)
    announce_object(ledger)


def test_an_object_that_is_being_fetched_can_be_asked_for_beyond_its_time() -> None:
    clock = Clock()
    ledger = Ledger(LIMITS, clock)
    announce_object(ledger)
    claim = ledger.claim_object("1", HERE)
    ledger.begin_object(claim, "a")
    clock.now += 200
    ledger.sweep()
    assert ledger.claim_object("1", HERE).seconds == -100
    with pytest.raises(LoginError):
        ledger.begin_object(claim, "b")
    ledger.end("a")
    assert not is_open(ledger)


def test_object_servers_take_slots_as_sessions_do() -> None:
    ledger = Ledger(LIMITS, Clock())
    announce_object(ledger)
    claim = ledger.claim_object("1", HERE)
    ledger.begin_object(claim, "a")  # the slot of the request
    ledger.begin_object(claim, "b")
    with pytest.raises(LoginError, match="server limit is 2"):
        ledger.begin_object(claim, "c")
    with pytest.raises(RequestRefused, match="server limit is 2"):
        announce_object(ledger, "2")
    ledger.end("a")
    announce_object(ledger, "2")


def test_an_object_nobody_asked_for_gives_its_slot_back() -> None:
    clock = Clock()
    ledger = Ledger(LIMITS, clock)
    for secret in ("1", "2"):
        announce_object(ledger, secret)
    clock.now += 200
    for secret in ("3", "4"):
        announce_object(ledger, secret)


@pytest.mark.parametrize("fields", [{"http": False}, {"client_ip": (ip_address("192.0.2.1"),)}])
def test_secrets_that_open_nothing_over_http(fields: dict[str, object]) -> None:
    ledger = Ledger(LIMITS, Clock())
    announce_object(ledger, **fields)
    assert not is_open(ledger)


def test_a_request_for_any_address_is_one_for_http_alone() -> None:
    ledger = Ledger(LIMITS, Clock())
    announce_object(ledger, client_ip=(), persistent=True)
    assert is_open(ledger)
    with pytest.raises(LoginError, match="client-ip"):
        ledger.claim("1", HERE, "a")


def test_a_login_and_access_over_http_do_not_end_each_other() -> None:
    ledger = Ledger(LIMITS, Clock())
    announce_object(ledger)
    ledger.begin_object(ledger.claim_object("1", HERE), "object")
    ledger.end("object")
    ledger.claim("1", HERE, "login")
    ledger.end("login")
    assert is_open(ledger)
    with pytest.raises(LoginError, match="already running"):
        ledger.claim("1", HERE, "another login")

"""Reservations: what a file of them means, whom they slow, who sees them, and files that change or break."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_node import FakeNode
from hypothesis import given
from hypothesis import strategies as st
from running_auth import DEMO, StartAuth

from uftpd.auth.reservations import Reservation, Reservations, parse_reservations

M = 1024 * 1024


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server stands in Berlin."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


def at(text: str) -> dt.datetime:
    return dt.datetime.strptime(text, "%Y-%m-%d %H:%M").astimezone()


NOW = "2028-09-22 08:30"


def parse(*entries: object, now: str = NOW) -> tuple[list[Reservation], list[str]]:
    return parse_reservations(json.dumps({"reservations": entries}), at(now))


def entry(**fields: Any) -> dict[str, Any]:
    values = {"name": "r1", "from": "2028-09-22 08:00", "to": "2028-09-22 09:00", "uids": ["user1"], **fields}
    return {key: value for key, value in values.items() if value is not None}


class Clock:
    def __init__(self, text: str = NOW) -> None:
        self.now = at(text)

    def __call__(self) -> dt.datetime:
        return self.now


def write(path: Path, *entries: object) -> None:
    path.write_text(json.dumps({"reservations": entries}))


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_documents_example() -> None:
    (found,), mistakes = parse(entry(uids=["user1", "user2"], rateLimit="10m"))
    assert mistakes == []
    assert (found.accounts, found.rate) == (("user1", "user2"), 10 * M)
    assert str(found) == (
        "'r1': users=[user1, user2] from=Fri Sep 22 08:00:00 CEST 2028 to=Fri Sep 22 09:00:00 CEST 2028 "
        "other_users_limit=10m"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"rateLimit": None}, {"rate": 10 * M, "rate_text": "10m"}),
        ({"rateLimit": "100 gig/sec"}, {"rate": 100 * 1024 * M, "rate_text": "100 gig/sec"}),
        ({"rateLimit": 1000}, {"rate": 1000}),
        ({"uids": None, "uid": "user9"}, {"accounts": ("user9",)}),
        ({"uid": "user9"}, {"accounts": ("user9", "user1")}),
        ({"uid": "user1"}, {"accounts": ("user1",)}),
        ({"from": "2028-09-22T06:00:00+0000", "to": "2028-09-22T09:00:00+0200"}, {}),
        ({"from": "2028-09-22T06:00:00Z"}, {}),
        ({"name": "a\nb"}, {"name": "a?b"}),
    ],
)
def test_good_entries(fields: dict[str, Any], expected: dict[str, object]) -> None:
    (found,), mistakes = parse(entry(**fields))
    assert mistakes == []
    values = {"start": at("2028-09-22 08:00"), "end": at("2028-09-22 09:00"), **expected}
    assert {name: getattr(found, name) for name in values} == values


def test_a_reservation_without_name_has_one() -> None:
    (one, other), _ = parse(entry(name=None), entry(name=None))
    assert one.name
    assert one.name != other.name


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [  # seen at 08:30
        ("10:00", "12:00", ("2028-09-22 10:00", "2028-09-22 12:00")),
        ("8:00", "9:00", ("2028-09-22 08:00", "2028-09-22 09:00")),
        ("06:00", "07:00", ("2028-09-23 06:00", "2028-09-23 07:00")),
        ("23:00", "01:00", ("2028-09-22 23:00", "2028-09-23 01:00")),
        ("23:00", "08:45", ("2028-09-21 23:00", "2028-09-22 08:45")),
        ("2028-09-22 08:00", "09:00", ("2028-09-22 08:00", "2028-09-22 09:00")),
        ("2028-09-25 08:00", "07:00", ("2028-09-25 08:00", "2028-09-26 07:00")),
        ("07:00", "2028-09-24 08:00", ("2028-09-23 07:00", "2028-09-24 08:00")),
    ],
)
def test_times_without_date(start: str, end: str, expected: tuple[str, str]) -> None:
    (found,), mistakes = parse(entry(**{"from": start, "to": end}))
    assert mistakes == []
    assert (found.start, found.end) == tuple(at(text) for text in expected)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry(**{"from": None}), "from: required"),
        (entry(to=5), "to: required"),
        (entry(to="tomorrow"), "to: 'tomorrow' is no time"),
        (entry(to="25:00"), "to: '25:00' is no time of day"),
        (entry(to="2028-09-31 08:00"), "to: '2028-09-31 08:00' is no time"),
        (entry(to="2028-09-22 07:59"), "to: before from"),
        (entry(to="9" * 5000), "to: '9"),
        (entry(rateLimit="1.5G"), "'1.5G' is not a rate"),
        (entry(rateLimit="0"), "rateLimit: expected a positive rate"),
        (entry(rateLimit=True), "rateLimit: expected a positive rate"),
        (entry(rateLimit=[]), "rateLimit: expected a positive rate"),
        (entry(uids="user1"), "uids: expected a list"),
        (entry(uids=[1]), "uids: expected a list"),
        (entry(uids=[""]), "uids: expected a list"),
        (entry(uids=[]), "uids: nobody"),
        (entry(uids=None), "uids: nobody"),
        (entry(uid=["x"]), "uid: expected an account"),
        (entry(name=1), "name: expected a text"),
        ("r1", "expected an object"),
        (None, "expected an object"),
    ],
)
def test_a_bad_entry_is_skipped_and_named(bad: object, reason: str) -> None:
    found, mistakes = parse(entry(), bad, entry(name="r2"))
    assert [reservation.name for reservation in found] == ["r1", "r2"]
    assert len(mistakes) == 1
    assert mistakes[0].startswith(f"entry 2: {reason}")
    assert mistakes[0].isprintable()


def test_what_has_ended_is_dropped() -> None:
    assert parse(entry(), now="2028-09-22 09:00") == ([], [])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"reservations": {}}', "[" * 100_000, "{", "nul"])
def test_what_is_no_file_of_reservations(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|not valid JSON"):
        parse_reservations(text, at(NOW))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("name", "from", "to", "uid", "uids", "rateLimit"), JSON)))
def test_any_entry_is_a_reservation_or_a_mistake(fields: dict[str, object]) -> None:
    found, mistakes = parse_reservations(json.dumps({"reservations": [fields, {**entry(), **fields}]}), at(NOW))
    assert all(reservation.start <= reservation.end and reservation.rate > 0 for reservation in found)
    assert all(mistake.isprintable() for mistake in mistakes)


# -- whom they slow ---------------------------------------------------------------------------------------------------


def test_limits(tmp_path: Path) -> None:
    path, clock = tmp_path / "reservations.json", Clock("2028-09-22 07:00")
    write(
        path,
        entry(name="a", uids=["user1", "user2"], rateLimit="10m"),
        entry(name="b", uids=["user3"], rateLimit="5m", **{"from": "2028-09-22 08:30", "to": "2028-09-22 09:30"}),
    )
    reservations = Reservations(path, clock)

    def limits(time: str) -> list[int]:
        clock.now = at(time)
        return [reservations.limit_for(account) // M for account in ("user1", "user3", "other")]

    assert limits("2028-09-22 07:59") == [0, 0, 0]
    assert limits("2028-09-22 08:00") == [0, 0, 0]  # strictly between
    assert limits("2028-09-22 08:01") == [0, 10, 10]
    assert limits("2028-09-22 08:31") == [0, 0, 5]  # the smallest; whoever owns any has no limit
    assert limits("2028-09-22 09:00") == [5, 0, 5]
    assert limits("2028-09-22 09:30") == [0, 0, 0]


def test_who_sees_what(tmp_path: Path) -> None:
    path, clock = tmp_path / "reservations.json", Clock("2028-09-22 07:00")
    write(path, entry(name="a"), entry(name="b", uids=["user2"]), entry(name="c", to="2028-09-22 10:00"))
    reservations = Reservations(path, clock)
    assert [found.name for found in reservations.of("user1")] == ["a", "c"]
    assert [found.name for found in reservations.of("user2")] == ["b"]
    assert reservations.of("other") == []
    clock.now = at("2028-09-22 09:00")
    assert [found.name for found in reservations.of("user1")] == ["c"]


# -- files that change ------------------------------------------------------------------------------------------------


def test_a_changed_file_counts_and_a_broken_one_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "reservations.json"
    write(path, entry())
    reservations = Reservations(path, Clock())
    assert reservations.limit_for("other") == 10 * M
    write(path, entry(rateLimit="1m"), "junk")
    assert reservations.limit_for("other") == M
    for broken in ("{", "[]", "\udcff"):
        path.write_bytes(broken.encode("utf-8", "surrogateescape"))
        assert reservations.limit_for("other") == M
    path.unlink()
    assert reservations.limit_for("other") == M
    write(path)
    assert reservations.limit_for("other") == 0
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert texts == ["reservation skipped", *["file not taken over"] * 4]


def test_the_file_may_come_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "reservations.json"
    reservations = Reservations(path, Clock())
    assert reservations.limit_for("other") == 0
    assert [record.getMessage() for record in caplog.records] == ["no reservations"]
    write(path, entry())
    assert reservations.limit_for("other") == 10 * M


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read_keeps_the_old_set(tmp_path: Path) -> None:
    path = tmp_path / "reservations.json"
    write(path, entry())
    reservations = Reservations(path, Clock())
    path.chmod(0)
    assert reservations.limit_for("other") == 10 * M


# -- through the server -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("account", "own", "others", "expected"),
    [  # own limit, limit of a reservation that is somebody else's (None: it is one's own)
        ("user1", None, None, None),
        ("user1", "1m", None, M),
        ("user9", None, "2m", 2 * M),
        ("user9", "1m", "2m", M),
        ("user9", "3m", "2m", 2 * M),
        ("user9", "0", "2m", 2 * M),
    ],
)
async def test_the_smaller_positive_limit_is_sent(
    start_auth: StartAuth, tmp_path: Path, account: str, own: str | None, others: str | None, expected: int | None
) -> None:
    now, hour = dt.datetime.now(dt.UTC), dt.timedelta(hours=1)
    times = {"from": f"{now - hour:%Y-%m-%dT%H:%M:%S%z}", "to": f"{now + hour:%Y-%m-%dT%H:%M:%S%z}"}
    write(tmp_path / "reservations.json", entry(**times, rateLimit=others or "1k"))
    person: dict[str, object] = {"role": "user", "xlogin": "somebody", "uftpd.TEST.xlogin": account}
    if own is not None:
        person["uftpd.TEST.rateLimit"] = own
    async with start_auth(FakeNode(), mapping={DEMO: person}, node='reservations = "reservations.json"') as auth:
        assert (await auth.post()).status_code == 200
        assert auth.node.fields[-1].get("rateLimit") == (str(expected) if expected else None)
        info = (await auth.info()).json()["TEST"]
        assert info.get("rateLimit") == expected
        shown = info["reservations"]
        assert len(shown) == (1 if account == "user1" else 0)
        assert all(text.startswith("'r1': users=[user1] from=") for text in shown)
        anonymous = await auth.client.get(f"{auth.url}/rest/auth")
        assert "reservations" not in anonymous.json()["TEST"]


async def test_a_server_without_reservations_shows_none(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        assert "reservations" not in (await auth.info()).json()["TEST"]


async def test_a_bad_rate_in_the_map_ends_sessions_and_nothing_else(start_auth: StartAuth, tmp_path: Path) -> None:
    for bad in ("1.5G", "100 T", " 100 ", "fast", "-1", "99999999999999999G"):
        mapping = {DEMO: {"role": "user", "xlogin": "user1", "uftpd.TEST.rateLimit": bad}}
        async with start_auth(mapping=mapping) as auth:
            reply = await auth.post()
            assert reply.status_code == 500
            assert reply.json()["status"] == 500
            assert reply.json()["errorMessage"].startswith("Your rate limit for 'TEST' is wrongly configured: ")
            assert auth.node.transfers == []
            assert "uid" in (await auth.info()).json()["TEST"]


async def test_patterns_that_are_none_do_not_open_everything(start_auth: StartAuth) -> None:
    mapping = {DEMO: {"role": "user", "xlogin": "user1", "uftpd.TEST.includes": ":"}}
    async with start_auth(mapping=mapping) as auth:
        reply = await auth.post()
        assert reply.status_code == 500
        assert "includes for 'TEST' are wrongly configured" in reply.json()["errorMessage"]
        assert auth.node.transfers == []

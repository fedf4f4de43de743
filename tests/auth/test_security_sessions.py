"""Security sessions: an id instead of credentials, over real HTTPS."""

from __future__ import annotations

import ipaddress
import json
import sqlite3

import pytest
import trio
from fake_node import FakeNode
from running_auth import DEMO, Running, StartAuth

from uftpd.auth.identity.base import Identity, TokenFacts
from uftpd.auth.identity.password_file import password_line
from uftpd.auth.security_sessions import HEADER, LIFETIME_HEADER, SecuritySessions, UnknownSession
from uftpd.auth.store import sessions
from uftpd.auth.store.engine import open_store
from uftpd.auth.store.housekeeping import Tally
from uftpd.config.operating import SecuritySessionSettings, StoreSettings

FILE = '[store]\npath = "store.sqlite"\n'
HOME = ipaddress.ip_address("192.0.2.1")


async def test_an_id_stands_for_credentials(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        first = await auth.info()
        shown = {HEADER: first.headers[HEADER]}
        assert 28_790_000 < int(first.headers[LIFETIME_HEADER]) <= 28_800_000
        again = await auth.info(auth=None, headers=shown)
        assert again.status_code == 200
        assert again.json()["client"]["dn"] == DEMO
        assert again.json()["client"]["authenticationMethod"] == "PASSWORD_FILE"
        assert again.headers[HEADER] == shown[HEADER]
        session = await auth.post(auth=None, headers=shown)
        assert session.status_code == 200
        assert auth.node.transfers[-1].user == "user1"


async def test_it_wins_over_credentials(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        shown = {HEADER: (await auth.info()).headers[HEADER]}
        assert (await auth.info(auth=("demouser", "wrong"), headers=shown)).status_code == 200


@pytest.mark.parametrize(
    "shown", ["", "x", "0" * 36, "00000000-0000-0000-0000-000000000000", "anonymous-", "anonymous-1", "ä", "a" * 9000]
)
async def test_unknown_ids_are_432_without_a_body(start_auth: StartAuth, shown: str) -> None:
    async with start_auth() as auth:
        reply = await auth.info(headers={HEADER: shown.encode()})
        assert reply.status_code == 432
        assert reply.content == b""
        assert HEADER not in reply.headers
        post = await auth.post(headers=[(HEADER, shown.encode())] * 2)
        assert post.status_code == 432
        assert auth.node.transfers == []


async def test_preferences_are_those_of_each_request(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        shown = {HEADER: (await auth.info()).headers[HEADER]}
        preferred = shown | {"X-UNICORE-User-Preferences": "uid:user2"}
        assert (await auth.post(auth=None, headers=preferred)).status_code == 200
        assert auth.node.transfers[-1].user == "user2"
        assert (await auth.post(auth=None, headers=shown)).status_code == 200
        assert auth.node.transfers[-1].user == "user1"
        wrong = shown | {"X-UNICORE-User-Preferences": "uid:root"}
        assert (await auth.post(auth=None, headers=wrong)).status_code == 403


async def test_what_the_map_says_counts_at_each_request(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        shown = {HEADER: (await auth.info()).headers[HEADER]}
        (auth.directory / "map.json").write_text(json.dumps({DEMO: {"role": "banned"}}))
        assert (await auth.info(auth=None, headers=shown)).status_code == 403


async def test_a_line_that_is_gone_or_changed_ends_its_sessions(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        file = auth.directory / "passwords"
        lines = {line.partition(":")[0]: line for line in file.read_text().splitlines()}
        shown = {HEADER: (await auth.info()).headers[HEADER]}
        other = {HEADER: (await auth.info(auth=("legacy", "test123"))).headers[HEADER]}
        file.write_text("\n".join(line for name, line in lines.items() if name != "demouser"))
        assert (await auth.post(auth=None, headers=shown)).status_code == 432
        assert (await auth.client.get(f"{auth.url}/rest/auth/token", headers=shown)).status_code == 432
        assert (await auth.post(auth=None, headers=other)).status_code == 200
        file.write_text("\n".join(lines.values()))
        assert (await auth.post(auth=None, headers=shown)).status_code == 200
        file.write_text("\n".join([*lines.values(), password_line("demouser", "changed", DEMO)]))
        assert (await auth.post(auth=None, headers=shown)).status_code == 432
        assert auth.node.transfers[-1].user == "user1"
        assert len(auth.node.transfers) == 2


async def test_errors_after_the_login_carry_it_and_refusals_do_not(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        assert HEADER in (await auth.post("NONE")).headers
        assert HEADER in (await auth.post(body={})).headers
        assert HEADER not in (await auth.post(auth=("demouser", "wrong"))).headers
        assert HEADER not in (await auth.client.get(f"{auth.url}/healthz")).headers


async def test_anonymous_callers_get_one_that_is_kept_nowhere(start_auth: StartAuth) -> None:
    async with start_auth(extra=FILE) as auth:
        reply = await auth.info(auth=None)
        shown = {HEADER: reply.headers[HEADER]}
        again = await auth.info(auth=None, headers=shown)
        assert again.status_code == 200
        assert again.json()["client"]["role"]["selected"] == "anonymous"
        assert (await auth.post(auth=None, headers=shown)).status_code == 403
        assert await auth.running.services.store.read(sessions.count) == 0


async def test_anonymous_ids_are_nothing_where_nobody_is_anonymous(start_auth: StartAuth) -> None:
    async with start_auth(login="anonymous = false") as auth:
        assert (await auth.info(auth=None, headers={HEADER: "anonymous-ffffffff"})).status_code == 432


async def test_they_can_be_off(start_auth: StartAuth) -> None:
    async with start_auth(extra="[security_sessions]\nenabled = false") as auth:
        reply = await auth.info(headers={HEADER: "whatever"})
        assert reply.status_code == 200
        assert HEADER not in reply.headers


async def test_a_client_that_never_sends_it_back_costs_one_row(start_auth: StartAuth) -> None:
    async with start_auth(extra=FILE) as auth:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(auth.post)
        given = {(await auth.post()).headers[HEADER] for _ in range(5)}
        assert len(given) == 1
        assert await auth.running.services.store.read(sessions.count) == 1


async def test_ids_are_stored_as_hashes_only(start_auth: StartAuth) -> None:
    async with start_auth(extra=FILE) as auth:
        shown = (await auth.info()).headers[HEADER]
        files = sorted(auth.directory.glob("store.sqlite*"))
        assert len(files) == 3
        for file in files:
            content = file.read_bytes()
            assert shown.encode() not in content
            assert bytes.fromhex(shown.replace("-", "")) not in content
            assert b"test123" not in content
        assert any(b"Demo User" in file.read_bytes() for file in files)


async def test_they_outlive_the_server(start_auth: StartAuth) -> None:
    async with start_auth(extra=FILE) as auth:
        shown = {HEADER: (await auth.info()).headers[HEADER]}
    async with start_auth(extra=FILE) as auth:
        assert (await auth.info(auth=None, headers=shown)).status_code == 200


async def test_an_outage_of_the_store_is_503_with_an_id_and_none_without(start_auth: StartAuth) -> None:
    async with start_auth(extra=FILE + "[security_sessions]\ncache_seconds = 0") as auth:
        shown = {HEADER: (await auth.info()).headers[HEADER]}
        _break(auth)
        reply = await auth.info(auth=None, headers=shown)
        assert reply.status_code == 503
        assert reply.json()["status"] == 503
        assert "sqlite" not in reply.text.lower()
        plain = await auth.post()
        assert plain.status_code == 200
        assert HEADER not in plain.headers


def _break(auth: Running) -> None:
    with sqlite3.connect(auth.directory / "store.sqlite") as other:
        other.execute("DROP TABLE security_sessions")
    other.close()


async def test_pings_and_sessions_go_on_from_behind_one_address_only(start_auth: StartAuth) -> None:
    async with start_auth(FakeNode(), server='trusted_proxies = ["127.0.0.0/8"]') as auth:
        here = {"X-UNICORE-Consignor-IP": "192.0.2.7"}
        shown = {HEADER: (await auth.info(headers=here)).headers[HEADER]}
        assert (await auth.info(auth=None, headers=shown | here)).status_code == 200
        there = {"X-UNICORE-Consignor-IP": "192.0.2.8"}
        assert (await auth.info(auth=None, headers=shown | there)).status_code == 432


# -- with a clock -----------------------------------------------------------------------------------------------------


class Time:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def make(time: Time, **settings: float) -> SecuritySessions:
    store = open_store(StoreSettings())
    return SecuritySessions(
        SecuritySessionSettings(**settings),  # type: ignore[arg-type]
        store,
        Tally(),
        methods={"PASSWORD_FILE", "ETD"},
        anonymous=True,
        clock=time,
    )


async def test_they_end() -> None:
    time = Time()
    subject = make(time, lifetime_seconds=100)
    person = Identity("CN=a", "PASSWORD_FILE")
    given = await subject.give(person, HOME)
    assert given is not None
    time.now += 99
    found, session = await subject.find(given.id, HOME)
    assert found == person
    assert session.headers(time.now) == {HEADER: given.id, LIFETIME_HEADER: "1000"}
    time.now += 1
    with pytest.raises(UnknownSession):
        await subject.find(given.id, HOME)


async def test_they_end_with_the_credentials() -> None:
    time = Time()
    subject = make(time)
    token = TokenFacts("j", renewable=False, limited=True, since=1.0)
    person = Identity(
        "CN=a", "ETD", {"role": ("user",)}, ("TEST",), expires=time.now + 50, preferences=("uid:x",), token=token
    )
    given = await subject.give(person, HOME)
    assert given is not None
    assert given.expires == time.now + 50
    subject.forget()
    found, _ = await subject.find(given.id, HOME)
    assert found == person, "nothing of what limits a login is lost in the store"
    time.now += 50
    with pytest.raises(UnknownSession):
        await subject.find(given.id, HOME)
    assert await subject.give(person, HOME) is None


async def test_a_new_one_is_given_when_half_is_over() -> None:
    time = Time()
    subject = make(time, lifetime_seconds=100)
    person = Identity("CN=a", "PASSWORD_FILE")
    first = await subject.give(person, HOME)
    time.now += 49
    assert await subject.give(person, HOME) == first
    time.now += 2
    second = await subject.give(person, HOME)
    assert first is not None
    assert second is not None
    assert second.id != first.id
    await subject.find(first.id, HOME)


async def test_one_that_was_ended_elsewhere_is_not_given_again() -> None:
    time = Time()
    subject = make(time, cache_seconds=10)
    person = Identity("CN=a", "PASSWORD_FILE")
    first = await subject.give(person, HOME)
    assert first is not None
    await subject._store.write(lambda c: sessions.end_of_person(c, "cn=a"))
    await subject.find(first.id, HOME)  # believed for some seconds
    time.now += 10
    with pytest.raises(UnknownSession):
        await subject.find(first.id, HOME)
    second = await subject.give(person, HOME)
    assert second is not None
    assert second.id != first.id
    assert await subject.end_of_person("cn=a") == 1
    with pytest.raises(UnknownSession):
        await subject.find(second.id, HOME)


async def test_different_logins_of_one_person_are_different_sessions() -> None:
    subject = make(Time())
    bound = Identity("CN=a", "PASSWORD_FILE", servers=("TEST",))
    free = Identity("CN=a", "PASSWORD_FILE")
    one, other = await subject.give(bound, HOME), await subject.give(free, HOME)
    assert one is not None
    assert other is not None
    assert one.id != other.id
    assert (await subject.find(one.id, HOME))[0].servers == ("TEST",)


async def test_a_way_in_that_was_closed_ends_its_sessions() -> None:
    subject = make(Time())
    given = await subject.give(Identity("CN=a", "SSHKEY"), HOME)
    assert given is not None
    with pytest.raises(UnknownSession):
        await subject.find(given.id, HOME)


async def test_there_are_not_too_many_nor_too_large_ones() -> None:
    subject = make(Time(), most=2)
    for name in ("CN=a", "CN=b"):
        assert await subject.give(Identity(name, "PASSWORD_FILE"), HOME) is not None
    assert await subject.give(Identity("CN=c", "PASSWORD_FILE"), HOME) is None
    large = Identity("CN=a", "PASSWORD_FILE", {"group": tuple(f"group{n}" for n in range(5000))})
    assert await make(Time()).give(large, HOME) is None

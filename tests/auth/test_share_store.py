"""Shares in the store, on SQLite and PostgreSQL alike: what is found, what replaces what, who may use one up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from postgres import Postgres
from sqlalchemy import text

from uftpd.auth.errors import BadRequest, NotFound
from uftpd.auth.shares import claims, model, progress
from uftpd.auth.shares.grants import Claim, Grants, ShareInUse, Wanted
from uftpd.auth.shares.model import ANONYMOUS, Share, ShareAccess, is_share_id, new_share_id
from uftpd.auth.shares.running import Deliveries
from uftpd.auth.store.engine import Store, StoreUnavailable, make_engine, open_store
from uftpd.auth.store.housekeeping import Tally, sweep
from uftpd.config.operating import StoreSettings

OWNER, OTHER = "cn=owner,o=x", "cn=other,o=x"
MANY = 1000


class Clock:
    """Unix seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSettings:
    if request.param == "sqlite":
        return StoreSettings(path=tmp_path / "store.sqlite", timeout_seconds=30)
    database: Postgres = request.getfixturevalue("database")
    found = StoreSettings(url=database.url, timeout_seconds=30)
    engine = make_engine(found)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return found


@pytest.fixture
def store(settings: StoreSettings) -> Iterator[Store]:
    opened = open_store(settings)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def grants(store: Store, clock: Clock) -> Grants:
    return Grants(store, clock)


def a_share(path: str = "/work/x", **more: object) -> Share:
    fields: dict[str, object] = {"id": new_share_id(), "server": "TEST", "path": path, "owner": OWNER, "uid": "user1"}
    return Share(**(fields | more))  # type: ignore[arg-type]  # fields by name


async def put(grants: Grants, share: Share, *, keep_password: bool = False) -> Share:
    return await grants.put(share, per_owner=MANY, keep_password=keep_password)


# -- keeping ------------------------------------------------------------------------------------------------------


async def test_all_of_a_share_comes_back(grants: Grants) -> None:
    share = a_share(
        "/work/ü b/",
        gid="hpc1:more",
        target=OTHER,
        access=ShareAccess.MODIFY,
        expires=2_000_000_000,
        created=999,
        password_hash="$argon2id$x",
        max_downloads=7,
        includes="/work/*",
        excludes="/work/private/*",
    )
    assert await put(grants, share) == share
    assert await grants.get(share.id) == share
    assert await grants.get(share.id, "TEST") == share
    assert share.directory
    assert not a_share().directory


async def test_a_share_means_nothing_on_another_server(grants: Grants) -> None:
    share = await put(grants, a_share(target=OTHER))
    assert await grants.get(share.id, "ELSE") is None
    assert await grants.by_owner(OWNER, "ELSE") == []
    assert await grants.by_target(OTHER, "ELSE") == []
    assert await grants.candidates("ELSE", [share.path]) == []
    assert await grants.delete_paths(OWNER, "ELSE", [share.path]) == []
    assert await grants.get(share.id) == share


async def test_granting_again_changes_only_the_share_of_that_grantee(grants: Grants) -> None:
    """Legacy took a share for anybody as a match for any grantee, and widened it (CONTROL-PLANE W7)."""
    for_all = await put(grants, a_share())
    for_one = await put(grants, a_share(target=OTHER, access=ShareAccess.WRITE))
    assert for_one.id != for_all.id
    assert await grants.get(for_all.id) == for_all
    again = await put(grants, a_share(target=OTHER, expires=1_000_500))
    assert again.id == for_one.id
    assert (again.access, again.expires) == (ShareAccess.READ, 1_000_500)
    assert len(await grants.by_owner(OWNER, "TEST")) == 2
    elsewhere = await put(grants, a_share(target=OTHER, server="ELSE"))
    assert elsewhere.id not in (for_one.id, for_all.id)


async def test_granting_again_keeps_id_count_and_perhaps_the_password(grants: Grants) -> None:
    share = await put(grants, a_share(created=5, password_hash="hash", max_downloads=3))
    grants.record_access(share)
    await grants.write_counts()
    again = await put(grants, a_share(created=6, uid="user2"), keep_password=True)
    assert (again.id, again.created, again.access_count, again.uid) == (share.id, 5, 1, "user2")
    assert again.password_hash == "hash"
    assert again.max_downloads == 0
    assert (await put(grants, a_share())).password_hash == ""


async def test_an_expired_share_is_gone_and_its_link_never_returns(grants: Grants, clock: Clock, store: Store) -> None:
    share = await put(grants, a_share(target=OTHER, expires=int(clock.now) + 10))
    clock.now += 9.5
    assert await grants.get(share.id) is not None
    clock.now += 0.5
    assert await grants.get(share.id) is None
    assert await grants.by_owner(OWNER, "TEST") == []
    assert await grants.by_target(OTHER, "TEST") == []
    assert await grants.candidates("TEST", ["/work/x"]) == []
    again = await put(grants, a_share(target=OTHER))
    assert again.id != share.id
    assert await grants.get(share.id) is None


async def test_housekeeping_removes_what_has_expired(grants: Grants, clock: Clock, store: Store) -> None:
    await put(grants, a_share("/a", expires=int(clock.now) + 10))
    kept = await put(grants, a_share("/b"))
    tally = Tally()
    await sweep(store, tally, clock.now + 11)
    assert tally.shares == 1
    assert await grants.get(kept.id) is not None


async def test_the_longest_path_comes_first(grants: Grants) -> None:
    paths = ["/work/", "/work/data/", "/work/data/x", "/"]
    for path in paths:
        await put(grants, a_share(path))
    found = await grants.candidates("TEST", ["/work/data/x", "/work/data/", "/work/", "/", "/other"])
    assert [share.path for share in found] == ["/work/data/x", "/work/data/", "/work/", "/"]


async def test_nobody_has_more_shares_than_allowed(grants: Grants) -> None:
    for number in range(3):
        await grants.put(a_share(f"/{number}"), per_owner=3)
    with pytest.raises(BadRequest, match="3 shares already"):
        await grants.put(a_share("/more"), per_owner=3)
    await grants.put(a_share("/2", access=ShareAccess.WRITE), per_owner=3)
    await grants.put(a_share("/more", owner=OTHER), per_owner=3)


async def test_removing_by_path_takes_all_grantees_of_one_form(grants: Grants) -> None:
    await put(grants, a_share("/d/"))
    await put(grants, a_share("/d/", target=OTHER))
    other_owner = await put(grants, a_share("/d/", owner=OTHER))
    assert len(await grants.delete_paths(OWNER, "TEST", ["/d", "/d/"])) == 2
    assert await grants.delete_paths(OWNER, "TEST", ["/d", "/d/"]) == []
    assert await grants.get(other_owner.id) is not None


async def test_a_path_can_be_changed_but_not_into_that_of_another_share(grants: Grants) -> None:
    first, second = await put(grants, a_share("/a")), await put(grants, a_share("/b"))
    assert (await grants.change(first, path="/c/")) == replace(first, path="/c/")
    with pytest.raises(BadRequest, match="already"):
        await grants.change(second, path="/c/")
    assert await grants.get(second.id) == second
    assert await grants.delete(first.id)
    assert not await grants.delete(first.id)
    assert await grants.change(first, path="/d") is None
    assert (await grants.candidates("TEST", ["/b"])) == [second]


async def test_uses_are_counted_and_none_is_lost_when_the_store_fails(grants: Grants, clock: Clock) -> None:
    share = await put(grants, a_share())
    for _ in range(3):
        grants.record_access(share)
    await grants.write_counts()
    failing = grants._store
    grants.record_access(share)

    class Down:
        async def write(self, work: object) -> None:
            raise StoreUnavailable

    grants._store = Down()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        await grants.write_counts()
    grants._store = failing
    clock.now += 7
    grants.record_access(share)
    listed = (await grants.by_owner(OWNER, "TEST"))[0]
    assert (listed.access_count, listed.last_access) == (5, int(clock.now))


async def test_what_is_stopped_at_one_server_ends_at_the_others(grants: Grants, store: Store) -> None:
    """Not what merely was withdrawn."""
    stopped, withdrawn = await put(grants, a_share("/a")), await put(grants, a_share("/b"))
    other, deliveries = Grants(store), Deliveries()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.watch_stops, deliveries)
        with deliveries.running(withdrawn.id) as kept, trio.fail_after(30):
            with deliveries.running(stopped.id) as scope:
                for share in (stopped, withdrawn):
                    await grants.delete(share.id)
                await grants.stop(stopped.id)
                await trio.sleep_forever()
            assert scope.cancelled_caught
            assert not kept.cancel_called
        nursery.cancel_scope.cancel()
    await sweep(store, Tally(), 1e12)
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM share_stops")).scalar() == 0


# -- using up -----------------------------------------------------------------------------------------------------


async def _claims(grants: Grants, share: Share, holders: list[str], wanted: Wanted) -> list[Claim]:
    """What each of the holders gets who ask at the same time."""
    found: list[Claim] = []

    async def ask(holder: str) -> None:
        with suppress(ShareInUse):
            found.append(await grants.claim(share, holder, wanted))

    async with trio.open_nursery() as nursery:
        for holder in holders:
            nursery.start_soon(ask, holder)
    return found


@pytest.mark.parametrize("holders", [[f"h{i}" for i in range(20)], ["the same"] * 20])
async def test_of_twenty_at_once_one_gets_a_one_time_share(
    settings: StoreSettings, store: Store, holders: list[str]
) -> None:
    """At two servers on one store."""
    second = open_store(settings)
    try:
        servers = [Grants(store), Grants(second)]
        share = await put(servers[0], a_share(one_time=True))
        won: list[Claim] = []

        async def ask_at(grants: Grants, names: list[str]) -> None:
            won.extend(await _claims(grants, share, names, Wanted(size=100)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_at, servers[0], holders[::2])
            nursery.start_soon(ask_at, servers[1], holders[1::2])
        assert len(won) == 1
        assert await won[0].settle()
        assert await servers[1].get(share.id) is None
        with pytest.raises(NotFound):
            await servers[1].claim(share, "late", Wanted(size=100))
    finally:
        second.close()


async def test_a_limited_share_is_given_out_so_many_times(grants: Grants) -> None:
    share = await put(grants, a_share(max_downloads=3))
    won = await _claims(grants, share, [f"h{i}" for i in range(10)], Wanted(size=100))
    assert len(won) == 3
    assert not await won[0].settle()
    await won[1].release()
    assert len(await _claims(grants, share, ["x", "y"], Wanted(size=100))) == 1
    found = await grants.get(share.id)
    assert found is not None
    assert found.downloads == 1


async def test_people_behind_one_address_get_as_many_at_once_as_others(grants: Grants) -> None:
    share = await put(grants, a_share(max_downloads=3))
    held = [await grants.claim(share, "all", Wanted(size=100)) for _ in range(3)]
    with pytest.raises(ShareInUse):
        await grants.claim(share, "all", Wanted(size=100))
    await held[0].release()
    held[0] = await grants.claim(share, "all", Wanted(size=100))
    assert [await claim.settle([(0, 100)]) for claim in held] == [False, False, True]


async def test_a_share_without_a_count_needs_no_claim(grants: Grants, store: Store) -> None:
    share = await put(grants, a_share())
    won = await _claims(grants, share, ["a", "a", "b"], Wanted(size=100))
    assert len(won) == 3
    for claim in won:
        assert await claim.renew()
        assert not await claim.settle()
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM share_claims")).scalar() == 0


async def test_what_broke_off_uses_nothing_up(grants: Grants) -> None:
    share = await put(grants, a_share(one_time=True))
    claim = await grants.claim(share, "a", Wanted(size=100))
    with pytest.raises(ShareInUse):
        await grants.claim(share, "b", Wanted(size=100))
    await claim.release([(0, 40)])
    again = await grants.claim(share, "b", Wanted(size=100))
    await again.settle()
    await again.release([(0, 100)])
    assert await grants.get(share.id) is None


async def test_a_resumed_download_completes_it(grants: Grants) -> None:
    share = await put(grants, a_share(one_time=True))
    claim = await grants.claim(share, "a", Wanted(version="v1", size=100))
    await claim.release([(0, 40)])
    assert not await (await grants.claim(share, "a", Wanted(version="v1", size=100, start=60))).settle([(60, 100)])
    assert await grants.get(share.id) is not None
    rest = await grants.claim(share, "a", Wanted(version="v1", size=100, start=40, length=20))
    assert await rest.settle([(40, 60)])
    assert await grants.get(share.id) is None


async def test_parts_go_to_one_holder_at_the_same_time(grants: Grants) -> None:
    share = await put(grants, a_share(one_time=True))
    parts = [Wanted(version="v", size=100, start=start, length=25) for start in (0, 25, 50, 75)]
    held = [await grants.claim(share, "a", part) for part in parts]
    with pytest.raises(ShareInUse):
        await grants.claim(share, "b", parts[0])
    with pytest.raises(ShareInUse):
        await grants.claim(share, "a", Wanted(version="v", size=100))
    used_up = [
        await claim.settle([(part.start, part.start + part.bytes)]) for claim, part in zip(held, parts, strict=True)
    ]
    assert used_up == [False, False, False, True]


async def test_parts_of_two_versions_are_no_whole(grants: Grants) -> None:
    share = await put(grants, a_share(one_time=True))
    await (await grants.claim(share, "a", Wanted(version="v1", size=100, length=50))).settle([(0, 50)])
    await (await grants.claim(share, "a", Wanted(version="v2", size=100, start=50))).settle([(50, 100)])
    assert await grants.get(share.id) is not None


@pytest.mark.parametrize("size", [100, 4096, 100 * claims.SLACK_BYTES])
async def test_leaving_out_a_byte_does_not_make_it_a_many_time_share(grants: Grants, size: int) -> None:
    share = await put(grants, a_share(one_time=True))
    given = 0
    for number in range(50):
        try:
            claim = await grants.claim(share, f"h{number}", Wanted(size=size, start=1))
        except NotFound:
            break
        await claim.settle([(1, size)])
        given += size - 1
    assert 0 < given <= 2 * size + min(size, claims.SLACK_BYTES)


async def test_broken_archives_are_bounded(grants: Grants) -> None:
    share = await put(grants, a_share("/d/", one_time=True))
    tries = 0
    for number in range(50):
        try:
            claim = await grants.claim(share, f"h{number}", Wanted())
        except NotFound:
            break
        await claim.release([(0, 10**9)])
        tries += 1
    assert 1 < tries < 5


async def test_a_try_that_moved_nothing_costs_nothing(grants: Grants) -> None:
    share = await put(grants, a_share("/d/", one_time=True))
    for wanted in (Wanted(), Wanted(part="x", size=0), Wanted(part="x", size=100)) * 10:
        await (await grants.claim(share, "a", wanted)).release()
    assert await (await grants.claim(share, "a", Wanted())).settle()


async def test_the_lease_of_a_server_that_died_lapses(grants: Grants, clock: Clock, store: Store) -> None:
    share = await put(grants, a_share(one_time=True))
    lost = await grants.claim(share, "a", Wanted(size=100 * claims.SLACK_BYTES))
    clock.now += claims.LEASE_SECONDS - 1
    assert await lost.renew()
    clock.now += claims.LEASE_SECONDS - 1
    with pytest.raises(ShareInUse):
        await grants.claim(share, "b", Wanted(size=100 * claims.SLACK_BYTES))
    clock.now += 2
    await sweep(store, Tally(), clock.now)
    assert not await lost.renew()
    taken = await grants.claim(share, "b", Wanted(size=100 * claims.SLACK_BYTES))
    await taken.release()
    with store.engine.connect() as connection:
        spent = connection.execute(text("SELECT spent FROM shares")).scalar()
    assert spent == 100 * claims.SLACK_BYTES, "what it may have handed out counts"


async def test_a_withdrawn_share_ends_its_claims(grants: Grants) -> None:
    share = await put(grants, a_share(one_time=True))
    claim = await grants.claim(share, "a", Wanted(size=100))
    await grants.delete(share.id)
    assert not await claim.renew()
    assert not await claim.settle()


async def test_who_never_goes_on_is_forgotten_in_the_end(grants: Grants, store: Store) -> None:
    share = await put(grants, a_share(max_downloads=1_000_000))
    for number in range(claims.MAX_UNFINISHED + 5):
        await (await grants.claim(share, f"h{number}", Wanted(size=100, length=1))).settle([(0, 1)])
    with store.engine.connect() as connection:
        left = connection.execute(text("SELECT count(*) FROM share_progress")).scalar()
    assert left == claims.MAX_UNFINISHED


# -- values -------------------------------------------------------------------------------------------------------


def test_ids_cannot_be_guessed_and_stand_in_urls() -> None:
    found = {new_share_id() for _ in range(1000)}
    assert len(found) == 1000
    assert model.ID_BYTES * 8 >= 128
    for share_id in found:
        assert is_share_id(share_id)
        assert share_id[0] not in "-_"
    for text_ in ("", "a/b", "a b", "ä", "a" * 65, "..", "a\n"):
        assert not is_share_id(text_)


def test_who_is_a_grantee() -> None:
    assert a_share(target=ANONYMOUS).admits(OTHER)
    assert a_share(target=OTHER).admits(OTHER)
    assert not a_share(target=OTHER).admits(OWNER)
    assert not a_share(target=OTHER).admits(ANONYMOUS)
    assert a_share(target=ANONYMOUS).admits(ANONYMOUS)


_INTERVALS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=30)


@given(_INTERVALS, _INTERVALS)
def test_merged_intervals_hold_the_same_bytes(known: list[progress.Interval], new: list[progress.Interval]) -> None:
    found = progress.merged(known, new)
    bytes_of = {byte for begin, end in (*known, *new) for byte in range(begin, end)}
    assert {byte for begin, end in found for byte in range(begin, end)} == bytes_of
    assert all(a[1] < b[0] for a, b in pairwise(found))
    assert progress.length(found) == len(bytes_of)
    assert progress.load(progress.dump(found)) == found
    assert progress.covers(found, 150) == bytes_of.issuperset(range(150))


def test_intervals_are_bounded() -> None:
    scattered = [(10 * i, 10 * i + 1 + i % 7) for i in range(1000)]
    found = progress.merged([], scattered)
    assert len(found) == progress.MAX_INTERVALS
    assert progress.length(found) == 7 * progress.MAX_INTERVALS

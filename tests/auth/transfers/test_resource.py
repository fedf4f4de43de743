"""/rest/transfers as people and administrators meet it; nothing runs the transfers here."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from running_auth import Running, StartAuth

from uftpd.auth.transfers.managed import ManagedTransfers
from uftpd.auth.transfers.model import Action, FileError, Outcome, Progress
from uftpd.config.auth import AuthConfig
from uftpd.config.toml import ConfigError, load

ME, ADMIN, NOBODY = ("demouser", "test123"), ("admin", "test123"), ("noaccount", "test123")
SECRET = "s3cr3t-w0rd"
ELSEWHERE = "https://192.0.2.7:8443/rest/auth/B:/in/"
SETTINGS = """
[transfers]
enabled = true
key_file = "transfers.key"
waiting_per_user = 20
allow = ["192.0.2.7:8443"]
"""

_claim = ManagedTransfers.claim


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: ManagedTransfers, worker: str, settings: object) -> None:
        return None

    monkeypatch.setattr(ManagedTransfers, "claim", nothing)


class Rest:
    """Calls of the resource."""

    def __init__(self, auth: Running) -> None:
        self.auth = auth
        self.url = f"{auth.url}/rest/transfers"

    @property
    def managed(self) -> ManagedTransfers:
        found = self.auth.running.services.transfers
        assert found is not None
        return found

    async def submit(self, login: tuple[str, str] = ME, key: str = "", **fields: Any) -> httpx2.Response:
        body = {"sources": ["TEST:/out/a"], "target": "TEST:/in/"} | fields
        headers = {"Idempotency-Key": key} if key else {}
        return await self.auth.client.post(self.url, json=body, auth=login, headers=headers)

    async def made(self, login: tuple[str, str] = ME, **fields: Any) -> dict[str, Any]:
        reply = await self.submit(login, **fields)
        assert reply.status_code == 201, reply.text
        found: dict[str, Any] = reply.json()
        return found

    async def get(self, path: str = "", login: tuple[str, str] = ME, **query: Any) -> httpx2.Response:
        return await self.auth.client.get(f"{self.url}{path}", auth=login, params=query)

    async def act(
        self, transfer: str, action: str, body: object = None, login: tuple[str, str] = ME
    ) -> httpx2.Response:
        url = f"{self.url}/{transfer}/{action}"
        if body is None:
            return await self.auth.client.post(url, auth=login)
        return await self.auth.client.post(url, json=body, auth=login)

    async def claimed(self) -> Any:
        return await _claim(self.managed, "test", self.auth.config.transfers)


def error_of(reply: httpx2.Response, status: int) -> str:
    """The text of an error reply."""
    assert reply.status_code == status, reply.text
    document = reply.json()
    assert document["status"] == status
    return str(document["errorMessage"])


async def test_submitted_shown_and_steered(start_auth: StartAuth) -> None:
    async with start_auth(extra=SETTINGS) as auth:
        rest = Rest(auth)
        reply = await rest.submit(name="nightly", options={"recursive": True, "limitRate": "1M", "retries": 2})
        assert reply.status_code == 201
        made = reply.json()
        assert reply.headers["location"] == made["href"] == f"{rest.url}/{made['id']}"
        assert (made["state"], made["name"], made["sources"], made["target"]) == (
            "queued",
            "nightly",
            ["TEST:/out/a"],
            "TEST:/in/",
        )
        assert made["options"]["recursive"] is made["options"]["verify"] is True
        assert (made["options"]["limitRate"], made["options"]["retries"]) == (1 << 20, 2)
        assert (made["started"], made["ended"], made["wanted"]) == (0, 0, None)
        assert (await rest.get(f"/{made['id']}")).json() == made
        assert (await rest.act(made["id"], "pause")).json()["state"] == "paused"
        assert (await rest.act(made["id"], "resume", {})).json()["state"] == "queued"
        claimed = await rest.claimed()
        await rest.managed.note(claimed.lease, progress=Progress(bytes=5, total=7, found=2, failed=1), node="TEST-1")
        await rest.managed.add_errors(claimed.lease, 0, [FileError(source="/a", target="/b", error="denied")])
        stopping = (await rest.act(made["id"], "cancel", {})).json()
        assert (stopping["state"], stopping["wanted"], stopping["bytes"], stopping["filesFailed"]) == (
            "active",
            "cancel",
            5,
            1,
        )
        assert "being cancelled" in error_of(await rest.act(made["id"], "pause"), 409)
        await rest.managed.settle(claimed.lease, Outcome.STOPPED)
        assert (await rest.get(f"/{made['id']}")).json()["state"] == "cancelled"
        errors = (await rest.get(f"/{made['id']}/errors")).json()
        assert errors == {"errors": [{"source": "/a", "target": "/b", "error": "denied"}], "next": None}
        assert (await rest.act(made["id"], "retry")).json()["state"] == "queued"


async def test_where_there_are_none(start_auth: StartAuth) -> None:
    async with start_auth() as auth:
        assert (await Rest(auth).submit()).status_code == 404
        assert "transfers" not in (await auth.info()).json()["server"]
        assert not any("/rest/transfers" in path for path in (await auth.client.get(f"{auth.url}/openapi.json")).json())


async def test_clients_find_them(start_auth: StartAuth) -> None:
    async with start_auth(extra=SETTINGS) as auth:
        assert (await auth.info()).json()["server"]["transfers"] == {"href": f"{auth.url}/rest/transfers"}
        paths = (await auth.client.get(f"{auth.url}/openapi.json")).json()["paths"]
        described = {path: set(methods) for path, methods in paths.items() if path.startswith("/rest/transfers")}
        assert described["/rest/transfers"] == {"get", "post"}
        assert {f"/rest/transfers/{{id}}/{action}" for action in Action} < set(described)
        made = paths["/rest/transfers"]["post"]["responses"]["201"]["content"]["application/json"]["schema"]
        assert "state" in made["properties"]
        assert not paths["/rest/transfers/{id}/resume"]["post"]["requestBody"]["required"]


async def test_people_see_only_their_own(start_auth: StartAuth) -> None:
    async with start_auth(extra=SETTINGS) as auth:
        rest = Rest(auth)
        mine, theirs = await rest.made(), await rest.made(ADMIN)
        for path in ("", "/errors"):
            assert error_of(await rest.get(f"/{theirs['id']}{path}"), 404) == "No such transfer"
            assert error_of(await rest.get(f"/none{path}"), 404) == "No such transfer"
            assert error_of(await rest.get(f"/no.ne{path}"), 404) == "No such transfer"
        for action in Action:
            assert error_of(await rest.act(theirs["id"], action), 404) == "No such transfer"
        assert [found["id"] for found in (await rest.get()).json()["transfers"]] == [mine["id"]]
        assert (await rest.get(all="true")).status_code == 403
        # Administrators may look after everybody's.
        everybody = (await rest.get(login=ADMIN, all="true")).json()["transfers"]
        assert {found["id"] for found in everybody} == {mine["id"], theirs["id"]}
        assert [found["id"] for found in (await rest.get(login=ADMIN)).json()["transfers"]] == [theirs["id"]]
        assert (await rest.act(mine["id"], "cancel", login=ADMIN)).json()["state"] == "cancelled"
        assert (await auth.client.get(rest.url)).status_code == 403
        assert (await rest.get(login=("banned", "test123"))).status_code == 403


async def test_the_same_submission_makes_one(start_auth: StartAuth) -> None:
    async with start_auth(extra=SETTINGS) as auth:
        rest = Rest(auth)
        first = await rest.submit(key="nightly-2026")
        again = await rest.submit(key="nightly-2026")
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json() == again.json()
        assert "used for another" in error_of(await rest.submit(key="nightly-2026", name="x"), 409)
        assert (await rest.submit(ADMIN, key="nightly-2026")).status_code == 201
        for bad in ("x" * 201, "a b"):
            assert "Idempotency-Key" in error_of(await rest.submit(key=bad), 400)


async def test_pages_of_a_list(start_auth: StartAuth) -> None:
    async with start_auth(extra=SETTINGS) as auth:
        rest = Rest(auth)
        made = [(await rest.made())["id"] for _ in range(5)]
        await rest.act(made[1], "pause")
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = (await rest.get(limit=2, after=after)).json()
            assert len(page["transfers"]) <= 2
            found += [transfer["id"] for transfer in page["transfers"]]
            after = page["next"]
        assert found == made[::-1]
        assert [t["id"] for t in (await rest.get(state="paused,failed")).json()["transfers"]] == [made[1]]
        assert (await rest.get(limit=99999999)).status_code == 200
        for query in ({"state": "asleep"}, {"limit": "many"}, {"limit": -1}, {"after": "1-2-3;"}, {"after": "nan-a"}):
            assert next(iter(query)) in error_of(await rest.get(**query), 400)


async def test_failed_files_by_the_page(start_auth: StartAuth) -> None:
    async with start_auth(extra=SETTINGS) as auth:
        rest = Rest(auth)
        made = await rest.made()
        claimed = await rest.claimed()
        names = [f"/{number}" for number in range(1203)]
        failed = [FileError(source=name, target="", error="denied") for name in names]
        await rest.managed.add_errors(claimed.lease, 0, failed)
        found: list[str] = []
        first: int | None = 0
        while first is not None:
            page = (await rest.get(f"/{made['id']}/errors", first=first)).json()
            found += [error["source"] for error in page["errors"]]
            first = page["next"]
        assert found == names
        assert "first" in error_of(await rest.get(f"/{made['id']}/errors", first="x"), 400)


@pytest.mark.parametrize(
    ("login", "fields", "status", "says"),
    [
        (ME, {"sources": ["ELSE:/x"]}, 400, "sources: no server 'ELSE' here; there are TEST"),
        (ME, {"target": "NONE:/x"}, 400, "target: no server 'NONE'"),
        (NOBODY, {}, 401, "no account on 'TEST'"),
        (ME, {"options": {"retries": 10}}, 400, "at most 9 on this server"),
        (ME, {"target": ELSEWHERE}, 400, "credentials.target: required"),
        (ME, {"credentials": {"source": {"token": SECRET}}}, 400, "credentials.source: not needed"),
        (ME, {"target": ELSEWHERE.replace(".7", ".8"), "credentials": {"target": {"token": SECRET}}}, 400, "target: "),
        (ME, {"callback": "https://127.0.0.1/x"}, 400, "callback: "),
        (ME, {"callback": "https://[::ffff:10.0.0.1]/x"}, 400, "callback: "),
        (ME, {"callback": "https://192.0.2.7:8444/x"}, 400, "callback: "),
    ],
)
async def test_what_is_refused_at_once(
    start_auth: StartAuth, login: tuple[str, str], fields: dict[str, Any], status: int, says: str
) -> None:
    async with start_auth(extra=SETTINGS) as auth:
        rest = Rest(auth)
        reply = await rest.submit(login, **fields)
        assert says in error_of(reply, status)
        assert SECRET not in reply.text
        assert (await rest.get(login=login)).json()["transfers"] == []


async def test_servers_and_callbacks_a_site_does_not_want(start_auth: StartAuth) -> None:
    settings = SETTINGS + 'servers = ["TEST"]\ncallbacks = false\n'
    async with start_auth(extra=settings) as auth:
        reply = await Rest(auth).submit(callback="https://192.0.2.7:8443/x")
        assert "tells nobody" in error_of(reply, 401)
        assert (await Rest(auth).submit()).status_code == 201


async def test_as_many_as_are_allowed(start_auth: StartAuth) -> None:
    async with start_auth(extra=SETTINGS.replace("20", "2")) as auth:
        rest = Rest(auth)
        for _ in range(2):
            await rest.made()
        assert "You have 2 transfers" in error_of(await rest.submit(), 400)


def _all_of_the_store(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.glob("store.sqlite*"))


async def test_credentials_never_show(start_auth: StartAuth, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not in replies, the log, the store, or what an administrator sees."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "store.sqlite"
    settings = SETTINGS + f'[store]\npath = "{path}"\n'
    async with start_auth(extra=settings) as auth:
        rest = Rest(auth)
        seen: list[str] = []
        logins: list[dict[str, str]] = [
            {"token": SECRET},
            {"username": "me", "password": SECRET},
            {
                "refreshToken": SECRET,
                "tokenEndpoint": "https://idp.example/token",
                "clientId": "uftp",
                "clientSecret": SECRET,
            },
        ]
        for login in logins:
            made = await rest.made(target=ELSEWHERE, credentials={"target": login})
            seen.append(json.dumps(made))
            seen.append((await rest.get(f"/{made['id']}", ADMIN)).text)
            seen.append((await rest.act(made["id"], "pause")).text)
            seen.append((await rest.act(made["id"], "resume", {"credentials": {"target": login}})).text)
            seen.append((await rest.act(made["id"], "resume", {"credentials": {"source": login}})).text)
            seen.append((await rest.act(made["id"], "resume", {"credentials": {"target": {"x": SECRET}}})).text)
            seen.append((await rest.act(made["id"], "cancel")).text)
        seen.append((await rest.get(login=ADMIN, all="true")).text)
        seen.append(repr([vars(record) for record in caplog.records]))
        for text in seen:
            assert SECRET not in text
        assert any("resumed" in record.getMessage() for record in caplog.records)
        stored = _all_of_the_store(tmp_path)
        assert made["id"].encode() in stored
        assert SECRET.encode() not in stored
    assert (tmp_path / "transfers.key").stat().st_mode & 0o777 == 0o600


async def test_bodies_and_methods(start_auth: StartAuth) -> None:
    async with start_auth(extra=SETTINGS) as auth:
        rest = Rest(auth)
        made = await rest.made()
        post = auth.client.post
        assert (await post(rest.url, content=b"{}", auth=ME)).status_code == 415
        assert (await post(rest.url, json=[], auth=ME)).status_code == 400
        assert (await post(rest.url, json={"sources": ["A:" + "x" * 70000]}, auth=ME)).status_code == 413
        one = f"{rest.url}/{made['id']}"
        assert (
            await post(f"{one}/resume", content=b"x=1", auth=ME, headers={"Content-Type": "text/x"})
        ).status_code == 415
        assert (await post(f"{one}/resume", json={"state": "active"}, auth=ME)).status_code == 400
        assert (await post(f"{one}/explode", auth=ME)).status_code == 404
        assert (await auth.client.get(f"{one}/cancel", auth=ME)).status_code == 405
        assert (await auth.client.delete(one, auth=ME)).status_code == 405
        assert (await rest.get(f"/{made['id']}")).json() == made


async def test_the_body_is_read_before_the_reply(start_auth: StartAuth) -> None:
    """Else the connection is closed after it, and the next request there fails."""
    async with start_auth(extra=SETTINGS) as auth:
        rest = Rest(auth)
        made = await rest.made()
        await rest.act(made["id"], "pause")
        states: list[str] = []

        async def body() -> AsyncIterator[bytes]:
            yield b"{"
            states.append((await rest.get(f"/{made['id']}")).json()["state"])
            states.append((await rest.get(f"/{made['id']}")).json()["state"])
            yield b"}"

        headers = {"Content-Type": "application/json"}
        reply = await auth.client.post(f"{rest.url}/{made['id']}/cancel", content=body(), auth=ME, headers=headers)
        assert reply.json()["state"] == "cancelled"
        assert states == ["paused", "paused"]


async def test_a_large_body_that_nobody_reads_holds_nothing_up(start_auth: StartAuth) -> None:
    async with start_auth(extra=SETTINGS) as auth:
        in_flight = auth.running.services.metrics.in_flight
        with suppress(httpx2.TransportError):  # the server may have closed before all of it was sent
            reply = await Rest(auth).act("none", "resume", {"credentials": {"target": {"token": "x" * 800_000}}})
            assert error_of(reply, 404) == "No such transfer"
        with trio.fail_after(30):
            while next(iter(in_flight.collect())).samples[0].value:  # noqa: ASYNC110 -- it is only counted
                await trio.sleep(0.01)


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("enabled = true", "key_file: required"),
        ('enabled = true\nkey_file = "k"\nservers = ["X"]', "no server 'X'"),
        ('enabled = true\nkey_file = "k"\nallow = ["a b"]', "allow"),
        ('enabled = true\nkey_file = "k"\nactive = 0', "active"),
        ('enabled = true\nkey_file = "k"\nlease_seconds = 0.1', "lease_seconds"),
        ('enabled = true\nkey_file = "k"\nclient_address = []', "client_address"),
        ('enabled = true\nkey_file = "k"\nnode_addresses = {TEST = ["here"]}', "node_addresses"),
        ('enabled = true\nkey_file = "k"\nnode_addresses = {X = ["::1"]}', "no server 'X'"),
        ('enabled = true\nkey_file = "none/k"', "key_file: .*cannot be made"),
    ],
)
async def test_what_is_wrong_about_settings(start_auth: StartAuth, settings: str, says: str) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, match=says), flatten_subgroups=True):
        async with start_auth(extra=f"[transfers]\n{settings}\n"):
            pass


async def test_a_reload_turns_them_off_and_on(start_auth: StartAuth, tmp_path: Path) -> None:
    async with start_auth(extra=SETTINGS) as auth:
        rest = Rest(auth)
        made = await rest.made()
        text = (tmp_path / "auth.toml").read_text()
        for enabled, status in (("false", 404), ("true", 200)):
            (tmp_path / "auth.toml").write_text(text.replace("enabled = true", f"enabled = {enabled}"))
            auth.running.change(load(tmp_path / "auth.toml", AuthConfig))
            assert (await rest.get(f"/{made['id']}")).status_code == status

"""Two auth servers on one PostgreSQL: what one knows the other knows, and one may be killed at any time."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
import trio
from fake_node import FakeNode, serving
from postgres import Postgres, start, stop
from running_auth import DEMO, MAP, Pki
from sqlalchemy import text

from uftpd.auth.security_sessions import HEADER
from uftpd.auth.store.engine import make_engine
from uftpd.config.operating import StoreSettings

UFTPD = Path(sys.executable).parent / "uftpd"
ME, ADMIN = ("demouser", "test123"), ("admin", "test123")

pytestmark = pytest.mark.slow


@contextmanager
def _server(config: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen([str(UFTPD), "auth", "--config", str(config)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    # A full pipe would stop the server.
    reader = threading.Thread(target=process.stderr.read)
    try:
        for line in process.stderr:
            if " ready " in line:
                reader.start()
                yield process, "https://" + line.rpartition("listen=")[2].strip()
                return
        raise AssertionError(f"ended with {process.wait()}")
    finally:
        process.kill()
        process.wait()
        if reader.is_alive():
            reader.join()
        process.stderr.close()


def _configure(directory: Path, pki: Pki, passwords: str, database: Postgres, node: FakeNode) -> Path:
    (directory / "passwords").write_text(passwords)
    (directory / "map.json").write_text(json.dumps(MAP))
    path = directory / "auth.toml"
    path.write_text(f"""
[server]
listen = ["127.0.0.1:0"]
certificate = "{pki.directory}/auth.pem"
key = "{pki.directory}/auth.key"
[login]
password_file = "passwords"
[attributes]
map_file = "map.json"
[command_port]
ca = "{pki.ca_path}"
[store]
url = "{database.url}"
timeout_seconds = 2
[security_sessions]
cache_seconds = 0
[log]
level = "info"
[nodes.TEST]
instances = [{{host = "127.0.0.1", command = "{node.address}", plain = true}}]
""")
    return path


@pytest.fixture
async def client(pki: Pki) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(verify=ssl.create_default_context(cafile=pki.ca_path), timeout=30) as found:
        yield found


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    async with serving(FakeNode()) as found:
        yield found


@pytest.fixture
def fresh(database: Postgres) -> Postgres:
    engine = make_engine(StoreSettings(url=database.url))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return database


async def test_one_is_killed_and_clients_go_on_at_the_other(
    tmp_path: Path, pki: Pki, password_lines: str, fresh: Postgres, node: FakeNode, client: httpx2.AsyncClient
) -> None:
    config = _configure(tmp_path, pki, password_lines, fresh, node)
    with ExitStack() as stack:
        # Both start at once, on a database without tables.
        (one, first), (_, second) = await _start_together(stack, config)
        logins = [await client.get(f"{first}/rest/auth", auth=ME) for _ in range(3)]
        shown = {HEADER: logins[0].headers[HEADER]}
        finished = 0
        at_work = trio.Event()

        async def work() -> None:
            """A client with an id and no credentials; goes to the other server when one is gone."""
            nonlocal finished
            place = first
            for number in range(25):
                if number == 5:
                    at_work.set()
                try:
                    reply = await client.post(f"{place}/rest/auth/TEST", json={"serverPath": ""}, headers=shown)
                except httpx2.TransportError:
                    assert place == first, "the one that lives must answer"
                    place = second
                    continue
                assert reply.status_code == 200, reply.text
            finished += 1

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(work)
            await at_work.wait()
            one.send_signal(signal.SIGKILL)
        assert finished == 6
        secrets = [request.secret for request in node.transfers]
        assert len(set(secrets)) == len(secrets)
        assert (await client.get(f"{second}/readyz")).status_code == 200
        # A third one takes the place of the first.
        _, third = stack.enter_context(_server(config))
        assert (await client.get(f"{third}/rest/auth", headers=shown)).status_code == 200


async def _start_together(stack: ExitStack, config: Path) -> list[tuple[subprocess.Popen[str], str]]:
    found: list[tuple[subprocess.Popen[str], str]] = []

    async def start_one() -> None:
        context = _server(config)
        found.append(await trio.to_thread.run_sync(context.__enter__))
        stack.push(context.__exit__)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start_one)
        nursery.start_soon(start_one)
    return found


async def test_what_ends_at_one_ends_at_the_other(
    tmp_path: Path, pki: Pki, password_lines: str, fresh: Postgres, node: FakeNode, client: httpx2.AsyncClient
) -> None:
    config = _configure(tmp_path, pki, password_lines, fresh, node)
    with ExitStack() as stack:
        (_, first), (_, second) = await _start_together(stack, config)
        made = await client.post(
            f"{first}/rest/admin/actions/IssueAPIToken", json={"subject": DEMO, "lifetime": 600}, auth=ADMIN
        )
        token = made.json()["results"]["token"]
        bearer = {"Authorization": f"Bearer {token}"}
        # At the second nobody has seen the token yet, so nothing is remembered of it.
        login = await client.get(f"{first}/rest/auth", headers=bearer)
        shown = {HEADER: login.headers[HEADER]}
        assert (await client.get(f"{second}/rest/auth", headers=shown)).json()["client"]["dn"] == DEMO
        revoke = await client.post(f"{first}/rest/admin/actions/RevokeToken", json={"token": token}, auth=ADMIN)
        assert revoke.json()["success"] is True
        assert (await client.get(f"{second}/rest/auth", headers=shown)).status_code == 432
        with trio.fail_after(30):
            while True:  # what the second found good a moment ago it may believe for some seconds
                if (await client.get(f"{second}/rest/auth", headers=bearer)).status_code == 403:
                    break
                await trio.sleep(0.2)


async def test_without_the_database_passwords_still_open_sessions(
    tmp_path: Path, pki: Pki, password_lines: str, fresh: Postgres, node: FakeNode, client: httpx2.AsyncClient
) -> None:
    config = _configure(tmp_path, pki, password_lines, fresh, node)
    with _server(config) as (_, url):
        made = await client.post(
            f"{url}/rest/admin/actions/IssueAPIToken", json={"subject": DEMO, "lifetime": 600}, auth=ADMIN
        )
        bearer = {"Authorization": f"Bearer {made.json()['results']['token']}"}
        shown = {HEADER: (await client.get(f"{url}/rest/auth", auth=ME)).headers[HEADER]}
        stop(fresh.process)
        try:
            for headers in (shown, bearer):
                reply = await client.get(f"{url}/rest/auth", headers=headers)
                assert reply.status_code == 503
                assert reply.json()["status"] == 503
            assert (await client.get(f"{url}/readyz")).status_code == 503
            assert (await client.get(f"{url}/healthz")).status_code == 200
            reply = await client.post(f"{url}/rest/auth/TEST", json={"serverPath": ""}, auth=ME)
            assert reply.status_code == 200
            assert HEADER not in reply.headers
        finally:
            fresh.process = start(fresh.directory, fresh.account)
        with trio.fail_after(30):
            while True:
                if (await client.get(f"{url}/rest/auth", headers=shown)).status_code == 200:
                    break
                await trio.sleep(0.1)
        assert (await client.get(f"{url}/rest/auth", headers=bearer)).status_code == 200
